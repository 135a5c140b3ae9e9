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
  await page.waitForTimeout(url.startsWith("http") ? 1500 : 300);
  if (act) wrong.push(...await actions(page, act));
  await page.evaluate(() => document.querySelectorAll("details").forEach(d => d.open = true));
  await page.waitForTimeout(200);
  const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
  if (wide > 0) wrong.push(`wider than the window by ${wide} px`);
  if (foreign.length) wrong.push("foreign requests: " + foreign.join(", "));
  await page.screenshot({path: `${given.out}/${name}-${view}.png`, fullPage: true});
  const slow = await page.evaluate(() => Math.max(0, ...[...document.querySelectorAll("figure[data-ms]")].map(f => +f.dataset.ms)));
  const html = answer ? await answer.text() : "";
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
  return wrong;
}
