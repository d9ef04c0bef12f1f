// Tokens per second beside wllama (llama.cpp in WebAssembly), one thread each, in turns in one
// Chromium. The image holds the weights of the GGUF file: `pocketlm pack FILE.gguf -o FILE.plm`.
//
//   npm install --no-save @wllama/wllama
//   node tests/browser/wllama.mjs FILE.plm FILE.gguf [ROUNDS]
import { chromium } from "playwright-core";
import { serve } from "../../serve.mjs";

const [image, gguf, rounds = 3] = process.argv.slice(2);
const { server, address } = await serve(0, { "/model.plm": image, "/model.gguf": gguf });
const browser = await chromium.launch({
  executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
  args: ["--no-sandbox"],
});
const page = await browser.newPage({ bypassCSP: true });
page.on("pageerror", (error) => console.error(error));
// Any page of this origin.
await page.goto(`${address}page.css`);

const found = await page.evaluate(async (rounds) => {
  const { load } = await import("/lib/index.js");
  const { Wllama } = await import("/node_modules/@wllama/wllama/esm/index.js");
  const PROMPT = "The quick brown fox jumps over the lazy dog. ".repeat(12);
  const TOKENS = 32;

  const model = await load("/model.plm", { context: 512, batch: 128, cache: false });
  const ours = async () => {
    const length = (await model.tokenize(PROMPT)).length;
    const begun = performance.now();
    await model.feed(PROMPT);
    const fed = performance.now();
    const text = model.generate("Once", { append: true, maxTokens: TOKENS });
    for await (const _ of text);
    return {
      prefill: (1000 * length) / (fed - begun),
      decode: (1000 * text.tokens) / (performance.now() - fed),
    };
  };

  const wllama = new Wllama({ default: "/node_modules/@wllama/wllama/esm/wasm/wllama.wasm" });
  await wllama.loadModelFromUrl(`${location.origin}/model.gguf`, {
    n_threads: 1, n_ctx: 512, n_batch: 128, n_gpu_layers: 0, useCache: false,
  });
  const theirs = async (round) => {
    // Another beginning each time, or it would use what it has of the prompt before.
    const { timings } = await wllama.createCompletion({
      prompt: `${round} ${PROMPT}`, max_tokens: TOKENS, temperature: 0, cache_prompt: false,
    });
    return { prefill: timings.prompt_per_second, decode: timings.predicted_per_second };
  };

  const found = [];
  for (let round = 0; round <= rounds; round += 1) {
    found.push({ ours: await ours(), theirs: await theirs(round) });
  }
  return found.slice(1);
}, Number(rounds));

const median = (numbers) => numbers.sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
for (const what of ["prefill", "decode"]) {
  const ours = median(found.map((round) => round.ours[what]));
  const theirs = median(found.map((round) => round.theirs[what]));
  const ratio = median(found.map((round) => round.ours[what] / round.theirs[what]));
  console.log(`${what}: ${ours.toFixed(1)} / ${theirs.toFixed(1)}, ratio ${ratio.toFixed(2)}`);
}
await browser.close();
server.close();
