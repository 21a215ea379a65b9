//! What is written of a conversation: JSON, drawn in `docs/formats/session.md`.

use engine::ModelInfo;
use models::{ChatOptions, Effort, Message, Role, effort_named};
use serde_json::{Map, Value, json};
use tokenizer::TokenId;

const VERSION: u64 = 1;

/// A conversation, as it is gone on with.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Saved {
    /// Seconds since 1970.
    pub(crate) used_s: u64,
    pub(crate) model: ModelId,
    pub(crate) options: ChatOptions,
    pub(crate) messages: Vec<Message>,
    /// What the model read and said; of use to the same model only.
    pub(crate) tokens: Vec<TokenId>,
}

/// Which model a conversation was held with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ModelId {
    pub(crate) name: String,
    pub(crate) family: String,
    pub(crate) file_bytes: u64,
}

impl From<&ModelInfo> for ModelId {
    fn from(info: &ModelInfo) -> ModelId {
        ModelId { name: info.name.clone(), family: info.family.clone(), file_bytes: info.file_bytes }
    }
}

impl Saved {
    /// Its messages before the first question.
    pub(crate) fn n_opening(&self) -> usize {
        self.messages.iter().take_while(|m| m.role == Role::System).count()
    }

    /// Its file.
    pub(crate) fn to_json(&self) -> String {
        let message = |m: &Message| {
            let mut message = json!({ "role": role_name(m.role), "text": m.text });
            if let Some(reasoning) = &m.reasoning {
                message["reasoning"] = reasoning.as_str().into();
            }
            message
        };
        let ModelId { name, family, file_bytes } = &self.model;
        let value = json!({
            "version": VERSION,
            "used": self.used_s,
            "model": { "name": name, "family": family, "file_bytes": file_bytes },
            "thinking": self.options.thinking,
            "effort": self.options.effort.map(Effort::name),
            "messages": self.messages.iter().map(message).collect::<Vec<_>>(),
            "tokens": self.tokens,
        });
        format!("{value}\n")
    }

    /// Reads a file; or tells why it is none.
    pub(crate) fn read(bytes: &[u8]) -> Result<Saved, String> {
        let value: Value = serde_json::from_slice(bytes).map_err(|e| format!("is no session: {e}"))?;
        match value["version"].as_u64() {
            Some(VERSION) => {}
            Some(other) => return Err(format!("is a session of version {other}, and {VERSION} is known")),
            None => return Err("is no session: it has no `version`".into()),
        }
        let whole = || -> Result<Saved, &'static str> {
            let file = value.as_object().ok_or("version")?;
            let model = object(file, "model")?;
            Ok(Saved {
                used_s: number(file, "used")?,
                model: ModelId {
                    name: text(model, "name")?.into(),
                    family: text(model, "family")?.into(),
                    file_bytes: number(model, "file_bytes")?,
                },
                options: ChatOptions {
                    thinking: file.get("thinking").and_then(Value::as_bool).ok_or("thinking")?,
                    effort: effort(file)?,
                    ..ChatOptions::default()
                },
                messages: list(file, "messages")?.iter().map(message).collect::<Option<_>>().ok_or("messages")?,
                tokens: list(file, "tokens")?.iter().map(token).collect::<Option<_>>().ok_or("tokens")?,
            })
        };
        whole().map_err(|key| format!("is no session: `{key}` is not what it should be"))
    }
}

type Key = &'static str;

fn object(of: &Map<String, Value>, key: Key) -> Result<&Map<String, Value>, Key> {
    of.get(key).and_then(Value::as_object).ok_or(key)
}

fn list(of: &Map<String, Value>, key: Key) -> Result<&Vec<Value>, Key> {
    of.get(key).and_then(Value::as_array).ok_or(key)
}

fn text(of: &Map<String, Value>, key: Key) -> Result<&str, Key> {
    of.get(key).and_then(Value::as_str).ok_or(key)
}

fn number(of: &Map<String, Value>, key: Key) -> Result<u64, Key> {
    of.get(key).and_then(Value::as_u64).ok_or(key)
}

fn effort(of: &Map<String, Value>) -> Result<Option<Effort>, Key> {
    match of.get("effort") {
        None | Some(Value::Null) => Ok(None),
        Some(name) => name.as_str().and_then(effort_named).map(Some).ok_or("effort"),
    }
}

fn token(value: &Value) -> Option<TokenId> {
    value.as_u64()?.try_into().ok()
}

fn message(value: &Value) -> Option<Message> {
    let role = [Role::System, Role::User, Role::Assistant].into_iter().find(|r| value["role"] == role_name(*r))?;
    let message = Message::new(role, value["text"].as_str()?);
    match value.get("reasoning") {
        None => Some(message),
        Some(reasoning) => Some(message.with_reasoning(reasoning.as_str()?)),
    }
}

fn role_name(role: Role) -> &'static str {
    match role {
        Role::System => "system",
        Role::User => "user",
        Role::Assistant => "assistant",
        Role::Tool => "tool",
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn example() -> Saved {
        Saved {
            used_s: 1_795_000_000,
            model: ModelId { name: "tiny".into(), family: "llama".into(), file_bytes: 1024 },
            options: ChatOptions { thinking: true, effort: Some(Effort::High), ..ChatOptions::default() },
            messages: vec![
                Message::system("Be \"brief\"."),
                Message::user("1+1?\n\u{1b}"),
                Message::assistant("2").with_reasoning("hm"),
            ],
            tokens: vec![0, 7, u32::MAX],
        }
    }

    #[test]
    fn a_conversation_comes_back_as_it_was() {
        let saved = example();
        assert_eq!(Saved::read(saved.to_json().as_bytes()), Ok(saved.clone()));
        let options = ChatOptions { thinking: false, effort: None, ..saved.options.clone() };
        let empty = Saved { messages: Vec::new(), tokens: Vec::new(), options, ..saved };
        assert_eq!(Saved::read(empty.to_json().as_bytes()), Ok(empty));
    }

    #[test]
    fn what_is_no_conversation_is_told() {
        let whole = example().to_json();
        for cut in 0..whole.len() - 1 {
            assert!(Saved::read(&whole.as_bytes()[..cut]).is_err(), "{cut}");
        }
        let broken = |from: &str, to: &str| Saved::read(whole.replacen(from, to, 1).as_bytes()).unwrap_err();
        assert_eq!(broken("\"version\":1", "\"version\":2"), "is a session of version 2, and 1 is known");
        for (from, to, key) in [
            ("\"role\":\"user\"", "\"role\":\"tool\"", "messages"),
            ("\"reasoning\":\"hm\"", "\"reasoning\":1", "messages"),
            ("4294967295", "4294967296", "tokens"),
            ("\"high\"", "\"some\"", "effort"),
            ("1024", "-1", "file_bytes"),
            ("\"thinking\":true,", "", "thinking"),
        ] {
            assert_eq!(broken(from, to), format!("is no session: `{key}` is not what it should be"));
        }
        for other in ["[]", "null", "1", "{}", "\"version\""] {
            assert_eq!(Saved::read(other.as_bytes()).unwrap_err(), "is no session: it has no `version`");
        }
    }
}
