// Threads that share the work of a model. They have one memory, and an instance of the module each.
// @ts-check
import { hasSimd, Library } from "./library.js";

/** @import { LoadOptions } from "./types.d.ts" */

/** Bytes of a helper's stack. */
const STACK_BYTES = 128 * 2 ** 10;

/**
 * Words that the threads share. `NUMBER` is the job's, so a helper sees that there is a new one.
 * `GATE` is how many helpers are at the job, or `CLOSED`, and then none may join. `ASLEEP` is how
 * many are to be woken.
 */
export const W = { NUMBER: 0, GATE: 1, ASLEEP: 2, JOB: 3, ARGUMENT: 4, COUNT: 5 };
export const CLOSED = -1;
/** How often a thread looks before it sleeps. To wake one takes longer than most jobs. */
export const LOOKS = 20_000;

/**
 * A library, with helpers if they are asked for and can be had.
 * @param {LoadOptions} options
 * @returns {Promise<{library: Library, threads?: Threads}>}
 */
export async function loadLibrary({ threads = 1, simd, memory }) {
  if (threads > 1 && canShare() && (simd ?? hasSimd())) {
    try {
      const library = await Library.load({ simd, memory, shared: true });
      return { library, threads: await Threads.start(library, threads) };
    } catch {
      // The browser may refuse the memory, or the workers. One thread computes the same.
    }
  }
  return { library: await Library.load({ simd, memory }) };
}

/** Whether threads can share memory here. A page may if it is cross-origin isolated. */
function canShare() {
  return isNode() || ("Worker" in globalThis && globalThis.crossOriginIsolated);
}

/** Whether this is Node, with threads of its own kind. */
export function isNode() {
  return Boolean(globalThis.process?.versions?.node);
}

/** The helpers of a model, and jobs for them. The thread that has the model works too. */
export class Threads {
  #library;
  #words;
  #helpers;

  /**
   * Starts helpers. They are ready when this is done.
   * @param {Library} library
   * @param {number} count of all threads, this one too
   */
  static async start(library, count) {
    const control = library.allocate(4 * W.COUNT);
    const words = new Int32Array(library.memory.buffer, control, W.COUNT);
    words.fill(0);
    words[W.GATE] = CLOSED;
    const stacks = Array.from({ length: count - 1 }, () => library.allocate(STACK_BYTES));
    const starts = await Promise.allSettled(
      stacks.map((stack) => {
        const { module, memory } = library;
        return startHelper({ module, memory, control, stack: stack + STACK_BYTES });
      }),
    );
    const helpers = starts.flatMap((start) => (start.status === "fulfilled" ? start.value : []));
    const threads = new Threads(library, words, helpers);
    if (helpers.length < stacks.length) {
      threads.close();
      throw new Error("a helper did not start");
    }
    return threads;
  }

  /**
   * @param {Library} library
   * @param {Int32Array} words
   * @param {{terminate: () => unknown}[]} helpers
   */
  constructor(library, words, helpers) {
    this.#library = library;
    this.#words = words;
    this.#helpers = helpers;
    library.share((job, argument) => this.#run(job, argument));
  }

  get count() {
    return this.#helpers.length + 1;
  }

  /**
   * Does a job with the helpers that join, and waits for those.
   * @param {number} job a function in the table
   * @param {number} argument
   */
  #run(job, argument) {
    const words = this.#words;
    words[W.JOB] = job;
    words[W.ARGUMENT] = argument;
    Atomics.store(words, W.GATE, 0);
    Atomics.add(words, W.NUMBER, 1);
    if (Atomics.load(words, W.ASLEEP) > 0) Atomics.notify(words, W.NUMBER);
    this.#library.callback(job)(argument);
    // Nothing is left to claim.
    for (let looks = 0; ; looks += 1) {
      const helping = Atomics.compareExchange(words, W.GATE, 0, CLOSED);
      if (helping === 0) return;
      if (looks > LOOKS) Atomics.wait(words, W.GATE, helping);
    }
  }

  close() {
    for (const helper of this.#helpers) helper.terminate();
  }
}

/**
 * @param {object} shared what helper.js needs
 * @returns {Promise<{terminate: () => unknown}>}
 */
async function startHelper(shared) {
  if (isNode()) return startInNode(shared);
  const worker = new Worker(new URL("./helper.js", import.meta.url), { type: "module" });
  return new Promise((resolve, reject) => {
    worker.onmessage = () => resolve(worker);
    worker.onerror = reject;
    worker.postMessage(shared);
  });
}

/** @param {object} shared */
async function startInNode(shared) {
  const { Worker } = await import(
    /* webpackIgnore: true */ /* @vite-ignore */ "node:worker_threads"
  );
  // Options of the program's own Node, such as `--input-type`, are not for a file.
  const worker = new Worker(new URL("./helper.js", import.meta.url), { execArgv: [] });
  return new Promise((resolve, reject) => {
    worker.once("error", reject);
    worker.once("message", () => {
      // A program may end without closing its models.
      worker.unref();
      resolve(worker);
    });
    worker.postMessage(shared);
  });
}
