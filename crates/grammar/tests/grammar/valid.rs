//! What comes out of a grammar is what was asked for, whatever the model would rather say.

use grammar::Source;
use proptest::prelude::*;
use serde_json::Value;

use crate::{SMOLLM2, babble};

const SCHEMAS: [&str; 24] = [
    r#"{"type": "object", "properties": {"name": {"type": "string"}, "age": {"type": "integer"}}, "required": ["name"]}"#,
    r#"{"type": "object", "properties": {"a": {"type": "number"}}, "required": ["a"], "additionalProperties": false}"#,
    r#"{"type": "array", "items": {"type": "integer", "minimum": -7, "maximum": 300}, "minItems": 1, "maxItems": 4}"#,
    r#"{"type": "array", "prefixItems": [{"type": "boolean"}, {"type": "null"}], "items": false, "minItems": 2}"#,
    r#"{"enum": ["red", "green", 3, null, {"a": [1, "x"]}]}"#,
    r#"{"const": {"deep": [true, "a\"b\\c", 1.5]}}"#,
    r#"{"type": "string", "minLength": 2, "maxLength": 9}"#,
    r#"{"type": "string", "pattern": "^[A-Z]{2}-[0-9]{3,5}$"}"#,
    r#"{"type": "string", "pattern": "x"}"#,
    r#"{"type": "string", "format": "date-time"}"#,
    r#"{"type": "string", "format": "uuid"}"#,
    r#"{"type": "number", "exclusiveMinimum": 0, "maximum": 1}"#,
    r#"{"type": "integer", "multipleOf": 5, "minimum": 10, "maximum": 1000}"#,
    r#"{"type": ["string", "null", "boolean"]}"#,
    r#"{"anyOf": [{"type": "object", "properties": {"k": {"const": "a"}, "n": {"type": "integer"}}, "required": ["k", "n"]},
        {"type": "array", "items": {"type": "string", "maxLength": 3}}]}"#,
    r#"{"oneOf": [{"type": "object", "properties": {"kind": {"const": "cat"}, "lives": {"type": "integer"}},
         "required": ["kind", "lives"]},
        {"type": "object", "properties": {"kind": {"const": "dog"}, "name": {"type": "string"}}, "required": ["kind"]}]}"#,
    r##"{"$defs": {"node": {"type": "object", "properties": {"v": {"type": "integer"},
         "next": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/node"}]}}, "required": ["v", "next"]}}, "$ref": "#/$defs/node"}"##,
    r#"{"type": "object", "patternProperties": {"^n_": {"type": "integer"}, "^s_": {"type": "string"}}, "additionalProperties": false}"#,
    r#"{"type": "object", "additionalProperties": {"type": "boolean"}, "minProperties": 1, "maxProperties": 2}"#,
    r#"{"allOf": [{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]},
        {"type": "object", "properties": {"b": {"type": "string"}}, "required": ["b"]}]}"#,
    r#"{"type": "object", "properties": {"not": {"type": "null"}, "if": {"enum": ["then", "else"]}, "a/b~c é \"": {"type": "integer"}},
        "required": ["not", "if", "a/b~c é \""]}"#,
    r#"{"type": "object", "properties": {"items": {"type": "array", "items": {"type": "object",
        "properties": {"x": {"type": "number", "minimum": 0}, "tags": {"type": "array", "items": {"enum": ["p", "q"]}}},
        "required": ["x", "tags"], "additionalProperties": false}, "maxItems": 3}}, "required": ["items"]}"#,
    r#"{}"#,
    r#"true"#,
];

fn validator(schema: &str) -> jsonschema::Validator {
    jsonschema::validator_for(&serde_json::from_str::<Value>(schema).unwrap()).unwrap()
}

#[test]
fn every_finished_answer_is_valid() {
    let n_seed = 12;
    for schema in SCHEMAS {
        let grammar = SMOLLM2.compile(Source::JsonSchema(schema));
        let validator = validator(schema);
        let answers: Vec<String> = (0..n_seed).filter_map(|seed| babble(&SMOLLM2, &grammar, seed, 400)).collect();
        // A list that may always go on does, by chance.
        assert!(answers.len() >= 3, "only {} of {n_seed} came to an end: {schema}", answers.len());
        for answer in answers {
            let value: Value = serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{schema}: {e}: {answer}"));
            assert!(validator.is_valid(&value), "{schema}: {answer}");
        }
    }
}

#[test]
fn any_json_object_is_an_object() {
    let grammar = SMOLLM2.compile(Source::JsonObject);
    for answer in (0..20).filter_map(|seed| babble(&SMOLLM2, &grammar, seed, 200)) {
        let value: Value = serde_json::from_str(&answer).unwrap_or_else(|e| panic!("{e}: {answer}"));
        assert!(value.is_object(), "{answer}");
    }
}

#[test]
fn regular_expressions_match_as_a_whole() {
    for pattern in [
        "a|bc",
        "[a-z]{3,8}@[a-z]{2,6}\\.(com|org)",
        "(yes|no)( and (yes|no)){0,3}",
        "\\d{4}-\\d{2}-\\d{2}",
        "日本[語人]?",
        "a/b\\n?c",
        "(?i)hello",
        "[^\"\\n]{1,12}",
        "",
    ] {
        let grammar = SMOLLM2.compile(Source::Regex(pattern));
        let whole = regex_automata::meta::Regex::new(&format!("^(?:{pattern})$")).unwrap();
        for seed in 0..12 {
            let answer = babble(&SMOLLM2, &grammar, seed, 200).unwrap_or_else(|| panic!("{pattern} did not end"));
            assert!(whole.is_match(&answer), "{pattern}: {answer:?}");
        }
    }
}

#[test]
fn sentences_of_a_lark_grammar() {
    let lark = r#"
        start: "call " NAME "(" args? ")"
        args: arg ("," arg)*
        arg: NUMBER | NAME
        NAME: /[a-z]{1,6}/
        NUMBER: /[0-9]{1,3}/
    "#;
    let grammar = SMOLLM2.compile(Source::Lark(lark));
    let whole =
        regex_automata::meta::Regex::new(r"^call [a-z]{1,6}\((([a-z]{1,6}|[0-9]{1,3})(,([a-z]{1,6}|[0-9]{1,3}))*)?\)$");
    let whole = whole.unwrap();
    for seed in 0..20 {
        let answer = babble(&SMOLLM2, &grammar, seed, 400).unwrap();
        assert!(whole.is_match(&answer), "{answer:?}");
    }
}

/// A schema of simple parts, some levels deep.
fn schema() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(serde_json::json!({"type": "null"})),
        Just(serde_json::json!({"type": "boolean"})),
        (-50..50_i64, 0..200_i64)
            .prop_map(|(min, more)| serde_json::json!({"type": "integer", "minimum": min, "maximum": min + more})),
        (0..4_u64, 0..6_u64)
            .prop_map(|(min, more)| serde_json::json!({"type": "string", "minLength": min, "maxLength": min + more})),
        prop::collection::vec("[a-z\"\\\\ é]{0,4}", 1..4).prop_map(|values| serde_json::json!({"enum": values})),
    ];
    leaf.prop_recursive(3, 12, 3, |inner| {
        let array = (inner.clone(), 0..3_u64, 0..3_u64).prop_map(|(items, min, more)| {
            serde_json::json!({"type": "array", "items": items, "minItems": min, "maxItems": min + more})
        });
        let properties = prop::collection::btree_map("[a-z/~\" ]{1,3}", (inner.clone(), any::<bool>()), 0..4);
        let object = properties.prop_map(|properties| {
            let required: Vec<&String> = properties.iter().filter(|(_, p)| p.1).map(|(name, _)| name).collect();
            let named: serde_json::Map<_, _> = properties.iter().map(|(n, p)| (n.clone(), p.0.clone())).collect();
            serde_json::json!({
                "type": "object", "properties": named, "required": required, "additionalProperties": false,
            })
        });
        let any_of = prop::collection::vec(inner, 1..3).prop_map(|any_of| serde_json::json!({"anyOf": any_of}));
        prop_oneof![array, object, any_of]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn answers_by_any_schema_are_valid(schema in schema(), seed: u64) {
        let text = schema.to_string();
        let grammar = SMOLLM2.compile(Source::JsonSchema(&text));
        if let Some(answer) = babble(&SMOLLM2, &grammar, seed, 300) {
            let value: Value = serde_json::from_str(&answer).unwrap();
            prop_assert!(validator(&text).is_valid(&value), "{}: {}", text, answer);
        }
    }
}
