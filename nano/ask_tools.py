"""Asks `ds4 serve` for tool calls that were never trained on, and counts right ones.

    ds4 serve -m nano.gguf &
    python ask_tools.py --url http://127.0.0.1:8000 --requests 200

Requests are made by the grammar of `tasks.py`, of those that `data.py` holds out: their words as a whole are new, their
phrasings are not; all five tools are offered. For each: did the first answer have calls at all, of tools that
are offered, with JSON arguments (valid); of the right tools (tool); with exactly the right arguments (arguments); and
did it end by itself (ended). Half of them with thinking.
"""

import argparse
import json
import os
import random
from pathlib import Path
from urllib.request import Request, urlopen

import tasks
from data import is_held


def request_of(seed: int) -> tuple[dict, list[tuple[str, dict]]]:
    """The body of a request, and the calls that it wants."""
    r = random.Random(f"asked {seed}")
    makers, weights = zip(*((make, weight) for make, weight in tasks.STEPS if make is not tasks.talks))
    while not is_held((step := r.choices(makers, weights)[0](r)).ask):
        pass
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


def outcome(url: str, seed: int) -> dict:
    """A request, what came of it, and what of that is right."""
    body, wanted = request_of(seed)
    choice = post(url, body)
    found = calls_of(choice)
    is_valid = found is not None
    return dict(
        ask=body["messages"][-1]["content"],
        think=body["think"],
        wanted=wanted,
        answer=choice["message"],
        valid=is_valid,
        tool=is_valid and [name for name, _ in found] == [name for name, _ in wanted],
        arguments=found == wanted,
        ended=choice["finish_reason"] != "length",
    )


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--url", default="http://127.0.0.1:8000")
    ap.add_argument("--requests", type=int, default=200)
    ap.add_argument("--detail", type=Path, help="write every request and answer, as JSON lines")
    a = ap.parse_args()
    outcomes = []
    with open(a.detail or os.devnull, "w") as detail:
        for seed in range(a.requests):
            outcomes.append(outcome(a.url, seed))
            print(json.dumps(outcomes[-1]), file=detail, flush=True)
    for name, some in (("thinking", True), ("not thinking", False)):
        told([o for o in outcomes if o["think"] == some], name)
    told(outcomes, "together")


def told(outcomes: list[dict], name: str) -> None:
    shares = (
        f"{k} {100 * sum(o[k] for o in outcomes) / len(outcomes):.1f} %"
        for k in ("valid", "tool", "arguments", "ended")
    )
    print(f"{name}, {len(outcomes)} requests: {', '.join(shares)}")


if __name__ == "__main__":
    main()
