//! `tokenizer.json` and its neighbours, as the keys `tokenizer.ggml.*`.
//!
//! Only what our tokenizer does in the same way is taken: byte-level BPE whose pre-tokenizer is one of
//! [`PRE_TOKENIZERS`], recognised by its expressions; and SentencePiece's BPE, with tokens for bytes and U+2581 for spaces.
//! Anything else is refused by name, as a model that reads its text cut in another way is silently worse. How a token is spelled next to others (`lstrip`, `rstrip`, `single_word`) is not kept:
//! marks are put where they belong, not found.
//!
//! ```text
//! model.vocab, added_tokens        -> tokens, token_type; ids up to `vocab_size` that no token has are [PADn], unused
//! model.merges                     -> merges, or the scores that make these merges
//! normalizer, pre_tokenizer        -> pre, or add_space_prefix
//! tokenizer_config.json            -> ids of roles by their text, add_bos_token, the template
//! generation_config.json, config   -> ids of roles that have no text, and further ends of an answer
//! ```
//!
//! Source: `conversion/base.py: get_vocab_base` and `gguf-py/gguf/vocab.py: SpecialVocab` in llama.cpp.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use gguf::{Metadata, Value, shorten};
use serde_json::Value as Json;
use tokenizer::{PRE_TOKENIZERS, PreTokenizer, TokenType, Tokenizer, merges_by_score};

use super::{
    Error,
    config::{Config, N_VOCAB_MAX},
    shards::{read_json, read_json_opt, read_text},
};

/// How SentencePiece spells a space.
const SPACE: &str = "\u{2581}";

/// The keys of a folder's vocabulary; `pre` is the name to be preferred for its pre-tokenizer.
pub(super) fn keys(folder: &Path, config: &Config, pre: &'static str) -> Result<Vec<(String, Value)>, Error> {
    let path = folder.join("tokenizer.json");
    let file = File { json: read_json(&path)?, path };
    let vocab = file.vocab(config.size("vocab_size", 1..=N_VOCAB_MAX)?)?;
    let merges = file.merges()?;
    let mut keys = if file.is_spm() {
        vec![
            ("model", "llama".into()),
            ("scores", file.scores(&vocab, &merges)?.into()),
            ("add_space_prefix", file.space_prefix()?.into()),
        ]
    } else {
        vec![("model", "gpt2".into()), ("pre", file.pre(pre)?.into()), ("merges", merges.into())]
    };
    keys.push(("tokens", vocab.tokens.into()));
    keys.push(("token_type", vocab.types.into()));
    let beside = Beside::read(folder)?;
    keys.extend(beside.roles(config, &vocab.ids));
    keys.push(("add_bos_token", beside.adds_bos(&file).into()));
    let mut keys: Vec<_> = keys.into_iter().map(|(key, value)| (format!("tokenizer.ggml.{key}"), value)).collect();
    keys.extend(beside.template(folder)?.map(|text| ("tokenizer.chat_template".into(), text.into())));
    check(&file.path, &keys)?;
    Ok(keys)
}

/// Builds the tokenizer, which finds everything that it could not do.
fn check(path: &Path, keys: &[(String, Value)]) -> Result<(), Error> {
    let built = Tokenizer::from_gguf(&Metadata::new(path, keys.to_vec()));
    built.map(drop).map_err(|source| Error::Vocabulary { path: path.to_owned(), source })
}

/// `tokenizer.json`.
struct File {
    path: PathBuf,
    json: Json,
}

/// The tokens by their ids, and back.
struct Vocab {
    tokens: Vec<String>,
    types: Vec<i32>,
    ids: HashMap<String, u32>,
}

impl File {
    fn vocab(&self, n_vocab: usize) -> Result<Vocab, Error> {
        let model = &self.json["model"];
        self.only("model.type", &model["type"], &["BPE".into()])?;
        for (name, value) in ["continuing_subword_prefix", "end_of_word_suffix"].map(|name| (name, &model[name])) {
            self.only(&format!("model.{name}"), value, &[Json::Null, "".into()])?;
        }
        let mut found: Vec<Option<(&str, TokenType)>> = vec![None; n_vocab];
        let pieces = model["vocab"].as_object().into_iter().flatten();
        for (text, id) in pieces {
            *self.place(&mut found, text, id)? = Some((text, self.type_of(text)));
        }
        for token in self.json["added_tokens"].as_array().into_iter().flatten() {
            let text = token["content"].as_str().unwrap_or_default();
            let is_control = token["special"] == true || is_marker(text);
            let kind = match self.type_of(text) {
                TokenType::Normal if is_control => TokenType::Control,
                TokenType::Normal => TokenType::UserDefined,
                other => other,
            };
            *self.place(&mut found, text, &token["id"])? = Some((text, kind));
        }
        let ids = (0..).zip(&found).filter_map(|(id, token)| Some(((*token)?.0.to_string(), id))).collect();
        let filled = found.into_iter().enumerate().map(|(id, token)| match token {
            Some((text, kind)) => (text.to_string(), kind as i32),
            None => (format!("[PAD{id}]"), TokenType::Unused as i32),
        });
        let (tokens, types) = filled.unzip();
        Ok(Vocab { tokens, types, ids })
    }

    /// Whether bytes have tokens of their own.
    fn is_spm(&self) -> bool {
        self.json["model"]["byte_fallback"] == true
    }

    /// The type of a piece.
    fn type_of(&self, text: &str) -> TokenType {
        let is_byte = text.len() == "<0x00>".len() && text.starts_with("<0x") && text.ends_with('>');
        match self.is_spm() {
            true if self.json["model"]["unk_token"] == text => TokenType::Unknown,
            true if is_byte => TokenType::Byte,
            _ => TokenType::Normal,
        }
    }

    /// The place of a token with this id.
    fn place<'a, T>(&self, found: &'a mut [T], text: &str, id: &Json) -> Result<&'a mut T, Error> {
        let n_vocab = found.len();
        let place = id.as_u64().and_then(|id| found.get_mut(usize::try_from(id).ok()?));
        place.ok_or_else(|| {
            let field = format!("id of token `{}`", shorten(text));
            Error::invalid(&self.path, field, &id.to_string(), format!("0 to {}", n_vocab - 1))
        })
    }

    /// Merges as `left right`; newer files have them as pairs.
    fn merges(&self) -> Result<Vec<String>, Error> {
        let merge = |(i, merge): (usize, &Json)| {
            let pair = merge
                .as_array()
                .and_then(|pair| Some(format!("{} {}", pair.first()?.as_str()?, pair.get(1)?.as_str()?)));
            let text = merge.as_str().map(String::from).or(pair).filter(|text| text.matches(' ').count() == 1);
            text.ok_or_else(|| {
                let allowed = "two pieces without spaces";
                Error::invalid(&self.path, format!("merge {i}"), &merge.to_string(), allowed)
            })
        };
        self.json["model"]["merges"].as_array().into_iter().flatten().enumerate().map(merge).collect()
    }

    /// Scores from which our tokenizer makes these very merges. A merge ranks by what it makes, so what is made earlier has
    /// the higher score; where the merges that make two pieces alternate, these have the same.
    fn scores(&self, vocab: &Vocab, merges: &[String]) -> Result<Vec<f32>, Error> {
        let wholes: Vec<_> = merges.iter().map(|merge| merge.replace(' ', "")).collect();
        let last: HashMap<&str, usize> =
            wholes.iter().enumerate().map(|(rank, whole)| (whole.as_str(), rank)).collect();
        let mut scores = vec![-1.0 - merges.len() as f32; vocab.tokens.len()];
        let (mut score, mut end) = (0.0, 0);
        for (rank, whole) in wholes.iter().enumerate() {
            if rank > end {
                score -= 1.0;
            }
            end = end.max(last[whole.as_str()]);
            if let Some(&id) = vocab.ids.get(whole) {
                scores[id as usize] = score;
            }
        }
        let is_piece = |(_, (_, kind)): &(u32, (&String, &i32))| **kind == TokenType::Normal as i32;
        let pieces = (0..).zip(vocab.tokens.iter().zip(&vocab.types)).filter(is_piece);
        let pieces = pieces.map(|(id, (text, _))| (text.as_str(), id)).collect();
        let made = merges_by_score(&pieces, &vocab.tokens, &scores)
            .map_err(|source| Error::Vocabulary { path: self.path.clone(), source })?;
        let differ = |(made, merge): (&(String, String), &String)| format!("{} {}", made.0, made.1) != *merge;
        let is_longer = made.len() != merges.len();
        let rank = made.iter().zip(merges).position(differ).or(is_longer.then_some(made.len().min(merges.len())));
        match rank {
            None => Ok(scores),
            Some(rank) => {
                let found = merges.get(rank).map_or("absent", String::as_str);
                let expected = made.get(rank).map(|(left, right)| format!("{left} {right}"));
                let allowed = expected.unwrap_or("nothing more".into()) + ", by the order of what is made";
                Err(Error::invalid(&self.path, format!("merge {rank}"), found, allowed))
            }
        }
    }

    /// Whether a text begins with a space that it does not have, where spaces are written as U+2581.
    fn space_prefix(&self) -> Result<bool, Error> {
        let (normalizer, pre) = (&self.json["normalizer"], &self.json["pre_tokenizer"]);
        let replace =
            |step: &Json| step["type"] == "Replace" && step["pattern"]["String"] == " " && step["content"] == SPACE;
        let prepend = |step: &Json| step["type"] == "Prepend" && step["prepend"] == SPACE;
        let metaspace = |scheme: &str| {
            pre["type"] == "Metaspace"
                && pre["replacement"] == SPACE
                && pre["split"] == false
                && pre["prepend_scheme"] == scheme
        };
        match steps(normalizer, "normalizers")[..] {
            [one, two] if pre.is_null() && prepend(one) && replace(two) => Ok(true),
            [one] if pre.is_null() && replace(one) => Ok(false),
            [] if metaspace("always") => Ok(true),
            [] if metaspace("never") => Ok(false),
            _ => {
                let found = format!("{normalizer} and {pre}");
                let allowed = "spaces replaced by U+2581, with one in front of each text or none, and no other cut";
                Err(Error::invalid(&self.path, "`normalizer` and `pre_tokenizer`", &found, allowed))
            }
        }
    }

    /// The name of the pre-tokenizer, the preferred one of several.
    fn pre(&self, preferred: &'static str) -> Result<&'static str, Error> {
        let passes = self.passes()?;
        let is_same = |p: &&PreTokenizer| {
            p.passes.len() == passes.len() && p.passes.iter().zip(&passes).all(|(a, b)| literal(a) == literal(b))
        };
        let by_passes: Vec<_> = PRE_TOKENIZERS.iter().filter(is_same).collect();
        if by_passes.is_empty() {
            let known: Vec<_> = PRE_TOKENIZERS.iter().map(|p| p.names[0]).collect();
            let allowed = format!("those of {}", known.join(", "));
            return Err(Error::invalid(&self.path, "the expression in `pre_tokenizer`", &passes.join("  "), allowed));
        }
        let nfc = self.nfc()?;
        let with_nfc: Vec<_> = by_passes.into_iter().filter(|p| p.nfc == nfc).collect();
        if with_nfc.is_empty() {
            let allowed = if nfc { "null, with such a pre-tokenizer" } else { "NFC, with such a pre-tokenizer" };
            return Err(Error::invalid(&self.path, "`normalizer`", &self.json["normalizer"].to_string(), allowed));
        }
        let ignore_merges = self.json["model"]["ignore_merges"] == true;
        let same: Vec<_> = with_nfc.into_iter().filter(|p| p.ignore_merges == ignore_merges).collect();
        let names = || same.iter().flat_map(|p| p.names).copied();
        names().find(|name| *name == preferred).or(names().next()).ok_or_else(|| {
            let allowed = format!("{}, with such a pre-tokenizer", !ignore_merges);
            Error::invalid(&self.path, "`model.ignore_merges`", &ignore_merges.to_string(), allowed)
        })
    }

    /// The expressions that cut text, in the order of their application.
    fn passes(&self) -> Result<Vec<&str>, Error> {
        let steps = steps(&self.json["pre_tokenizer"], "pretokenizers");
        let refuse = |step: &Json| {
            let allowed =
                "Split by an expression into matches and what is between, Digits one by one, ByteLevel at last";
            Error::invalid(&self.path, "a step of `pre_tokenizer`", &step.to_string(), allowed)
        };
        let mut passes = Vec::new();
        let Some((last, cuts)) = steps.split_last() else {
            return Err(refuse(&self.json["pre_tokenizer"]));
        };
        for step in cuts {
            let isolated = step["behavior"] == "Isolated" && step["invert"] != true;
            match (step["type"].as_str(), step["pattern"]["Regex"].as_str()) {
                (Some("Split"), Some(pattern)) if isolated => passes.push(pattern),
                (Some("Digits"), _) if step["individual_digits"] == true => passes.push(r"\p{N}"),
                _ => return Err(refuse(step)),
            }
        }
        if last["type"] != "ByteLevel" || last["add_prefix_space"] != false {
            return Err(refuse(last));
        }
        if last["use_regex"] != false {
            let gpt_2 = PRE_TOKENIZERS.iter().find(|p| p.names.contains(&"gpt-2"));
            passes.push(gpt_2.expect("in the list").passes[0]);
        }
        Ok(passes)
    }

    /// Whether text is composed first.
    fn nfc(&self) -> Result<bool, Error> {
        let normalizer = &self.json["normalizer"];
        let kinds: Vec<_> = steps(normalizer, "normalizers").iter().map(|step| step["type"].as_str()).collect();
        match kinds[..] {
            [] => Ok(false),
            [Some("NFC")] => Ok(true),
            _ => Err(Error::invalid(&self.path, "`normalizer`", &normalizer.to_string(), "NFC, null")),
        }
    }

    /// Whether what is added to a text begins with a token.
    fn begins_with_token(&self) -> bool {
        let processors = steps(&self.json["post_processor"], "processors");
        processors.iter().any(|p| p["single"][0].get("SpecialToken").is_some())
    }

    fn only(&self, field: &str, found: &Json, allowed: &[Json]) -> Result<(), Error> {
        if allowed.contains(found) {
            return Ok(());
        }
        let allowed: Vec<_> = allowed.iter().map(Json::to_string).collect();
        Err(Error::invalid(&self.path, format!("`{field}`"), &found.to_string(), allowed.join(", ")))
    }
}

/// The steps of a sequence, whose list has a name of its own for each kind; of anything else, the one.
fn steps<'a>(json: &'a Json, list: &str) -> Vec<&'a Json> {
    match (json, json[list].as_array()) {
        (Json::Null, _) => Vec::new(),
        (_, Some(steps)) => steps.iter().collect(),
        _ => vec![json],
    }
}

/// Whether a token looks as marks of a format do, whatever its file says of it.
fn is_marker(text: &str) -> bool {
    [("<|", "|>"), ("<｜", "｜>")].iter().any(|(begin, end)| text.starts_with(begin) && text.ends_with(end))
}

/// An expression with its characters as such: `\r` and `\x{4E00}` are ways to spell them.
fn literal(pattern: &str) -> String {
    let mut out = String::new();
    let mut rest = pattern;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let (c, end) = escaped(&rest[at..]);
        out.push_str(&c);
        rest = &rest[at + end..];
    }
    out + rest
}

/// What the escape at the start of `text` stands for, or itself, and its length.
fn escaped(text: &str) -> (String, usize) {
    let hex = text.strip_prefix(r"\x{").and_then(|rest| rest.split_once('}'));
    let number = hex.and_then(|(hex, _)| Some((char::from_u32(u32::from_str_radix(hex, 16).ok()?)?, hex.len() + 4)));
    let plain = [(r"\r", '\r'), (r"\n", '\n'), (r"\t", '\t')].into_iter().find(|(e, _)| text.starts_with(e));
    match number.or(plain.map(|(e, c)| (c, e.len()))) {
        Some((c, len)) => (c.into(), len),
        None => {
            let len = 1 + text.chars().nth(1).map_or(0, char::len_utf8);
            (text[..len].into(), len)
        }
    }
}

/// The files beside `tokenizer.json`; each may be absent.
struct Beside {
    tokenizer: Json,
    generation: Json,
}

impl Beside {
    fn read(folder: &Path) -> Result<Beside, Error> {
        let read = |name: &str| Ok::<_, Error>(read_json_opt(&folder.join(name))?.unwrap_or_default());
        Ok(Beside { tokenizer: read("tokenizer_config.json")?, generation: read("generation_config.json")? })
    }

    /// The tokens with a role.
    fn roles(&self, config: &Config, ids: &HashMap<String, u32>) -> Vec<(&'static str, Value)> {
        let by_text = |role: &str| {
            let token = &self.tokenizer[format!("{role}_token")];
            ids.get(token["content"].as_str().or(token.as_str())?).copied()
        };
        let by_number = |role: &str| {
            let key = format!("{role}_token_id");
            let listed = numbers(&self.generation[&key]);
            if listed.is_empty() { config.get(&key).map(numbers).unwrap_or_default() } else { listed }
        };
        let of = |role: &str| by_text(role).or(by_number(role).first().copied());
        let eos = of("eos");
        let mut others = by_number("eos").into_iter().filter(|id| Some(*id) != eos);
        let roles = [
            ("bos_token_id", of("bos")),
            ("eos_token_id", eos),
            ("eot_token_id", others.next()),
            ("eom_token_id", others.next()),
            ("unknown_token_id", by_text("unk")),
            ("padding_token_id", of("pad")),
        ];
        roles.into_iter().filter_map(|(key, id)| Some((key, id?.into()))).collect()
    }

    fn adds_bos(&self, file: &File) -> bool {
        self.tokenizer["add_bos_token"].as_bool().unwrap_or_else(|| file.begins_with_token())
    }

    /// The template of conversations; of several, the default one.
    fn template(&self, folder: &Path) -> Result<Option<String>, Error> {
        let alone = folder.join("chat_template.jinja");
        if alone.exists() {
            return read_text(&alone).map(Some);
        }
        let in_json = read_json_opt(&folder.join("chat_template.json"))?.unwrap_or_default();
        let found = [&self.tokenizer["chat_template"], &in_json["chat_template"]];
        let named = |list: &Json| {
            let default = list.as_array()?.iter().find(|t| t["name"] == "default")?;
            default["template"].as_str().map(String::from)
        };
        Ok(found.into_iter().find_map(|t| t.as_str().map(String::from).or_else(|| named(t))))
    }
}

/// A number, or a list of them.
fn numbers(json: &Json) -> Vec<u32> {
    let one = |json: &Json| json.as_u64().and_then(|id| u32::try_from(id).ok());
    match json.as_array() {
        Some(list) => list.iter().filter_map(one).collect(),
        None => one(json).into_iter().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_compared_by_their_characters() {
        assert_eq!(literal(r"[\x{4E00}-\x{9FA5}]?\r\n\p{N}\\n\x"), "[一-龥]?\r\n\\p{N}\\\\n\\x");
        assert_eq!(literal("\\"), "\\");
        assert_eq!(literal(r"\x{110000}"), r"\x{110000}");
    }

    #[test]
    fn expressions_of_all_pre_tokenizers_are_told_apart() {
        for (i, a) in PRE_TOKENIZERS.iter().enumerate() {
            for b in &PRE_TOKENIZERS[..i] {
                let same = |f: fn(&PreTokenizer) -> String| f(a) == f(b);
                let is_twin = a.passes == b.passes && a.nfc == b.nfc && a.ignore_merges == b.ignore_merges;
                assert_eq!(is_twin, same(|p| format!("{:?}", p.passes)), "{:?}, {:?}", a.names, b.names);
            }
        }
    }
}
