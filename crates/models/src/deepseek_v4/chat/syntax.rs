//! Answers with calls as a grammar: [`Syntax`] in DeepSeek V4's format.
//!
//! In the rules `§` is the token [`DSML`]. A parameter's text is what stands up to the `</` in front of the next one, so it may
//! spell anything but ends where the model writes that token; what is no text is JSON. Parameters come in the order of the schema:
//! those that are required, and any of the others.

use serde_json::{Map, Value, json};

use super::DSML;
use crate::chat::{
    Calls, ChatOptions, End, Hold, NotKept, Part, Syntax, THINK_END, Tool, alternatives, callable, quoted,
};

/// What all answers share. `before` is a text in front of calls, `block` the calls behind it and its `<`.
const RULES: &str = r#"
TEXT: /(?s:.*)/
BEFORE: /(?s:.*)\n\n</
TEXT_END: /(?s:.*)<\//
KEY: /[^"\n]{1,200}/
block: § "tool_calls>\n<" calls
calls: call more
call: § "invoke name=\"" named
end: "</" § "tool_calls>"
"#;

/// Keywords beside which `properties` and `required` say all about an object.
const PLAIN: [&str; 12] = [
    "$comment",
    "$defs",
    "$id",
    "$schema",
    "additionalProperties",
    "default",
    "definitions",
    "description",
    "examples",
    "properties",
    "required",
    "title",
];
/// Keywords that say nothing about what a value may be.
const NOTES: [&str; 8] =
    ["$comment", "default", "deprecated", "description", "examples", "readOnly", "title", "writeOnly"];
/// How many references lead on from each other.
const REFERENCES_MAX: usize = 8;

/// See [`Chat::syntax`](crate::Chat::syntax). `opening` is what the prompt has begun.
pub(super) fn syntax(options: &ChatOptions, hold: Hold<'_>, opening: &[Part]) -> Result<Syntax, NotKept> {
    let tools = callable(options);
    let mut syntax = Syntax::default();
    let mut lark = format!("start: {}{RULES}", start(options, hold, opening));
    let more = if options.calls_once() { "" } else { "(\"<\" call)* " };
    lark += &format!("more: {more}end\nnamed: {}\n", alternatives("c", tools.len()));
    for (i, tool) in tools.iter().enumerate() {
        lark += &format!("c{i}: {} a{i}\n", quoted(&format!("{}\">\n", tool.name)));
        lark += &arguments(&format!("a{i}"), tool, hold.loose.contains(&tool.name), &mut syntax)?;
    }
    let any = syntax.schema(None, &any_but_text());
    lark += &format!(
        "loose: \"<\" § \"parameter name=\\\"\" KEY \"\\\" string=\\\"\" (\"true\\\">\" TEXT_END | \"false\\\">\" @{any} \"</\") \
         § \"parameter>\\n\"\n"
    );
    syntax.write(&lark, &[('§', DSML), ('¤', THINK_END)]);
    syntax.is_raw = thinks(options);
    Ok(syntax)
}

/// Whether it begins with reasoning. The grammar has that, too, so that no call is begun in it.
fn thinks(options: &ChatOptions) -> bool {
    options.thinking && options.end != End::Continue
}

/// What the rule `start` says.
fn start(options: &ChatOptions, hold: Hold<'_>, opening: &[Part]) -> String {
    let free =
        if options.end == End::Continue { "TEXT | BEFORE block" } else { "TEXT | BEFORE block | \"\\n\\n<\" block" };
    let answer = match &options.call {
        Calls::Must(_) if options.end == End::Continue => "BEFORE block".to_owned(),
        Calls::Must(Some(_)) if !opening.is_empty() => "a0 more".to_owned(),
        Calls::Must(None) if !opening.is_empty() => "\"<\" calls".to_owned(),
        Calls::Must(_) => "\"\\n\\n<\" block".to_owned(),
        _ if hold.text => format!("@{} | \"\\n\\n<\" block", Syntax::ANSWER),
        _ => free.to_owned(),
    };
    if thinks(options) { format!("TEXT ¤ ({answer})") } else { answer }
}

/// The rule `rule`: what stands between the tag of a call and the next, its own end included.
fn arguments(rule: &str, tool: &Tool, is_loose: bool, syntax: &mut Syntax) -> Result<String, NotKept> {
    let end = "\"</\" § \"invoke>\\n\"";
    let none = Value::Object(Map::new());
    let schema = tool.function.get("parameters").unwrap_or(&none);
    let properties = match properties(schema) {
        Ok(properties) if !is_loose => properties,
        Err(why) if tool.strict => return Err(NotKept { tool: tool.name.clone(), why }),
        _ => return Ok(format!("{rule}: (\"\\n\" | loose+) {end}\n")),
    };
    let is_required = |key: &str| schema["required"].as_array().is_some_and(|all| all.iter().any(|name| name == key));
    let required: Vec<bool> = properties.iter().map(|(key, _)| is_required(key)).collect();
    let mut lark = format!("{rule}: ({}) {end}\n", sequence(rule, &required));
    for (i, (key, value)) in properties.iter().enumerate() {
        let values = values(value, schema, tool.strict, REFERENCES_MAX);
        let values: Vec<String> = values.iter().map(|value| value.rule(tool, syntax)).collect();
        let head = quoted(&format!("parameter name=\"{key}\" string=\""));
        lark += &format!("{rule}p{i}: \"<\" § {head} ({}) § \"parameter>\\n\"\n", values.join(" | "));
    }
    lark += &tails(rule, &required);
    Ok(lark)
}

/// The properties of an object, which is all that its schema speaks of.
fn properties(schema: &Value) -> Result<Vec<(&String, &Value)>, String> {
    let keywords = schema.as_object().ok_or("it is no object")?;
    if let Some(keyword) = keywords.keys().find(|keyword| *keyword != "type" && !PLAIN.contains(&keyword.as_str())) {
        return Err(format!("`{keyword}` at `#` is not supported for the arguments of a tool"));
    }
    let is_open = keywords.get("additionalProperties").is_none_or(|more| *more != false);
    match keywords.get("properties").and_then(Value::as_object) {
        Some(properties) if !properties.is_empty() => Ok(properties.iter().collect()),
        _ if is_open => Err("it names no `properties`, and allows others".to_owned()),
        _ => Ok(Vec::new()),
    }
}

/// The parameters of a call in their order, of which those that are `required` come, and any of the others.
fn sequence(rule: &str, required: &[bool]) -> String {
    if required.contains(&true) {
        let word = |(i, required): (usize, &bool)| format!("{rule}p{i}{}", if *required { "" } else { "?" });
        return required.iter().enumerate().map(word).collect::<Vec<_>>().join(" ");
    }
    // Without any there is an empty line.
    let first = (0..required.len()).map(|i| format!(" | {rule}p{i}{}", tail(rule, i + 1, required.len())));
    format!("\"\\n\"{}", first.collect::<String>())
}

/// Any of the `n` parameters from `i` on, where none is required.
fn tail(rule: &str, i: usize, n: usize) -> String {
    if i < n { format!(" {rule}r{i}") } else { String::new() }
}

/// The rules that [`tail`] names.
fn tails(rule: &str, required: &[bool]) -> String {
    let n = required.len();
    if required.contains(&true) {
        return String::new();
    }
    (1..n).map(|i| format!("{rule}r{i}: {rule}p{i}?{}\n", tail(rule, i + 1, n))).collect()
}

/// A way to write a value.
enum Written {
    /// A text that this regular expression matches, up to the end.
    Text(String),
    /// This text.
    Word(String),
    /// JSON by this schema.
    Json(Value),
}

impl Written {
    /// What stands between the two tags, the `</` of the second included.
    fn rule(&self, tool: &Tool, syntax: &mut Syntax) -> String {
        match self {
            Written::Text(pattern) if pattern.is_empty() => "\"true\\\">\" TEXT_END".to_owned(),
            Written::Text(pattern) => format!("\"true\\\">\" /{pattern}<\\//"),
            Written::Word(word) => quoted(&format!("true\">{word}</")),
            Written::Json(schema) => format!("\"false\\\">\" @{} \"</\"", syntax.schema(Some(tool), schema)),
        }
    }
}

/// How values may be written that are valid by `schema`, a part of `root`. What only JSON could be held to is JSON if it has to be
/// exact, and else a text, as the format has it.
fn values(schema: &Value, root: &Value, is_exact: bool, n_references: usize) -> Vec<Written> {
    let Some(keywords) = schema.as_object() else {
        return vec![Written::Text(String::new()), Written::Json(any_but_text())];
    };
    let speaks_of = |allowed: &[&str]| {
        let is_allowed = |keyword: &String| NOTES.contains(&keyword.as_str()) || allowed.contains(&keyword.as_str());
        keywords.keys().all(is_allowed)
    };
    let json = |schema: Value| Written::Json(with_definitions(schema, root));
    if let Some(words) =
        keywords.get("const").map(|word| vec![word.clone()]).or_else(|| keywords.get("enum")?.as_array().cloned())
    {
        let (texts, others): (Vec<Value>, Vec<Value>) = words.into_iter().partition(Value::is_string);
        if !speaks_of(&["const", "enum", "type"]) {
            return vec![json(schema.clone())];
        }
        let texts = texts.iter().map(|text| Written::Word(text.as_str().unwrap_or_default().to_owned()));
        return texts.chain((!others.is_empty()).then(|| json(json!({ "enum": others })))).collect();
    }
    for keyword in ["anyOf", "oneOf"] {
        if let Some(all) = keywords.get(keyword).and_then(Value::as_array).filter(|_| speaks_of(&[keyword])) {
            return all.iter().flat_map(|schema| values(schema, root, is_exact, n_references)).collect();
        }
    }
    if let Some(to) = keywords.get("$ref").and_then(Value::as_str).filter(|_| speaks_of(&["$ref"]) && n_references > 0)
        && let Some(to) = to.strip_prefix('#').and_then(|pointer| root.pointer(pointer))
    {
        return values(to, root, is_exact, n_references - 1);
    }
    match types(keywords.get("type")) {
        None if speaks_of(&[]) => vec![Written::Text(String::new()), Written::Json(any_but_text())],
        Some(types) if types.contains(&"string") => {
            let others: Vec<&str> = types.into_iter().filter(|kind| *kind != "string").collect();
            let text = match text(keywords) {
                _ if is_exact && !speaks_of(&["type", "minLength", "maxLength"]) => return vec![json(schema.clone())],
                text => Written::Text(text),
            };
            let mut rest = keywords.clone();
            rest.insert("type".to_owned(), others.clone().into());
            std::iter::once(text).chain((!others.is_empty()).then(|| json(rest.into()))).collect()
        }
        _ => vec![json(schema.clone())],
    }
}

/// The types that a schema names.
fn types(named: Option<&Value>) -> Option<Vec<&str>> {
    match named? {
        Value::Array(types) => types.iter().map(Value::as_str).collect(),
        one => Some(vec![one.as_str()?]),
    }
}

/// A text of as many characters as there may be; any if nothing is said.
fn text(keywords: &Map<String, Value>) -> String {
    let bound = |name: &str| keywords.get(name).and_then(Value::as_u64);
    match (bound("minLength"), bound("maxLength")) {
        (None | Some(0), None) => String::new(),
        (min, max) => {
            let max = max.map(|max| max.to_string()).unwrap_or_default();
            format!("(?s:.{{{},{max}}})", min.unwrap_or(0))
        }
    }
}

/// A schema that may refer to what `root` defines.
fn with_definitions(mut schema: Value, root: &Value) -> Value {
    if let Some(keywords) = schema.as_object_mut() {
        for name in ["$defs", "definitions"] {
            if let Some(definitions) = root.get(name) {
                keywords.entry(name).or_insert_with(|| definitions.clone());
            }
        }
    }
    schema
}

fn any_but_text() -> Value {
    json!({ "type": ["null", "boolean", "number", "array", "object"] })
}
