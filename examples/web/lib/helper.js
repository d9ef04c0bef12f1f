// The Worker of a helper: it takes part in the jobs of threads.js until it is terminated.
// @ts-check
import { CLOSED, isNode, LOOKS, W } from "./threads.js";

/** @type {any} */
const parent = isNode()
  ? (await import(/* webpackIgnore: true */ /* @vite-ignore */ "node:worker_threads")).parentPort
  : globalThis;

parent.onmessage = (/** @type {MessageEvent} */ { data: { module, memory, control, stack } }) => {
  const instance = new WebAssembly.Instance(module, { env: { memory } });
  const exports = /** @type {any} */ (instance.exports);
  exports.__stack_pointer.value = stack;
  const words = new Int32Array(memory.buffer, control, W.COUNT);
  parent.postMessage("ready");
  // The message leaves before this thread sleeps.
  setTimeout(() => help(words, exports.__indirect_function_table));
};

/**
 * @param {Int32Array} words
 * @param {WebAssembly.Table} table
 */
function help(words, table) {
  for (let last = 0; ; ) {
    last = newJob(words, last);
    if (!join(words)) continue;
    table.get(words[W.JOB])(words[W.ARGUMENT]);
    if (Atomics.sub(words, W.GATE, 1) === 1) Atomics.notify(words, W.GATE);
  }
}

/**
 * Waits for a job that is not `last`, and returns its number.
 * @param {Int32Array} words
 * @param {number} last
 */
function newJob(words, last) {
  for (let looks = 0; looks < LOOKS; looks += 1) {
    const found = Atomics.load(words, W.NUMBER);
    if (found !== last) return found;
  }
  Atomics.add(words, W.ASLEEP, 1);
  Atomics.wait(words, W.NUMBER, last);
  Atomics.sub(words, W.ASLEEP, 1);
  return Atomics.load(words, W.NUMBER);
}

/**
 * Whether this helper has joined the job, which stays until it leaves.
 * @param {Int32Array} words
 */
function join(words) {
  let helping = Atomics.load(words, W.GATE);
  while (helping !== CLOSED) {
    const found = Atomics.compareExchange(words, W.GATE, helping, helping + 1);
    if (found === helping) return true;
    helping = found;
  }
  return false;
}
