/**
 * Where an image or a GGUF file is: an address, a path (in Node), a file the user chose, or its
 * bytes.
 */
export type Source = string | URL | Blob | ArrayBuffer | ArrayBufferView;

/** How keys and values are kept. `f32` is exact, `q8` takes a quarter of the memory. */
export type Kv = "f32" | "f16" | "bf16" | "q8";

export interface LoadOptions {
  /** Tokens of the context. Default: what the model was trained with, at most 2048. */
  context?: number;
  /** Default: `f32`. */
  kv?: Kv;
  /** Tokens of a prompt that are computed together. Default: 16. It changes no bit. */
  batch?: number;
  /** The most memory, in bytes, that all of the model may take. */
  memory?: number;
  /**
   * Whether the browser keeps an image that was fetched. Default: true. It is kept under its
   * address, so a changed image needs another one. So is the part that was fetched before the
   * connection was lost: the next `load` goes on. `caches.delete("pocketlm-images")` deletes all.
   */
  cache?: boolean;
  /** Whether to use SIMD. Default: if the machine has it. It changes no bit. */
  simd?: boolean;
  /**
   * Threads that compute. Default: 1. It changes no bit. More than 1 need SIMD, memory that threads
   * share, which a page has if it is cross-origin isolated, and a call of `close` at the end.
   * `info.threads` says how many there are.
   */
  threads?: number;
}

/** Bytes of the image that are in memory. */
export interface Progress {
  loaded: number;
  total: number;
}

export interface Info {
  /** The checksum of the image's header, in hexadecimal. */
  checksum: string;
  vocabSize: number;
  /** Tokens of the context the model was trained with; 0 if the checkpoint did not say. */
  trainedContext: number;
  layers: number;
  /** Tokens of the context. */
  context: number;
  kv: Kv;
  imageBytes: number;
  /** Bytes of the session: keys, values, buffers. */
  arenaBytes: number;
  /** Whether the browser keeps the image. */
  cached: boolean;
  simd: boolean;
  /** Threads that compute: as many as were asked for, or 1 where that is not possible. */
  threads: number;
  /** Jinja source. */
  chatTemplate?: string;
}

/** What a session needs, here or on a device: the numbers of `pocketlm plan`. */
export interface Plan {
  /** Bytes of its arena, which is all that it works in. */
  arenaBytes: number;
  /** Bytes of the arena's parts. `cache` has the keys and values. */
  parts: {
    tokens: number;
    hidden: number;
    branch: number;
    scratch: number;
    logits: number;
    groups: number;
    rope: number;
    weights: number;
    cache: number;
  };
}

/** How tokens are chosen. Without it: always the most likely one. */
export interface Sampling {
  /**
   * The start of the random numbers: the same seed gives the same text. A safe integer, or a bigint
   * up to 2^64 - 1.
   */
  seed?: number | bigint;
  /** 0, the default: the most likely token. */
  temperature?: number;
  /** Keeps as many of the most likely tokens. */
  topK?: number;
  /** Keeps the fewest tokens whose probabilities add up to this. */
  topP?: number;
  /** Keeps tokens at least this times as probable as the most probable one. */
  minP?: number;
  /** Divides the logits of recent tokens, such as 1.1. */
  repeat?: number;
  /** Subtracted once for each time that a recent token occurs. */
  frequency?: number;
  /** Subtracted if a recent token occurs at all. */
  presence?: number;
  /** Tokens that these three look back. Default: 64. */
  window?: number;
}

export interface PromptOptions {
  /**
   * Follow what the context holds, such as a restored snapshot. An empty prompt goes on where the
   * text ended. Default: begin anew, with an empty context.
   */
  append?: boolean;
  /** Begin an empty context with the special tokens of the model, such as BOS. Default: true. */
  addSpecial?: boolean;
  /** Read special tokens that are written out in the prompt, such as `<|im_start|>`. */
  parseSpecial?: boolean;
}

export interface GenerateOptions extends PromptOptions {
  sampling?: Sampling;
  /** Default: up to the end of the context. */
  maxTokens?: number;
  /** At most 4 strings, at which the text ends without them. */
  stop?: string[];
  /**
   * The text obeys this grammar, from its first token on. `pocketlm grammar` compiles it of a JSON
   * Schema, a list of tools, a GBNF file or a regular expression. An address is fetched each time.
   * A grammar that is refused changes nothing.
   */
  grammar?: Source;
  /** Special tokens are a part of the text, for calls of tools. Default: they are left out. */
  keepSpecial?: boolean;
}

export interface Signal {
  /**
   * Ends the text: the loop throws the signal's reason. It is noticed after a slice of 8 ms plus a
   * step of a millisecond or so. If it comes while an appended prompt longer than `batch` is
   * computed, the context may be empty afterwards.
   */
  signal?: AbortSignal;
}

export interface Message {
  role: string;
  content: string;
}

/**
 * Why a text ended: a token of the model, a string of `stop`, `maxTokens`, the context's end, or
 * because it is complete by its grammar, which allows no more.
 */
export type End = "token" | "stop" | "limit" | "context" | "complete" | "abort";

/** A text that is being generated: its pieces, one after the other. It is read once. */
export interface Generation extends AsyncIterable<string> {
  /** Tokens so far. */
  readonly tokens: number;
  /** `undefined` while the text goes on. */
  readonly end: End | undefined;
}

/** A model and its context. One text is generated at a time: a new one ends the one before. */
export interface Model {
  readonly info: Info;
  /** Generates a text after `prompt`. */
  generate(prompt: string, options?: GenerateOptions & Signal): Generation;
  /**
   * Generates an answer. Renders the image's chat template with `@huggingface/jinja`, which must be
   * installed. `templateValues` are variables of the template, such as `tools`.
   *
   * Special tokens in the rendered text are read as such. A message that spells one, such as
   * `<|im_end|>`, is refused. `templateValues` are not looked at: keep text of users out of them.
   */
  chat(
    messages: Message[],
    options?: GenerateOptions & Signal & { templateValues?: object },
  ): AsyncIterable<string>;
  /** Computes text, without generating any. The context is emptied before, unless `append`. */
  feed(text: string, options?: PromptOptions): Promise<void>;
  /** The token ids of a text, as `generate` would see it at the start of a context. */
  tokenize(
    text: string,
    options?: { addSpecial?: boolean; parseSpecial?: boolean },
  ): Promise<number[]>;
  /** The text of token ids. */
  decode(ids: Iterable<number>): Promise<string>;
  /** The digest of all logits of 72 tokens: on every machine the same. */
  digest(): Promise<string>;
  /** The context in bytes. Devices and hosts can restore it, too. */
  snapshot(): Promise<Uint8Array>;
  /** Replaces the context. What comes next is `generate(prompt, { append: true })`. */
  restore(snapshot: ArrayBuffer | ArrayBufferView): Promise<void>;
  /** What a session with other limits would need. They are those of `load`, with its defaults. */
  plan(limits?: Pick<LoadOptions, "context" | "batch" | "kv">): Promise<Plan>;
  /** Bytes of memory that the model takes, all together. */
  memory(): Promise<number>;
  /** Frees the memory. */
  close(): void;
}

/** Opens an image and checks all of it. */
export function load(
  source: Source,
  options?: LoadOptions & { progress?: (progress: Progress) => void },
): Promise<Model>;

export class PocketlmError extends Error {
  /** The number of the error in pocketlm.h, if it is one of those. `RangeError`s are none. */
  readonly code?: number;
}
