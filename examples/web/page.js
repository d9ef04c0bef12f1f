// The demo page. The story model tells its story at once; a file takes its place.
// @ts-check
import { load } from "./lib/index.js";
import { BOARDS, DIGEST, STORY } from "./boards.js";
import { drawPlan, listChips } from "./plan.js";

/** @import { Model, Source } from "./lib/types.d.ts" */

/** @param {string} id */
const at = (id) => /** @type {any} */ (document.getElementById(id));

/** @type {Model | undefined} */
let model;
/** What is loaded, to load it again with other settings.
 * @type {Source} */
let source = STORY;
/** Ends the text that is being generated. */
let stopper = new AbortController();
/** How many images were to be opened. */
let opens = 0;

at("story").addEventListener("submit", (/** @type {Event} */ event) => {
  event.preventDefault();
  if (isEnabled("generate")) generate();
});
at("stop").addEventListener("click", () => stopper.abort());
at("digest").addEventListener("click", () => isEnabled("digest") && digest());
at("file").addEventListener("change", () => at("file").files[0] && open(at("file").files[0]));
at("context").addEventListener("change", () => open(source));
at("kv").addEventListener("change", () => open(source));
at("threads").addEventListener("change", () => open(source));
at("threads").max = String(navigator.hardwareConcurrency);
at("threads").disabled = !crossOriginIsolated;
for (const id of ["chip", "plan-context", "plan-batch", "plan-kv"]) {
  at(id).addEventListener("change", () => drawPlan(model));
}
for (const name of ["dragenter", "dragover", "dragleave", "drop"]) {
  document.addEventListener(name, drag);
}
listBoards();
listChips();
await open(STORY);
if (model) generate();
// After what the reader waits for.
navigator.serviceWorker?.register("service-worker.js").catch(() => {});

/** @param {any} event */
function drag(event) {
  // Text may be dropped into the prompt as ever.
  if (!event.dataTransfer.types.includes("Files")) return;
  event.preventDefault();
  at("drop").classList.toggle("over", event.type === "dragenter" || event.type === "dragover");
  const file = event.type === "drop" && event.dataTransfer.files[0];
  if (file) open(file);
}

/**
 * Opens an image. The model before stays if it cannot be opened. What was begun before is ignored.
 * @param {Source} image
 */
async function open(image) {
  const name = image instanceof File ? image.name : "the story model";
  opens += 1;
  const mine = opens;
  stopper.abort();
  enable(["generate", "digest"], false);
  say(`Loading ${name}…`);
  at("progress").hidden = false;
  try {
    const opened = await load(image, {
      context: Number(at("context").value) || undefined,
      kv: at("kv").value,
      threads: Number(at("threads").value) || undefined,
      progress: ({ loaded, total }) => {
        if (mine === opens) at("progress").value = loaded / total;
      },
    });
    if (mine !== opens) return opened.close();
    model?.close();
    [model, source] = [opened, image];
    const { layers, vocabSize } = model.info;
    const counted = layers === 1 ? "1 layer" : `${layers} layers`;
    say(`${capital(name)} is loaded: ${counted}, ${vocabSize} tokens.`);
    at("verdict").textContent = "";
    await showModel();
    await drawPlan(model);
  } catch (error) {
    if (mine === opens) say(String(error instanceof Error ? error.message : error), true);
  }
  if (mine !== opens) return;
  at("progress").hidden = true;
  enable(["generate", "digest"], model !== undefined);
}

async function generate() {
  if (!model) return;
  stopper.abort();
  stopper = new AbortController();
  const { signal } = stopper;
  const prompt = at("prompt").value;
  const output = at("output");
  const sampling = {
    temperature: Number(at("temperature").value),
    seed: Number(at("seed").value),
    topP: 0.9,
  };
  const text = model.generate(prompt, { sampling, signal });
  const begun = performance.now();
  let first = 0;
  output.textContent = prompt;
  output.classList.remove("error");
  // A screen reader waits until the text is complete.
  output.ariaBusy = "true";
  enable(["stop"], true);
  try {
    for await (const piece of text) {
      first ||= performance.now() - begun;
      output.append(piece);
      showSpeed(text.tokens, first, performance.now() - begun);
    }
  } catch (error) {
    if (!signal.aborted) fail(output, error);
  }
  if (signal === stopper.signal) {
    enable(["stop"], false);
    output.ariaBusy = "false";
  }
}

/**
 * @param {number} tokens
 * @param {number} first
 * @param {number} elapsed
 */
function showSpeed(tokens, first, elapsed) {
  at("tokens").textContent = tokens;
  at("first").textContent = `${first.toFixed(0)} ms`;
  at("speed").textContent = ((1000 * tokens) / elapsed).toFixed(0);
}

async function showModel() {
  if (!model) return;
  const { imageBytes, arenaBytes, context, simd, threads, cached } = model.info;
  at("image").textContent = size(imageBytes);
  at("arena").textContent = `${size(arenaBytes)} for ${context} tokens`;
  const kernels = simd ? "SIMD" : "portable";
  at("kernels").textContent = `${kernels}, ${threads} ${threads === 1 ? "thread" : "threads"}`;
  at("cached").textContent = cached ? "yes" : "no";
  at("memory").textContent = size(await model.memory());
}

async function digest() {
  if (!model) return;
  const asked = model;
  enable(["digest"], false);
  at("verdict").classList.remove("error");
  at("verdict").textContent = "Computing…";
  try {
    const found = await model.digest();
    if (asked !== model) return;
    const isStory = source === STORY;
    const same = found === DIGEST;
    listBoards(found, isStory ? same : undefined);
    at("verdict").textContent = isStory
      ? `${found}: ${same ? "the bits of every board" : "not the bits of the boards"}.`
      : `${found}. The boards' digests are those of the story model.`;
  } catch (error) {
    if (asked !== model) return;
    fail(at("verdict"), error);
  }
  enable(["digest"], true);
}

/**
 * @param {string} [found] this machine's digest
 * @param {boolean} [same]
 */
function listBoards(found, same) {
  const mark = same === undefined ? "" : same ? "✓ yes" : "✗ no";
  const rows = BOARDS.map(([, core]) => [core, mark, DIGEST]);
  if (found) rows.unshift(["this browser", "", found]);
  at("boards").replaceChildren(
    ...rows.map(([core, verdict, digest]) => {
      const row = document.createElement("tr");
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = core;
      row.append(head);
      row.insertCell().textContent = verdict;
      row.insertCell().textContent = digest;
      return row;
    }),
  );
}

/**
 * Enables buttons, or not. They keep the keyboard's focus, which `disabled` would take away.
 * @param {string[]} buttons
 * @param {boolean} on
 */
function enable(buttons, on) {
  for (const button of buttons) at(button).ariaDisabled = String(!on);
}

/** @param {string} button */
function isEnabled(button) {
  return at(button).ariaDisabled === "false";
}

/**
 * @param {string} text
 */
function say(text, isError = false) {
  at("status").textContent = text;
  at("status").classList.toggle("error", isError);
}

/**
 * @param {any} place
 * @param {any} error
 */
function fail(place, error) {
  place.textContent = error.message;
  place.classList.add("error");
}

/** @param {number} bytes */
function size(bytes) {
  const kilobytes = bytes / 2 ** 10;
  return kilobytes < 1024 ? `${kilobytes.toFixed(0)} KB` : `${(kilobytes / 1024).toFixed(1)} MB`;
}

/** @param {string} text */
function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}
