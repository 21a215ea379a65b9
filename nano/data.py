"""Builds the corpus: documents, their token files and a manifest; and packs documents into rows for training.

    python data.py --config configs/small.json --data DATA --tokenizer work/tokenizer --out work/data

A folder of token files holds, for each of the splits `train` and `held`:

    SPLIT.tokens   uint16 after uint16, little endian: the id, plus 32768 where a token is context that is not learned
    SPLIT.docs     int64, where each document begins, and the end of the last
    SPLIT.kinds    uint8 per document, an index into the manifest's `kinds`
    manifest.json  sources with licence and SHA-256, documents, tokens and share of each kind, and of the token files

A document begins with BOS, as every context of the engine does, and is no longer than the longest row: longer texts are
cut at the end of a paragraph or sentence, and each part begins anew. Everything follows from the sources, the numbers
in the config and its seed. Each kind has a random generator of its own, so that more of one changes no other.

A fiftieth is held out, by what it is made from: a story with all that is asked about it, a book as a whole, a request
for tools or a sum in every conversation that has it. So nothing that is held out was learned in another place.
"""

import argparse
import functools
import hashlib
import io
import itertools
import json
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import tasks
from chat import BOS, EOS, Piece, render, text_of
from tasks import Talk

CONTEXT = 1 << 15
"""Marks a token that is read but not learned."""
HELD_OUT = 50
"""One in so many is held out."""

SOURCES = {
    "stories": ("text/stories_synthetic.txt.zst", "ours (sampled from stories15M, MIT)"),
    "tinystories": ("text/tinystories_train_sample.txt.zst", "CDLA-Sharing-1.0"),
    "storybooks": ("text/storybooks_ccby.jsonl.zst", "CC BY 4.0, attribution in each line"),
    "books": ("text/gutenberg_children.txt.zst", "public domain (US)"),
    "instructions": ("instruct/instruction_data_1100.json", "Apache-2.0"),
    "seeds": ("instruct/self_instruct_seed_tasks.jsonl", "Apache-2.0"),
    "chats": ("instruct/instructlab_sdg_24k.jsonl.zst", "Apache-2.0"),
    "sums": ("eval/gsm8k_train.jsonl.zst", "MIT"),
}
"""Files of the shared data, and their licences."""


Made = tuple[list[str], "list[Piece] | Talk | None"]
"""What a document is made from, and the document, unless it is not wanted."""


@dataclass
class Document:
    kind: str
    pieces: list[Piece]
    held_out: bool

    @property
    def text(self) -> str:
        return text_of(self.pieces)


def raw(path: Path) -> bytes:
    data = path.read_bytes()
    if path.suffix != ".zst":
        return data
    import zstandard

    return zstandard.ZstdDecompressor().stream_reader(io.BytesIO(data)).read()


def read(folder: Path, name: str) -> str:
    return raw(folder / SOURCES[name][0]).decode()


def json_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def is_held(origin: str) -> bool:
    """Whether all that is made from this is held out."""
    return int.from_bytes(hashlib.sha256(origin.encode()).digest()[:8]) % HELD_OUT == 0


def documents(folder: Path, config: dict) -> Iterator[Document]:
    """All documents, kind by kind. `config` says how many of those that could be made without end."""
    for kind, make in KINDS.items():
        for origins, d in make(folder, config, random.Random(f"{config['seed']} {kind}")):
            if d is not None:
                pieces = d if isinstance(d, list) else render(d.messages, d.tools, d.thinking)
                yield Document(kind, pieces, any(map(is_held, origins)))


def plain(text: str) -> list[Piece]:
    """A text that is learned as a whole, with its end."""
    return [Piece(BOS, False), Piece(text.strip() + EOS, True)]


def part_of(text: str) -> list[Piece]:
    """A part of a longer text: it does not end."""
    return [Piece(BOS, False), Piece(text.strip(), True)]


def tidy(text: str) -> str:
    """One kind of quotation mark, no spaces before line ends, no more than one empty line."""
    text = text.replace("“", '"').replace("”", '"').replace("’", "'").replace("‘", "'").replace("\r", "")
    return re.sub(r"\n{3,}", "\n\n", re.sub(r"[ \t]+\n", "\n", text)).strip()


@functools.cache
def stories(folder: Path, more: str | None) -> list[str]:
    """Those that end, of both sources, and of what was sampled in bulk if there is a file of it."""
    texts = [read(folder, "stories"), read(folder, "tinystories")]
    if more:
        texts.append(raw(Path(more)).decode())
    all_parts = (tidy(part) for text in texts for part in text.split("<|endoftext|>"))
    return [s for s in dict.fromkeys(all_parts) if len(s) > 100 and s[-1] in '.!?"']


def plain_stories(folder: Path, config: dict, r: random.Random) -> Iterator[Made]:
    return (([story], plain(story)) for story in stories(folder, config.get("more_stories")))


def story_talks(make):
    def talks(folder: Path, config: dict, r: random.Random) -> Iterator[Made]:
        """A share of the stories, and all that are held out."""
        all_stories = stories(folder, config.get("more_stories"))
        rare = tasks.nouns_of(all_stories) if make is tasks.prompted_story else None
        share = config["share"][make.__name__]
        for story in all_stories:
            if is_held(story) or r.random() < share:
                yield [story], make(r, story, rare) if make is tasks.prompted_story else make(r, story)

    return talks


def storybooks(folder: Path, config: dict, r: random.Random) -> Iterator[Made]:
    for book in json_lines(read(folder, "storybooks")):
        text = re.sub(r"(?<!\n)\n(?!\n)", " ", tidy(book["text"]))
        yield from (([book["title"]], part) for part in cut(f"{book['title']}\n\n{text}", config["chars_max"]))


def books(folder: Path, config: dict, r: random.Random) -> Iterator[Made]:
    """Some parts of each book."""
    for book in read(folder, "books").split("<|endoftext|>"):
        title, _, text = book.partition("\n")
        text = re.sub(r"(?<!\n)\n(?!\n)", " ", tidy(text))
        parts = (part for part in cut(text, config["chars_max"]) if r.random() < config["share"]["books"])
        yield from (([title], part) for part in parts)


def cut(text: str, chars_max: int) -> Iterator[list[Piece]]:
    """Parts of whole paragraphs, or of whole sentences where a paragraph is long; the last one ends."""
    part = ""
    for paragraph in text.split("\n\n"):
        long = len(paragraph) > chars_max
        for piece in tasks.sentences(paragraph) if long else [paragraph]:
            if part and len(part) + len(piece) > chars_max:
                yield part_of(part)
                part = ""
            part += piece
        part += "\n\n"
    yield plain(part)


def asked(ask: str, reply: str, chars_max: int, reasoning: str = "", thinking: bool = False) -> Made:
    """One question of the shared data, unless it is long or not in plain English letters."""
    ask, reply = tidy(ask), tidy(reply)
    if not ask or not reply or len(ask) + len(reply) > chars_max or not (ask + reply).isascii():
        return [ask], None
    return [ask], Talk([tasks.user(ask), tasks.answer(reply, reasoning)], [], thinking)


def instructions(folder: Path, config: dict, r: random.Random) -> Iterator[Made]:
    for d in json.loads(read(folder, "instructions")):
        yield asked(f"{d['instruction']}\n\n{d['input']}", d["output"], config["instruction_chars_max"])
    for d in json_lines(read(folder, "seeds")):
        one = d["instances"][0]
        yield asked(f"{d['instruction']}\n\n{one['input']}", one["output"], config["instruction_chars_max"])


def chats(folder: Path, config: dict, r: random.Random) -> Iterator[Made]:
    for d in json_lines(read(folder, "chats")):
        said = [m["content"] for m in d["messages"] if m["role"] != "system"]
        if len(said) == 2:
            yield asked(said[0].replace("<nopace>", ""), said[1], config["chat_chars_max"])


def sums(folder: Path, config: dict, r: random.Random) -> Iterator[Made]:
    for d in json_lines(read(folder, "sums"))[: config["count"]["sums"]]:
        steps, value = re.sub(r"<<.*?>>", "", d["answer"]).split("\n#### ")
        yield asked(d["question"], f"The answer is {value}.", 1200, steps, True)


def made(make, by_request: bool = True):
    def talks(folder: Path, config: dict, r: random.Random) -> Iterator[Made]:
        """Made from each of their requests, or from all together where there are few different ones."""
        for _ in range(config["count"][make.__name__]):
            talk = make(r)
            said = [m["content"] for m in talk.messages if m["role"] == "user"]
            yield said if by_request else ["\n".join(said)], talk

    return talks


KINDS = {
    "stories": plain_stories,
    "prompted_stories": story_talks(tasks.prompted_story),
    "continued_stories": story_talks(tasks.continued_story),
    "summaries": story_talks(tasks.summary),
    "storybooks": storybooks,
    "books": books,
    "instructions": instructions,
    "chats": chats,
    "sums": sums,
    "questions": made(tasks.questions, by_request=False),
    "copying": made(tasks.copying),
    "arithmetic": made(tasks.arithmetic),
    "tools": made(tasks.tools),
}
"""What the corpus is made of."""


def encoded(pieces: list[Piece], tokenizer) -> np.ndarray:
    """Ids, those that are not learned with `CONTEXT`. Neighbours that are alike are one text."""
    parts = []
    for learned, alike in itertools.groupby(pieces, lambda piece: piece.learned):
        ids = tokenizer.encode(text_of(list(alike)), add_special_tokens=False).ids
        parts.append(np.array(ids, dtype=np.uint16) | (0 if learned else CONTEXT))
    return np.concatenate(parts)


class Writer:
    """The three files of a split."""

    def __init__(self, folder: Path, split: str):
        self.folder, self.split = folder, split
        self.tokens, self.ends, self.kinds = [], [0], []

    def add(self, ids: np.ndarray, kind: int) -> None:
        self.tokens.append(ids)
        self.ends.append(self.ends[-1] + len(ids))
        self.kinds.append(kind)

    def finish(self) -> dict:
        parts = dict(
            tokens=np.concatenate(self.tokens).astype("<u2"),
            docs=np.array(self.ends, "<i8"),
            kinds=np.array(self.kinds, "u1"),
        )
        for name, values in parts.items():
            values.tofile(self.folder / f"{self.split}.{name}")
        return {f"{self.split}.{name}": hashlib.sha256(values.tobytes()).hexdigest() for name, values in parts.items()}


def build(config: dict, data: Path, tokenizer_file: Path, out: Path) -> dict:
    """Writes the token files and gives the manifest."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_file))
    out.mkdir(parents=True, exist_ok=True)
    writers = {False: Writer(out, "train"), True: Writer(out, "held")}
    kinds, longest = list(KINDS), max(config["training"]["lengths"])
    counts = {kind: dict(documents=0, tokens=0, learned=0, too_long=0) for kind in kinds}
    for d in documents(data, config["data"]):
        ids, count = encoded(d.pieces, tokenizer), counts[d.kind]
        if len(ids) > longest:
            count["too_long"] += 1
            continue
        writers[d.held_out].add(ids, kinds.index(d.kind))
        count["documents"] += 1
        count["tokens"] += len(ids)
        count["learned"] += int((ids < CONTEXT).sum())
    total = sum(c["tokens"] for c in counts.values())
    for count in counts.values():
        count["share"] = round(count["tokens"] / total, 4)
    sources = {
        name: dict(file=file, licence=licence, sha256=hashlib.sha256((data / file).read_bytes()).hexdigest())
        for name, (file, licence) in SOURCES.items()
    }
    if more := config["data"].get("more_stories"):
        sha256 = hashlib.sha256(Path(more).read_bytes()).hexdigest()
        sources["more_stories"] = dict(file=more, licence=SOURCES["stories"][1], sha256=sha256)
    files = writers[False].finish() | writers[True].finish()
    manifest = dict(
        config=config["data"],
        sources=sources,
        kinds=counts,
        tokens=total,
        files=files,
        tokenizer_sha256=hashlib.sha256(tokenizer_file.read_bytes()).hexdigest(),
    )
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


class Split:
    """The documents of a split, read from its files."""

    def __init__(self, folder: Path, name: str):
        self.tokens = np.memmap(folder / f"{name}.tokens", "<u2", "r")
        self.docs = np.fromfile(folder / f"{name}.docs", "<i8")
        self.kinds = np.fromfile(folder / f"{name}.kinds", "u1")
        self.lengths = np.diff(self.docs)

    def document(self, i: int) -> np.ndarray:
        return np.array(self.tokens[self.docs[i] : self.docs[i + 1]])


@dataclass
class Batch:
    """Rows of packed documents."""

    ids: np.ndarray  # [rows, length], int64
    start: np.ndarray  # [rows, length], where in its row the document of each token begins
    learned: np.ndarray  # [rows, length]

    def tensors(self, device: torch.device) -> tuple[torch.Tensor, ...]:
        return tuple(torch.from_numpy(x).to(device) for x in (self.ids, self.start, self.learned))


class Packing:
    """How an epoch's documents lie in rows, and rows in batches of `n_token` tokens each.

    Documents go to rows of the shortest of `lengths` that holds them. They come in random order, and a row takes the
    longest of the next few that still fits, so that little room is left. Every epoch is a function of its seed:
    training can go on at any batch. What does not fill a last batch waits for another epoch.
    """

    LOOK_AHEAD = 64

    def __init__(
        self,
        split: Split,
        lengths: list[int],
        n_token: int,
        seed: str,
        which: np.ndarray | None = None,
        keeps_rest: bool = False,
    ):
        """Of all documents, or of those that are in `which`."""
        which = np.arange(len(split.lengths)) if which is None else which
        r = np.random.default_rng(int.from_bytes(hashlib.sha256(seed.encode()).digest()[:8]))
        self.split, self.batches = split, []
        shorter = 0
        for length in sorted(lengths):
            fits = which[(split.lengths[which] > shorter) & (split.lengths[which] <= length)]
            rows = self.rows(r.permutation(fits).tolist(), length)
            per_batch = n_token // length
            self.batches += [
                (length, rows[i : i + per_batch])
                for i in range(0, len(rows), per_batch)
                if keeps_rest or i + per_batch <= len(rows)
            ]
            shorter = length
        self.batches = [self.batches[i] for i in r.permutation(len(self.batches))]

    def rows(self, order: list[int], length: int) -> list[list[int]]:
        lengths = self.split.lengths
        waiting, rows, at = order[: self.LOOK_AHEAD], [], self.LOOK_AHEAD
        while waiting:
            row, room = [], length
            while fitting := [i for i in waiting if lengths[i] <= room]:
                best = fitting[0] if not row else max(fitting, key=lambda i: lengths[i])
                row.append(best)
                room -= lengths[best]
                waiting.remove(best)
                waiting += order[at : at + 1]
                at += 1
            rows.append(row)
        return rows

    def batch(self, i: int) -> Batch:
        length, rows = self.batches[i]
        batch = Batch(
            np.zeros((len(rows), length), np.int64),
            np.tile(np.arange(length), (len(rows), 1)),
            np.zeros((len(rows), length), bool),
        )
        for b, row in enumerate(rows):
            at = 0
            for document in row:
                ids = self.split.document(document)
                place = slice(at, at + len(ids))
                batch.ids[b, place] = ids & (CONTEXT - 1)
                batch.start[b, place] = at
                batch.learned[b, place] = ids < CONTEXT
                at += len(ids)
        return batch


def main() -> None:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--config", type=Path, required=True)
    ap.add_argument("--data", type=Path, required=True, help="the folder of shared data")
    ap.add_argument("--tokenizer", type=Path, required=True)
    ap.add_argument("--out", type=Path, required=True)
    a = ap.parse_args()
    manifest = build(json.loads(a.config.read_text()), a.data, a.tokenizer / "tokenizer.json", a.out)
    for kind, count in manifest["kinds"].items():
        print(f"{kind:18} {count}")
    print(f"{manifest['tokens']} tokens")


if __name__ == "__main__":
    main()
