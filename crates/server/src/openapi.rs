//! The interface as OpenAPI describes it: `GET /openapi.json`, made of the tables that requests are read by.

use serde_json::{Value, json};

use crate::{
    dialect::{chat, completions, messages, ollama, responses, tokens},
    fields::{Does, Field, Kind},
};

/// A path that takes JSON.
struct Endpoint {
    path: &'static str,
    does: &'static str,
    fields: &'static [&'static [Field]],
}

const ENDPOINTS: &[Endpoint] = &[
    Endpoint {
        path: "/v1/chat/completions",
        does: "The next turn of a conversation, as OpenAI has it.",
        fields: chat::FIELDS,
    },
    Endpoint { path: "/v1/completions", does: "What follows a text, as OpenAI has it.", fields: completions::FIELDS },
    Endpoint {
        path: "/v1/messages",
        does: "The next turn of a conversation, as Anthropic has it.",
        fields: messages::FIELDS,
    },
    Endpoint { path: "/v1/messages/count_tokens", does: "How many tokens that has.", fields: messages::FIELDS },
    Endpoint {
        path: "/v1/responses",
        does: "The next turn of a conversation, as OpenAI has it now.",
        fields: responses::FIELDS,
    },
    Endpoint { path: "/v1/responses/input_tokens", does: "How many tokens that has.", fields: responses::FIELDS },
    Endpoint { path: "/api/chat", does: "The next turn of a conversation, as Ollama has it.", fields: ollama::CHAT },
    Endpoint { path: "/api/generate", does: "An answer to a text, as Ollama has it.", fields: ollama::GENERATE },
    Endpoint { path: "/tokenize", does: "The tokens of a text.", fields: tokens::TOKENIZE },
    Endpoint { path: "/detokenize", does: "The text of tokens.", fields: tokens::DETOKENIZE },
];

/// Paths without a body.
const PLAIN: [(&str, &str); 8] = [
    ("/", "The chat page."),
    ("/health", "Whether the server is there. Needs no key."),
    ("/metrics", "Counters and times, for Prometheus."),
    ("/openapi.json", "This description."),
    ("/api/tags", "The models, as Ollama lists them."),
    ("/api/version", "The version, as Ollama tells it."),
    ("/v1/models", "The models: there is one."),
    ("/v1/models/{name}", "The model."),
];

/// The description.
pub(crate) fn description() -> Value {
    let plain = PLAIN.iter().map(|(path, does)| {
        let mut get = json!({ "summary": does, "responses": { "200": { "description": "As it says." } } });
        if path.contains('{') {
            get["parameters"] =
                json!([{ "name": "name", "in": "path", "required": true, "schema": { "type": "string" } }]);
        }
        ((*path).to_owned(), json!({ "get": get }))
    });
    let posted = ENDPOINTS.iter().map(|endpoint| (endpoint.path.to_owned(), json!({ "post": endpoint.operation() })));
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Local inference", "version": env!("CARGO_PKG_VERSION") },
        "components": { "securitySchemes": { "key": { "type": "http", "scheme": "bearer" } } },
        "security": [{}, { "key": [] }],
        "paths": plain.chain(posted).collect::<serde_json::Map<_, _>>(),
    })
}

impl Endpoint {
    fn operation(&self) -> Value {
        let schema = |field: &Field| (field.name.to_owned(), field.schema());
        let properties: serde_json::Map<_, _> = self.fields.iter().copied().flatten().map(schema).collect();
        let schema = json!({ "type": "object", "properties": properties, "additionalProperties": false });
        let refusal = |what| json!({ "description": what });
        json!({
            "summary": self.does,
            "requestBody": { "required": true, "content": { "application/json": { "schema": schema } } },
            "responses": {
                "200": { "description": "The answer." },
                "400": refusal("A field is wrong, or not known: `error.param` names it."),
                "401": refusal("The key is missing or wrong."),
                "429": refusal("Too many requests wait: try again."),
                "503": refusal("The server is ending, or the engine failed: try again."),
            },
        })
    }
}

impl Field {
    fn schema(&self) -> Value {
        let mut schema = match self.kind {
            Kind::Bool => json!({ "type": ["boolean", "null"] }),
            Kind::Int(from, to) => json!({ "type": ["integer", "null"], "minimum": from, "maximum": to }),
            Kind::Num(from, to) => json!({ "type": ["number", "null"], "minimum": from, "maximum": to }),
            Kind::Str => json!({ "type": ["string", "null"] }),
            Kind::Word(words) => json!({ "enum": words }),
            Kind::Array => json!({ "type": ["array", "null"] }),
            Kind::Object => json!({ "type": ["object", "null"] }),
            Kind::Any => json!({}),
        };
        schema["description"] = json!(self.told());
        schema
    }

    /// What it does, in a sentence.
    fn told(&self) -> String {
        match self.does {
            Does::Acts(how) => how.to_owned(),
            Does::Nothing(why) => format!("Changes nothing: {why}."),
            Does::Only(value, why) => format!("Can only be `{value}`: {why}."),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_field_is_there_twice() {
        for endpoint in ENDPOINTS {
            let mut names: Vec<_> = endpoint.fields.iter().copied().flatten().map(|field| field.name).collect();
            names.sort_unstable();
            assert!(names.windows(2).all(|pair| pair[0] != pair[1]), "{}", endpoint.path);
        }
    }
}
