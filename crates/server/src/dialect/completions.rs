//! OpenAI's completions of a text: `POST /v1/completions`.

use serde_json::{Value, json};

use super::{
    form::{FORMS, form},
    openai::{finish_reason, head, timings, usage, whole},
    sampling::{LENGTH, SAMPLING, SEVERAL, logit_bias, n_max, sampling, stop},
    tell_detail, tokens,
};
use crate::{
    app::Model,
    ask::{Ask, N_TOP_MAX, Prompt},
    error::{Dialect, Refusal},
    fields::{Field, Fields, Kind, acts, nothing, only},
    likely::{self, Token},
    reply::{Choice, Frames, Writer},
    said::{Heard, Said, Usage},
};

/// What a request may say.
pub(crate) const FIELDS: &[&[Field]] = &[&SAMPLING, &SEVERAL, &LENGTH, &FORMS, &OWN];

const OWN: [Field; 10] = [
    acts("model", Kind::Str, "Must be the model that is served, or one of its other names."),
    acts("prompt", Kind::Any, "A text, or token ids; one of them, also in an array."),
    acts("stream", Kind::Bool, "Send the text as it comes, as server-sent events."),
    acts("stream_options", Kind::Object, "include_usage: a last chunk says how many tokens there were."),
    acts("echo", Kind::Bool, "Repeat the prompt before its continuation."),
    only("suffix", r#""""#, "text can only be continued"),
    acts(
        "logprobs",
        Kind::Int(0, N_TOP_MAX),
        "Tell how likely the model found each token, and as many of the likeliest; not for a prompt that is repeated.",
    ),
    acts("logit_bias", Kind::Object, "Token ids and what is added to their logits, -100 to 100."),
    only("best_of", "1", "all answers are returned"),
    nothing("user", "it names whom a service blames"),
];

/// A request that was read.
pub(crate) struct Request {
    pub(crate) ask: Ask,
    pub(crate) stream: bool,
    pub(crate) include_usage: bool,
    /// What is repeated before each continuation.
    pub(crate) echo: String,
}

/// Reads a request.
///
/// # Errors
/// What of it we cannot do.
pub(crate) fn read(request: &Value, model: &Model) -> Result<Request, Refusal> {
    let fields = Fields::of(request, FIELDS)?;
    model.check_name(fields.str("model"))?;
    let prompt = prompt(&fields, model)?;
    let echo = match &prompt {
        _ if !fields.flag("echo").unwrap_or(false) => String::new(),
        Prompt::Text(text) => text.clone(),
        _ => return Err(fields.refuse("echo", "only texts are repeated, not token ids")),
    };
    if !echo.is_empty() && fields.int("logprobs").is_some() {
        return Err(fields.refuse("logprobs", "are for continuations; leave out echo"));
    }
    let include_usage = match fields.any("stream_options") {
        Some(options) => {
            let table: &[&[Field]] = &[&[acts("include_usage", Kind::Bool, "A last chunk counts tokens.")]];
            Fields::at(options, "stream_options", table)?.flag("include_usage").unwrap_or(false)
        }
        None => false,
    };
    let ask = Ask {
        n_max: if fields.int("n_predict") == Some(-1) { None } else { Some(n_max(&fields).unwrap_or(16)) },
        n_choices: fields.int("n").unwrap_or(1) as usize,
        stop: stop(&fields, "stop")?,
        form: form(&fields)?,
        logit_bias: logit_bias(&fields, model)?,
        logprobs: fields.int("logprobs").map(|n_top| n_top as usize),
        ..Ask::new(prompt, sampling(&fields, &model.sampling, model.seed)?)
    };
    Ok(Request { ask, stream: fields.flag("stream").unwrap_or(false), include_usage, echo })
}

/// A text or ids, perhaps alone in an array.
fn prompt(fields: &Fields<'_>, model: &Model) -> Result<Prompt, Refusal> {
    let refuse = || fields.refuse("prompt", "must be one text, or an array of token ids");
    let one = match fields.needed("prompt")? {
        Value::Array(all) if matches!(&all[..], [Value::String(_) | Value::Array(_)]) => &all[0],
        one => one,
    };
    match one {
        Value::String(text) => Ok(Prompt::Text(text.clone())),
        Value::Array(all) if all.first().is_some_and(Value::is_number) => {
            let tokenizer = model.engine.tokenizer().ok_or_else(refuse)?;
            Ok(Prompt::Ids(tokens::ids(one, &fields.path("prompt"), tokenizer)?))
        }
        _ => Err(refuse()),
    }
}

/// The continuations as a whole.
pub(crate) fn reply(model: &Model, choices: &[Choice], echo: &str) -> Value {
    let choice = |(index, choice): (usize, &Choice)| {
        let text = format!("{echo}{}", choice.text);
        let logprobs = likely::of_completion(&choice.tokens);
        let reason = finish_reason(&choice.finish);
        let mut told = json!({ "index": index, "text": text, "logprobs": logprobs, "finish_reason": reason });
        tell_detail(&mut told, &choice.finish);
        told
    };
    whole(head("cmpl-", "text_completion", model), choices.iter().enumerate().map(choice).collect(), choices)
}

/// Writes chunks.
pub(crate) struct Chunks {
    head: Value,
    echo: String,
    include_usage: bool,
    n_choices: usize,
    usages: Vec<Usage>,
    /// Tokens of each answer that wait for their text.
    tokens: Vec<Vec<Token>>,
}

impl Chunks {
    pub(crate) fn new(model: &Model, request: &Request) -> Chunks {
        let head = head("cmpl-", "text_completion", model);
        let (echo, n_choices) = (request.echo.clone(), request.ask.n_choices);
        let tokens = vec![Vec::new(); n_choices];
        Chunks {
            head,
            echo,
            include_usage: request.include_usage,
            n_choices,
            usages: vec![Usage::default(); n_choices],
            tokens,
        }
    }

    fn chunk(&self, index: usize, text: &str, finish_reason: Option<&str>) -> Value {
        let mut chunk = self.head.clone();
        chunk["choices"] = json!([{ "index": index, "text": text, "logprobs": null, "finish_reason": finish_reason }]);
        chunk
    }

    /// Takes the tokens of an answer that wait.
    fn logprobs(&mut self, choice: usize) -> Value {
        likely::of_completion(&std::mem::take(&mut self.tokens[choice]))
    }
}

impl Writer for Chunks {
    fn begin(&mut self, out: &mut Frames) {
        for index in (0..self.n_choices).filter(|_| !self.echo.is_empty()) {
            out.data(&self.chunk(index, &self.echo, None));
        }
    }

    fn said(&mut self, Heard { choice, said }: Heard, out: &mut Frames) {
        match said {
            Said::Begun | Said::Call(_) | Said::Arguments(..) | Said::Called(_) => {}
            Said::Prefill(prefill) => out.comment(&format!("prefill {} of {}", prefill.done, prefill.total)),
            Said::Tokens(tokens) => self.tokens[choice] = tokens,
            Said::Text(text) | Said::Thinking(text) => {
                let mut chunk = self.chunk(choice, &text, None);
                chunk["choices"][0]["logprobs"] = self.logprobs(choice);
                out.data(&chunk);
            }
            Said::End(finish) => {
                let mut chunk = self.chunk(choice, "", Some(finish_reason(&finish)));
                tell_detail(&mut chunk["choices"][0], &finish);
                chunk["timings"] = timings(&finish);
                chunk["choices"][0]["logprobs"] = self.logprobs(choice);
                self.usages[choice] = finish.usage;
                out.data(&chunk);
            }
            Said::Failed(refusal) => {
                out.data(&refusal.to_json(Dialect::OpenAi));
                out.word("[DONE]");
            }
        }
    }

    fn end(&mut self, out: &mut Frames) {
        if self.include_usage {
            let mut chunk = self.head.clone();
            chunk["choices"] = json!([]);
            chunk["usage"] = usage(&self.usages);
            out.data(&chunk);
        }
        out.word("[DONE]");
    }

    /// A chunk that says nothing: comments do not reset every client's patience.
    fn alive(&mut self, out: &mut Frames) {
        out.data(&self.chunk(0, "", None));
    }
}
