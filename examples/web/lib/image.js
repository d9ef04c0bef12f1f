// Where images come from: a URL, a file, a buffer. They are copied into memory piece by piece, and
// those of a URL are kept by the browser.
// @ts-check
import { C, PocketlmError } from "./library.js";

/** @import { Source, Progress } from "./types.d.ts" */
/** @import { Library } from "./library.js" */

const CACHE = "pocketlm-images";
const HEADER_BYTES = 256;
/** Bytes of a piece of an image that is kept. */
const PIECE_BYTES = 2 ** 20;
/** More than any compiled grammar has. */
const MOST_GRAMMAR = 2 ** 26;

/**
 * The bytes of an image that is on its way.
 * @typedef {{name: string, pieces: AsyncIterable<Uint8Array>}} Pieces
 */

/**
 * Puts an image into memory and calls `open` with its place. An image that is kept but damaged is
 * fetched again.
 * @template T
 * @param {Library} library
 * @param {Source} source
 * @param {boolean} cache
 * @param {(progress: Progress) => void} progress
 * @param {(start: number, bytes: number) => T} open checks the image
 * @returns {Promise<{opened: T, start: number, bytes: number, cached: boolean}>}
 */
export async function readImage(library, source, cache, progress, open) {
  const store = cache && isWeb(source) ? await openCache() : undefined;
  const kept = await store?.match(String(source));
  const mark = library.mark;
  let damage;
  if (kept) {
    try {
      const pieces = { name: String(source), pieces: keptPieces(kept.body) };
      return { ...(await readPieces(library, pieces, progress, open)), cached: true };
    } catch (error) {
      // The errors with a number are those of the image. Another image needs no less memory.
      if (!(error instanceof PocketlmError) || error.code === undefined) throw error;
      library.release(mark);
      damage = error;
    }
  }
  try {
    const pieces = await begin(source);
    if (damage) await store?.delete(String(source));
    const image = await readPieces(library, pieces, progress, open);
    const cached = store ? await keep(store, String(source), library, image) : false;
    return { ...image, cached };
  } catch (error) {
    if (damage && error instanceof Error) error.cause ??= damage;
    throw error;
  }
}

/**
 * The pieces of an image that is kept. One that cannot be read is damaged.
 * @param {ReadableStream<Uint8Array> | null} body
 */
async function* keptPieces(body) {
  try {
    yield* piecesOf(body);
  } catch (error) {
    const damage = new PocketlmError("the browser cannot read what it kept", C.PLM_ERROR_TRUNCATED);
    damage.cause = error;
    throw damage;
  }
}

/**
 * @template T
 * @param {Library} library
 * @param {Pieces} source
 * @param {(progress: Progress) => void} progress
 * @param {(start: number, bytes: number) => T} open
 */
async function readPieces(library, source, progress, open) {
  try {
    const { start, bytes } = await copy(library, source.pieces, progress);
    return { opened: open(start, bytes), start, bytes };
  } catch (error) {
    if (error instanceof PocketlmError) error.message = `${source.name}: ${error.message}`;
    throw error;
  }
}

/**
 * Copies an image to where it stays. Its header says how long it is.
 * @param {Library} library
 * @param {AsyncIterable<Uint8Array>} pieces
 * @param {(progress: Progress) => void} progress
 */
async function copy(library, pieces, progress) {
  const header = new Uint8Array(HEADER_BYTES);
  let loaded = 0;
  let start = 0;
  let total = 0;
  for await (let piece of pieces) {
    if (total === 0) {
      const missing = piece.subarray(0, HEADER_BYTES - loaded);
      header.set(missing, loaded);
      loaded += missing.length;
      if (loaded < HEADER_BYTES) continue;
      total = imageBytes(library, header);
      start = library.allocate(total);
      library.bytes(start, HEADER_BYTES).set(header);
      piece = piece.subarray(missing.length);
    }
    if (loaded + piece.length > total) throw library.error(C.PLM_ERROR_TRUNCATED);
    library.bytes(start + loaded, piece.length).set(piece);
    loaded += piece.length;
    progress({ loaded, total });
  }
  if (total === 0) imageBytes(library, header.subarray(0, loaded));
  if (loaded < total || total === 0) throw library.error(C.PLM_ERROR_TRUNCATED);
  return { start, bytes: total };
}

/**
 * How long an image is, by its header.
 * @param {Library} library
 * @param {Uint8Array} header
 */
function imageBytes(library, header) {
  const begins = (/** @type {string} */ text) =>
    [...text].every((letter, index) => header[index] === letter.charCodeAt(0));
  if (begins("GGUF")) {
    throw new PocketlmError(
      "a GGUF file; make an image of it: pocketlm pack FILE.gguf -o FILE.plm",
      C.PLM_ERROR_NOT_AN_IMAGE,
    );
  }
  if (!begins("pocketlm")) throw library.error(C.PLM_ERROR_NOT_AN_IMAGE);
  if (header.length < HEADER_BYTES) throw library.error(C.PLM_ERROR_TRUNCATED);
  const bytes = numberAt(header, 16);
  const { offset, length } = chatTemplate(header);
  // The image ends with its last section. A wrong length would ask for wrong memory.
  if (Math.ceil((offset + length) / 64) * 64 !== bytes) throw library.error(C.PLM_ERROR_TRUNCATED);
  return bytes;
}

/**
 * Where the last section is, by the header. Its length is 0 if there is no template.
 * @param {Uint8Array} header
 */
export function chatTemplate(header) {
  return { offset: numberAt(header, 176), length: numberAt(header, 184) };
}

/**
 * @param {Uint8Array} header
 * @param {number} offset
 */
function numberAt(header, offset) {
  return Number(new DataView(header.buffer, header.byteOffset).getBigUint64(offset, true));
}

/**
 * All bytes of a compiled grammar.
 * @param {Source | undefined} source
 * @param {AbortSignal} [signal] ends it
 */
export async function readGrammar(source, signal) {
  if (source === undefined) return undefined;
  const { name, pieces } = await begin(source, signal);
  /** @type {Uint8Array[]} */
  const read = [];
  let length = 0;
  for await (const piece of pieces) {
    signal?.throwIfAborted();
    length += piece.length;
    if (length > MOST_GRAMMAR) throw new PocketlmError(`${name}: too long for a compiled grammar`);
    read.push(piece);
  }
  return new Uint8Array(await new Blob(/** @type {any} */ (read)).arrayBuffer());
}

/**
 * @param {Source} source
 * @param {AbortSignal} [signal] ends the fetch of a URL
 * @returns {Promise<Pieces>}
 */
async function begin(source, signal) {
  if (source instanceof ArrayBuffer || ArrayBuffer.isView(source)) {
    return { name: "image", pieces: onePiece(bytesOf(source)) };
  }
  if (source instanceof Blob) {
    const name = "name" in source ? String(source.name) : "image";
    return { name, pieces: piecesOf(source.stream()) };
  }
  if (!isWeb(source)) {
    const { createReadStream } = await import(
      /* webpackIgnore: true */ /* @vite-ignore */ "node:fs"
    );
    const path = String(source).startsWith("file:") ? new URL(source) : source;
    return { name: String(source), pieces: createReadStream(path, { highWaterMark: PIECE_BYTES }) };
  }
  const response = await fetch(source, { signal });
  if (!response.ok) throw new PocketlmError(`${source}: HTTP ${response.status}`);
  return { name: String(source), pieces: piecesOf(response.body) };
}

/**
 * The bytes of a buffer or of a view of one.
 * @param {ArrayBuffer | ArrayBufferView} source
 */
export function bytesOf(source) {
  if (source instanceof ArrayBuffer) return new Uint8Array(source);
  if (!ArrayBuffer.isView(source)) throw new TypeError("neither an ArrayBuffer nor a view of one");
  return new Uint8Array(source.buffer, source.byteOffset, source.byteLength);
}

/** @param {Uint8Array} bytes */
async function* onePiece(bytes) {
  yield bytes;
}

/**
 * The pieces of a stream. Safari's streams are no iterables.
 * @param {ReadableStream<Uint8Array> | null} stream
 */
async function* piecesOf(stream) {
  const reader = stream?.getReader();
  if (!reader) return;
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel();
  }
}

/**
 * Whether a source is fetched. Paths and `file:` URLs are read by Node.
 * @param {Source} source
 * @returns {source is string | URL}
 */
function isWeb(source) {
  const isAddress = typeof source === "string" || source instanceof URL;
  return isAddress && /^(https?|blob|data):/.test(String(source));
}

/** The browser may have no cache, or not give one to this page. */
async function openCache() {
  try {
    return await globalThis.caches?.open(CACHE);
  } catch {
    return undefined;
  }
}

/**
 * Keeps an image that was checked. That it does not fit is no error: it is fetched next time.
 * @param {Cache} store
 * @param {string} url
 * @param {Library} library
 * @param {{start: number, bytes: number}} image
 */
async function keep(store, url, library, { start, bytes }) {
  let done = 0;
  const body = new ReadableStream({
    pull(controller) {
      const piece = Math.min(PIECE_BYTES, bytes - done);
      if (piece === 0) return controller.close();
      controller.enqueue(library.bytes(start + done, piece).slice());
      done += piece;
    },
  });
  try {
    await store.put(url, new Response(body));
    return true;
  } catch {
    return false;
  }
}
