#!/usr/bin/env python3
"""micro-flash without the layers that look for rows of 4 tokens: make_long.py micro-flash.gguf micro-long.gguf

What these layers cost grows with the square of a conversation's length; without them 100,000 tokens take seconds. What is left
is as it was: two layers that see recent tokens, and one that sees rows of 128.

    pip install gguf
"""
import sys

from gguf import GGUFReader, GGUFValueType, GGUFWriter

KEPT = [0, 1, 3]
PER_LAYER = ["attention.compress_ratios", "swiglu_clamp_exp", "swiglu_clamp_shexp"]

reader = GGUFReader(sys.argv[1])
writer = GGUFWriter(sys.argv[2], "deepseek4")
for name, field in reader.fields.items():
    if name.startswith("GGUF.") or name == "general.architecture":
        continue
    value, kind = field.contents(), field.types[0]
    if name.removeprefix("deepseek4.") in PER_LAYER:
        value = [value[layer] for layer in KEPT]
    if name == "deepseek4.block_count":
        value = len(KEPT)
    if name == "general.name":
        value = "V4-shape-3L-f16"
    writer.add_key_value(name, value, kind, sub_type=field.types[-1] if kind == GGUFValueType.ARRAY else None)
for tensor in reader.tensors:
    name = tensor.name
    if name.startswith("blk."):
        _, layer, rest = name.split(".", 2)
        if int(layer) not in KEPT:
            continue
        name = f"blk.{KEPT.index(int(layer))}.{rest}"
    writer.add_tensor(name, tensor.data, raw_dtype=tensor.tensor_type)
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
