#!/usr/bin/env python3
"""Makes goldens.txt: hashes of what the `gguf` package decodes and encodes, for every format of crates/quant.

    pip install gguf==0.19.0 numpy==2.4.6
    make.py

Neither blocks nor values are stored. Both sides make them from one generator, started anew for every line:

    state = state * 6364136223846793005 + 1442695040888963407 mod 2^64, from 0;  byte = state >> 56

A line holds BATCHES hashes, each of a batch of 64 blocks, of which the first is all zeros:

    decode NAME   blocks of random bytes, so that scales are of either sign, subnormal, infinite and NaN, too.
                  Hash of the values' bits as u32, every NaN being 7fc00000
    encode NAME   values  i * 2^((b & 15) - 20 - 2 * batch)  from three bytes: i, little-endian i16, and b.
                  Hash of the bytes

The hash is FNV-1a with 64 bits, over u32 or bytes.
"""
from pathlib import Path

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

FORMATS = """F32 F16 BF16 Q4_0 Q4_1 Q5_0 Q5_1 Q8_0 Q2_K Q3_K Q4_K Q5_K Q6_K IQ2_XXS IQ2_XS IQ2_S IQ3_XXS IQ3_S IQ4_NL
    IQ4_XS MXFP4 IQ1_S IQ1_M TQ1_0 TQ2_0""".split()
SEARCHED = "Q4_0 Q4_1 Q5_0 Q5_1 MXFP4".split()  # ours search a scale: see errors.py
BATCHES, BLOCKS = 16, 64
MASK = 2**64 - 1


def random_bytes():
    state = 0
    while True:
        state = (state * 6364136223846793005 + 1442695040888963407) & MASK
        yield state >> 56


def take(source, n):
    return np.array([next(source) for _ in range(n)], dtype=np.uint8)


def fnv(numbers):
    h = 0xCBF29CE484222325
    for n in numbers.tolist():
        h = ((h ^ n) * 0x100000001B3) & MASK
    return f"{h:016x}"


def decoded(kind, block_bytes, source, _batch):
    blocks = take(source, BLOCKS * block_bytes).reshape(BLOCKS, block_bytes)
    blocks[0] = 0
    values = quants.dequantize(blocks, kind).reshape(-1)
    bits = values.view(np.uint32).copy()
    bits[np.isnan(values)] = 0x7FC00000
    return fnv(bits)


def encoded(kind, block_len, source, batch):
    b = take(source, 3 * BLOCKS * block_len).reshape(-1, 3)
    i = b[:, :2].copy().view("<i2").reshape(-1)
    values = np.ldexp(i.astype(np.float32), (b[:, 2] & 15).astype(np.int32) - 20 - 2 * batch)
    values[:block_len] = 0
    return fnv(quants.quantize(values.reshape(BLOCKS, block_len), kind).view(np.uint8).reshape(-1))


def line(what, f, name, size):
    source = random_bytes()
    kind = GGMLQuantizationType[name]
    return " ".join([what, name] + [f(kind, size, source, batch) for batch in range(BATCHES)])


def main():
    np.seterr(all="ignore")
    lines = []
    for name in FORMATS:
        block_len, block_bytes = GGML_QUANT_SIZES[GGMLQuantizationType[name]]
        lines.append(line("decode", decoded, name, block_bytes))
        if name in SEARCHED:
            continue
        try:
            lines.append(line("encode", encoded, name, block_len))
        except NotImplementedError:
            pass  # decoding only
    Path(__file__).with_name("goldens.txt").write_text("\n".join(lines) + "\n")


main()
