//! `json.dumps(value, ensure_ascii=False)`: what models were trained on has a space behind `,` and `:`.

use serde_json::Value;

/// `value` as Python writes it, keys in their order.
pub(crate) fn to_python(value: &Value) -> String {
    match value {
        Value::Number(n) => match n.as_f64() {
            Some(x) if n.is_f64() => python_float(x),
            _ => n.to_string(),
        },
        Value::Array(items) => format!("[{}]", items.iter().map(to_python).collect::<Vec<_>>().join(", ")),
        Value::Object(items) => {
            let item = |(key, value): (&String, &Value)| format!("\"{}\": {}", escaped(key), to_python(value));
            format!("{{{}}}", items.iter().map(item).collect::<Vec<_>>().join(", "))
        }
        Value::Null | Value::Bool(_) | Value::String(_) => value.to_string(),
    }
}

/// `text` as it stands between the quotes of a JSON string. Pieces of a text give the pieces of the whole.
pub(crate) fn escaped(text: &str) -> String {
    let quoted = Value::from(text).to_string();
    quoted[1..quoted.len() - 1].to_owned()
}

/// `repr(x)`: the shortest digits that read back, with an exponent below `1e-4` and from `1e16`.
pub(crate) fn python_float(x: f64) -> String {
    if !x.is_finite() {
        return if x.is_nan() {
            "NaN"
        } else if x > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_owned();
    }
    let scientific = format!("{x:e}");
    let (digits, exponent) = scientific.split_once('e').expect("`{:e}` writes an exponent");
    let exponent: i32 = exponent.parse().expect("an exponent is a number");
    match exponent {
        -4..16 if x.fract() == 0.0 => format!("{x:.1}"),
        -4..16 => format!("{x}"),
        _ => format!("{digits}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_spelled_as_python_spells_them() {
        let json = r#"{"b":[1,-2.50,1e3,1e-9,1e22,null,true],"a":{"é\n\"\u0001":"<\/x>"},"e":{},"l":[]}"#;
        let python =
            r#"{"b": [1, -2.5, 1000.0, 1e-09, 1e+22, null, true], "a": {"é\n\"\u0001": "</x>"}, "e": {}, "l": []}"#;
        assert_eq!(to_python(&serde_json::from_str(json).unwrap()), python);
    }

    #[test]
    fn pieces_of_a_text_are_escaped_as_the_whole() {
        let text = "a\"\\\n\u{1}é";
        assert_eq!(text.chars().map(|c| escaped(&c.to_string())).collect::<String>(), escaped(text));
        assert_eq!(escaped(text), r#"a\"\\\n\u0001é"#);
    }
}
