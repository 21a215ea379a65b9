"""Writes logits as goldens: what the engine has to give for the exported weights, or for those of a GGUF file.

    python golden.py --checkpoint work/run/checkpoint.pt --tokens some.tokens --out nano --dtype bf16
    python golden.py --gguf nano.gguf --text some.txt --tokenizer work/tokenizer --out nano --every 16

`--tokens` is a file of ids between spaces, `NAME.tokens` beside the other goldens; `--out NAME` writes a copy of it and
`NAME.logits.f32`: little-endian float32, a row of the vocabulary for every so many-th token, the last of which is the
last token's. `--text` takes a text instead, with BOS. Weights of a checkpoint are rounded as in the export of that
`--dtype`, those of a GGUF are what its blocks stand for; all else is float32.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from tokenizers import Tokenizer

from chat import BOS
from export import DTYPES, load
from model import Config, Model

KEYS = {
    "vocab_size": "vocab_size",
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "head_dim": "attention.key_length",
    "qk_rope_head_dim": "rope.dimension_count",
    "q_lora_rank": "attention.q_lora_rank",
    "o_lora_rank": "attention.output_lora_rank",
    "o_groups": "attention.output_group_count",
    "sliding_window": "attention.sliding_window",
    "compress_ratios": "attention.compress_ratios",
    "index_n_heads": "attention.indexer.head_count",
    "index_head_dim": "attention.indexer.key_length",
    "index_topk": "attention.indexer.top_k",
    "n_routed_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "n_shared_experts": "expert_shared_count",
    "moe_intermediate_size": "expert_feed_forward_length",
    "num_hash_layers": "hash_layer_count",
    "routed_scaling_factor": "expert_weights_scale",
    "hc_mult": "hyper_connection.count",
    "hc_sinkhorn_iters": "hyper_connection.sinkhorn_iterations",
    "hc_eps": "hyper_connection.epsilon",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "rope_theta": "rope.freq_base",
    "compress_rope_theta": "attention.compress_rope_freq_base",
}
"""`config.json` by the keys of the GGUF."""

TENSORS = {
    "token_embd.weight": "embed.weight",
    "output.weight": "head.weight",
    "output_norm.weight": "norm.weight",
    "output_hc_fn.weight": "hc_head_fn",
    "output_hc_base.weight": "hc_head_base",
    "output_hc_scale.weight": "hc_head_scale",
}
"""Names of the model's own tensors."""

PARTS = {
    "attn_norm.weight": "attn_norm.weight",
    "ffn_norm.weight": "ffn_norm.weight",
    "attn_sinks.weight": "attn.attn_sink",
    "attn_q_a.weight": "attn.wq_a.weight",
    "attn_q_a_norm.weight": "attn.q_norm.weight",
    "attn_q_b.weight": "attn.wq_b.weight",
    "attn_kv.weight": "attn.wkv.weight",
    "attn_kv_a_norm.weight": "attn.kv_norm.weight",
    "attn_output_a.weight": "attn.wo_a.weight",
    "attn_output_b.weight": "attn.wo_b.weight",
    "indexer.attn_q_b.weight": "attn.indexer.wq_b.weight",
    "indexer.proj.weight": "attn.indexer.weights_proj.weight",
    "ffn_gate_inp.weight": "ffn.gate.weight",
    "ffn_gate_tid2eid.weight": "ffn.gate.tid2eid",
    "exp_probs_b.bias": "ffn.gate.bias",
    "ffn_gate_exps.weight": "ffn.experts.w1",
    "ffn_up_exps.weight": "ffn.experts.w3",
    "ffn_down_exps.weight": "ffn.experts.w2",
    "ffn_gate_shexp.weight": "ffn.shared_experts.w1.weight",
    "ffn_up_shexp.weight": "ffn.shared_experts.w3.weight",
    "ffn_down_shexp.weight": "ffn.shared_experts.w2.weight",
    **{f"hc_{part}_{what}.weight": f"hc_{part}_{what}" for part in ("attn", "ffn") for what in ("fn", "base", "scale")},
    **{
        f"{gguf}_{what}{end}": f"{ours}.{new}{new_end}"
        for gguf, ours in (("attn_compressor", "attn.compressor"), ("indexer_compressor", "attn.indexer.compressor"))
        for what, end, new, new_end in (
            ("kv", ".weight", "wkv", ".weight"),
            ("gate", ".weight", "wgate", ".weight"),
            ("ape", ".weight", "ape", ""),
            ("norm", ".weight", "norm", ".weight"),
        )
    },
}
"""Names of a layer's tensors."""


def from_gguf(path: Path) -> Model:
    """A GGUF as our model, in float32."""
    reader = GGUFReader(path)
    value = {key: reader.fields[f"deepseek4.{name}"].contents() for key, name in KEYS.items()}
    scaling = {
        "factor": "factor",
        "original_max_position_embeddings": "original_context_length",
        "beta_fast": "yarn_beta_fast",
        "beta_slow": "yarn_beta_slow",
    }
    value["rope_scaling"] = {k: reader.fields[f"deepseek4.rope.scaling.{v}"].contents() for k, v in scaling.items()}
    value["swiglu_limit"] = reader.fields["deepseek4.swiglu_clamp_exp"].contents()[0]
    model = Model(Config.of(value | {"num_nextn_predict_layers": 0}))
    model.load_state_dict({our_name(t.name): torch.from_numpy(numbers(t)) for t in reader.tensors})
    return model


def numbers(tensor) -> np.ndarray:
    if tensor.tensor_type.name == "I32":
        return np.array(tensor.data, dtype=np.int64)
    shape = tuple(int(n) for n in reversed(tensor.shape))
    return dequantize(tensor.data, tensor.tensor_type).astype(np.float32).reshape(shape)


def our_name(name: str) -> str:
    if name in TENSORS:
        return TENSORS[name]
    _, layer, part = name.split(".", 2)
    return f"layers.{layer}.{PARTS[part]}"


def ids_of(a: argparse.Namespace) -> list[int]:
    if a.tokens:
        return [int(n) for n in a.tokens.read_text().split()]
    tokenizer = Tokenizer.from_file(str(a.tokenizer / "tokenizer.json"))
    return tokenizer.encode(BOS + a.text.read_text(), add_special_tokens=False).ids


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    weights = ap.add_mutually_exclusive_group(required=True)
    weights.add_argument("--checkpoint", type=Path)
    weights.add_argument("--gguf", type=Path)
    what = ap.add_mutually_exclusive_group(required=True)
    what.add_argument("--tokens", type=Path)
    what.add_argument("--text", type=Path)
    ap.add_argument("--tokenizer", type=Path, help="for --text")
    ap.add_argument("--out", required=True)
    ap.add_argument("--dtype", choices=DTYPES, default="bf16")
    ap.add_argument("--every", type=int, default=1)
    a = ap.parse_args()
    ids = ids_of(a)
    if a.gguf:
        model = from_gguf(a.gguf).eval()
    else:
        model = load(torch.load(a.checkpoint, map_location="cpu", weights_only=True), a.dtype)
    with torch.no_grad():
        logits = model(torch.tensor([ids]))[0]
    Path(f"{a.out}.tokens").write_text(" ".join(map(str, ids)) + "\n")
    logits[(len(ids) - 1) % a.every :: a.every].numpy().astype("<f4").tofile(f"{a.out}.logits.f32")


if __name__ == "__main__":
    main()
