"""Chat rendering against DeepSeek's vectors, token files, packing, and that training resumes exactly.

pytest test_data.py
NANO_DATA=/folder/of/shared/data pytest test_data.py     # also with the vectors and the tokenizer there
"""

import json
import os
import random
import socket
from pathlib import Path

import numpy as np
import pytest
import torch

import data
import tasks
from chat import EOS, render, text_of
from data import CONTEXT, Packing, Split, Writer, encoded
from model import Config
from test_model import SMALL
from tokenizer import ANY_MARK, MARKS, trained
from train import Trainer, Usage, orthogonal, rate

VECTORS = Path(__file__).parent.parent / "testdata/chat/deepseek_v4"
DATA = Path(os.environ.get("NANO_DATA", "/nowhere"))


def ours(message: dict) -> dict:
    """A message of the vectors in our form."""
    calls = [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message.get("tool_calls") or []]
    return dict(
        role=message["role"],
        content=message.get("content") or "",
        calls=calls,
        reasoning=message.get("reasoning_content") or "",
    )


@pytest.mark.parametrize("n", [1, 2])
def test_prompts_are_those_of_the_release(n):
    given = json.loads((VECTORS / f"test_input_{n}.json").read_text())
    messages, tools = (given["messages"], given["tools"]) if isinstance(given, dict) else (given, [])
    pieces = render([ours(m) for m in messages], [t["function"] for t in tools], thinking=True)
    assert text_of(pieces) == (VECTORS / f"test_output_{n}.txt").read_text()


@pytest.mark.parametrize("case", json.loads((VECTORS / "recipe.json").read_text())["cases"], ids=lambda c: c["name"])
def test_prompts_are_those_of_the_recipe(case):
    request = case["request"]
    prompt = case.get("prompt")
    beyond = {"tool_choice", "response_format", "reasoning_effort"} & set(request)
    special = case["name"] in (
        "system_in_middle",
        "prefix_completion",
        "content_parts",
        "specials_in_text",
        "tool_result_parallel_out_of_order",
    )
    if prompt is None or beyond or special:
        pytest.skip("not made for training")
    prompt = (
        prompt.replace(prompt[prompt.find("Reasoning Effort") : prompt.find("unchecked.\n\n") + 12], "")
        if "Reasoning Effort" in prompt
        else prompt
    )
    tools = [dict(t["function"]) for t in request.get("tools", [])]
    for t in tools:
        t.setdefault("description", "")
    thinking = request.get("thinking", {}).get("type") != "disabled"
    pieces = render([ours(m) for m in request["messages"]], tools, thinking, asks=True)
    assert text_of(pieces) == prompt


@pytest.mark.skipif(not DATA.exists(), reason="NANO_DATA is not set")
def test_text_is_cut_as_the_official_tokenizer_does():
    from data import raw

    official = json.loads(raw(DATA / "tokenizers/deepseek_v4_tokenizer.json.zst"))
    file = trained(["some text"], 600)
    for part in ("pre_tokenizer", "normalizer", "decoder", "post_processor"):
        assert file[part] == official[part]
    marks = {t["content"]: t for t in official["added_tokens"] if "holder" not in t["content"]}
    mine = {t["content"]: t for t in file["added_tokens"]}
    assert {k: v | {"id": 0} for k, v in mine.items()} == {k: v | {"id": 0} for k, v in marks.items()}


@pytest.fixture(scope="module")
def vocabulary():
    from tokenizers import Tokenizer

    texts = [
        text_of(render(t.messages, t.tools, t.thinking)) for t in (tasks.tools(random.Random(i)) for i in range(40))
    ]
    return Tokenizer.from_str(json.dumps(trained(texts, 768)))


def test_the_assistants_words_are_learned_and_nothing_else(vocabulary):
    talk = tasks.tools(random.Random(5))
    pieces = render(talk.messages, talk.tools, talk.thinking)
    ids = encoded(pieces, vocabulary)
    whole = vocabulary.encode(text_of(pieces), add_special_tokens=False).ids
    assert (ids & (CONTEXT - 1)).tolist() == whole
    learned = vocabulary.decode([int(i) for i in ids if i < CONTEXT], skip_special_tokens=False)
    assert learned == "".join(p.text for p in pieces if p.learned) and learned.endswith(EOS)


def test_ids_are_as_many_as_asked_for(vocabulary):
    assert vocabulary.get_vocab_size() == 768
    assert [vocabulary.token_to_id(mark) for mark in MARKS] == list(range(768 - len(MARKS), 768))


@pytest.mark.parametrize("make", [tasks.tools, tasks.questions, tasks.copying, tasks.arithmetic])
def test_generated_talks_are_well_formed(make):
    for i in range(300):
        talk = make(random.Random(i))
        text = text_of(render(talk.messages, talk.tools, talk.thinking))
        assert text.endswith(EOS) and text.count("<think>") <= text.count("</think>")
        said = [ANY_MARK.search(m["content"]) for m in talk.messages]
        assert not any(said), "words must not spell marks"
        names = {t["name"] for t in talk.tools}
        assert all(name in names for m in talk.messages for name, _ in m.get("calls", []))


def test_nothing_held_out_is_learned_elsewhere(monkeypatch):
    middle = "They played with ball {0}x. It was red. It rolled away. They ran after it. A dog had found it. "
    told = [("One day Tim met a cat. " + middle + "All were happy.").format(i) for i in range(400)]
    monkeypatch.setattr(data, "stories", lambda folder, more: told)
    kinds = ("stories", "prompted_stories", "continued_stories", "summaries", "questions", "arithmetic", "tools")
    monkeypatch.setattr(data, "KINDS", {kind: data.KINDS[kind] for kind in kinds})
    share = dict(prompted_story=0.5, continued_story=0.5, summary=0.5)
    count = dict(questions=300, arithmetic=300, tools=100)
    split = {True: [], False: []}
    for d in data.documents(Path(), dict(seed=1, share=share, count=count)):
        split[d.held_out].append(d)
    learned = "\n".join(d.text for d in split[False])
    for i, story in enumerate(told):
        if data.is_held(story):
            assert f"ball {i}x" not in learned
        else:
            assert f"ball {i}x" in learned
    assert {d.kind for d in split[True]} == set(kinds)
    assert not {d.text for d in split[True]} & {d.text for d in split[False]}


def test_long_texts_are_cut_where_sentences_end_and_nothing_is_lost():
    text = " ".join(f"This is sentence {i}." for i in range(40)) + "\n\nThe end."
    parts = [text_of(part[1:]) for part in data.cut(text, 100)]
    assert all(len(part) <= 100 + len(EOS) for part in parts)
    assert " ".join(parts).replace("\n\n", " ").split() == (text + EOS).replace("\n\n", " ").split()


@pytest.fixture
def folder(tmp_path) -> Path:
    r = np.random.default_rng(1)
    for split, n in (("train", 50), ("held", 5)):
        writer = Writer(tmp_path, split)
        for i in range(n):
            ids = r.integers(0, SMALL["vocab_size"], int(r.integers(2, 64)), dtype=np.uint16)
            ids[0] |= CONTEXT
            writer.add(ids, i % 3)
        writer.finish()
    (tmp_path / "manifest.json").write_text('{"kinds": {"stories": {}, "copying": {}, "tools": {}}}')
    return tmp_path


def test_packing_loses_and_mixes_nothing(folder):
    split = Split(folder, "train")
    packing = Packing(split, [32, 64], 128, "seed", keeps_rest=True)
    seen = sorted(i for _, rows in packing.batches for row in rows for i in row)
    assert seen == list(range(50))
    for b, (length, rows) in enumerate(packing.batches):
        batch = packing.batch(b)
        assert batch.ids.shape == (len(rows), length)
        for row, ids, start in zip(rows, batch.ids, batch.start):
            at = 0
            for document in row:
                n = split.lengths[document]
                assert (ids[at : at + n] == split.document(document) & (CONTEXT - 1)).all()
                assert (start[at : at + n] == at).all()
                at += n
    again = Packing(split, [32, 64], 128, "seed", keeps_rest=True)
    assert [rows for _, rows in again.batches] == [rows for _, rows in packing.batches]


TRAINING = dict(
    lengths=[32, 64],
    batch_tokens=256,
    micro_tokens=128,
    learning_rate=0.01,
    weight_decay=0.1,
    warmup_tokens=512,
    decay=0.25,
    fall_shares={"tools": 0.5, "copying": 1.0},
    draft_weight=0.3,
    draft_every=2,
    index_weight=0.1,
    index_stride=4,
    bias_rate=0.01,
    seed=1,
)


def trainer(folder: Path, out: Path, **training) -> Trainer:
    return Trainer(dict(model=SMALL, training=TRAINING | training), folder, out, 1e5)


def test_a_run_that_was_cut_goes_on_bit_for_bit(folder, tmp_path):
    whole = trainer(folder, tmp_path / "whole")
    losses = [whole.train_step() for _ in range(10)]
    cut = trainer(folder, tmp_path / "cut")
    for _ in range(4):
        cut.train_step()
    cut.save()
    resumed = trainer(folder, tmp_path / "cut")
    assert resumed.resume()
    assert [resumed.train_step() for _ in range(6)] == losses[4:]
    assert whole.epoch > 0, "the run has to cross an epoch"
    for (name, a), b in zip(whole.model.state_dict().items(), resumed.model.state_dict().values()):
        assert torch.equal(a, b), name


def test_what_the_model_should_be_best_at_comes_last(folder, tmp_path):
    def parts(t: Trainer, n: int) -> list[bytes]:
        return [t.next_part().ids.tobytes() for _ in range(n)]

    t = trainer(folder, tmp_path)
    parts(t, 3)
    assert len(t.documents()) == len(t.split.kinds)
    t.seen = 80_000
    parts(t, 2)
    of_kind = {name: t.split.kinds == i for i, name in enumerate(t.kinds)}
    found = t.documents()
    assert set(t.split.kinds[found]) == {t.kinds.index("tools"), t.kinds.index("copying")}
    assert of_kind["copying"][found].sum() == of_kind["copying"].sum()
    assert 0 < of_kind["tools"][found].sum() < of_kind["tools"].sum()
    t.save()
    resumed = trainer(folder, tmp_path)
    resumed.resume()
    assert parts(resumed, 40) == parts(t, 40)


def steps_of_one_in_two(rank: int, folder: Path, out: Path, port: int) -> None:
    os.environ.update(WORLD_SIZE="2", RANK=str(rank), MASTER_ADDR="localhost", MASTER_PORT=str(port))
    t = trainer(folder, out)
    losses = [t.train_step() for _ in range(4)]
    torch.save((losses, t.model.state_dict()), out / f"{rank}.pt")


def test_two_processes_train_as_one_does(folder, tmp_path):
    t = trainer(folder, tmp_path)
    before = {name: a.clone() for name, a in t.model.state_dict().items()}
    losses = [t.train_step() for _ in range(4)]
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(steps_of_one_in_two, (folder, tmp_path, port), nprocs=2)
    (first, its), (second, others) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first == second
    for one, two in zip(losses, first):
        assert [v or 0 for v in one.values()] == pytest.approx([v or 0 for v in two.values()], rel=1e-3)
    for name, a in t.model.state_dict().items():
        assert torch.equal(its[name], others[name]), name
        if a.is_floating_point():
            assert (its[name] - a).norm() <= 1e-3 * max(1e-3, (a - before[name]).norm()), name


def test_the_bias_brings_loads_together(folder, tmp_path):
    t = trainer(folder, tmp_path, learning_rate=0.0, bias_rate=0.05)
    ffn = t.model.layers[-1].ffn
    ffn.gate.bias.copy_(torch.tensor([0.6, 0.0, 0.0, -0.6]))
    spread = []
    for _ in range(16):
        t.train_step()
        load = torch.bincount(ffn.chosen.flatten(), minlength=4).float()
        spread.append(float(load.max() / load.mean()))
    assert spread[0] > 1.8 and spread[-1] < 1.3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(3, 20, 40), (11, 40, 20)])
def test_muon_makes_singular_values_alike(dtype, shape):
    g = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    found = orthogonal(g, dtype)
    values = torch.linalg.svdvals(found)
    assert found.shape == shape and found.dtype == torch.float32
    assert values.min() > 0.4 and values.max() < 1.4
    assert (found * g).sum((1, 2)).min() > 0  # each is of its own matrix


def test_bfloat16_is_float32_roughly(folder, tmp_path):
    config = dict(model=SMALL, training=TRAINING)
    both = [Trainer(config, folder, tmp_path / str(low), 1e5, bfloat16=low) for low in (False, True)]
    plain, low = ([t.train_step()["loss"] for _ in range(3)] for t in both)
    assert plain != low and low == pytest.approx(plain, rel=0.02)


def test_the_rate_rises_stays_and_falls():
    t = TRAINING | dict(warmup_tokens=1000, batch_tokens=100, learning_rate=1.0, decay=0.25)
    found = [rate(t, seen, 10_000) for seen in (0, 400, 900, 5000, 7500, 8750, 10_000)]
    assert found == pytest.approx([0.1, 0.5, 1.0, 1.0, 1.0, 0.5, 0.0])


def test_a_runs_length_may_change_until_the_rate_falls(folder, tmp_path):
    def resumed(total: float) -> bool:
        return Trainer(dict(model=SMALL, training=TRAINING), folder, tmp_path, total).resume()

    t = trainer(folder, tmp_path)
    t.train_step()
    t.seen = 50_000
    t.save()
    assert resumed(1e5) and resumed(2e5) and resumed(7e4)
    with pytest.raises(SystemExit, match="can't be changed"):
        resumed(6e4)


def test_usage_counts_experts_and_what_neighbours_share():
    class Layer:
        def __init__(self, chosen):
            self.ffn = self
            self.chosen = torch.tensor(chosen)

    class Two:
        layers = [Layer([[0, 1], [0, 1], [1, 2], [3, 0]])]
        c = Config.of(SMALL | dict(n_routed_experts=4))

    usage = Usage(Two())
    usage.add(torch.tensor([[5, 6, 7, 0]]), torch.tensor([[0, 0, 0, 3]]))
    (told,) = usage.told()
    assert (told["most"], told["least"]) == (2.0, 0.0)  # 3 of 6 choices are expert 1; the filling's do not count
    assert told["shared"] == 0.75  # both of the second token, one of the third
    assert told["by_chance"] == pytest.approx(2 * (4 + 9 + 1) / 36, abs=1e-4)
