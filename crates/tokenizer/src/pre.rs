//! Pre-tokenisation: where a byte-level BPE may not merge across.
//!
//! A pre-tokenizer is a list of regular expressions, applied one after the other. Each cuts every
//! piece that the one before left: matches become pieces, and so does the text between matches.
//! The patterns are those of the models' own `tokenizer.json`; the names are llama.cpp's values of
//! `tokenizer.ggml.pre` (`llama-vocab.cpp`, `llm_tokenizer_bpe` and `load`).
//!
//! Almost all of them end in `\s+(?!\S)|\s+`: a run of white space leaves its last character to the
//! word that follows. A regular expression with look-ahead needs a backtracking engine, which takes
//! quadratic time, or gives up, on text that an enemy picks. So this tail is taken off and done
//! here (see [`Pass`]), and the rest runs in linear time.

use regex_automata::{Input, meta::Regex};

/// How one family of models prepares text before merging.
#[derive(Debug)]
pub struct PreTokenizer {
    /// The values of `tokenizer.ggml.pre` that select it.
    pub names: &'static [&'static str],
    /// The expressions, in the order of application.
    pub passes: &'static [&'static str],
    /// Whether text is brought to Unicode's composed form (NFC) first, as Hugging Face does for
    /// the Qwen models; llama.cpp never does.
    pub nfc: bool,
    /// Whether a piece that is a token is taken as it is, without asking the merges.
    pub ignore_merges: bool,
    /// Whether BOS is added where `tokenizer.ggml.add_bos_token` is absent.
    pub add_bos: bool,
}

/// Every known pre-tokenizer.
pub const PRE_TOKENIZERS: &[PreTokenizer] = &[
    PreTokenizer { names: &["deepseek-v3", "joyai-llm"], passes: &[r"\p{N}{1,3}", CJK, DEEPSEEK_V3], ..PLAIN },
    PreTokenizer {
        names: &["deepseek-llm"],
        passes: &[
            r"[\r\n]",
            CASED_LETTERS,
            r"\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+",
            r"\s+$",
            HAN_TO_HANGUL,
            r"\p{N}+",
        ],
        ..PLAIN
    },
    PreTokenizer {
        names: &["deepseek-coder"],
        passes: &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", HAN_TO_HANGUL, r"\p{N}"],
        ..PLAIN
    },
    PreTokenizer { names: &["gpt-2"], passes: &[GPT_2], ..PLAIN },
    PreTokenizer { names: &["smollm"], passes: &[r"\p{N}", GPT_2], ..PLAIN },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3"],
        passes: &[LLAMA_3],
        ignore_merges: true,
        add_bos: true,
        ..PLAIN
    },
    PreTokenizer { names: &["glm4", "glm5"], passes: &[LLAMA_3], ignore_merges: true, ..PLAIN },
    PreTokenizer { names: &["qwen2", "deepseek-r1-qwen"], passes: &[QWEN_2], nfc: true, ..PLAIN },
    PreTokenizer { names: &["qwen35"], passes: &[QWEN_35], nfc: true, ..PLAIN },
    // llama.cpp approximates this expression in ASCII and asks the merges; this is OpenAI's own.
    PreTokenizer { names: &["gpt-4o"], passes: &[O200K], ignore_merges: true, ..PLAIN },
];

const PLAIN: PreTokenizer = PreTokenizer { names: &[], passes: &[], nfc: false, ignore_merges: false, add_bos: false };

const GPT_2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

const LLAMA_3: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

const QWEN_2: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

const QWEN_35: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}",
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

const O200K: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

const DEEPSEEK_V3: &str = concat!(
    r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+"##,
    r"|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
);

/// Unified ideographs, Hiragana, Katakana.
const CJK: &str = r"[\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+";

const HAN_TO_HANGUL: &str = r"[\x{4E00}-\x{9FA5}\x{0800}-\x{4E00}\x{AC00}-\x{D7FF}]+";

/// A word in a script with case, as an older Unicode knew them. Written in numbers, because
/// editors and version control may compose some of these letters into others.
const CASED_LETTERS: &str = concat!(
    r"\s?[",
    r"\x{41}-\x{5A}\x{61}-\x{7A}\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}",
    r"\x{1C4}-\x{293}\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386}",
    r"\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F}",
    r"\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA}",
    r"\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15}",
    r"\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B}",
    r"\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4}",
    r"\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4}",
    r"\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124}",
    r"\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F}",
    r"\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4}",
    r"\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F}",
    r"\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17}",
    r"\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3}",
    r"\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF}",
    r"\x{1E900}-\x{1E943}",
    r"]+",
);

/// The end of most expressions: white space up to, but not including, its last character before
/// a word; else all of it.
const SPACE_TAIL: &str = r"|\s+(?!\S)|\s+";

/// The pre-tokenizer called `name`.
pub(crate) fn find(name: &str) -> Option<&'static PreTokenizer> {
    PRE_TOKENIZERS.iter().find(|p| p.names.contains(&name))
}

/// All names, with commas.
pub(crate) fn known() -> String {
    let names: Vec<_> = PRE_TOKENIZERS.iter().flat_map(|p| p.names).copied().collect();
    names.join(", ")
}

/// A [`PreTokenizer`], ready to run.
pub(crate) struct Splitter {
    passes: Vec<Pass>,
}

impl Splitter {
    pub(crate) fn new(pre: &PreTokenizer) -> Splitter {
        Splitter { passes: pre.passes.iter().map(|p| Pass::new(p)).collect() }
    }

    /// Calls `piece` with every piece of `text`, in order.
    pub(crate) fn split<'t>(&self, text: &'t str, piece: &mut dyn FnMut(&'t str)) {
        split_by(&self.passes, text, piece);
    }
}

fn split_by<'t>(passes: &[Pass], text: &'t str, piece: &mut dyn FnMut(&'t str)) {
    match passes.split_first() {
        Some((first, rest)) => first.split(text, &mut |part| split_by(rest, part, piece)),
        None => piece(text),
    }
}

/// One expression. Where it ended in [`SPACE_TAIL`], that tail is a second pattern, `\s+`, tried
/// only where the first finds nothing; it gives its last character back if text follows.
struct Pass {
    regex: Regex,
}

impl Pass {
    const SPACE: usize = 1;

    fn new(pattern: &str) -> Pass {
        let regex = match pattern.strip_suffix(SPACE_TAIL) {
            Some(head) => Regex::new_many(&[head, r"\s+"]),
            None => Regex::new(pattern),
        };
        Pass { regex: regex.expect("the patterns of the table compile, as a test shows") }
    }

    fn split<'t>(&self, text: &'t str, piece: &mut dyn FnMut(&'t str)) {
        let mut done = 0;
        while let Some(found) = self.regex.find(Input::new(text).range(done..)) {
            let mut end = found.end();
            if found.pattern().as_usize() == Self::SPACE && end < text.len() {
                end = before_last_char(text, found.start(), end);
            }
            if done < found.start() {
                piece(&text[done..found.start()]);
            }
            piece(&text[found.start()..end]);
            done = end;
        }
        if done < text.len() {
            piece(&text[done..]);
        }
    }
}

/// Where the last character of `text[start..end]` begins, unless it is the only one.
fn before_last_char(text: &str, start: usize, end: usize) -> usize {
    match text[start..end].char_indices().next_back() {
        Some((0, _)) | None => end,
        Some((i, _)) => start + i,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, text: &str, expected: &[&str]) {
        let mut pieces = Vec::new();
        Splitter::new(find(name).unwrap()).split(text, &mut |p| pieces.push(p));
        assert_eq!(pieces, expected, "{name}");
    }

    #[test]
    fn every_pattern_compiles_and_loses_nothing() {
        let text = "It's 12345 l'été\r\n\n  x\t \u{3000}日本語 ABCdef's IT'S \u{301}!? \u{10FFFF}  ";
        for pre in PRE_TOKENIZERS {
            let mut all = String::new();
            Splitter::new(pre).split(text, &mut |p| {
                assert!(!p.is_empty());
                all.push_str(p);
            });
            assert_eq!(all, text, "{:?}", pre.names);
        }
    }

    #[test]
    fn white_space_leaves_one_character_to_the_next_word() {
        check("qwen2", "a   b", &["a", "  ", " b"]);
        check("qwen2", "a \u{3000}b", &["a", " ", "\u{3000}b"]);
        check("gpt-2", "a\n\nb", &["a", "\n", "\n", "b"]);
        check("llama-bpe", "a\n\n  b", &["a", "\n\n", " ", " b"]);
        check("llama-bpe", "a   ", &["a", "   "]);
        check("llama-bpe", "a \n b", &["a", " \n", " b"]);
        check("deepseek-v3", "a  1", &["a", "  ", "1"]);
    }

    #[test]
    fn digits_contractions_and_marks_follow_the_model() {
        check("llama-bpe", "12345'LL", &["123", "45", "'LL"]);
        check("qwen2", "12'll", &["1", "2", "'ll"]);
        check("smollm", "12 'LL", &["1", "2", " '", "LL"]);
        check("qwen2", "ne\u{301}e", &["ne", "\u{301}e"]);
        check("qwen35", "ne\u{301}e", &["ne\u{301}e"]);
        check("gpt-4o", "fooBarBAZ's", &["foo", "Bar", "BAZ's"]);
        check("deepseek-v3", "x.abc日本", &["x", ".abc", "日本"]);
        // Its range from `:` to `~` holds the ASCII letters, and cuts them from others.
        check("deepseek-llm", "Δx 12\n", &["Δ", "x", " ", "12", "\n"]);
    }
}
