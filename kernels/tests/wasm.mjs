// Runs a test program of Rust in Node: `node wasm.mjs PROGRAM.wasm`. A test that fails traps, and the trace names it.
import { readFileSync } from "node:fs";

const module = new WebAssembly.Module(readFileSync(process.argv[2]));
const { exports } = new WebAssembly.Instance(module);
process.exit(exports.main(0, 0));
