//! Follows one JSON value while it is generated: is it still JSON, and is it over?
//!
//! A pushdown automaton after RFC 8259. It keeps the brackets that are open, and nothing of the text.

/// What a model writes is no JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotJson;

/// Where in a value we are.
#[derive(Clone, Debug, Default)]
pub(crate) struct Follower {
    open: Vec<Bracket>,
    next: Next,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bracket {
    Array,
    Object,
}

/// What may come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Next {
    #[default]
    Value,
    ValueOrEnd,
    Key,
    KeyOrEnd,
    Colon,
    /// A comma or a closing bracket; nothing but white space where none is open.
    Delimiter,
    /// More of a string, which may be a key.
    Text(Kind),
    /// What is escaped.
    Escape(Kind),
    /// So many hexadecimal digits.
    Hex(u8, Kind),
    /// The rest of a word.
    Word(&'static [u8]),
    Number(Digits),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Key,
    Value,
}

/// Which part of a number has been read last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Digits {
    Minus,
    Zero,
    Whole,
    Point,
    Fraction,
    E,
    Sign,
    Exponent,
}

impl Follower {
    /// The value goes on with `byte`. White space around it belongs to it.
    ///
    /// # Errors
    ///
    /// It does not, in JSON.
    pub(crate) fn push(&mut self, byte: u8) -> Result<(), NotJson> {
        self.next = match (self.next, byte) {
            (Next::Text(kind), b'"') => kind.end(),
            (Next::Text(kind), b'\\') => Next::Escape(kind),
            (Next::Text(kind), 0x20..) => Next::Text(kind),
            (Next::Escape(kind), b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Next::Text(kind),
            (Next::Escape(kind), b'u') => Next::Hex(4, kind),
            (Next::Hex(1, kind), _) if byte.is_ascii_hexdigit() => Next::Text(kind),
            (Next::Hex(n, kind), _) if byte.is_ascii_hexdigit() => Next::Hex(n - 1, kind),
            (Next::Word([first]), _) if byte == *first => Next::Delimiter,
            (Next::Word([first, rest @ ..]), _) if byte == *first => Next::Word(rest),
            (Next::Number(digits), _) => match digits.push(byte) {
                Some(digits) => Next::Number(digits),
                None if digits.may_end() => self.between(Next::Delimiter, byte)?,
                None => return Err(NotJson),
            },
            (Next::Text(_) | Next::Escape(_) | Next::Hex(..) | Next::Word(_), _) => return Err(NotJson),
            (next, _) => self.between(next, byte)?,
        };
        Ok(())
    }

    /// Outside of strings, words and numbers.
    fn between(&mut self, next: Next, byte: u8) -> Result<Next, NotJson> {
        Ok(match (next, byte) {
            (_, b' ' | b'\t' | b'\n' | b'\r') => next,
            (Next::ValueOrEnd, b']') | (Next::KeyOrEnd, b'}') => self.close(byte)?,
            (Next::Value | Next::ValueOrEnd, _) => self.begin(byte)?,
            (Next::Key | Next::KeyOrEnd, b'"') => Next::Text(Kind::Key),
            (Next::Colon, b':') => Next::Value,
            (Next::Delimiter, b',') => match self.open.last() {
                Some(Bracket::Array) => Next::Value,
                Some(Bracket::Object) => Next::Key,
                None => return Err(NotJson),
            },
            (Next::Delimiter, b']' | b'}') => self.close(byte)?,
            _ => return Err(NotJson),
        })
    }

    fn begin(&mut self, byte: u8) -> Result<Next, NotJson> {
        Ok(match byte {
            b'{' => {
                self.open.push(Bracket::Object);
                Next::KeyOrEnd
            }
            b'[' => {
                self.open.push(Bracket::Array);
                Next::ValueOrEnd
            }
            b'"' => Next::Text(Kind::Value),
            b't' => Next::Word(b"rue"),
            b'f' => Next::Word(b"alse"),
            b'n' => Next::Word(b"ull"),
            b'-' => Next::Number(Digits::Minus),
            b'0' => Next::Number(Digits::Zero),
            b'1'..=b'9' => Next::Number(Digits::Whole),
            _ => return Err(NotJson),
        })
    }

    fn close(&mut self, byte: u8) -> Result<Next, NotJson> {
        match (self.open.pop(), byte) {
            (Some(Bracket::Array), b']') | (Some(Bracket::Object), b'}') => Ok(Next::Delimiter),
            _ => Err(NotJson),
        }
    }

    /// Whether what was pushed is a whole value. A number that is one may still go on.
    pub(crate) fn is_whole(&self) -> bool {
        let ended = match self.next {
            Next::Delimiter => true,
            Next::Number(digits) => digits.may_end(),
            _ => false,
        };
        ended && self.open.is_empty()
    }
}

impl Kind {
    /// What comes behind such a string.
    fn end(self) -> Next {
        match self {
            Kind::Key => Next::Colon,
            Kind::Value => Next::Delimiter,
        }
    }
}

impl Digits {
    /// The same number, with `byte`; `None` where that is not part of it.
    fn push(self, byte: u8) -> Option<Digits> {
        Some(match (self, byte) {
            (Digits::Minus, b'0') => Digits::Zero,
            (Digits::Minus | Digits::Whole, b'0'..=b'9') => Digits::Whole,
            (Digits::Zero | Digits::Whole, b'.') => Digits::Point,
            (Digits::Point | Digits::Fraction, b'0'..=b'9') => Digits::Fraction,
            (Digits::Zero | Digits::Whole | Digits::Fraction, b'e' | b'E') => Digits::E,
            (Digits::E, b'+' | b'-') => Digits::Sign,
            (Digits::E | Digits::Sign | Digits::Exponent, b'0'..=b'9') => Digits::Exponent,
            _ => return None,
        })
    }

    fn may_end(self) -> bool {
        matches!(self, Digits::Zero | Digits::Whole | Digits::Fraction | Digits::Exponent)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Whether all of `text` is one value.
    fn is_json(text: &str) -> bool {
        let mut follower = Follower::default();
        text.bytes().try_for_each(|byte| follower.push(byte)).is_ok() && follower.is_whole()
    }

    #[test]
    fn what_is_json_is_known() {
        let yes = [
            "0",
            " -0.5e+10 ",
            "1E5",
            "12",
            "true",
            "null\n",
            "\"\"",
            r#""\u00e9\n\\""#,
            "[]",
            "[[], {}]",
            r#"{"a": [1, "]"], "b": {"}": false}}"#,
            "{ }",
        ];
        for text in yes {
            assert!(is_json(text), "{text}");
        }
        let no = [
            "",
            " ",
            "01",
            "1.",
            ".5",
            "-",
            "1e",
            "+1",
            "tru",
            "truee",
            "nul l",
            "\"",
            "\"\n\"",
            r#""\x""#,
            r#""\u12g4""#,
            "[",
            "]",
            "[1,]",
            "[,1]",
            "[1 2]",
            "[1}",
            "{1: 2}",
            r#"{"a"}"#,
            r#"{"a":}"#,
            r#"{"a": 1,}"#,
            "1 2",
            "{} {}",
            "'a'",
            "NaN",
            "Rome",
        ];
        for text in no {
            assert!(!is_json(text), "{text}");
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_a_parser(text in r#"[\[\]{}",:0-9eE+.\-ntrufalsb \\\n]{0,12}"#) {
            // A parser that makes strings and numbers wants more of them: their surrogates in pairs, and finite.
            if let Ok(value) = serde_json::from_str::<serde_json::Value>(&text) {
                prop_assert!(is_json(&text), "{}", value);
            } else if is_json(&text) {
                prop_assert!(text.contains("\\u") || text.contains(['e', 'E']), "{}", text);
            }
        }

        #[test]
        fn what_is_written_is_json(text: String, number: f64, whole: i64) {
            let value = serde_json::json!({ (text.clone()): [text, number, whole, null, { "a": {} }] });
            prop_assert!(is_json(&value.to_string()));
        }
    }
}
