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
    /** @type {[string, number, Part[]][]} */
    const memories = [
      ["Flash", flash, [["image", model.info.imageBytes, "a"], ["code, at most", code, "b"]]],
      ["RAM", ram, ramParts(plan)],
    ];
    at("plan").replaceChildren(...memories.map((memory) => draw(...memory)));
    const missing = memories.flatMap(([name, room, parts]) =>
      sum(parts) > room ? `${name} lacks ${grouped(sum(parts) - room)} bytes.` : [],
    );
    const fits = missing.length === 0;
    say(fits ? "It fits." : ["It does not fit.", ...missing].join(" "), !fits);
  } catch (error) {
    if (mine !== draws) return;
    at("plan").replaceChildren();
    say(error instanceof Error ? error.message : String(error), true);
  }
}

/**
 * @param {string} text
 * @param {boolean} isError
 */
function say(text, isError) {
  at("plan-verdict").textContent = text;
  at("plan-verdict").classList.toggle("error", isError);
}

/** @param {Part[]} parts */
function sum(parts) {
  return parts.reduce((bytes, [, more]) => bytes + more, 0);
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
function draw(name, room, parts) {
  const used = sum(parts);
  const fits = used <= room;
  const difference = Math.abs(room - used);
  const bar = element("div");
  bar.className = "bar";
  // The table says the same.
  bar.ariaHidden = "true";
  for (const [, bytes, colour] of [...parts, ["", fits ? difference : 0, "free"]]) {
    const part = element("span");
    part.className = `part-${colour}`;
    part.style.flexGrow = String(bytes);
    bar.append(part);
  }
  if (!fits) {
    const limit = element("i");
    limit.style.left = `${(100 * room) / used}%`;
    bar.append(limit);
  }
  const figure = element("figure");
  const caption = element("figcaption", `${name}: ${grouped(used)} of ${grouped(room)} bytes`);
  const rest = fits ? "free" : "missing";
  figure.append(caption, bar, table(name, [...parts, [rest, difference, "free"]]));
  return figure;
}

/**
 * @param {string} name
 * @param {Part[]} rows
 */
function table(name, rows) {
  const made = element("table");
  const head = made.createTHead().insertRow();
  for (const title of [name, "Bytes"]) {
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
