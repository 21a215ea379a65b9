//! The form that an answer is asked to have, in the words of every dialect.

use serde_json::Value;

use crate::{
    ask::{Form, Rule},
    error::Refusal,
    fields::{Field, Fields, Kind, acts, nothing, only},
};

/// Fields that ask for any form, as vLLM has them, and as it had them before.
pub(crate) const FORMS: [Field; 6] = [
    acts(
        "structured_outputs",
        Kind::Object,
        "What the answer must look like, one of json (a schema), json_object, regex, choice and grammar (Lark).",
    ),
    acts("guided_json", Kind::Any, "The same, by its older name: a schema."),
    acts("guided_regex", Kind::Str, "The same: a regular expression that matches all of the answer."),
    acts("guided_choice", Kind::Array, "The same: texts, of which the answer is one."),
    acts("guided_grammar", Kind::Str, "The same: a grammar in Lark."),
    nothing("guided_decoding_backend", "there is one"),
];

const STRUCTURED: &[&[Field]] = &[&[
    acts("json", Kind::Any, "A schema: an object, or its text."),
    acts("json_object", Kind::Bool, "Any object."),
    acts("regex", Kind::Str, "A regular expression that matches all of the answer."),
    acts("choice", Kind::Array, "Texts, of which the answer is one."),
    acts("grammar", Kind::Str, "A grammar in Lark."),
    acts(
        "raw",
        Kind::Bool,
        "The grammar is of all that is generated: reasoning, the token that ends it, and calls as the model writes them.",
    ),
    only("structural_tag", "null", "give a grammar in Lark"),
    only("whitespace_pattern", "null", "between words of JSON there may be a space, or a newline and indentation"),
    only("disable_any_whitespace", "false", "between words of JSON there may be a space, or a newline and indentation"),
    only("disable_additional_properties", "false", "give the schema as it is meant"),
    nothing("disable_fallback", "there is one way only"),
]];

/// What the fields of [`FORMS`] ask for.
///
/// # Errors
/// It is no form, or there are several.
pub(crate) fn form(fields: &Fields<'_>) -> Result<Option<Form>, Refusal> {
    let older = [
        rule(fields, "guided_json", "json")?,
        rule(fields, "guided_regex", "regex")?,
        rule(fields, "guided_choice", "choice")?,
        rule(fields, "guided_grammar", "grammar")?,
    ];
    let structured = match fields.any("structured_outputs") {
        Some(value) => Some(structured(value, &fields.path("structured_outputs"))?),
        None => None,
    };
    older.into_iter().try_fold(structured, one)
}

/// A form whose type is beside its schema, as OpenAI's Responses and Anthropic's have it.
///
/// # Errors
/// It is none.
pub(crate) fn flat(value: &Value, path: &str) -> Result<Option<Form>, Refusal> {
    const FLAT: &[&[Field]] = &[&[
        acts("type", Kind::Word(&["text", "json_object", "json_schema"]), "Which form."),
        acts("schema", Kind::Any, "The schema."),
        nothing("name", "the schema says what it is"),
        nothing("description", "the schema says what it is"),
        nothing("strict", "schemas are always kept to"),
    ]];
    let fields = Fields::at(value, path, FLAT)?;
    let rule = match fields.needed("type")?.as_str() {
        Some("json_object") => Rule::JsonObject,
        Some("json_schema") => Rule::JsonSchema(fields.needed("schema")?.to_string()),
        _ => return Ok(None),
    };
    Ok(Some(Form { rule, field: path.to_owned() }))
}

fn structured(value: &Value, path: &str) -> Result<Form, Refusal> {
    let fields = Fields::at(value, path, STRUCTURED)?;
    let kinds = ["json", "json_object", "regex", "choice", "grammar"];
    let rules = kinds.map(|kind| rule(&fields, kind, kind));
    let mut rules = rules.into_iter().filter_map(Result::transpose).collect::<Result<Vec<_>, _>>()?;
    match (rules.pop(), rules.is_empty()) {
        (Some(form), true) if fields.flag("raw") == Some(true) => raw(form, &fields),
        (Some(form), true) => Ok(form),
        _ => Err(Refusal::field(path, &format!("must have exactly one of {}", kinds.join(", ")))),
    }
}

/// The form, of all that is generated.
fn raw(form: Form, fields: &Fields<'_>) -> Result<Form, Refusal> {
    match form.rule {
        Rule::Lark(grammar) => Ok(Form { rule: Rule::RawLark(grammar), ..form }),
        _ => Err(fields.refuse("raw", "is for a grammar: nothing else can name tokens")),
    }
}

/// The field `name` as a rule of this kind.
fn rule(fields: &Fields<'_>, name: &str, kind: &str) -> Result<Option<Form>, Refusal> {
    let text = || fields.str(name).expect("the table says so").to_owned();
    let rule = match (kind, fields.any(name)) {
        (_, None) | ("json_object", Some(Value::Bool(false))) => return Ok(None),
        ("json", Some(Value::String(schema))) => Rule::JsonSchema(schema.clone()),
        ("json", Some(schema)) => Rule::JsonSchema(schema.to_string()),
        ("regex", _) => Rule::Regex(text()),
        ("grammar", _) => Rule::Lark(text()),
        ("choice", _) => match fields.texts(name)? {
            choice if choice.is_empty() => return Err(fields.refuse(name, "is empty")),
            choice => Rule::Choice(choice),
        },
        _ => Rule::JsonObject,
    };
    Ok(Some(Form { rule, field: fields.path(name) }))
}

/// The one form that is asked for by two fields together.
///
/// # Errors
/// Both ask for one.
pub(crate) fn one(one: Option<Form>, other: Option<Form>) -> Result<Option<Form>, Refusal> {
    match (one, other) {
        (Some(one), Some(other)) => {
            Err(Refusal::field(&other.field, &format!("cannot be kept beside {}: an answer has one form", one.field)))
        }
        (one, other) => Ok(one.or(other)),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(request: Value) -> Result<Option<Rule>, String> {
        let fields = Fields::of(&request, &[&FORMS]).map_err(|refusal| refusal.message)?;
        Ok(form(&fields).map_err(|refusal| refusal.message)?.map(|form| form.rule))
    }

    #[test]
    fn every_way_to_ask_for_a_form_is_understood() {
        assert_eq!(read(json!({})), Ok(None));
        let schema = Rule::JsonSchema(r#"{"type":"object"}"#.into());
        for same in [
            json!({"structured_outputs": {"json": {"type": "object"}, "regex": null}}),
            json!({"structured_outputs": {"json": "{\"type\":\"object\"}"}}),
            json!({"guided_json": {"type": "object"}}),
        ] {
            assert_eq!(read(same), Ok(Some(schema.clone())));
        }
        assert_eq!(read(json!({"structured_outputs": {"json_object": true}})), Ok(Some(Rule::JsonObject)));
        let choice = Rule::Choice(vec!["a".into(), "b".into()]);
        assert_eq!(read(json!({"structured_outputs": {"choice": ["a", "b"]}})), Ok(Some(choice.clone())));
        assert_eq!(read(json!({"guided_choice": ["a", "b"]})), Ok(Some(choice)));
        assert_eq!(read(json!({"guided_regex": "a+"})), Ok(Some(Rule::Regex("a+".into()))));
        assert_eq!(read(json!({"guided_grammar": "start: \"a\""})), Ok(Some(Rule::Lark("start: \"a\"".into()))));
    }

    #[test]
    fn two_forms_are_none() {
        let several = "structured_outputs: must have exactly one of json, json_object, regex, choice, grammar";
        assert_eq!(read(json!({"structured_outputs": {}})), Err(several.into()));
        assert_eq!(read(json!({"structured_outputs": {"json_object": false}})), Err(several.into()));
        assert_eq!(read(json!({"structured_outputs": {"regex": "a", "choice": ["a"]}})), Err(several.into()));
        assert_eq!(
            read(json!({"structured_outputs": {"regex": "a"}, "guided_regex": "b"})),
            Err("guided_regex: cannot be kept beside structured_outputs.regex: an answer has one form".into())
        );
        assert_eq!(
            read(json!({"structured_outputs": {"regex": "a", "raw": true}})),
            Err("structured_outputs.raw: is for a grammar: nothing else can name tokens".into())
        );
        assert_eq!(read(json!({"guided_choice": []})), Err("guided_choice: is empty".into()));
        assert_eq!(
            read(json!({"structured_outputs": {"tag": "x"}})),
            Err("structured_outputs.tag: there is no such field".into())
        );
    }
}
