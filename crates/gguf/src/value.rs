//! The values of metadata. Arrays are stored as compactly as the file has them: numbers in a vector of their type,
//! strings in one text, so a vocabulary costs two allocations.

use std::fmt;

use crate::error::shorten;

/// Many strings in one allocation.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Strings {
    text: String,
    ends: Vec<usize>, // in `text`
}

impl Strings {
    /// No strings yet, with room for `n`.
    pub(crate) fn with_capacity(n: usize) -> Strings {
        Strings { text: String::new(), ends: Vec::with_capacity(n) }
    }

    /// Adds a string.
    pub fn push(&mut self, text: &str) {
        self.text.push_str(text);
        self.ends.push(self.text.len());
    }

    /// The strings, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        let mut start = 0;
        self.ends.iter().map(move |&end| &self.text[std::mem::replace(&mut start, end)..end])
    }

    /// Number of strings.
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }
}

impl<S: AsRef<str>> FromIterator<S> for Strings {
    fn from_iter<I: IntoIterator<Item = S>>(items: I) -> Strings {
        let mut strings = Strings::default();
        items.into_iter().for_each(|s| strings.push(s.as_ref()));
        strings
    }
}

macro_rules! values {
    ($($name:ident($type:ty, $id:literal, $spelled:literal),)*) => {
        /// The value of a key.
        #[allow(missing_docs, reason = "the types say what they are")]
        #[derive(Clone, Debug, PartialEq)]
        pub enum Value {
            $($name($type),)*
            Bool(bool),
            String(String),
            Array(Array),
        }

        /// Values of one type.
        #[allow(missing_docs, reason = "the types say what they are")]
        #[derive(Clone, Debug, PartialEq)]
        pub enum Array {
            $($name(Vec<$type>),)*
            Bool(Vec<bool>),
            String(Strings),
        }

        impl Value {
            /// The number that the file gives this type.
            pub(crate) fn id(&self) -> u32 {
                match self {
                    $(Value::$name(_) => $id,)*
                    Value::Bool(_) => BOOL,
                    Value::String(_) => STRING,
                    Value::Array(_) => ARRAY,
                }
            }

            /// The number of type `id` that `bytes`, as many as [`number_bytes`] says, stand for.
            pub(crate) fn number(id: u32, bytes: &[u8]) -> Option<Value> {
                match id {
                    $($id => Some(Value::$name(<$type>::from_le_bytes(bytes.try_into().ok()?))),)*
                    _ => None,
                }
            }

            /// Appends the bytes of the value as the file has them, without the type.
            pub(crate) fn put(&self, out: &mut Vec<u8>) {
                match self {
                    $(Value::$name(x) => out.extend(x.to_le_bytes()),)*
                    Value::Bool(x) => out.push(u8::from(*x)),
                    Value::String(s) => put_str(s, out),
                    Value::Array(a) => a.put(out),
                }
            }
        }

        impl Array {
            /// Number of elements.
            pub fn len(&self) -> usize {
                match self {
                    $(Array::$name(x) => x.len(),)*
                    Array::Bool(x) => x.len(),
                    Array::String(x) => x.len(),
                }
            }

            /// The name of the elements' type.
            pub fn type_name(&self) -> &'static str {
                match self {
                    $(Array::$name(_) => $spelled,)*
                    Array::Bool(_) => "bool",
                    Array::String(_) => "string",
                }
            }

            /// The numbers of type `id` that `bytes`, whole elements, stand for.
            pub(crate) fn numbers(id: u32, bytes: &[u8]) -> Option<Array> {
                match id {
                    $($id => {
                        let chunks = bytes.chunks_exact(size_of::<$type>());
                        let number = |c: &[u8]| <$type>::from_le_bytes(c.try_into().expect("chunks are of this size"));
                        Some(Array::$name(chunks.map(number).collect()))
                    })*
                    _ => None,
                }
            }

            fn id(&self) -> u32 {
                match self {
                    $(Array::$name(_) => $id,)*
                    Array::Bool(_) => BOOL,
                    Array::String(_) => STRING,
                }
            }

            fn put(&self, out: &mut Vec<u8>) {
                out.extend(self.id().to_le_bytes());
                out.extend((self.len() as u64).to_le_bytes());
                match self {
                    $(Array::$name(x) => x.iter().for_each(|x| out.extend(x.to_le_bytes())),)*
                    Array::Bool(x) => out.extend(x.iter().map(|&b| u8::from(b))),
                    Array::String(x) => x.iter().for_each(|s| put_str(s, out)),
                }
            }

            /// The first `n` elements, spelled.
            fn head(&self, n: usize) -> Vec<String> {
                match self {
                    $(Array::$name(x) => x.iter().take(n).map(|x| x.to_string()).collect(),)*
                    Array::Bool(x) => x.iter().take(n).map(|x| x.to_string()).collect(),
                    Array::String(x) => x.iter().take(n).map(quoted).collect(),
                }
            }
        }

        /// Bytes of a number of type `id`; none where that is no type of numbers.
        pub(crate) fn number_bytes(id: u32) -> Option<usize> {
            match id {
                $($id => Some(size_of::<$type>()),)*
                _ => None,
            }
        }

        $(impl From<$type> for Value {
            fn from(x: $type) -> Value {
                Value::$name(x)
            }
        }

        impl From<Vec<$type>> for Value {
            fn from(x: Vec<$type>) -> Value {
                Value::Array(Array::$name(x))
            }
        })*

        impl Value {
            /// The name of the type, with its article.
            pub fn type_name(&self) -> String {
                match self {
                    $(Value::$name(_) => concat!("of type ", $spelled).into(),)*
                    Value::Bool(_) => "a bool".into(),
                    Value::String(_) => "a string".into(),
                    Value::Array(a) => format!("an array of {}", a.type_name()),
                }
            }
        }
    };
}

values! {
    U8(u8, 0, "u8"),
    I8(i8, 1, "i8"),
    U16(u16, 2, "u16"),
    I16(i16, 3, "i16"),
    U32(u32, 4, "u32"),
    I32(i32, 5, "i32"),
    F32(f32, 6, "f32"),
    U64(u64, 10, "u64"),
    I64(i64, 11, "i64"),
    F64(f64, 12, "f64"),
}

/// The type numbers that are not of numbers.
pub(crate) const BOOL: u32 = 7;
pub(crate) const STRING: u32 = 8;
pub(crate) const ARRAY: u32 = 9;

impl Value {
    /// The value as an integer, whichever of the integer types it has.
    pub fn integer(&self) -> Option<i128> {
        Some(match *self {
            Value::U8(x) => x.into(),
            Value::I8(x) => x.into(),
            Value::U16(x) => x.into(),
            Value::I16(x) => x.into(),
            Value::U32(x) => x.into(),
            Value::I32(x) => x.into(),
            Value::U64(x) => x.into(),
            Value::I64(x) => x.into(),
            _ => return None,
        })
    }

    /// The value as a float, whichever of the float types it has.
    pub(crate) fn float(&self) -> Option<f32> {
        match *self {
            Value::F32(x) => Some(x),
            Value::F64(x) => Some(x as f32),
            _ => None,
        }
    }
}

impl Array {
    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements as integers, whichever of the integer types they have.
    pub(crate) fn integers(&self) -> Option<Box<dyn Iterator<Item = i128> + '_>> {
        Some(match self {
            Array::U8(x) => Box::new(x.iter().map(|&x| x.into())),
            Array::I8(x) => Box::new(x.iter().map(|&x| x.into())),
            Array::U16(x) => Box::new(x.iter().map(|&x| x.into())),
            Array::I16(x) => Box::new(x.iter().map(|&x| x.into())),
            Array::U32(x) => Box::new(x.iter().map(|&x| x.into())),
            Array::I32(x) => Box::new(x.iter().map(|&x| x.into())),
            Array::U64(x) => Box::new(x.iter().map(|&x| x.into())),
            Array::I64(x) => Box::new(x.iter().map(|&x| x.into())),
            _ => return None,
        })
    }
}

fn put_str(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn quoted(text: &str) -> String {
    format!("\"{}\"", shorten(text))
}

impl From<bool> for Value {
    fn from(x: bool) -> Value {
        Value::Bool(x)
    }
}

impl From<&str> for Value {
    fn from(x: &str) -> Value {
        Value::String(x.into())
    }
}

impl From<String> for Value {
    fn from(x: String) -> Value {
        Value::String(x)
    }
}

impl From<Vec<bool>> for Value {
    fn from(x: Vec<bool>) -> Value {
        Value::Array(Array::Bool(x))
    }
}

impl From<Strings> for Value {
    fn from(x: Strings) -> Value {
        Value::Array(Array::String(x))
    }
}

impl From<Vec<String>> for Value {
    fn from(x: Vec<String>) -> Value {
        Strings::from_iter(x).into()
    }
}

impl From<Vec<&str>> for Value {
    fn from(x: Vec<&str>) -> Value {
        Strings::from_iter(x).into()
    }
}

/// For people, on one line: strings cut to 64 characters, arrays to 8 elements.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(x) => x.fmt(f),
            Value::String(x) => f.write_str(&quoted(x)),
            Value::Array(x) => x.fmt(f),
            Value::F32(x) => x.fmt(f),
            Value::F64(x) => x.fmt(f),
            number => number.integer().expect("all others are integers").fmt(f),
        }
    }
}

/// As [`Value`] shows it.
impl fmt::Display for Array {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN: usize = 8;
        let head = self.head(SHOWN).join(", ");
        match self.len() {
            0..=SHOWN => write!(f, "[{head}]"),
            n => write!(f, "[{head}, … {n} in all]"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_come_back_as_they_went_in() {
        let strings = Strings::from_iter(["a", "", "größe", ""]);
        assert_eq!(strings.iter().collect::<Vec<_>>(), ["a", "", "größe", ""]);
        assert_eq!(strings.len(), 4);
    }

    #[test]
    fn values_are_shown_on_one_line() {
        let check = |value: Value, shown: &str| assert_eq!(value.to_string(), shown);
        check(7_u8.into(), "7");
        check((-7_i64).into(), "-7");
        check(1e-6_f32.into(), "0.000001");
        check(true.into(), "true");
        check("a\nb".into(), "\"a\\nb\"");
        check(vec!["a", "b"].into(), "[\"a\", \"b\"]");
        check(Vec::from_iter(0_u32..9).into(), "[0, 1, 2, 3, 4, 5, 6, 7, … 9 in all]");
    }
}
