"""A server for the page that answers what it is told to. By hand: `python3 mock.py --port 8123`, then open the page.

A test gives `Mock.answer`, a function from the body of a request to steps. A step is a dict with one of

    text, reasoning     a piece of the answer
    progress            (processed, total) tokens of the prompt
    comment             a line that keeps the connection alive
    until               a threading.Event: nothing more is sent before it is set
    pause               seconds; for looking at the page by hand
    usage               the last chunk: a dict of numbers, see `usage`
    finish              why the answer ends; then, unless told otherwise, [DONE] follows
    error               a dict, as an event in the stream
    cut                 the connection ends here
    refuse              (status, headers, error): instead of a stream, as the first step
"""

import argparse
import json
import pathlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PAGE = pathlib.Path(__file__).resolve().parent.parent
TYPES = {".html": "text/html; charset=utf-8", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
POLICY = (
    "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; object-src 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
MODEL = {"id": "mock-7b", "object": "model", "context_length": 4096, "supported_parameters": ["return_progress"]}


def usage(prompt=40, cached=0, answer=20):
    """The numbers of the last chunk: 200 tokens a second read, 20 a second written."""
    return {
        "usage": {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
            "prompt_tokens_details": {"cached_tokens": cached},
        },
        "timings": {
            "prompt_n": prompt - cached,
            "prompt_ms": (prompt - cached) * 5.0,
            "predicted_n": answer,
            "predicted_ms": answer * 50.0,
        },
    }


def say(*pieces, **numbers):
    """The steps of a plain answer."""
    return [*({"text": piece} for piece in pieces), {"finish": "stop"}, {"usage": usage(**numbers)}]


class Mock(ThreadingHTTPServer):
    """Serves the page and the interface on a free port of this machine, from a thread of its own."""

    daemon_threads = True

    def __init__(self, port=0):
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.reset()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def reset(self):
        self.answer = lambda body: say("Hello.")
        self.requests = []
        self.model = MODEL
        self.left = threading.Event()

    def handle_error(self, request, client_address):
        """A client that goes away is no error here."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def do_GET(self):
        if self.path == "/v1/models":
            self.reply(200, {"object": "list", "data": [self.server.model]})
            return
        path = PAGE / ("index.html" if self.path == "/" else self.path.lstrip("/"))
        if path.parent != PAGE or path.suffix not in TYPES or not path.is_file():
            self.reply(404, {"error": {"message": "unknown endpoint"}})
            return
        headers = {"Content-Type": TYPES[path.suffix], "Content-Security-Policy": POLICY, "Cache-Control": "no-cache"}
        self.send(200, headers, path.read_bytes())

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.requests.append(body)
        steps = list(self.server.answer(body))
        if steps and "refuse" in steps[0]:
            status, headers, error = steps[0]["refuse"]
            self.reply(status, {"error": error}, headers)
            return
        try:
            self.stream(steps)
        except OSError:
            self.server.left.set()

    def reply(self, status, value, headers=None):
        self.send(status, {"Content-Type": "application/json", **(headers or {})}, json.dumps(value).encode())

    def send(self, status, headers, data):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def stream(self, steps):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.close_connection = True
        self.chunk({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]})
        for step in steps:
            if "cut" in step:
                return
            self.step(step)
        self.raw("data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")

    def step(self, step):
        match step:
            case {"text": text}:
                self.delta({"content": text})
            case {"reasoning": text}:
                self.delta({"reasoning_content": text})
            case {"progress": (processed, total)}:
                self.chunk({"choices": [], "prompt_progress": {"total": total, "cache": 0, "processed": processed}})
            case {"comment": text}:
                self.raw(f": {text}\n\n")
            case {"until": event}:
                while not event.wait(0.05):
                    self.raw(": still here\n\n")
            case {"pause": seconds}:
                threading.Event().wait(seconds)
            case {"finish": reason}:
                self.chunk({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
            case {"usage": numbers}:
                self.chunk({"choices": [], **numbers})
            case {"error": error}:
                self.chunk({"error": error})

    def delta(self, delta):
        self.chunk({"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})

    def chunk(self, value):
        self.raw(f"data: {json.dumps(value)}\n\n")

    def raw(self, text):
        data = text.encode()
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))


EXAMPLE = """There are **three** things to know about a white dwarf.

1. It is what remains of a star like the *Sun*.
2. It no longer fuses; it only cools.
   - slowly at first,
   - then more slowly still.
3. Its mass has a limit, see [Chandrasekhar](https://en.wikipedia.org/wiki/Chandrasekhar_limit).

### How large is it?

About as large as the Earth. The radius *shrinks* as the mass grows, as $R \\propto M^{-1/3}$:

```python
def radius_km(mass):
    \"\"\"Of a white dwarf of `mass` suns, to first order.\"\"\"
    return 8_600 * mass ** (-1 / 3)  # a line that is too long for a telephone, so that it has to scroll sideways

print(radius_km(0.6))
```

| Star | Mass | Radius |
|:---|---:|---:|
| Sirius B | 1.02 | 5,850 km |
| Procyon B | 0.60 | 8,600 km |
| 40 Eridani B | 0.57 | 9,000 km |

> The light of most of them will outlast every other star.

Call `radius_km(1.4)` and the formula breaks down, since it knows nothing of relativity.
"""


def example(body):
    """An answer to look at, as slowly as it would come."""
    words = [{"text": word + " "} for word in EXAMPLE.split(" ")]
    slow = [step for word in words for step in (word, {"pause": 0.03})]
    thoughts = [step for i in range(30) for step in ({"reasoning": f"Consider point {i}. "}, {"pause": 0.1})]
    progress = [step for n in range(0, 2001, 200) for step in ({"progress": (n, 2000)}, {"pause": 0.15})]
    return [*progress, *thoughts, *slow, {"finish": "stop"}, {"usage": usage(2000, 500, 400)}]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=8123)
    mock = Mock(parser.parse_args().port)
    mock.answer = example
    print(mock.url)
    threading.Event().wait()
