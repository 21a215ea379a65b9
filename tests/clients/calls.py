"""What a real model calls, with the Python libraries of OpenAI and Anthropic: `cargo xtask clients calls-python` runs this.

The model is SmolLM2 with a chat template that shows tools, as its own does not. It is small, and was taught nothing of tools, so that it
has to be told to call, and once only (`tool_choice`). What it calls with, and what it makes of the result, is its own.
"""

import json
import unittest

import anthropic
import openai

from served import KEY, MODEL, SERVER

ASKED = [{"role": "user", "content": "What is the weather in Paris?"}]
PARAMETERS = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
TOOL = {"name": "get_weather", "description": "The weather in a city."}
PARIS = {"city": "Paris"}
RESULT = "It is sunny and 23 degrees."


class Calls(unittest.TestCase):
    def setUp(self):
        self.openai = openai.OpenAI(base_url=SERVER + "/v1", api_key=KEY, max_retries=0)
        self.messages = anthropic.Anthropic(base_url=SERVER, auth_token=KEY, max_retries=0).messages

    def test_chat_completions(self):
        chat, tools = self.openai.chat.completions, [{"type": "function", "function": {**TOOL, "parameters": PARAMETERS}}]
        fields = {"model": MODEL, "tools": tools, "temperature": 0, "max_tokens": 40}
        called = {"messages": ASKED, "tool_choice": "required", "parallel_tool_calls": False}
        first = chat.create(**fields, **called).choices[0]
        with chat.stream(**fields, **called) as stream:
            streamed = stream.get_final_completion().choices[0]
        for choice in (first, streamed):
            (call,) = choice.message.tool_calls
            self.assertEqual((choice.finish_reason, call.function.name), ("tool_calls", "get_weather"))
            self.assertEqual(json.loads(call.function.arguments), PARIS)
        told = [*ASKED, first.message, {"role": "tool", "tool_call_id": first.message.tool_calls[0].id, "content": RESULT}]
        answer = chat.create(**fields, messages=told).choices[0].message
        self.assertIn("sunny", answer.content)

    def test_responses(self):
        tools = [{"type": "function", **TOOL, "parameters": PARAMETERS, "strict": True}]
        fields = {"model": MODEL, "tools": tools, "temperature": 0, "max_output_tokens": 40, "store": False}
        called = {"input": ASKED, "tool_choice": "required", "parallel_tool_calls": False}
        first = self.openai.responses.create(**fields, **called)
        with self.openai.responses.stream(**fields, **called) as stream:
            streamed = stream.get_final_response()
        for response in (first, streamed):
            call = response.output[-1]
            self.assertEqual((call.name, json.loads(call.arguments)), ("get_weather", PARIS))
        told = [*ASKED, *first.output, {"type": "function_call_output", "call_id": first.output[-1].call_id, "output": RESULT}]
        self.assertIn("sunny", self.openai.responses.create(**fields, input=told).output_text)

    def test_messages(self):
        fields = {"model": MODEL, "tools": [{**TOOL, "input_schema": PARAMETERS}], "max_tokens": 40}
        fields["extra_body"] = {"temperature": 0}
        called = {"messages": ASKED, "tool_choice": {"type": "any", "disable_parallel_tool_use": True}}
        first = self.messages.create(**fields, **called)
        with self.messages.stream(**fields, **called) as stream:
            streamed = stream.get_final_message()
        for message in (first, streamed):
            call = message.content[-1]
            self.assertEqual((message.stop_reason, call.name, call.input), ("tool_use", "get_weather", PARIS))
        result = {"type": "tool_result", "tool_use_id": first.content[-1].id, "content": RESULT}
        told = [*ASKED, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
        self.assertIn("sunny", self.messages.create(**fields, messages=told).content[0].text)


if __name__ == "__main__":
    unittest.main()
