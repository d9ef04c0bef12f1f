// Runs a program in Node: `node wasm32.mjs PROGRAM.wasm [IMAGES]`.
import { readFileSync, writeSync } from "node:fs";

const [program, images] = process.argv.slice(2);
const partition = images ? readFileSync(images) : new Uint8Array();
let start = 0;

const host = {
  images_start: () => start,
  images_length: () => partition.length,
  write: (stream, text, length) => {
    let bytes = new Uint8Array(memory.buffer, text, length);
    while (bytes.length > 0) bytes = bytes.subarray(writeSync(stream, bytes));
  },
  exit: (code) => process.exit(code),
};
const { instance } = await WebAssembly.instantiate(readFileSync(program), { host });
const { memory } = instance.exports;

// Behind all that the program has, at the start of a page.
start = memory.buffer.byteLength;
memory.grow(Math.ceil(partition.length / 65536));
new Uint8Array(memory.buffer).set(partition, start);
instance.exports.start();
