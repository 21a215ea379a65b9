//! What each tensor becomes, and how large the file will be: known before a weight is read.

use std::collections::HashMap;

use gguf::{Element, Layout, Value};
use quant::Format;

use super::{Error, Guide, guide::Known, wants_importance};
use crate::{
    Source, Weights,
    recipe::{Recipe, Target, Traits, fallback},
};

/// A file that is to be written.
pub struct Plan {
    /// What becomes of each tensor of the source, in its order.
    pub targets: Vec<Planned>,
    pub(super) layout: Layout,
}

/// What becomes of a tensor.
#[derive(Clone, Debug)]
pub struct Planned {
    /// Its name.
    pub name: String,
    /// Its dimensions, outermost first.
    pub shape: Vec<usize>,
    /// What it is.
    pub from: Element,
    /// What it becomes.
    pub to: Element,
    /// What was asked for, where its rows are no whole blocks of that.
    pub instead_of: Option<Format>,
    /// Whether importance says what matters in all of it.
    pub guided: bool,
    /// Bytes in the file.
    pub n_bytes: u64,
}

impl Planned {
    /// Whether it becomes blocks of fewer bits, other than those it has.
    pub fn is_packed(&self) -> bool {
        self.to.has_blocks() && self.to != self.from
    }

    /// Whether it is packed so coarsely that importance is expected.
    pub fn wants_importance(&self) -> bool {
        self.is_packed() && matches!(self.to, Element::Packed(format) if wants_importance(format))
    }
}

impl Plan {
    /// Plans by a recipe; rows of a matrix hold no more than this many values.
    ///
    /// # Errors
    /// [`Error::NotAModel`], [`Error::Family`], [`Error::NoLayers`], [`Error::NoRule`], [`Error::NotWeights`], [`Error::Importance`],
    /// [`Error::OtherModel`].
    pub fn new<S: Source>(source: &S, recipe: &Recipe, guide: Option<&Guide>) -> Result<Plan, Error> {
        let keys: HashMap<&str, &Value> = source.keys().iter().map(|(key, value)| (key.as_str(), value)).collect();
        let arch = match keys.get("general.architecture") {
            Some(Value::String(arch)) => arch.as_str(),
            _ => "",
        };
        check_kind(source.weights(), keys.get("general.type").copied())?;
        if let Some(family) = recipe.family.as_deref().filter(|family| *family != arch) {
            return Err(Error::Family { found: arch.into(), expected: family.into() });
        }
        let traits = traits(source.weights(), arch, &keys, guide.is_some());
        if traits.n_layer == 0 && recipe.counts_layers() {
            return Err(Error::NoLayers { key: format!("{arch}.{BLOCK_COUNT}") });
        }
        let choices = source.weights().iter().map(|weights| choose(weights, recipe, &traits));
        let mut targets: Vec<Planned> = choices.collect::<Result<_, _>>()?;
        let is_guided = guide.map_or(Ok(false), |guide| ask(guide, source.weights(), &mut targets))?;
        let keys = written_keys(source.keys(), recipe, guide.filter(|_| is_guided), &targets);
        let tensors = targets.iter().map(|t| (t.name.as_str(), t.shape.as_slice(), t.to));
        let layout = Layout::new(3, &keys, tensors);
        let n_bytes = |i| layout.range(i).end - layout.range(i).start;
        targets.iter_mut().enumerate().for_each(|(i, target)| target.n_bytes = n_bytes(i));
        Ok(Plan { targets, layout })
    }

    /// Length of the file.
    pub fn n_bytes(&self) -> u64 {
        self.layout.n_bytes()
    }
}

/// Refuses what is no model.
fn check_kind(weights: &[Weights], kind: Option<&Value>) -> Result<(), Error> {
    let found = match kind {
        Some(Value::String(kind)) if kind == "imatrix" => "an importance matrix",
        _ if weights.is_empty() => "without tensors",
        _ => return Ok(()),
    };
    Err(Error::NotAModel { found })
}

const BLOCK_COUNT: &str = "block_count";

fn traits(weights: &[Weights], arch: &str, keys: &HashMap<&str, &Value>, guided: bool) -> Traits {
    let number = |key: &str| {
        let value = keys.get(format!("{arch}.{key}").as_str()).and_then(|value| value.integer());
        value.and_then(|n| usize::try_from(n).ok()).unwrap_or(0)
    };
    let (n_head, n_head_kv) = (number("attention.head_count"), number("attention.head_count_kv"));
    Traits {
        n_layer: number(BLOCK_COUNT),
        n_expert: number("expert_count"),
        tied: !weights.iter().any(|w| w.name == "output.weight"),
        grouped: n_head_kv > 0 && n_head / n_head_kv >= 4,
        guided,
    }
}

/// What a tensor becomes; how many bytes that are follows when all is known.
fn choose(weights: &Weights, recipe: &Recipe, traits: &Traits) -> Result<Planned, Error> {
    let (name, shape, from) = (weights.name.clone(), weights.shape.clone(), weights.element);
    let (to, instead_of) = target(weights, recipe, traits)?;
    Ok(Planned { name, shape, from, to, instead_of, guided: false, n_bytes: 0 })
}

/// The type that a tensor takes, and what was asked for if that is not possible.
fn target(weights: &Weights, recipe: &Recipe, traits: &Traits) -> Result<(Element, Option<Format>), Error> {
    let Some(rule) = recipe.rule(&weights.name, traits) else {
        return Err(Error::NoRule { tensor: weights.name.clone() });
    };
    let Target::Pack(wanted) = rule.target() else { return Ok((weights.element, None)) };
    if !matches!(weights.element, Element::Packed(_)) {
        return match rule.is_assigned() {
            true => Err(Error::NotWeights { tensor: weights.name.clone(), found: weights.element }),
            false => Ok((weights.element, None)),
        };
    }
    let asked = if weights.shape.len() == 1 && !rule.is_assigned() { Format::F32 } else { wanted };
    let mut format = asked;
    while format.row_bytes(weights.n_cols()).is_none() {
        format = fallback(format).expect("fallbacks end at F16, whose rows may have any length");
    }
    Ok((Element::Packed(format), (format != asked).then_some(asked)))
}

/// Asks a guide about the tensors that are packed, and whether there are such.
fn ask(guide: &Guide, weights: &[Weights], targets: &mut [Planned]) -> Result<bool, Error> {
    let (mut is_asked, mut knows) = (false, false);
    for (weights, target) in weights.iter().zip(targets).filter(|(_, target)| target.is_packed()) {
        let known = guide.knows(weights)?;
        target.guided = known == Known::All;
        is_asked = true;
        knows |= known != Known::Nothing;
    }
    if knows || !is_asked { Ok(is_asked) } else { Err(guide.other_model()) }
}

/// The version of ggml's block formats (`GGML_QNT_VERSION`).
const QUANTIZATION_VERSION: u32 = 2;

const VERSION_KEY: &str = "general.quantization_version";
const FILE_TYPE_KEY: &str = "general.file_type";

/// Beginnings of the keys that say how a file was quantised, and are wrong once a tensor has another type.
const OF_THE_TYPES: [&str; 3] = [FILE_TYPE_KEY, VERSION_KEY, "quantize."];

fn written_keys(
    keys: &[(String, Value)],
    recipe: &Recipe,
    guide: Option<&Guide>,
    targets: &[Planned],
) -> Vec<(String, Value)> {
    let mut keys = keys.to_vec();
    if targets.iter().any(|target| target.to != target.from) {
        keys.retain(|(key, _)| !OF_THE_TYPES.iter().any(|of| key.starts_with(of)));
    }
    if !keys.iter().any(|(key, _)| key == VERSION_KEY) {
        keys.push((VERSION_KEY.into(), Value::U32(QUANTIZATION_VERSION)));
    }
    if let Some(number) = recipe.file_type {
        keys.retain(|(key, _)| key != FILE_TYPE_KEY);
        keys.push((FILE_TYPE_KEY.into(), Value::U32(number)));
    }
    keys.extend(guide.map(Guide::keys).unwrap_or_default());
    keys
}
