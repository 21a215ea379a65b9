// What a real model calls, with the Node libraries of OpenAI and Anthropic: `cargo xtask clients calls-node` runs this. What the model
// is like is told in calls.py.

import assert from "node:assert/strict";
import { test } from "node:test";

import { KEY, MODEL, require, SERVER } from "./served.mjs";

const { OpenAI } = require("openai");
const { Anthropic } = require("@anthropic-ai/sdk");

const openai = new OpenAI({ baseURL: SERVER + "/v1", apiKey: KEY, maxRetries: 0 });
const anthropic = new Anthropic({ baseURL: SERVER, authToken: KEY, maxRetries: 0 });
const messages = [{ role: "user", content: "What is the weather in Paris?" }];
const properties = { city: { type: "string" } };
const parameters = { type: "object", properties, required: ["city"], additionalProperties: false };
const tool = { name: "get_weather", description: "The weather in a city." };
const once = { tool_choice: "required", parallel_tool_calls: false };
const paris = { city: "Paris" };

test("chat completions", async () => {
  const tools = [{ type: "function", function: { ...tool, parameters } }];
  const fields = { model: MODEL, messages, tools, temperature: 0, max_tokens: 40, ...once };
  const whole = await openai.chat.completions.create(fields);
  const streamed = await openai.chat.completions.stream(fields).finalChatCompletion();
  for (const { message } of [whole.choices[0], streamed.choices[0]]) {
    const called = message.tool_calls[0].function;
    assert.deepEqual([called.name, JSON.parse(called.arguments)], ["get_weather", paris]);
  }
});

test("responses", async () => {
  const tools = [{ type: "function", ...tool, parameters, strict: true }];
  const fields = { model: MODEL, input: messages, tools, temperature: 0, max_output_tokens: 40, store: false, ...once };
  for (const response of [await openai.responses.create(fields), await openai.responses.stream(fields).finalResponse()]) {
    const call = response.output.at(-1);
    assert.deepEqual([call.name, JSON.parse(call.arguments)], ["get_weather", paris]);
  }
});

test("messages", async () => {
  const tools = [{ ...tool, input_schema: parameters }];
  const tool_choice = { type: "any", disable_parallel_tool_use: true };
  const fields = { model: MODEL, messages, tools, max_tokens: 40, temperature: 0, tool_choice };
  for (const message of [await anthropic.messages.create(fields), await anthropic.messages.stream(fields).finalMessage()]) {
    const call = message.content.at(-1);
    assert.deepEqual([message.stop_reason, call.name, call.input], ["tool_use", "get_weather", paris]);
  }
});
