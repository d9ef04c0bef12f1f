// The page in Chromium, or with BROWSER=firefox in Firefox: `apt-get install chromium firefox-esr`,
// or CHROMIUM=/path/to/it, FIREFOX=/path/to/it. SCREENSHOTS=FOLDER keeps pictures of the page.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { chromium, firefox } from "playwright-core";
import { BOARDS, DIGEST, STORY as ADDRESS } from "../../boards.js";
import { serve } from "../../serve.mjs";
import { gguf } from "../gguf.mjs";
import { cutting, flipped, PERSON, PROMPT, STORY, TEXT } from "../images.mjs";

const isFirefox = process.env.BROWSER === "firefox";
let browser, context, page, server, address;
const requests = [];

/** What was asked for of an image whose connections are cut. */
const asked = [];
const cut = cutting({ cuts: [300_000, 200_000, 0], asked });

before(async () => {
  ({ server, address } = await serve(0, { "/cut.plm": cut }));
  browser = isFirefox
    ? await firefox.launch({
        executablePath: process.env.FIREFOX ?? "/usr/bin/firefox-esr",
        // Not Playwright's own build: it is driven by WebDriver BiDi.
        channel: "moz-firefox",
      })
    : await chromium.launch({
        executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
        args: ["--no-sandbox"],
      });
  context = await browser.newContext({ viewport: { width: 1280, height: 900 } });
  context.on("request", (request) => requests.push(request.url()));
  page = await context.newPage();
  page.on("pageerror", (error) => assert.fail(error));
});

after(async () => {
  await browser.close();
  server.close();
});

/** Opens the page and waits for the end of the story. */
async function open() {
  await page.goto(address);
  await told();
}

async function told() {
  await page.locator("#output[aria-busy=false]").waitFor({ timeout: 20_000 });
}

const text = (id) => page.locator(`#${id}`).textContent();

/** Takes a picture, if somebody wants to see it. */
async function picture(name) {
  const folder = process.env.SCREENSHOTS;
  if (folder) await page.screenshot({ path: `${folder}/${name}.png`, fullPage: true });
}

/** A file that the reader of the page chooses. */
async function choose(name, bytes) {
  await page.locator("#file").setInputFiles({
    name,
    mimeType: "application/octet-stream",
    buffer: Buffer.from(bytes),
  });
}

test("the story is told when the page opens", async () => {
  await open();
  assert.equal(await text("output"), TEXT);
  assert.equal(await text("tokens"), "152");
  assert.equal(await text("kernels"), "SIMD, 1 thread");
  const first = await page.evaluate(() => document.getElementById("first").textContent);
  console.log(`first text ${first} after the prompt, ${await text("speed")} tokens/s`);
  await picture("desktop-light");
});

test("the first text comes within 3 seconds of opening the page", async () => {
  const fresh = await browser.newContext();
  const other = await fresh.newPage();
  const begun = performance.now();
  await other.goto(address, { waitUntil: "commit" });
  await other.waitForFunction(
    (length) => document.getElementById("output")?.textContent.length > length,
    PROMPT.length,
    { polling: 5 },
  );
  const elapsed = performance.now() - begun;
  console.log(`first text ${elapsed.toFixed(0)} ms after opening the page`);
  await fresh.close();
  assert.ok(elapsed < 3000, `${elapsed} ms`);
});

test("the picture of a board says what fits", async () => {
  const row = (name) => page.locator("#plan tr", { hasText: name }).locator("td").textContent();
  const verdict = (hasText) => page.locator("#plan-verdict", { hasText }).waitFor();
  await verdict("It fits.");
  assert.equal(await row("image"), STORY.length.toLocaleString("en"));
  assert.equal(await row("keys and values"), "87,040");
  await picture("desktop-plan");
  await page.locator("#chip").selectOption("stm32f411");
  await page.locator("#plan-kv").selectOption("f32");
  await verdict("It does not fit. Flash lacks 1,021,376 bytes. RAM lacks 213,120 bytes.");
  assert.equal(await page.locator("#plan tr", { hasText: "missing" }).count(), 2);
  await picture("desktop-plan-missing");
  await page.locator("#plan-context").fill("0");
  await page.locator("#plan-context").blur();
  await verdict("context is 0");
  assert.equal(await page.locator("#plan figure").count(), 0);
  await page.locator("#plan-context").fill("64");
  await page.locator("#plan-context").blur();
  await page.locator("#plan figure").first().waitFor();
});

test("the digest is that of the boards", async () => {
  await page.locator("#digest").click();
  await page.locator("#verdict", { hasText: "the bits of every board" }).waitFor();
  assert.ok((await text("verdict")).startsWith(DIGEST));
  assert.equal(await page.locator("#boards tr").count(), BOARDS.length + 1);
  await picture("desktop-digest");
});

test("without SIMD the bits are the same", async () => {
  const found = await page.evaluate(async () => {
    const { load } = await import("./lib/index.js");
    const model = await load("story.plm", { simd: false });
    const result = [model.info.simd, await model.digest()];
    model.close();
    return result;
  });
  assert.deepEqual(found, [false, DIGEST]);
});

test("with threads the bits are the same", async () => {
  const found = await page.evaluate(async () => {
    const { load } = await import("./lib/index.js");
    const found = [];
    for (const threads of [2, 3]) {
      const model = await load("story.plm", { threads });
      found.push(model.info.threads, await model.digest());
      model.close();
    }
    return found;
  });
  assert.deepEqual(found, [2, DIGEST, 3, DIGEST]);
});

test("a page that is not isolated has one thread", async () => {
  const fresh = await browser.newContext();
  const other = await fresh.newPage();
  await other.route(address, async (route) => {
    const response = await route.fetch();
    const headers = response.headers();
    delete headers["cross-origin-embedder-policy"];
    await route.fulfill({ response, headers });
  });
  await other.goto(address);
  const found = await other.evaluate(async () => {
    const { load } = await import("./lib/index.js");
    const model = await load("story.plm", { threads: 2 });
    return [crossOriginIsolated, model.info.threads, await model.digest()];
  });
  assert.deepEqual(found, [false, 1, DIGEST]);
  assert.equal(await other.locator("#threads").isDisabled(), true);
  await fresh.close();
});

test("a text obeys its grammar, which is fetched or given as bytes", async () => {
  const found = await page.evaluate(async (bytes) => {
    const { load } = await import("./lib/index.js");
    const model = await load("story.plm");
    const found = [];
    for (const grammar of ["tests/person.plg", Uint8Array.from(bytes)]) {
      const text = model.generate("My friend:", { grammar });
      let json = "";
      for await (const piece of text) json += piece;
      found.push([json, text.end]);
    }
    const wrong = model.generate("My friend:", { grammar: "story.plm" });
    const refusal = await wrong[Symbol.asyncIterator]().next().catch((error) => error.message);
    model.close();
    return [...found, refusal];
  }, [...PERSON]);
  assert.deepEqual(found[0], found[1]);
  assert.ok(JSON.parse(found[0][0]).age);
  assert.equal(found[0][1], "complete");
  assert.match(found[2], /not a compiled grammar/);
});

test("the page's thread does not wait, and an abort ends a text", async () => {
  const found = await page.evaluate(async () => {
    const { load } = await import("./lib/index.js");
    const model = await load("story.plm", { context: 4096, simd: false });
    const stop = new AbortController();
    let longest = 0;
    let last = performance.now();
    const watch = setInterval(() => {
      longest = Math.max(longest, performance.now() - last);
      last = performance.now();
    }, 1);
    const text = model.generate("The cat sat. ".repeat(700), { signal: stop.signal });
    setTimeout(() => stop.abort(), 300);
    let aborted = 0;
    stop.signal.addEventListener("abort", () => (aborted = performance.now()));
    let thrown;
    try {
      for await (const _ of text);
    } catch (error) {
      thrown = error.name;
    }
    clearInterval(watch);
    const waited = performance.now() - aborted;
    model.close();
    return { thrown, tokens: text.tokens, longest, waited };
  });
  console.log(found);
  assert.equal(found.thrown, "AbortError");
  assert.equal(found.tokens, 0);
  assert.ok(found.longest < 250 && found.waited < 250);
});

test("Stop ends the text on the page", async () => {
  await page.locator("#context").fill("4096");
  await page.locator("#context").blur();
  await page.locator("#arena", { hasText: "for 4096 tokens" }).waitFor();
  await page.locator("#generate[aria-disabled=false]").waitFor();
  // As soon as there is text.
  await page.evaluate((length) => {
    const [output, stop] = ["output", "stop"].map((id) => document.getElementById(id));
    const observer = new MutationObserver(() => {
      if (output.textContent.length <= length) return;
      observer.disconnect();
      stop.focus();
      stop.click();
    });
    observer.observe(output, { childList: true });
  }, PROMPT.length);
  await page.locator("#generate").click();
  await page.locator("#stop:focus").waitFor();
  await told();
  assert.equal(await page.locator("#stop").getAttribute("aria-disabled"), "true");
  await page.waitForTimeout(300);
  const begun = await text("output");
  assert.ok(PROMPT.length < begun.length && begun.length < TEXT.length, begun);
  assert.ok(TEXT.startsWith(begun), begun);
  assert.equal(await page.evaluate(() => document.activeElement.id), "stop");
  // And while the prompt is computed.
  const prompt = "The cat sat. ".repeat(700);
  await page.locator("#prompt").fill(prompt);
  await page.locator("#generate").click();
  await page.locator("#stop").click();
  await told();
  assert.equal(await text("output"), prompt);
});

test("a file that is no image is refused, and the model before stays", async () => {
  await open();
  for (const [name, bytes, message] of [
    ["notes.plm", Buffer.from("Dear diary, ".repeat(99)), /notes.plm: not a pocketlm image/],
    ["model.gguf", Buffer.from("GGUF".repeat(99)), /model.gguf: no image can be made of it/],
    ["flipped.plm", flipped(700_000), /flipped.plm: the image is damaged/],
    ["short.plm", STORY.subarray(0, 99_968), /short.plm: .*cut short/],
  ]) {
    await choose(name, bytes);
    await page.locator("#status.error", { hasText: name }).waitFor();
    assert.match(await text("status"), message);
  }
  await picture("desktop-error");
  await page.locator("#generate").click();
  await told();
  assert.equal(await text("output"), TEXT);
});

test("a file that is dropped takes the model's place", async () => {
  const transfer = await page.evaluateHandle(async () => {
    const bytes = await (await fetch("story.plm")).arrayBuffer();
    const transfer = new DataTransfer();
    transfer.items.add(new File([bytes], "mine.plm"));
    return transfer;
  });
  await page.dispatchEvent("#drop", "drop", { dataTransfer: transfer });
  await page.locator("#status", { hasText: "mine.plm is loaded" }).waitFor({ ignoreCase: true });
  const isTaken = await page.evaluate(() => {
    const dataTransfer = new DataTransfer();
    dataTransfer.setData("text/plain", "a text");
    const drop = new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true });
    return !document.getElementById("prompt").dispatchEvent(drop);
  });
  assert.equal(isTaken, false);
});

test("of a GGUF file an image is made", async () => {
  await choose("tiny.gguf", gguf());
  await page.locator("#status", { hasText: "Tiny.gguf is loaded: 1 layer, 259 tokens." }).waitFor();
});

test("the file that was chosen last is the model", async () => {
  // The first one is read no sooner than the second one.
  await page.evaluate(async (address) => {
    const bytes = await (await fetch(address)).arrayBuffer();
    const drop = (name, parts) => {
      const dataTransfer = new DataTransfer();
      dataTransfer.items.add(new File(parts, name));
      const event = new DragEvent("drop", { dataTransfer, bubbles: true, cancelable: true });
      document.dispatchEvent(event);
    };
    drop("first.plm", [bytes]);
    drop("wrong.plm", [bytes.slice(0, 10_000)]);
    drop("last.plm", [bytes]);
  }, ADDRESS);
  await page.locator("#status", { hasText: "Last.plm is loaded" }).waitFor();
  await page.waitForTimeout(300);
  assert.match(await text("status"), /^Last.plm is loaded/);
});

test("memory that cannot be had is named", async () => {
  await page.locator("#context").fill("4000000");
  await page.locator("#context").blur();
  await page.locator("#status.error", { hasText: "not enough memory" }).waitFor();
});

test("a kept image that is damaged is fetched again", async () => {
  const kept = () =>
    page.evaluate(async (url) => {
      const cache = await caches.open("pocketlm-images");
      return [...new Uint8Array(await (await cache.match(url)).arrayBuffer())];
    }, address + ADDRESS);
  await page.evaluate(async ([url, at]) => {
    const bytes = new Uint8Array(await (await fetch(url)).arrayBuffer());
    bytes[at] ^= 1;
    const cache = await caches.open("pocketlm-images");
    await cache.put(url, new Response(bytes));
  }, [address + ADDRESS, 700_000]);
  assert.ok(Buffer.from(await kept()).equals(flipped(700_000)));
  await open();
  assert.equal(await text("output"), TEXT);
  assert.equal(await text("cached"), "yes");
  assert.ok(Buffer.from(await kept()).equals(STORY));
});

test("a download that was cut goes on after the page was opened again", async () => {
  const open = () =>
    page.evaluate(async () => {
      const { load } = await import("./lib/index.js");
      const model = await load("cut.plm");
      const result = [model.info.cached, await model.digest()];
      model.close();
      return result;
    });
  await assert.rejects(open(), /connection was lost after 0\.5 MB/);
  await page.reload();
  await told();
  assert.deepEqual(await open(), [true, DIGEST]);
  assert.deepEqual(asked, [undefined, ...[3, 5, 5].map((at) => `bytes=${at}00000-`)]);
  assert.deepEqual(await open(), [true, DIGEST]);
  assert.equal(asked.length, 4);
});

test("nothing but the page's own files is asked for", () => {
  for (const url of requests) {
    assert.ok(url.startsWith(address) || url.startsWith("data:"), url);
  }
});

test("the image is fetched once, and the page opens without a network", async () => {
  const before = requests.length;
  await open();
  assert.ok(!requests.slice(before).some((url) => new URL(url).pathname.endsWith(".plm")));
  await page.evaluate(() => navigator.serviceWorker.ready);
  await context.setOffline(true);
  server.close();
  server.closeAllConnections();
  await open();
  assert.equal(await text("output"), TEXT);
  await page.locator("#digest").click();
  await page.locator("#verdict", { hasText: DIGEST }).waitFor();
  // So it does under other addresses, and without SIMD.
  await page.goto(`${address}index.html?from=home`);
  await told();
  assert.equal(await text("output"), TEXT);
  const simd = await page.evaluate(async (story) => {
    const { load } = await import("./lib/index.js");
    return (await load(story, { simd: false })).info.simd;
  }, ADDRESS);
  assert.equal(simd, false);
});

test("the page fits a phone, dark and light", async () => {
  for (const [width, colorScheme] of [[360, "dark"], [360, "light"], [1280, "dark"]]) {
    await page.setViewportSize({ width, height: 740 });
    await page.emulateMedia({ colorScheme });
    const wide = await page.evaluate(() => document.documentElement.scrollWidth);
    assert.ok(wide <= width, `${wide} of ${width} pixels`);
    await picture(`${width}-${colorScheme}`);
  }
});

test("keyboards and screen readers find everything", async () => {
  const source = readFileSync(new URL("../../node_modules/axe-core/axe.min.js", import.meta.url));
  for (const colorScheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme });
    await page.evaluate(source.toString());
    const { violations } = await page.evaluate(() => axe.run());
    assert.deepEqual(
      violations.map(({ id, nodes }) => [id, nodes.map(({ html }) => html)]),
      [],
    );
  }
  await page.locator("#prompt").focus();
  const visited = [];
  for (let step = 0; step < 18; step += 1) {
    visited.push(await page.evaluate(() => document.activeElement.id));
    await page.keyboard.press("Tab");
  }
  const fields = ["prompt", "temperature", "seed", "file", "kv", "chip"];
  for (const id of [...fields, "generate", "output", "digest"]) {
    assert.ok(visited.includes(id), `${id} in ${visited}`);
  }
});
