"""Trains the vocabulary: byte-level BPE that cuts text as V4 does, with V4's marks, in fewer ids.

    python tokenizer.py --config configs/small.json --data DATA --out work/tokenizer

Ids are laid out as in the official `tokenizer.json`: 0 to 2 begin, end and pad; then bytes and what merges make of
them; then the other marks, of which only the 1,217 place holders are left out. Which are `special`, hidden when text is
shown, is as there.
"""

import argparse
import json
import re
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

from chat import ASSISTANT, BOS, DSML, EOS, PAD, THINK, THINK_END, USER

CUTS = [
    r"\p{N}{1,3}",
    "[一-龥\u3040-ゟ゠-ヿ]+",
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+|"
    " ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
]
"""Each is applied to what the ones before it have left."""

PLAIN_MARKS = [
    *(f"<｜fim▁{part}｜>" for part in ("hole", "begin", "end")),
    USER,
    ASSISTANT,
    "<|EOT|>",
    *(f"<｜tool▁{what}▁{end}｜>" for what in ("calls", "call", "outputs", "output") for end in ("begin", "end")),
    "<｜tool▁sep｜>",
    *(f"<｜{end}▁of▁{what}｜>" for what in ("repo▁name", "file▁name", "file") for end in ("begin", "end")),
    THINK,
    THINK_END,
    DSML,
    "<｜begin▁sys｜>",
    "<｜end▁sys｜>",
    "<｜latest_reminder｜>",
    *(
        f"<｜{task}｜>"
        for task in (
            "action",
            "query",
            "authority",
            "domain",
            "task",
            "political",
            "entity",
            "title",
            "safety",
            "answer",
            "search",
        )
    ),
    "<dsml:",
    "</dsml:",
    "<｜search▁begin｜>",
    "<｜search▁end｜>",
    "<｜extracted_url｜>",
    "<｜read_url｜>",
]
TABLE_MARKS = ["<｜image2｜>", "<｜/table>｜", "<｜table｜>", "<｜/td｜>", "<｜td｜>", "<｜/tr｜>", "<｜tr｜>"]
SPECIAL_MARKS = [
    "<｜end_of_query｜>",
    "<｜rl_image_pad｜>",
    "<｜rl_image_start｜>",
    *(f"<｜{slash}{what}｜>" for what in ("polygon", "point", "box", "ref") for slash in ("/", "")),
    "<｜image｜>",
]
MARKS = PLAIN_MARKS + TABLE_MARKS + SPECIAL_MARKS
ANY_MARK = re.compile("|".join(map(re.escape, [BOS, EOS, PAD, *MARKS])))


def trained(texts: Iterable[str], vocab_size: int) -> dict:
    """`tokenizer.json` of a vocabulary with `vocab_size` ids."""
    t = Tokenizer(models.BPE())
    splits = [pre_tokenizers.Split(Regex(cut), "isolated") for cut in CUTS]
    t.pre_tokenizer = pre_tokenizers.Sequence([*splits, pre_tokenizers.ByteLevel(False, use_regex=False)])
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(MARKS),
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    t.train_from_iterator((part for text in texts for part in ANY_MARK.split(text)), trainer)
    return finished(json.loads(t.to_str()))


def finished(file: dict) -> dict:
    """Puts in the marks, and what the official file says beside."""
    n = len(file["model"]["vocab"])
    added = [(i, mark, True) for i, mark in enumerate((BOS, EOS, PAD))]
    added += [(n + i, mark, mark in SPECIAL_MARKS) for i, mark in enumerate(MARKS)]
    flags = dict(single_word=False, lstrip=False, rstrip=False)
    file["added_tokens"] = [
        dict(id=i, content=mark, **flags, normalized=mark in PLAIN_MARKS, special=special) for i, mark, special in added
    ]
    file["normalizer"] = {"type": "Sequence", "normalizers": []}
    byte_level = {"type": "ByteLevel", "add_prefix_space": True, "use_regex": True}
    file["decoder"] = byte_level | {"trim_offsets": True}
    file["post_processor"] = byte_level | {"trim_offsets": False}
    return file


def settings() -> dict:
    """`tokenizer_config.json`."""
    token = dict(__type="AddedToken", lstrip=False, normalized=True, rstrip=False, single_word=False)
    roles = {f"{role}_token": token | {"content": text} for role, text in (("bos", BOS), ("eos", EOS), ("pad", EOS))}
    return dict(
        add_bos_token=False,
        add_eos_token=False,
        clean_up_tokenization_spaces=False,
        legacy=True,
        model_max_length=1048576,
        sp_model_kwargs={},
        unk_token=None,
        tokenizer_class="PreTrainedTokenizerFast",
        **roles,
    )


def main() -> None:
    from data import documents

    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--config", type=Path, required=True)
    ap.add_argument("--data", type=Path, required=True, help="the folder of shared data")
    ap.add_argument("--out", type=Path, required=True)
    a = ap.parse_args()
    config = json.loads(a.config.read_text())
    texts = (d.text for d in documents(a.data, config["data"]) if not d.held_out)
    file = trained(texts, config["model"]["vocab_size"])
    a.out.mkdir(parents=True, exist_ok=True)
    (a.out / "tokenizer.json").write_text(json.dumps(file, ensure_ascii=False, indent=1) + "\n")
    (a.out / "tokenizer_config.json").write_text(json.dumps(settings(), ensure_ascii=False, indent=2) + "\n")
    print(f"{len(file['model']['vocab']) + len(MARKS)} ids, {len(file['model']['merges'])} merges")


if __name__ == "__main__":
    main()
