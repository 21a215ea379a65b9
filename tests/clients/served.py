"""The server that the tests beside this file ask, and what is asked of it.

SERVER is its URL, KEY the key that it asks for, and MODEL the name of its model, which has room for 4096 tokens:

    micro     has DeepSeek V4's structure and format, so that it reasons and calls, but random weights: where a test needs
              words that make sense, it holds the model to them (`said`)
    smollm2   is a real model: what it says makes sense, but its template has neither reasoning nor calls (calls.py gives it another)
    nano      is the model in the program, which calls of its own accord (nano.py)

All tests that are marked with neither hold for the first two, and so for any model.
"""

import json
import os
import typing
import unittest
import urllib.request

import pydantic

SERVER, KEY, MODEL = os.environ["SERVER"], os.environ["KEY"], os.environ["MODEL"]
IS_REAL = MODEL != "micro"
can_call = unittest.skipIf(MODEL == "smollm2", "the model cannot call")
makes_sense = unittest.skipUnless(IS_REAL, "the model's weights are random")

QUESTION = "What is the capital of France?"
ASKED = [{"role": "user", "content": QUESTION}]
# More than there is room for.
LONG = [{"role": "user", "content": " ".join(map(str, range(5000)))}]
PARAMETERS = {
    "type": "object",
    "properties": {"path": {"type": "string"}, "n": {"type": "integer"}},
    "required": ["path"],
}
ARGUMENTS = {"path": 'a "b"', "n": 3}
# How the model calls a tool `look` with these arguments, after it has thought.
CALL = (
    "I wonder.</think>Let me look.\n\n<｜DSML｜tool_calls>\n"
    '<｜DSML｜invoke name="look">\n<｜DSML｜parameter name="path" string="true">a "b"</｜DSML｜parameter>\n'
    '<｜DSML｜parameter name="n" string="false">3</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>'
)
SEEN = "I see.</think>It is a file."


class Answer(pydantic.BaseModel):
    """What an answer to the question is held to."""

    capital: typing.Literal["London", "Paris", "Rome"]
    sure: bool


def ask(path, body=None):
    """The text of a reply to a request that no library has a method for."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {KEY}"}
    data = None if body is None else json.dumps(body).encode()
    return urllib.request.urlopen(urllib.request.Request(SERVER + path, data, headers)).read().decode()


def tokens(text):
    """The ids of a text's tokens, names of special ones taken for these."""
    return json.loads(ask("/tokenize", {"content": text, "parse_special": True}))["tokens"]


def said(text):
    """Fields that have the model say exactly this, in the tokens that it is cut into."""
    rule = " ".join(f"<[{id}]>" for id in tokens(text))
    return {"structured_outputs": {"grammar": f"start: {rule}", "raw": True}}
