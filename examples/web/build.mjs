// Builds what the package and the page need beside their sources: the C interface (src/c) as three
// WebAssembly modules, with SIMD, without, and for threads; a module that makes images of GGUF
// files (gguf); and copies of the story model and the licenses. Prints how large the modules are,
// and the page with SIMD and without its model.
//
//   node build.mjs [--features q8]     features of src/c/Cargo.toml; without the option all
import { execFileSync } from "node:child_process";
import { copyFileSync, readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { gzipSync } from "node:zlib";

const root = fileURLToPath(new URL("../..", import.meta.url));
const here = fileURLToPath(new URL(".", import.meta.url));
const TARGET = "wasm32-unknown-unknown";

const option = process.argv.indexOf("--features");
const features =
  option < 0
    ? ["--features", "grammar"]
    : ["--no-default-features", "--features", process.argv[option + 1]];

/** For memory that threads share, the linker asks for a core library of the same features. */
const THREADS = {
  cargo: ["-Zbuild-std=core"],
  // The compiler that builds the other modules, which is to take the option.
  environment: { RUSTC_BOOTSTRAP: "1" },
  flags: [
    "-Clink-arg=--shared-memory",
    "-Clink-arg=--import-memory",
    // 20 pages, as lib/library.js has it, and what 32 bits can address.
    `-Clink-arg=--initial-memory=${20 * 65536}`,
    `-Clink-arg=--max-memory=${2 ** 32}`,
    // A thread has a stack of its own.
    "-Clink-arg=--export=__stack_pointer",
  ],
};
const NONE = { cargo: [], environment: {}, flags: [] };

for (const [file, cpu, more] of [
  ["pocketlm.wasm", "+simd128", NONE],
  ["pocketlm-plain.wasm", "-simd128", NONE],
  ["pocketlm-threads.wasm", "+simd128,+atomics,+bulk-memory", THREADS],
]) {
  const flags = [
    `-Ctarget-feature=${cpu}`,
    // JavaScript adds its callbacks to the table.
    "-Clink-arg=--export-table",
    "-Clink-arg=--growable-table",
    // A panic that can be reached is an import, which a test looks for.
    "-Clink-arg=--import-undefined",
    ...more.flags,
  ];
  const parameters = [
    "rustc", "--crate-type", "cdylib", "--manifest-path", `${root}/src/c/Cargo.toml`,
    "--config", "profile.release.strip=true",
    // The rest is small rather than fast.
    "--config", "profile.release.package.pocketlm-kernels.opt-level=3",
    ...features,
    ...more.cargo,
  ];
  const environment = { ...more.environment, CARGO_ENCODED_RUSTFLAGS: flags.join("\x1f") };
  build(file, "pocketlm_c", parameters, environment);
}
build("pocketlm-gguf.wasm", "pocketlm_gguf", [
  "build", "--manifest-path", `${here}/gguf/Cargo.toml`,
]);
copyFileSync(`${root}/src/bin/pocketlm/story/story.plm`, `${here}/story.plm`);
for (const license of ["LICENSE-MIT", "LICENSE-APACHE"]) {
  copyFileSync(`${root}/${license}`, `${here}/${license}`);
}

const page = [
  "index.html", "page.css", "page.js", "boards.js", "plan.js", "service-worker.js", "lib/index.js",
  "lib/check.js", "lib/download.js", "lib/engine.js", "lib/image.js", "lib/library.js",
  "lib/threads.js", "lib/worker.js", "lib/pocketlm.wasm",
];
console.log(`page: ${size(page)}`);

function size(files) {
  const contents = files.map((file) => readFileSync(`${here}/${file}`));
  const sum = (parts) => parts.reduce((bytes, part) => bytes + part.length, 0);
  const zipped = contents.map((content) => gzipSync(content, { level: 9 }));
  return `${sum(contents)} bytes, ${sum(zipped)} with gzip`;
}

/** Builds a module. Each has a folder of its own, or one would have the others built again. */
function build(file, library, [command, ...parameters], environment = {}) {
  const target = `${root}/target/web/${file}`;
  execFileSync(
    "cargo",
    [command, "--quiet", "--release", "--target", TARGET, ...parameters],
    { env: { ...process.env, CARGO_TARGET_DIR: target, ...environment }, stdio: "inherit" },
  );
  copyFileSync(`${target}/${TARGET}/release/${library}.wasm`, `${here}/lib/${file}`);
  console.log(`${file}: ${size([`lib/${file}`])}`);
}
