// A model and its `plm_session`: what `load` gives to a program, without the program's thread. It
// runs in a Worker of a browser, or directly in Node.
// @ts-check
import { C, PocketlmError } from "./library.js";
import { bytesOf, chatTemplate, readImage } from "./image.js";
import { loadLibrary } from "./threads.js";

/** @import { GenerateOptions, Info, Kv, LoadOptions } from "./types.d.ts" */
/** @import { Library } from "./library.js" */
/** @import { Threads } from "./threads.js" */
/** @import { Progress, PromptOptions, Sampling, Source } from "./types.d.ts" */

/** The numbers of `plm_limits.kv`. */
const KV = { f32: 0, f16: 1, bf16: 2, q8: 3 };
/** What the work of a thread costs in a call (`plm_step`): about a millisecond. */
const BUDGET = 10_000;
/** Milliseconds until the thread does something else, such as noticing that it is to stop. */
const SLICE = 8;
/** The longest context that is planned if none is asked for. */
const CONTEXT = 2048;
/** Tokens of a prompt that are computed together. */
const BATCH = 16;
/** Tokens that penalties look back. */
const WINDOW = 64;

/** The tokens of the digest, and the context they are computed in: examples/firmware. */
const DIGEST_TOKENS = 72;
const DIGEST_CONTEXT = 80;

/** The fields of `plm_arena_parts`. */
const PARTS = [
  "tokens", "hidden", "branch", "scratch", "logits", "groups", "rope", "weights", "cache",
];

const ENDS = {
  [C.PLM_ENDED_TOKEN]: "token",
  [C.PLM_ENDED_STOP]: "stop",
  [C.PLM_ENDED_LIMIT]: "limit",
  [C.PLM_ENDED_CONTEXT]: "context",
  [C.PLM_ENDED_COMPLETE]: "complete",
};

/** What comes with a token. Other ends have none, or one that is no part of the text. */
const ADDED = [C.PLM_OK, C.PLM_ENDED_STOP, C.PLM_ENDED_COMPLETE];

/** Lets the thread do something else. */
const rest = "setImmediate" in globalThis
  ? () => new Promise((done) => setImmediate(done))
  : restWithMessages();

/** Timers of a browser wait for 4 ms. A message to oneself does not. */
function restWithMessages() {
  const { port1, port2 } = new MessageChannel();
  /** @type {((value: unknown) => void)[]} */
  const waiting = [];
  port1.onmessage = () => waiting.shift()?.(undefined);
  return () =>
    new Promise((done) => {
      waiting.push(done);
      port2.postMessage(0);
    });
}

export class Engine {
  /** @type {Library} */
  #library;
  /** @type {Threads | undefined} */
  #threads;
  #model = 0;
  #tokenizer = 0;
  #plmSession = 0;
  #sampler = 0;
  #generation = 0;
  /** @type {Info} */
  #info;
  /** What is allocated behind this belongs to the text that is generated. */
  #base = 0;
  /** The number of the text that is generated; 0 while there is none. */
  #text = 0;
  #texts = 0;
  /** The number of the text that is to stop. */
  #aborted = 0;
  /** The last token of a text, which the session has not seen.
   * @type {number | undefined} */
  #last;
  /** How many tokens the context held when the prompt of the text was begun. */
  #before = 0;
  /** Calls run one after the other. */
  #queue = Promise.resolve();

  /**
   * @param {Source} source
   * @param {LoadOptions} options
   * @param {(progress: Progress) => void} progress
   */
  static async load(source, options, progress) {
    const { library, threads } = await loadLibrary(options);
    try {
      const model = library.allocate(8 * C.PLM_MODEL_WORDS);
      const open = (/** @type {number} */ start, /** @type {number} */ bytes) =>
        library.call("plm_open", model, start, bytes);
      const image = await readImage(library, source, options.cache ?? true, progress, open);
      return new Engine(library, threads, model, image, options);
    } catch (error) {
      threads?.close();
      throw error;
    }
  }

  /**
   * @param {Library} library
   * @param {Threads | undefined} threads
   * @param {number} model
   * @param {{start: number, bytes: number, cached: boolean}} image
   * @param {LoadOptions} options
   */
  constructor(library, threads, model, image, options) {
    this.#library = library;
    this.#threads = threads;
    this.#model = model;
    this.#tokenizer = library.allocate(8 * C.PLM_TOKENIZER_WORDS);
    this.#plmSession = library.allocate(8 * C.PLM_SESSION_WORDS);
    this.#sampler = library.allocate(8 * C.PLM_SAMPLER_WORDS);
    this.#generation = library.allocate(8 * C.PLM_GENERATION_WORDS);
    library.call("plm_tokenizer_open", this.#tokenizer, model);
    const [checksum, vocabSize, trainedContext, layers] = library.result("plm_info", 4, model);
    const context = options.context ?? Math.min(trainedContext || CONTEXT, CONTEXT);
    const kv = options.kv ?? "f32";
    const batch = options.batch ?? BATCH;
    const arenaBytes = this.#openSession(this.#plmSession, { context, batch, kv });
    this.#base = library.mark;
    this.#info = {
      checksum: checksum.toString(16).padStart(8, "0"),
      vocabSize,
      trainedContext,
      layers,
      context,
      kv,
      imageBytes: image.bytes,
      arenaBytes,
      cached: image.cached,
      simd: library.simd,
      threads: threads?.count ?? 1,
      chatTemplate: this.#chatTemplate(image.start),
    };
  }

  /** @param {number} image */
  #chatTemplate(image) {
    const { offset, length } = chatTemplate(this.#library.bytes(image, 256));
    return this.#library.text(image + offset, length) || undefined;
  }

  /**
   * Makes a session in an arena of its own, and returns how long that is.
   * @param {number} session
   * @param {{context: number, batch: number, kv: Kv}} limits
   */
  #openSession(session, { context, batch, kv }) {
    const library = this.#library;
    const limits = this.#limits({ context, batch, kv });
    const [bytes] = library.result("plm_plan", 1, this.#model, limits);
    const arena = library.allocate(bytes);
    const threads = this.#threads;
    const workers = threads ? library.structure([library.run, 0, threads.count]) : 0;
    library.call("plm_session_init", session, this.#model, limits, arena, bytes, workers, 0);
    return bytes;
  }

  /** @param {{context: number, batch: number, kv: Kv}} limits */
  #limits({ context, batch, kv }) {
    if (!Object.hasOwn(KV, kv)) {
      throw new PocketlmError(`kv is "${kv}"; it must be f32, f16, bf16 or q8`);
    }
    return this.#library.structure([context, batch, KV[kv], 0]);
  }

  /**
   * What the arena of another session would be used for.
   * @param {{context?: number, batch?: number, kv?: Kv}} limits
   */
  plan({ context = this.#info.context, batch = BATCH, kv = "f32" }) {
    const library = this.#library;
    return this.#queued(() =>
      library.scratch(() => {
        const limits = this.#limits({ context, batch, kv });
        const [arenaBytes] = library.result("plm_plan", 1, this.#model, limits);
        const sizes = library.result("plm_plan_parts", PARTS.length, this.#model, limits);
        const parts = Object.fromEntries(PARTS.map((name, index) => [name, sizes[index]]));
        return { arenaBytes, parts };
      }),
    );
  }

  /** Ends the threads. */
  close() {
    this.#threads?.close();
  }

  /** What the program is told of the model. */
  info() {
    return this.#info;
  }

  get #budget() {
    return BUDGET * this.#info.threads;
  }

  /** Bytes of memory, all together. */
  memory() {
    return this.#library.memoryBytes;
  }

  /**
   * Runs `call` when all calls before it are done.
   * @template T
   * @param {() => T | Promise<T>} call
   * @returns {Promise<T>}
   */
  #queued(call) {
    const result = this.#queue.then(call);
    this.#queue = result.then(
      () => {},
      () => {},
    );
    return result;
  }

  /**
   * The token ids of a text.
   * @param {string} text
   * @param {{addSpecial?: boolean, parseSpecial?: boolean}} options
   */
  tokenize(text, options = {}) {
    return this.#queued(() =>
      this.#encode(text, options.addSpecial ?? true, options.parseSpecial),
    );
  }

  /**
   * The text of token ids.
   * @param {number[]} ids
   */
  decode(ids) {
    const library = this.#library;
    return this.#queued(() =>
      library.scratch(() => {
        const decoder = library.allocate(8 * C.PLM_DECODER_WORDS);
        library.call("plm_decoder_init", decoder, this.#tokenizer, 0);
        return library.writing(() => {
          for (const id of ids) library.call("plm_decode", decoder, id, library.write, 0);
          library.call("plm_decode_end", decoder, library.write, 0);
        });
      }),
    );
  }

  /**
   * @param {string} text
   * @param {boolean} addSpecial
   * @param {boolean} [parseSpecial]
   * @returns {number[]}
   */
  #encode(text, addSpecial, parseSpecial) {
    const library = this.#library;
    return library.scratch(() => {
      const [start, bytes] = library.string(text);
      // PLM_NFC_SCRATCH_WORDS of the header, room for an id for each byte and a few special ones.
      const most = 3 * bytes + 1;
      const words = 3 * most + Math.ceil(most / 15) + 16 + bytes + 1;
      const room = most + 16;
      const ids = library.allocate(4 * room, 8);
      const flags =
        (addSpecial ? C.PLM_ADD_SPECIAL : 0) + (parseSpecial ? C.PLM_PARSE_SPECIAL : 0);
      const scratch = library.allocate(4 * words, 8);
      const [count] = library.result(
        "plm_encode", 1, this.#tokenizer, start, bytes, flags, scratch, words, ids, room,
      );
      return [...library.words(ids, count)];
    });
  }

  /**
   * The token ids of a text that follows another one, as on a host (src/host/text.rs): a tokenizer
   * may put a space before a text, but not after a line break.
   * @param {string} text
   * @param {boolean} [parseSpecial]
   */
  #encodeAfter(text, parseSpecial) {
    const lineBreak = this.#encode("\n", false);
    const after = this.#encode(`\n${text}`, false, parseSpecial);
    const follows = lineBreak.every((id, index) => after[index] === id);
    return follows ? after.slice(lineBreak.length) : this.#encode(text, false, parseSpecial);
  }

  /**
   * Begins a text and returns its number.
   * @param {string} prompt
   * @param {GenerateOptions} options
   * @param {Uint8Array} [grammar]
   */
  start(prompt, options, grammar) {
    const library = this.#library;
    return this.#queued(() => {
      // A grammar that is wrong changes nothing.
      library.scratch(() => this.#constraint(grammar));
      const ids = this.#place(prompt, options);
      [this.#before] = library.result("plm_length", 1, this.#plmSession);
      library.call("plm_sampler_init", this.#sampler, this.#sampling(options.sampling ?? {}));
      library.call(
        "plm_generate_start", this.#generation, this.#plmSession, this.#sampler, this.#tokenizer,
        library.structure(ids), ids.length, this.#endings(options, this.#constraint(grammar)),
      );
      this.#texts += 1;
      this.#text = this.#texts;
      return this.#text;
    });
  }

  /**
   * Ends the text before, and returns the token ids that come next.
   * @param {string} prompt
   * @param {PromptOptions} options
   */
  #place(prompt, { append = false, addSpecial = true, parseSpecial }) {
    const library = this.#library;
    this.#end();
    library.release(this.#base);
    if (!append) {
      library.call("plm_reset", this.#plmSession);
      this.#last = undefined;
    }
    const [length] = library.result("plm_length", 1, this.#plmSession);
    if (length === 0 && this.#last === undefined) {
      return this.#encode(prompt, addSpecial, parseSpecial);
    }
    const ids = this.#encodeAfter(prompt, parseSpecial);
    if (ids.length === 0 && this.#last === undefined) this.#takeBack();
    return this.#last === undefined ? ids : [this.#last, ...ids];
  }

  /** Takes the last token back from the session, which is to compute its logits again. */
  #takeBack() {
    const library = this.#library;
    this.#last = library.scratch(() => {
      const found = library.allocate(8, 8);
      library.call("plm_tokens", this.#plmSession, found, found + 4);
      const [tokens, count] = library.words(found, 2);
      return library.words(tokens, count).at(-1);
    });
    library.call("plm_rewind", this.#plmSession, 1);
  }

  /** @param {Sampling} sampling */
  #sampling({ seed = 0, temperature = 0, topK = 0, topP = 0, minP = 0, ...penalties }) {
    const { repeat = 0, frequency = 0, presence = 0, window = WINDOW } = penalties;
    const library = this.#library;
    const looksBack = repeat !== 0 || frequency !== 0 || presence !== 0;
    const places = looksBack ? window : 0;
    const recent = places > 0 ? library.allocate(8 * places, 8) : 0;
    const bits = BigInt.asUintN(64, BigInt(seed));
    return library.structure([
      Number(bits & 0xffffffffn), Number(bits >> 32n), [temperature], topK, [topP], [minP],
      0, 0, recent, places, [repeat], [frequency], [presence], 0,
    ]);
  }

  /**
   * @param {GenerateOptions} options
   * @param {number} constraint
   */
  #endings({ maxTokens, stop = [], keepSpecial }, constraint) {
    const library = this.#library;
    const strings = library.structure(stop.map((text) => library.string(text)[0]));
    const limit = maxTokens ?? 0;
    return library.structure([limit, strings, stop.length, constraint, Number(!!keepSpecial)]);
  }

  /**
   * The start of a text that obeys a grammar; 0 if there is no grammar.
   * @param {Uint8Array} [grammar]
   */
  #constraint(grammar) {
    if (!grammar) return 0;
    const library = this.#library;
    const constraint = library.allocate(8 * C.PLM_CONSTRAINT_WORDS);
    const bytes = library.allocate(grammar.length, 1);
    library.bytes(bytes, grammar.length).set(grammar);
    library.call("plm_constraint_open", constraint, this.#tokenizer, bytes, grammar.length);
    return constraint;
  }

  /**
   * The next piece of a text: one token's or, where tokens are fast, those of a few milliseconds.
   * `end` says why the text has ended.
   * @param {number} text
   * @returns {Promise<{text: string, tokens: number, end?: string}>}
   */
  next(text) {
    const library = this.#library;
    return this.#queued(async () => {
      if (text !== this.#text) throw new PocketlmError("another call has ended this text");
      let begun = performance.now();
      let tokens = 0;
      let status = C.PLM_PENDING;
      const step = () => {
        status = library.call(
          "plm_generate_step", this.#generation, this.#budget, library.write, 0,
        );
      };
      for (let written = ""; ; ) {
        if (this.#aborted === text) return { text: written + this.#end(), tokens, end: "abort" };
        written += library.writing(step);
        const ended = status >= C.PLM_ENDED_TOKEN;
        if (ADDED.includes(status)) tokens += 1;
        if (ended) {
          this.#end();
          return { text: written, tokens, end: ENDS[status] };
        }
        if (performance.now() - begun < SLICE) continue;
        await rest();
        begun = performance.now();
        if (written !== "") return { text: written, tokens };
      }
    });
  }

  /**
   * Stops a text within a step, while `next` runs too.
   * @param {number} text
   */
  abort(text) {
    this.#aborted = text;
  }

  /**
   * Frees the session for something else, and returns text that was held back.
   */
  #end() {
    const library = this.#library;
    if (this.#text === 0) return "";
    const held = library.writing(() =>
      library.call("plm_generate_stop", this.#generation, library.write, 0),
    );
    this.#text = 0;
    const last = this.#unless(C.PLM_ERROR_NO_TOKENS, () =>
      library.result("plm_generate_last", 1, this.#generation).at(0),
    );
    this.#drop();
    const [length] = library.result("plm_length", 1, this.#plmSession);
    // If the session has not seen the prompt, it has not seen the last token before that either.
    if (length !== this.#before) this.#last = last;
    return held;
  }

  /** Drops work in progress. */
  #drop() {
    const library = this.#library;
    const dropped = this.#unless(C.PLM_ERROR_REWIND_TOO_FAR, () => [
      library.call("plm_abort", this.#plmSession),
    ]);
    if (dropped) return;
    library.call("plm_reset", this.#plmSession);
    this.#before = 0;
    this.#last = undefined;
  }

  /**
   * What `call` returns, and nothing if it fails with this error.
   * @template T
   * @param {number} code
   * @param {() => T} call
   */
  #unless(code, call) {
    try {
      return call();
    } catch (error) {
      if (error instanceof PocketlmError && error.code === code) return undefined;
      throw error;
    }
  }

  /** The session sees the last token of the text, if there is room for it. */
  async #feedLast() {
    const [length] = this.#library.result("plm_length", 1, this.#plmSession);
    if (this.#last !== undefined && length < this.#info.context) await this.#compute([this.#last]);
  }

  /**
   * Computes tokens in slices. The last one of a text, if there is one, is the first of them.
   * @param {number[]} ids
   */
  async #compute(ids) {
    const library = this.#library;
    library.scratch(() =>
      library.call("plm_start", this.#plmSession, library.structure(ids), ids.length),
    );
    this.#last = undefined;
    let begun = performance.now();
    while (library.call("plm_step", this.#plmSession, this.#budget) === C.PLM_PENDING) {
      if (performance.now() - begun < SLICE) continue;
      await rest();
      begun = performance.now();
    }
  }

  /**
   * Adds text to the context.
   * @param {string} text
   * @param {PromptOptions} options
   */
  feed(text, options) {
    return this.#queued(() => this.#compute(this.#place(text, options)));
  }

  /** The context in bytes. */
  snapshot() {
    const library = this.#library;
    return this.#queued(async () => {
      this.#end();
      await this.#feedLast();
      /** @type {Uint8Array[]} */
      const pieces = [];
      library.moving(
        (piece) => pieces.push(piece.slice()),
        () => library.call("plm_save", this.#plmSession, library.piece, 0),
      );
      return new Uint8Array(await new Blob(/** @type {any} */ (pieces)).arrayBuffer());
    });
  }

  /** @param {ArrayBuffer | ArrayBufferView} snapshot */
  restore(snapshot) {
    const library = this.#library;
    return this.#queued(() => {
      const bytes = bytesOf(snapshot);
      this.#end();
      let done = 0;
      try {
        library.moving(
          (piece) => {
            piece.set(bytes.subarray(done, done + piece.length));
            done += piece.length;
          },
          () => library.call("plm_restore", this.#plmSession, library.piece, 0),
        );
      } catch (error) {
        const [length] = library.result("plm_length", 1, this.#plmSession);
        if (length === 0) this.#last = undefined;
        throw error;
      }
      this.#last = undefined;
    });
  }

  /**
   * The digest of the boards' table (examples/firmware): of all logits of 72 tokens, with keys and
   * values of each of these types.
   * @param {Kv[]} kvs
   */
  digest(kvs = ["f32", "f16", "bf16", "q8"]) {
    const library = this.#library;
    return this.#queued(async () => {
      const mark = library.mark;
      try {
        const digests = library.allocate(8 * DIGEST_TOKENS * kvs.length);
        let place = digests;
        for (const kv of kvs) {
          await this.#digests(kv, place);
          place += 8 * DIGEST_TOKENS;
        }
        return this.#digestOf(digests, 2 * DIGEST_TOKENS * kvs.length);
      } finally {
        library.release(mark);
      }
    });
  }

  /**
   * Stores the digest of each token's logits.
   * @param {Kv} kv
   * @param {number} place
   */
  async #digests(kv, place) {
    const library = this.#library;
    const mark = library.mark;
    const session = library.allocate(8 * C.PLM_SESSION_WORDS);
    this.#openSession(session, { context: DIGEST_CONTEXT, batch: 1, kv });
    const id = library.allocate(4, 8);
    const found = library.allocate(8, 8);
    for (let index = 0; index < DIGEST_TOKENS; index += 1) {
      library.words(id, 1)[0] = (2 + index * (31 + 7 * index)) % this.#info.vocabSize;
      library.call("plm_feed", session, id, 1);
      library.call("plm_logits", session, found, found + 4);
      const [logits, count] = library.words(found, 2);
      library.call("plm_digest", logits, count, place + 8 * index);
      if (index % 8 === 7) await rest();
    }
    library.release(mark);
  }

  /**
   * @param {number} numbers
   * @param {number} count
   */
  #digestOf(numbers, count) {
    const [low, high] = this.#library.result("plm_digest", 2, numbers, count);
    return [high, low].map((half) => half.toString(16).padStart(8, "0")).join("");
  }
}
