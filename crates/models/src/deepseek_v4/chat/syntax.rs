//! Answers with calls as a grammar: [`Syntax`] in DeepSeek V4's format.
//!
//! In the rules `§` is the token [`DSML`]. A parameter's text is what stands up to the `</` in front of the next one, so it may
//! spell anything but ends where the model writes that token; what is no text is JSON. Parameters come in the order of the schema:
//! those that are required, and any of the others.

use std::collections::HashSet;

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
/// The longest name of a parameter: longer tags are none.
const KEY_BYTES_MAX: usize = 1000;
/// The most parameters of a tool.
const PROPERTIES_MAX: usize = 1000;
/// The longest bound of a text that is kept: no answer is as long.
const CHARS_MAX: u64 = 1_000_000;

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

/// What ends a call.
const CALL_END: &str = "\"</\" § \"invoke>\\n\"";

/// The rule `rule`: what stands between the tag of a call and the next, its own end included.
fn arguments(rule: &str, tool: &Tool, is_loose: bool, syntax: &mut Syntax) -> Result<String, NotKept> {
    let before = syntax.mark();
    match kept(rule, tool, syntax) {
        Ok(lark) if !is_loose => return Ok(lark),
        Err(why) if tool.strict => return Err(NotKept { tool: tool.name.clone(), why }),
        _ => syntax.go_back(before),
    }
    Ok(format!("{rule}: (\"\\n\" | loose+) {CALL_END}\n"))
}

/// The same, by the tool's schema.
///
/// # Errors
/// What of it this format has no grammar for.
fn kept(rule: &str, tool: &Tool, syntax: &mut Syntax) -> Result<String, String> {
    let none = Value::Object(Map::new());
    let schema = tool.function.get("parameters").unwrap_or(&none);
    let parameters = parameters(schema, tool.strict)?;
    let required: Vec<bool> = parameters.iter().map(|parameter| parameter.is_required).collect();
    let mut lark = format!("{rule}: ({}) {CALL_END}\n", sequence(rule, &required));
    for (i, Parameter { key, ways, .. }) in parameters.iter().enumerate() {
        let rule_of = |way: &Written| syntax.counted(|syntax| way.rule(tool, schema, syntax));
        let values = ways.iter().map(rule_of).collect::<Result<Vec<_>, _>>()?;
        let head = quoted(&format!("parameter name=\"{key}\" string=\""));
        lark += &format!("{rule}p{i}: \"<\" § {head} ({}) § \"parameter>\\n\"\n", values.join(" | "));
    }
    lark += &tails(rule, &required);
    Ok(lark)
}

/// A parameter of a tool, and how its values may be written.
struct Parameter<'a> {
    key: &'a str,
    ways: Vec<Written>,
    is_required: bool,
}

/// The parameters by a schema. What is not required, and can have no value, is none.
fn parameters(schema: &Value, is_exact: bool) -> Result<Vec<Parameter<'_>>, String> {
    let properties = properties(schema)?;
    let required = schema["required"].as_array().map_or(&[][..], Vec::as_slice);
    let is_property = |name: &&Value| properties.iter().any(|(key, _)| **name == **key);
    if let Some(other) = required.iter().find(|name| !is_property(name)).filter(|_| is_exact) {
        return Err(format!("`required` names {other}, which is none of its `properties`"));
    }
    let mut parameters = Vec::new();
    for (key, value) in properties {
        let (ways, is_required) = (Ways::of(value, schema, is_exact), required.iter().any(|name| name == key));
        if is_required && ways.is_empty() {
            return Err(format!("`{key}` can have no value"));
        }
        parameters.extend((!ways.is_empty()).then_some(Parameter { key, ways, is_required }));
    }
    Ok(parameters)
}

/// The properties of an object, which is all that its schema speaks of.
fn properties(schema: &Value) -> Result<Vec<(&String, &Value)>, String> {
    let keywords = schema.as_object().ok_or("it is no object")?;
    if let Some(keyword) = keywords.keys().find(|keyword| *keyword != "type" && !PLAIN.contains(&keyword.as_str())) {
        return Err(format!("`{keyword}` at `#` is not supported for the arguments of a tool"));
    }
    let is_open = keywords.get("additionalProperties").is_none_or(|more| *more != false);
    match keywords.get("properties").and_then(Value::as_object) {
        Some(properties) if properties.len() > PROPERTIES_MAX => {
            Err(format!("it has more than {PROPERTIES_MAX} `properties`"))
        }
        Some(properties) if properties.keys().any(|key| !is_key(key)) => {
            Err("one of its `properties` has a name that cannot stand in a tag".to_owned())
        }
        Some(properties) if !properties.is_empty() => Ok(properties.iter().collect()),
        _ if is_open => Err("it names no `properties`, and allows others".to_owned()),
        _ => Ok(Vec::new()),
    }
}

/// Whether a parameter's tag can have this name.
fn is_key(key: &str) -> bool {
    key.len() <= KEY_BYTES_MAX && !key.contains("\" string=\"")
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
    /// What stands between the two tags, the `</` of the second included, for a value by a part of the schema `root` of `tool`.
    fn rule(&self, tool: &Tool, root: &Value, syntax: &mut Syntax) -> String {
        match self {
            Written::Text(pattern) if pattern.is_empty() => "\"true\\\">\" TEXT_END".to_owned(),
            Written::Text(pattern) => format!("\"true\\\">\" /{pattern}<\\//"),
            Written::Word(word) => quoted(&format!("true\">{word}</")),
            Written::Json(schema) => {
                let schema = syntax.schema(Some(tool), &with_definitions(schema.clone(), root));
                format!("\"false\\\">\" @{schema} \"</\"")
            }
        }
    }
}

/// How values may be written that are valid by a part of a schema.
struct Ways<'a> {
    /// The whole schema.
    root: &'a Value,
    /// What only JSON could be held to is JSON; else a text, as the format has it.
    is_exact: bool,
    /// What is to be looked at, the next one last.
    left: Vec<&'a Value>,
    /// References that were followed: where one is met again, it adds nothing.
    followed: HashSet<&'a str>,
    found: Vec<Written>,
}

impl<'a> Ways<'a> {
    /// Those of `schema`, a part of `root`; none if no value is valid.
    fn of(schema: &'a Value, root: &'a Value, is_exact: bool) -> Vec<Written> {
        let mut ways = Ways { root, is_exact, left: vec![schema], followed: HashSet::new(), found: Vec::new() };
        while let Some(schema) = ways.left.pop() {
            ways.add(schema);
        }
        ways.found
    }

    fn add(&mut self, schema: &'a Value) {
        if *schema == false {
            return;
        }
        let Some(keywords) = schema.as_object() else { return self.any() };
        let speaks_of = |allowed: &[&str]| {
            let is_allowed =
                |keyword: &String| NOTES.contains(&keyword.as_str()) || allowed.contains(&keyword.as_str());
            keywords.keys().all(is_allowed)
        };
        if let Some(words) = words(keywords) {
            return match speaks_of(&["const", "enum", "type"]) {
                true => self.words(words),
                false => self.found.push(Written::Json(schema.clone())),
            };
        }
        for keyword in ["anyOf", "oneOf"] {
            if let Some(all) = keywords.get(keyword).and_then(Value::as_array).filter(|_| speaks_of(&[keyword])) {
                return self.left.extend(all.iter().rev());
            }
        }
        if let Some(to) = keywords.get("$ref").and_then(Value::as_str).filter(|_| speaks_of(&["$ref"]))
            && let Some(schema) = to.strip_prefix('#').and_then(|pointer| self.root.pointer(pointer))
        {
            return self.left.extend(self.followed.insert(to).then_some(schema));
        }
        match types(keywords.get("type")) {
            None if speaks_of(&[]) => self.any(),
            Some(types) if types.contains(&"string") => match self.is_exact {
                true if !(has_whole_bounds(keywords) && speaks_of(&["type", "minLength", "maxLength"])) => {
                    self.found.push(Written::Json(schema.clone()));
                }
                _ => self.texts(keywords, &types),
            },
            _ => self.found.push(Written::Json(schema.clone())),
        }
    }

    /// Any value.
    fn any(&mut self) {
        self.found.extend([Written::Text(String::new()), Written::Json(any_but_text())]);
    }

    /// One of these.
    fn words(&mut self, words: Vec<Value>) {
        let (texts, others): (Vec<Value>, Vec<Value>) = words.into_iter().partition(Value::is_string);
        let texts = texts.iter().map(|text| Written::Word(text.as_str().unwrap_or_default().to_owned()));
        self.found.extend(texts);
        self.found.extend((!others.is_empty()).then(|| Written::Json(json!({ "enum": others }))));
    }

    /// A text, or what is of another of these types.
    fn texts(&mut self, keywords: &Map<String, Value>, types: &[&str]) {
        self.found.extend(text(keywords).map(Written::Text));
        let others: Vec<&str> = types.iter().copied().filter(|kind| *kind != "string").collect();
        if !others.is_empty() {
            let mut keywords = keywords.clone();
            keywords.insert("type".to_owned(), others.into());
            self.found.push(Written::Json(keywords.into()));
        }
    }
}

/// The values that a schema lists.
fn words(keywords: &Map<String, Value>) -> Option<Vec<Value>> {
    let one = keywords.get("const").map(|word| vec![word.clone()]);
    one.or_else(|| keywords.get("enum")?.as_array().cloned())
}

/// A schema with what `root` defines, if it refers to something.
fn with_definitions(mut schema: Value, root: &Value) -> Value {
    if refers(&schema)
        && let Some(keywords) = schema.as_object_mut()
    {
        for name in ["$defs", "definitions"] {
            if let Some(definitions) = root.get(name) {
                keywords.entry(name).or_insert_with(|| definitions.clone());
            }
        }
    }
    schema
}

/// Whether something in a schema may be a reference.
fn refers(schema: &Value) -> bool {
    match schema {
        Value::Object(keywords) => keywords.contains_key("$ref") || keywords.values().any(refers),
        Value::Array(all) => all.iter().any(refers),
        _ => false,
    }
}

/// The types that a schema names.
fn types(named: Option<&Value>) -> Option<Vec<&str>> {
    match named? {
        Value::Array(types) => types.iter().map(Value::as_str).collect(),
        one => Some(vec![one.as_str()?]),
    }
}

/// Whether what bounds the length of a text are whole numbers.
fn has_whole_bounds(keywords: &Map<String, Value>) -> bool {
    ["minLength", "maxLength"].iter().all(|name| keywords.get(*name).is_none_or(Value::is_u64))
}

/// A text of as many characters as there may be; any if nothing is said, and none if that is no number.
fn text(keywords: &Map<String, Value>) -> Option<String> {
    let bound = |name: &str| keywords.get(name).and_then(Value::as_u64);
    match (bound("minLength").unwrap_or(0), bound("maxLength").filter(|max| *max <= CHARS_MAX)) {
        (min, Some(max)) if min > max => None,
        (0, None) => Some(String::new()),
        (min, max) => {
            let max = max.map(|max| max.to_string()).unwrap_or_default();
            Some(format!("(?s:.{{{},{max}}})", min.min(CHARS_MAX)))
        }
    }
}

fn any_but_text() -> Value {
    json!({ "type": ["null", "boolean", "number", "array", "object"] })
}
