// Opens pages in a real browser and reports what is wrong with them. Called by scripts/pages_check.py, which says how to
// set it up. Arguments: a JSON object {modules, browser, out, pages: [{name, url, act, states}]}.
import {createRequire} from "node:module";
import {gzipSync} from "node:zlib";

const given = JSON.parse(process.argv[2]);
const require = createRequire(given.modules + "/");
const {chromium} = require("playwright-core");
const axe = require.resolve("axe-core/axe.min.js");
const VIEWS = [["wide-light", 1280, "light"], ["wide-dark", 1280, "dark"], ["phone-light", 320, "light"], ["phone-dark", 320, "dark"]];
const browser = await chromium.launch({executablePath: given.browser, args: ["--no-sandbox"]});
const found = [];

for (const {name, url, act} of given.pages) for (const [view, width, scheme] of VIEWS) {
  const context = await browser.newContext({viewport: {width, height: 900}, colorScheme: scheme, bypassCSP: false});
  const page = await context.newPage(), wrong = [], foreign = [];
  const own = new URL(url).origin;
  page.on("request", r => { const u = new URL(r.url()); if (u.protocol.startsWith("http") && u.origin !== own) foreign.push(r.url()); });
  page.on("console", m => { if (m.type() === "error") wrong.push("console: " + m.text()); });
  page.on("pageerror", e => wrong.push("error: " + e.message));
  const answer = await page.goto(url);
  const html = answer ? await answer.text() : "";
  await page.waitForTimeout(url.startsWith("http") ? 1500 : 300);
  if (act) wrong.push(...await actions(page, act));
  await page.evaluate(() => document.querySelectorAll("details").forEach(d => d.open = true));
  await page.waitForTimeout(200);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  if (wide > 0) wrong.push(`wider than the window by ${wide} px`);
  if (foreign.length) wrong.push("foreign requests: " + foreign.join(", "));
  await page.screenshot({path: `${given.out}/${name}-${view}.png`, fullPage: true});
  const slow = await page.evaluate(() => Math.max(0, ...[...document.querySelectorAll("figure[data-ms]")].map(f => +f.dataset.ms)));
  const size = gzipSync(html).length;
  if (size > 100_000) wrong.push(`${size} bytes compressed`);
  // axe is put in by the browser's own protocol, which the page's policy does not hold.
  const cdp = await context.newCDPSession(page), source = (await import("node:fs")).readFileSync(axe, "utf8");
  await cdp.send("Runtime.evaluate", {expression: source});
  const axed = await page.evaluate(async () => (await window.axe.run(document, {resultTypes: ["violations"]})).violations
    .map(v => `${v.id}: ${v.help} (${v.nodes.slice(0, 3).map(n => n.target.join(" ")).join("; ")})`));
  wrong.push(...axed.map(v => "axe " + v));
  found.push({name, view, compressed: size, slowest_drawing_ms: slow, wrong});
  await context.close();
}
await browser.close();
console.log(JSON.stringify(found, null, 1));

// What a person does with the live page, by keyboard where that is possible.
async function actions(page, act) {
  const wrong = [];
  const want = async (what, test) => { if (!await page.evaluate(test)) wrong.push(act + ": " + what); };
  if (act === "watch") {
    await want("no chart", () => document.querySelectorAll("figure canvas").length >= 2);
    const chart = page.locator("figure canvas[tabindex]").first();
    await chart.focus();
    await page.keyboard.press("ArrowRight");
    await want("no values at the cursor", () => /\d/.test(document.querySelector("figure .values").textContent));
    const before = await page.evaluate(() => [...charts.values()][0].shown.x1);
    await page.keyboard.press("+");
    await page.waitForTimeout(400);
    if (await page.evaluate(() => [...charts.values()][0].shown.x1) >= before) wrong.push("watch: plus does not zoom");
    await page.keyboard.press("0");
    await page.waitForTimeout(300);
    await page.locator("#log-y").check();
    await page.locator("#log-x").check();
    await page.waitForTimeout(200);
    await want("no curve on log axes", () => [...charts.values()][0].options.logY && [...charts.values()][0].shown.y1 > 0);
    await page.locator("#log-x").uncheck();
    await page.locator("#log-y").uncheck();
    const ms = await page.evaluate(() => { // 100,000 points, as noisy as a loss
      const host = document.createElement("div");
      document.querySelector("main").append(host);
      const chart = new Chart(host, "speed", words()), x = [], y = [];
      for (let i = 1; i <= 100000; i++) { x.push(i); y.push(5 / Math.log(i + 2) + Math.random()); }
      chart.set([{name: "a", color: 0, x, y}], {});
      const times = [];
      for (let i = 0; i < 9; i++) { chart.draw(); times.push(chart.took); }
      host.remove();
      return times.sort((a, b) => a - b)[4];
    });
    wrong.redraw = ms;
    console.error(`redraw of 100,000 points: ${ms.toFixed(1)} ms`);
    if (ms > 50) wrong.push(`watch: 100,000 points take ${ms.toFixed(1)} ms`);
    await page.locator("#language").click();
    await want("not Chinese", () => document.documentElement.lang === "zh-Hans" && document.body.textContent.includes("验证损失"));
    await page.locator("#language").click();
    await page.waitForTimeout(300);
  }
  if (act === "chat") await talk(page, want, wrong);
  if (act === "judge") {
    const count = () => page.evaluate(() => +document.getElementById("count").textContent.split("/")[0]);
    const before = await count(), shown = await page.locator("#question").textContent();
    for (const key of ["ArrowLeft", "t", "ArrowRight"]) { await page.keyboard.press(key); await page.waitForTimeout(250); }
    if (await count() !== before + 3) wrong.push("judge: keys do not vote");
    await page.locator("#reason").fill("right and short");
    await page.locator("#reason").press("b"); // a letter of the reason, and no vote
    if (await count() !== before + 3) wrong.push("judge: writing a reason votes");
    await page.locator("#choose-tie").click();
    await page.waitForTimeout(250);
    for (let i = 0; i < 4; i++) { await page.locator("#undo").click(); await page.waitForTimeout(250); }
    if (await count() !== before) wrong.push("judge: votes cannot be taken back");
    if (await page.locator("#question").textContent() !== shown) wrong.push("judge: another question after taking back");
    await page.locator("#language").click();
    await want("not Chinese", () => document.body.textContent.includes("哪个回答更好"));
    await page.locator("#language").click();
  }
  return wrong;
}

// A conversation by keyboard: ask, watch it stream, stop, compare stages, edit, look at a token, change the language.
async function talk(page, want, wrong) {
  const finished = () => page.waitForFunction(() => !running.length && talk.turns.length, null, {timeout: 60000});
  const named = word => page.getByRole("button", {name: word, exact: true});
  await page.locator("#text").focus();
  await page.keyboard.type("What is 3 plus 1?");
  await page.keyboard.press("Enter");
  await finished();
  await want("no answer", () => document.querySelectorAll(".answer .said").length === 1);
  await want("the question is gone", () => document.querySelector(".turn .said").textContent === "What is 3 plus 1?");
  await page.evaluate(() => { talk.set.max_tokens = 400; talk.set.temperature = 2; talk.set.min_p = 0; });
  await named("Regenerate").first().click();
  await page.waitForFunction(() => talk.turns[0].answers[talk.models[0]].text.length > 0 || !running.length);
  await page.keyboard.press("Escape");
  await finished();
  await want("neither stopped nor finished", () => ["stopped", "length", "stop"].includes(Object.values(talk.turns[0].answers)[0].reason));
  await page.evaluate(() => { talk.set.max_tokens = 30; talk.set.temperature = 0; });
  const others = await page.locator("#models button[aria-pressed=false]").count();
  for (let i = 0; i < others; i++) await page.locator("#models button[aria-pressed=false]").first().click();
  await page.locator("#text").fill("The cat sat on the");
  await page.locator("#send").click();
  await finished();
  await want("not one answer for each model", () => document.querySelectorAll(".turn:last-child .answer").length === models.length && models.length > 1);
  if (await page.locator(".answer .bad").count()) wrong.push("chat: " + await page.locator(".answer .bad").first().textContent());
  await want("not side by side", () => innerWidth < 600 || new Set([...document.querySelectorAll(".turn:last-child .answer")].map(a => a.offsetTop)).size < models.length);
  await page.locator("#system").evaluate(e => { e.closest("details").open = true; });
  await page.locator("#system").fill("Answer briefly. <b>&amp;</b>");
  await want("the system prompt is not kept", () => JSON.parse(localStorage.getItem("minigpt.talks"))[0].system.startsWith("Answer briefly."));
  await named("Edit").last().click();
  await page.locator("#edited").fill("What is 2 plus 2? <img src=x onerror=alert(1)>");
  await named("Send again").click();
  await finished();
  await want("the edited message is not shown as it is", () => document.querySelector(".turn:last-child .said").textContent.includes("<img") && !document.querySelector("#turns img"));
  await page.locator("#tokens").check();
  await page.evaluate(() => [...document.querySelectorAll(".pieces")].find(p => p.children.length > 1).firstChild.focus());
  await page.keyboard.press("Enter");
  await want("no alternatives", () => document.querySelectorAll(".instead tbody tr").length >= 2);
  await page.keyboard.press("ArrowRight");
  await want("arrows do not move", () => opened && opened.at === 1 && document.activeElement.getAttribute("aria-pressed") === "true");
  const download = page.waitForEvent("download", {timeout: 5000}).catch(() => null);
  await named("Export as JSON").click();
  if (!await download) wrong.push("chat: nothing is exported");
  await page.reload();
  await page.waitForFunction(() => models.length > 0);
  await want("the conversation is not kept", () => document.querySelectorAll(".turn").length === 2 && document.querySelectorAll("button.piece").length > 0);
  await page.locator("#language").click();
  await want("not Chinese", () => document.documentElement.lang === "zh-Hans" && document.body.textContent.includes("重新生成"));
  await page.locator("#language").click();
  await page.locator(".turn:last-child button.piece").first().click();
  await page.locator("#new").click();
  await want("no new conversation", () => document.querySelectorAll(".turn").length === 0 && document.querySelectorAll("#talks li").length === 1);
  await page.locator("#talks button").first().click();
  await page.locator(".turn:last-child button.piece").first().click();
}
