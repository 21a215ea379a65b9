//! What clients of others' services say, one file each: a request becomes an [`Ask`](crate::ask::Ask), answers become replies.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::{ask::Ask, said::Finish};

mod budget;
pub(crate) mod chat;
pub(crate) mod completions;
mod content;
mod form;
pub(crate) mod messages;
pub(crate) mod models;
pub(crate) mod ollama;
mod openai;
pub(crate) mod responses;
mod sampling;
#[cfg(test)]
mod script;
pub(crate) mod tokens;

/// A request that was read, for one answer.
pub(crate) struct Request<T> {
    pub(crate) ask: Ask,
    pub(crate) stream: bool,
    /// How the answer is to be told.
    pub(crate) telling: T,
}

/// Seconds since 1970.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// A name that nobody can guess.
pub(crate) fn new_id(kind: &str) -> String {
    format!("{kind}{:032x}", rand::random::<u128>())
}

/// Adds to a reply what its dialect has no word for: what became of the answer, if anything did.
fn tell_detail(reply: &mut Value, finish: &Finish) {
    if let Some(detail) = finish.detail {
        reply["finish_detail"] = json!(detail.word());
    }
    if finish.n_dropped > 0 {
        reply["rewound_tokens"] = json!(finish.n_dropped);
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use expect_test::expect_file;

    use super::*;
    use crate::fields::{Does, Field};

    const HEAD: &str = "\
# The HTTP interface

What requests may say, from the tables that requests are read by (`UPDATE_EXPECT=1 cargo test -p server` writes this file).
A field that is not here is refused by its name; `null` is as if a field were not there. `n/a` in the second column marks fields
that clients send and that change nothing.

Every reply has an `x-request-id`: the request's own, if that has 1 to 64 letters, digits and `-_.`, else a new one. What cannot be
read as a request of HTTP/1.1 or 1.0 at all has no more of a reply than a status.

How tokens are chosen is up to the request, else to the flags of `serve`, else to the model file (`general.sampling.*`, which
`quantize` takes from a model's `generation_config.json`), else to the defaults that `serve --help` shows.

What became of an answer that its dialect has no word for is in `finish_detail`, beside the reason for its end:

| `finish_detail` | |
|---|---|
| `malformed_tool_call` | What was meant as a call broke the rules of the model's format, or was of no tool in the request. It is told as text, unless the answer ends within it. A stream of chat completions may have begun to tell it as a call; that call has no end. |
| `reasoning_budget` | Its reasoning was ended for it, as it would have taken more tokens than the request allows, or `--reasoning-budget`. |
| `repetition` | It said the same 3 to 64 tokens again and again, found no way out, and was ended, as at its longest. |

What says the same 3 to 64 tokens 8 times, for 256 tokens at least, is held back from there on, until it says something else; streams
are kept alive meanwhile. After 64 times, and 2048 tokens at least, what was held back is dropped, and the answer goes on from there by
another token, the next 16 at a higher temperature (1 at least, also where it is 0), up to three times. `rewound_tokens`, beside
`finish_detail`, is how many tokens were dropped; they are in no other number. A seed still gives one answer. `--may-repeat` lets answers
repeat what they like.

Beside these, `GET /health`, `/metrics`, `/v1/models`, `/v1/models/NAME`, `/api/tags` and `/api/version` take no fields.
";

    fn table(text: &mut String, title: &str, tables: &[&[Field]]) {
        writeln!(text, "\n## {title}\n\n| field | | what it does |\n|---|---|---|").unwrap();
        for field in tables.iter().copied().flatten() {
            let (kind, why) = match field.does {
                Does::Acts(how) => (String::new(), how.to_owned()),
                Does::Nothing(why) => ("n/a".to_owned(), why.to_owned()),
                Does::Only(only, why) => (format!("only `{only}`"), why.to_owned()),
            };
            writeln!(text, "| `{}` | {kind} | {why} |", field.name).unwrap();
        }
    }

    #[test]
    fn the_manual_tells_every_field() {
        let mut text = HEAD.to_owned();
        table(&mut text, "`POST /v1/chat/completions`", chat::FIELDS);
        table(&mut text, "`POST /v1/completions`", completions::FIELDS);
        table(&mut text, "`POST /v1/responses`, `/v1/responses/input_tokens`", responses::FIELDS);
        let left_out = responses::LEFT_OUT.join("`, `");
        writeln!(text, "\nTools of type `{left_out}` are accepted, and the model does not see them.").unwrap();
        table(&mut text, "`POST /v1/messages`, `/v1/messages/count_tokens`", messages::FIELDS);
        table(&mut text, "`POST /api/chat`", ollama::CHAT);
        table(&mut text, "`POST /api/generate`", ollama::GENERATE);
        table(&mut text, "`options` of these two", ollama::OPTIONS);
        table(&mut text, "`POST /tokenize`", tokens::TOKENIZE);
        table(&mut text, "`POST /detokenize`", tokens::DETOKENIZE);
        expect_file!["../../../../docs/api.md"].assert_eq(&text);
    }
}
