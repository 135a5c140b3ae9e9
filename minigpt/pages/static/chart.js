// Line charts on a canvas: several series over one another, log axes, smoothing, zoom, hover, keyboard.
// Stands after common.js. A chart keeps all its points and draws, per pixel column, the lowest and the highest one.
"use strict";

const FEW = 40; // points that a reader sees through without smoothing
const PAD = {left: 58, right: 10, top: 8, bottom: 24};

class Chart {
  // host: an element that gets a <figure>; onzoom(range or null): the steps that are shown now.
  constructor(host, title, words, onzoom) {
    this.series = []; this.range = null; this.cursor = null; this.words = words; this.onzoom = onzoom || (() => {});
    this.options = {logX: false, logY: false, smooth: 0};
    this.figure = host.appendChild(document.createElement("figure"));
    this.caption = this.figure.appendChild(document.createElement("figcaption"));
    this.plot = this.figure.appendChild(document.createElement("div"));
    this.plot.className = "plot";
    this.canvas = this.plot.appendChild(document.createElement("canvas"));
    this.over = this.plot.appendChild(document.createElement("canvas")); // cursor and selection
    this.over.tabIndex = 0;
    this.over.setAttribute("role", "img");
    this.values = this.figure.appendChild(document.createElement("output"));
    this.values.className = "values";
    this.title(title, words);
    this.listen();
    new ResizeObserver(() => this.draw()).observe(this.plot);
  }

  title(title, words) {
    this.caption.textContent = title;
    this.words = words;
    this.over.setAttribute("aria-label", title + ". " + words.chart_keys);
  }

  // series: [{name, color (0…7), x: [], y: [], dashed, dots, exact}]; y may hold null, a gap; `exact` is not smoothed.
  set(series, options) {
    this.series = series.map(s => ({...s, raw: s.y}));
    Object.assign(this.options, options);
    for (const s of this.series) s.smooth = s.dots || s.exact || !this.options.smooth || s.y.length < FEW ? null : smoothed(s.y, this.options.smooth);
    this.draw();
  }

  zoom(range) {
    this.range = range && range[1] > range[0] ? range : null;
    this.draw();
    this.onzoom(this.range);
  }

  bounds() {
    let x0 = Infinity, x1 = -Infinity, y0 = Infinity, y1 = -Infinity;
    for (const s of this.series) for (let i = 0; i < s.x.length; i++) {
      if (s.y[i] === null || (this.options.logX && s.x[i] <= 0)) continue;
      if (s.x[i] < x0) x0 = s.x[i];
      if (s.x[i] > x1) x1 = s.x[i];
    }
    if (this.range) [x0, x1] = [Math.max(this.range[0], this.options.logX ? x0 : -Infinity), this.range[1]];
    const inside = (s, i, y) => y !== null && s.x[i] >= x0 && s.x[i] <= x1 && !(this.options.logY && y <= 0);
    const hold = y => { if (y < y0) y0 = y; if (y > y1) y1 = y; };
    for (const s of this.series) {
      const shown = s.smooth || s.y;
      for (let i = 0; i < s.x.length; i++) if (inside(s, i, shown[i])) hold(shown[i]);
      if (s.smooth) for (const y of middle(s.y.filter((y, i) => inside(s, i, y)))) hold(y);
    }
    if (!(x1 > x0)) x1 = (x0 = Number.isFinite(x0) ? x0 : this.options.logX ? 1 : 0) + 1;
    if (!Number.isFinite(y0)) [y0, y1] = this.options.logY ? [0.1, 1] : [0, 1];
    if (y0 === y1) { const d = Math.abs(y0) * 0.1 || 1; if (this.options.logY) { y0 /= 2; y1 *= 2; } else { y0 -= d; y1 += d; } }
    return {x0, x1, y0, y1};
  }

  draw() {
    const began = performance.now(), w = this.plot.clientWidth, h = this.plot.clientHeight, ratio = devicePixelRatio || 1;
    if (!w || !h) return;
    for (const canvas of [this.canvas, this.over]) { canvas.width = w * ratio; canvas.height = h * ratio; }
    const c = this.canvas.getContext("2d"), style = getComputedStyle(this.figure), b = this.bounds();
    const {logX, logY} = this.options, fx = logX ? Math.log10 : v => v, fy = logY ? Math.log10 : v => v;
    const sx = (w - PAD.left - PAD.right) / (fx(b.x1) - fx(b.x0)), sy = (h - PAD.top - PAD.bottom) / (fy(b.y1) - fy(b.y0));
    this.px = x => PAD.left + (fx(x) - fx(b.x0)) * sx;
    this.py = y => h - PAD.bottom - (fy(y) - fy(b.y0)) * sy;
    const ax = PAD.left - fx(b.x0) * sx, ay = h - PAD.bottom + fy(b.y0) * sy; // the same, as two numbers for many points
    this.column = logX ? x => ax + Math.log10(x) * sx : x => ax + x * sx;
    this.line = logY ? y => ay - Math.log10(y) * sy : y => ay - y * sy;
    this.at = p => { const v = fx(b.x0) + (p - PAD.left) / sx; return logX ? 10 ** v : v; };
    this.shown = b;
    c.scale(ratio, ratio);
    c.font = "12px system-ui, sans-serif";
    c.fillStyle = style.getPropertyValue("--soft"); c.strokeStyle = style.getPropertyValue("--line"); c.lineWidth = 1;
    c.textBaseline = "middle"; c.textAlign = "right";
    for (const y of ticks(b.y0, b.y1, 5, logY)) {
      const p = Math.round(this.py(y)) + .5;
      line(c, PAD.left, p, w - PAD.right, p);
      c.fillText(short(y), PAD.left - 6, p);
    }
    c.textBaseline = "top"; c.textAlign = "center";
    for (const x of ticks(b.x0, b.x1, Math.max(2, w / 90), logX)) {
      const p = Math.round(this.px(x)) + .5;
      line(c, p, PAD.top, p, h - PAD.bottom);
      c.fillText(short(x), Math.min(p, w - 18), h - PAD.bottom + 6);
    }
    c.save();
    c.beginPath(); c.rect(PAD.left, PAD.top - 2, w - PAD.left - PAD.right + 2, h - PAD.top - PAD.bottom + 4); c.clip();
    for (const s of this.series) {
      c.strokeStyle = c.fillStyle = style.getPropertyValue("--c" + s.color % 8);
      c.setLineDash(s.dashed ? [6, 4] : []);
      c.globalAlpha = s.smooth ? .25 : 1; c.lineWidth = s.smooth ? 1 : 1.6;
      this.path(c, s, s.y);
      c.globalAlpha = 1; c.lineWidth = 1.8;
      if (s.smooth) this.path(c, s, s.smooth);
    }
    c.restore();
    this.took = performance.now() - began;
    this.figure.dataset.ms = this.took.toFixed(1);
    this.point();
  }

  path(c, s, values) {
    const {logX, logY} = this.options, n = s.x.length, b = this.shown, toX = this.column, toY = this.line;
    let first = lower(s.x, b.x0), end = Math.min(n, lower(s.x, b.x1) + 2);
    first = Math.max(0, first - 1);
    c.beginPath();
    let open = false, column = NaN, low = 0, high = 0, last = 0;
    const dense = end - first > 3 * (this.plot.clientWidth || 1);
    const flush = () => { if (high !== low) { c.lineTo(column, high); c.lineTo(column, low); c.lineTo(column, last); } };
    for (let i = first; i < end; i++) {
      const y = values[i];
      if (y === null || y === undefined || (logY && y <= 0) || (logX && s.x[i] <= 0)) { if (dense && open) flush(); open = false; continue; }
      const q = toY(y);
      let p = toX(s.x[i]);
      if (dense) {
        p = Math.round(p);
        if (open && p === column) { if (q < low) low = q; if (q > high) high = q; last = q; continue; }
        if (open) flush();
        column = p; low = high = last = q;
      }
      if (open) c.lineTo(p, q); else c.moveTo(p, q);
      open = true;
    }
    if (dense && open) flush();
    c.stroke();
    if (s.dots || end - first < 3) for (let i = first; i < end; i++) if (values[i] !== null) {
      c.beginPath(); c.arc(this.px(s.x[i]), this.py(values[i]), 2.5, 0, 7); c.fill();
    }
  }

  // The cursor's line, a selection, and the values there in words.
  point() {
    const c = this.over.getContext("2d"), ratio = devicePixelRatio || 1, w = this.plot.clientWidth, h = this.plot.clientHeight;
    c.setTransform(ratio, 0, 0, ratio, 0, 0);
    c.clearRect(0, 0, w, h);
    const style = getComputedStyle(this.figure);
    c.strokeStyle = c.fillStyle = style.getPropertyValue("--soft");
    if (this.drag) { c.globalAlpha = .2; c.fillRect(Math.min(...this.drag), PAD.top, Math.abs(this.drag[1] - this.drag[0]), h - PAD.top - PAD.bottom); c.globalAlpha = 1; }
    const found = [];
    let step = null;
    if (this.cursor === null) for (const s of this.series) found.push([s.color, s.name]);
    else for (const s of this.series) {
      const i = nearest(s.x, this.cursor), y = i < 0 ? null : (s.smooth || s.y)[i];
      if (y === null || y === undefined) continue;
      if (step === null) step = s.x[i];
      found.push([s.color, `${s.name} ${precise(y)}` + (s.x[i] === step ? "" : ` (${short(s.x[i])})`)]);
      c.fillStyle = style.getPropertyValue("--c" + s.color % 8);
      c.beginPath(); c.arc(this.px(s.x[i]), this.py(y), 3.5, 0, 7); c.fill();
    }
    if (step !== null) line(c, this.px(step), PAD.top, this.px(step), h - PAD.bottom);
    this.values.replaceChildren(step === null ? "" : `${this.words.step} ${step.toLocaleString()} `, ...found.map(([color, text]) => {
      const shown = document.createElement("span");
      shown.className = "c" + color % 8;
      shown.textContent = `● ${text} `;
      return shown;
    }));
  }

  listen() {
    const place = e => e.clientX - this.over.getBoundingClientRect().left;
    this.over.addEventListener("pointermove", e => {
      if (!this.at) return;
      this.cursor = this.at(place(e));
      if (this.drag) this.drag[1] = place(e);
      this.point();
    });
    this.over.addEventListener("pointerdown", e => { if (e.button === 0 && e.pointerType === "mouse") { this.drag = [place(e), place(e)]; this.over.setPointerCapture(e.pointerId); } });
    this.over.addEventListener("pointerup", () => {
      const drag = this.drag;
      this.drag = null;
      if (drag && Math.abs(drag[1] - drag[0]) > 5) this.zoom([this.at(Math.min(...drag)), this.at(Math.max(...drag))]);
    });
    this.over.addEventListener("pointerleave", () => { this.cursor = null; this.point(); });
    this.over.addEventListener("blur", () => { this.cursor = null; this.point(); });
    this.over.addEventListener("dblclick", () => this.zoom(null));
    this.over.addEventListener("keydown", e => {
      if (!this.shown || e.ctrlKey || e.metaKey || e.altKey) return;
      const {x0, x1} = this.shown, wide = x1 - x0, at = this.cursor === null ? (x0 + x1) / 2 : this.cursor;
      const move = {ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10}[e.key];
      if (move) this.cursor = Math.min(x1, Math.max(x0, at + move * wide / 100));
      else if (e.key === "Home") this.cursor = x0;
      else if (e.key === "End") this.cursor = x1;
      else if (e.key === "+" || e.key === "=") this.zoom([at - wide / 4, at + wide / 4]);
      else if (e.key === "-") this.zoom([at - wide, at + wide]);
      else if (e.key === "0" || e.key === "Escape") { this.zoom(null); }
      else return;
      e.preventDefault();
      this.point();
    });
  }
}

function line(c, x0, y0, x1, y1) { c.beginPath(); c.moveTo(x0, y0); c.lineTo(x1, y1); c.stroke(); }

// The values below and above which one in fifty lies: outliers of an unsmoothed curve do not flatten the smooth one.
function middle(values) {
  const every = Math.max(1, Math.floor(values.length / 2000)), some = values.filter((_, i) => i % every === 0).sort((a, b) => a - b);
  return some.length ? [some[Math.floor(some.length / 50)], some[Math.ceil(some.length * 49 / 50) - 1]] : [];
}

// Exponential moving average without the pull of its start (as Adam's moments are corrected).
function smoothed(values, weight) {
  let mean = 0, mass = 0;
  return values.map(y => {
    if (y === null) return null;
    mean = weight * mean + (1 - weight) * y;
    mass = weight * mass + 1 - weight;
    return mean / mass;
  });
}

// The first place whose value is not below x in a sorted list.
function lower(list, x) {
  let low = 0, high = list.length;
  while (low < high) { const middle = (low + high) >> 1; if (list[middle] < x) low = middle + 1; else high = middle; }
  return low;
}

function nearest(list, x) {
  if (!list.length) return -1;
  const i = Math.min(lower(list, x), list.length - 1);
  return i > 0 && x - list[i - 1] < list[i] - x ? i - 1 : i;
}

function ticks(low, high, count, log) {
  if (log && high / low >= 10) {
    const first = Math.ceil(Math.log10(low) - 1e-9), last = Math.floor(Math.log10(high) + 1e-9), found = [];
    if (last - first < 2) { // one or two powers alone say little
      for (let e = first - 1; e <= last; e++) for (const factor of [1, 2, 5]) found.push(factor * 10 ** e);
      return found.filter(v => v >= low * (1 - 1e-9) && v <= high * (1 + 1e-9));
    }
    for (let e = first; e <= last; e += Math.max(1, Math.ceil((last - first) / count))) found.push(10 ** e);
    return found;
  }
  const raw = (high - low) / count, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(n => n * power).find(n => n >= raw);
  const found = [];
  for (let n = Math.ceil(low / step - 1e-9); n * step <= high + step * 1e-9 && found.length < 50; n++) found.push(n * step);
  return found;
}

function short(v) {
  const a = Math.abs(v);
  if (a >= 1e9 || (a > 0 && a < 1e-3)) return v.toExponential(0).replace("e+", "e");
  if (a >= 1e6) return +(v / 1e6).toPrecision(3) + "M";
  if (a >= 1e4) return +(v / 1e3).toPrecision(3) + "k";
  return String(+v.toPrecision(4));
}
