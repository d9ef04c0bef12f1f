// The story model, and images made from it.
import { readFileSync } from "node:fs";

const root = new URL("../../../", import.meta.url);

export const read = (path) => readFileSync(new URL(path, root));
export const STORY = new Uint8Array(read("src/bin/pocketlm/story/story.plm"));
/** How the command line samples its story, and what it tells. */
export const SAMPLING = { seed: 33, temperature: 0.5, topP: 0.9 };
export const PROMPT = "Once upon a time";
export const TEXT = read("tests/data/story.txt").toString().trimEnd();
/** The grammar of the README's example, compiled. */
export const PERSON = new Uint8Array(read("examples/web/tests/person.plg"));

/** The story model with one bit of a byte changed. */
export function flipped(offset) {
  const image = STORY.slice();
  image[offset] ^= 1;
  return image;
}

/** The story model with a chat template: src/model/image.rs describes the format. */
export function withTemplate(template) {
  const text = Buffer.from(template);
  const image = Buffer.alloc(STORY.length + Math.ceil(text.length / 64) * 64);
  image.set(STORY);
  image.set(text, STORY.length);
  image.writeBigUInt64LE(BigInt(image.length), 16);
  image.writeBigUInt64LE(BigInt(STORY.length), 176);
  image.writeBigUInt64LE(BigInt(text.length), 184);
  image.writeUInt32LE(crc32(text), 192);
  return sealed(image);
}

/** The story model with a tokenizer that puts a space before a text, as sentencepiece does. */
export function withSpaceBefore() {
  const image = Buffer.from(STORY);
  const start = Number(image.readBigUInt64LE(152));
  const end = start + Number(image.readBigUInt64LE(160));
  image[start + 8] = 2;
  image.writeUInt32LE(crc32(image.subarray(start, end)), 168);
  return sealed(image);
}

/** A compiled grammar of one special token and a text after it: src/grammar/mod.rs describes it. */
export function specialThen(special, text) {
  const [name, letters] = [Buffer.from(special), Buffer.from(text)];
  const code = Buffer.concat([Buffer.of(132, 0, 0, 0, 1, 0, 8, 0), letters, Buffer.of(131)]);
  const numbers = Buffer.alloc(12);
  numbers.writeUInt32LE(code.length, 4);
  const head = Buffer.of(80, 71, 82, 77, 1, 2, 0, 1);
  const rest = Buffer.concat([numbers, Buffer.of(name.length), name, code]);
  const checksum = Buffer.alloc(4);
  checksum.writeUInt32LE(crc32(Buffer.concat([head, rest])));
  return Buffer.concat([head, checksum, rest]);
}

/** An image with the right checksum of its header. */
function sealed(image) {
  image.writeUInt32LE(0, 12);
  image.writeUInt32LE(crc32(image.subarray(0, 256)), 12);
  return image;
}

/** The CRC-32 of zlib. */
function crc32(bytes) {
  let crc = ~0;
  for (const byte of bytes) {
    crc ^= byte;
    for (let bit = 0; bit < 8; bit += 1) crc = (crc >>> 1) ^ (crc & 1 ? 0xedb88320 : 0);
  }
  return ~crc >>> 0;
}

/** The token ids of a context: src/run/snapshot.rs describes the format. */
export async function contextOf(model) {
  const snapshot = Buffer.from(await model.snapshot());
  const count = snapshot.readUInt32LE(20);
  return Array.from({ length: count }, (_, index) => snapshot.readUInt32LE(40 + 4 * index));
}

/** The whole text that a model generates. */
export async function textOf(generation) {
  let text = "";
  for await (const piece of generation) text += piece;
  return text;
}

/**
 * An answering function of a server, of an image whose connections are cut. `cuts` says after how
 * many bytes, one after the other; then none is cut. A cut at -1 is no answer at all. What was
 * asked for goes to `asked`.
 */
export function cutting({ image = STORY, cuts, asked, etag = '"1"', ranges = true }) {
  return (request, response) => {
    const { range } = request.headers;
    asked.push(range);
    const cut = cuts.shift();
    if (cut === -1) return response.destroy();
    const start = range && ranges ? Number(/^bytes=(\d+)-$/.exec(range)[1]) : 0;
    const rest = image.subarray(start);
    const headers = { "content-length": rest.length, ...(etag ? { etag } : {}) };
    response.writeHead(range && ranges ? 206 : 200, headers);
    if (cut === undefined) return response.end(rest);
    response.flushHeaders();
    // What was sent arrives before the end.
    const end = () => setTimeout(() => response.destroy(), 50);
    if (cut === 0) end();
    else response.write(rest.subarray(0, cut), end);
  };
}
