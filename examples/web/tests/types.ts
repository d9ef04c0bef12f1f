// What a program in TypeScript may write. `tsc` checks it; it never runs.
import * as implementation from "../lib/index.js";
import { load, PocketlmError, type End, type Info, type Plan, type Sampling } from "pocketlm";

export async function program(file: File): Promise<string> {
  const sampling: Sampling = { seed: 33n, temperature: 0.5, topP: 0.9 };
  const model = await load(file, { context: 256, kv: "q8", threads: 2, progress: ({ loaded }) => loaded });
  const info: Info = model.info;
  const story = model.generate("Once", { sampling, signal: AbortSignal.timeout(info.context) });
  let text = "";
  for await (const piece of story) text += piece;
  const end: End | undefined = story.end;
  const { arenaBytes, parts }: Plan = await model.plan({ context: 64, kv: "q8" });
  text += arenaBytes - parts.cache;
  const grammar = new Uint8Array(await file.arrayBuffer());
  for await (const piece of model.chat([], { grammar, keepSpecial: true })) text += piece;
  const ids: number[] = await model.tokenize(text);
  const snapshot: Uint8Array = await model.snapshot();
  await model.restore(snapshot);
  return `${end} ${ids.length} ${await model.digest()}`;
}

export async function mistakes() {
  // @ts-expect-error: there is no such type of keys and values
  await load("story.plm", { kv: "q3" });
  // @ts-expect-error: a source is needed
  await load();
  return new PocketlmError("").code?.toFixed();
}

// The implementation is what its types say.
export const same: typeof load = implementation.load;
