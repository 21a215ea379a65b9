//! Keys and values, and the checked ways to read them.
//!
//! Writers are careless about the width and sign of numbers, so any integer type does where an integer is wanted, as
//! long as the value fits, and either float where a float is. A scalar does where a list is wanted: keys that may
//! differ per layer come in both forms.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
};

use crate::{Array, Error, Value};

/// The keys of a model, in the order of the file; of several files, the first one's.
#[derive(Clone, Debug)]
pub struct Metadata {
    path: PathBuf,
    entries: Vec<(String, Value)>,
    by_key: HashMap<String, usize>,
}

macro_rules! readers {
    ($($(#[$doc:meta])* $name:ident, $name_opt:ident: $type:ty = $read:ident;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Errors
            /// If the key is absent, or not of this type.
            pub fn $name(&self, key: &str) -> Result<$type, Error> {
                self.$name_opt(key)?.ok_or_else(|| self.missing(key))
            }

            $(#[$doc])*
            /// Nothing if the key is absent.
            ///
            /// # Errors
            /// If the key is not of this type.
            pub fn $name_opt(&self, key: &str) -> Result<Option<$type>, Error> {
                self.get(key).map(|value| self.$read(key, value)).transpose()
            }
        )*
    };
}

impl Metadata {
    /// Metadata that no file holds. Where a key repeats, the last counts.
    pub fn new(path: impl Into<PathBuf>, entries: Vec<(String, Value)>) -> Metadata {
        let by_key = entries.iter().enumerate().map(|(i, (key, _))| (key.clone(), i)).collect();
        Metadata { path: path.into(), entries, by_key }
    }

    /// The file, for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.by_key.get(key).map(|&i| &self.entries[i].1)
    }

    /// All keys with their values, in the order of the file.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Number of keys.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    readers! {
        /// An integer of any type.
        u32, u32_opt: u32 = read_integer;
        /// An integer of any type.
        u64, u64_opt: u64 = read_integer;
        /// A float of either type.
        f32, f32_opt: f32 = read_f32;
        /// A bool.
        bool, bool_opt: bool = read_bool;
        /// A string.
        str, str_opt: &str = read_str;
        /// Integers of any type; one will do.
        u32s, u32s_opt: Vec<u32> = read_integers;
        /// Integers of any type; one will do.
        i32s, i32s_opt: Vec<i32> = read_integers;
        /// Floats of either type; one will do.
        f32s, f32s_opt: Vec<f32> = read_f32s;
        /// Strings; one will do.
        strs, strs_opt: Vec<&str> = read_strs;
    }

    fn read_integer<T: Integer>(&self, key: &str, value: &Value) -> Result<T, Error> {
        let found = value.integer().ok_or_else(|| self.wrong_type(key, value, "an integer"))?;
        self.narrowed(key, found)
    }

    fn read_integers<T: Integer>(&self, key: &str, value: &Value) -> Result<Vec<T>, Error> {
        let found = match value {
            Value::Array(array) => array.integers(),
            one => one.integer().map(|x| Box::new(std::iter::once(x)) as _),
        };
        let found = found.ok_or_else(|| self.wrong_type(key, value, "integers"))?;
        found.map(|x| self.narrowed(key, x)).collect()
    }

    fn read_f32(&self, key: &str, value: &Value) -> Result<f32, Error> {
        value.float().ok_or_else(|| self.wrong_type(key, value, "a float"))
    }

    fn read_f32s(&self, key: &str, value: &Value) -> Result<Vec<f32>, Error> {
        match value {
            Value::Array(Array::F32(x)) => Ok(x.clone()),
            Value::Array(Array::F64(x)) => Ok(x.iter().map(|&x| x as f32).collect()),
            one => Ok(vec![one.float().ok_or_else(|| self.wrong_type(key, value, "floats"))?]),
        }
    }

    fn read_bool(&self, key: &str, value: &Value) -> Result<bool, Error> {
        match value {
            Value::Bool(x) => Ok(*x),
            _ => Err(self.wrong_type(key, value, "a bool")),
        }
    }

    fn read_str<'a>(&self, key: &str, value: &'a Value) -> Result<&'a str, Error> {
        match value {
            Value::String(x) => Ok(x),
            _ => Err(self.wrong_type(key, value, "a string")),
        }
    }

    fn read_strs<'a>(&self, key: &str, value: &'a Value) -> Result<Vec<&'a str>, Error> {
        match value {
            Value::Array(Array::String(x)) => Ok(x.iter().collect()),
            Value::String(x) => Ok(vec![x]),
            _ => Err(self.wrong_type(key, value, "strings")),
        }
    }

    fn narrowed<T: Integer>(&self, key: &str, found: i128) -> Result<T, Error> {
        T::try_from(found).map_err(|_| Error::OutOfRange {
            path: self.path.clone(),
            key: key.into(),
            found,
            allowed: format!("{} to {}", T::MIN, T::MAX),
        })
    }

    fn missing(&self, key: &str) -> Error {
        Error::MissingKey { path: self.path.clone(), key: key.into() }
    }

    fn wrong_type(&self, key: &str, value: &Value, expected: &'static str) -> Error {
        Error::WrongType { path: self.path.clone(), key: key.into(), found: value.type_name(), expected }
    }
}

/// The integers that callers ask for.
trait Integer: TryFrom<i128> {
    const MIN: i128;
    const MAX: i128;
}

macro_rules! integers {
    ($($type:ty)*) => {
        $(impl Integer for $type {
            const MIN: i128 = <$type>::MIN as i128;
            const MAX: i128 = <$type>::MAX as i128;
        })*
    };
}

integers! { u32 i32 u64 }

#[cfg(test)]
mod tests {
    use expect_test::{Expect, expect};

    use super::*;

    fn of(value: impl Into<Value>) -> Metadata {
        Metadata::new("m.gguf", vec![("k".into(), value.into())])
    }

    fn check<T: std::fmt::Debug>(found: Result<T, Error>, shown: Expect) {
        shown.assert_eq(&found.map_or_else(|e| e.to_string(), |found| format!("{found:?}")));
    }

    #[test]
    fn any_integer_that_fits_will_do() {
        check(of(7_u8).u32("k"), expect!["7"]);
        check(of(7_i64).u32("k"), expect!["7"]);
        check(of(u64::MAX).u64("k"), expect!["18446744073709551615"]);
        check(of(-1_i32).u32("k"), expect!["m.gguf: key `k` has the value -1; allowed: 0 to 4294967295"]);
        check(of(1_u64 << 32).u32("k"), expect!["m.gguf: key `k` has the value 4294967296; allowed: 0 to 4294967295"]);
        check(of(7.0_f32).u32("k"), expect!["m.gguf: key `k` is of type f32; expected an integer"]);
        check(of("7").u32_opt("k"), expect!["m.gguf: key `k` is a string; expected an integer"]);
    }

    #[test]
    fn absent_keys_are_named() {
        check(of(1_u32).str("x"), expect!["m.gguf: key `x` is missing"]);
        check(of(1_u32).str_opt("x"), expect!["None"]);
    }

    #[test]
    fn one_value_is_a_list_too() {
        check(of(7_u16).i32s("k"), expect!["[7]"]);
        check(of(vec![1_i32, 2]).u32s("k"), expect!["[1, 2]"]);
        check(of(vec![1_i32, -2]).u32s("k"), expect!["m.gguf: key `k` has the value -2; allowed: 0 to 4294967295"]);
        check(of(2.5_f64).f32s("k"), expect!["[2.5]"]);
        check(of(vec![2.5_f64]).f32s("k"), expect!["[2.5]"]);
        check(of(vec!["a", ""]).strs("k"), expect![[r#"["a", ""]"#]]);
    }

    #[test]
    fn arrays_of_another_type_are_refused() {
        check(of(vec![1_u8]).f32s("k"), expect!["m.gguf: key `k` is an array of u8; expected floats"]);
        check(of(vec![1_u8]).u32("k"), expect!["m.gguf: key `k` is an array of u8; expected an integer"]);
        check(of(vec![true]).strs("k"), expect!["m.gguf: key `k` is an array of bool; expected strings"]);
    }
}
