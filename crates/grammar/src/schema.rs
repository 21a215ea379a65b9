//! What a JSON schema may contain, looked at before anything is made of it.
//!
//! The walk knows where schemas are in a schema, so that a property that is called `not` is no keyword. What it lets pass
//! is compiled by the library, which refuses by its own words what is of the wrong type or cannot be satisfied.

use llguidance::JsonCompileOptions;
use serde_json::{Map, Value};

use crate::Error;

/// The longest schema: bounds what all else can be.
const BYTES_MAX: usize = 256 << 10;
/// How deep brackets may nest: the stack of what reads a schema.
const DEPTH_MAX: usize = 100;
/// Values of all `enum` together.
const ENUM_MAX: usize = 10_000;
/// Properties of one object: each of their orders is a rule, found by a search through those before.
const PROPERTIES_MAX: usize = 1_000;
/// Schemas in one `anyOf`, `oneOf`, `allOf`, `prefixItems`: each is compared with each.
const ALTERNATIVES_MAX: usize = 500;
/// Patterns of one `patternProperties`: whether two of them meet is found out for each pair.
const PATTERNS_MAX: usize = 20;
/// The longest regular expression.
pub(crate) const PATTERN_BYTES_MAX: usize = 4 << 10;
/// What `minItems`, `maxLength` and their like may be.
const LENGTH_MAX: u64 = 1_000_000;

/// Between two words of JSON. What llama.cpp's grammars for schemas allow, `SPACE_RULE` in `json-schema-to-grammar.cpp`,
/// with room for deeper indentation.
const SPACE: &str = r" |\n{1,2}[ \t]{0,60}";

/// Keywords that the drafts 4 to 2020-12 have for what no grammar here can hold an answer to.
const UNSUPPORTED: [&str; 19] = [
    "$dynamicRef",
    "$recursiveRef",
    "contains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "disallow",
    "divisibleBy",
    "else",
    "extends",
    "if",
    "maxContains",
    "minContains",
    "not",
    "propertyNames",
    "then",
    "unevaluatedItems",
    "unevaluatedProperties",
    "uniqueItems",
];

/// The schema in `text`, within the limits, with this crate's rules for white space.
///
/// # Errors
/// The limit that is passed, or the keyword that is not supported.
pub(crate) fn read(text: &str) -> Result<Value, Error> {
    limit("bytes of the schema", text.len(), BYTES_MAX)?;
    limit("nesting of the schema", nesting(text), DEPTH_MAX)?;
    let mut schema = match serde_json::from_str(text).map_err(|e| Error::Json(e.to_string()))? {
        Value::Bool(true) => Value::Object(Map::new()),
        schema @ Value::Object(_) => schema,
        _ => return Err(Error::Json("it is no object".into())),
    };
    Walk { at: String::new(), n_enum: 0 }.schema(&schema)?;
    let options = JsonCompileOptions { whitespace_pattern: Some(SPACE.into()), ..JsonCompileOptions::default() };
    // Also takes the place of options that a stranger wrote there.
    options.apply_to(&mut schema);
    Ok(schema)
}

/// # Errors
/// [`Error::Limit`] if `found` is more than `max`.
pub(crate) fn limit(what: impl Into<String>, found: usize, max: usize) -> Result<(), Error> {
    match found > max {
        true => Err(Error::Limit { what: what.into(), found: found as u64, max: max as u64 }),
        false => Ok(()),
    }
}

/// How deep brackets nest outside of strings.
fn nesting(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_string, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

struct Walk {
    /// A JSON pointer to the schema that is looked at.
    at: String,
    n_enum: usize,
}

impl Walk {
    fn schema(&mut self, schema: &Value) -> Result<(), Error> {
        let Value::Object(keywords) = schema else { return Ok(()) };
        keywords.iter().try_for_each(|(keyword, value)| self.keyword(keyword, value))
    }

    fn keyword(&mut self, keyword: &str, value: &Value) -> Result<(), Error> {
        match (keyword, value) {
            ("properties" | "patternProperties" | "$defs" | "definitions", Value::Object(named)) => {
                self.named(keyword, named)
            }
            ("allOf" | "anyOf" | "oneOf" | "prefixItems" | "items", Value::Array(list)) => {
                limit(self.what(keyword), list.len(), ALTERNATIVES_MAX)?;
                (0..).zip(list).try_for_each(|(i, schema)| self.below(&format!("{keyword}/{i}"), schema))
            }
            ("items" | "additionalItems" | "additionalProperties", schema) => self.below(keyword, schema),
            ("enum", Value::Array(values)) => {
                self.n_enum += values.len();
                limit("values of `enum`", self.n_enum, ENUM_MAX)
            }
            ("pattern", Value::String(pattern)) => self.pattern(keyword, pattern),
            ("$ref", Value::String(to)) if !to.starts_with('#') => Err(Error::Reference(to.clone())),
            ("maxItems" | "maxLength" | "maxProperties" | "minItems" | "minLength" | "minProperties", value) => {
                // What is no such number is refused by the library.
                let found = value.as_u64().unwrap_or(0);
                match found > LENGTH_MAX {
                    true => Err(Error::Limit { what: self.what(keyword), found, max: LENGTH_MAX }),
                    false => Ok(()),
                }
            }
            _ if UNSUPPORTED.contains(&keyword) => {
                Err(Error::Unsupported { keyword: keyword.into(), at: self.place(), why: "" })
            }
            _ => Ok(()),
        }
    }

    fn named(&mut self, keyword: &str, named: &Map<String, Value>) -> Result<(), Error> {
        match keyword {
            "properties" => limit(self.what(keyword), named.len(), PROPERTIES_MAX)?,
            "patternProperties" => {
                limit(self.what(keyword), named.len(), PATTERNS_MAX)?;
                named.keys().try_for_each(|pattern| self.pattern(keyword, pattern))?;
            }
            _ => {}
        }
        named.iter().try_for_each(|(name, schema)| self.below(&format!("{keyword}/{}", escaped(name)), schema))
    }

    fn pattern(&self, keyword: &str, pattern: &str) -> Result<(), Error> {
        limit(format!("bytes of {}", self.what(keyword)), pattern.len(), PATTERN_BYTES_MAX)
    }

    fn below(&mut self, step: &str, schema: &Value) -> Result<(), Error> {
        let len = self.at.len();
        self.at.push('/');
        self.at.push_str(step);
        self.schema(schema)?;
        self.at.truncate(len);
        Ok(())
    }

    fn what(&self, keyword: &str) -> String {
        format!("`{keyword}` at `{}`", self.place())
    }

    fn place(&self) -> String {
        format!("#{}", shorten(&self.at))
    }
}

/// A name as a step of a JSON pointer (RFC 6901, section 3).
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// The longest place that is told: names in a schema have no bound of their own.
const PLACE_CHARS: usize = 200;

fn shorten(place: &str) -> &str {
    place.char_indices().nth(PLACE_CHARS).map_or(place, |(end, _)| &place[..end])
}
