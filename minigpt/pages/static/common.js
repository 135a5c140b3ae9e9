// What pages with scripts share: texts in two languages, elements, requests, numbers in words, light and dark.
// All text is set as textContent, never as HTML. A page that uses this gives its texts as data (see pages/html.py).
"use strict";

const WORDS = JSON.parse(document.getElementById("data").textContent);
const $ = id => document.getElementById(id);
const kept = name => { try { return localStorage.getItem("minigpt." + name); } catch { return null; } };
const keep = (name, value) => { try { localStorage.setItem("minigpt." + name, value); } catch { /* private window */ } };
let language = kept("language") || (document.documentElement.lang.startsWith("zh") ? "zh" : "en");

const say = name => (WORDS[name] || [name, name])[language === "zh" ? 1 : 0];
const words = () => new Proxy({}, {get: (_, name) => say(String(name))});

function make(tag, text, attributes) {
  const element = document.createElement(tag);
  if (text !== undefined && text !== null) element.textContent = text;
  for (const [name, value] of Object.entries(attributes || {})) element[name] = value;
  return element;
}

const filled = {};

// Put new children into an element, but only when they would look different: a reader's selection stays.
function fill(id, key, children) {
  const now = JSON.stringify([language, key]);
  if (filled[id] === now) return;
  filled[id] = now;
  $(id).replaceChildren(...children());
}

let served = 0; // milliseconds of the processor that the server's answers have taken

async function ask(path, options) {
  const answer = await fetch(path, {cache: "no-store", ...options});
  served += Number((/cpu;dur=([\d.]+)/.exec(answer.headers.get("Server-Timing")) || [0, 0])[1]);
  const found = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(found.error || answer.statusText), {told: true});
  return found;
}

// ---- numbers -----------------------------------------------------------------------------------------------

function seconds(s) {
  if (!(s >= 0) || !Number.isFinite(s)) return "–";
  s = Math.round(s);
  const zh = language === "zh", pad = n => String(n).padStart(2, "0");
  if (s < 60) return s + (zh ? " 秒" : " s");
  if (s < 3600) return `${Math.floor(s / 60)}${zh ? " 分 " : " min "}${pad(s % 60)}${zh ? " 秒" : " s"}`;
  return `${Math.floor(s / 3600)}${zh ? " 小时 " : " h "}${pad(Math.floor(s % 3600 / 60))}${zh ? " 分" : " min"}`;
}
const bytes = n => n === null || n === undefined ? "–" : n >= 1e9 ? (n / 1e9).toFixed(1) + " GB" : n >= 1e6 ? (n / 1e6).toFixed(0) + " MB" : (n / 1e3).toFixed(1) + " kB";
const figure = v => typeof v !== "number" ? "–" : Number.isInteger(v) ? v.toLocaleString() : Math.abs(v) < 1 && Math.abs(v) >= 1e-3 ? String(+v.toFixed(4)) : precise(v);
function precise(v) { return Math.abs(v) >= 1e5 || (v !== 0 && Math.abs(v) < 1e-3) ? v.toExponential(3) : String(+v.toPrecision(5)); }
// A measure's name for people, as texts.measure has it.
function human(name) {
  const cut = name.lastIndexOf(": ") + 2, before = cut > 1 ? name.slice(0, cut) : "", plain = cut > 1 ? name.slice(cut) : name;
  const part = plain.replace(/^exact_match_/, ""), kind = part === plain ? "" : say("measure_exact_match") + ": ";
  return before + kind + (WORDS["measure_" + part] ? say("measure_" + part) : part.replaceAll("_", " "));
}

// ---- language and theme: two buttons, whose choice is kept for all pages ------------------------------------

// `again` is called when either was changed: canvases have to be drawn again, texts to be put in.
function choices(again) {
  const label = () => {
    document.documentElement.lang = language === "zh" ? "zh-Hans" : "en";
    $("language").textContent = say("language");
    $("theme").setAttribute("aria-label", say("theme"));
  };
  $("language").onclick = () => { language = language === "zh" ? "en" : "zh"; keep("language", language); label(); again(); };
  $("theme").onclick = () => {
    const dark = getComputedStyle(document.documentElement).getPropertyValue("--paper").trim() === "#12151a";
    document.documentElement.dataset.theme = dark ? "light" : "dark";
    keep("theme", document.documentElement.dataset.theme);
    again();
  };
  if (kept("theme")) document.documentElement.dataset.theme = kept("theme");
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", again);
  label();
}
