"""What Nano calls of its own accord, with the Python libraries of OpenAI and Anthropic: `cargo xtask clients calls-nano` runs this.

Nano is the model in the program. It was taught to call five tools (nano/tasks.py), so that nothing holds it to a call here: it finds out
from the request which tool is wanted and with what, and from the result what to say.
"""

import json
import unittest

import anthropic
import openai

from served import KEY, MODEL, SERVER


def tool(name, description, **parameters):
    properties = {key: {"type": "string", "description": text} for key, text in parameters.items()}
    schema = {"type": "object", "properties": properties, "required": list(parameters)}
    return {"name": name, "description": description, "parameters": schema}


TOOLS = [
    tool("read_file", "Read a file.", path="The file."),
    tool("list_folder", "List the files in a folder.", path="The folder."),
    tool("run_command", "Run a shell command.", command="The command."),
]
ASKED = [{"role": "user", "content": "Read notes.txt."}]
CALL = ("read_file", {"path": "notes.txt"})
RESULT = "The garden is green."
SMALL_TALK = [{"role": "user", "content": "Hello!"}]


class Calls(unittest.TestCase):
    def setUp(self):
        self.openai = openai.OpenAI(base_url=SERVER + "/v1", api_key=KEY, max_retries=0)
        self.messages = anthropic.Anthropic(base_url=SERVER, auth_token=KEY, max_retries=0).messages

    def test_chat_completions(self):
        chat, tools = self.openai.chat.completions, [{"type": "function", "function": tool} for tool in TOOLS]
        fields = {"model": MODEL, "tools": tools, "temperature": 0, "max_tokens": 200}
        for effort in ("none", "high"):
            with self.subTest(effort=effort):
                thinks = {"reasoning_effort": effort}
                first = chat.create(**fields, **thinks, messages=ASKED).choices[0]
                with chat.stream(**fields, **thinks, messages=ASKED) as stream:
                    streamed = stream.get_final_completion().choices[0]
                for choice in (first, streamed):
                    (call,) = choice.message.tool_calls
                    self.assertEqual(choice.finish_reason, "tool_calls")
                    self.assertEqual((call.function.name, json.loads(call.function.arguments)), CALL)
                told = [*ASKED, first.message, {"role": "tool", "tool_call_id": first.message.tool_calls[0].id, "content": RESULT}]
                answer = chat.create(**fields, **thinks, messages=told).choices[0]
                self.assertEqual(answer.finish_reason, "stop")
                self.assertIn(RESULT, answer.message.content)

    def test_messages(self):
        tools = [{"name": t["name"], "description": t["description"], "input_schema": t["parameters"]} for t in TOOLS]
        fields = {"model": MODEL, "tools": tools, "max_tokens": 200, "extra_body": {"temperature": 0}}
        first = self.messages.create(**fields, messages=ASKED)
        with self.messages.stream(**fields, messages=ASKED) as stream:
            streamed = stream.get_final_message()
        for message in (first, streamed):
            call = message.content[-1]
            self.assertEqual((message.stop_reason, call.name, call.input), ("tool_use", *CALL))
        result = {"type": "tool_result", "tool_use_id": first.content[-1].id, "content": RESULT}
        told = [*ASKED, {"role": "assistant", "content": first.content}, {"role": "user", "content": [result]}]
        answer = self.messages.create(**fields, messages=told)
        self.assertEqual(answer.stop_reason, "end_turn")
        self.assertIn(RESULT, answer.content[-1].text)

    def test_small_talk_needs_no_tool(self):
        tools = [{"type": "function", "function": tool} for tool in TOOLS]
        answer = self.openai.chat.completions.create(model=MODEL, tools=tools, temperature=0, max_tokens=200, messages=SMALL_TALK)
        self.assertEqual(answer.choices[0].finish_reason, "stop")
        self.assertFalse(answer.choices[0].message.tool_calls)
        self.assertTrue(answer.choices[0].message.content)


if __name__ == "__main__":
    unittest.main()
