//! How likely tokens were, in step with the text that they become.
//!
//! A token is told together with the first text that it is part of, so that who adds up what comes has each token once, and the
//! tokens of no text that has yet to come: what a stop string may have begun with is held back, its tokens too. Several may be told at once: those of one character, those that may have been the
//! beginning of a stop string or of a call. Tokens of reasoning and of calls are no part of a text, and are not told; nor are
//! those of a stop string.

use std::cell::{Cell, RefCell};

use models::{Event, Section};
use serde_json::{Value, json};
use tokenizer::{Decoder, TokenId, TokenType, Tokenizer};

/// A token of an answer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Token {
    said: Likely,
    /// What would have been likeliest in its place.
    top: Vec<Likely>,
    /// How many characters of a text that is not read, as completions are not, come before it.
    offset: usize,
    /// It is a mark of the format, and no text of an answer.
    is_mark: bool,
}

/// What a token spells, and the natural logarithm of its probability.
#[derive(Clone, Debug, PartialEq)]
struct Likely {
    bytes: Vec<u8>,
    logprob: f32,
}

/// What impossible tokens have in place of minus infinity, for which JSON has no word.
const LOGPROB_MIN: f32 = -9999.0;

/// Tokens of an answer that have not been told.
pub(crate) struct Tokens<'a> {
    tokenizer: &'a Tokenizer,
    untold: RefCell<Vec<Token>>,
    decoder: RefCell<Decoder>,
    /// Characters so far.
    n_chars: Cell<usize>,
}

impl<'a> Tokens<'a> {
    /// Of an answer that begins behind `last`.
    pub(crate) fn new(tokenizer: &'a Tokenizer, last: Option<TokenId>) -> Tokens<'a> {
        let decoder = tokenizer.decoder_after(last);
        Tokens { tokenizer, untold: RefCell::default(), decoder: RefCell::new(decoder), n_chars: Cell::new(0) }
    }

    /// A token was picked.
    pub(crate) fn push(&self, token: engine::Token<'_>) {
        let likely = |(id, logprob): (_, f32)| Likely {
            bytes: self.tokenizer.bytes_of(id).to_vec(),
            logprob: logprob.max(LOGPROB_MIN),
        };
        let offset = self.place(token.id);
        if token.section != Section::Thinking {
            let top = token.top.iter().copied().map(likely).collect();
            let is_mark = !matches!(self.tokenizer.type_of(token.id), Some(TokenType::Normal | TokenType::Byte));
            self.untold.borrow_mut().push(Token { said: likely((token.id, token.logprob)), top, offset, is_mark });
        }
    }

    /// How many characters come before `id`, which comes next.
    fn place(&self, id: TokenId) -> usize {
        let text = self.decoder.borrow_mut().push(id);
        let start = self.n_chars.get();
        let end = start + text.chars().count();
        self.n_chars.set(end);
        let own = self.tokenizer.bytes_of(id);
        // It may end a character, or bring what takes the place of bytes before it, that turned out to be none.
        let goes_on = own.first().is_some_and(|byte| byte & 0xC0 == 0x80);
        if goes_on { start } else { end.saturating_sub(n_chars(own)).max(start) }
    }

    /// What `event` is made of, if it is a text.
    pub(crate) fn of(&self, event: &Event) -> Option<Vec<Token>> {
        let mut untold = self.untold.borrow_mut();
        let n = match event {
            Event::Text(text) => n_of(text, &untold),
            _ => untold.len(),
        };
        let tokens = untold.drain(..n).collect();
        if matches!(event, Event::Text(_)) { some(tokens) } else { None }
    }

    /// What came last and spelled nothing.
    pub(crate) fn rest(self) -> Option<Vec<Token>> {
        some(self.untold.into_inner())
    }
}

/// How many characters bytes are by themselves, but for one that has yet to be complete.
fn n_chars(mut bytes: &[u8]) -> usize {
    let mut n = 0;
    loop {
        match str::from_utf8(bytes) {
            Ok(text) => return n + text.chars().count(),
            Err(error) => {
                let (valid, rest) = bytes.split_at(error.valid_up_to());
                n += String::from_utf8_lossy(valid).chars().count();
                let Some(len) = error.error_len() else { return n };
                n += 1;
                bytes = &rest[len..];
            }
        }
    }
}

/// How many of `tokens` begin before `text` ends. Marks and newlines in front of it may not be shown.
fn n_of(text: &str, tokens: &[Token]) -> usize {
    let lines = |bytes: &mut dyn Iterator<Item = u8>| bytes.take_while(|byte| *byte == b'\n').count();
    let mut spelled = tokens.iter().filter(|token| !token.is_mark);
    let Some(start) = spelled.clone().next().map(|token| token.offset) else { return tokens.len() };
    let n_lines = lines(&mut spelled.by_ref().flat_map(|token| token.said.bytes.iter().copied()));
    let n_dropped = n_lines.saturating_sub(lines(&mut text.bytes()));
    let end = start + n_dropped + text.chars().count();
    tokens.iter().take_while(|token| token.is_mark || token.offset < end).count()
}

fn some(tokens: Vec<Token>) -> Option<Vec<Token>> {
    (!tokens.is_empty()).then_some(tokens)
}

impl Likely {
    /// Its text; where it is part of a character, its bytes in the way of OpenAI's.
    fn text(&self) -> String {
        match str::from_utf8(&self.bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => self.bytes.iter().map(|byte| format!("\\x{byte:02x}")).collect(),
        }
    }

    fn to_json(&self) -> Value {
        json!({ "token": self.text(), "logprob": self.logprob, "bytes": self.bytes })
    }
}

/// Tokens as all but completions tell them.
pub(crate) fn list(tokens: &[Token]) -> Value {
    let token = |token: &Token| {
        let mut told = token.said.to_json();
        told["top_logprobs"] = token.top.iter().map(Likely::to_json).collect();
        told
    };
    tokens.iter().map(token).collect()
}

/// Tokens as OpenAI's chats tell them; nothing if there are none.
pub(crate) fn of_chat(tokens: &[Token]) -> Value {
    if tokens.is_empty() { Value::Null } else { json!({ "content": list(tokens), "refusal": null }) }
}

/// Tokens as OpenAI's completions tell them; nothing if there are none.
pub(crate) fn of_completion(tokens: &[Token]) -> Value {
    if tokens.is_empty() {
        return Value::Null;
    }
    let text = |likely: &Likely| match likely.text() {
        text if str::from_utf8(&likely.bytes).is_err() => format!("bytes:{text}"),
        text => text,
    };
    let top = |token: &Token| {
        // What was picked is always among them; of two that look alike the likelier counts.
        let all = std::iter::once(&token.said).chain(token.top.iter().rev());
        Value::Object(all.map(|likely| (text(likely), json!(likely.logprob))).collect())
    };
    json!({
        "tokens": tokens.iter().map(|token| text(&token.said)).collect::<Vec<_>>(),
        "token_logprobs": tokens.iter().map(|token| token.said.logprob).collect::<Vec<_>>(),
        "top_logprobs": tokens.iter().map(top).collect::<Vec<_>>(),
        "text_offset": tokens.iter().map(|token| token.offset).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use tokenizer::{Model, SpecialIds, Vocab};

    use super::*;

    /// Every byte is a token.
    fn tokenizer() -> Tokenizer {
        let tokens: Vec<String> = (0..256).map(|b| format!("<0x{b:02X}>")).collect();
        let vocab = Vocab {
            model: Model::Llama,
            pre: None,
            scores: vec![0.0; 256],
            types: vec![6; 256],
            tokens,
            merges: vec![],
            special: SpecialIds::default(),
            add_bos: Some(false),
            add_space_prefix: Some(false),
            chat_template: None,
        };
        Tokenizer::from_vocab(vocab).unwrap()
    }

    fn push(tokens: &Tokens<'_>, bytes: &[u8], section: Section) {
        for &byte in bytes {
            let top = [(TokenId::from(byte), -0.5), (TokenId::from(b'z'), f32::NEG_INFINITY)];
            tokens.push(engine::Token { id: TokenId::from(byte), section, logprob: -0.5, top: &top });
        }
    }

    #[test]
    fn tokens_come_with_the_text_that_they_complete_and_once() {
        let tokenizer = tokenizer();
        let tokens = Tokens::new(&tokenizer, None);
        let count = |told: Option<Vec<Token>>| told.map(|tokens| tokens.len());
        push(&tokens, b"why", Section::Thinking);
        assert_eq!(tokens.of(&Event::Thinking("why".into())), None);
        push(&tokens, "aé".as_bytes(), Section::Answering);
        assert_eq!(count(tokens.of(&Event::Text("aé".into()))), Some(3));
        push(&tokens, b"<call>", Section::Answering);
        assert_eq!(tokens.of(&Event::ToolEnd { index: 0 }), None);
        push(&tokens, b"b", Section::Answering);
        assert_eq!(count(tokens.of(&Event::Text("b".into()))), Some(1));
        push(&tokens, b"\xe6", Section::Answering);
        assert_eq!(count(tokens.rest()), Some(1));
    }

    #[test]
    fn parts_of_characters_are_told_by_their_bytes() {
        let tokenizer = tokenizer();
        let tokens = Tokens::new(&tokenizer, None);
        push(&tokens, "aéb".as_bytes(), Section::Answering);
        let all = tokens.rest().unwrap();
        expect![[r#"{"content":[{"token":"\\xc3","logprob":-0.5,"bytes":[195],"top_logprobs":[{"token":"\\xc3","logprob":-0.5,"bytes":[195]},{"token":"z","logprob":-9999.0,"bytes":[122]}]}],"refusal":null}"#]]
            .assert_eq(&of_chat(&all[1..2]).to_string());
        expect![[r#"{"tokens":["a","bytes:\\xc3","bytes:\\xa9","b"],"token_logprobs":[-0.5,-0.5,-0.5,-0.5],"top_logprobs":[{"a":-0.5,"z":-9999.0},{"bytes:\\xc3":-0.5,"z":-9999.0},{"bytes:\\xa9":-0.5,"z":-9999.0},{"b":-0.5,"z":-9999.0}],"text_offset":[0,1,1,2]}"#]]
            .assert_eq(&of_completion(&all).to_string());
    }
}
