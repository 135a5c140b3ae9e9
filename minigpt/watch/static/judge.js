// The page on which answers are compared: one pair at a time, by mouse or keyboard; the names are never here.
"use strict";

let pair = null, busy = false;
$("rater").value = kept("rater") || "me";

function labels() {
  for (const id of ["title", "rater-label", "question-title", "left-title", "right-title", "reason-label", "keys", "thanks"])
    $(id).textContent = say(id);
  for (const id of ["choose-left", "choose-tie", "choose-right", "undo"]) $(id).textContent = say(id);
  $("progress").setAttribute("aria-label", say("progress"));
  if (pair) show();
}

function show() {
  $("progress").max = pair.total; $("progress").value = pair.done;
  $("count").textContent = `${pair.done} / ${pair.total}`;
  const more = pair.item !== undefined;
  $("pair").hidden = !more; $("thanks").hidden = more;
  if (!more) return;
  $("question").textContent = pair.question;
  $("left").textContent = pair.left || "∅";
  $("right").textContent = pair.right || "∅";
}

async function request(path, extra, method) {
  if (busy) return;
  busy = true;
  try {
    const query = new URLSearchParams({rater: $("rater").value, ...extra});
    pair = await ask(`/api/${path}?${query}`, {method, headers: {"X-MiniGPT": "page"}});
    $("problem").hidden = true;
    show();
  } catch (error) {
    $("problem").textContent = error.told ? error.message : say("gone");
    $("problem").hidden = false;
  } finally { busy = false; }
}

async function choose(choice) {
  if (!pair || pair.item === undefined) return;
  const reason = $("reason").value;
  $("reason").value = "";
  await request("vote", {item: pair.item, choice, reason}, "POST");
}

for (const choice of ["left", "tie", "right"]) $("choose-" + choice).onclick = () => choose(choice);
$("undo").onclick = () => request("undo", {}, "POST");
$("rater").onchange = () => { keep("rater", $("rater").value); request("next", {}, "GET"); };
document.addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey || ["INPUT", "TEXTAREA"].includes(event.target.tagName)) return;
  const keys = {ArrowLeft: "left", a: "left", ArrowRight: "right", b: "right", ArrowDown: "tie", t: "tie"};
  if (keys[event.key]) { event.preventDefault(); choose(keys[event.key]); }
  else if (event.key === "u") request("undo", {}, "POST");
});

choices(labels);
labels();
request("next", {}, "GET");
