"""Writes a checkpoint as a Hugging Face folder in DeepSeek's layout, which `ds4 quantize` imports.

    python export.py --checkpoint work/run/checkpoint.pt --tokenizer work/tokenizer --out nano-small [--dtype f32]

Matrices are stored as bfloat16 unless asked otherwise; norms, hyper-connections, sinks, APE and routers, which the
released files keep in float32 or which decide much by little, as float32. The drafting block is exported as `mtp.0.*`.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from model import Config, Model

FIXED = dict(
    architectures=["DeepseekV4ForCausalLM"],
    model_type="deepseek_v4",
    attention_bias=False,
    attention_dropout=0.0,
    bos_token_id=0,
    eos_token_id=1,
    hidden_act="silu",
    initializer_range=0.02,
    norm_topk_prob=True,
    scoring_func="sqrtsoftplus",
    topk_method="noaux_tc",
    tie_word_embeddings=False,
    use_cache=True,
)
"""What `config.json` says of every model of the family."""

GENERATION = dict(_from_model_config=True, bos_token_id=0, eos_token_id=1, do_sample=True, temperature=0.5, top_p=1.0)
"""So small a model keeps to its story only if it is not drawn far from what it finds likely."""

DTYPES = dict(bf16=torch.bfloat16, f16=torch.float16, f32=torch.float32)


def tensors(state: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """The tensors of a model by their published names, experts one by one."""
    out = {}
    for name, tensor in state.items():
        prefix, dot, part = name.partition(".experts.")
        if dot:
            for i, one in enumerate(tensor):
                out[f"{prefix}.experts.{i}.{part}.weight"] = one.to(dtype).contiguous()
        else:
            out[name] = tensor.to(stored(name, tensor, dtype)).contiguous()
    return out


def stored(name: str, tensor: Tensor, dtype: torch.dtype) -> torch.dtype:
    is_fine = tensor.dim() == 1 or "hc_" in name or name.endswith((".ape", "ffn.gate.weight"))
    return tensor.dtype if not tensor.is_floating_point() or is_fine else dtype


def export(checkpoint: dict, tokenizer: Path, out: Path, dtype: str = "bf16") -> None:
    """Writes the folder."""
    config = checkpoint["config"]["model"]
    out.mkdir(parents=True, exist_ok=True)
    written = FIXED | config | dict(torch_dtype=dict(bf16="bfloat16", f16="float16", f32="float32")[dtype])
    (out / "config.json").write_text(json.dumps(written, indent=2) + "\n")
    (out / "generation_config.json").write_text(json.dumps(GENERATION, indent=2) + "\n")
    save_file(tensors(checkpoint["model"], DTYPES[dtype]), out / "model.safetensors", metadata={"format": "pt"})
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(tokenizer / name, out / name)


def load(checkpoint: dict, dtype: str = "f32") -> Model:
    """The model of a checkpoint, its weights rounded as `export` with this `dtype` would."""
    model = Model(Config.of(checkpoint["config"]["model"]))
    rounded = {name: t.to(stored(name, t, DTYPES[dtype])).to(t.dtype) for name, t in checkpoint["model"].items()}
    model.load_state_dict(rounded)
    return model.eval()


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--checkpoint", type=Path, required=True)
    ap.add_argument("--tokenizer", type=Path, required=True)
    ap.add_argument("--out", type=Path, required=True)
    ap.add_argument("--dtype", choices=DTYPES, default="bf16")
    a = ap.parse_args()
    export(torch.load(a.checkpoint, map_location="cpu", weights_only=True), a.tokenizer, a.out, a.dtype)


if __name__ == "__main__":
    main()
