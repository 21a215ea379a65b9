//! The list of families, and what a model is to those above: weights that make states, and states that run tokens.

use std::ops::Range;

use compute::{Device, DeviceError, Step, Tensor};
use experts::{Places, Routing, trace::Head};
use gguf::Gguf;
use quant::RowFormat;

use tokenizer::{TokenType, Tokenizer};

use crate::{
    Chat, ChatError, Cost, Error, Template,
    deepseek_v4::{self, DeepSeekV4, Release},
    llama,
    memory::CachePart,
};

/// What opens a file of a family.
type Open = fn(&Gguf, &dyn Device, Residency) -> Result<Box<dyn Model>, Error>;
/// What makes a family's chat encoding, from the model's name and its vocabulary.
type OpenChat = fn(&str, &Tokenizer) -> Result<Box<dyn Chat>, ChatError>;

/// A line of the list of families.
pub struct Family {
    /// `general.architecture` of its files.
    pub arch: &'static str,
    open: Open,
    chat: OpenChat,
}

/// Every family.
pub static FAMILIES: &[Family] = &[
    Family { arch: "deepseek4", open: deepseek_v4::open, chat: deepseek_chat },
    Family { arch: "llama", open: llama::open_llama, chat: template_chat },
    Family { arch: "qwen2", open: llama::open_qwen2, chat: template_chat },
];

/// What of a model is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Residency {
    /// All of it: weights are read where the file is mapped.
    All,
    /// Everything but the experts, which a store reads when they are chosen.
    WithoutExperts,
}

/// Binds the weights of a file to a device.
///
/// # Errors
/// What is wrong with the file, or that the device cannot hold it.
pub fn open(gguf: &Gguf, dev: &dyn Device, residency: Residency) -> Result<Box<dyn Model>, Error> {
    let arch = gguf.metadata().str("general.architecture")?;
    match FAMILIES.iter().find(|f| f.arch == arch) {
        Some(family) => (family.open)(gguf, dev, residency),
        None => Err(Error::UnknownFamily {
            path: gguf.path().to_path_buf(),
            found: arch.chars().take(40).collect(),
            known: FAMILIES.iter().map(|f| f.arch).collect::<Vec<_>>().join(", "),
        }),
    }
}

/// How the model of a file that [`open`] accepts writes conversations.
///
/// # Errors
/// When the file has no template and the family no encoding of its own, or the template is not accepted.
pub fn open_chat(gguf: &Gguf, tokenizer: &Tokenizer) -> Result<Box<dyn Chat>, ChatError> {
    let word = |key: &str| gguf.metadata().str_opt(key).ok().flatten().unwrap_or_default().to_string();
    let arch = word("general.architecture");
    let family = FAMILIES.iter().find(|f| f.arch == arch).ok_or(ChatError::NoTemplate)?;
    (family.chat)(&word("general.name"), tokenizer)
}

fn deepseek_chat(name: &str, tokenizer: &Tokenizer) -> Result<Box<dyn Chat>, ChatError> {
    Ok(Box::new(DeepSeekV4 { release: Release::of(name, tokenizer.chat_template()) }))
}

fn template_chat(_: &str, tokenizer: &Tokenizer) -> Result<Box<dyn Chat>, ChatError> {
    let source = tokenizer.chat_template().ok_or(ChatError::NoTemplate)?;
    let text = |id: Option<u32>| id.map(|id| tokenizer.text_of(id).into_owned()).unwrap_or_default();
    let ids = tokenizer.special_ids();
    let is_marker = |id: &u32| {
        matches!(tokenizer.type_of(*id), Some(TokenType::Control | TokenType::UserDefined | TokenType::Unknown))
    };
    let markers = (0..tokenizer.n_vocab() as u32).filter(is_marker).map(|id| tokenizer.text_of(id).into_owned());
    Ok(Box::new(Template::new(source, &text(ids.bos), &text(ids.eos), markers)?))
}

/// The sizes that those above a model need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Layers.
    pub n_layer: usize,
    /// Width of the hidden state.
    pub n_embd: usize,
    /// Words of the vocabulary, padding included: the length of a row of logits.
    pub n_vocab: usize,
    /// The longest context that the model was trained for.
    pub n_ctx_train: usize,
    /// Weights, all experts counted.
    pub n_params: u64,
    /// Bytes of the weights that stay in memory.
    pub weights_bytes: u64,
}

/// How cached rows are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KvType {
    /// Singles: for comparisons.
    F32,
    /// Halves.
    F16,
    /// As the model's authors keep them. DeepSeek V4: FP8, and FP4 with rotation for the indexer; others: halves.
    Native,
}

impl KvType {
    /// Every type with the name that the command line and messages use.
    pub const ALL: [(&'static str, KvType); 3] =
        [("f32", KvType::F32), ("f16", KvType::F16), ("native", KvType::Native)];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, t)| *t == self).expect("ALL lists every type").0
    }

    /// The type called `name`.
    pub fn from_name(name: &str) -> Option<KvType> {
        Self::ALL.iter().find(|(n, _)| *n == name).map(|(_, t)| *t)
    }

    /// The plain format, with halves for the native type.
    pub(crate) fn row_format(self) -> RowFormat {
        match self {
            KvType::F32 => RowFormat::F32,
            KvType::F16 | KvType::Native => RowFormat::F16,
        }
    }
}

/// What a state has room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StateOptions {
    /// Positions per slot.
    pub n_ctx: usize,
    /// Sequences side by side.
    pub n_slot: usize,
    /// Rows of the largest batch.
    pub n_batch: usize,
    /// How cached rows are kept.
    pub kv: KvType,
}

/// Rows of logits that [`State::logits`] computes at a time.
pub const N_LOGITS_MAX: usize = 16;

/// The weights of a model, bound to a device.
pub trait Model: Send + Sync {
    /// Its sizes.
    fn shape(&self) -> Shape;

    /// Where its experts are, if it was opened without them.
    fn places(&self) -> Option<&Places> {
        None
    }

    /// How many experts it has, and how many a row chooses, if it chooses.
    fn routes(&self) -> Option<Head> {
        None
    }

    /// What the token at position `pos` costs.
    fn cost(&self, pos: usize, kv: KvType) -> Cost;

    /// Caches and buffers: all memory that running the model takes, on `dev` or on a device that only counts. A model
    /// without its experts runs with a routing whose store has them.
    ///
    /// # Errors
    /// When the device has no memory left.
    fn state(&self, dev: &dyn Device, options: &StateOptions, routing: &Routing)
    -> Result<Box<dyn State>, DeviceError>;
}

/// A model with the memory to run on.
pub trait State: Send + Sync {
    /// Runs the rows of `step` through `layers`. Layer 0 starts from the tokens' embeddings; a later first layer goes on
    /// with what the call before left.
    ///
    /// # Errors
    /// [`Error::Experts`]; the rows of this step are then worth nothing, and earlier ones are there as far as
    /// [`Self::n_rewind`] says of a state that had computed them.
    fn forward(&self, dev: &dyn Device, step: &Step, layers: Range<usize>) -> Result<(), Error>;

    /// The logits of some rows of the batch that went through the last layer, `[rows, n_vocab]`; at most
    /// [`N_LOGITS_MAX`] at a time.
    fn logits(&self, dev: &dyn Device, rows: Range<usize>) -> Tensor;

    /// How many of the last `n` positions can be dropped, so that others follow in their place.
    fn n_rewind(&self, n: usize) -> usize;

    /// What the tokens at positions `tokens` of a slot left in caches that only grow, part by part; a row that stands for
    /// several tokens belongs to the last of them.
    fn rows(&self, slot: usize, tokens: Range<usize>) -> Vec<CachePart>;

    /// What is needed beside all rows to go on after `n` tokens of a slot, which has computed these and no more than
    /// [`Self::n_rewind`] allows. Where that is put back, none of the `n` can be dropped.
    fn frontier(&self, slot: usize, n: usize) -> Vec<CachePart>;
}
