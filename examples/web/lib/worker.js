// The Worker of a browser: it holds the engine, so that the page's thread never computes.
// @ts-check
import { Engine } from "./engine.js";
import { PocketlmError } from "./library.js";

/** @type {any} */
let engine;

/** @param {MessageEvent} event */
globalThis.onmessage = async ({ data: { call, name, parameters } }) => {
  if (name === "abort") return engine.abort(...parameters);
  try {
    postMessage({ call, result: await answer(name, parameters) });
  } catch (error) {
    postMessage({ call, error: plain(error) });
  }
};

/**
 * @param {string} name
 * @param {any[]} parameters
 */
async function answer(name, parameters) {
  if (name !== "load") return engine[name](...parameters);
  const [source, options] = parameters;
  engine = await Engine.load(source, options, (progress) => postMessage({ progress }));
  return engine.info();
}

/**
 * An error as it is sent.
 * @param {any} error
 * @returns {object}
 */
function plain(error) {
  const known = error instanceof PocketlmError;
  const { code, cause } = error;
  const message = known ? error.message : String(error);
  return { known, message, code, cause: cause instanceof Error ? plain(cause) : undefined };
}
