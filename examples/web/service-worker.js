// Keeps the page itself, so that it opens without a network. Images are kept by lib/image.js.
const CACHE = "pocketlm-page";
const FILES = [
  "./", "page.css", "page.js", "boards.js", "plan.js", "lib/index.js", "lib/check.js",
  "lib/download.js", "lib/engine.js", "lib/image.js", "lib/library.js", "lib/threads.js",
  "lib/helper.js", "lib/gguf.js", "lib/worker.js", "lib/pocketlm.wasm", "lib/pocketlm-plain.wasm",
  "lib/pocketlm-threads.wasm",
];

addEventListener("install", (event) =>
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FILES))),
);

addEventListener("fetch", (event) => {
  const { method, url } = event.request;
  const { origin, pathname } = new URL(url);
  if (method !== "GET" || origin !== location.origin || pathname.endsWith(".plm")) return;
  event.respondWith(answer(event, pathname));
});

/** The newest response of the server, which is kept; without a network what was kept last. */
async function answer(event, pathname) {
  const cache = await caches.open(CACHE);
  try {
    const response = await fetch(event.request);
    if (response.status === 200 && !response.redirected) {
      event.waitUntil(cache.put(pathname, response.clone()).catch(() => {}));
    }
    return response;
  } catch {
    const kept = await cache.match(pathname);
    if (kept) return kept;
    const page = event.request.mode === "navigate" && (await cache.match("./"));
    return page || Response.error();
  }
}
