// What a program uses: `load` and the model it returns. types.d.ts describes it.
// @ts-check
import { checkGenerate, checkLoad } from "./check.js";
import { Engine } from "./engine.js";
import { readGrammar } from "./image.js";
import { PocketlmError } from "./library.js";

export { PocketlmError };

/** @import { End, GenerateOptions, Info, Kv, LoadOptions } from "./types.d.ts" */
/** @import { Message, Progress, PromptOptions, Source } from "./types.d.ts" */

/**
 * @typedef {(name: string, ...parameters: any[]) => Promise<any>} Call a method of the engine
 * @typedef {{info: Info, call: Call, close: () => void}} Link
 */

/** Whether this is the thread of a page, which must not compute. */
const isPage = "document" in globalThis;

/**
 * @param {Source} source
 * @param {LoadOptions & {progress?: (progress: Progress) => void}} [options]
 */
export async function load(source, { progress = () => {}, ...options } = {}) {
  checkLoad(options);
  const link = isPage && "Worker" in globalThis
    ? await throughWorker(source, options, progress)
    : await directly(source, options, progress);
  return new Model(link);
}

/**
 * @param {Source} source
 * @param {LoadOptions} options
 * @param {(progress: Progress) => void} progress
 * @returns {Promise<Link>}
 */
async function directly(source, options, progress) {
  /** @type {any} */
  let engine = await Engine.load(source, options, progress);
  return {
    info: engine.info(),
    call: async (name, ...parameters) => {
      if (!engine) throw new PocketlmError("the model is closed");
      return engine[name](...parameters);
    },
    close: () => {
      engine?.close();
      engine = undefined;
    },
  };
}

/**
 * @param {Source} source
 * @param {LoadOptions} options
 * @param {(progress: Progress) => void} progress
 * @returns {Promise<Link>}
 */
async function throughWorker(source, options, progress) {
  const worker = new Worker(new URL("./worker.js", import.meta.url), { type: "module" });
  /** @type {Map<number, {resolve: (result: any) => void, reject: (error: Error) => void}>} */
  const waiting = new Map();
  let calls = 0;
  /** @type {Error | undefined} */
  let ended;
  const end = (/** @type {Error} */ error) => {
    worker.terminate();
    ended = error;
    waiting.forEach(({ reject }) => reject(error));
    waiting.clear();
  };
  worker.onmessage = ({ data }) => {
    if (data.progress) return progress(data.progress);
    const { resolve, reject } = /** @type {any} */ (waiting.get(data.call));
    waiting.delete(data.call);
    if (data.error) reject(received(data.error));
    else resolve(data.result);
  };
  worker.onerror = (event) =>
    end(new PocketlmError(`the worker failed: ${event.message ?? "its script did not load"}`));
  /** @type {Call} */
  const call = (name, ...parameters) =>
    new Promise((resolve, reject) => {
      if (ended) return reject(ended);
      calls += 1;
      // Nothing answers an abort: the call that it stops does.
      if (name === "abort") resolve(undefined);
      else waiting.set(calls, { resolve, reject });
      worker.postMessage({ call: calls, name, parameters });
    });
  try {
    const info = await call("load", absolute(source), options);
    return { info, call, close: () => end(new PocketlmError("the model is closed")) };
  } catch (error) {
    worker.terminate();
    throw error;
  }
}

/**
 * @typedef {{known: boolean, message: string, code?: number, cause?: Sent}} Sent an error as sent
 * @param {Sent} sent
 */
function received({ known, message, code, cause }) {
  const error = known ? new PocketlmError(message, code) : new Error(message);
  if (cause) error.cause = received(cause);
  return error;
}

/**
 * On a page, the whole address of a source that is an address. It means the same in the Worker.
 * @template {Source | undefined} S
 * @param {S} source
 */
function absolute(source) {
  const isAddress = typeof source === "string" || source instanceof URL;
  return isAddress && isPage ? new URL(source, document.baseURI).href : source;
}

/** A model and its context. */
export class Model {
  #link;

  /** @param {Link} link */
  constructor(link) {
    this.#link = link;
    this.info = link.info;
  }

  /**
   * @param {string} prompt
   * @param {GenerateOptions & {signal?: AbortSignal}} [options]
   */
  generate(prompt, options = {}) {
    return new Generation(this.#link.call, prompt, options);
  }

  /**
   * @param {Message[]} messages
   * @param {GenerateOptions & {signal?: AbortSignal, templateValues?: object}} [options]
   */
  async *chat(messages, { templateValues, ...options } = {}) {
    if (!this.info.chatTemplate) throw new PocketlmError("the image has no chat template");
    const { Template } = await import("@huggingface/jinja");
    const values = { messages, add_generation_prompt: true, ...templateValues };
    const prompt = new Template(this.info.chatTemplate).render(values);
    await this.#refuseSpecial(messages);
    // The template writes the special tokens, BOS among them.
    yield* this.generate(prompt, { ...options, addSpecial: false, parseSpecial: true });
  }

  /**
   * Special tokens in a message would be taken for those of the template.
   * @param {Message[]} messages
   */
  async #refuseSpecial(messages) {
    /** @type {string[]} */
    const texts = [];
    JSON.stringify(messages, (_, value) => {
      if (typeof value === "string") texts.push(value);
      return value;
    });
    for (const text of texts) {
      const [plain, parsed] = await Promise.all(
        [false, true].map((parseSpecial) =>
          this.tokenize(text, { addSpecial: false, parseSpecial }),
        ),
      );
      if (String(plain) !== String(parsed)) {
        throw new PocketlmError(`a message spells a special token: ${JSON.stringify(text)}`);
      }
    }
  }

  /**
   * @param {string} text
   * @param {PromptOptions} [options]
   */
  feed(text, options = {}) {
    return this.#link.call("feed", text, options);
  }

  /**
   * @param {string} text
   * @param {{addSpecial?: boolean, parseSpecial?: boolean}} [options]
   */
  tokenize(text, options = {}) {
    return this.#link.call("tokenize", text, options);
  }

  /** @param {number[]} ids */
  decode(ids) {
    return this.#link.call("decode", [...ids]);
  }

  digest() {
    return this.#link.call("digest");
  }

  snapshot() {
    return this.#link.call("snapshot");
  }

  /** @param {ArrayBuffer | ArrayBufferView} snapshot */
  restore(snapshot) {
    return this.#link.call("restore", snapshot);
  }

  /** @param {{context?: number, batch?: number, kv?: Kv}} [limits] */
  async plan(limits = {}) {
    checkLoad(limits);
    return this.#link.call("plan", limits);
  }

  memory() {
    return this.#link.call("memory");
  }

  close() {
    this.#link.close();
  }
}

/** A text that is being generated. */
export class Generation {
  #call;
  #prompt;
  #options;
  #signal;
  #isRead = false;
  tokens = 0;
  /** @type {End | undefined} */
  end;

  /**
   * @param {Call} call
   * @param {string} prompt
   * @param {GenerateOptions & {signal?: AbortSignal}} options
   */
  constructor(call, prompt, { signal, ...options }) {
    this.#call = call;
    this.#prompt = prompt;
    this.#options = options;
    this.#signal = signal;
  }

  [Symbol.asyncIterator]() {
    if (this.#isRead) throw new PocketlmError("a text is read once: call generate again");
    this.#isRead = true;
    return this.#pieces();
  }

  async *#pieces() {
    this.#signal?.throwIfAborted();
    const { grammar, ...options } = this.#options;
    checkGenerate(this.#options);
    const compiled = await readGrammar(absolute(grammar), this.#signal);
    this.#signal?.throwIfAborted();
    const text = await this.#call("start", this.#prompt, options, compiled);
    // A model that was closed meanwhile generates nothing.
    const abort = () => this.#call("abort", text).catch(() => {});
    this.#signal?.addEventListener("abort", abort);
    try {
      while (!this.end) {
        if (this.#signal?.aborted) await abort();
        const piece = await this.#call("next", text);
        this.tokens += piece.tokens;
        this.end = piece.end;
        if (piece.text !== "") yield piece.text;
      }
      if (this.end === "abort") this.#signal?.throwIfAborted();
    } finally {
      this.#signal?.removeEventListener("abort", abort);
    }
  }
}
