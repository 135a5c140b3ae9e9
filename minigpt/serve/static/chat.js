// The chat page: conversations that stay in the browser, answers that stream, several models side by side, tokens with
// what could have stood in their place. All text is set as textContent.
"use strict";

const SLIDERS = [["temperature", 0, 2, 0.05, 0.8], ["top_p", 0.05, 1, 0.05, 1], ["top_k", 0, 200, 1, 0], ["min_p", 0, 1, 0.01, 0.05],
  ["repetition_penalty", 1, 2, 0.05, 1], ["max_tokens", 1, 512, 1, 128]];
const ALTERNATIVES = 8;
const parsed = text => { try { return JSON.parse(text); } catch { return null; } };
const stored = parsed(kept("talks"));
let talks = Array.isArray(stored) ? stored : [], talk = null, models = [], running = [], editing = -1, opened = null;

// A conversation: {id, title, models, system, set, seed, turns: [{text, answers: {model: answer}}]}.
// An answer: {text, pieces: [[piece, log-probability, [[other, log-probability], …]], …], reason, error, count, seconds}.

// ---- the server --------------------------------------------------------------------------------------------

function headers() {
  const key = $("key").value.trim();
  return {"Content-Type": "application/json", ...(key ? {Authorization: "Bearer " + key} : {})};
}

async function failure(answer) {
  const found = parsed(await answer.text());
  const told = found && found.error || {};
  return Object.assign(new Error(told.message || answer.status + " " + answer.statusText), {code: told.code});
}

async function loadModels() {
  try {
    const answer = await fetch("v1/models", {headers: headers(), cache: "no-store"});
    $("key-row").hidden = answer.ok && !$("key").value;
    if (!answer.ok) { if (answer.status === 401) $("settings").open = true; throw await failure(answer); }
    models = (await answer.json()).data;
    trouble(null);
  } catch (error) { trouble(error instanceof TypeError ? say("gone") : error.message); }
  const names = models.map(m => m.id);
  if (talk && !talk.models.some(m => names.includes(m))) talk.models = names.slice(0, 1);
  show();
}

function trouble(text) {
  $("problem").textContent = text || "";
  $("problem").hidden = !text;
}

// What a model is asked: a conversation without its first `forgotten` turns, or for a base model the text to be continued.
function request(model, turn, forgotten) {
  const before = [];
  if (talk.system.trim()) before.push({role: "system", content: talk.system});
  for (const one of talk.turns.slice(forgotten, turn)) {
    before.push({role: "user", content: one.text});
    const answer = one.answers[model];
    if (answer && answer.text) before.push({role: "assistant", content: answer.text});
  }
  const text = talk.turns[turn].text, seed = /^\d+$/.test(talk.seed) ? {seed: +talk.seed} : {};
  const common = {model, stream: true, stream_options: {include_usage: true}, ...talk.set, ...seed};
  const known = models.find(m => m.id === model);
  if (known && !known.answers) return ["v1/completions", {...common, prompt: text, logprobs: ALTERNATIVES}];
  return ["v1/chat/completions", {...common, messages: [...before, {role: "user", content: text}], logprobs: true, top_logprobs: ALTERNATIVES}];
}

// The events of a stream, as they come; a character may be cut between two parts.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const {value, done} = await reader.read();
    held += value || "";
    const lines = held.split("\n");
    held = lines.pop();
    for (const line of lines) if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice(6));
    if (done) return;
  }
}

const spelled = one => one.token.includes("\ufffd") && one.bytes ? one.bytes.map(b => "<" + b.toString(16).toUpperCase().padStart(2, "0") + ">").join("") : one.token;

// Take what one event brings into an answer.
function heard(answer, found) {
  if (found.error) throw new Error(found.error.message);
  if (found.usage) answer.count = found.usage.completion_tokens;
  const choice = found.choices && found.choices[0];
  if (!choice) return;
  answer.text += choice.delta ? choice.delta.content || "" : choice.text || "";
  if (choice.finish_reason) answer.reason = choice.finish_reason;
  const known = choice.logprobs || {};
  for (const one of known.content || []) answer.pieces.push([spelled(one), one.logprob, one.top_logprobs.map(o => [spelled(o), o.logprob])]);
  (known.tokens || []).forEach((piece, i) => answer.pieces.push([piece, known.token_logprobs[i], Object.entries(known.top_logprobs[i])]));
}

// The answer's stream; where the conversation does not fit the context, its oldest turns are forgotten one by one.
async function asked(model, turn, signal, answer) {
  for (answer.forgotten = 0; ; answer.forgotten++) {
    const [path, body] = request(model, turn, answer.forgotten);
    const got = await fetch(path, {method: "POST", headers: headers(), body: JSON.stringify(body), signal});
    if (got.ok) return got;
    const error = await failure(got);
    if (error.code !== "context_length_exceeded" || answer.forgotten >= turn) throw error;
  }
}

async function answerOne(model, turn) {
  const control = new AbortController(), answer = {text: "", pieces: [], reason: "", error: "", count: 0, seconds: 0};
  const mine = talk, began = performance.now();
  mine.turns[turn].answers[model] = answer;
  running.push(control);
  show();
  try {
    const got = await asked(model, turn, control.signal, answer);
    for await (const found of events(got.body)) { heard(answer, found); if (talk === mine) grow(turn, model); }
  } catch (error) {
    if (control.signal.aborted) answer.reason = "stopped";
    else answer.error = error instanceof TypeError ? say("gone") : error.message;
  }
  answer.seconds = (performance.now() - began) / 1000;
  answer.count = answer.count || answer.pieces.length;
  running = running.filter(one => one !== control);
  save();
  show();
}

function answerAll(turn, which) {
  opened = null;
  for (const model of which) answerOne(model, turn);
}

// ---- conversations -----------------------------------------------------------------------------------------

const standard = () => Object.fromEntries(SLIDERS.map(([name, , , , value]) => [name, value]));
const newest = () => ({id: Date.now() + "-" + Math.floor(Math.random() * 1e6), title: "", models: talk ? [...talk.models] : models.slice(0, 1).map(m => m.id),
  system: talk ? talk.system : "", set: talk ? {...talk.set} : standard(), seed: talk ? talk.seed : "", turns: []});

// Keep them in the browser; where it has no room, without the tokens of older answers.
function save() {
  if (talk && talk.turns.length && !talks.includes(talk)) talks.unshift(talk);
  for (let slim = -1; slim < talks.length; slim++) {
    if (slim >= 0) for (const turn of talks[talks.length - 1 - slim].turns) for (const answer of Object.values(turn.answers)) answer.pieces = [];
    try { localStorage.setItem("minigpt.talks", JSON.stringify(talks)); return; } catch { /* the next round keeps less */ }
  }
  trouble(say("full"));
}

function open(one) {
  stop();
  talk = one; editing = -1; opened = null;
  for (const [name] of SLIDERS) $("set-" + name).value = talk.set[name];
  $("system").value = talk.system; $("seed").value = talk.seed;
  show();
}

function send() {
  const text = $("text").value;
  if (!text.trim() || running.length || !talk.models.length) return;
  $("text").value = "";
  talk.title = talk.title || text.trim().slice(0, 60);
  talk.turns.push({text, answers: {}});
  save();
  answerAll(talk.turns.length - 1, talk.models);
  $("turns").scrollIntoView({block: "end"});
}

function stop() { for (const control of running) control.abort(); }

async function copy(text, button) {
  try { await navigator.clipboard.writeText(text); } catch {
    const area = document.body.appendChild(make("textarea", null, {value: text}));
    area.select(); document.execCommand("copy"); area.remove();
  }
  button.textContent = say("copied");
  setTimeout(() => { button.textContent = say("copy"); }, 1500);
}

function download(name, kind, text) {
  const link = make("a", null, {href: URL.createObjectURL(new Blob([text], {type: kind})), download: name});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

const asText = () => talk.turns.map(turn => [`${say("you")}: ${turn.text}`, ...Object.entries(turn.answers).map(([model, a]) => `${model}: ${a.text}`)].join("\n\n")).join("\n\n");

// ---- what is shown -----------------------------------------------------------------------------------------

function labels() {
  for (const id of ["new", "send", "stop", "export"]) $(id).textContent = say(id);
  for (const [id, word] of [["talks-title", "talks"], ["models-how", "models_how"], ["text-label", "ask"], ["ask-how", "ask_how"], ["tokens-label", "tokens"],
    ["settings-title", "settings"], ["system-label", "system"], ["seed-label", "seed"], ["key-label", "key"], ["export-text", "export_text"]]) $(id).textContent = say(word);
  $("models").setAttribute("aria-label", say("models"));
  $("turns").setAttribute("aria-label", say("talks"));
  for (const [name] of SLIDERS) $("set-" + name).parentElement.querySelector("span").textContent = say(name);
}

function button(word, onclick) { return make("button", say(word), {onclick, type: "button"}); }

function show() {
  $("state").textContent = say(running.length ? "answering" : "ready");
  $("send").disabled = running.length > 0;
  $("stop").hidden = !running.length;
  $("turns").setAttribute("aria-busy", running.length > 0);
  $("talks").replaceChildren(...talks.map(listed));
  $("models").replaceChildren(...models.map(model => {
    const chosen = talk.models.includes(model.id);
    const one = make("button", model.id + (model.answers ? "" : ` (${say("base")})`), {type: "button", onclick: () => {
      talk.models = models.map(m => m.id).filter(id => id === model.id ? !chosen : talk.models.includes(id));
      save(); show();
      [...$("models").children].find(b => b.dataset.model === model.id).focus();
    }});
    one.dataset.model = model.id;
    one.setAttribute("aria-pressed", chosen);
    return one;
  }));
  for (const [name] of SLIDERS) $("set-" + name).parentElement.querySelector("output").textContent = talk.set[name];
  $("turns").replaceChildren(...(talk.turns.length ? talk.turns.map(turnShown) : [make("p", say("empty"), {className: "soft"})]));
}

function listed(one) {
  const item = make("li"), choose = make("button", one.title || say("untitled"), {type: "button", onclick: () => open(one), title: one.title});
  choose.setAttribute("aria-pressed", one === talk);
  const gone = make("button", "×", {type: "button", onclick: () => {
    if (gone.textContent === "×") { gone.textContent = say("delete_sure"); return; }
    talks = talks.filter(t => t !== one);
    save();
    if (one === talk) open(newest()); else show();
    $("new").focus();
  }});
  gone.setAttribute("aria-label", `${say("delete")}: ${one.title || say("untitled")}`);
  item.append(choose, gone);
  return item;
}

function turnShown(turn, number) {
  const box = make("article", null, {className: "turn"}), row = make("div", null, {className: "row"});
  box.append(make("h3", say("you")));
  if (editing === number) {
    const area = make("textarea", null, {value: turn.text, rows: 3, id: "edited"});
    area.setAttribute("aria-label", say("edit"));
    const again = () => {
      talk.turns.length = number + 1;
      turn.text = area.value; turn.answers = {}; editing = -1;
      save(); answerAll(number, talk.models);
    };
    row.append(button("save", again), button("cancel", () => { editing = -1; show(); }));
    box.append(area, row);
  } else {
    box.append(make("p", turn.text, {className: "said"}));
    const edit = button("edit", () => { editing = number; show(); $("edited").focus(); });
    const copied = button("copy", () => copy(turn.text, copied));
    edit.disabled = running.length > 0;
    row.append(edit, copied);
    box.append(row);
  }
  const answers = make("div", null, {className: "side-by-side"});
  answers.append(...Object.entries(turn.answers).map(([model, answer]) => answerShown(number, model, answer)));
  box.append(answers);
  return box;
}

const place = (turn, model) => `answer-${turn}-${models.findIndex(m => m.id === model)}`;

function answerShown(turn, model, answer) {
  const box = make("section", null, {className: "answer", id: place(turn, model)}), row = make("div", null, {className: "row"});
  box.setAttribute("aria-label", `${say("answer")} ${turn + 1}: ${model}`);
  box.append(make("h3", model));
  box.append($("tokens").checked && answer.pieces.length ? pieces(turn, model, answer) : make("p", answer.text || (answer.reason && !answer.error ? say("nothing") : "…"), {className: "said"}));
  if (answer.error) box.append(make("p", `${say("failed")}: ${answer.error}`, {className: "bad small"}));
  if (opened && opened.turn === turn && opened.model === model) box.append(instead(answer));
  if (!answer.reason && !answer.error) return box;
  const copied = button("copy", () => copy(answer.text, copied)), again = button("regenerate", () => answerAll(turn, [model]));
  again.disabled = running.length > 0 || !models.some(m => m.id === model);
  const speed = answer.seconds > 0 ? ` · ${Math.round(answer.count / answer.seconds)} ${say("per_second")}` : "";
  const why = [{stopped: say("stopped"), length: say("length")}[answer.reason], answer.forgotten && `${say("forgotten")} ${answer.forgotten}`].filter(Boolean).join(" · ");
  row.append(again, copied, make("span", `${answer.count} ${say("tokens_used")}${speed}${why ? " · " + why : ""}`, {className: "soft small"}));
  box.append(row);
  return box;
}

// While an answer streams only its text changes; what has the keyboard stays.
function grow(turn, model) {
  const box = $(place(turn, model)), answer = talk.turns[turn].answers[model];
  if (!box || $("tokens").checked) { if (box) box.replaceWith(answerShown(turn, model, answer)); return; }
  box.querySelector(".said").textContent = answer.text;
}

// ---- tokens ------------------------------------------------------------------------------------------------

const visible = piece => piece.replaceAll("\n", "⏎\n").replaceAll("\t", "⇥") || "∅";
const share = logprob => { const p = 100 * Math.exp(logprob); return (p >= 10 ? p.toFixed(0) : p >= 0.1 ? p.toFixed(1) : "< 0.1") + " %"; };
const level = logprob => logprob > Math.log(0.8) ? 1 : logprob > Math.log(0.4) ? 2 : logprob > Math.log(0.1) ? 3 : 4;

function pieces(turn, model, answer) {
  const box = make("div", null, {className: "pieces"}), at = opened && opened.turn === turn && opened.model === model ? opened.at : -1;
  box.setAttribute("role", "toolbar");
  box.setAttribute("aria-label", say("tokens_how"));
  box.append(...answer.pieces.map(([piece, logprob], i) => {
    const one = make("button", visible(piece), {type: "button", className: "piece p" + level(logprob), tabIndex: i === Math.max(at, 0) ? 0 : -1, title: share(logprob)});
    one.setAttribute("aria-pressed", i === at);
    one.setAttribute("aria-label", `${visible(piece)}, ${share(logprob)}`);
    one.onclick = () => look({turn, model, at: i});
    return one;
  }));
  box.onkeydown = event => {
    const step = {ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1}[event.key];
    const all = [...box.children], now = all.indexOf(document.activeElement), next = all[now + (step || 0)];
    if (!step || now < 0 || !next) return;
    event.preventDefault();
    if (at >= 0) look({turn, model, at: now + step}); else next.focus();
  };
  return box;
}

function look(where) {
  opened = where;
  show();
  const now = $(place(where.turn, where.model)).querySelector("button.piece[aria-pressed=true]");
  if (now) now.focus();
}

function instead(answer) {
  const [piece, , others] = answer.pieces[opened.at], box = make("div", null, {className: "instead"});
  const table = make("table"), head = make("tr"), body = make("tbody");
  head.append(make("th", say("piece"), {scope: "col"}), make("th", say("probability"), {scope: "col", className: "number"}), make("td"));
  const rows = others.some(([other]) => other === piece) ? others : [...others, answer.pieces[opened.at]];
  for (const [other, logprob] of rows) {
    const line = make("tr");
    line.append(make("th", visible(other), {scope: "row"}), make("td", share(logprob), {className: "number"}), make("td", other === piece ? "← " + say("chosen") : ""));
    body.append(line);
  }
  table.append(make("caption", say("instead")), make("thead"), body);
  table.tHead.append(head);
  box.append(table, button("close", () => {
    const was = opened;
    opened = null;
    show();
    $(place(was.turn, was.model)).querySelectorAll("button.piece")[was.at].focus();
  }));
  return box;
}

// ---- life --------------------------------------------------------------------------------------------------

$("sliders").append(...SLIDERS.map(([name, min, max, step, value]) => {
  const label = make("label"), slider = make("input", null, {type: "range", min, max, step, value, id: "set-" + name});
  slider.oninput = () => { talk.set[name] = +slider.value; label.querySelector("output").textContent = slider.value; save(); };
  label.append(make("span"), make("output", value), slider);
  return label;
}));
$("new").onclick = () => { open(newest()); $("text").focus(); };
$("send").onclick = send;
$("stop").onclick = () => { stop(); $("text").focus(); };
$("text").onkeydown = event => { if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); send(); } };
addEventListener("keydown", event => { if (event.key === "Escape") stop(); });
$("tokens").onchange = () => { keep("tokens", $("tokens").checked ? "1" : ""); opened = null; show(); };
$("system").oninput = () => { talk.system = $("system").value; save(); };
$("seed").oninput = () => { talk.seed = $("seed").value.trim(); save(); };
$("key").onchange = () => { try { sessionStorage.setItem("minigpt.key", $("key").value); } catch { /* private window */ } loadModels(); };
$("export").onclick = () => download("conversation.json", "application/json", JSON.stringify({messages: talk.turns.flatMap(t => [{role: "user", content: t.text},
  ...Object.entries(t.answers).map(([model, a]) => ({role: "assistant", model, content: a.text}))]), system: talk.system, settings: talk.set}, null, 1));
$("export-text").onclick = () => download("conversation.txt", "text/plain", asText());
$("tokens").checked = kept("tokens") === "1";
try { $("key").value = sessionStorage.getItem("minigpt.key") || ""; } catch { /* private window */ }
choices(() => { labels(); show(); });
labels();
open(talks[0] || newest());
loadModels();
