// The parts of the package fit together, and the README's examples run.
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { gzipSync } from "node:zlib";
import { BOARDS, CHIPS, DIGEST, STACK_BYTES, STORY as ADDRESS } from "../boards.js";
import { C } from "../lib/library.js";
import { serve } from "../serve.mjs";
import { gguf } from "./gguf.mjs";
import { PERSON, read, STORY } from "./images.mjs";

const here = new URL("../", import.meta.url);

test("numbers are those of pocketlm.h", () => {
  const header = read("src/c/include/pocketlm.h").toString();
  const lines = header.split("#if defined(PLM_64_BIT)").map((part, index) =>
    index === 0 ? part : part.slice(part.indexOf("#endif")),
  );
  const defined = Object.fromEntries(
    [...lines.join("").matchAll(/#define (PLM_\w+) (\d+)$/gm)].map(([, name, n]) => [name, +n]),
  );
  for (const [name, value] of Object.entries(C)) assert.equal(defined[name], value, name);
});

test("the page's table is that of the boards", () => {
  const table = read("examples/firmware/README.md").toString();
  const rows = [...table.matchAll(/^\| `([\w-]+)` \| `([0-9a-f]{16})` \|/gm)];
  assert.deepEqual(rows.map(([, board]) => board), BOARDS.map(([board]) => board));
  assert.ok(rows.every(([, , digest]) => digest === DIGEST));
  // The checksum of the image's header, which covers all of it.
  const checksum = Buffer.from(STORY).readUInt32LE(12).toString(16).padStart(8, "0");
  assert.equal(ADDRESS, `story.plm?${checksum}`);
});

const MODULES = ["pocketlm.wasm", "pocketlm-plain.wasm", "pocketlm-threads.wasm"];

test("the page's boards are those of the command line", () => {
  const source = read("src/bin/pocketlm/board.rs").toString();
  const KiB = (number, shift) => (number << (shift - 10)) >>> 0;
  const cores = Object.fromEntries(
    [...source.matchAll(/const (\w+): Core = .*?code: (\d+) << 10/gs)].map(([, ...core]) => core),
  );
  const board =
    /name: "(.+)",\s+about: "(.+)",\s+core: (\w+),\s+flash: (\d+) << (\d+),\s+ram: (\d+) << (\d+)/g;
  const boards = [...source.matchAll(board)].map(([, name, about, core, flash, of, ram, by]) => [
    name, about, Number(cores[core]), KiB(flash, of), KiB(ram, by),
  ]);
  assert.equal(boards.length, 9);
  assert.deepEqual(CHIPS, boards);
  assert.ok(source.includes(`const STACK: u64 = ${STACK_BYTES};`));
});

test("the modules import nothing but memory: no panic can be reached", () => {
  for (const name of MODULES) {
    const module = new WebAssembly.Module(readFileSync(new URL(`lib/${name}`, here)));
    const shared = [{ module: "env", name: "memory", kind: "memory" }];
    const expected = name === "pocketlm-threads.wasm" ? shared : [];
    assert.deepEqual(WebAssembly.Module.imports(module), expected);
  }
});

test("the modules take at most 68 KB to fetch", () => {
  for (const name of MODULES) {
    const bytes = gzipSync(readFileSync(new URL(`lib/${name}`, here)), { level: 9 }).length;
    assert.ok(bytes <= 68 * 1024, `${name}: ${bytes} bytes with gzip`);
  }
});

test("the module for GGUF files takes at most 1 MB, and imports nothing", () => {
  const bytes = readFileSync(new URL("lib/pocketlm-gguf.wasm", here));
  assert.ok(bytes.length <= 2 ** 20, `${bytes.length} bytes`);
  assert.deepEqual(WebAssembly.Module.imports(new WebAssembly.Module(bytes)), []);
});

test("what is published is the package, its modules and its licenses", () => {
  const command = ["pack", "--dry-run", "--json", "--ignore-scripts"];
  const [{ files }] = JSON.parse(execFileSync("npm", command, { cwd: here }));
  assert.deepEqual(
    files.map(({ path }) => path).sort(),
    [
      "LICENSE-APACHE", "LICENSE-MIT", "README.md", "lib/check.js", "lib/download.js",
      "lib/engine.js", "lib/gguf.js", "lib/helper.js", "lib/image.js", "lib/index.js",
      "lib/library.js", "lib/pocketlm-gguf.wasm", "lib/pocketlm-plain.wasm",
      "lib/pocketlm-threads.wasm", "lib/pocketlm.wasm", "lib/threads.js", "lib/types.d.ts",
      "lib/worker.js", "package.json",
    ],
  );
});

test("the server answers what it does not understand", async (context) => {
  const { server, address } = await serve(0);
  context.after(() => server.close());
  const status = async (path) => (await fetch(address + path)).status;
  for (const path of ["%", "%E0%A4%A", "%00"]) assert.equal(await status(path), 400, path);
  assert.equal(await status("..%2f..%2fCargo.toml"), 404);
  assert.equal(await status("no-such-file"), 404);
  assert.equal(await status(ADDRESS), 200);
  const from = (byte) => fetch(address + ADDRESS, { headers: { range: `bytes=${byte}-` } });
  const rest = await from(1000);
  assert.equal(rest.status, 206);
  assert.ok(Buffer.from(await rest.arrayBuffer()).equals(STORY.subarray(1000)));
  assert.equal((await from(STORY.length)).status, 416);
});

test("the README's examples run", () => {
  const blocks = [...read("examples/web/README.md").toString().matchAll(/```js\n(.*?)```/gs)];
  assert.ok(blocks.length >= 3);
  const folder = mkdtempSync(join(tmpdir(), "pocketlm-"));
  writeFileSync(join(folder, "story.plm"), STORY);
  writeFileSync(join(folder, "person.plg"), PERSON);
  writeFileSync(join(folder, "tiny.gguf"), gguf());
  try {
    for (const [, block] of blocks) {
      const program = block.replace('"pocketlm"', JSON.stringify(new URL("lib/index.js", here)));
      writeFileSync(join(folder, "example.mjs"), program);
      const printed = execFileSync("node", ["example.mjs"], { cwd: folder }).toString();
      for (const [, expected] of block.matchAll(/\/\/ prints (.*)$/gm)) {
        assert.ok(printed.includes(expected), `${expected}\n${printed}`);
      }
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
});
