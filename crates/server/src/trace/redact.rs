//! Texts that are told by their sizes. What is kept of a body is a list: the names of its fields, numbers in places that we know,
//! switches, and words that say what something is. All else is a text of somebody's, whole objects included: arguments of calls,
//! schemas, and whatever a field holds that we do not know.

use serde_json::{Map, Value, json};

/// Objects, and lists of them, that are looked into.
const KNOWN: [&str; 19] = [
    "messages",
    "system",
    "content",
    "output",
    "summary",
    "tools",
    "function",
    "tool_calls",
    "tool_choice",
    "allowed_tools",
    "thinking",
    "reasoning",
    "response_format",
    "text",
    "stream_options",
    "options",
    "output_config",
    "cache_control",
    "chat_template_kwargs",
];

/// Fields whose number says how something is done. Others may be of somebody's: a telephone number, a pin.
const NUMBERS: [&str; 28] = [
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "presence_penalty",
    "frequency_penalty",
    "repetition_penalty",
    "repeat_penalty",
    "repeat_last_n",
    "seed",
    "n",
    "best_of",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "n_predict",
    "num_predict",
    "num_ctx",
    "thinking_budget",
    "thinking_token_budget",
    "thinking_budget_tokens",
    "reasoning_budget_tokens",
    "reasoning_budget",
    "budget_tokens",
    "logprobs",
    "top_logprobs",
    "keep_alive",
    "index",
];

/// Fields whose text says what something is.
const WORDS: [&str; 14] = [
    "role",
    "type",
    "model",
    "name",
    "tool_name",
    "tool_choice",
    "mode",
    "id",
    "call_id",
    "tool_call_id",
    "tool_use_id",
    "status",
    "effort",
    "reasoning_effort",
];
/// The longest of such texts.
const WORD_BYTES_MAX: usize = 128;

/// How texts are told.
pub(super) enum Texts {
    /// As they are.
    Shown,
    /// By their sizes, and a code by which those that are the same are known, in this run.
    Hidden([u8; 32]),
}

impl Texts {
    /// Hidden, by a key that nobody knows.
    pub(super) fn hidden() -> Texts {
        Texts::Hidden(rand::random())
    }

    /// A text.
    pub(super) fn text(&self, text: &str) -> Value {
        let Texts::Hidden(key) = self else { return text.into() };
        let hash = blake3::keyed_hash(key, text.as_bytes()).to_hex();
        json!({ "n_bytes": text.len(), "hash": hash[..16] })
    }

    /// The body of a request.
    pub(super) fn body(&self, body: Value) -> Value {
        match (self, body) {
            (Texts::Hidden(_), Value::Object(fields)) if has_words(&fields) => self.object(fields, ""),
            (Texts::Hidden(_), body) => self.text(&body.to_string()),
            (Texts::Shown, body) => body,
        }
    }

    /// An object that we know, the value of `name`, or in it.
    fn object(&self, fields: Map<String, Value>, name: &str) -> Value {
        let field = |(key, value): (String, Value)| {
            let value = match value {
                Value::Null | Value::Bool(_) => value,
                Value::Number(_) if NUMBERS.contains(&&*key) => value,
                // Whoever takes part in a conversation may be called by name; tools are.
                Value::String(word) if is_word(&key, &word) && (name, &*key) != ("messages", "name") => word.into(),
                Value::String(text) => self.text(&text),
                Value::Object(fields) if is_known(&key) && has_words(&fields) => self.object(fields, &key),
                Value::Array(items) if is_known(&key) || (name, &*key) == ("", "input") => {
                    items.into_iter().map(|item| self.item(item, &key)).collect()
                }
                value => self.text(&value.to_string()),
            };
            (key, value)
        };
        Value::Object(fields.into_iter().map(field).collect())
    }

    /// One of the values of `name`.
    fn item(&self, item: Value, name: &str) -> Value {
        match item {
            Value::Object(fields) if has_words(&fields) => self.object(fields, name),
            Value::String(text) => self.text(&text),
            item => self.text(&item.to_string()),
        }
    }
}

fn is_known(key: &str) -> bool {
    KNOWN.contains(&key)
}

/// Whether the names of fields are such as fields have.
fn has_words(fields: &Map<String, Value>) -> bool {
    fields.keys().all(|name| is_short(name))
}

fn is_word(key: &str, word: &str) -> bool {
    WORDS.contains(&key) && is_short(word)
}

fn is_short(word: &str) -> bool {
    let is_sign = |b: u8| b.is_ascii_alphanumeric() || b"-_.:/".contains(&b);
    word.len() <= WORD_BYTES_MAX && word.bytes().all(is_sign)
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn check(body: Value, expected: &Expect) {
        let text = format!("{}", Texts::Hidden([7; 32]).body(body));
        assert!(!text.contains("secret"), "{text}");
        expected.assert_eq(&text);
    }

    #[test]
    fn nothing_is_left_of_texts_but_their_sizes() {
        let chat = json!({"model": "m", "temperature": 0.5, "stream": true, "user": "secret", "stop": ["secret"], "messages": [
            {"role": "system", "content": "secret"},
            {"role": "user", "name": "secret", "content": [{"type": "text", "text": "secret", "cache_control": {"type": "ephemeral"}}]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "look", "arguments": "{\"secret\":1}"}}]},
            {"role": "tool", "tool_call_id": "call_1", "content": "secret"}],
            "tools": [{"type": "function", "function": {"name": "look", "description": "secret", "parameters": {"secret": {}}}}],
            "response_format": {"type": "json_schema", "json_schema": {"name": "secret"}}, "metadata": {"name": "secret"}});
        check(
            chat,
            &expect![[
                r#"{"model":"m","temperature":0.5,"stream":true,"user":{"n_bytes":6,"hash":"b6ecda0b43f54547"},"stop":{"n_bytes":10,"hash":"efcabd87f470f0c5"},"messages":[{"role":"system","content":{"n_bytes":6,"hash":"b6ecda0b43f54547"}},{"role":"user","name":{"n_bytes":6,"hash":"b6ecda0b43f54547"},"content":[{"type":"text","text":{"n_bytes":6,"hash":"b6ecda0b43f54547"},"cache_control":{"type":"ephemeral"}}]},{"role":"assistant","content":null,"tool_calls":[{"id":"call_1","type":"function","function":{"name":"look","arguments":{"n_bytes":12,"hash":"562c9e0e526c6d25"}}}]},{"role":"tool","tool_call_id":"call_1","content":{"n_bytes":6,"hash":"b6ecda0b43f54547"}}],"tools":[{"type":"function","function":{"name":"look","description":{"n_bytes":6,"hash":"b6ecda0b43f54547"},"parameters":{"n_bytes":13,"hash":"4fd9cbda4f9fb9b4"}}}],"response_format":{"type":"json_schema","json_schema":{"n_bytes":17,"hash":"73a2e41515de0df7"}},"metadata":{"n_bytes":17,"hash":"73a2e41515de0df7"}}"#
            ]],
        );
        let messages = json!({"model": "m", "max_tokens": 5, "system": [{"type": "text", "text": "secret"}],
            "thinking": {"type": "enabled", "budget_tokens": 1024}, "messages": [{"role": "assistant", "content": [
                {"type": "thinking", "thinking": "secret", "signature": "secret"},
                {"type": "tool_use", "id": "t1", "name": "look", "input": {"name": "secret", "pin": 1234}}]},
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "secret"}]}]}],
            "tools": [{"name": "look", "input_schema": {"name": "secret"}}]});
        check(
            messages,
            &expect![[
                r#"{"model":"m","max_tokens":5,"system":[{"type":"text","text":{"n_bytes":6,"hash":"b6ecda0b43f54547"}}],"thinking":{"type":"enabled","budget_tokens":1024},"messages":[{"role":"assistant","content":[{"type":"thinking","thinking":{"n_bytes":6,"hash":"b6ecda0b43f54547"},"signature":{"n_bytes":6,"hash":"b6ecda0b43f54547"}},{"type":"tool_use","id":"t1","name":"look","input":{"n_bytes":28,"hash":"482fe916d974a3fa"}}]},{"role":"user","content":[{"type":"tool_result","tool_use_id":"t1","content":[{"type":"text","text":{"n_bytes":6,"hash":"b6ecda0b43f54547"}}]}]}],"tools":[{"name":"look","input_schema":{"n_bytes":17,"hash":"73a2e41515de0df7"}}]}"#
            ]],
        );
        let responses = json!({"input": [{"type": "function_call", "call_id": "c1", "name": "look", "arguments": "secret"},
            {"type": "custom_tool_call", "call_id": "c2", "name": "run", "input": "secret"}, "secret", 5],
            "instructions": "secret", "reasoning": {"effort": "low"}, "tool_choice": "auto"});
        check(
            responses,
            &expect![[
                r#"{"input":[{"type":"function_call","call_id":"c1","name":"look","arguments":{"n_bytes":6,"hash":"b6ecda0b43f54547"}},{"type":"custom_tool_call","call_id":"c2","name":"run","input":{"n_bytes":6,"hash":"b6ecda0b43f54547"}},{"n_bytes":6,"hash":"b6ecda0b43f54547"},{"n_bytes":1,"hash":"61e900391927fa29"}],"instructions":{"n_bytes":6,"hash":"b6ecda0b43f54547"},"reasoning":{"effort":"low"},"tool_choice":"auto"}"#
            ]],
        );
    }

    #[test]
    fn what_is_not_what_it_should_be_is_a_text() {
        check(
            json!({"role": "a secret", "model": {"name": "secret"}, "input": {"name": "secret"}, "what": ["secret"]}),
            &expect![[
                r#"{"role":{"n_bytes":8,"hash":"6ceaf5d694eeae10"},"model":{"n_bytes":17,"hash":"73a2e41515de0df7"},"input":{"n_bytes":17,"hash":"73a2e41515de0df7"},"what":{"n_bytes":10,"hash":"efcabd87f470f0c5"}}"#
            ]],
        );
        check(json!(["secret"]), &expect![[r#"{"n_bytes":10,"hash":"efcabd87f470f0c5"}"#]]);
    }

    #[test]
    fn numbers_and_names_that_we_do_not_know_are_texts() {
        let told = |body: Value| Texts::Hidden([7; 32]).body(body);
        let pins = told(json!({"n": 2, "user": 55501, "pin": 1234, "messages": [{"content": 7, "name": null}]}));
        let n_bytes = |value: &Value| value["n_bytes"].as_u64();
        assert_eq!((pins["n"].as_u64(), n_bytes(&pins["user"]), n_bytes(&pins["pin"])), (Some(2), Some(5), Some(4)));
        assert_eq!(n_bytes(&pins["messages"][0]["content"]), Some(1));
        let names = json!({"a secret": 1, "stream": true});
        for body in [names.clone(), json!({"messages": [names.clone()]}), json!({"text": names})] {
            let text = told(body).to_string();
            assert!(text.contains("n_bytes") && !text.contains("secret"), "{text}");
        }
    }

    #[test]
    fn the_same_text_is_known_in_one_run() {
        let (one, other) = (Texts::hidden(), Texts::hidden());
        assert_eq!(one.text("secret"), one.text("secret"));
        assert_ne!(one.text("secret"), one.text("secres"));
        assert_ne!(one.text("secret"), other.text("secret"));
        assert_eq!(one.text("secret")["n_bytes"], 6);
    }
}
