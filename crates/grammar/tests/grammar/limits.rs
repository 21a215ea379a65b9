//! What is refused, in which words, and that it takes no time.

use std::time::Instant;

use grammar::{COMPILE_SECONDS, Error, Source, TURN_SECONDS};

use crate::{SMOLLM2, Words};

fn refused(source: Source<'_>) -> Error {
    let error = SMOLLM2.vocabulary.compile(source).err();
    let text = format!("{source:?}");
    error.unwrap_or_else(|| panic!("accepted: {}", text.chars().take(200).collect::<String>()))
}

fn check(source: Source<'_>, message: &str) {
    let error = refused(source).to_string();
    assert!(error.contains(message), "{error:?} is not {message:?}");
    assert!(error.lines().count() == 1 && error.chars().count() < 500, "{error:?}");
}

fn schema(text: &str, message: &str) {
    check(Source::JsonSchema(text), message);
}

#[test]
fn keywords_that_are_not_kept_are_refused_by_name() {
    for (schema, keyword, at) in [
        (r#"{"not": {"type": "null"}}"#, "not", "#"),
        (r#"{"properties": {"a/b": {"items": {"uniqueItems": true}}}}"#, "uniqueItems", "#/properties/a~1b/items"),
        (r#"{"anyOf": [true, {"contains": {}}]}"#, "contains", "#/anyOf/1"),
        (r#"{"$defs": {"x": {"if": {}, "then": {}}}}"#, "if", "#/$defs/x"),
        (r#"{"dependentRequired": {"a": ["b"]}}"#, "dependentRequired", "#"),
        (r#"{"dependencies": {"a": ["b"]}}"#, "dependencies", "#"),
        (r#"{"propertyNames": {"pattern": "a"}}"#, "propertyNames", "#"),
        (
            r#"{"additionalProperties": {"unevaluatedProperties": false}}"#,
            "unevaluatedProperties",
            "#/additionalProperties",
        ),
    ] {
        let error = refused(Source::JsonSchema(schema));
        assert_eq!(error, Error::Unsupported { keyword: keyword.into(), at: at.into(), why: "" }, "{schema}");
    }
    schema(
        r#"{"oneOf": [{"type": "integer"}, {"type": "number"}]}"#,
        "`oneOf` at `#` is not supported where two of its schemas may hold at once, as `anyOf` is",
    );
    schema(r#"{"type": "string", "format": "telepathy"}"#, "telepathy");
}

#[test]
fn what_is_no_keyword_of_json_schema_is_an_annotation() {
    for schema in [
        r#"{"type": "integer", "nullable": true, "x-order": 1, "title": "T", "deprecated": true, "default": {"not": 1}}"#,
        r#"{"type": "integer", "format": "int32", "examples": [{"if": 1}]}"#,
        r#"{"enum": [{"not": 1}], "$comment": "uniqueItems"}"#,
    ] {
        SMOLLM2.compile(Source::JsonSchema(schema));
    }
}

#[test]
fn sizes_have_limits_with_a_name() {
    let deep = |n: usize| format!("{}true{}", r#"{"items":"#.repeat(n), "}".repeat(n));
    schema(&deep(101), "nesting of the schema: 101; at most 100");
    SMOLLM2.compile(Source::JsonSchema(&deep(99)));
    schema(&format!("{}{}", "[".repeat(100_000), "]".repeat(100_000)), "nesting of the schema: 100000");
    schema(&format!(r#"{{"title": "{}"}}"#, "x".repeat(300_000)), "bytes of the schema: 300013; at most 262144");
    let values = |n: usize| (0..n).map(|i| i.to_string()).collect::<Vec<_>>().join(",");
    schema(&format!(r#"{{"enum": [{}]}}"#, values(10_001)), "values of `enum`: 10001; at most 10000");
    let properties = (0..1001).map(|i| format!(r#""p{i}": {{}}"#)).collect::<Vec<_>>().join(",");
    schema(&format!(r#"{{"properties": {{{properties}}}}}"#), "`properties` at `#`: 1001; at most 1000");
    schema(&format!(r#"{{"anyOf": [{}]}}"#, values(501)), "`anyOf` at `#`: 501; at most 500");
    schema(r#"{"maxItems": 18446744073709551615}"#, "`maxItems` at `#`: 18446744073709551615; at most 1000000");
    schema(r#"{"items": {"minLength": 1000001}}"#, "`minLength` at `#/items`: 1000001");
    schema(&format!(r#"{{"pattern": "{}"}}"#, "a".repeat(5000)), "bytes of `pattern` at `#`: 5000; at most 4096");
    let pattern = "a".repeat(1 << 20);
    check(Source::Regex(&pattern), "bytes of the regular expression: 1048576; at most 4096");
    check(Source::Lark(&pattern), "bytes of the grammar: 1048576; at most 65536");
}

#[test]
fn references_stay_in_the_schema() {
    for to in ["http://127.0.0.1:1/a.json", "file:///etc/passwd", "other.json#/x"] {
        let error = refused(Source::JsonSchema(&format!(r#"{{"properties": {{"a": {{"$ref": "{to}"}}}}}}"#)));
        assert_eq!(error, Error::Reference(to.into()));
    }
    schema(r##"{"$ref": "#/$defs/nowhere"}"##, "nowhere");
    // Nothing can be said by such a schema.
    refused(Source::JsonSchema(r##"{"$ref": "#"}"##));
    refused(Source::JsonSchema(
        r##"{"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}"##,
    ));
}

#[test]
fn what_is_no_schema_is_refused_in_one_line() {
    schema("{", "the schema is not JSON: EOF");
    schema("", "the schema is not JSON");
    schema("7", "it is no object");
    schema("false", "it is no object");
    schema(r#"{"type": "strnig"}"#, "strnig");
    schema(r#"{"minItems": -1, "type": "array"}"#, "minItems");
    schema(r#"{"type": "integer", "minimum": 3, "maximum": 1}"#, "minimum");
    schema(&format!(r#"{{"minimum": "{}"}}"#, "é".repeat(200)), "");
    schema(r#"{"type": "string", "pattern": "+a"}"#, "repetition operator");
    schema(r#"{"type": "string", "pattern": "(?<=a)b"}"#, "look");
    schema(r#"{"type": "string", "pattern": "(a)\\1"}"#, "backreferences");
}

#[test]
fn regular_expressions_and_grammars_that_cannot_be_are_refused() {
    let nested = |n: usize, inner: &str| format!("{}{inner}{}", "(".repeat(n), ")".repeat(n));
    check(Source::Regex("("), "");
    check(Source::Regex(&nested(2000, "a")), "invalid regex");
    check(Source::Lark(""), "");
    check(Source::Lark("start: nothing"), "nothing");
    check(Source::Lark(&format!("start: {}", nested(30_000, "\"a\""))), "nest");
    check(Source::Lark(&format!("start: {}\"a\"", "~".repeat(60_000))), "");
    check(Source::Lark("start: A\nA: /a/ & /b/"), "");
    check(Source::Lark("start: start"), "");
}

/// As many names for one word, which the library follows one by one.
fn chain_of_terminals(n: usize) -> String {
    let names: String = (0..n).map(|i| format!("T{i}: T{} \"a\"\n", i + 1)).collect();
    format!("start: T0\n{names}T{n}: \"b\"")
}

#[test]
fn who_comes_behind_what_takes_too_long_is_not_refused_for_it() {
    let words = Words::new("smollm2"); // as others would wait, too
    let hard = chain_of_terminals(3_900);
    std::thread::scope(|threads| {
        for _ in 0..3 {
            threads.spawn(|| words.vocabulary.compile(Source::Lark(&hard)));
        }
        words.compile(Source::Regex("a+"));
    });
}

/// Each is either refused or compiled, in time; which of both is the library's matter.
#[test]
fn what_is_meant_to_be_hard_takes_bounded_time() {
    let chain = |n: usize| {
        let rules: String = (0..n).map(|i| format!("r{i}: r{}\n", i + 1)).collect();
        format!("start: r0\n{rules}r{n}: \"a\"")
    };
    let references = |n: usize| {
        let defs: String = (0..n).map(|i| format!(r##""{i}":{{"$ref":"#/$defs/{}"}},"##, i + 1)).collect();
        format!(r##"{{"$defs":{{{defs}"{n}":true}},"$ref":"#/$defs/0"}}"##)
    };
    let optional: String = (0..1000).map(|i| format!(r#""p{i}":{{}}"#)).collect::<Vec<_>>().join(",");
    let values: String = (0..10_000).map(|i| format!(r#""word {i}""#)).collect::<Vec<_>>().join(",");
    let any_of = (0..500).map(|i| format!(r#"{{"properties":{{"k":{{"const":{i}}}}},"required":["k"]}}"#));
    let any_of = any_of.collect::<Vec<_>>().join(",");
    let all_of = (0..100).map(|i| format!(r#"{{"anyOf":[{{"minLength":{i}}},{{"pattern":"a{i}"}}]}}"#));
    let all_of = all_of.collect::<Vec<_>>().join(",");
    let patterns = (0..20).map(|i| format!(r#""(a|b)*{i}(a|b){{9}}":{{}}"#)).collect::<Vec<_>>().join(",");
    let words = Words::new("smollm2"); // as others would wait, too
    let hard = [
        ("a chain of rules", Source::Lark(&chain(1_000))),
        ("the longest chain of rules", Source::Lark(&chain(4_500))),
        ("a chain of terminals", Source::Lark(&chain_of_terminals(3_900))),
        ("left recursion", Source::Lark("start: a\na: a \"x\" | b\nb: b \"y\" | a \"z\" | \"w\"")),
        ("stars of stars", Source::Lark("start: ((\"a\"*)*)*")),
        ("many of many", Source::Lark("start: (((\"a\"{0,2000000}){0,2000000}){0,2000000}){0,2000000}")),
        ("up to 2^31", Source::Lark("start: \"a\"{0,2147483648}")),
        ("ambiguity", Source::Lark("start: s\ns: s s s | s s | \"a\" | ")),
        ("a chain of references", Source::JsonSchema(&references(8_000))),
        ("many properties", Source::JsonSchema(&format!(r#"{{"type":"object","properties":{{{optional}}}}}"#))),
        ("many words", Source::JsonSchema(&format!(r#"{{"enum":[{values}]}}"#))),
        ("many alternatives", Source::JsonSchema(&format!(r#"{{"oneOf":[{any_of}]}}"#))),
        ("products of alternatives", Source::JsonSchema(&format!(r#"{{"allOf":[{all_of}]}}"#))),
        (
            "patterns that may meet",
            Source::JsonSchema(&format!(r#"{{"type":"object","patternProperties":{{{patterns}}}}}"#)),
        ),
        (
            "many items",
            Source::JsonSchema(r#"{"type":"array","items":{"type":"array","minItems":1000000},"minItems":1000000}"#),
        ),
        ("a pattern to search for", Source::JsonSchema(r#"{"type":"string","pattern":"^+a"}"#)),
        ("counts of counts", Source::Regex("a{1001}{1001}{1001}{1001}")),
        ("long strings", Source::JsonSchema(r#"{"type":"string","minLength":1000000,"maxLength":1000000}"#)),
        ("many properties at least", Source::JsonSchema(r#"{"type":"object","minProperties":1000000}"#)),
        ("nested counts", Source::Regex("((a{1,100}){1,100}){1,100}")),
        ("a long way back", Source::Regex("(a|b)*a(a|b){500}")),
        ("nested stars", Source::Regex("((((a*)*)*)*)*b")),
        (
            "pattern and length",
            Source::JsonSchema(r#"{"type":"string","pattern":"(a|b)*a(a|b){60}","maxLength":5000}"#),
        ),
        ("much of Unicode", Source::Regex("(\\p{L}|\\p{N}|\\p{S}){1,500}(?i:\\w{300})")),
    ];
    for (name, source) in hard {
        let start = Instant::now();
        let result = words.vocabulary.compile(source);
        let seconds = start.elapsed().as_secs_f64();
        println!("{name}: {seconds:.3} s, {}", result.as_ref().map_or_else(|e| e.to_string(), |_| "compiled".into()));
        assert!(seconds < (TURN_SECONDS + COMPILE_SECONDS) as f64 + 2.0, "{name}: {seconds} s");
    }
}
