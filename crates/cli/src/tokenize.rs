//! How a text becomes tokens, and back. Reads the vocabulary only, no weights.
//!
//! The ids are those of the text alone: no token that begins a prompt is added.

use std::fmt::Write as _;

use gguf::Gguf;
use tokenizer::{Special, TokenId, TokenType, Tokenizer};

use crate::{args::TokenizeArgs, error::Error, ids, model, output, prompt};

/// Prints what `args` asks for.
pub(crate) fn run(args: &TokenizeArgs) -> Result<(), Error> {
    let tokenizer = vocabulary(&model::file(args.model.as_deref())?)?;
    if args.decode {
        return output::print(&decode(&tokenizer, &given_ids(args)?)?);
    }
    let text = match &args.text {
        Some(text) => text.clone(),
        None => prompt::read_stdin()?,
    };
    let special = if args.special { Special::Parse } else { Special::Plain };
    let ids = tokenizer.encode(&text, special);
    output::print(&if args.ids { line(&ids) } else { table(&tokenizer, &ids) })
}

/// The tokenizer in a model file.
fn vocabulary(file: &Gguf) -> Result<Tokenizer, Error> {
    match file.metadata().get("tokenizer.ggml.model") {
        None => Err(Error::NoVocabulary { path: file.path().into() }),
        Some(_) => Ok(Tokenizer::from_gguf(file.metadata())?),
    }
}

fn given_ids(args: &TokenizeArgs) -> Result<Vec<TokenId>, Error> {
    if let Some(text) = &args.text {
        return Ok(ids::parse(text.as_bytes(), "TEXT")?.0);
    }
    Ok(ids::parse(&prompt::read_stdin_bytes()?, "standard input")?.0)
}

/// What ids spell, control tokens included.
fn decode(tokenizer: &Tokenizer, ids: &[TokenId]) -> Result<String, Error> {
    match ids.iter().position(|&id| tokenizer.type_of(id).is_none()) {
        None => Ok(tokenizer.decode_with_control(ids)),
        Some(i) => Err(Error::Tokens {
            from: format!("id {i}"),
            problem: format!("{} is outside the vocabulary of {}", ids[i], tokenizer.n_vocab()),
        }),
    }
}

/// Ids on one line.
fn line(ids: &[TokenId]) -> String {
    let words: Vec<_> = ids.iter().map(TokenId::to_string).collect();
    words.join(" ") + "\n"
}

/// A line per token: its id, what it spells, and what it is if not a piece of text.
fn table(tokenizer: &Tokenizer, ids: &[TokenId]) -> String {
    let mut out = String::new();
    for &id in ids {
        let kind = match tokenizer.type_of(id) {
            Some(TokenType::Normal) | None => "",
            Some(TokenType::Unknown) => "  unknown",
            Some(TokenType::Control) => "  control",
            Some(TokenType::UserDefined) => "  user-defined",
            Some(TokenType::Unused) => "  unused",
            Some(TokenType::Byte) => "  byte",
        };
        let _ = writeln!(out, "{id:>7}  {}{kind}", spelled(tokenizer.bytes_of(id)));
    }
    out
}

/// In quotes, with escapes where a terminal would act or there is no text.
fn spelled(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => format!("{text:?}"),
        Err(_) => format!("\"{}\"", bytes.escape_ascii()),
    }
}
