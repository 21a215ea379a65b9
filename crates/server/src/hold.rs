//! What an answer is held to: a form, the tools that it may call, or both.

use engine::{Engine, GrammarError, Source};
use models::{Calls, ChatOptions, Hold};
use serde_json::Value;

use crate::{
    ask::{Form, Rule},
    away::Client,
    error::Refusal,
};

/// A compiled grammar, and what it is about.
pub(crate) struct Held {
    pub(crate) grammar: engine::Grammar,
    /// It is of all that is generated, reasoning included.
    pub(crate) is_raw: bool,
}

/// Whether an answer is held to something.
pub(crate) fn is_held(form: Option<&Form>, chat: Option<&ChatOptions>) -> bool {
    form.is_some() || chat.is_some_and(|options| holds_calls(options, form))
}

/// What holds an answer to its form, and to the tools of the conversation where that is asked for.
///
/// # Errors
/// There is no grammar for it: the field is named; others' are being compiled; or the client has gone.
pub(crate) fn held(
    engine: &Engine,
    form: Option<&Form>,
    chat: Option<&ChatOptions>,
    client: &Client<'_>,
) -> Result<Option<Held>, Refusal> {
    client.check()?;
    match (form, chat.filter(|options| holds_calls(options, form))) {
        (None, None) => Ok(None),
        (form, Some(options)) => calls(engine, form, options, client).map(Some),
        (Some(form), None) => {
            let grammar =
                source(&form.rule, |source| engine.grammar(source)).map_err(|error| refuse(&form.field, &error))?;
            Ok(Some(Held { grammar, is_raw: form.rule.is_raw() }))
        }
    }
}

/// Whether calls have to be as they should: else the model calls as it likes.
fn holds_calls(options: &ChatOptions, form: Option<&Form>) -> bool {
    let tools = options.shown_tools();
    let asks = options.one_call || options.callable.is_some() || matches!(options.call, Calls::Must(_));
    let may_be_held = !tools.is_empty() && form.is_none_or(|form| !form.rule.is_raw());
    may_be_held && (asks || form.is_some() || tools.iter().any(|tool| tool.strict))
}

/// The same, of an answer that may call. Where a tool's schema has no grammar, its arguments can be any, unless it is strict.
fn calls(engine: &Engine, form: Option<&Form>, options: &ChatOptions, client: &Client<'_>) -> Result<Held, Refusal> {
    let chat = engine.chat().map_err(|error| Refusal::body(error.to_string()))?;
    let mut loose = Vec::new();
    loop {
        let hold = Hold { text: form.is_some(), loose: &loose };
        let syntax = chat.syntax(options, hold).map_err(|error| Refusal::field("tools", &error.to_string()))?;
        let compiled = match form {
            Some(form) => source(&form.rule, |source| engine.calls(&syntax, Some(source))),
            None => engine.calls(&syntax, None),
        };
        let error = match compiled {
            Ok(grammar) => return Ok(Held { grammar, is_raw: syntax.is_raw }),
            Err(error @ engine::Error::Grammar(GrammarError::Busy)) => return Err(refuse("tools", &error)),
            Err(error) => error,
        };
        if let Some(form) = form {
            source(&form.rule, |source| engine.grammar(source)).map_err(|error| refuse(&form.field, &error))?;
        }
        let mut more = at_fault(engine, &syntax, options, client)?;
        if more.is_empty() {
            // None by itself: they are too much together.
            let left = options.tools.iter().filter(|tool| !tool.strict && !loose.contains(&tool.name));
            more = left.map(|tool| tool.name.clone()).collect();
        }
        if more.is_empty() {
            return Err(refuse("tools", &error));
        }
        loose.extend(more);
    }
}

/// The tools whose schemas have no grammar.
///
/// # Errors
/// One of them is strict; others' are being compiled; or the client has gone.
fn at_fault(
    engine: &Engine,
    syntax: &models::Syntax,
    options: &ChatOptions,
    client: &Client<'_>,
) -> Result<Vec<String>, Refusal> {
    let mut names: Vec<String> = Vec::new();
    for schema in &syntax.schemas {
        let Some(name) = schema.tool.as_ref().filter(|name| !names.contains(name)) else { continue };
        let is_strict = options.tools.iter().any(|tool| tool.strict && tool.name == *name);
        client.check()?;
        match engine.grammar(Source::JsonSchema(&schema.text)) {
            Ok(_) => {}
            Err(error @ engine::Error::Grammar(GrammarError::Busy)) => return Err(refuse("tools", &error)),
            Err(error) if is_strict => {
                return Err(Refusal::field("tools", &format!("the schema of `{name}`: {error}")));
            }
            Err(_) => names.push(name.clone()),
        }
    }
    Ok(names)
}

fn refuse(field: &str, error: &engine::Error) -> Refusal {
    match error {
        engine::Error::Grammar(GrammarError::Busy) => Refusal::compiling(),
        error => Refusal::field(field, &error.to_string()),
    }
}

/// Does something with the source of a rule's grammar.
fn source<T>(rule: &Rule, then: impl FnOnce(Source<'_>) -> T) -> T {
    match rule {
        Rule::JsonObject => then(Source::JsonObject),
        Rule::JsonSchema(schema) => then(Source::JsonSchema(schema)),
        Rule::Regex(pattern) => then(Source::Regex(pattern)),
        Rule::Lark(grammar) | Rule::RawLark(grammar) => then(Source::Lark(grammar)),
        Rule::Choice(texts) => {
            let texts: Vec<_> = texts.iter().map(|text| Value::from(text.as_str()).to_string()).collect();
            // One word: as rules, each text would be followed by itself.
            then(Source::Composed(&format!("start: TEXT\nTEXT: {}", texts.join(" | ")), &[]))
        }
    }
}
