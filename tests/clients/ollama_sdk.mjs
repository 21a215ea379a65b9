// Ollama's Node library against the server: `cargo xtask clients ollama-node` runs this.

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  all, CALL, CAPITALS, canCall, input, IS_REAL, KEY, long, makesSense, messages, MODEL, parameters, QUESTION, require, said, SEEN,
  SERVER,
} from "./served.mjs";

const { Ollama } = require("ollama");

const client = (key) => new Ollama({ host: SERVER, headers: { Authorization: `Bearer ${key}` } });
const ollama = client(KEY);
const fields = { model: MODEL, think: false };
const greedy = { temperature: 0, num_predict: 5 };

test("the model is listed and shown", async () => {
  assert.deepEqual((await ollama.list()).models.map((model) => model.name), [MODEL]);
  const shown = await ollama.show({ model: MODEL });
  assert.deepEqual(shown.capabilities, IS_REAL ? ["completion"] : ["completion", "tools", "thinking"]);
  assert.equal(shown.model_info[`${shown.details.family}.context_length`], 4096);
});

test("a stream says what the whole says", async () => {
  const chat = { ...fields, messages, options: greedy };
  const whole = await ollama.chat(chat);
  const parts = await all(await ollama.chat({ ...chat, stream: true }));
  assert.equal(parts.map((part) => part.message.content).join(""), whole.message.content);
  assert.deepEqual([parts.at(-1).done_reason, parts.at(-1).eval_count], ["length", 5]);
});

test("a prompt is answered or continued", async () => {
  for (const more of [{ prompt: QUESTION, system: "Be brief." }, { prompt: "The capital of France is", raw: true }]) {
    const text = { ...fields, ...more, options: greedy };
    const whole = await ollama.generate(text);
    const parts = await all(await ollama.generate({ ...text, stream: true }));
    assert.equal(parts.map((part) => part.response).join(""), whole.response);
    if (IS_REAL && more.raw) assert.match(whole.response, /^ Paris/);
  }
});

test("a question is answered", makesSense, async () => {
  const answer = await ollama.chat({ ...fields, messages, options: { temperature: 0 } });
  assert.match(answer.message.content, /Paris/);
  assert.equal(answer.done_reason, "stop");
});

test("an answer keeps to a schema", async () => {
  const format = { type: "object", properties: { capital: { enum: CAPITALS } }, required: ["capital"] };
  const answer = await ollama.chat({ ...fields, messages, format, options: { temperature: 0 } });
  const { capital } = JSON.parse(answer.message.content);
  assert.ok(IS_REAL ? capital === "Paris" : CAPITALS.includes(capital), capital);
});

test("it thinks, calls, and is told the result", canCall, async () => {
  const tools = [{ type: "function", function: { name: "look", description: "Looks.", parameters } }];
  const thinks = { model: MODEL, tools, think: true };
  const first = await all(await ollama.chat({ ...thinks, messages, stream: true, options: await said(CALL) }));
  const joined = (name) => first.map((part) => part.message[name] ?? "").join("");
  assert.deepEqual([joined("thinking"), joined("content")], ["I wonder.", "Let me look."]);
  const tool_calls = first.flatMap((part) => part.message.tool_calls ?? []);
  assert.deepEqual(tool_calls.map((call) => [call.function.name, call.function.arguments]), [["look", input]]);
  const turn = { role: "assistant", content: joined("content"), thinking: joined("thinking"), tool_calls };
  const told = [...messages, turn, { role: "tool", tool_name: "look", content: "A file." }];
  const second = await ollama.chat({ ...thinks, messages: told, options: await said(SEEN) });
  assert.deepEqual([second.message.thinking, second.message.content], ["I see.", "It is a file."]);
});

test("answers tell how likely their tokens were", async () => {
  const likely = { ...fields, messages, logprobs: true, top_logprobs: 3, options: await said("Fine.") };
  const { logprobs } = await ollama.chat(likely);
  assert.equal(logprobs.map((token) => token.token).join(""), "Fine.");
  assert.ok(logprobs.every((token) => token.top_logprobs.length === 3));
});

test("a stream can be broken off", async () => {
  const long = { structured_outputs: { regex: "([a-z]{9} ){200}" } };
  const stream = await ollama.chat({ ...fields, messages, stream: true, options: long });
  await assert.rejects(
    async () => {
      for await (const _ of stream) stream.abort();
    },
    { name: "AbortError" },
  );
});

test("what cannot be done is refused", async () => {
  const refused = (more) => ollama.chat({ ...fields, messages, ...more });
  await assert.rejects(refused({ model: "other" }), { name: "ResponseError", status_code: 404 });
  await assert.rejects(refused({ options: { temprature: 1 } }), { status_code: 400, message: /options\.temprature/ });
  await assert.rejects(refused({ messages: long, stream: true }), { status_code: 400, message: /but the context holds 4096/ });
  await assert.rejects(client("another-key-of-somebody").list(), { status_code: 401 });
});
