//! Which answers with calls the grammars of both formats let pass, token by token as real vocabularies cut them.
#![allow(missing_docs)]

#[path = "../../tokenizer/tests/tokenizer/data.rs"]
#[allow(dead_code)] // of what it reads, these tests need the vocabularies
mod data;

use std::{fs, sync::LazyLock};

use grammar::{Source, Vocabulary};
use models::{
    Calls, Chat, ChatOptions, End, Hold, NotKept, Part, Syntax, Template, Tool,
    deepseek_v4::{DeepSeekV4, Release},
};
use serde_json::{Value, json};
use tokenizer::{Special, Tokenizer};

const V4: DeepSeekV4 = DeepSeekV4 { release: Release::July };
static V4_WORDS: LazyLock<(Tokenizer, Vocabulary)> = LazyLock::new(|| words("deepseek-v4"));
static QWEN_WORDS: LazyLock<(Tokenizer, Vocabulary)> = LazyLock::new(|| words("qwen3"));

fn words(name: &str) -> (Tokenizer, Vocabulary) {
    let tokenizer = data::tokenizer(name);
    let vocabulary = Vocabulary::new(&tokenizer, tokenizer.eog()).unwrap();
    (tokenizer, vocabulary)
}

/// The format of Hermes, its tags being markers or not.
fn qwen(markers: &[&str]) -> Template {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../testdata/chat/templates/qwen2.5.jinja");
    let markers = markers.iter().map(|marker| (*marker).to_owned());
    Template::new(&fs::read_to_string(path).unwrap(), "", "<|im_end|>", markers).unwrap()
}

fn tool(name: &str, parameters: Value) -> Tool {
    let function = json!({ "name": name, "parameters": parameters });
    Tool { name: name.into(), function: function.as_object().unwrap().clone(), strict: false }
}

fn options() -> ChatOptions {
    let look = json!({"type": "object", "required": ["path"], "properties": {
        "path": {"type": "string"}, "n": {"type": ["integer", "null"]}, "mode": {"enum": ["r", "rw"]}}});
    let wait = json!({"type": "object", "properties": {"on": {"$ref": "#/$defs/on"}, "s": {"anyOf": [{"type": "string", "maxLength": 2}, {"type": "boolean"}]}},
        "$defs": {"on": {"type": "array", "items": {"$ref": "#/$defs/b"}}, "b": {"type": "boolean"}}});
    ChatOptions {
        tools: vec![tool("look", look), tool("wait", wait), tool("now", json!({}))],
        ..ChatOptions::default()
    }
}

/// Answers of which the first have to pass, and the others must not.
fn check((tokenizer, vocabulary): &(Tokenizer, Vocabulary), syntax: &Syntax, answers: [&[&str]; 2]) {
    let reference = |part: &Part| match part {
        Part::Text(text) => text.clone(),
        Part::Marker(marker) => format!("<[{}]>", tokenizer.id_of(marker).unwrap()),
    };
    let lark: String = syntax.lark.iter().map(reference).collect();
    let schemas = syntax.schemas.iter().map(|schema| (schema.name.as_str(), Source::JsonSchema(&schema.text)));
    let answer = (Syntax::ANSWER, Source::Regex("yes|no"));
    let parts: Vec<_> = schemas.chain(lark.contains("@answer").then_some(answer)).collect();
    let grammar = vocabulary.compile(Source::Composed(&lark, &parts)).unwrap_or_else(|e| panic!("{e}\n{lark}"));
    let passes = |answer: &str| {
        let mut constraint = grammar.start();
        for id in tokenizer.encode(answer, Special::Parse) {
            if !constraint.mask().is_ok_and(|mask| mask.contains(id)) {
                return false;
            }
            constraint.accept(id).unwrap();
        }
        constraint.may_end()
    };
    for (answers, expected) in answers.into_iter().zip([true, false]) {
        for answer in answers {
            let answer = answer.replace('*', "｜DSML｜");
            assert_eq!(passes(&answer), expected, "{answer:?}\n{lark}");
        }
    }
}

/// A call in DeepSeek V4's format.
fn v4_call(name: &str, parameters: &str) -> String {
    format!("<*invoke name=\"{name}\">\n{parameters}</*invoke>\n")
}

fn v4_calls(calls: &[String]) -> String {
    format!("\n\n<*tool_calls>\n{}</*tool_calls>", calls.concat())
}

const PATH: &str = "<*parameter name=\"path\" string=\"true\">a </b\n</*parameter>\n";
const N: &str = "<*parameter name=\"n\" string=\"false\">-7</*parameter>\n";

#[test]
fn deepseek_calls_have_the_parameters_of_their_tools() {
    let syntax = V4.syntax(&options(), Hold::default()).unwrap();
    let look = |parameters: &str| v4_calls(&[v4_call("look", parameters)]);
    let mode = |mode: &str| format!("<*parameter name=\"mode\" string=\"true\">{mode}</*parameter>\n");
    let wait = |s: &str| v4_calls(&[v4_call("wait", &format!("<*parameter name=\"s\" string={s}</*parameter>\n"))]);
    let passing = [
        "Just a text < with </signs>.\n\n<".to_owned(),
        String::new(),
        look(PATH),
        "First this.".to_owned() + &look(&(PATH.to_owned() + N + &mode("rw"))),
        look(&(PATH.to_owned() + &mode("r"))),
        look(&(PATH.to_owned() + "<*parameter name=\"n\" string=\"false\">null</*parameter>\n")),
        v4_calls(&[v4_call("wait", "\n"), v4_call("look", PATH)]),
        v4_calls(&[v4_call("wait", "<*parameter name=\"on\" string=\"false\">[true, false]</*parameter>\n")]),
        wait("\"true\">é!"),
        wait("\"false\">true"),
        v4_calls(&[v4_call("now", "\n")]),
        v4_calls(&[v4_call(
            "now",
            &("<*parameter name=\"any\" string=\"false\">{\"a\": 1}</*parameter>\n".to_owned() + PATH),
        )]),
    ];
    let failing = [
        look("\n"),
        look(N),
        look(&(N.to_owned() + PATH)),
        look(&(PATH.to_owned() + &mode("w"))),
        look(&(PATH.to_owned() + PATH)),
        look(&(PATH.to_owned() + "<*parameter name=\"n\" string=\"true\">7</*parameter>\n")),
        look(&(PATH.to_owned() + "<*parameter name=\"more\" string=\"true\">7</*parameter>\n")),
        v4_calls(&[v4_call("rm", PATH)]),
        v4_calls(&[v4_call("wait", "")]),
        wait("\"true\">abc"),
        v4_calls(&[]),
        look(PATH) + "and more",
    ];
    let refs = |answers: &[String]| answers.iter().map(String::as_str).map(str::to_owned).collect::<Vec<_>>();
    let (passing, failing) = (refs(&passing), refs(&failing));
    let [passing, failing] = [&passing, &failing].map(|all| all.iter().map(String::as_str).collect::<Vec<_>>());
    check(&V4_WORDS, &syntax, [&passing, &failing]);
}

#[test]
fn deepseek_calls_are_made_where_they_must_be() {
    let must = |name: Option<&str>| ChatOptions { call: Calls::Must(name.map(str::to_owned)), ..options() };
    let two = v4_calls(&[v4_call("look", PATH), v4_call("wait", "\n")]);
    let one = v4_calls(&[v4_call("wait", "\n")]);
    let opening = |options: &ChatOptions| {
        let shown: String = V4.opening(options).iter().map(Part::as_str).collect();
        shown.replace("｜DSML｜", "*")
    };
    // Behind what the prompt has begun.
    let any = must(None);
    let rest = |answer: &str, options: &ChatOptions| answer.strip_prefix(&opening(options)).unwrap().to_owned();
    let syntax = V4.syntax(&any, Hold::default()).unwrap();
    check(&V4_WORDS, &syntax, [&[&rest(&two, &any), &rest(&one, &any)], &["", "No.", &two]]);
    let named = must(Some("wait"));
    let syntax = V4.syntax(&named, Hold::default()).unwrap();
    check(&V4_WORDS, &syntax, [&[&rest(&one, &named)], &["", &(rest(&one, &named) + "!")]]);
    // Behind the reasoning, in which none is begun.
    let thinking = ChatOptions { thinking: true, ..must(Some("wait")) };
    let syntax = V4.syntax(&thinking, Hold::default()).unwrap();
    assert!(syntax.is_raw);
    let thought = |answer: &str| format!("Why <not>?</think>{answer}");
    check(&V4_WORDS, &syntax, [&[&thought(&one)], &[&one, &thought(""), &thought(&two), "Why"]]);
    // Behind a text that goes on.
    let continued = ChatOptions { end: End::Continue, ..must(None) };
    let syntax = V4.syntax(&continued, Hold::default()).unwrap();
    check(&V4_WORDS, &syntax, [&[&two, &(" more.".to_owned() + &one)], &["", " more."]]);
}

#[test]
fn deepseek_calls_are_as_many_and_beside_what_is_asked_for() {
    let two = v4_calls(&[v4_call("look", PATH), v4_call("wait", "\n")]);
    let one = v4_calls(&[v4_call("wait", "\n")]);
    let once = V4.syntax(&ChatOptions { one_call: true, ..options() }, Hold::default()).unwrap();
    check(&V4_WORDS, &once, [&[&one, "text"], &[&two]]);
    let waits = ChatOptions { callable: Some(vec!["wait".into()]), ..options() };
    check(&V4_WORDS, &V4.syntax(&waits, Hold::default()).unwrap(), [&[&one, "text"], &[&two]]);
    let held = V4.syntax(&options(), Hold { text: true, ..Hold::default() }).unwrap();
    check(&V4_WORDS, &held, [&["yes", "no", &two], &["", "maybe", &("yes".to_owned() + &one)]]);
    let loose = Hold { loose: &["look".into()], ..Hold::default() };
    let any = v4_calls(&[v4_call("look", &(N.to_owned() + N))]);
    check(&V4_WORDS, &V4.syntax(&options(), loose).unwrap(), [&[&any], &[]]);
}

#[test]
fn strict_tools_have_schemas_that_can_be_kept() {
    let strict = |parameters: Value| {
        let tool = Tool { strict: true, ..tool("look", parameters) };
        V4.syntax(&ChatOptions { tools: vec![tool], ..ChatOptions::default() }, Hold::default())
    };
    let pattern = json!({"type": "object", "properties": {"d": {"type": "string", "pattern": "^[0-9]+$"}}, "required": ["d"], "additionalProperties": false});
    let d = |d: &str| v4_calls(&[v4_call("look", &format!("<*parameter name=\"d\" string={d}</*parameter>\n"))]);
    check(
        &V4_WORDS,
        &strict(pattern).unwrap(),
        [&[&d("\"false\">\"77\"")], &[&d("\"true\">77"), &d("\"false\">\"a\"")]],
    );
    check(
        &V4_WORDS,
        &strict(json!({"type": "object", "additionalProperties": false})).unwrap(),
        [&[&v4_calls(&[v4_call("look", "\n")])], &[]],
    );
    let none = json!({"properties": {"d": {"type": "integer"}, "a": {"enum": []}, "b": false}, "required": ["d"]});
    check(
        &V4_WORDS,
        &strict(none).unwrap(),
        [&[&d("\"false\">7")], &[&d("\"true\">7"), &v4_calls(&[v4_call("look", "\n")])]],
    );
    let long = json!({"properties": {"d": {"type": "string", "maxLength": u64::MAX}}, "required": ["d"]});
    check(&V4_WORDS, &strict(long).unwrap(), [&[&d("\"true\">a text")], &[&d("\"false\">7")]]);
    for (parameters, why) in [
        (json!({"minProperties": 1, "properties": {"a": {}}}), "`minProperties`"),
        (json!({"type": "object"}), "names no `properties`"),
        (json!(7), "no object"),
        (json!({"properties": {"a": {}}, "required": ["b"]}), "`required` names \"b\", which is none"),
        (json!({"properties": {"a": {"enum": []}}, "required": ["a"]}), "`a` can have no value"),
        (json!({"properties": {"a": {"anyOf": [false]}}, "required": ["a"]}), "`a` can have no value"),
        (
            json!({"properties": {"a": {"type": "string", "minLength": 2, "maxLength": 1}}, "required": ["a"]}),
            "`a` can have no value",
        ),
        (json!({"properties": {"a\" string=\"true\">": {}}}), "cannot stand in a tag"),
    ] {
        let refused = strict(parameters).unwrap_err().to_string();
        assert!(refused.starts_with("the schema of `look` cannot be kept to: ") && refused.contains(why), "{refused}");
    }
}

/// The grammar of answers that may call a tool with such a parameter `d`.
fn with_parameter(strict: bool, d: Value, definitions: Value) -> Result<Syntax, NotKept> {
    let parameters = json!({"type": "object", "properties": {"d": d}, "required": ["d"], "$defs": definitions});
    let tool = Tool { strict, ..tool("look", parameters) };
    V4.syntax(&ChatOptions { tools: vec![tool], ..ChatOptions::default() }, Hold::default())
}

#[test]
fn references_that_lead_back_add_nothing() {
    let back = vec![json!({"$ref": "#/$defs/a"}); 5];
    let definitions =
        json!({"a": {"anyOf": [{"anyOf": back}, {"type": "boolean"}, {"type": "string", "maxLength": 1}]}});
    let syntax = with_parameter(true, json!({"$ref": "#/$defs/a"}), definitions).unwrap();
    let texts: Vec<_> = syntax.schemas.iter().filter(|schema| schema.tool.is_some()).map(|s| s.text.as_str()).collect();
    assert_eq!(texts, [r#"{"type":"boolean"}"#], "it refers to nothing, so that it has no definitions");
    let d = |d: &str| v4_calls(&[v4_call("look", &format!("<*parameter name=\"d\" string={d}</*parameter>\n"))]);
    check(&V4_WORDS, &syntax, [&[&d("\"false\">true"), &d("\"true\">é")], &[&d("\"true\">ab"), &d("\"false\">1")]]);
}

#[test]
fn what_no_value_is_valid_by_is_loose_or_refused() {
    let d = |d: &str| v4_calls(&[v4_call("look", &format!("<*parameter name=\"d\" string={d}</*parameter>\n"))]);
    for nothing in [
        json!({"enum": []}),
        json!({"anyOf": []}),
        json!({"$ref": "#/$defs/a"}),
        json!({"type": "string", "minLength": 3, "maxLength": 2}),
    ] {
        let definitions = json!({"a": {"$ref": "#/$defs/a"}});
        let refused = with_parameter(true, nothing.clone(), definitions.clone()).unwrap_err().to_string();
        assert_eq!(refused, "the schema of `look` cannot be kept to: `d` can have no value", "{nothing}");
        let syntax = with_parameter(false, nothing, definitions).unwrap();
        check(&V4_WORDS, &syntax, [&[&d("\"true\">a"), &d("\"false\">1")], &[]]);
    }
}

#[test]
fn a_text_may_be_longer_than_any_answer() {
    let d =
        |d: &str| v4_calls(&[v4_call("look", &format!("<*parameter name=\"d\" string=\"true\">{d}</*parameter>\n"))]);
    for (schema, short) in [
        (json!({"type": "string", "maxLength": 99_999_999_999_u64}), true),
        (json!({"type": "string", "maxLength": 1_000_000}), true),
        (json!({"type": "string", "minLength": 99_999_999_999_u64}), false),
    ] {
        let syntax = with_parameter(true, schema, json!({})).unwrap();
        let (passing, failing): (&[&str], &[&str]) = (&[&d("abc")], &[]);
        check(&V4_WORDS, &syntax, if short { [passing, failing] } else { [failing, passing] });
    }
}

#[test]
fn schemas_and_words_have_no_more_than_so_many_bytes_together() {
    let properties: serde_json::Map<String, Value> =
        (0..500).map(|i| (format!("p{i}"), json!({"type": "array", "items": {"$ref": "#/$defs/a"}}))).collect();
    let long = json!({"type": "boolean", "description": "x".repeat(10_000)});
    let tool = |strict| Tool {
        strict,
        ..tool("look", json!({"type": "object", "properties": properties, "$defs": {"a": long}}))
    };
    let syntax = |tool| V4.syntax(&ChatOptions { tools: vec![tool], ..ChatOptions::default() }, Hold::default());
    assert!(syntax(tool(true)).unwrap_err().to_string().ends_with("it is more than 1 MiB"));
    let loose = syntax(tool(false)).unwrap();
    assert_eq!(loose.schemas.len(), 1);
    let words: Vec<String> = (0..1000).map(|i| format!("{i:010}")).collect();
    let properties: serde_json::Map<String, Value> =
        (0..500).map(|i| (format!("p{i}"), json!({"enum": words}))).collect();
    let wordy = crate::tool("look", json!({"type": "object", "properties": properties}));
    assert_eq!(syntax(wordy).unwrap().schemas.len(), 1);
    check(&V4_WORDS, &loose, [&[&v4_calls(&[v4_call("look", N)])], &[]]);
}

fn hermes(name: &str, arguments: &str) -> String {
    format!("<tool_call>\n{{\"name\": \"{name}\", \"arguments\": {arguments}}}\n</tool_call>")
}

#[test]
fn hermes_calls_have_the_arguments_of_their_tools() {
    let [look, wait] = [hermes("look", r#"{"path": "a\"b", "n": null}"#), hermes("wait", "{}")];
    let both = format!("{look}\n{wait}");
    let wrong = [
        hermes("look", "{}"),
        hermes("look", r#"{"path": 7}"#),
        hermes("rm", "{}"),
        hermes("look", r#"{"path": ""}"#) + "more",
        "text <tool_call> text".to_owned(),
    ];
    let wrong: Vec<&str> = wrong.iter().map(String::as_str).collect();
    let before = format!("First this <tool>.\n{both}");
    for markers in [&["<tool_call>", "</tool_call>"][..], &[]] {
        // Where the tags are no markers, the grammar spells them; the vocabulary at hand has tokens for them all the same.
        let words: &(Tokenizer, Vocabulary) = if markers.is_empty() { &V4_WORDS } else { &QWEN_WORDS };
        let syntax = |options: &ChatOptions, hold| qwen(markers).syntax(options, hold).unwrap();
        let any = syntax(&options(), Hold::default());
        check(words, &any, [&["", "text </tool_cal", &look, &both, &before], &wrong]);
        let must = syntax(&ChatOptions { call: Calls::Must(None), ..options() }, Hold::default());
        check(words, &must, [&[&look, &both, &format!("\n\n{wait}")], &["", "text", &before]]);
        let named = syntax(&ChatOptions { call: Calls::Must(Some("wait".into())), ..options() }, Hold::default());
        check(words, &named, [&[&wait], &["", &look, &format!("{wait}\n{wait}")]]);
        let held = syntax(&options(), Hold { text: true, ..Hold::default() });
        check(words, &held, [&["yes", &both], &["", "maybe", &before]]);
        // Arguments are an object, whatever a schema says.
        let of =
            |kind: Value| ChatOptions { tools: vec![tool("look", json!({"type": kind}))], ..ChatOptions::default() };
        let nullable = syntax(&of(json!(["null", "object"])), Hold::default());
        check(words, &nullable, [&[&hermes("look", "{}")], &[&hermes("look", "null")]]);
        let text = &syntax(&of(json!("string")), Hold::default()).schemas[0].text;
        assert!(words.1.compile(Source::JsonSchema(text)).is_err());
        let once =
            syntax(&ChatOptions { one_call: true, ..options() }, Hold { loose: &["look".into()], ..Hold::default() });
        check(words, &once, [&["text", &hermes("look", r#"{"x": [1]}"#)], &[&both]]);
    }
}
