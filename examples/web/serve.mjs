// Serves this folder: `node serve.mjs [PORT]`.
import { createReadStream, existsSync, statSync } from "node:fs";
import { createServer } from "node:http";
import { fileURLToPath } from "node:url";
import { extname, join, normalize } from "node:path";

const FOLDER = fileURLToPath(new URL(".", import.meta.url));
const TYPES = {
  ".html": "text/html; charset=utf-8",
  ".js": "text/javascript",
  ".mjs": "text/javascript",
  ".css": "text/css",
  ".wasm": "application/wasm",
};

/**
 * A server of this folder, listening on this machine alone; port 0 is any free one. `others` are
 * paths of files elsewhere, or functions that answer, by the names that they are asked for.
 */
export async function serve(port, others = {}) {
  const server = createServer((request, response) => {
    const path = pathOf(request.url);
    if (!path) return response.writeHead(400).end();
    if (typeof others[path] === "function") return others[path](request, response);
    const file = others[path] ?? join(FOLDER, path === "/" ? "index.html" : path);
    const isServed = path in others || file.startsWith(FOLDER);
    if (!isServed || !existsSync(file) || !statSync(file).isFile()) {
      return response.writeHead(404).end();
    }
    const { size, mtimeMs } = statSync(file);
    // A download that was cut goes on from a byte.
    const [, from] = /^bytes=(\d+)-$/.exec(request.headers.range) ?? [];
    const start = Number(from ?? 0);
    if (start >= size && start > 0) return response.writeHead(416).end();
    response.writeHead(from === undefined ? 200 : 206, {
      "content-type": TYPES[extname(file)] ?? "application/octet-stream",
      "content-length": size - start,
      ...(from === undefined ? {} : { "content-range": `bytes ${start}-${size - 1}/${size}` }),
      etag: `"${size}-${mtimeMs}"`,
      "cache-control": "no-cache",
      // Cross-origin isolated: threads may share memory.
      "cross-origin-opener-policy": "same-origin",
      "cross-origin-embedder-policy": "require-corp",
    });
    createReadStream(file, { start }).pipe(response);
  });
  await new Promise((done) => server.listen(port, "127.0.0.1", done));
  return { server, address: `http://127.0.0.1:${server.address().port}/` };
}

/** The path that a request asks for; nothing if that is malformed. */
function pathOf(url) {
  try {
    const path = normalize(decodeURIComponent(new URL(url, "http://localhost").pathname));
    return path.includes("\0") ? undefined : path;
  } catch {
    return undefined;
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { address } = await serve(Number(process.argv[2] ?? 8080));
  console.log(address);
}
