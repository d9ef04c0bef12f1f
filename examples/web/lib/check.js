// What the settings of a program must be. They are looked at before anything is changed.
// @ts-check
import { C } from "./library.js";

/** @import { GenerateOptions, LoadOptions } from "./types.d.ts" */

const WORD = 2 ** 32 - 1;
const MOST_THREADS = 64;

/**
 * @param {string} name
 * @param {unknown} value
 * @param {number} least
 * @param {number} most
 */
function checkInteger(name, value, least, most = WORD) {
  if (value === undefined) return;
  if (Number.isSafeInteger(value) && Number(value) >= least && Number(value) <= most) return;
  throw new RangeError(`${name} is ${String(value)}; it must be an integer, ${least} to ${most}`);
}

/** @param {LoadOptions} options */
export function checkLoad({ context, batch, threads }) {
  checkInteger("context", context, 1);
  checkInteger("batch", batch, 1);
  checkInteger("threads", threads, 1, MOST_THREADS);
}

/**
 * What a grammar must not be: a schema or a grammar's text.
 * @param {unknown} grammar
 */
function checkGrammar(grammar) {
  const isText = typeof grammar === "string" && /^\s*[[{]|\n|::=/.test(grammar);
  const isSource =
    typeof grammar === "string" || grammar instanceof URL || grammar instanceof Blob ||
    grammar instanceof ArrayBuffer || ArrayBuffer.isView(grammar);
  if (grammar === undefined || (isSource && !isText)) return;
  throw new TypeError(
    "grammar is not compiled; `pocketlm grammar` makes a file of a JSON Schema, a GBNF file or a " +
      "regular expression, whose address or bytes are the grammar here",
  );
}

/** @param {GenerateOptions} options */
export function checkGenerate({ maxTokens, stop = [], sampling = {}, grammar }) {
  checkGrammar(grammar);
  checkInteger("maxTokens", maxTokens, 1);
  checkInteger("topK", sampling.topK, 0);
  checkInteger("window", sampling.window, 0);
  const { seed } = sampling;
  if (typeof seed !== "bigint") checkInteger("seed", seed, 0, Number.MAX_SAFE_INTEGER);
  else if (seed !== BigInt.asUintN(64, seed)) {
    throw new RangeError(`seed is ${seed}; it must be 0 to ${2n ** 64n - 1n}`);
  }
  if (stop.length > C.PLM_STOP_STRINGS) {
    throw new RangeError(`stop has ${stop.length} strings; at most ${C.PLM_STOP_STRINGS} are read`);
  }
}
