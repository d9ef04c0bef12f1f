// The C interface of pocketlm in a WebAssembly module: its memory, its structures, its callbacks.
// src/c/include/pocketlm.h describes all functions and numbers.
// @ts-check

/** Sizes of handles and numbers of the header. A test compares them with it. */
export const C = {
  PLM_MODEL_WORDS: 41,
  PLM_SESSION_WORDS: 99,
  PLM_SAMPLER_WORDS: 11,
  PLM_TOKENIZER_WORDS: 42,
  PLM_DECODER_WORDS: 43,
  PLM_GENERATION_WORDS: 190,
  PLM_CONSTRAINT_WORDS: 56,
  PLM_ALIGNMENT: 64,
  PLM_ADD_SPECIAL: 1,
  PLM_PARSE_SPECIAL: 2,
  PLM_OK: 0,
  PLM_PENDING: 1,
  PLM_ENDED_TOKEN: 2,
  PLM_ENDED_STOP: 3,
  PLM_ENDED_LIMIT: 4,
  PLM_ENDED_CONTEXT: 5,
  PLM_ENDED_COMPLETE: 6,
  PLM_ERROR_NOT_AN_IMAGE: 100,
  PLM_ERROR_TRUNCATED: 102,
  PLM_ERROR_CONTEXT_FULL: 206,
  PLM_ERROR_REWIND_TOO_FAR: 208,
  PLM_ERROR_NO_TOKENS: 205,
  PLM_STOP_STRINGS: 4,
};

const PAGE = 65536;
/** Pages that the module for threads begins with (build.mjs). */
const SHARED_PAGES = 20;
/** What 32 bits can address. */
const MOST_MEMORY = 2 ** 32 - PAGE;
/** What Rust can have in one piece. */
const MOST_AT_ONCE = 2 ** 31 - 1;

/** An error of pocketlm. */
export class PocketlmError extends Error {
  /**
   * @param {string} message
   * @param {number} [code] the number of the header, where the error is one of its
   */
  constructor(message, code) {
    super(message);
    this.name = "PocketlmError";
    this.code = code;
  }
}

// A function that has one SIMD instruction. An engine without SIMD does not accept it.
const SIMD_PROBE = Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, 10, 1, 8, 0, 65, 0, 253, 15,
  253, 98, 11,
);

/** Whether the machine has SIMD. */
export function hasSimd() {
  return WebAssembly.validate(SIMD_PROBE);
}

// A table of WebAssembly holds functions of WebAssembly alone. This module imports functions, `w`
// and `r` of type (i32, i32, i32) -> () and `p` of type (i32, i32, i32) -> i32, and exports them
// again.
const CALLBACKS = Uint8Array.of(
  0, 97, 115, 109, 1, 0, 0, 0,
  1, 14, 2, 96, 3, 127, 127, 127, 0, 96, 3, 127, 127, 127, 1, 127,
  2, 16, 3, 0, 1, 119, 0, 0, 0, 1, 112, 0, 1, 0, 1, 114, 0, 0,
  7, 13, 3, 1, 119, 0, 0, 1, 112, 0, 1, 1, 114, 0, 2,
);

/** Where the modules are. Bundlers look for this form, with a text in it. */
const MODULES = {
  plain: () => new URL("./pocketlm-plain.wasm", import.meta.url),
  simd: () => new URL("./pocketlm.wasm", import.meta.url),
  threads: () => new URL("./pocketlm-threads.wasm", import.meta.url),
};

/** @param {URL} url */
export async function moduleBytes(url) {
  if (url.protocol === "file:") {
    const { readFile } = await import(
      /* webpackIgnore: true */ /* @vite-ignore */ "node:fs/promises"
    );
    return new Uint8Array(await readFile(url));
  }
  const response = await fetch(url);
  if (!response.ok) throw new PocketlmError(`${url}: HTTP ${response.status}`);
  return new Uint8Array(await response.arrayBuffer());
}

/** One instance of the module, with memory of its own. */
export class Library {
  #exports;
  #text = new TextDecoder("utf-8", { ignoreBOM: true });
  #top;
  #limit;
  /** @type {(text: string) => void} */
  #write = () => {};
  /** @type {(piece: Uint8Array) => void} */
  #piece = () => {};
  /** @type {(job: number, argument: number) => void} */
  #run = () => {};
  /** What a callback threw during the call that runs.
   * @type {{error: unknown} | undefined} */
  #thrown;

  /**
   * @param {{simd?: boolean, memory?: number, shared?: boolean}} options `shared`: with memory that
   * threads share, and SIMD
   */
  static async load({ simd = hasSimd(), memory: most = MOST_MEMORY, shared = false }) {
    const limit = Math.min(most, MOST_MEMORY);
    const url = MODULES[shared ? "threads" : simd ? "simd" : "plain"]();
    const maximum = Math.max(Math.floor(limit / PAGE), SHARED_PAGES);
    const memory = shared
      ? new WebAssembly.Memory({ initial: SHARED_PAGES, maximum, shared })
      : undefined;
    /** @type {WebAssembly.Imports} */
    const imports = memory ? { env: { memory } } : {};
    const { module, instance } = await WebAssembly.instantiate(await moduleBytes(url), imports);
    return new Library(module, instance, memory, simd, limit);
  }

  /**
   * @param {WebAssembly.Module} module
   * @param {WebAssembly.Instance} instance
   * @param {WebAssembly.Memory | undefined} memory the module's own if there is no other
   * @param {boolean} simd
   * @param {number} limit
   */
  constructor(module, instance, memory, simd, limit) {
    this.#exports = /** @type {any} */ (instance.exports);
    this.module = module;
    /** @type {WebAssembly.Memory} */
    this.memory = memory ?? this.#exports.memory;
    this.simd = simd;
    this.#limit = limit;
    // What the module itself uses lies before this.
    this.#top = this.memoryBytes;
    this.#addCallbacks();
  }

  #addCallbacks() {
    const functions = {
      w: (/** @type {number} */ _, /** @type {number} */ text, /** @type {number} */ bytes) => {
        this.#caught(() => this.#write(this.text(text, bytes)));
      },
      r: (/** @type {number} */ _, /** @type {number} */ job, /** @type {number} */ argument) =>
        this.#run(job, argument),
      p: (/** @type {number} */ _, /** @type {number} */ data, /** @type {number} */ bytes) =>
        this.#caught(() => this.#piece(this.bytes(data, bytes))),
    };
    const module = new WebAssembly.Module(CALLBACKS);
    const { w, p, r } = new WebAssembly.Instance(module, { "": functions }).exports;
    const table = this.#exports.__indirect_function_table;
    const first = table.grow(3);
    table.set(first, w);
    table.set(first + 1, p);
    table.set(first + 2, r);
    /** A `plm_write`, while {@link writing} runs. */
    this.write = first;
    /** A `plm_save_bytes` and `plm_restore_bytes`, while {@link moving} runs. */
    this.piece = first + 1;
    /** The `run` of a `plm_workers`, after {@link share}. */
    this.run = first + 2;
  }

  /** @param {number} index a function that the module gave */
  callback(index) {
    return this.#exports.__indirect_function_table.get(index);
  }

  /** @param {(job: number, argument: number) => void} run does a job on several threads */
  share(run) {
    this.#run = run;
  }

  /**
   * What a callback returns: 0, or 1 if it threw. An exception must not pass through the module,
   * whose handles would be in use for ever; {@link call} throws it later.
   * @param {() => void} run
   */
  #caught(run) {
    try {
      run();
      return 0;
    } catch (error) {
      this.#thrown ??= { error };
      return 1;
    }
  }

  get memoryBytes() {
    return this.memory.buffer.byteLength;
  }

  /** Where the next {@link allocate} begins, for {@link release}. */
  get mark() {
    return this.#top;
  }

  /**
   * Memory that nobody else has. It is not zeroed.
   * @param {number} bytes
   */
  allocate(bytes, alignment = C.PLM_ALIGNMENT) {
    const start = Math.ceil(this.#top / alignment) * alignment;
    const end = start + bytes;
    if (bytes > MOST_AT_ONCE || end > this.#limit) throw this.#tooMuch(end);
    const missing = end - this.memoryBytes;
    if (missing > 0) {
      try {
        this.memory.grow(Math.ceil(missing / PAGE));
      } catch {
        throw this.#tooMuch(end);
      }
    }
    this.#top = end;
    return start;
  }

  /** @param {number} bytes */
  #tooMuch(bytes) {
    const megabytes = (/** @type {number} */ n) => `${(n / 2 ** 20).toFixed(1)} MB`;
    return new PocketlmError(
      `not enough memory: ${megabytes(bytes)} are needed, and ${megabytes(this.#limit)} are ` +
        'allowed, 2048 MB in one piece; take a shorter context, kv: "q8" or a smaller image',
    );
  }

  /**
   * Gives back what was allocated since `mark`.
   * @param {number} mark
   */
  release(mark) {
    this.#top = mark;
  }

  /**
   * @template T
   * @param {() => T} use what it allocates is released
   * @returns {T}
   */
  scratch(use) {
    const mark = this.mark;
    try {
      return use();
    } finally {
      this.release(mark);
    }
  }

  /**
   * A view of memory. It is of no use any more when memory has grown.
   * @param {number} start
   * @param {number} bytes
   */
  bytes(start, bytes) {
    return new Uint8Array(this.memory.buffer, start >>> 0, bytes >>> 0);
  }

  /**
   * Text in memory.
   * @param {number} start
   * @param {number} bytes
   */
  text(start, bytes) {
    // A decoder refuses memory that threads share.
    return this.#text.decode(this.bytes(start, bytes).slice());
  }

  /**
   * The same in words of 4 bytes.
   * @param {number} start
   * @param {number} count
   */
  words(start, count) {
    return new Uint32Array(this.memory.buffer, start, count);
  }

  /**
   * A structure of words: numbers are stored as `u32`, numbers in an array of one as `f32`.
   * @param {(number | [number])[]} fields
   */
  structure(fields) {
    const start = this.allocate(4 * fields.length, 8);
    const view = new DataView(this.memory.buffer, start);
    fields.forEach((field, index) => {
      if (typeof field === "number") view.setUint32(4 * index, field, true);
      else view.setFloat32(4 * index, field[0], true);
    });
    return start;
  }

  /**
   * Text in memory, as UTF-8 with a NUL at its end.
   * @param {string} text
   * @returns {[number, number]} where, and how many bytes without the NUL
   */
  string(text) {
    const encoded = new TextEncoder().encode(text);
    const start = this.allocate(encoded.length + 1, 1);
    const place = this.bytes(start, encoded.length + 1);
    place.set(encoded);
    place[encoded.length] = 0;
    return [start, encoded.length];
  }

  /**
   * Calls a function and returns its status. Errors are thrown, and what a callback threw.
   * @param {string} name
   * @param {...number} parameters
   * @returns {number}
   */
  call(name, ...parameters) {
    this.#thrown = undefined;
    const status = this.#exports[name](...parameters);
    const thrown = /** @type {{error: unknown} | undefined} */ (this.#thrown);
    if (thrown) throw thrown.error;
    if (status >= 100) throw this.error(status);
    return status;
  }

  /**
   * Calls a function whose last parameter is the place of a result of `count` words.
   * @param {string} name
   * @param {number} count
   * @param {...number} parameters
   * @returns {number[]}
   */
  result(name, count, ...parameters) {
    return this.scratch(() => {
      const place = this.allocate(4 * count, 8);
      this.call(name, ...parameters, place);
      return [...this.words(place, count)];
    });
  }

  /**
   * @param {number} code
   */
  error(code) {
    const start = this.#exports.plm_error_text(code);
    let end = start;
    const all = this.bytes(0, this.memoryBytes);
    while (all[end] !== 0) end += 1;
    return new PocketlmError(this.text(start, end - start), code);
  }

  /**
   * Collects the text that a call gives to {@link write}.
   * @param {() => void} use
   */
  writing(use) {
    let written = "";
    this.#write = (text) => (written += text);
    use();
    return written;
  }

  /**
   * Calls `piece` with the pieces of a snapshot that a call saves or restores by way of
   * {@link piece}.
   * @param {(piece: Uint8Array) => void} piece
   * @param {() => void} use
   */
  moving(piece, use) {
    this.#piece = piece;
    use();
  }
}
