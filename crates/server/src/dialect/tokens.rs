//! Texts and their tokens: `POST /tokenize` and `POST /detokenize`, in the words of llama.cpp's server.

use engine::Engine;
use serde_json::{Value, json};
use tokenizer::{Special, TokenId, Tokenizer};

use crate::{
    error::Refusal,
    fields::{Field, Fields, Kind, acts},
};

pub(crate) const TOKENIZE: &[&[Field]] = &[&[
    acts("content", Kind::Str, "The text."),
    acts("add_special", Kind::Bool, "Begin with the token that begins texts, if the model has one; false if absent."),
    acts("parse_special", Kind::Bool, "Take names of special tokens for the tokens; true if absent."),
    acts("with_pieces", Kind::Bool, "Tell what each token spells."),
]];

pub(crate) const DETOKENIZE: &[&[Field]] = &[&[acts("tokens", Kind::Array, "Token ids.")]];

/// The most tokens that are told with what they spell: each takes a kilobyte meanwhile.
const N_PIECES_MAX: usize = 100_000;

/// The tokens of a text.
///
/// # Errors
/// The request is wrong, or there is no vocabulary.
pub(crate) fn tokenize(request: &Value, engine: &Engine) -> Result<Value, Refusal> {
    let fields = Fields::of(request, TOKENIZE)?;
    let text = fields.needed("content")?.as_str().expect("the table says so");
    let tokenizer = vocabulary(engine)?;
    let special = if fields.flag("parse_special").unwrap_or(true) { Special::Parse } else { Special::Plain };
    let bos = tokenizer.bos().filter(|_| fields.flag("add_special").unwrap_or(false));
    let ids: Vec<TokenId> = bos.into_iter().chain(tokenizer.encode(text, special)).collect();
    if fields.flag("with_pieces").unwrap_or(false) {
        if ids.len() > N_PIECES_MAX {
            return Err(
                fields.refuse("with_pieces", &format!("is for at most {N_PIECES_MAX} tokens, not {}", ids.len()))
            );
        }
        let piece = |&id: &TokenId| json!({ "id": id, "piece": tokenizer.text_of(id) });
        return Ok(json!({ "tokens": ids.iter().map(piece).collect::<Vec<_>>() }));
    }
    Ok(json!({ "tokens": ids }))
}

/// What tokens spell.
///
/// # Errors
/// As [`tokenize`].
pub(crate) fn detokenize(request: &Value, engine: &Engine) -> Result<Value, Refusal> {
    let fields = Fields::of(request, DETOKENIZE)?;
    let tokenizer = vocabulary(engine)?;
    let ids = ids(fields.needed("tokens")?, &fields.path("tokens"), tokenizer)?;
    Ok(json!({ "content": tokenizer.decode(&ids) }))
}

/// Token ids of the vocabulary.
///
/// # Errors
/// Something else is among them.
pub(crate) fn ids(value: &Value, path: &str, tokenizer: &Tokenizer) -> Result<Vec<TokenId>, Refusal> {
    let n_vocab = tokenizer.n_vocab();
    let id = |value: &Value| value.as_u64().filter(|&id| id < n_vocab as u64).map(|id| id as TokenId);
    let ids = value.as_array().and_then(|ids| ids.iter().map(id).collect());
    ids.ok_or_else(|| Refusal::field(path, &format!("must be token ids, 0 to {}", n_vocab - 1)))
}

fn vocabulary(engine: &Engine) -> Result<&Tokenizer, Refusal> {
    engine.tokenizer().ok_or_else(|| Refusal::body("the model file has no vocabulary"))
}
