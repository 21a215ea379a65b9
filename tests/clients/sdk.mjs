// The Node libraries of OpenAI and Anthropic against the server: `cargo xtask clients sdk-node` runs this.
//
// SERVER is the server's URL, KEY the key that it asks for, PACKAGES the folder that the libraries are in. What the model is like,
// and why it is held to words, is told in sdk.py.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";
import { test } from "node:test";

const require = createRequire(join(process.env.PACKAGES, "index.js"));
const { OpenAI } = require("openai");
const { Anthropic } = require("@anthropic-ai/sdk");

const { SERVER, KEY } = process.env;
const MODEL = "micro";
const MARKS = ["</think>", "｜DSML｜"];
const messages = [{ role: "user", content: "Hello" }];
const schema = { type: "object", properties: { path: { type: "string" }, n: { type: "integer" } }, required: ["path"] };
const input = { path: 'a "b"', n: 3 };
const CALL =
  "I wonder.</think>Let me look.\n\n<｜DSML｜tool_calls>\n" +
  '<｜DSML｜invoke name="look">\n<｜DSML｜parameter name="path" string="true">a "b"</｜DSML｜parameter>\n' +
  '<｜DSML｜parameter name="n" string="false">3</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>';
const SEEN = "I see.</think>It is a file.";

const openai = new OpenAI({ baseURL: SERVER + "/v1", apiKey: KEY, maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: SERVER, authToken: KEY, maxRetries: 0 });

// Fields that have the model say exactly this, marks included.
async function said(text) {
  const headers = { "Content-Type": "application/json", Authorization: `Bearer ${KEY}` };
  const body = JSON.stringify({ content: MARKS.join(""), parse_special: true });
  const { tokens } = await (await fetch(SERVER + "/tokenize", { method: "POST", headers, body })).json();
  const words = text.split(new RegExp(`(${MARKS.join("|")})`)).filter((word) => word);
  const rule = words.map((word) => (MARKS.includes(word) ? `<[${tokens[MARKS.indexOf(word)]}]>` : JSON.stringify(word)));
  return { structured_outputs: { grammar: `start: ${rule.join(" ")}`, raw: true } };
}

async function all(stream) {
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}

test("openai: models are listed and found", async () => {
  assert.deepEqual((await all(openai.models.list())).map((model) => model.id), [MODEL]);
  await assert.rejects(openai.models.retrieve("other"), OpenAI.NotFoundError);
});

test("openai: a stream says what the whole says", async () => {
  const fields = { model: MODEL, messages, max_tokens: 12, temperature: 0, reasoning_effort: "none" };
  const whole = await openai.chat.completions.create(fields);
  const options = { stream: true, stream_options: { include_usage: true } };
  const chunks = await all(await openai.chat.completions.create({ ...fields, ...options }));
  const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(chunks.at(-1).usage.completion_tokens, 12);
});

test("openai: a call goes there and its result back", async () => {
  const tools = [{ type: "function", function: { name: "look", parameters: schema } }];
  const first = await openai.chat.completions.create({ model: MODEL, messages, tools, ...(await said(CALL)) });
  const { message, finish_reason } = first.choices[0];
  assert.equal(finish_reason, "tool_calls");
  assert.deepEqual(JSON.parse(message.tool_calls[0].function.arguments), input);
  const told = [...messages, message, { role: "tool", tool_call_id: message.tool_calls[0].id, content: "A file." }];
  const fields = { model: MODEL, messages: told, tools, ...(await said(SEEN)) };
  const second = await openai.chat.completions.stream(fields).finalChatCompletion();
  assert.equal(second.choices[0].message.content, "It is a file.");
});

test("openai: responses, with a call and its result", async () => {
  const tools = [{ type: "function", name: "look", parameters: schema, strict: false }];
  const fields = { model: MODEL, tools, store: false, include: ["reasoning.encrypted_content"] };
  const first = await openai.responses.create({ ...fields, input: messages, ...(await said(CALL)) });
  assert.deepEqual(first.output.map((item) => item.type), ["reasoning", "message", "function_call"]);
  const call = first.output[2];
  assert.deepEqual(JSON.parse(call.arguments), input);
  const result = { type: "function_call_output", call_id: call.call_id, output: "A file." };
  const told = [...messages, ...first.output, result];
  const events = await all(await openai.responses.create({ ...fields, input: told, stream: true, ...(await said(SEEN)) }));
  assert.equal(events.at(-1).type, "response.completed");
  const { usage } = events.at(-1).response;
  assert.ok(usage.input_tokens_details.cached_tokens >= first.usage.total_tokens - 1, JSON.stringify(usage));
});

test("openai: what cannot be done is refused by its name", async () => {
  const refused = (fields) => openai.chat.completions.create({ model: MODEL, messages, ...fields });
  await assert.rejects(refused({ temprature: 1 }), { status: 400, param: "temprature" });
  await assert.rejects(refused({ messages: [{ role: "user", content: "x".repeat(5000) }] }), { code: "context_length_exceeded" });
  await assert.rejects(openai.withOptions({ apiKey: "another-key-of-somebody" }).models.list(), OpenAI.AuthenticationError);
});

test("anthropic: a stream says what the whole says", async () => {
  const fields = { model: MODEL, messages, max_tokens: 12, temperature: 0, thinking: { type: "disabled" } };
  const whole = await anthropic.messages.create(fields);
  const streamed = await anthropic.messages.stream(fields).finalMessage();
  assert.equal(whole.stop_reason, "max_tokens");
  assert.equal(streamed.content[0].text, whole.content[0].text);
  const counted = await anthropic.messages.countTokens({ model: MODEL, messages, thinking: { type: "disabled" } });
  assert.equal(counted.input_tokens, whole.usage.input_tokens + whole.usage.cache_read_input_tokens);
});

test("anthropic: a call goes there and its result back", async () => {
  const tools = [{ name: "look", description: "Looks.", input_schema: schema }];
  const fields = { model: MODEL, tools, max_tokens: 1000, thinking: { type: "adaptive", display: "omitted" } };
  const first = await anthropic.messages.stream({ ...fields, messages, ...(await said(CALL)) }).finalMessage();
  assert.deepEqual(first.content.map((block) => block.type), ["thinking", "text", "tool_use"]);
  assert.deepEqual(first.content[2].input, input);
  const result = { type: "tool_result", tool_use_id: first.content[2].id, content: "A file." };
  const told = [...messages, { role: "assistant", content: first.content }, { role: "user", content: [result] }];
  const second = await anthropic.messages.create({ ...fields, messages: told, ...(await said(SEEN)) });
  assert.equal(second.content.at(-1).text, "It is a file.");
  const known = second.usage.cache_read_input_tokens;
  assert.ok(known >= first.usage.input_tokens + first.usage.cache_read_input_tokens + first.usage.output_tokens - 1);
});

test("anthropic: what cannot be done is refused", async () => {
  const refused = anthropic.messages.create({ model: MODEL, messages, max_tokens: 1, temprature: 1 });
  await assert.rejects(refused, { status: 400, message: /temprature: there is no such field/ });
  const other = new Anthropic({ baseURL: SERVER, apiKey: "another-key-of-somebody", maxRetries: 0 });
  await assert.rejects(other.messages.create({ model: MODEL, messages, max_tokens: 1 }), Anthropic.AuthenticationError);
});
