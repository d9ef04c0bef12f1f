// What a program notices, in Node. The text and the digest are those of the host and the boards.
import assert from "node:assert/strict";
import { createServer } from "node:http";
import { test } from "node:test";
import { load } from "../lib/index.js";
import { flipped, PROMPT, read, SAMPLING, STORY, TEXT, textOf, withTemplate } from "./images.mjs";

const BOARDS = read("examples/firmware/README.md").toString();
const story = (model, options) => model.generate(PROMPT, { sampling: SAMPLING, ...options });

for (const simd of [true, false]) {
  const kind = simd ? "with SIMD" : "without SIMD";

  test(`the story is the host's, ${kind}`, async () => {
    const model = await load(STORY, { simd });
    assert.equal(model.info.simd, simd);
    const generation = story(model);
    assert.equal(PROMPT + (await textOf(generation)), TEXT);
    assert.equal(generation.end, "token");
    assert.equal(generation.tokens, 152);
  });

  test(`the digest is that of every board, ${kind}`, async () => {
    const model = await load(STORY, { simd });
    const rows = [...BOARDS.matchAll(/^\| `([\w-]+)` \| `([0-9a-f]{16})` \|/gm)];
    assert.equal(rows.length, 15);
    const digest = await model.digest();
    for (const [, board, expected] of rows) assert.equal(digest, expected, board);
  });
}

test("a digest in the middle of a text changes nothing", async () => {
  const model = await load(STORY);
  let text = PROMPT;
  for await (const piece of story(model)) {
    if (text === PROMPT) await Promise.all([model.digest(), model.tokenize(text)]);
    text += piece;
  }
  assert.equal(text, TEXT);
});

test("keys and values of 8 bits take less memory", async () => {
  const bytes = async (kv) => (await load(STORY, { kv })).info.arenaBytes;
  assert.ok((await bytes("q8")) < (await bytes("f32")) / 2);
});

test("a text ends where it should", async () => {
  const model = await load(STORY, { context: 40 });
  const limited = story(model, { maxTokens: 5 });
  assert.equal(await textOf(limited), ", there was a little");
  assert.deepEqual([limited.tokens, limited.end], [5, "limit"]);
  const stopped = story(model, { stop: ["xyz", " boy"] });
  assert.equal(await textOf(stopped), ", there was a little");
  assert.equal(stopped.end, "stop");
  const full = story(model);
  assert.ok(TEXT.startsWith(PROMPT + (await textOf(full))));
  assert.equal(full.end, "context");
});

test("penalties change the text", async () => {
  const model = await load(STORY);
  const sampling = { ...SAMPLING, repeat: 1.3 };
  const text = await textOf(story(model, { sampling, maxTokens: 60 }));
  assert.ok(!TEXT.startsWith(PROMPT + text));
});

test("an abort throws its reason, and the model goes on", async () => {
  const model = await load(STORY);
  const controller = new AbortController();
  setTimeout(() => controller.abort(), 5);
  const generation = model.generate(PROMPT, { signal: controller.signal });
  await assert.rejects(textOf(generation), { name: "AbortError" });
  assert.equal(generation.end, "abort");
  await assert.rejects(textOf(story(model, { signal: controller.signal })), { name: "AbortError" });
  assert.equal(PROMPT + (await textOf(story(model))), TEXT);
});

test("a long prompt is aborted before its first token", async () => {
  const model = await load(STORY, { context: 4096, simd: false });
  const controller = new AbortController();
  setTimeout(() => controller.abort(), 20);
  const prompt = "The cat sat. ".repeat(700);
  const generation = model.generate(prompt, { signal: controller.signal });
  const begun = performance.now();
  await assert.rejects(textOf(generation), { name: "AbortError" });
  assert.equal(generation.tokens, 0);
  assert.ok(performance.now() - begun < 1000);
  assert.equal(PROMPT + (await textOf(story(model))), TEXT);
});

test("a loop that is left ends its text", async () => {
  const model = await load(STORY);
  const left = story(model);
  for await (const _ of left) break;
  assert.equal(PROMPT + (await textOf(story(model))), TEXT);
  await assert.rejects(textOf(left), /read once/);
});

test("a new text ends the one before", async () => {
  const model = await load(STORY);
  const pieces = story(model)[Symbol.asyncIterator]();
  await pieces.next();
  assert.equal(PROMPT + (await textOf(story(model))), TEXT);
  await assert.rejects(pieces.next(), /another call has ended this text/);
});

test("what is no image is refused at once", async () => {
  const refused = (bytes, message) =>
    assert.rejects(load(bytes), { name: "PocketlmError", message });
  await refused(new TextEncoder().encode("<!doctype html>".repeat(99)), /not a pocketlm image/);
  await refused(new TextEncoder().encode("GGUF".repeat(99)), /pocketlm pack/);
  await refused(new ArrayBuffer(0), /not a pocketlm image/);
  await refused(STORY.subarray(0, 100), /cut short/);
  await refused(STORY.subarray(0, STORY.length - 64), /cut short/);
  await refused(Buffer.concat([STORY, Buffer.alloc(64)]), /too long/);
  await assert.rejects(load("no-such-file.plm"), { code: "ENOENT" });
});

test("an image with one wrong bit is refused", async () => {
  const offsets = [0, 9, 13, 17, 22, 33, 57, 177, 185, 250, 256, 500, 1400, STORY.length - 1];
  for (let part = 1; part < 8; part += 1) offsets.push(Math.floor((STORY.length * part) / 8));
  for (const offset of offsets) {
    await assert.rejects(load(flipped(offset)), { name: "PocketlmError" }, `byte ${offset}`);
  }
});

test("memory that is not allowed is not taken", async () => {
  const message = /not enough memory: .* MB are needed/;
  await assert.rejects(load(STORY, { memory: 2 ** 21 }), { message });
  await assert.rejects(load(STORY, { context: 4_000_000 }), { message });
  await load(STORY, { memory: 2 ** 22 });
});

test("settings that mean nothing are refused", async () => {
  await assert.rejects(load(STORY, { kv: "q3" }), /must be f32, f16, bf16 or q8/);
  await assert.rejects(load(STORY, { context: 0 }), { code: 200 });
  const model = await load(STORY);
  await assert.rejects(textOf(story(model, { maxTokens: 0 })), /1 or more/);
  await assert.rejects(textOf(story(model, { stop: ["a", "b", "c", "d", "e"] })), { code: 502 });
  await assert.rejects(textOf(model.generate("word ".repeat(300))), { code: 206 });
  assert.equal(PROMPT + (await textOf(story(model))), TEXT);
});

test("text becomes token ids, and they become text", async () => {
  const model = await load(STORY);
  const text = "A naïve café 🙂 in Zürich.";
  const ids = await model.tokenize(text, { addSpecial: false });
  assert.equal(await model.decode(ids), text);
  assert.equal((await model.tokenize(PROMPT))[0], 2);
  await assert.rejects(model.decode([1024]), { code: 407 });
});

test("a text that is appended to a snapshot is the one without it", async () => {
  const [first, second] = ["Once upon a time, there was", " a dog"];
  const model = await load(STORY);
  await model.feed(first);
  const expected = await textOf(model.generate(second, { append: true, sampling: SAMPLING }));
  await model.feed(first);
  const snapshot = await model.snapshot();

  const other = await load(STORY, { simd: false });
  await other.restore(snapshot);
  assert.equal(
    await textOf(other.generate(second, { append: true, sampling: SAMPLING })),
    expected,
  );
  await assert.rejects(other.restore(snapshot.subarray(0, 999)), { code: 306 });
  await assert.rejects(other.restore(STORY), { code: 302 });
});

test("an appended prompt follows the whole text before", async () => {
  const model = await load(STORY);
  const sampling = SAMPLING;
  const begun = await textOf(story(model, { maxTokens: 20 }));
  const parts = await textOf(model.generate(" Then", { append: true, sampling, maxTokens: 20 }));
  const ids = [
    ...(await model.tokenize(PROMPT + begun)),
    ...(await model.tokenize(" Then", { addSpecial: false })),
  ];
  assert.equal(await model.decode(ids), `<bos>${PROMPT}${begun} Then`);
  assert.ok(parts.length > 0);
});

test("an image is streamed from a server, with progress", async (context) => {
  const server = createServer((request, response) => {
    if (request.url !== "/story.plm") return response.writeHead(404).end();
    // Pieces of odd lengths, the header in several of them.
    for (let at = 0; at < STORY.length; at += at < 1000 ? 77 : 100_003) {
      response.write(STORY.subarray(at, at + (at < 1000 ? 77 : 100_003)));
    }
    response.end();
  });
  await new Promise((done) => server.listen(0, "127.0.0.1", done));
  context.after(() => server.close());
  const address = `http://127.0.0.1:${server.address().port}`;
  const seen = [];
  const model = await load(`${address}/story.plm`, { progress: (at) => seen.push(at) });
  assert.ok(seen.length > 3);
  assert.deepEqual(seen.at(-1), { loaded: STORY.length, total: STORY.length });
  assert.equal(model.info.imageBytes, STORY.length);
  await assert.rejects(load(`${address}/other.plm`), /HTTP 404/);
});

test("files and blobs are images, too", async () => {
  const path = new URL("../story.plm", import.meta.url);
  for (const source of [path, path.pathname, new Blob([STORY]), STORY.buffer]) {
    assert.equal((await load(source)).info.checksum, "67849400");
  }
});

test("a chat is what its template makes of the messages", async () => {
  const template = "{{ bos }}{% for m in messages %}{{ m.content }}{% endfor %}";
  const model = await load(withTemplate(template));
  const messages = [{ role: "user", content: "Once upon" }, { role: "user", content: " a time" }];
  const text = await textOf(model.chat(messages, { sampling: SAMPLING }));
  assert.equal(PROMPT + text, TEXT);
  const plain = await load(STORY);
  await assert.rejects(textOf(plain.chat(messages)), /no chat template/);
});

test("a closed model says so", async () => {
  const model = await load(STORY);
  model.close();
  await assert.rejects(model.digest(), /closed/);
});
