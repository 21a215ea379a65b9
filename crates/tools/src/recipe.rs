//! Which tensor becomes what: recipes are files, one each, and whoever asks may go before them, tensor by tensor.
//!
//! ```text
//! # remark
//! about      4 bits, and 6 for what errors hurt most      one line for people
//! family     deepseek4                                    the only `general.architecture` that it fits
//! file_type  15                                           `general.file_type` of the result
//!
//! blk.*.attn_v.weight   Q6_K  if favoured                 a pattern, a type, conditions that must all hold
//! like                  q4_k_m                            the rules of another recipe
//! *                     copy                              as it is in the source
//! ```
//!
//! The first rule that fits a tensor decides. In patterns `*` is any text. Vectors (norms, biases) become F32 and tables
//! of whole numbers stay what they are, whatever a recipe's rules say. A type whose blocks do not divide a tensor's rows
//! gives way to one that does, as in llama.cpp.
//!
//! | condition | holds |
//! |---|---|
//! | `layers A-B` | in these layers |
//! | `favoured` | in the first and the last eighth of the layers, and every third between: `use_more_bits` in llama.cpp |
//! | `first-eighth` | in the first eighth of the layers |
//! | `depth N` | where there are so many layers |
//! | `experts N` | where a layer has so many experts |
//! | `tied` | where there is no `output.weight` |
//! | `grouped` | where at least four query heads share a key head |
//! | `unguided` | where no importance is given |

use std::ops::RangeInclusive;

use quant::{FORMATS, Format};

/// What some editors put before a text.
const BYTE_ORDER_MARK: char = '\u{feff}';

/// A parsed recipe.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Recipe {
    /// One line for people.
    pub about: String,
    /// The family that it is for, if it is for one only.
    pub family: Option<String>,
    /// `general.file_type` of what it makes.
    pub file_type: Option<u32>,
    rules: Vec<Rule>,
}

/// What is done with tensors of a name.
#[derive(Clone, Debug, PartialEq)]
pub struct Rule {
    pattern: String,
    target: Target,
    conditions: Vec<Condition>,
    /// Whether it was asked for beside the recipe.
    assigned: bool,
}

/// What a tensor becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// What it is.
    Copy,
    /// This.
    Pack(Format),
}

#[derive(Clone, Debug, PartialEq)]
enum Condition {
    Layers(RangeInclusive<usize>),
    Favoured,
    FirstEighth,
    Depth(usize),
    Experts(usize),
    Tied,
    Grouped,
    Unguided,
}

/// What conditions ask about a model.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traits {
    /// Layers.
    pub n_layer: usize,
    /// Experts of a layer; 0 where there are none.
    pub n_expert: usize,
    /// Whether the embeddings are also the output.
    pub tied: bool,
    /// Whether at least four query heads share a key head.
    pub grouped: bool,
    /// Whether importance is given.
    pub guided: bool,
}

/// What is wrong with a recipe, or a rule.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}{what}", line.map(|n| format!("line {n}: ")).unwrap_or_default())]
pub struct RecipeError {
    /// The line, of a file.
    pub line: Option<usize>,
    /// What it is, and what is allowed.
    pub what: String,
}

macro_rules! built_in {
    ($($name:literal)*) => {
        /// The recipes that come along: name and text.
        pub const RECIPES: &[(&str, &str)] = &[$(($name, include_str!(concat!("../recipes/", $name, ".recipe"))),)*];
    };
}

built_in!("q2" "q2-q4" "q4" "mxfp4" "pro-q2" "pro-q4" "v4" "q4_k_m" "q5_k_m" "q6_k" "q8_0" "iq4_xs" "f16" "copy");

impl Recipe {
    /// The recipe of this name that comes along.
    pub fn named(name: &str) -> Option<Recipe> {
        let (_, text) = RECIPES.iter().find(|(known, _)| *known == name)?;
        Some(Recipe::parse(text).expect("recipes that come along are sound"))
    }

    /// Reads a recipe. `like` means those that come along.
    ///
    /// # Errors
    /// The first line that is no rule.
    pub fn parse(text: &str) -> Result<Recipe, RecipeError> {
        let mut recipe = Recipe::default();
        for (line, text) in (1..).zip(text.trim_start_matches(BYTE_ORDER_MARK).lines()) {
            let text = text.split('#').next().unwrap_or_default().trim();
            if !text.is_empty() {
                recipe.add(text).map_err(|what| RecipeError { line: Some(line), what })?;
            }
        }
        match recipe.rules.is_empty() {
            true => Err(RecipeError { line: None, what: "there is no rule in it".into() }),
            false => Ok(recipe),
        }
    }

    fn add(&mut self, line: &str) -> Result<(), String> {
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let rest = rest.trim();
        match word {
            _ if rest.is_empty() => return Err(format!("`{word}` stands alone; wanted: a pattern and a type")),
            "about" => self.about = rest.into(),
            "family" => self.family = Some(rest.into()),
            "file_type" => self.file_type = Some(rest.parse().map_err(|_| format!("`{rest}` is no number"))?),
            "like" => {
                let other = Recipe::named(rest).ok_or_else(|| format!("no recipe `{rest}`; there are {}", names()))?;
                self.rules.extend(other.rules);
            }
            _ => self.rules.push(Rule::parse(word, rest)?),
        }
        Ok(())
    }

    /// Puts a rule before all others.
    pub fn prefer(&mut self, rule: Rule) {
        self.rules.insert(0, rule);
    }

    /// Whether it depends on how many layers there are.
    pub(crate) fn counts_layers(&self) -> bool {
        let counts = |c: &Condition| matches!(c, Condition::Favoured | Condition::FirstEighth | Condition::Depth(_));
        self.rules.iter().any(|rule| rule.conditions.iter().any(counts))
    }

    /// The rule for a tensor; `None` where none fits.
    pub fn rule(&self, tensor: &str, traits: &Traits) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.fits(tensor, traits))
    }
}

/// The names of the recipes that come along.
pub fn names() -> String {
    RECIPES.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(", ")
}

impl Rule {
    /// The rule `PATTERN=TYPE`.
    ///
    /// # Errors
    /// What is no such rule.
    pub fn assigned(text: &str) -> Result<Rule, RecipeError> {
        let parsed = match text.split_once('=') {
            Some((pattern, target)) if !pattern.is_empty() => {
                Rule::parse(pattern, target).map(|rule| Rule { assigned: true, ..rule })
            }
            _ => Err(format!("`{text}` is not PATTERN=TYPE")),
        };
        parsed.map_err(|what| RecipeError { line: None, what })
    }

    fn parse(pattern: &str, rest: &str) -> Result<Rule, String> {
        let mut words = rest.split_whitespace();
        let target = target(words.next().unwrap_or_default())?;
        let conditions = match words.next() {
            None => Vec::new(),
            Some("if") => conditions(&mut words)?,
            Some(word) => return Err(format!("`{word}` after the type; wanted: nothing, or `if` and conditions")),
        };
        Ok(Rule { pattern: pattern.into(), target, conditions, assigned: false })
    }

    /// What it makes of a tensor.
    pub fn target(&self) -> Target {
        self.target
    }

    /// Whether it was asked for beside the recipe, and then is meant for vectors too.
    pub fn is_assigned(&self) -> bool {
        self.assigned
    }

    /// Which tensors it is about, by their names.
    pub fn pattern(&self) -> &str {
        &self.pattern
    }

    /// Whether it is about tensors of this name.
    pub fn is_about(&self, tensor: &str) -> bool {
        matches(&self.pattern, tensor)
    }

    fn fits(&self, tensor: &str, traits: &Traits) -> bool {
        self.is_about(tensor) && self.conditions.iter().all(|c| c.holds(layer(tensor), traits))
    }
}

fn target(name: &str) -> Result<Target, String> {
    if name.eq_ignore_ascii_case("copy") {
        return Ok(Target::Copy);
    }
    let format = FORMATS.iter().find(|f| f.name().eq_ignore_ascii_case(name) && f.encoder().is_some());
    format.copied().map(Target::Pack).ok_or_else(|| {
        let known = FORMATS.iter().filter(|f| f.encoder().is_some()).map(|f| f.name()).collect::<Vec<_>>().join(", ");
        format!("`{name}` is no type that can be made; there are copy, {known}")
    })
}

fn conditions<'a>(words: &mut impl Iterator<Item = &'a str>) -> Result<Vec<Condition>, String> {
    let mut all = Vec::new();
    while let Some(word) = words.next() {
        all.push(match word {
            "layers" => Condition::Layers(layers(words.next().unwrap_or_default())?),
            "favoured" => Condition::Favoured,
            "first-eighth" => Condition::FirstEighth,
            "depth" => Condition::Depth(number(words.next().unwrap_or_default())?),
            "experts" => Condition::Experts(number(words.next().unwrap_or_default())?),
            "tied" => Condition::Tied,
            "grouped" => Condition::Grouped,
            "unguided" => Condition::Unguided,
            _ => {
                let known = "layers A-B, favoured, first-eighth, depth N, experts N, tied, grouped, unguided";
                return Err(format!("`{word}` is no condition; there are {known}"));
            }
        });
    }
    match all.is_empty() {
        true => Err("no condition after `if`".into()),
        false => Ok(all),
    }
}

fn layers(text: &str) -> Result<RangeInclusive<usize>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if first <= last => Ok(first..=last),
        _ => Err(format!("`{text}` are no layers; wanted: A-B")),
    }
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|_| format!("`{text}` is no number"))
}

impl Condition {
    fn holds(&self, layer: Option<usize>, traits: &Traits) -> bool {
        let n = traits.n_layer;
        match self {
            Condition::Layers(range) => layer.is_some_and(|i| range.contains(&i)),
            Condition::Favoured => layer.is_some_and(|i| i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2),
            Condition::FirstEighth => layer.is_some_and(|i| i < n / 8),
            Condition::Depth(depth) => n == *depth,
            Condition::Experts(n_expert) => traits.n_expert == *n_expert,
            Condition::Tied => traits.tied,
            Condition::Grouped => traits.grouped,
            Condition::Unguided => !traits.guided,
        }
    }
}

/// The layer that a tensor belongs to.
fn layer(tensor: &str) -> Option<usize> {
    tensor.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// Whether `text` fits `pattern`, in which `*` is any text.
fn matches(pattern: &str, text: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.ends_with(last)
}

/// What takes the place of a format whose blocks do not divide rows (`tensor_type_fallback` in llama.cpp's
/// `llama-quant.cpp`); `None` where every row is whole blocks.
pub(crate) fn fallback(format: Format) -> Option<Format> {
    use Format::{F16, IQ4_NL, Q4_0, Q5_0, Q5_1, Q8_0};
    match format.name() {
        "Q2_K" | "Q3_K" | "TQ1_0" | "TQ2_0" => Some(Q4_0),
        "Q4_K" => Some(Q5_0),
        "Q5_K" => Some(Q5_1),
        "Q6_K" => Some(Q8_0),
        _ if format.block_len() == 256 => Some(IQ4_NL),
        _ if format.block_len() == 32 => Some(F16),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Traits = Traits { n_layer: 32, n_expert: 0, tied: true, grouped: true, guided: false };

    fn made(recipe: &str, tensor: &str, traits: &Traits) -> String {
        let recipe = Recipe::named(recipe).unwrap_or_else(|| panic!("no recipe {recipe}"));
        match recipe.rule(tensor, traits).map(Rule::target) {
            Some(Target::Pack(format)) => format.name().into(),
            Some(Target::Copy) => "copy".into(),
            None => "nothing".into(),
        }
    }

    #[test]
    fn the_first_rule_that_fits_decides() {
        let v4 = Traits { n_layer: 43, ..Traits::default() };
        assert_eq!(made("q2-q4", "blk.36.ffn_down_exps.weight", &v4), "Q2_K");
        assert_eq!(made("q2-q4", "blk.37.ffn_down_exps.weight", &v4), "Q4_K");
        assert_eq!(made("q2-q4", "blk.42.ffn_gate_exps.weight", &v4), "Q4_K");
        assert_eq!(made("q2-q4", "blk.42.attn_q_a.weight", &v4), "Q8_0");
        assert_eq!(made("mxfp4", "blk.0.ffn_up_exps.weight", &v4), "MXFP4");
        assert_eq!(made("pro-q2", "blk.60.indexer_compressor_ape.weight", &v4), "F16");
    }

    #[test]
    fn llama_cpp_favours_these_layers() {
        let favoured = (0..32).filter(|i| made("q4_k_m", &format!("blk.{i}.attn_v.weight"), &ALL) == "Q6_K");
        assert_eq!(favoured.collect::<Vec<_>>(), [0, 1, 2, 3, 6, 9, 12, 15, 18, 21, 24, 27, 28, 29, 30, 31]);
        assert_eq!(made("q4_k_m", "token_embd.weight", &ALL), "Q6_K");
        assert_eq!(made("q4_k_m", "token_embd.weight", &Traits { tied: false, ..ALL }), "Q4_K");
        assert_eq!(made("iq4_xs", "blk.3.ffn_down.weight", &ALL), "Q5_K");
        assert_eq!(made("iq4_xs", "blk.3.ffn_down.weight", &Traits { guided: true, ..ALL }), "IQ4_XS");
    }

    #[test]
    fn llama_cpp_makes_exceptions_of_these_models() {
        let types = |recipe, traits: Traits| {
            ["attn_v", "attn_k", "attn_output"].map(|part| made(recipe, &format!("blk.10.{part}.weight"), &traits))
        };
        let (mixtral, deep) = (Traits { n_expert: 8, ..ALL }, Traits { n_layer: 80, ..ALL });
        assert_eq!(types("q4_k_m", ALL), ["Q4_K", "Q4_K", "Q4_K"]);
        assert_eq!(types("q4_k_m", mixtral), ["Q8_0", "Q8_0", "Q5_K"]);
        assert_eq!(types("q5_k_m", mixtral), ["Q8_0", "Q8_0", "Q5_K"]);
        assert_eq!(types("iq4_xs", mixtral), ["Q8_0", "Q8_0", "Q5_K"]);
        assert_eq!(types("iq4_xs", Traits { n_expert: 128, ..ALL }), ["Q5_K", "IQ4_XS", "IQ4_XS"]);
        assert_eq!(types("q4_k_m", deep), ["Q5_K", "Q4_K", "Q4_K"]);
        assert_eq!(types("q4_k_m", Traits { grouped: false, ..deep }), ["Q4_K", "Q4_K", "Q4_K"]);
        assert_eq!(made("q4_k_m", "blk.1.attn_v.weight", &deep), "Q6_K");
    }

    #[test]
    fn who_asks_by_name_goes_first() {
        let mut recipe = Recipe::named("q8_0").unwrap_or_default();
        recipe.prefer(Rule::assigned("blk.*.attn_v.weight=q4_k").unwrap_or_else(|e| panic!("{e}")));
        let target = |name| recipe.rule(name, &ALL).map(Rule::target);
        assert_eq!(target("blk.7.attn_v.weight"), Some(Target::Pack(Format::Q4_K)));
        assert_eq!(target("blk.7.attn_k.weight"), Some(Target::Pack(Format::Q8_0)));
    }

    #[test]
    fn stars_are_any_text() {
        for (pattern, text, fits) in [
            ("*", "", true),
            ("*", "x", true),
            ("a*c", "abc", true),
            ("a*c", "ac", true),
            ("a*c", "acb", false),
            ("a*b*c", "a_b_b_c", true),
            ("a*a", "a", false),
            ("abc", "abc", true),
            ("abc", "abcd", false),
            ("*bc", "abcbc", true),
        ] {
            assert_eq!(matches(pattern, text), fits, "{pattern} {text}");
        }
    }

    #[test]
    fn what_is_no_rule_is_told_with_its_line() {
        for (text, line, words) in [
            ("", None, "no rule"),
            ("\n\n* Q9_K", Some(3), "Q9_K"),
            ("* Q4_K when tied", Some(1), "`when`"),
            ("* Q4_K if", Some(1), "no condition"),
            ("* Q4_K if sunny", Some(1), "sunny"),
            ("* Q4_K if layers 3-1", Some(1), "3-1"),
            ("* Q4_K if experts", Some(1), "`` is no number"),
            ("like tea", Some(1), "no recipe `tea`"),
            ("file_type many", Some(1), "many"),
            ("# remark\nblk.*", Some(2), "stands alone"),
        ] {
            let error = Recipe::parse(text).err().unwrap_or_else(|| panic!("{text}"));
            assert!(error.line == line && error.what.contains(words), "{text}: {error}");
        }
        for text in ["Q4_K", "=Q4_K", "x=", "x=Q"] {
            assert!(Rule::assigned(text).is_err(), "{text}");
        }
    }

    #[test]
    fn all_that_come_along_parse() {
        for (name, _) in RECIPES {
            let recipe = Recipe::named(name).unwrap_or_else(|| panic!("{name}"));
            assert!(!recipe.about.is_empty() && recipe.rule("output.weight", &ALL).is_some(), "{name}");
        }
    }

    #[test]
    fn fallbacks_end_at_whole_rows() {
        for &format in FORMATS {
            let mut last = format;
            while let Some(next) = fallback(last) {
                assert!(next.block_len() < last.block_len() && next.encoder().is_some(), "{last:?} {next:?}");
                last = next;
            }
            assert_eq!(last.block_len(), 1);
        }
    }
}
