// Where images come from: a URL, a file, a buffer. They are copied into memory piece by piece.
// @ts-check
import { Download, piecesOf } from "./download.js";
import { C, PocketlmError } from "./library.js";

/** @import { Source, Progress } from "./types.d.ts" */
/** @import { Library } from "./library.js" */

const HEADER_BYTES = 256;
/** Bytes that Node reads at once. */
const PIECE_BYTES = 2 ** 20;
/** More than any compiled grammar has. */
const MOST_GRAMMAR = 2 ** 26;

/**
 * The bytes of an image that is on its way.
 * @typedef {{name: string, pieces: AsyncIterable<Uint8Array>}} Pieces
 */

/**
 * Puts an image into memory and calls `open` with its place.
 * @template T
 * @param {Library} library
 * @param {Source} source
 * @param {boolean} cache
 * @param {(progress: Progress) => void} progress
 * @param {(start: number, bytes: number) => T} open checks the image
 * @returns {Promise<{opened: T, start: number, bytes: number, cached: boolean}>}
 */
export async function readImage(library, source, cache, progress, open) {
  if (/^https?:/.test(String(source))) {
    const download = await Download.of(String(source), cache);
    return readDownload(library, download, String(source), progress, open);
  }
  const image = await readPieces(library, await begin(source), progress, open);
  return { ...image, cached: false };
}

/**
 * Reads an image of a server. One that is kept but damaged is fetched anew, as one that has changed
 * while its download was cut.
 * @template T
 * @param {Library} library
 * @param {Download} download
 * @param {string} name
 * @param {(progress: Progress) => void} progress
 * @param {(start: number, bytes: number) => T} open
 */
async function readDownload(library, download, name, progress, open) {
  const read = async (/** @type {boolean} */ anew) => {
    try {
      const pieces = download.pieces(anew);
      const image = await readPieces(library, { name, pieces }, progress, open);
      return { ...image, cached: download.isKept };
    } catch (error) {
      // What is kept stays until another image is there.
      if (isDamage(error) && (anew || !download.isJoined)) await download.forget();
      throw error;
    }
  };
  const mark = library.mark;
  let damage;
  try {
    return await read(false);
  } catch (error) {
    if (!isDamage(error) || !download.isJoined) throw error;
    damage = error;
  }
  library.release(mark);
  try {
    return await read(true);
  } catch (error) {
    if (error instanceof Error) error.cause ??= damage;
    throw error;
  }
}

/**
 * Whether an image is wrong. The errors with a number are those of the image.
 * @param {unknown} error
 */
function isDamage(error) {
  return error instanceof PocketlmError && error.code !== undefined;
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
    const { start, bytes } = await copy(library, imageOf(source.pieces), progress);
    return { opened: open(start, bytes), start, bytes };
  } catch (error) {
    if (error instanceof PocketlmError) error.message = `${source.name}: ${error.message}`;
    throw error;
  }
}

/**
 * The pieces of an image, also of one that is made of a GGUF file.
 * @param {AsyncIterable<Uint8Array>} pieces
 */
async function* imageOf(pieces) {
  /** @type {Uint8Array[]} */
  const gguf = [];
  let isImage = false;
  for await (const piece of pieces) {
    isImage ||= gguf.length === 0 && !begins(piece, "GGUF");
    if (isImage) yield piece;
    else gguf.push(piece);
  }
  if (gguf.length === 0) return;
  const { packGguf } = await import("./gguf.js");
  yield await packGguf(gguf);
}

/**
 * @param {Uint8Array} bytes
 * @param {string} text
 */
function begins(bytes, text) {
  return [...text].every((letter, index) => bytes[index] === letter.charCodeAt(0));
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
  if (!begins(header, "pocketlm")) throw library.error(C.PLM_ERROR_NOT_AN_IMAGE);
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
 * Whether a source is fetched. Paths and `file:` URLs are read by Node.
 * @param {Source} source
 * @returns {source is string | URL}
 */
function isWeb(source) {
  const isAddress = typeof source === "string" || source instanceof URL;
  return isAddress && /^(https?|blob|data):/.test(String(source));
}
