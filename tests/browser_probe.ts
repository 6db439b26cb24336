/**
 * A person at a browser: `browser_probe.ts JOURNEY URL CHROMIUM [FOLDER for pictures]`. Goes through pages in headless Chromium,
 * on a wide and a narrow window, dark and light, and fails where something is not there, not reachable, or not readable.
 *
 * @module
 */
import { deepStrictEqual, match, ok, strictEqual } from "node:assert/strict";

/** Imported by names that the module graph does not see, so that only whoever tests is sent them. */
const BROWSER: string = "npm:playwright-core@1.65.1", CONTRAST: string = "npm:axe-core@4.14.1";
const { chromium } = await import(BROWSER);
const { default: axe } = await import(CONTRAST);

const [journey, url, executablePath, pictures] = Deno.args as [string, string, string, string?];
const PATIENCE = 20_000;

const WINDOWS = { wide: { width: 1280, height: 900 }, narrow: { width: 390, height: 844 } };
const SCHEMES = ["light", "dark"] as const;

// deno-lint-ignore no-explicit-any
type Page = any;
const browser = await chromium.launch({ executablePath, args: ["--no-sandbox"] });
const problems: string[] = [];

/** A page whose errors count, but for what a journey is about: answers of 4xx, and a network that is taken away. */
async function newPage(window: keyof typeof WINDOWS = "wide", colorScheme: typeof SCHEMES[number] = "light") {
  const context = await browser.newContext({
    viewport: WINDOWS[window],
    colorScheme,
    reducedMotion: "reduce",
  });
  context.setDefaultTimeout(PATIENCE);
  const page: Page = await context.newPage();
  page.on("pageerror", (error: Error) => problems.push(`${page.url()}: ${error.message}`));
  page.on("console", (message: { type(): string; text(): string }) => {
    if (message.type() === "error" && !/status of 4\d\d|ERR_INTERNET_DISCONNECTED/.test(message.text())) {
      problems.push(`${page.url()}: ${message.text()}`);
    }
  });
  page.on("request", (request: { url(): string }) => {
    if (!request.url().startsWith(url)) problems.push(`${page.url()} asked for ${request.url()}`);
  });
  return page;
}

async function picture(page: Page, name: string): Promise<void> {
  if (pictures) await page.screenshot({ path: `${pictures}/${name}.png`, fullPage: true });
}

/** Checks what axe can see, contrast among it, and that nothing is wider than the window. */
async function readable(page: Page, what: string): Promise<void> {
  await page.evaluate(axe.source);
  const { violations } = await page.evaluate("axe.run()");
  const found = violations.map(({ id, nodes }: { id: string; nodes: { html: string }[] }) =>
    `${id}: ${nodes[0]!.html}`
  );
  deepStrictEqual(found, [], what);
  const over = await page.evaluate(
    "document.documentElement.scrollWidth - document.documentElement.clientWidth",
  );
  ok(over <= 0, `${what} is ${over} pixels wider than the window`);
}

const text = (page: Page, selector: string): Promise<string> => page.locator(selector).innerText();
const stepOf = async (page: Page) =>
  Number(/Step\s+([\d,]+)/.exec(await text(page, "#facts"))?.[1]?.replace(",", "") ?? 0);

/** Waits until an element shows what is wanted: what a page hears of a run, and what it asks for, come one after the other. */
async function shows(page: Page, selector: string, wanted: RegExp): Promise<void> {
  let shown = await text(page, selector);
  for (let waited = 0; waited < PATIENCE && !wanted.test(shown); waited += 100) {
    await page.waitForTimeout(100);
    shown = await text(page, selector);
  }
  match(shown, wanted);
}

/** Waits until the page shows a later step than `step`. */
async function laterThan(page: Page, step: number): Promise<number> {
  for (let waited = 0; waited < PATIENCE; waited += 100) {
    const now = await stepOf(page);
    if (now > step) return now;
    await page.waitForTimeout(100);
  }
  throw new Error(`No step after ${step} came within ${PATIENCE} ms`);
}

const journeys: Record<string, () => Promise<void>> = {
  /** A run that is at work is seen to go on, survives a reload and a lost connection, and is there when it has ended. */
  async watch() {
    const page = await newPage();
    await page.goto(url);
    await page.getByRole("link", { name: "live" }).click();
    await page.locator("h1", { hasText: "live" }).waitFor();
    const first = await laterThan(page, 0);
    const second = await laterThan(page, first);
    await shows(page, "#phase", /^training$/);
    await picture(page, "run-training-wide-light");
    await page.reload();
    ok(await laterThan(page, second - 1) >= second, "after a reload it is where it was");
    await page.context().setOffline(true);
    await page.waitForTimeout(300);
    await page.context().setOffline(false);
    const third = await laterThan(page, second);
    ok(third > second);
    await shows(page, "#log", /Now training/);
    await page.context().close();
  },

  /** The same run, after it was stopped. */
  async ended() {
    const page = await newPage();
    await page.goto(`${url}/runs/live`);
    await page.locator("#phase", { hasText: "stopped" }).waitFor();
    await shows(page, "#commands", /deno task run_bone --resume /);
    await shows(page, "#commands", /deno task merge_bone .*adapter\.pth/);
    await page.goto(`${url}/runs/done`);
    await page.locator("#samples .passage").nth(1).waitFor();
    await shows(page, "#best", /best \d\.\d+ at step \d+/);
    await page.getByRole("link", { name: "Talk to it" }).click();
    await page.locator("#commands .command").first().waitFor();
    strictEqual(await page.locator("#right").inputValue(), "done");
    strictEqual(await page.locator("#problem:visible").count(), 0);
    await page.goto(`${url}/playground?model=elsewhere`);
    await page.getByText("“elsewhere” is not among these models").waitFor();
    await page.context().close();
  },

  /** Every page in every window and scheme. */
  async look() {
    const pages: [string, string, string][] = [
      ["runs", "/", "#rows tr"],
      ["run", "/runs/done", "#samples .passage"],
      ["silent", "/runs/silent", "#notice"],
      ["missing", "/runs/nothing", "#notice"],
      ["compare", "/compare?run=done&run=live", "#rows tr"],
      ["playground", "/playground", "#commands .command"],
    ];
    for (const window of ["wide", "narrow"] as const) {
      for (const scheme of SCHEMES) {
        // Each of the four looks the same to a program in two; a person wants to see them all.
        if (!pictures && (window === "wide") !== (scheme === "light")) continue;
        const page = await newPage(window, scheme);
        for (const [name, path, sign] of pages) {
          await page.goto(url + path);
          await page.locator(sign).first().waitFor();
          await readable(page, `${name}, ${window}, ${scheme}`);
          await picture(page, `${name}-${window}-${scheme}`);
        }
        await page.context().close();
      }
    }
    const page = await newPage();
    await page.goto(`${url}/runs/silent`);
    await page.locator("#notice:not([hidden])").waitFor();
    await shows(page, "#notice", /No heartbeat for \d+ (s|min|h)/);
    await page.goto(`${url}/runs/nothing`);
    await page.locator("#notice:not([hidden])").waitFor();
    await shows(page, "#notice", /There is no run of this name/);
    await page.goto(`${url}/runs/hostile`);
    await page.locator("#samples .passage").first().waitFor();
    await shows(page, "#samples", /<script>alert\(1\)<\/script>/);
    strictEqual(await page.evaluate("window.hurt"), undefined);
    await page.context().close();
  },

  /** Two runs on one chart, by step and by time. */
  async compare() {
    const page = await newPage();
    await page.goto(url);
    for (const name of ["done", "live"]) await page.getByLabel(`Compare ${name}`).check();
    await page.getByRole("button", { name: "Compare" }).click();
    await page.locator("#rows tr").nth(1).waitFor();
    match(page.url(), /\/compare\?run=done&run=live|\/compare\?run=live&run=done/);
    await page.locator("canvas").waitFor();
    await page.getByLabel("Time since the first step").check();
    await page.getByRole("group", { name: "Loss of several runs" }).focus();
    // A chart that is drawn anew, as for the other scale, begins without a cursor.
    for (let tries = 0; tries < 50; tries++) {
      await page.keyboard.press("End");
      if (/^time/.test(await text(page, ".reading"))) break;
      await page.waitForTimeout(100);
    }
    await shows(page, ".reading", /^time \d+:\d\d/);
    await page.getByLabel("live").uncheck();
    await page.locator("#rows tr").nth(1).waitFor({ state: "detached" });
    match(page.url(), /\?run=done$/);
    await page.reload();
    await page.locator("#rows tr").first().waitFor();
    strictEqual(await page.locator("#rows tr").count(), 1, "an address holds what was chosen");
    await page.context().close();
  },

  /** Base and adapter side by side; a conversation; stopping; what is wrong is said. */
  async talk() {
    const page = await newPage();
    await page.goto(`${url}/playground`);
    await page.locator("#commands .command").first().waitFor();
    await page.locator("#right").selectOption("done");
    await page.locator("#prompt").fill("The American people ");
    await page.locator("#tokens").fill("40");
    await page.getByRole("button", { name: "Write" }).click();
    const done = () => page.locator("#go:enabled").waitFor();
    await page.locator("#left-answer .text", { hasText: /[^]{30}/ }).waitFor();
    await done();
    const [left, right] = [await text(page, "#left-answer"), await text(page, "#right-answer")];
    match(left, /The American people [^]{20,}40 tokens in/);
    match(right, /The American people [^]{20,}40 tokens in/);
    const commands = await text(page, "#commands");
    match(
      commands,
      /deno task generate --prompt 'The American people ' --temperature 0.8 --top_p 0.9 --tokens 40 --seed 42/,
    );
    match(commands, /--adapter .*done\/adapter\.pth/);
    await page.getByRole("button", { name: "Write" }).click();
    await page.waitForTimeout(50);
    await done();
    const written = (text: string) => text.replace(/\d+ tokens in.*/, "");
    strictEqual(written(await text(page, "#left-answer")), written(left), "the same seed, the same text");
    await page.locator("#tokens").fill("512");
    await page.getByRole("button", { name: "Write" }).click();
    await page.locator("#left-answer .text", { hasText: /[^]{30}/ }).waitFor();
    await page.getByRole("button", { name: "Stop" }).click();
    await done();
    await shows(page, "#left-answer", /stopped/);
    await page.getByLabel("Chat").check();
    await page.locator("#tokens").fill("30");
    await page.getByLabel("Your message").fill("Who art thou?");
    await page.keyboard.press("Control+Enter");
    await done();
    await page.getByLabel("Your message").fill("And who am I?");
    await page.getByRole("button", { name: "Send" }).click();
    await done();
    strictEqual(await page.locator("#left-answer .turn").count(), 4);
    await shows(page, "#left-answer", /Who art thou\?[^]*And who am I\?/);
    await shows(page, "#commands", /User: Who art thou\?/);
    await picture(page, "chat-wide-light");
    await readable(page, "a conversation");
    await page.getByRole("button", { name: "New conversation" }).click();
    strictEqual(await page.locator("#left-answer .turn").count(), 0);
    await page.locator("#temperature").fill("7");
    await page.getByLabel("Your message").fill("Hello");
    await page.getByRole("button", { name: "Send" }).click();
    strictEqual(
      await page.locator("#left-answer .turn").count(),
      0,
      "a temperature out of range is not sent",
    );
    await page.context().close();
  },

  /** No pointer at all. */
  async keys() {
    const page = await newPage();
    await page.goto(url);
    await page.locator("#rows tr").first().waitFor();
    const focused = () =>
      page.evaluate("document.activeElement.getAttribute('aria-label') ?? document.activeElement.innerText");
    await page.keyboard.press("Tab");
    strictEqual(await focused(), "To the content");
    await page.keyboard.press("Enter");
    const until = async (name: RegExp) => {
      for (let i = 0; i < 60; i++) {
        await page.keyboard.press("Tab");
        if (name.test(await focused())) return;
      }
      throw new Error(`Tab does not lead to ${name}`);
    };
    await until(/^done$/);
    const outline = await page.evaluate("getComputedStyle(document.activeElement).outlineStyle");
    strictEqual(outline, "solid", "where the focus is can be seen");
    await page.keyboard.press("Enter");
    await page.waitForURL(/\/runs\/done$/);
    await page.locator("#samples .passage").first().waitFor();
    await until(/^Loss by step/);
    // A chart that is drawn anew just then does not hear the key.
    for (let tries = 0; tries < 10 && !await text(page, "#loss .reading"); tries++) {
      if (!/^Loss by step/.test(await focused())) await until(/^Loss by step/);
      await page.keyboard.press("Home");
      await page.waitForTimeout(100);
    }
    await shows(page, "#loss .reading", /^step 0 · .*held-out text \d/);
    await page.keyboard.press("ArrowRight");
    await shows(page, "#loss .reading", /^step 1 · each step \d/);
    await until(/^Copy: deno task run_bone --resume/);
    await page.keyboard.press("Enter");
    await until(/^Settings$/);
    await page.keyboard.press("Enter");
    await page.getByText("lrInit").waitFor();
    await readable(page, "the settings");
    await page.goto(`${url}/playground`);
    await page.locator("#commands .command").first().waitFor();
    await page.locator("#tokens").fill("500");
    await page.locator("#prompt").focus();
    await page.keyboard.press("Control+Enter");
    await page.locator("#left-answer .text", { hasText: /[^]{30}/ }).waitFor();
    await page.keyboard.press("Escape");
    await page.locator("#go:enabled").waitFor();
    await page.context().close();
  },

  /** A server without runs, which asks for a key. */
  async empty() {
    for (const [window, scheme] of [["wide", "light"], ["narrow", "dark"]] as const) {
      const page = await newPage(window, scheme);
      await page.goto(url);
      await page.getByText("This server asks for a key").waitFor();
      await readable(page, "the question for a key");
      await picture(page, `key-${window}-${scheme}`);
      await page.getByLabel("API key").fill("wrong");
      await page.keyboard.press("Enter");
      await page.getByText("That key was not the right one").waitFor();
      await page.getByLabel("API key").fill("test-key");
      await page.keyboard.press("Enter");
      await page.getByText("No runs yet").waitFor();
      await readable(page, "no runs");
      await picture(page, `empty-${window}-${scheme}`);
      await page.goto(`${url}/compare`);
      await page.getByText("Nothing to compare yet").waitFor();
      await readable(page, "nothing to compare");
      await page.context().close();
    }
  },
};

try {
  await journeys[journey]!();
  deepStrictEqual(problems, []);
} finally {
  await browser.close();
}
