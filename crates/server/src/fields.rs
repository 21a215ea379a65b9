//! The fields of a request. One table a dialect says what there is, and what it does: a request is read by it, and so is the
//! description of the interface written.
//!
//! No field is ignored in silence. One that the table does not know, or says we cannot do, is refused by name; one that changes no
//! answer, but that clients send, is in the table with the reason why it may be left alone.

use serde_json::{Map, Value};

use crate::error::Refusal;

/// A field of an object.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) does: Does,
}

/// What a value may be. Every field may also be `null`, which is as if it were not there.
#[derive(Debug)]
pub(crate) enum Kind {
    Bool,
    /// A whole number from one to another.
    Int(i64, i64),
    /// A number from one to another.
    Num(f64, f64),
    Str,
    /// One of these.
    Word(&'static [&'static str]),
    Array,
    Object,
    /// Read by whoever needs it.
    Any,
}

/// What a field does.
#[derive(Debug)]
pub(crate) enum Does {
    /// It acts; how, in words.
    Acts(&'static str),
    /// It is accepted and changes nothing; why that is right.
    Nothing(&'static str),
    /// It is refused unless it has this value (as JSON), which is what happens anyway; why.
    Only(&'static str, &'static str),
}

/// A field that acts.
pub(crate) const fn acts(name: &'static str, kind: Kind, how: &'static str) -> Field {
    Field { name, kind, does: Does::Acts(how) }
}

/// A field that may be left alone.
pub(crate) const fn nothing(name: &'static str, why: &'static str) -> Field {
    Field { name, kind: Kind::Any, does: Does::Nothing(why) }
}

/// A field that may only say what is so anyway.
pub(crate) const fn only(name: &'static str, value: &'static str, why: &'static str) -> Field {
    Field { name, kind: Kind::Any, does: Does::Only(value, why) }
}

/// An object whose fields are those of tables.
#[derive(Clone, Debug)]
pub(crate) struct Fields<'a> {
    map: &'a Map<String, Value>,
    /// Where it is in the request, `messages[2].`; empty for the request itself.
    path: String,
}

impl<'a> Fields<'a> {
    /// The request.
    ///
    /// # Errors
    /// It is no object, or a field of it is refused.
    pub(crate) fn of(request: &'a Value, table: &[&[Field]]) -> Result<Fields<'a>, Refusal> {
        let map = request.as_object().ok_or_else(|| Refusal::body("the body must be a JSON object"))?;
        Fields { map, path: String::new() }.checked(table)
    }

    /// An object inside it, which is at `path`.
    ///
    /// # Errors
    /// As [`Fields::of`].
    pub(crate) fn at(value: &'a Value, path: &str, table: &[&[Field]]) -> Result<Fields<'a>, Refusal> {
        let map = value.as_object().ok_or_else(|| Refusal::field(path, "must be an object"))?;
        Fields { map, path: format!("{path}.") }.checked(table)
    }

    fn checked(self, table: &[&[Field]]) -> Result<Fields<'a>, Refusal> {
        for (name, value) in self.map.iter().filter(|(_, value)| !value.is_null()) {
            let field = table.iter().copied().flatten().find(|field| field.name == name);
            let field = field.ok_or_else(|| Refusal::unknown(&self.path(name)))?;
            match field.does {
                Does::Only(only, why) if !is_same(value, only) => {
                    return Err(Refusal::field(&self.path(name), &format!("can only be {only}: {why}")));
                }
                _ => field.kind.check(value).map_err(|allowed| Refusal::field(&self.path(name), &allowed))?,
            }
        }
        Ok(self)
    }

    /// Where a field is.
    pub(crate) fn path(&self, name: &str) -> String {
        format!("{}{name}", self.path)
    }

    /// Refuses a field's value.
    pub(crate) fn refuse(&self, name: &str, why: &str) -> Refusal {
        Refusal::field(&self.path(name), why)
    }

    /// A value, unless it is `null`.
    pub(crate) fn any(&self, name: &str) -> Option<&'a Value> {
        self.map.get(name).filter(|value| !value.is_null())
    }

    pub(crate) fn flag(&self, name: &str) -> Option<bool> {
        self.any(name)?.as_bool()
    }

    pub(crate) fn int(&self, name: &str) -> Option<i64> {
        whole(self.any(name)?)
    }

    pub(crate) fn num(&self, name: &str) -> Option<f64> {
        self.any(name)?.as_f64()
    }

    pub(crate) fn str(&self, name: &str) -> Option<&'a str> {
        self.any(name)?.as_str()
    }

    pub(crate) fn array(&self, name: &str) -> Option<&'a [Value]> {
        self.any(name)?.as_array().map(Vec::as_slice)
    }

    /// A value that must be there.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn needed(&self, name: &str) -> Result<&'a Value, Refusal> {
        self.any(name).ok_or_else(|| self.refuse(name, "is missing"))
    }

    /// A text, or a list of texts.
    ///
    /// # Errors
    /// It is something else.
    pub(crate) fn texts(&self, name: &str) -> Result<Vec<String>, Refusal> {
        let texts = match self.any(name) {
            None => return Ok(Vec::new()),
            Some(Value::String(text)) => return Ok(vec![text.clone()]),
            Some(Value::Array(texts)) => texts.iter().map(|text| text.as_str().map(str::to_owned)).collect(),
            Some(_) => None,
        };
        texts.ok_or_else(|| self.refuse(name, "must be a string, or an array of strings"))
    }
}

/// Whether a value is what this JSON says; 1 and 1.0 are the same.
fn is_same(value: &Value, json: &str) -> bool {
    let only: Value = serde_json::from_str(json).expect("tables are written in JSON");
    *value == only || value.as_f64().is_some_and(|x| only.as_f64() == Some(x))
}

/// A whole number, also one that is written as 2.0; none that a float holds inexactly.
pub(crate) fn whole(value: &Value) -> Option<i64> {
    const EXACT: f64 = (1_u64 << 53) as f64;
    let is_exact = |x: &f64| x.fract() == 0.0 && x.abs() <= EXACT;
    value.as_i64().or_else(|| value.as_f64().filter(|_| value.is_f64()).filter(is_exact).map(|x| x as i64))
}

impl Kind {
    /// Whether a value is of this kind; else what is allowed.
    fn check(&self, value: &Value) -> Result<(), String> {
        let (right, allowed) = match self {
            Kind::Bool => (value.is_boolean(), "must be true or false".into()),
            Kind::Int(from, to) => {
                let within = whole(value).is_some_and(|n| (*from..=*to).contains(&n));
                (within, format!("must be a whole number from {from} to {to}"))
            }
            Kind::Num(from, to) => {
                let within = value.as_f64().is_some_and(|x| (*from..=*to).contains(&x));
                (within, format!("must be a number from {from} to {to}"))
            }
            Kind::Str => (value.is_string(), "must be a string".into()),
            Kind::Word(words) => {
                let known = value.as_str().is_some_and(|word| words.contains(&word));
                (known, format!("must be one of {}", words.join(", ")))
            }
            Kind::Array => (value.is_array(), "must be an array".into()),
            Kind::Object => (value.is_object(), "must be an object".into()),
            Kind::Any => (true, String::new()),
        };
        if right { Ok(()) } else { Err(allowed) }
    }
}

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};
    use serde_json::json;

    use super::*;

    const TABLE: &[Field] = &[
        acts("n", Kind::Int(1, 8), "How many."),
        acts("stop", Kind::Any, "Where to stop."),
        acts("mode", Kind::Word(&["a", "b"]), "How."),
        nothing("user", "it names nobody here"),
        only("store", "false", "nothing is stored"),
        only("typical", "1.0", "it is not there"),
    ];

    fn check(request: Value, expect: Expect) {
        let read = Fields::of(&request, &[TABLE]).and_then(|f| Ok((f.int("n"), f.texts("stop")?)));
        expect.assert_eq(&match read {
            Ok(read) => format!("{read:?}"),
            Err(refusal) => refusal.message,
        });
    }

    #[test]
    fn a_field_acts_or_is_refused_by_name() {
        check(json!({}), expect!["(None, [])"]);
        check(
            json!({"n": 2, "stop": ["x"], "user": 7, "store": false, "mode": null}),
            expect![[r#"(Some(2), ["x"])"#]],
        );
        check(json!({"n": 2.0, "stop": "x"}), expect![[r#"(Some(2), ["x"])"#]]);
        check(json!({"m": 1}), expect!["m: there is no such field"]);
        check(json!({"n": 0}), expect!["n: must be a whole number from 1 to 8"]);
        check(json!({"n": 1.5}), expect!["n: must be a whole number from 1 to 8"]);
        check(json!({"n": 18446744073709551615_u64}), expect!["n: must be a whole number from 1 to 8"]);
        check(json!({"n": "1"}), expect!["n: must be a whole number from 1 to 8"]);
        check(json!({"stop": [1]}), expect!["stop: must be a string, or an array of strings"]);
        check(json!({"store": true}), expect!["store: can only be false: nothing is stored"]);
        check(json!({"typical": 1}), expect!["(None, [])"]);
        check(json!({"mode": "c"}), expect!["mode: must be one of a, b"]);
        check(json!([]), expect!["the body must be a JSON object"]);
    }
}
