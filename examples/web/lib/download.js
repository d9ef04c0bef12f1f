// Images that are fetched. A browser keeps them in parts, so a download that was cut goes on.
// @ts-check
import { C, PocketlmError } from "./library.js";

const CACHE = "pocketlm-images";
/** About as many bytes are kept together, and lost if the page is closed. */
const PART_BYTES = 2 ** 23;
/** The headers of a part that name the version of the file, and say that nothing comes after. */
const VERSION = "x-pocketlm-version";
const LAST = "x-pocketlm-last";

/** An image of a server. */
export class Download {
  #url;
  /** @type {Cache | undefined} */
  #store;
  /** @type {string | null} */
  #version = null;
  /** Whether the pieces came from the browser's store, or from several answers of the server. */
  isJoined = false;

  /**
   * @param {string} url
   * @param {boolean} cache
   */
  static async of(url, cache) {
    return new Download(url, cache ? await openCache() : undefined);
  }

  /**
   * @param {string} url
   * @param {Cache} [store]
   */
  constructor(url, store) {
    this.#url = url;
    this.#store = store;
  }

  /** Whether all pieces that were read are in the browser's store. */
  get isKept() {
    return this.#store !== undefined;
  }

  /**
   * All pieces, first those that are kept.
   * @param {boolean} [anew] without those
   */
  async *pieces(anew = false) {
    let at = 0;
    let part = anew ? undefined : await this.#part(at);
    while (part) {
      this.isJoined = true;
      const start = at;
      for await (const piece of readable(part)) {
        at += piece.length;
        yield piece;
      }
      const next = at > start ? await this.#part(at) : undefined;
      // Without a version, nothing is kept of a download that was cut.
      if (part.headers.has(LAST) || (!next && !this.#version)) return;
      part = next;
    }
    yield* this.#fetched(at);
  }

  /**
   * The part that begins at a byte, if it is kept and of the same version as those before.
   * @param {number} at
   */
  async #part(at) {
    const part = await this.#store?.match(this.#key(at));
    const version = part?.headers.get(VERSION) ?? null;
    if (at === 0) this.#version = version;
    return version === this.#version ? part : undefined;
  }

  /**
   * The pieces of the server. If the connection is lost, another one goes on.
   * @param {number} at the first byte
   */
  async *#fetched(at) {
    let response = await this.#request(at);
    if (at === 0) await this.forget();
    /** @type {{at: number, pieces: Uint8Array[]}} */
    let part = { at, pieces: [] };
    for (;;) {
      const start = at;
      try {
        for await (const piece of piecesOf(response.body)) {
          yield piece;
          if (at - part.at >= PART_BYTES) {
            await this.#keep(part);
            part = { at, pieces: [] };
          }
          at += piece.length;
          part.pieces.push(piece);
        }
        return await this.#keep(part, true);
      } catch (error) {
        if (this.#version) await this.#keep(part);
        part = { at, pieces: [] };
        if (!this.#version || at === start) throw lost(at, error);
      }
      this.isJoined = true;
      response = await this.#request(at);
    }
  }

  /**
   * The server's answer, from a byte on.
   * @param {number} at
   */
  async #request(at) {
    // Not If-Range, which other origins would have to allow: the version is compared here.
    const options = at > 0 ? { headers: { range: `bytes=${at}-` } } : {};
    const response = await fetch(this.#url, options).catch((error) => {
      throw at > 0 ? lost(at, error) : error;
    });
    const version = versionOf(response);
    if (at > 0 && (response.status !== 206 || version !== this.#version)) {
      await response.body?.cancel();
      throw new PocketlmError(
        "the server has another image now, or cannot go on with one", C.PLM_ERROR_TRUNCATED,
      );
    }
    if (!response.ok) throw new PocketlmError(`HTTP ${response.status}`);
    this.#version = version;
    return response;
  }

  /**
   * Keeps a part. That it does not fit is no error: it is fetched next time.
   * @param {{at: number, pieces: Uint8Array[]}} part
   */
  async #keep({ at, pieces }, isLast = false) {
    if (!this.#store || pieces.length === 0) return;
    const headers = new Headers();
    if (this.#version) headers.set(VERSION, this.#version);
    if (isLast) headers.set(LAST, "yes");
    try {
      const body = new Blob(/** @type {any} */ (pieces));
      await this.#store.put(this.#key(at), new Response(body, { headers }));
    } catch {
      await this.forget();
      this.#store = undefined;
    }
  }

  /** Deletes what is kept. */
  async forget() {
    for (let at = 0; ; ) {
      const part = await this.#store?.match(this.#key(at)).catch(() => undefined);
      if (!part) return;
      const bytes = await part.blob().then((blob) => blob.size, () => 0);
      await this.#store?.delete(this.#key(at));
      if (bytes === 0) return;
      at += bytes;
    }
  }

  /**
   * The name of a part: the first one has the image's.
   * @param {number} at
   */
  #key(at) {
    if (at === 0) return this.#url;
    const key = new URL(this.#url);
    key.searchParams.set("pocketlm-part", String(at));
    return key.href;
  }
}

/**
 * @param {number} at
 * @param {unknown} cause
 */
function lost(at, cause) {
  const megabytes = (at / 2 ** 20).toFixed(1);
  const error = new PocketlmError(`the connection was lost after ${megabytes} MB`);
  error.cause = cause;
  return error;
}

/**
 * What names the version of a file, if the server names it.
 * @param {Response} response
 */
function versionOf({ headers }) {
  const tag = headers.get("etag");
  return tag && !tag.startsWith("W/") ? tag : headers.get("last-modified");
}

/**
 * The pieces of a part that is kept. One that cannot be read is damaged.
 * @param {Response} part
 */
async function* readable({ body }) {
  try {
    yield* piecesOf(body);
  } catch (error) {
    const damage = new PocketlmError("the browser cannot read what it kept", C.PLM_ERROR_TRUNCATED);
    damage.cause = error;
    throw damage;
  }
}

/**
 * The pieces of a stream. Safari's streams are no iterables.
 * @param {ReadableStream<Uint8Array> | null} stream
 */
export async function* piecesOf(stream) {
  const reader = stream?.getReader();
  if (!reader) return;
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      yield value;
    }
  } finally {
    await reader.cancel().catch(() => {});
  }
}

/** The browser may have no cache, or not give one to this page. */
async function openCache() {
  try {
    return await globalThis.caches?.open(CACHE);
  } catch {
    return undefined;
  }
}
