//! What an answer is held to: a form, the tools that it may call, or both.

use std::{
    borrow::Cow,
    time::{Duration, Instant},
};

use engine::{Engine, GrammarError, Source};
use models::{Calls, ChatOptions, Hold, Syntax};
use serde_json::Value;

use crate::{
    ask::{Form, Rule},
    away::Client,
    error::Refusal,
};

/// How long it is looked which schemas have no grammar. Those that were not looked at by then count as such.
const LOOK_TIME: Duration = Duration::from_secs(10);

/// A compiled grammar, and what it is about.
pub(crate) struct Held {
    pub(crate) grammar: engine::Grammar,
    /// It is of all that is generated, reasoning included.
    pub(crate) is_raw: bool,
}

/// What an answer is to be held to. Whatever is the same, has the same grammar.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    form: Option<Form>,
    /// Answers that may call.
    calls: Option<Syntax>,
    /// The tools whose arguments have to be valid.
    strict: Vec<String>,
}

impl Wanted {
    /// What a request wants to be kept to: its form, and where that is asked for, the tools of the conversation.
    ///
    /// # Errors
    /// The model's format has no grammar for a strict tool.
    pub(crate) fn of(
        engine: &Engine,
        form: Option<Form>,
        chat: Option<&ChatOptions>,
    ) -> Result<Option<Wanted>, Refusal> {
        let options = chat.filter(|options| holds_calls(options, form.as_ref()));
        let calls = options.map(|options| syntax(engine, options, form.is_some(), &[])).transpose()?;
        let strict = options.into_iter().flat_map(|options| &options.tools).filter(|tool| tool.strict);
        let strict = strict.map(|tool| tool.name.clone()).collect();
        Ok((form.is_some() || calls.is_some()).then_some(Wanted { form, calls, strict }))
    }

    /// How much text it is.
    pub(crate) fn n_bytes(&self) -> usize {
        self.form.as_ref().map_or(0, |form| form.rule.n_bytes()) + self.calls.as_ref().map_or(0, Syntax::n_bytes)
    }

    /// The grammar. Takes seconds where it is hard.
    ///
    /// # Errors
    /// There is none: the field is named; others' are being compiled; or the client has gone.
    pub(crate) fn compile(
        &self,
        engine: &Engine,
        chat: Option<&ChatOptions>,
        client: &Client<'_>,
    ) -> Result<Held, Refusal> {
        client.check()?;
        if let (Some(calls), Some(options)) = (&self.calls, chat) {
            return self.compile_calls(engine, calls, options, client);
        }
        let form = self.form.as_ref().expect("something is wanted");
        let grammar =
            source(&form.rule, |source| engine.grammar(source)).map_err(|error| refuse(&form.field, &error))?;
        Ok(Held { grammar, is_raw: form.rule.is_raw() })
    }

    /// The same, of an answer that may call. Where a tool's schema has no grammar, its arguments can be any, unless it is strict.
    fn compile_calls(
        &self,
        engine: &Engine,
        calls: &Syntax,
        options: &ChatOptions,
        client: &Client<'_>,
    ) -> Result<Held, Refusal> {
        let (mut calls, mut loose) = (Cow::Borrowed(calls), Vec::new());
        loop {
            let compiled = match &self.form {
                Some(form) => source(&form.rule, |source| engine.calls(&calls, Some(source))),
                None => engine.calls(&calls, None),
            };
            let error = match compiled {
                Ok(grammar) => return Ok(Held { grammar, is_raw: calls.is_raw }),
                Err(error @ engine::Error::Grammar(GrammarError::Busy)) => return Err(refuse("tools", &error)),
                Err(error) => error,
            };
            if let Some(form) = &self.form {
                source(&form.rule, |source| engine.grammar(source)).map_err(|error| refuse(&form.field, &error))?;
            }
            let mut more = self.at_fault(engine, &calls, client)?;
            if more.is_empty() {
                // None by itself: they are too much together.
                let left = options.tools.iter().map(|tool| &tool.name);
                more = left.filter(|name| !self.strict.contains(name) && !loose.contains(*name)).cloned().collect();
            }
            if more.is_empty() {
                return Err(refuse("tools", &error));
            }
            loose.extend(more);
            calls = Cow::Owned(syntax(engine, options, self.form.is_some(), &loose)?);
        }
    }

    /// The tools whose schemas have no grammar.
    ///
    /// # Errors
    /// One of them is strict; others' are being compiled; or the client has gone.
    fn at_fault(&self, engine: &Engine, calls: &Syntax, client: &Client<'_>) -> Result<Vec<String>, Refusal> {
        let (start, mut names) = (Instant::now(), Vec::<String>::new());
        for schema in &calls.schemas {
            let Some(name) = schema.tool.as_ref().filter(|name| !names.contains(name)) else { continue };
            client.check()?;
            let compiled = match start.elapsed() < LOOK_TIME {
                true => engine.grammar(Source::JsonSchema(&schema.text)).map(drop),
                false => Err(GrammarError::Slow { seconds: LOOK_TIME.as_secs() }.into()),
            };
            match compiled {
                Ok(()) => {}
                Err(error @ engine::Error::Grammar(GrammarError::Busy)) => return Err(refuse("tools", &error)),
                Err(error) if self.strict.contains(name) => {
                    return Err(Refusal::field("tools", &format!("the schema of `{name}`: {error}")));
                }
                Err(_) => names.push(name.clone()),
            }
        }
        Ok(names)
    }
}

/// Whether calls have to be as they should: else the model calls as it likes.
fn holds_calls(options: &ChatOptions, form: Option<&Form>) -> bool {
    let tools = options.shown_tools();
    let asks = options.one_call || options.callable.is_some() || matches!(options.call, Calls::Must(_));
    let may_be_held = !tools.is_empty() && form.is_none_or(|form| !form.rule.is_raw());
    may_be_held && (asks || form.is_some() || tools.iter().any(|tool| tool.strict))
}

/// What answers with calls look like, in which the arguments of the tools in `loose` can be any.
fn syntax(engine: &Engine, options: &ChatOptions, has_form: bool, loose: &[String]) -> Result<Syntax, Refusal> {
    let chat = engine.chat().map_err(|error| Refusal::body(error.to_string()))?;
    chat.syntax(options, Hold { text: has_form, loose }).map_err(|error| Refusal::field("tools", &error.to_string()))
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
