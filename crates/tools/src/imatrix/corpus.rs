//! The text that a model reads, in chunks that know nothing of each other.
//!
//! A plain text is cut as llama.cpp cuts it: chunks of the same length, the rest is left out, and where the model wants
//! a first token (BOS) that takes the place of each chunk's first. Of JSON Lines, each line is a prompt, cut in the same way
//! only if it is longer than a chunk:
//!
//! ```text
//! {"rendered": "..."}     as it is to be read, marks and first token included
//! {"messages": [{"role": "user", "content": "..."}, ...]}     to be written as the model wants it
//! {"text": "..."}         plain, behind the model's first token
//! ```
//!
//! Of several of these the first counts; what else a line says is passed over.

use engine::Engine;
use models::{ChatOptions, End, Message, Role};
use serde_json::Value;
use tokenizer::{Special, TokenId, Tokenizer};

/// Why there are no chunks.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// Fewer tokens than a chunk has.
    #[error("{n_tokens} tokens, which is less than one chunk of {chunk_size}")]
    TooShort {
        /// Tokens of the text.
        n_tokens: usize,
        /// Tokens of a chunk.
        chunk_size: usize,
    },

    /// Lines without any words.
    #[error("no prompts")]
    Empty,

    /// A line is not what it should be.
    #[error("line {line}: {what}")]
    Line {
        /// Its number, from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },

    /// The model has no words, or no way to write conversations.
    #[error(transparent)]
    Engine(#[from] engine::Error),
}

/// Chunks of a plain text; marks in it are words, unless `special` says otherwise.
///
/// # Errors
/// [`CorpusError::TooShort`], [`CorpusError::Engine`].
pub fn text(
    engine: &Engine,
    text: &str,
    special: Special,
    chunk_size: usize,
) -> Result<Vec<Vec<TokenId>>, CorpusError> {
    let tokenizer = engine.tokenizer().ok_or(engine::Error::NoVocabulary)?;
    let ids = with_first(tokenizer, tokenizer.encode(text, special));
    let chunks = cut(tokenizer, &ids, chunk_size).filter(|chunk| chunk.len() == chunk_size);
    let chunks = Vec::from_iter(chunks);
    match chunks.is_empty() {
        true => Err(CorpusError::TooShort { n_tokens: ids.len(), chunk_size }),
        false => Ok(chunks),
    }
}

/// Chunks of prompts, one in each line.
///
/// # Errors
/// [`CorpusError::Line`], [`CorpusError::Empty`], [`CorpusError::Engine`].
pub fn prompts(engine: &Engine, lines: &str, chunk_size: usize) -> Result<Vec<Vec<TokenId>>, CorpusError> {
    let tokenizer = engine.tokenizer().ok_or(engine::Error::NoVocabulary)?;
    let mut chunks = Vec::new();
    for (i, line) in lines.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        let ids = prompt(engine, tokenizer, line).map_err(|what| CorpusError::Line { line: i + 1, what })?;
        chunks.extend(cut(tokenizer, &ids, chunk_size));
    }
    if chunks.is_empty() { Err(CorpusError::Empty) } else { Ok(chunks) }
}

fn prompt(engine: &Engine, tokenizer: &Tokenizer, line: &str) -> Result<Vec<TokenId>, String> {
    let line: Value = serde_json::from_str(line).map_err(|e| format!("no JSON: {e}"))?;
    if let Some(rendered) = line["rendered"].as_str() {
        return Ok(tokenizer.encode(rendered, Special::Parse));
    }
    if let Some(messages) = line["messages"].as_array() {
        let messages = messages.iter().map(message).collect::<Result<Vec<_>, _>>()?;
        let end = match messages.last() {
            Some(last) if last.role == Role::Assistant => End::Closed,
            _ => End::Answer,
        };
        let chat = engine.chat().map_err(|e| e.to_string())?;
        let parts = chat.render(&messages, &ChatOptions { end, ..ChatOptions::default() });
        return engine.encode(&parts.map_err(|e| e.to_string())?).map_err(|e| e.to_string());
    }
    let plain = line["text"].as_str().ok_or("has neither `rendered` nor `messages` nor `text`")?;
    Ok(with_first(tokenizer, tokenizer.encode(plain, Special::Plain)))
}

fn message(message: &Value) -> Result<Message, String> {
    let role = match message["role"].as_str() {
        Some("system" | "developer") => Role::System,
        Some("user") => Role::User,
        Some("assistant") => Role::Assistant,
        _ => return Err("a message has another `role` than system, user and assistant".into()),
    };
    let text = message["content"].as_str().ok_or("a message has no `content` that is a text")?;
    Ok(Message::new(role, text))
}

fn with_first(tokenizer: &Tokenizer, ids: Vec<TokenId>) -> Vec<TokenId> {
    tokenizer.bos().into_iter().chain(ids).collect()
}

/// Chunks of at most `chunk_size` tokens; each begins as a text of its own does.
fn cut(tokenizer: &Tokenizer, ids: &[TokenId], chunk_size: usize) -> impl Iterator<Item = Vec<TokenId>> {
    let first = tokenizer.bos();
    ids.chunks(chunk_size).enumerate().map(move |(i, chunk)| {
        let mut chunk = chunk.to_vec();
        if let Some(first) = first.filter(|_| i > 0) {
            chunk[0] = first;
        }
        chunk
    })
}
