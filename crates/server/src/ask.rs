//! What is asked, whatever the dialect.

use engine::SamplerOptions;
use models::{ChatOptions, Message};
use tokenizer::TokenId;

/// A request for an answer, or several.
#[derive(Clone, Debug)]
pub(crate) struct Ask {
    pub(crate) prompt: Prompt,
    pub(crate) sampling: SamplerOptions,
    /// The most tokens; as many as there is room for if nobody says.
    pub(crate) n_max: Option<usize>,
    /// The most tokens of reasoning; as many as there are if nobody says.
    pub(crate) n_reasoning_max: Option<usize>,
    /// How many answers to the same prompt.
    pub(crate) n_choices: usize,
    /// Texts that end an answer.
    pub(crate) stop: Vec<String>,
    /// What an answer must look like.
    pub(crate) form: Option<Form>,
    /// Added to the logits of tokens.
    pub(crate) logit_bias: Vec<(TokenId, f32)>,
    /// Tell how likely each token was, and so many of the likeliest in its place.
    pub(crate) logprobs: Option<usize>,
}

impl Ask {
    /// For one answer, as long and in whatever form it comes.
    pub(crate) fn new(prompt: Prompt, sampling: SamplerOptions) -> Ask {
        Ask {
            prompt,
            sampling,
            n_max: None,
            n_reasoning_max: None,
            n_choices: 1,
            stop: Vec::new(),
            form: None,
            logit_bias: Vec::new(),
            logprobs: None,
        }
    }
}

/// What an answer must look like; its reasoning is free.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Form {
    pub(crate) rule: Rule,
    /// Where the request asks for it.
    pub(crate) field: String,
}

/// What an answer is held to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Any JSON object.
    JsonObject,
    /// JSON that is valid by this schema.
    JsonSchema(String),
    /// What this regular expression matches as a whole.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// A sentence of this grammar.
    Lark(String),
    /// A sentence of this grammar is all that the model generates, marks included: its reasoning, and calls in its own syntax.
    RawLark(String),
}

impl Rule {
    /// Whether it is about all that is generated.
    pub(crate) fn is_raw(&self) -> bool {
        matches!(self, Rule::RawLark(_))
    }

    /// How much text it is.
    pub(crate) fn n_bytes(&self) -> usize {
        match self {
            Rule::JsonObject => 0,
            Rule::JsonSchema(text) | Rule::Regex(text) | Rule::Lark(text) | Rule::RawLark(text) => text.len(),
            Rule::Choice(texts) => texts.iter().map(String::len).sum(),
        }
    }

    /// The schema, for models that are told of it.
    pub(crate) fn schema(&self) -> Option<String> {
        match self {
            Rule::JsonObject => Some(r#"{"type": "object"}"#.to_owned()),
            Rule::JsonSchema(schema) => Some(schema.clone()),
            Rule::Regex(_) | Rule::Choice(_) | Rule::Lark(_) | Rule::RawLark(_) => None,
        }
    }
}

/// What an answer follows.
#[derive(Clone, Debug)]
pub(crate) enum Prompt {
    Chat(Vec<Message>, ChatOptions),
    Text(String),
    Ids(Vec<TokenId>),
}

/// The most answers to one prompt.
pub(crate) const N_CHOICES_MAX: i64 = 16;
/// The most texts that end an answer, and their most bytes.
pub(crate) const N_STOP_MAX: usize = 64;
pub(crate) const STOP_BYTES_MAX: usize = 1024;
/// The most tokens that are told in place of one.
pub(crate) const N_TOP_MAX: i64 = 20;
/// The most tokens whose logits are changed.
pub(crate) const N_BIAS_MAX: usize = 4096;
