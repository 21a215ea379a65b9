"""What Nano calls of its own accord, with the Python libraries of OpenAI and Anthropic: `cargo xtask clients calls-nano` runs this.

Nano is the model in the program. It was taught to call five tools (nano/tasks.py), so that nothing holds it to a call here: it finds out
from the request which tool is wanted and with what, and from the result what to say.
"""

import json
import unittest

import anthropic
import openai

from served import KEY, MODEL, SERVER


def described(name, description, **parameters):
    properties = {key: {"type": "string", "description": text} for key, text in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"name": name, "description": description, "parameters": schema}


TOOLS = [
    described("read_file", "Read a file.", path="The file."),
    described("list_folder", "List the files in a folder.", path="The folder."),
    described("run_command", "Run a shell command.", command="The command."),
]
FUNCTIONS = [{"type": "function", "function": tool} for tool in TOOLS]
ASKED = [{"role": "user", "content": "Read notes.txt."}]
CALL = ("read_file", {"path": "notes.txt"})
RESULT = "The garden is green."


class Calls(unittest.TestCase):
    def setUp(self):
        self.openai = openai.OpenAI(base_url=SERVER + "/v1", api_key=KEY, max_retries=0)
        self.messages = anthropic.Anthropic(base_url=SERVER, auth_token=KEY, max_retries=0).messages

    def test_chat_completions(self):
        chat = self.openai.chat.completions
        for effort in ("none", "high"):
            with self.subTest(effort=effort):
                fields = {"model": MODEL, "tools": FUNCTIONS, "temperature": 0, "max_tokens": 200, "reasoning_effort": effort}
                first = chat.create(**fields, messages=ASKED).choices[0]
                with chat.stream(**fields, messages=ASKED) as stream:
                    streamed = stream.get_final_completion().choices[0]
                for choice in (first, streamed):
                    self.assertEqual(choice.finish_reason, "tool_calls", choice.message)
                    (call,) = choice.message.tool_calls
                    self.assertEqual((call.function.name, json.loads(call.function.arguments)), CALL)
                reasoning = getattr(first.message, "reasoning_content", None)
                self.assertEqual(bool(reasoning), effort != "none", reasoning)
                told = [*ASKED, first.message, {"role": "tool", "tool_call_id": first.message.tool_calls[0].id, "content": RESULT}]
                answer = chat.create(**fields, messages=told).choices[0]
                self.assertEqual(answer.finish_reason, "stop")
                self.assertIn(RESULT, answer.message.content)

    def test_responses(self):
        tools = [{"type": "function", **tool} for tool in TOOLS]
        fields = {"model": MODEL, "tools": tools, "temperature": 0, "max_output_tokens": 200, "store": False}
        first = self.openai.responses.create(**fields, input=ASKED)
        with self.openai.responses.stream(**fields, input=ASKED) as stream:
            streamed = stream.get_final_response()
        for response in (first, streamed):
            call = response.output[-1]
            self.assertEqual(call.type, "function_call", response.output_text)
            self.assertEqual((call.name, json.loads(call.arguments)), CALL)
        told = [*ASKED, *first.output, {"type": "function_call_output", "call_id": first.output[-1].call_id, "output": RESULT}]
        self.assertIn(RESULT, self.openai.responses.create(**fields, input=told).output_text)

    def test_messages(self):
        tools = [{"name": t["name"], "description": t["description"], "input_schema": t["parameters"]} for t in TOOLS]
        fields = {"model": MODEL, "tools": tools, "max_tokens": 200, "extra_body": {"temperature": 0}}
        first = self.messages.create(**fields, messages=ASKED)
        with self.messages.stream(**fields, messages=ASKED) as stream:
            streamed = stream.get_final_message()
        for message in (first, streamed):
            self.assertEqual(message.stop_reason, "tool_use", message.content)
            self.assertEqual((message.content[-1].name, message.content[-1].input), CALL)
        result = {"type": "tool_result", "tool_use_id": first.content[-1].id, "content": RESULT}
        told = [*ASKED, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
        answer = self.messages.create(**fields, messages=told)
        self.assertEqual(answer.stop_reason, "end_turn")
        self.assertIn(RESULT, answer.content[-1].text)

    def test_small_talk_needs_no_tool(self):
        asked = [{"role": "user", "content": "Hello!"}]
        fields = {"model": MODEL, "tools": FUNCTIONS, "temperature": 0, "max_tokens": 200}
        answer = self.openai.chat.completions.create(**fields, messages=asked).choices[0]
        self.assertEqual((answer.finish_reason, answer.message.tool_calls), ("stop", None))
        self.assertTrue(answer.message.content)


if __name__ == "__main__":
    unittest.main()
