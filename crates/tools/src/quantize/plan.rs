//! What each tensor becomes, and how large the file will be: known before a weight is read.

use std::collections::HashMap;

use gguf::{Element, Layout, Value};
use quant::Format;

use super::{Error, Guide};
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
    /// Bytes in the file.
    pub n_bytes: u64,
}

impl Plan {
    /// Plans by a recipe; rows of a matrix hold no more than this many values.
    ///
    /// # Errors
    /// [`Error::Family`], [`Error::NoLayers`], [`Error::NoRule`], [`Error::NotWeights`], [`Error::Row`], [`Error::Importance`],
    /// [`Error::OtherModel`].
    pub fn new<S: Source>(source: &S, recipe: &Recipe, guide: Option<&Guide>) -> Result<Plan, Error> {
        let keys: HashMap<&str, &Value> = source.keys().iter().map(|(key, value)| (key.as_str(), value)).collect();
        let arch = match keys.get("general.architecture") {
            Some(Value::String(arch)) => arch.as_str(),
            _ => "",
        };
        if let Some(family) = recipe.family.as_deref().filter(|family| *family != arch) {
            return Err(Error::Family { found: arch.into(), expected: family.into() });
        }
        let traits = traits(source.weights(), arch, &keys, guide.is_some());
        if traits.n_layer == 0 && recipe.counts_layers() {
            return Err(Error::NoLayers { key: format!("{arch}.{BLOCK_COUNT}") });
        }
        let choices = source.weights().iter().map(|weights| choose(weights, recipe, &traits));
        let choices: Vec<_> = choices.collect::<Result<_, _>>()?;
        let keys = written_keys(source.keys(), recipe, guide);
        let tensors = source.weights().iter().zip(&choices).map(|(w, c)| (w.name.as_str(), w.shape.as_slice(), c.0));
        let layout = Layout::new(3, &keys, tensors);
        let targets =
            source.weights().iter().zip(choices).enumerate().map(|(i, (weights, (to, instead_of)))| Planned {
                name: weights.name.clone(),
                shape: weights.shape.clone(),
                from: weights.element,
                to,
                instead_of,
                n_bytes: layout.range(i).end - layout.range(i).start,
            });
        let targets: Vec<Planned> = targets.collect();
        guide.map_or(Ok(()), |guide| guide.check(source.weights(), &targets))?;
        Ok(Plan { targets, layout })
    }

    /// Length of the file.
    pub fn n_bytes(&self) -> u64 {
        self.layout.n_bytes()
    }
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

/// What a tensor becomes, and what was asked for if that is not possible.
fn choose(weights: &Weights, recipe: &Recipe, traits: &Traits) -> Result<(Element, Option<Format>), Error> {
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
        format = fallback(format).ok_or_else(|| Error::Row { tensor: weights.name.clone(), n: weights.n_cols() })?;
    }
    Ok((Element::Packed(format), (format != asked).then_some(asked)))
}

/// The version of ggml's block formats (`GGML_QNT_VERSION`).
const QUANTIZATION_VERSION: u32 = 2;

fn written_keys(keys: &[(String, Value)], recipe: &Recipe, guide: Option<&Guide>) -> Vec<(String, Value)> {
    let mut keys = keys.to_vec();
    keys.push(("general.quantization_version".into(), Value::U32(QUANTIZATION_VERSION)));
    keys.extend(recipe.file_type.map(|number| ("general.file_type".into(), Value::U32(number))));
    keys.extend(guide.map(Guide::keys).unwrap_or_default());
    keys
}
