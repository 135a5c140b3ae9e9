// Uses the live page of a training that goes on, as a person does: sample now, reload, the server's restart, stop.
// Arguments: a JSON object {modules, browser, out, server: [program, arguments…], url}. Prints what is wrong as JSON.
import {spawn} from "node:child_process";
import {createRequire} from "node:module";

const given = JSON.parse(process.argv[2]);
const {chromium} = createRequire(given.modules + "/")("playwright-core");
const wrong = [], serve = () => spawn(given.server[0], given.server.slice(1), {stdio: "ignore"});
const patient = {timeout: 60000};
let server = serve();
const browser = await chromium.launch({executablePath: given.browser, args: ["--no-sandbox"]});
const page = await (await browser.newContext({viewport: {width: 1280, height: 900}})).newPage();
page.on("pageerror", e => wrong.push("error: " + e.message));
for (let n = 0; n < 60; n++) try { await page.goto(given.url); break; } catch { await page.waitForTimeout(500); }
const text = id => page.locator("#" + id).textContent();
try {
  await page.waitForFunction(() => run && run.state === "running" && document.querySelector("figure canvas"), null, patient);
  await page.screenshot({path: `${given.out}/live-running.png`, fullPage: true});
  for (const word of ["Time left", "Memory", "CPU", "Throttle"]) if (!(await text("cards")).includes(word)) wrong.push("no card " + word);
  if (!(await text("tables")).includes("≈")) wrong.push("the plan is not held against what is expected");
  const samples = () => page.evaluate(() => run.samples[chosen.stage].length);
  const before = await samples();
  await page.locator("#sample").click();
  await page.reload(); // the wish is the run's, not the page's
  await page.waitForFunction(() => run && run.state === "running", null, patient);
  await page.waitForFunction(n => run.samples[chosen.stage].length > n && !document.getElementById("sample").disabled, before, patient);
  server.kill("SIGINT");
  await page.waitForFunction(() => !document.getElementById("problem").hidden, null, patient);
  server = serve();
  await page.waitForFunction(() => document.getElementById("problem").hidden, null, patient);
  const step = await page.evaluate(() => run.stages[0].step);
  await page.waitForFunction(n => run.stages[0].step > n, step, patient); // it goes on where it was
  await page.locator("#stop").click();
  await page.waitForFunction(() => run.pending.includes("stop") || run.state === "stopped", null, patient);
  await page.reload();
  await page.waitForFunction(() => run && run.state === "stopped" && document.getElementById("buttons").hidden, null, patient);
  await page.screenshot({path: `${given.out}/live-stopped.png`, fullPage: true});
} catch (error) { wrong.push(error.message.split("\n")[0]); await page.screenshot({path: `${given.out}/live-wrong.png`}); }
await browser.close();
server.kill("SIGINT");
console.log(JSON.stringify(wrong));
