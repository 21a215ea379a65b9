"""The model against the engine's golden logits, and against itself.

pytest test_model.py                       # goldens from ../testdata/deepseek_v4
NANO_GOLDEN=/some/folder pytest test_model.py
"""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from golden import from_gguf
from model import CSA_RATIO, Config, Experts, HyperMix, HyperRead, HyperWrite, Met, Model, Normalize, Sinkhorn

GOLDEN = Path(os.environ.get("NANO_GOLDEN", Path(__file__).parent.parent / "testdata/deepseek_v4"))


@pytest.fixture(scope="module", params=["micro-flash", "micro-pro", "micro-native"])
def golden(request) -> tuple[Model, torch.Tensor, torch.Tensor]:
    model = from_gguf(GOLDEN / f"{request.param}.gguf")
    ids = torch.tensor([[int(n) for n in (GOLDEN / f"{request.param}.tokens").read_text().split()]])
    logits = np.fromfile(GOLDEN / f"{request.param}.logits.f32", dtype="<f4").reshape(ids.shape[1], -1)
    return model, ids, torch.from_numpy(logits)


SMALL = dict(
    vocab_size=64,
    hidden_size=32,
    num_hidden_layers=4,
    num_attention_heads=2,
    head_dim=16,
    qk_rope_head_dim=8,
    q_lora_rank=16,
    o_lora_rank=8,
    o_groups=2,
    sliding_window=16,
    compress_ratios=[0, 4, 16, 4],
    index_n_heads=4,
    index_head_dim=16,
    index_topk=512,
    n_routed_experts=4,
    num_experts_per_tok=2,
    n_shared_experts=1,
    moe_intermediate_size=32,
    num_hash_layers=1,
    routed_scaling_factor=1.5,
    swiglu_limit=10.0,
    hc_mult=4,
    hc_sinkhorn_iters=20,
    hc_eps=1e-6,
    rms_norm_eps=1e-6,
    rope_theta=10000.0,
    compress_rope_theta=160000.0,
    rope_scaling=dict(factor=16, original_max_position_embeddings=65536, beta_fast=32, beta_slow=1),
    num_nextn_predict_layers=1,
)


@pytest.fixture
def small() -> Model:
    model = Model(Config.of(SMALL)).initialize(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if name.endswith(("ape", "sink", "base")):
                p.add_(torch.randn(p.shape, generator=torch.Generator().manual_seed(2)))
    return model


def some_ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, SMALL["vocab_size"], shape, generator=torch.Generator().manual_seed(3))


@torch.no_grad()
def test_logits_are_the_golden_ones(golden):
    model, ids, logits = golden
    worst = (model(ids)[0] - logits).abs().max().item()
    print(f"worst {worst:.1e}")
    assert worst < 1e-4


@torch.no_grad()
@pytest.mark.parametrize("n", [1, 3, 4, 5, 63, 64, 65, 127, 128, 129, 255])
def test_later_tokens_change_nothing(golden, n):
    model, ids, logits = golden
    assert (model(ids[:, :n])[0] - logits[:n]).abs().max() < 1e-4


@torch.no_grad()
def test_packed_documents_are_kept_apart(small):
    lengths = [5, 37, 1, 64, 21]
    ids = some_ids(1, sum(lengths))
    begins = np.cumsum([0] + lengths[:-1])
    start = torch.from_numpy(np.repeat(begins, lengths))[None]
    packed = small(ids, start)
    for begin, n in zip(begins, lengths):
        alone = small(ids[:, begin : begin + n])
        assert (packed[:, begin : begin + n] - alone).abs().max() < 2e-5


@torch.no_grad()
def test_rows_of_a_batch_do_not_meet(small):
    ids = some_ids(3, 48)
    assert (small(ids)[1] - small(ids[1:2])[0]).abs().max() < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("name", ["small", "nano"])
def test_an_untrained_model_looks_at_what_followed_the_same_token(name, monkeypatch):
    """The first head of the first layer looks one place back, that of the second where the same token came before."""
    c = Config.of(json.loads((Path(__file__).parent / f"configs/{name}.json").read_text())["model"])
    looks, attended = [], Met.attended

    def watched(met: Met, bias: torch.Tensor) -> torch.Tensor:
        scores = met.q @ met.k.mT * met.scale + bias.flatten(0, 1)[:, None]
        looks.append(scores.softmax(-1)[:, 0, :, c.sliding_window :])
        return attended(met, bias)

    monkeypatch.setattr(Met, "attended", watched)
    words = torch.randperm(c.vocab_size, generator=torch.Generator().manual_seed(3))[:64]
    Model(c).initialize(1)(words.repeat(2)[None])
    queries = torch.arange(65, 127)
    assert looks[0][0, queries, queries - 1].mean() > 0.5
    after_the_same, by_chance = looks[1][0, queries, queries - 63].mean(), 1 / 96  # keys that a query sees, on average
    assert after_the_same > 4 * by_chance


def test_an_indexer_that_keeps_all_changes_nothing_and_learns(small):
    ids = some_ids(2, 64)
    start, learned = torch.zeros_like(ids), torch.ones_like(ids, dtype=torch.bool)
    plain = small.losses(ids, start, learned, False, 0)
    trained = small.losses(ids, start, learned, True, 4)
    assert plain.next == trained.next and trained.index > 0
    trained.index.backward()
    touched = {name for name, p in small.named_parameters() if p.grad is not None and p.grad.abs().max() > 0}
    assert touched and all(".indexer." in name for name in touched)


def test_every_parameter_gets_a_gradient(small):
    ids = some_ids(2, 64)
    l = small.losses(ids, torch.zeros_like(ids), torch.ones_like(ids, dtype=torch.bool), True, 4)
    (l.next + l.draft + l.index).backward()
    assert [name for name, p in small.named_parameters() if p.grad is None or p.grad.abs().max() == 0] == []


def test_sinkhorn_is_its_steps_and_has_their_gradient():
    logits = torch.randn(16, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    found = Sinkhorn.apply(logits, 4, 5, 1e-6)
    c = logits.view(4, 4, -1).softmax(1) + 1e-6
    c = c / (c.sum(0, keepdim=True) + 1e-6)
    for _ in range(4):
        c = c / (c.sum(1, keepdim=True) + 1e-6)
        c = c / (c.sum(0, keepdim=True) + 1e-6)
    assert (found.view(4, 4, -1) - c).abs().max() < 1e-12
    assert torch.autograd.gradcheck(lambda x: Sinkhorn.apply(x, 4, 5, 1e-6), logits)


def test_streams_have_the_gradients_of_their_equations():
    g = torch.Generator().manual_seed(1)
    x, fn, f, pre, comb = (
        torch.randn(shape, dtype=torch.float64, generator=g, requires_grad=True)
        for shape in ((130, 4, 6), (24, 24), (130, 6), (130, 4), (130, 4, 4))
    )

    def ours() -> torch.Tensor:
        streams, mix = HyperMix.apply(x, fn, 1e-6)
        streams, y = HyperRead.apply(streams, pre)
        return HyperWrite.apply(streams, f * y, mix[:, :4], comb)

    def plain() -> torch.Tensor:
        u = x.flatten(1)
        mix = u @ fn.t() * (u.square().mean(1, keepdim=True) + 1e-6).rsqrt()
        y = (pre[:, :, None] * x).sum(1)
        return mix[:, :4, None] * (f * y)[:, None] + comb @ x

    inputs = (x, fn, f, pre, comb)
    for a, b in zip(
        (ours(), *torch.autograd.grad(ours().square().sum(), inputs)),
        (plain(), *torch.autograd.grad(plain().square().sum(), inputs)),
    ):
        assert (a - b).abs().max() < 1e-9 * b.abs().max()


def test_normalizing_has_its_gradient():
    x, w = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 2, 8), (8,)))
    plain = w * x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()
    assert (Normalize.apply(x, w, 1e-6) - plain).abs().max() < 1e-12
    assert torch.autograd.gradcheck(lambda x, w: Normalize.apply(x, w, 1e-6), (x, w))


def test_grouped_products_are_those_of_experts_one_by_one(small, monkeypatch):
    """The way of GPUs, in bfloat16, where PyTorch has it on a CPU."""
    experts = small.layers[1].ffn.experts
    x, weight = torch.randn(50, 32), torch.rand(50, 2)
    chosen = torch.stack([torch.randperm(4)[:2] for _ in range(50)])

    def found() -> list[torch.Tensor]:
        experts.zero_grad()
        out = experts(x, chosen, weight)
        out.square().sum().backward()
        return [out.detach(), experts.w1.grad.clone(), experts.w2.grad.clone(), experts.w3.grad.clone()]

    plain = found()
    monkeypatch.setattr(Experts, "groups", staticmethod(lambda x: True))
    for a, b in zip(found(), plain):
        assert (a - b).norm() < 0.02 * b.norm()


@torch.no_grad()
def test_a_small_topk_hides_rows(small):
    few = Model(dataclasses.replace(small.c, index_topk=2))
    few.load_state_dict(small.state_dict())
    ids = some_ids(1, 64)
    a, b = small(ids)[0], few(ids)[0]
    assert (a[: 3 * CSA_RATIO - 1] - b[: 3 * CSA_RATIO - 1]).abs().max() < 1e-5
    assert (a[3 * CSA_RATIO :] - b[3 * CSA_RATIO :]).abs().max() > 1e-3
