// Tokens per second, in turns: this package with SIMD, with two threads, and without SIMD, and the
// command line on one thread with its portable kernels and those of AVX2 (`cargo build --release
// --features cli` in the root).
//
//   node tests/bench.mjs [IMAGE] [ROUNDS]
import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { load } from "../lib/index.js";

const path = (relative) => fileURLToPath(new URL(relative, import.meta.url));
const [image = path("../story.plm"), rounds = 5] = process.argv.slice(2);
const PROMPT_TOKENS = 128;
const TOKENS = 48;

/** A program that measures itself, here. */
async function inNode(simd, threads = 1) {
  const model = await load(image, { simd, threads, context: 256, batch: 128 });
  const words = await model.tokenize(" the".repeat(PROMPT_TOKENS));
  const prompt = await model.decode(words.slice(1, PROMPT_TOKENS));
  return async () => {
    const begun = performance.now();
    await model.feed(prompt);
    const fed = performance.now();
    // The first token of the text feeds " on" and is sampled; each of the others is fed.
    const text = model.generate(" on", { append: true, maxTokens: TOKENS });
    for await (const _ of text);
    return {
      prefill: (1000 * PROMPT_TOKENS) / (fed - begun),
      decode: (1000 * text.tokens) / (performance.now() - fed),
    };
  };
}

function native(isa) {
  const program = path("../../../target/release/pocketlm");
  const parameters = [
    "bench", image, "-t", "1", "-p", PROMPT_TOKENS, "-n", TOKENS, "-r", "1", "--batch", "128",
    "--isa", isa, "--json",
  ];
  return () => {
    const printed = execFileSync(program, parameters);
    const found = JSON.parse(printed);
    return { prefill: found.prefill_tokens_per_s, decode: found.decode_tokens_per_s };
  };
}

const runs = {
  "node, SIMD": await inNode(true),
  "node, 2 threads": await inNode(true, 2),
  "node, plain": await inNode(false),
  "native, scalar": native("scalar"),
  "native, avx2": native("avx2"),
};
const median = (numbers) => numbers.sort((a, b) => a - b)[Math.floor(numbers.length / 2)];
const found = Object.fromEntries(Object.keys(runs).map((name) => [name, []]));
for (let round = 0; round <= rounds; round += 1) {
  for (const [name, run] of Object.entries(runs)) {
    const speeds = await run();
    // The first round compiles.
    if (round > 0) found[name].push(speeds);
  }
}
for (const [name, speeds] of Object.entries(found)) {
  const ratio = (what) =>
    median(speeds.map((speed, round) => speed[what] / found["node, SIMD"][round][what]));
  const column = (what) =>
    `${median(speeds.map((speed) => speed[what])).toFixed(1)} (${ratio(what).toFixed(2)})`;
  const prefill = column("prefill").padEnd(16);
  console.log(`${name.padEnd(16)} prefill ${prefill} decode ${column("decode")}`);
}
