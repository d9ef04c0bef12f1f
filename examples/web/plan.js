// The page's picture of what an image takes of a board's flash and RAM.
// @ts-check
import { CHIPS, STACK_BYTES } from "./boards.js";

/** @import { Model, Plan } from "./lib/types.d.ts" */

/**
 * A part of a memory: its name, its bytes, its colour.
 * @typedef {[string, number, string]} Part
 */

/** @param {string} id */
const at = (id) => /** @type {any} */ (document.getElementById(id));

/** How many pictures were to be drawn. */
let draws = 0;

/**
 * Draws the picture of the board and the limits that are chosen.
 * @param {Model | undefined} model
 */
export async function drawPlan(model) {
  if (!model) return;
  draws += 1;
  const mine = draws;
  const [, , code, flash, ram] = CHIPS[at("chip").selectedIndex].map((KiB) => Number(KiB) * 1024);
  try {
    const plan = await model.plan({
      context: Number(at("plan-context").value),
      batch: Number(at("plan-batch").value),
      kv: at("plan-kv").value,
    });
    if (mine !== draws) return;
    at("plan").replaceChildren(
      memory("flash", flash, [["image", model.info.imageBytes, "a"], ["code, at most", code, "b"]]),
      memory("RAM", ram, ramParts(plan)),
    );
    at("plan-error").textContent = "";
  } catch (error) {
    if (mine !== draws) return;
    at("plan").replaceChildren();
    at("plan-error").textContent = error instanceof Error ? error.message : String(error);
  }
}

/** Lists the boards. */
export function listChips() {
  at("chip").replaceChildren(
    ...CHIPS.map(([name, about]) => {
      const option = document.createElement("option");
      option.textContent = `${name}: ${about}`;
      option.value = name;
      return option;
    }),
  );
}

/**
 * @param {Plan} plan
 * @returns {Part[]}
 */
function ramParts({ arenaBytes, parts }) {
  const { cache, logits, scratch } = parts;
  return [
    ["keys and values", cache, "a"],
    ["logits", logits, "b"],
    ["scratch of attention and feed-forward", scratch, "c"],
    ["rest of the arena", arenaBytes - cache - logits - scratch, "d"],
    ["stack, at most", STACK_BYTES, "e"],
  ];
}

/**
 * The bar and the table of a memory.
 * @param {string} name
 * @param {number} room
 * @param {Part[]} parts
 */
function memory(name, room, parts) {
  const used = parts.reduce((sum, [, bytes]) => sum + bytes, 0);
  const fits = used <= room;
  const last = fits ? "free" : "missing";
  const difference = Math.abs(room - used);
  const figure = element("figure");
  const verdict = fits ? "fits" : "does not fit";
  const caption = element("figcaption", `It ${verdict} into ${name}.`);
  caption.className = fits ? "" : "error";
  const bar = element("div");
  bar.className = "bar";
  // The table says the same.
  bar.ariaHidden = "true";
  for (const [, bytes, colour] of parts) {
    const part = element("span");
    part.className = `part-${colour}`;
    part.style.flexGrow = String(bytes);
    bar.append(part);
  }
  if (fits) {
    const rest = element("span");
    rest.style.flexGrow = String(difference);
    bar.append(rest);
  } else {
    const limit = element("i");
    limit.style.left = `${(100 * room) / used}%`;
    bar.append(limit);
  }
  figure.append(caption, bar, table(name, [...parts, [last, difference, ""]], room));
  return figure;
}

/**
 * @param {string} name
 * @param {Part[]} rows
 * @param {number} room
 */
function table(name, rows, room) {
  const made = element("table");
  const head = made.createTHead().insertRow();
  for (const title of [`Part of ${grouped(room)} bytes of ${name}`, "Bytes"]) {
    const cell = element("th", title);
    cell.scope = "col";
    head.append(cell);
  }
  const body = made.createTBody();
  for (const [part, bytes, colour] of rows) {
    const row = body.insertRow();
    const cell = element("th");
    cell.scope = "row";
    const mark = element("span");
    mark.className = `mark part-${colour}`;
    cell.append(mark, part);
    row.append(cell);
    row.insertCell().textContent = grouped(bytes);
  }
  return made;
}

/**
 * @template {keyof HTMLElementTagNameMap} N
 * @param {N} name
 * @param {string} [text]
 */
function element(name, text = "") {
  const made = document.createElement(name);
  made.textContent = text;
  return made;
}

/** @param {number} number */
function grouped(number) {
  return number.toLocaleString("en");
}
