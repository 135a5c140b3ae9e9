// The live page: asks the server for what the run's files say now, and draws it. All text is set as textContent.
"use strict";

const others = hash => (hash.get("with") || "").split("|").filter(Boolean);
const place = new URLSearchParams(location.hash.slice(1));
const chosen = {run: place.get("run"), stage: place.get("stage"), others: others(place), range: null};
let list = [], run = null, curves = {}, charts = new Map(), seen = {}, turn = 0;

// ---- what is shown -----------------------------------------------------------------------------------------

function labels() {
  const texts = {"overlay-title": "overlay", "curves-title": "curves", "samples-title": "samples", reset: "reset"};
  for (const [id, word] of Object.entries(texts)) $(id).textContent = say(word);
  for (const [id, word] of [["log-x", "log_x"], ["log-y", "log_y"], ["smooth", "smooth"]]) $(id).parentElement.querySelector("span").textContent = say(word);
  $("stages").setAttribute("aria-label", say("stage"));
  $("progress").setAttribute("aria-label", say("steps"));
}

function showState() {
  const stage = run.stages.find(s => s.stage === chosen.stage), usage = run.usage || {};
  document.title = `${run.name} · ${say("watch")}`;
  $("name").textContent = run.name;
  const state = run.state === "running" && usage.paused ? "paused" : run.state;
  $("state").textContent = say(state);
  $("state").className = "badge " + ({running: "good", paused: "warn", stopped: "warn"}[state] || "soft");
  const cards = [];
  if (stage) {
    cards.push([`${stage.stage}: ${say("step")}`, figure(stage.step) + (stage.steps ? ` ${say("of")} ${figure(stage.steps)}` : "")]);
    cards.push([say("loss"), figure(stage.loss)], [say("validation_loss"), figure(stage.validation_loss)]);
    if (run.speed && run.speed.tokens_per_second) cards.push([say("speed"), figure(Math.round(run.speed.tokens_per_second))]);
    if (run.state === "running" && !stage.finished) cards.push([say("left"), seconds(run.speed.left)]);
    else if (stage.actual.seconds) cards.push([say("time"), seconds(stage.actual.seconds)]);
  }
  if (run.state === "running" && usage.memory) {
    cards.push([say("memory"), bytes(usage.memory) + (usage.max_memory ? ` ${say("of")} ${bytes(usage.max_memory)}` : "")]);
    cards.push([say("cpu"), `${Math.round(100 * usage.cpu)} %` + (usage.max_cpu ? ` (${say("limit")} ${Math.round(100 * usage.max_cpu)} %)` : "")]);
    cards.push([say("throttle"), usage.paused || (usage.power || "") + (usage.max_cpu ? "" : ` (${say("no_limit")})`)]);
  } else if (stage && stage.actual.memory) cards.push([say("memory"), bytes(stage.actual.memory)]);
  fill("cards", cards, () => cards.map(([name, value]) => { const d = make("div"); d.append(make("dt", name), make("dd", value)); return d; }));
  $("progress").value = stage && stage.steps ? stage.step / stage.steps : 0;
  $("buttons").hidden = run.state !== "running";
  const stopping = run.pending.includes("stop"), sampling = run.pending.includes("sample");
  $("stop").disabled = stopping; $("stop").textContent = say(stopping ? "stopping" : "stop");
  $("sample").disabled = sampling; $("sample").textContent = say(sampling ? "sampling" : "sample_now");
  fill("stages", [run.stages.map(s => [s.stage, s.finished]), chosen.stage], () => run.stages.map(s => {
    const button = make("button", s.stage + (s.finished ? " ✓" : ""), {onclick: () => choose({stage: s.stage})});
    button.setAttribute("aria-pressed", s.stage === chosen.stage);
    return button;
  }));
  fill("runs", [list.map(r => [r.name, r.state]), chosen.run, chosen.others], () => list.map(r => {
    const label = make("label"), box = make("input", null, {type: "checkbox", checked: r.name === chosen.run || chosen.others.includes(r.name), disabled: r.name === chosen.run});
    box.onchange = () => choose({others: box.checked ? [...chosen.others, r.name] : chosen.others.filter(n => n !== r.name)});
    const open = make("a", r.name, {href: "#run=" + encodeURIComponent(r.name)});
    label.append(box, open, make("span", say(r.state), {className: "soft"}));
    return label;
  }));
}

function table(columns, rows, caption, kind = "number") {
  const holder = make("div", null, {className: "scroll"}), t = make("table"), head = make("tr");
  holder.tabIndex = 0; holder.setAttribute("role", "region"); holder.setAttribute("aria-label", caption);
  for (const [i, name] of columns.entries()) { const th = name ? make("th", name, {scope: "col"}) : make("td"); if (i && kind === "number") th.className = kind; head.append(th); }
  t.append(make("thead"), make("tbody"));
  t.tHead.append(head);
  for (const row of rows) {
    const line = make("tr");
    row.forEach((cell, i) => line.append(i ? make("td", cell, {className: kind}) : make("th", cell, {scope: "row"})));
    t.tBodies[0].append(line);
  }
  holder.append(t);
  return holder;
}

function showTables() {
  const stages = run.stages.map(s => s.stage), parts = [];
  const results = Object.entries(run.results);
  const plans = run.stages.filter(s => s.actual.memory || s.planned.memory);
  const really = (s, name, words) => s.actual[name] ? words(s.actual[name]) : s.expected && s.expected[name] ? "≈ " + words(s.expected[name]) : "–";
  fill("tables", [results, plans], () => {
    if (results.length) parts.push(make("h2", say("results")), table([say("measure"), ...stages], results.map(([name, found]) => [human(name), ...stages.map(s => figure(found[s]))]), say("results")));
    if (plans.length) parts.push(make("h2", say("plan")), table([say("stage"), `${say("time")} (${say("planned")})`, say("actual"), `${say("memory")} (${say("planned")})`, say("actual")],
      plans.map(s => [s.stage, seconds(s.planned.seconds ?? NaN), really(s, "seconds", seconds), bytes(s.planned.memory), really(s, "memory", bytes)]), say("plan")));
    return parts;
  });
}

function showSamples() {
  const samples = run.samples[chosen.stage] || [];
  fill("samples", [chosen.stage, samples], () => {
    if (!samples.length) return [make("p", say("no_samples"), {className: "soft"})];
    return [...new Set(samples.map(s => s.prompt))].map((prompt, n) => {
      const own = samples.filter(s => s.prompt === prompt), box = make("div"), row = make("div", null, {className: "row"});
      const slider = make("input", null, {type: "range", min: 0, max: own.length - 1, value: own.length - 1, id: "sample-" + n});
      const label = make("label", null, {htmlFor: slider.id}), quote = make("blockquote"), more = make("p", null, {className: "soft"});
      const show = () => {
        const s = own[slider.value];
        label.textContent = `${say("step")} ${figure(s.step)}`;
        quote.textContent = s.text;
        more.textContent = Object.entries(s.values || {}).map(([k, v]) => `${human(k)} ${figure(v)}`).join(" · ");
      };
      slider.oninput = show;
      show();
      row.append(label, slider);
      box.append(make("h3", prompt || "∅"), row, quote, more);
      return box;
    });
  });
}

async function showExample() {
  const key = [chosen.run, chosen.stage, language];
  if (JSON.stringify(seen.exampleKey) === JSON.stringify(key)) return;
  seen.exampleKey = key;
  const found = await ask(`api/example?run=${encodeURIComponent(chosen.run)}&stage=${encodeURIComponent(chosen.stage)}`).catch(() => ({pieces: []}));
  fill("example", [key, found], () => {
    if (!found.pieces.length) return [];
    const box = make("pre");
    box.tabIndex = 0; box.setAttribute("role", "region"); box.setAttribute("aria-label", say("example"));
    for (const [text, learned] of found.pieces) box.append(learned ? make("mark", text) : text);
    return [make("h2", say("example")), make("p", say("example_how"), {className: "soft"}), box];
  });
}

function showDetails() {
  const sections = Object.entries(run.config).filter(([, v]) => v && typeof v === "object" && !Array.isArray(v));
  const alone = Object.entries(run.config).filter(([, v]) => !v || typeof v !== "object" || Array.isArray(v));
  fill("details", [run.config, run.env, run.log, run.marks], () => {
    const parts = [], box = make("details"), plain = v => typeof v === "string" ? v : JSON.stringify(v);
    box.append(make("summary", say("config")));
    for (const [name, values] of [["", Object.fromEntries(alone)], ...sections, [say("machine"), run.env]]) {
      if (!Object.keys(values).length) continue;
      if (name) box.append(make("h3", name));
      box.append(table([say("setting"), ""], Object.entries(values).map(([k, v]) => [k, plain(v)]), name || say("config"), "text"));
    }
    parts.push(box);
    if (run.log) {
      const log = make("details"), text = make("pre", run.log);
      text.tabIndex = 0; text.setAttribute("role", "region"); text.setAttribute("aria-label", say("log"));
      log.append(make("summary", say("log")), text);
      parts.push(log);
    }
    return parts;
  });
}

// ---- curves ------------------------------------------------------------------------------------------------

// One chart for each metric; a measure on held-out data is drawn into the chart of its training metric.
function showCurves() {
  const names = [chosen.run, ...chosen.others], wanted = new Map();
  names.forEach((name, color) => {
    for (const [metric, xy] of Object.entries((curves[name] || {}).metrics || {})) {
      const held = metric.startsWith("validation_"), base = held ? metric.slice(11) : metric;
      if (!wanted.has(base)) wanted.set(base, []);
      const label = names.length > 1 ? `${name} ${say(held ? "validation" : "training")}` : say(held ? "validation" : "training");
      wanted.get(base).push({name: label, color: names.length > 1 ? color : held ? 1 : 0, x: xy[0], y: xy[1], dashed: held && names.length > 1, dots: held, exact: metric === "learning_rate"});
    }
  });
  const options = {logX: $("log-x").checked, logY: $("log-y").checked, smooth: +$("smooth").value};
  for (const [metric, chart] of charts) if (!wanted.has(metric)) { chart.figure.remove(); charts.delete(metric); }
  for (const [metric, series] of wanted) {
    if (!charts.has(metric)) charts.set(metric, new Chart($("charts"), human(metric), words(), zoomed));
    const chart = charts.get(metric);
    chart.title(human(metric), words());
    chart.range = chosen.range;
    chart.set(series, options);
  }
  fill("legend", names, () => names.length < 2 ? [] : names.map((name, color) => { const li = make("li", "● " + name); li.className = "c" + color % 8; return li; }));
  const damaged = names.reduce((n, name) => n + ((curves[name] || {}).damaged || 0), 0);
  $("note").textContent = wanted.size ? damaged ? `${damaged} ${say("damaged")}` : "" : say("empty");
  $("note").hidden = !$("note").textContent;
}

let soon = 0;
function zoomed(range) {
  if (JSON.stringify(range) === JSON.stringify(chosen.range)) return;
  chosen.range = range;
  for (const chart of charts.values()) if (chart.range !== range) { chart.range = range; chart.draw(); }
  clearTimeout(soon);
  soon = setTimeout(loadCurves, 150); // the points between, which the coarse curve does not have
}

async function loadCurves() {
  await askCurves();
  showCurves();
}

async function askCurves() {
  const range = chosen.range ? `&from=${chosen.range[0]}&to=${chosen.range[1]}` : "";
  const query = [chosen.run, ...chosen.others].map(name => "run=" + encodeURIComponent(name)).join("&");
  curves = await ask(`api/curves?${query}&stage=${encodeURIComponent(chosen.stage)}${range}`);
}

// ---- life --------------------------------------------------------------------------------------------------

function choose(change) {
  if (change.stage || change.run) chosen.range = null;
  Object.assign(chosen, change);
  const hash = new URLSearchParams({run: chosen.run, stage: chosen.stage || ""});
  if (chosen.others.length) hash.set("with", chosen.others.join("|"));
  history.replaceState(null, "", "#" + hash);
  refresh();
}

// What looks and draws takes time from the training on the same machine: it rests REST times as long, in milliseconds.
const REST = 200, SOONEST = 2000, LONGEST = 10000, FINISHED = 6000, HIDDEN = 15000;
let spent = 0; // by the last look

function wait(now) {
  const usual = document.hidden ? HIDDEN : run && run.state === "running" ? SOONEST : FINISHED;
  const both = Math.min(spent, now); // the first drawing, or one that something else interrupted, says little
  spent = now;
  return Math.max(usual, Math.min(LONGEST, REST * both));
}

async function refresh() {
  const mine = ++turn, began = served;
  let drawn = 0;
  const draw = shown => { const start = performance.now(); shown(); drawn += performance.now() - start; };
  try {
    const first = await ask("api/runs");
    list = first.runs;
    if (!list.some(r => r.name === chosen.run)) chosen.run = first.chosen;
    chosen.others = chosen.others.filter(n => n !== chosen.run && list.some(r => r.name === n));
    const found = await ask("api/run?run=" + encodeURIComponent(chosen.run));
    if (mine !== turn) return;
    run = found;
    const follow = !chosen.stage || (chosen.followed === chosen.stage && run.state === "running");
    if (follow || !run.stages.some(s => s.stage === chosen.stage)) chosen.stage = chosen.followed = run.stage;
    $("problem").hidden = true;
    draw(showState);
    if (chosen.stage) await askCurves();
    draw(() => { showCurves(); showTables(); showSamples(); showDetails(); });
    if (chosen.stage) await showExample();
  } catch (error) {
    $("problem").textContent = error.told ? error.message : say("gone");
    $("problem").hidden = false;
  }
  if (mine === turn) setTimeout(() => mine === turn && refresh(), wait(served - began + drawn));
}

async function request(what) {
  try {
    await ask(`api/${what}?run=${encodeURIComponent(chosen.run)}`, {method: "POST", headers: {"X-MiniGPT": "page"}});
    $("answer").textContent = "";
  } catch (error) { $("answer").textContent = error.told ? error.message : say("gone"); }
  refresh();
}

$("stop").onclick = () => request("stop");
$("sample").onclick = () => request("sample");
$("reset").onclick = () => { zoomed(null); };
for (const id of ["log-x", "log-y", "smooth"]) $(id).oninput = showCurves;
addEventListener("hashchange", () => {
  const to = new URLSearchParams(location.hash.slice(1));
  if (to.get("run") && to.get("run") !== chosen.run) { chosen.followed = null; choose({run: to.get("run"), stage: to.get("stage"), others: others(to)}); }
});
choices(() => {
  labels();
  for (const chart of charts.values()) chart.draw();
  refresh();
});
labels();
refresh();
