#!/usr/bin/env python3
"""Writes random.json: conversations, and what DeepSeek's own encoder makes of them where it agrees with the release.

    pip install deepseek-recipe==0.2.0 && python3 testdata/chat/deepseek_v4/make.py

Left out is what it does otherwise than the encoder of the release: calls and results sorted by id, calls without
arguments, tools without a description, reasoning that has to be dropped, system text that is not first, and numbers
that Rust and Python spell differently.
"""

import json
import pathlib
import random

import deepseek_recipe as recipe

HERE = pathlib.Path(__file__).parent
WORDS = [
    "Roma", "18 degrees", "line\n\nline", 'a "quoted" \\ word', "<｜User｜>", "</think>", "<think>", "｜DSML｜", "",
    "</｜DSML｜parameter>", "\n<｜DSML｜tool_calls>\n", "</tool_result>", "你好 🙂", " spaces ", "\ttab\r\n", "0", "{}",
]


class Author:
    def __init__(self, seed):
        self.random = random.Random(seed)
        self.n_calls = 0

    def text(self, n_max=3):
        return "".join(self.random.choice(WORDS) for _ in range(self.random.randint(0, n_max)))

    def value(self, depth=0):
        kind = self.random.randrange(9 if depth < 2 else 6)
        if kind < 3:
            return self.text()
        if kind < 6:
            return [None, True, False, 0, -17, 2.5, 123456789][self.random.randrange(7)]
        if kind == 6:
            return [self.value(depth + 1) for _ in range(self.random.randint(0, 3))]
        return {key: self.value(depth + 1) for key in self.random.sample(["a", "b", 'q"', "é"], self.random.randint(0, 3))}

    def tool(self, name):
        parameters = {"type": "object", "properties": {"x": {"description": self.text(), "default": self.value()}}}
        return {"type": "function", "function": {"name": name, "description": self.text(), "parameters": parameters}}

    def call(self):
        self.n_calls += 1
        keys = self.random.sample(["city", "n", "données", "x y", 'q"k'], self.random.randint(1, 4))
        arguments = json.dumps({key: self.value() for key in keys}, ensure_ascii=self.random.random() < 0.5)
        name = self.random.choice(["weather", "read_file", "näme"])
        return {"id": f"call_{self.n_calls:03}", "type": "function", "function": {"name": name, "arguments": arguments}}

    def assistant(self, thinks):
        reasoning = self.text() if thinks else None
        return {"role": "assistant", "content": self.text(), "reasoning_content": reasoning}

    def turn(self, has_tools, thinking):
        """A question, calls and results in any number of rounds, an answer."""
        yield {"role": "user", "content": self.text()}
        while has_tools and self.random.random() < 0.5:
            calls = [self.call() for _ in range(self.random.randint(1, 3))]
            yield self.assistant(thinking) | {"tool_calls": calls}
            for call in self.random.sample(calls, len(calls)):
                yield {"role": "tool", "content": self.text(), "tool_call_id": call["id"]}
        yield self.assistant(has_tools and thinking)

    def case(self):
        has_tools, thinking = self.random.random() < 0.8, self.random.random() < 0.6
        messages = [{"role": "system", "content": "Be brief." + self.text()}] if self.random.random() < 0.5 else []
        for _ in range(self.random.randint(1, 3)):
            messages += self.turn(has_tools, thinking)
        while messages[-1]["role"] == "assistant":
            messages.pop()
        return {
            "messages": messages,
            "tools": [self.tool(name) for name in ["weather", "read_file"]] if has_tools else [],
            "thinking": thinking,
            "effort": self.random.choice(["low", "high", "max"]),
            "required": has_tools and not thinking and self.random.random() < 0.3,
            "schema": self.random.choice([None, None, {"type": "object"}, {"type": "array", "items": {"enum": [1, "é"]}}]),
        }


def message(m):
    match m["role"]:
        case "system":
            return recipe.SystemMessage(m["content"])
        case "user":
            return recipe.UserMessage(m["content"])
        case "tool":
            return recipe.ToolMessage(m["content"], m["tool_call_id"])
        case "assistant":
            calls = [recipe.ToolCall(id=c["id"], **c["function"]) for c in m.get("tool_calls", [])]
            return recipe.AssistantMessage(m["content"], m["reasoning_content"], calls or None)


def render(case):
    """The prompt as a list of texts, every second one a special token."""
    schema = case["schema"]
    any_object = schema == {"type": "object"}
    conversation = recipe.Conversation(
        [message(m) for m in case["messages"]],
        thinking_mode=case["thinking"],
        tools=[recipe.ToolDefinition(**tool["function"]) for tool in case["tools"]],
        tool_choice="required" if case["required"] else "auto",
        reasoning_effort=case["effort"],
        response_format="json_object" if any_object else "text",
        response_schema=None if any_object else schema,
    )
    rendered = recipe.DeepseekV4Encoding().render_conversation(conversation)
    pieces, end = [], 0
    for start, stop in rendered.special_ranges:
        pieces += [rendered.prompt[end:start], rendered.prompt[start:stop]]
        end = stop
    return pieces + [rendered.prompt[end:]]


def main():
    cases = [Author(seed).case() for seed in range(24)]
    for case in cases:
        case["prompt"] = render(case)
    made_with = f"deepseek-recipe {recipe.__version__} (PyPI, MIT, DeepSeek)"
    text = json.dumps({"made_with": made_with, "cases": cases}, ensure_ascii=False, indent=1)
    (HERE / "random.json").write_text(text + "\n")


if __name__ == "__main__":
    main()
