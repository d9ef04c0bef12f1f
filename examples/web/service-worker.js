// Keeps the page itself, so that it opens without a network. Images are kept by lib/image.js.
const CACHE = "pocketlm-page";
const FILES = [
  "./", "page.css", "page.js", "boards.js", "lib/index.js", "lib/engine.js", "lib/image.js",
  "lib/library.js", "lib/worker.js", "lib/pocketlm.wasm",
];

addEventListener("install", (event) =>
  event.waitUntil(caches.open(CACHE).then((cache) => cache.addAll(FILES))),
);

addEventListener("fetch", (event) => {
  if (event.request.url.endsWith(".plm")) return;
  event.respondWith(
    fetch(event.request).catch(async () => (await caches.match(event.request)) ?? Response.error()),
  );
});
