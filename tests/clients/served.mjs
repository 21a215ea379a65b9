// The server that the tests beside this file ask, and what is asked of it. What the models are like is told in served.py.
//
// SERVER is its URL, KEY the key that it asks for, MODEL its model's name, and PACKAGES the folder that the libraries are in.

import { createRequire } from "node:module";
import { join } from "node:path";

export const { SERVER, KEY, MODEL, PACKAGES } = process.env;
export const IS_REAL = MODEL !== "micro";
export const canCall = { skip: IS_REAL && "the model cannot call" };
export const makesSense = { skip: !IS_REAL && "the model's weights are random" };
export const require = createRequire(join(PACKAGES, "index.js"));

export const QUESTION = "What is the capital of France?";
export const messages = [{ role: "user", content: QUESTION }];
// More than there is room for.
export const long = [{ role: "user", content: [...Array(5000).keys()].join(" ") }];
export const CAPITALS = ["London", "Paris", "Rome"];
export const parameters = { type: "object", properties: { path: { type: "string" }, n: { type: "integer" } }, required: ["path"] };
export const input = { path: 'a "b"', n: 3 };
export const CALL =
  "I wonder.</think>Let me look.\n\n<｜DSML｜tool_calls>\n" +
  '<｜DSML｜invoke name="look">\n<｜DSML｜parameter name="path" string="true">a "b"</｜DSML｜parameter>\n' +
  '<｜DSML｜parameter name="n" string="false">3</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>';
export const SEEN = "I see.</think>It is a file.";

// The reply to a request that no library has a method for.
export async function ask(path, body) {
  const headers = { "Content-Type": "application/json", Authorization: `Bearer ${KEY}` };
  const request = body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers };
  return await fetch(SERVER + path, request);
}

// The ids of a text's tokens, names of special ones taken for these.
export async function tokens(text) {
  return (await (await ask("/tokenize", { content: text, parse_special: true })).json()).tokens;
}

// Fields that have the model say exactly this, in the tokens that it is cut into.
export async function said(text) {
  const rule = (await tokens(text)).map((id) => `<[${id}]>`);
  return { structured_outputs: { grammar: `start: ${rule.join(" ")}`, raw: true } };
}

// What comes, until nothing more does.
export async function all(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}
