// The Node libraries of OpenAI and Anthropic against the server: `cargo xtask clients sdk-node` runs this.

import assert from "node:assert/strict";
import { test } from "node:test";

import {
  all, ask, CALL, CAPITALS, canCall, input, IS_REAL, KEY, long, makesSense, messages, MODEL, parameters, QUESTION, require, said,
  SEEN, SERVER, tokens,
} from "./served.mjs";

const { OpenAI } = require("openai");
const { zodResponseFormat, zodTextFormat } = require("openai/helpers/zod");
const { Anthropic } = require("@anthropic-ai/sdk");
const { zodOutputFormat } = require("@anthropic-ai/sdk/helpers/zod");
const { z } = require("zod");

const openai = new OpenAI({ baseURL: SERVER + "/v1", apiKey: KEY, maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: SERVER, authToken: KEY, maxRetries: 0 });
const Answer = z.object({ capital: z.enum(CAPITALS), sure: z.boolean() });

function isRight(answer) {
  assert.ok(CAPITALS.includes(answer.capital), JSON.stringify(answer));
  assert.equal(typeof answer.sure, "boolean");
  if (IS_REAL) assert.equal(answer.capital, "Paris");
}

const chat = { model: MODEL, messages, temperature: 0, reasoning_effort: "none" };

test("openai: models are listed and found", async () => {
  assert.deepEqual((await all(openai.models.list())).map((model) => model.id), [MODEL]);
  assert.equal((await openai.models.retrieve(MODEL)).id, MODEL);
  await assert.rejects(openai.models.retrieve("other"), OpenAI.NotFoundError);
});

test("openai: a stream says what the whole says", async () => {
  const fields = { ...chat, max_tokens: 5 };
  const whole = await openai.chat.completions.create(fields);
  const options = { stream: true, stream_options: { include_usage: true } };
  const chunks = await all(await openai.chat.completions.create({ ...fields, ...options }));
  const text = chunks.map((chunk) => chunk.choices[0]?.delta.content ?? "").join("");
  assert.equal(text, whole.choices[0].message.content);
  assert.equal(chunks.at(-1).usage.completion_tokens, 5);
});

test("openai: a question is answered", makesSense, async () => {
  const { choices } = await openai.chat.completions.create(chat);
  assert.match(choices[0].message.content, /Paris/);
  assert.equal(choices[0].finish_reason, "stop");
});

test("openai: several answers differ", async () => {
  const fields = { ...chat, max_tokens: 12, temperature: 1.5, seed: 5, n: 3 };
  const { choices } = await openai.chat.completions.create(fields);
  assert.equal(new Set(choices.map((choice) => choice.message.content)).size, 3);
});

test("openai: a text of ours ends an answer", async () => {
  const { choices } = await openai.chat.completions.create({ ...chat, stop: ["cd"], ...(await said("abcdef")) });
  assert.deepEqual([choices[0].message.content, choices[0].finish_reason], ["ab", "stop"]);
});

test("openai: a call goes there and its result back", canCall, async () => {
  const tools = [{ type: "function", function: { name: "look", parameters } }];
  const first = await openai.chat.completions.create({ model: MODEL, messages, tools, ...(await said(CALL)) });
  const { message, finish_reason } = first.choices[0];
  assert.equal(finish_reason, "tool_calls");
  assert.deepEqual(JSON.parse(message.tool_calls[0].function.arguments), input);
  const told = [...messages, message, { role: "tool", tool_call_id: message.tool_calls[0].id, content: "A file." }];
  const fields = { model: MODEL, messages: told, tools, ...(await said(SEEN)) };
  const second = await openai.chat.completions.stream(fields).finalChatCompletion();
  assert.equal(second.choices[0].message.content, "It is a file.");
});

test("openai: a call is streamed", canCall, async () => {
  const tools = [{ type: "function", function: { name: "look", parameters } }];
  const fields = { model: MODEL, messages, tools, ...(await said(CALL)) };
  const { choices } = await openai.chat.completions.stream(fields).finalChatCompletion();
  assert.deepEqual(JSON.parse(choices[0].message.tool_calls[0].function.arguments), input);
  assert.equal(choices[0].finish_reason, "tool_calls");
});

test("openai: an answer keeps to a schema of zod", async () => {
  const fields = { ...chat, response_format: zodResponseFormat(Answer, "answer") };
  isRight((await openai.chat.completions.parse(fields)).choices[0].message.parsed);
  isRight((await openai.chat.completions.stream(fields).finalChatCompletion()).choices[0].message.parsed);
});

test("openai: answers tell how likely their tokens were", async () => {
  const fields = { ...chat, logprobs: true, top_logprobs: 3, ...(await said("Fine.")) };
  const { content } = (await openai.chat.completions.create(fields)).choices[0].logprobs;
  assert.equal(content.map((token) => token.token).join(""), "Fine.");
  assert.ok(content.every((token) => token.top_logprobs.length === 3 && token.top_logprobs[0].logprob >= token.logprob));
  const chunks = await all(await openai.chat.completions.create({ ...fields, stream: true }));
  const streamed = chunks.flatMap((chunk) => chunk.choices[0].logprobs?.content ?? []);
  assert.deepEqual(streamed.map((token) => token.token), content.map((token) => token.token));
});

test("openai: a text is continued", async () => {
  const fields = { model: MODEL, prompt: "The capital of France is", max_tokens: 5, temperature: 0, logprobs: 2 };
  const whole = (await openai.completions.create(fields)).choices[0];
  const chunks = await all(await openai.completions.create({ ...fields, stream: true }));
  assert.equal(chunks.map((chunk) => chunk.choices[0].text).join(""), whole.text);
  assert.equal(whole.logprobs.token_logprobs.length, 5);
  if (IS_REAL) assert.match(whole.text, /^ Paris/);
});

const responses = { model: MODEL, input: QUESTION, temperature: 0, reasoning: { effort: "none" }, store: false };

test("openai: responses, a stream says what the whole says", async () => {
  const fields = { ...responses, max_output_tokens: 5 };
  const whole = await openai.responses.create(fields);
  assert.equal(whole.status, "incomplete");
  const events = await all(await openai.responses.create({ ...fields, stream: true }));
  const text = events.filter((event) => event.type === "response.output_text.delta").map((event) => event.delta).join("");
  assert.equal(text, whole.output_text);
  const counted = await openai.responses.inputTokens.count({ model: MODEL, input: QUESTION, reasoning: { effort: "none" } });
  assert.equal(counted.input_tokens, whole.usage.input_tokens);
});

test("openai: responses, with a call and its result", canCall, async () => {
  const tools = [{ type: "function", name: "look", parameters, strict: false }];
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

test("openai: responses, a call is streamed", canCall, async () => {
  const tools = [{ type: "function", name: "look", parameters, strict: false }];
  const fields = { model: MODEL, tools, store: false, input: messages, ...(await said(CALL)) };
  const response = await openai.responses.stream(fields).finalResponse();
  assert.deepEqual(JSON.parse(response.output.at(-1).arguments), input);
});

test("openai: responses, an answer keeps to a schema of zod", async () => {
  const fields = { ...responses, text: { format: zodTextFormat(Answer, "answer") } };
  isRight((await openai.responses.parse(fields)).output_parsed);
  isRight((await openai.responses.stream(fields).finalResponse()).output_parsed);
});

test("openai: what cannot be done is refused by its name", async () => {
  const refused = (fields) => openai.chat.completions.create({ ...chat, ...fields });
  await assert.rejects(refused({ temprature: 1 }), { status: 400, param: "temprature" });
  await assert.rejects(refused({ messages: long }), { code: "context_length_exceeded" });
  const earlier = { previous_response_id: "resp_1" };
  await assert.rejects(openai.responses.create({ ...responses, ...earlier }), { param: "previous_response_id" });
  await assert.rejects(openai.withOptions({ apiKey: "another-key-of-somebody" }).models.list(), OpenAI.AuthenticationError);
});

const off = { thinking: { type: "disabled" }, temperature: 0 };

test("anthropic: models are listed and found", async () => {
  assert.deepEqual((await all(anthropic.models.list())).map((model) => model.id), [MODEL]);
  assert.equal((await anthropic.models.retrieve(MODEL)).id, MODEL);
});

test("anthropic: a stream says what the whole says", async () => {
  const fields = { model: MODEL, messages, max_tokens: 5, ...off };
  const whole = await anthropic.messages.create(fields);
  const streamed = await anthropic.messages.stream(fields).finalMessage();
  assert.equal(whole.stop_reason, "max_tokens");
  assert.equal(streamed.content[0].text, whole.content[0].text);
  const counted = await anthropic.messages.countTokens({ model: MODEL, messages, thinking: off.thinking });
  assert.equal(counted.input_tokens, whole.usage.input_tokens + whole.usage.cache_read_input_tokens);
});

test("anthropic: a question is answered", makesSense, async () => {
  const message = await anthropic.messages.create({ model: MODEL, messages, max_tokens: 50, ...off });
  assert.match(message.content[0].text, /Paris/);
  assert.equal(message.stop_reason, "end_turn");
});

test("anthropic: an answer keeps to a schema of zod", async () => {
  const fields = { model: MODEL, messages, max_tokens: 500, ...off, output_config: { format: zodOutputFormat(Answer) } };
  isRight((await anthropic.messages.parse(fields)).parsed_output);
  isRight((await anthropic.messages.stream(fields).finalMessage()).parsed_output);
});

test("anthropic: a call goes there and its result back", canCall, async () => {
  const tools = [{ name: "look", description: "Looks.", input_schema: parameters }];
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

test("a text becomes tokens and a text again", async () => {
  const reply = await ask("/detokenize", { tokens: await tokens(QUESTION) });
  assert.deepEqual(await reply.json(), { content: QUESTION });
});

test("the server tells how it is", async () => {
  assert.deepEqual(await (await ask("/health")).json(), { status: "ok", model: MODEL });
  assert.match(await (await ask("/metrics")).text(), /# EOF\n$/);
});
