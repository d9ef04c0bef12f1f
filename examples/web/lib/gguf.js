// Makes images of GGUF files, with a module that is loaded only for this.
// @ts-check
import { C, moduleBytes, PocketlmError } from "./library.js";

/**
 * The image of a GGUF file.
 * @param {Uint8Array[]} file its pieces
 * @returns {Promise<Uint8Array>}
 */
export async function packGguf(file) {
  const url = new URL("./pocketlm-gguf.wasm", import.meta.url);
  const { instance } = await WebAssembly.instantiate(await moduleBytes(url), {});
  const { memory, room, pack, result, result_bytes } = /** @type {any} */ (instance.exports);
  const bytes = file.reduce((sum, { length }) => sum + length, 0);
  const tooLarge = "too little memory to make an image of a GGUF file; `pocketlm pack` makes one";
  let at = room(bytes) >>> 0;
  if (at === 0) throw new PocketlmError(tooLarge);
  for (const piece of file) {
    new Uint8Array(memory.buffer, at, piece.length).set(piece);
    at += piece.length;
  }
  let isImage;
  try {
    isImage = pack();
  } catch (error) {
    // Without memory the module ends.
    const thrown = new PocketlmError(tooLarge);
    thrown.cause = error;
    throw thrown;
  }
  const found = new Uint8Array(memory.buffer, result() >>> 0, result_bytes() >>> 0);
  if (isImage) return found;
  const reason = new TextDecoder().decode(found);
  throw new PocketlmError(`no image can be made of it: ${reason}`, C.PLM_ERROR_NOT_AN_IMAGE);
}
