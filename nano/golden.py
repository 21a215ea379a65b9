"""Writes logits of a checkpoint as goldens: what the engine has to give for the exported weights.

    python golden.py --checkpoint work/run/checkpoint.pt --tokens some.tokens --out nano --dtype bf16

`--tokens` is a file of ids between spaces, `NAME.tokens` beside the other goldens; `--out NAME` writes a copy of it and
`NAME.logits.f32`: little-endian float32, a row of the vocabulary per token. `--text` takes a text instead, with BOS.
Weights are rounded as in the export of that `--dtype`, all else is float32.
"""

import argparse
from pathlib import Path

import torch
from tokenizers import Tokenizer

from chat import BOS
from export import DTYPES, load


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--checkpoint", type=Path, required=True)
    what = ap.add_mutually_exclusive_group(required=True)
    what.add_argument("--tokens", type=Path)
    what.add_argument("--text", type=Path)
    ap.add_argument("--tokenizer", type=Path, help="for --text")
    ap.add_argument("--out", required=True)
    ap.add_argument("--dtype", choices=DTYPES, default="bf16")
    a = ap.parse_args()
    if a.tokens:
        ids = [int(n) for n in a.tokens.read_text().split()]
    else:
        tokenizer = Tokenizer.from_file(str(a.tokenizer / "tokenizer.json"))
        ids = tokenizer.encode(BOS + a.text.read_text(), add_special_tokens=False).ids
    model = load(torch.load(a.checkpoint, map_location="cpu", weights_only=True), a.dtype)
    with torch.no_grad():
        logits = model(torch.tensor([ids]))[0]
    Path(f"{a.out}.tokens").write_text(" ".join(map(str, ids)) + "\n")
    logits.numpy().astype("<f4").tofile(f"{a.out}.logits.f32")


if __name__ == "__main__":
    main()
