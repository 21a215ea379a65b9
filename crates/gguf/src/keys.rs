//! The keys of a file and their values, checked as they are read.

use std::{collections::HashMap, fmt::Display, path::Path};

use crate::{
    Array, Error, Strings, Value,
    cursor::Cursor,
    error::{is_treacherous, shorten},
    value::{self, ARRAY, BOOL, STRING},
};

/// The shortest key: a name of one byte and a value of one.
pub(crate) const KEY_BYTES_MIN: u64 = 8 + 1 + 4 + 1;

/// The next `n` keys.
pub(crate) fn read(path: &Path, cursor: &mut Cursor, n: usize) -> Result<Vec<(String, Value)>, Error> {
    let mut keys = Vec::with_capacity(n);
    let mut seen = HashMap::with_capacity(n);
    for i in 0..n {
        let offset = cursor.offset();
        let key = cursor.string(format_args!("name of key {i}"))?;
        if key.is_empty() || key.contains(is_treacherous) {
            let found = format!("`{}`", shorten(&key));
            return Err(cursor.invalid(
                offset,
                format_args!("name of key {i}"),
                found,
                "one or more printable characters",
            ));
        }
        if let Some(first) = seen.insert(key.clone(), offset) {
            let name = shorten(&key);
            return Err(Error::Duplicate { path: path.to_owned(), what: "key", name, first, second: offset });
        }
        let value = value(cursor, format_args!("key {i} (`{}`)", shorten(&key)))?;
        keys.push((key, value));
    }
    Ok(keys)
}

fn value(cursor: &mut Cursor, key: impl Display) -> Result<Value, Error> {
    let offset = cursor.offset();
    let id = cursor.u32(format_args!("type of {key}"))?;
    let field = format_args!("value of {key}");
    if let Some(n_bytes) = value::number_bytes(id) {
        let bytes = cursor.take(n_bytes as u64, field)?;
        return Ok(Value::number(id, bytes).expect("a type of numbers, and as many bytes as it has"));
    }
    match id {
        BOOL => Ok(Value::Bool(bools(cursor, 1, field)?[0])),
        STRING => Ok(Value::String(cursor.string(field)?)),
        ARRAY => Ok(Value::Array(array(cursor, key)?)),
        _ => Err(cursor.invalid(offset, format_args!("type of {key}"), id, "0 to 12")),
    }
}

fn array(cursor: &mut Cursor, key: impl Display) -> Result<Array, Error> {
    let offset = cursor.offset();
    let id = cursor.u32(format_args!("element type of {key}"))?;
    let field = format_args!("value of {key}");
    if let Some(n_bytes) = value::number_bytes(id) {
        let len = cursor.array_len(n_bytes as u64, field)?;
        let bytes = cursor.take(len * n_bytes as u64, field)?;
        return Ok(Array::numbers(id, bytes).expect("a type of numbers"));
    }
    match id {
        BOOL => {
            let len = cursor.array_len(1, field)?;
            Ok(Array::Bool(bools(cursor, len, field)?))
        }
        STRING => Ok(Array::String(strings(cursor, key)?)),
        ARRAY => Err(cursor.invalid(offset, format_args!("element type of {key}"), "9 (array)", "0 to 8, 10 to 12")),
        _ => Err(cursor.invalid(offset, format_args!("element type of {key}"), id, "0 to 8, 10 to 12")),
    }
}

fn bools(cursor: &mut Cursor, n: u64, field: impl Display) -> Result<Vec<bool>, Error> {
    let offset = cursor.offset();
    let bytes = cursor.take(n, &field)?.to_vec();
    match (offset..).zip(&bytes).find(|(_, b)| **b > 1) {
        Some((at, found)) => Err(cursor.invalid(at, field, found, "0, 1")),
        None => Ok(bytes.into_iter().map(|b| b == 1).collect()),
    }
}

fn strings(cursor: &mut Cursor, key: impl Display) -> Result<Strings, Error> {
    const BYTES_MIN: u64 = 8; // of an empty string
    let len = cursor.array_len(BYTES_MIN, format_args!("value of {key}"))? as usize;
    let mut strings = Strings::with_capacity(len);
    let mut text = String::new();
    for i in 0..len {
        text.clear();
        cursor.string_into(&mut text, format_args!("element {i} of {key}"))?;
        strings.push(&text);
    }
    Ok(strings)
}
