"""V4's chat format, as the engine renders it.

    BOS [system text] [tools] <｜User｜>question<｜Assistant｜><think>reasoning</think>answer[calls] EOS ...

A conversation is a list of messages as clients send them: `role`, `content`, and for the assistant `reasoning` and
`calls`, a list of (name, arguments). With tools all reasoning is shown, without them only that after the last question;
an earlier turn reads `</think>answer`. What is rendered is a list of `Piece`s, each said by somebody, so that training
can learn the assistant's words only. The rules are those of `crates/models/src/deepseek_v4/chat`, whose tests use the
same vectors.
"""

import json
from dataclasses import dataclass

BOS, EOS, PAD = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜▁pad▁｜>"
USER, ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
THINK, THINK_END = "<think>", "</think>"
DSML = "｜DSML｜"

TOOLS = f"""## Tools

You have access to a set of tools to help answer the user's question. You can invoke tools by writing a \
"<{DSML}tool_calls>" block like the following:

<{DSML}tool_calls>
<{DSML}invoke name="$TOOL_NAME">
<{DSML}parameter name="$PARAMETER_NAME" string="true|false">$PARAMETER_VALUE</{DSML}parameter>
...
</{DSML}invoke>
<{DSML}invoke name="$TOOL_NAME2">
...
</{DSML}invoke>
</{DSML}tool_calls>

String parameters should be specified as is and set `string="true"`. For all other types (numbers, booleans, arrays, \
objects), pass the value in JSON format and set `string="false"`.

If thinking_mode is enabled (triggered by {THINK}), you MUST output your complete reasoning inside \
{THINK}...{THINK_END} BEFORE any tool calls or final response.

Otherwise, output directly after {THINK_END} with tool calls or final response.

### Available Tool Schemas

%s
You MUST strictly follow the above defined tool name and parameter schemas to invoke tool calls.
"""


@dataclass
class Piece:
    """Text between two markers, with the marker that begins it."""

    text: str
    learned: bool


def render(messages: list[dict], tools: list[dict] | None = None, thinking: bool = False, asks: bool = False):
    """The pieces of a conversation; with `asks` they end where the assistant is to begin."""
    tools = tools or []
    opening = 0
    while opening < len(messages) and messages[opening]["role"] == "system":
        opening += 1
    system = "\n\n".join(m["content"] for m in messages[:opening] if m["content"])
    pieces = [Piece(BOS + system + (declared(tools) if tools else ""), False)]
    said = "system"
    asked = [i for i, m in enumerate(messages) if m["role"] in ("user", "tool")]
    for i, m in enumerate(messages[opening:], opening):
        if m["role"] == "assistant":
            shown = thinking and (bool(tools) or not asked or i > asked[-1])
            pieces.append(Piece(ASSISTANT + (THINK if shown else THINK_END), False))
            reasoning = m.get("reasoning", "") + THINK_END if shown else ""
            pieces.append(Piece(reasoning + m.get("content", "") + called(m.get("calls", [])) + EOS, True))
        else:
            text = m["content"] if m["role"] == "user" else f"<tool_result>{m['content']}</tool_result>"
            pieces.append(Piece(("\n\n" if said in ("user", "tool") else USER) + text, False))
        said = m["role"]
    if asks:
        pieces.append(Piece(ASSISTANT + (THINK if thinking else THINK_END), False))
    return pieces


def declared(tools: list[dict]) -> str:
    """Tools, set off from the text before them."""
    lines = "".join(json.dumps(tool, ensure_ascii=False) + "\n" for tool in tools)
    return "\n\n" + TOOLS % lines


def called(calls: list[tuple[str, dict]]) -> str:
    """Calls, set off from the answer before them."""
    if not calls:
        return ""
    blocks = (
        f'<{DSML}invoke name="{name}">\n' + "\n".join(parameter(*p) for p in arguments.items()) + f"\n</{DSML}invoke>\n"
        for name, arguments in calls
    )
    return f"\n\n<{DSML}tool_calls>\n" + "".join(blocks) + f"</{DSML}tool_calls>"


def parameter(name: str, value) -> str:
    is_text = isinstance(value, str)
    written = value if is_text else json.dumps(value, ensure_ascii=False)
    return f'<{DSML}parameter name="{name}" string="{str(is_text).lower()}">{written}</{DSML}parameter>'


def text_of(pieces: list[Piece]) -> str:
    return "".join(p.text for p in pieces)
