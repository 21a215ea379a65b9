"""Asks a running engine for tool calls that no training set has, and counts right ones.

    ds4 serve -m nano.gguf &                 # any server of the chat completions interface
    python ask_tools.py --url http://127.0.0.1:8080 --requests 200

Requests are made by the grammar of `tasks.py` from seeds that training does not use; all five tools are offered. For
each: did the first answer have calls at all, of tools that are offered, with JSON arguments (valid); of the right tools
(tool); with exactly the right arguments (arguments); and did it end by itself (ended). Half of them with thinking.
"""

import argparse
import json
import random
from collections import Counter
from pathlib import Path
from urllib.request import Request, urlopen

import tasks


def request_of(seed: int) -> tuple[dict, list[tuple[str, dict]]]:
    """The body of a request, and the calls that it wants."""
    r = random.Random(f"never trained on {seed}")
    makers = [(make, weight) for make, weight in tasks.STEPS if make is not tasks.talks]
    step = r.choices([make for make, _ in makers], [weight for _, weight in makers])[0](r)
    messages = tasks.opened(r, [tasks.user(step.ask)], 0.5)
    tools = [{"type": "function", "function": tool} for tool in tasks.TOOLS.values()]
    body = dict(messages=messages, tools=tools, temperature=0, max_tokens=400, think=r.random() < 0.5)
    return body, [(name, arguments) for name, arguments, _ in step.rounds[0]]


def calls_of(choice: dict) -> list[tuple[str, dict]] | None:
    """The calls of an answer; none if one is not valid."""
    try:
        calls = [c["function"] for c in choice["message"].get("tool_calls") or []]
        found = [(c["name"], json.loads(c["arguments"])) for c in calls]
    except json.JSONDecodeError:
        return None
    return found if found and all(name in tasks.TOOLS for name, _ in found) else None


def post(url: str, body: dict) -> dict:
    request = Request(f"{url}/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urlopen(request) as reply:
        return json.load(reply)["choices"][0]


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--url", default="http://127.0.0.1:8080")
    ap.add_argument("--requests", type=int, default=200)
    ap.add_argument("--detail", type=Path, help="write every request and answer, as JSON lines")
    a = ap.parse_args()
    counts, lines = Counter(), []
    for seed in range(a.requests):
        body, wanted = request_of(seed)
        choice = post(a.url, body)
        found = calls_of(choice)
        told = dict(valid=found is not None, ended=choice["finish_reason"] != "length")
        told["tool"] = told["valid"] and [name for name, _ in found] == [name for name, _ in wanted]
        told["arguments"] = told["valid"] and found == wanted
        counts.update(k for k, v in told.items() if v)
        lines.append(
            json.dumps(
                dict(
                    ask=body["messages"][-1]["content"],
                    think=body["think"],
                    wanted=wanted,
                    found=found,
                    answer=choice["message"],
                    **told,
                )
            )
        )
    if a.detail:
        a.detail.write_text("\n".join(lines) + "\n")
    print(", ".join(f"{k} {100 * counts[k] / a.requests:.1f} %" for k in ("valid", "tool", "arguments", "ended")))


if __name__ == "__main__":
    main()
