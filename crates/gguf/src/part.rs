//! One file: header, keys, and the directory of tensors, checked field by field.

use std::{collections::HashMap, fmt::Display, path::Path};

use crate::{
    Array, Element, Error, Metadata, Strings, Value,
    cursor::Cursor,
    element,
    error::shorten,
    map::Map,
    value::{self, ARRAY, BOOL, STRING},
};

/// Far more than models have, and few enough that their bookkeeping stays small.
const KEYS_MAX: u64 = 1 << 16;
const TENSORS_MAX: u64 = 1 << 16;

/// The shortest key: a name of one byte and a value of one.
const KEY_BYTES_MIN: u64 = 8 + 1 + 4 + 1;
/// The shortest entry of the directory: a name of one byte and one dimension.
const TENSOR_BYTES_MIN: u64 = 8 + 1 + 4 + 8 + 4 + 8;

const NAME_BYTES_MAX: usize = 63;
const DIMS_MAX: u32 = 4;

pub(crate) const ALIGNMENT_KEY: &str = "general.alignment";
pub(crate) const ALIGNMENT_DEFAULT: u32 = 32;
const ALIGNMENT_MIN: u32 = 8;
const ALIGNMENT_MAX: u32 = 1 << 20;

/// An opened file.
pub(crate) struct Part {
    pub(crate) map: Map,
    pub(crate) version: u32,
    pub(crate) metadata: Metadata,
    pub(crate) tensors: Vec<Tensor>,
}

/// An entry of the directory, with its place in the file.
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>, // outermost first
    pub(crate) element: Element,
    pub(crate) start: usize,
    pub(crate) n_bytes: usize,
}

impl Part {
    /// Maps and checks the file at `path`.
    pub(crate) fn open(path: &Path) -> Result<Part, Error> {
        let map = Map::open(path)?;
        let mut cursor = Cursor::new(path, map.bytes());
        let version = magic_and_version(path, map.bytes(), &mut cursor)?;
        let n_tensors = cursor.count(TENSOR_BYTES_MIN, TENSORS_MAX, "tensor count")?;
        let n_keys = cursor.count(KEY_BYTES_MIN, KEYS_MAX, "key count")?;
        let metadata = Metadata::new(path, keys(path, &mut cursor, n_keys)?);
        let alignment = alignment(&metadata)?;
        let entries = directory(path, &mut cursor, n_tensors, alignment)?;
        let data = cursor.offset().next_multiple_of(alignment.into());
        let tensors = placed(path, entries, data, map.bytes().len() as u64)?;
        map.check_unchanged()?;
        Ok(Part { map, version, metadata, tensors })
    }
}

fn magic_and_version(path: &Path, bytes: &[u8], cursor: &mut Cursor) -> Result<u32, Error> {
    let len = bytes.len().min(4);
    if bytes[..len] != b"GGUF"[..len] {
        return Err(Error::NotGguf { path: path.to_owned(), found: looks_like(bytes) });
    }
    cursor.take(4, "magic")?;
    match cursor.u32("version")? {
        version @ (2 | 3) => Ok(version),
        version if version & 0xffff == 0 && version != 0 => Err(Error::BigEndian { path: path.to_owned(), version }),
        version => Err(cursor.invalid(4, "version", version, "2, 3")),
    }
}

/// What a file that is no GGUF may be instead.
fn looks_like(bytes: &[u8]) -> String {
    const STARTS: [(&[u8], &str); 12] = [
        (b"version https://git-lfs", "a Git LFS pointer, which stands for a file that was not downloaded"),
        (b"PK\x03\x04", "a zip archive, such as a PyTorch checkpoint"),
        (b"\x80\x02", "a Python pickle, such as a PyTorch checkpoint"),
        (b"<", "a web page, perhaps an error message saved as a model"),
        (b"{", "JSON"),
        (b"tjgg", "a model in the format before GGUF (GGJT)"),
        (b"lmgg", "a model in the format before GGUF (GGML)"),
        (b"fmgg", "a model in the format before GGUF (GGMF)"),
        (b"algg", "an adapter in the format before GGUF (GGLA)"),
        (b"\x7fELF", "a program"),
        (b"\x1f\x8b", "a gzip archive"),
        (b"\x28\xb5\x2f\xfd", "a zstd archive"),
    ];
    match STARTS.iter().find(|(start, _)| bytes.starts_with(start)) {
        Some((_, name)) => format!("it looks like {name}"),
        None if bytes.get(8) == Some(&b'{') => "it looks like safetensors".into(),
        None => format!("it starts with `{}`", bytes[..bytes.len().min(4)].escape_ascii()),
    }
}

fn keys(path: &Path, cursor: &mut Cursor, n: usize) -> Result<Vec<(String, Value)>, Error> {
    let mut keys = Vec::with_capacity(n);
    let mut seen = HashMap::with_capacity(n);
    for i in 0..n {
        let offset = cursor.offset();
        let key = cursor.string(format_args!("name of key {i}"))?;
        if key.is_empty() || key.contains(char::is_control) {
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

fn alignment(metadata: &Metadata) -> Result<u32, Error> {
    let alignment = metadata.u32_opt(ALIGNMENT_KEY)?.unwrap_or(ALIGNMENT_DEFAULT);
    if alignment.is_power_of_two() && (ALIGNMENT_MIN..=ALIGNMENT_MAX).contains(&alignment) {
        return Ok(alignment);
    }
    Err(Error::OutOfRange {
        path: metadata.path().to_owned(),
        key: ALIGNMENT_KEY.into(),
        found: alignment.into(),
        allowed: format!("powers of two from {ALIGNMENT_MIN} to {ALIGNMENT_MAX}"),
    })
}

/// The entries of the directory.
fn directory(path: &Path, cursor: &mut Cursor, n: usize, alignment: u32) -> Result<Vec<Entry>, Error> {
    let mut entries = Vec::with_capacity(n);
    let mut seen = HashMap::with_capacity(n);
    for i in 0..n {
        let at = cursor.offset();
        let entry = entry(cursor, i, alignment)?;
        if let Some(first) = seen.insert(entry.name.clone(), at) {
            let name = entry.name;
            return Err(Error::Duplicate { path: path.to_owned(), what: "tensor", name, first, second: at });
        }
        entries.push(entry);
    }
    Ok(entries)
}

/// What the directory says of a tensor, before it is known where the data starts.
struct Entry {
    name: String,
    shape: Vec<usize>,
    element: Element,
    offset: u64,
    n_bytes: usize,
}

fn entry(cursor: &mut Cursor, i: usize, alignment: u32) -> Result<Entry, Error> {
    let name = tensor_name(cursor, i)?;
    let tensor = format!("tensor {i} (`{name}`)");
    let dims_at = cursor.offset();
    let shape = shape(cursor, &tensor)?;
    let element = element_type(cursor, &tensor)?;
    let row = *shape.last().expect("there is at least one dimension");
    let Some(row_bytes) = element.row_bytes(row) else {
        let allowed = format!("rows of whole blocks, {} values each in {}", element.block_len(), element.name());
        return Err(cursor.invalid(dims_at, format_args!("shape of {tensor}"), format!("{shape:?}"), allowed));
    };
    let n_rows = shape[..shape.len() - 1].iter().product(); // of all elements there is an `i64` full, so no overflow
    let Some(n_bytes) = row_bytes.checked_mul(n_rows).filter(|&n| i64::try_from(n).is_ok()) else {
        return Err(cursor.invalid(dims_at, format_args!("shape of {tensor}"), format!("{shape:?}"), BYTES_ALLOWED));
    };
    let offset_at = cursor.offset();
    let offset = cursor.u64(format_args!("offset of {tensor}"))?;
    if !offset.is_multiple_of(alignment.into()) || i64::try_from(offset).is_err() {
        let allowed = format!("multiples of {alignment} up to 9223372036854775807");
        return Err(cursor.invalid(offset_at, format_args!("offset of {tensor}"), offset, allowed));
    }
    Ok(Entry { name, shape, element, offset, n_bytes })
}

const BYTES_ALLOWED: &str = "at most 9223372036854775807 elements and bytes";

fn tensor_name(cursor: &mut Cursor, i: usize) -> Result<String, Error> {
    let offset = cursor.offset();
    let name = cursor.string(format_args!("name of tensor {i}"))?;
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains(char::is_control) {
        return Ok(name);
    }
    let found = format!("`{}`", shorten(&name));
    let allowed = format!("1 to {NAME_BYTES_MAX} bytes, printable");
    Err(cursor.invalid(offset, format_args!("name of tensor {i}"), found, allowed))
}

/// The dimensions, outermost first. There is at least one, and their product is an `i64`.
fn shape(cursor: &mut Cursor, tensor: &str) -> Result<Vec<usize>, Error> {
    let offset = cursor.offset();
    let n_dims = cursor.u32(format_args!("number of dimensions of {tensor}"))?;
    if !(1..=DIMS_MAX).contains(&n_dims) {
        let allowed = format!("1 to {DIMS_MAX}");
        return Err(cursor.invalid(offset, format_args!("number of dimensions of {tensor}"), n_dims, allowed));
    }
    let mut shape = Vec::with_capacity(n_dims as usize);
    let mut n_elements = 1_i64;
    for d in 0..n_dims {
        let field = format_args!("dimension {d} of {tensor}");
        let offset = cursor.offset();
        let dim = cursor.u64(field)?;
        if dim == 0 {
            return Err(cursor.invalid(offset, field, dim, "1 and more"));
        }
        let product = i64::try_from(dim).ok().and_then(|dim| n_elements.checked_mul(dim));
        let fits = product.zip(usize::try_from(dim).ok());
        let Some((product, dim)) = fits else {
            return Err(cursor.invalid(offset, field, dim, BYTES_ALLOWED));
        };
        n_elements = product;
        shape.insert(0, dim);
    }
    Ok(shape)
}

fn element_type(cursor: &mut Cursor, tensor: &str) -> Result<Element, Error> {
    let offset = cursor.offset();
    let id = cursor.u32(format_args!("type of {tensor}"))?;
    let unsupported =
        || cursor.invalid(offset, format_args!("type of {tensor}"), element::describe(id), element::supported());
    Element::from_id(id).ok_or_else(unsupported)
}

/// Finds the entries' places in the file, whose data starts at byte `data`; they must lie in it, and share no byte.
fn placed(path: &Path, entries: Vec<Entry>, data: u64, len: u64) -> Result<Vec<Tensor>, Error> {
    // `data` is near a byte of the file, offset and length are `i64`s: the sums fit.
    let end = |e: &Entry| data + e.offset + e.n_bytes as u64;
    if let Some(last) = entries.iter().max_by_key(|e| end(e)).filter(|e| end(e) > len) {
        let (start, end) = (data + last.offset, end(last));
        return Err(Error::Truncated { path: path.to_owned(), tensor: last.name.clone(), start, end, len });
    }
    let place = |e: Entry| {
        let start = (data + e.offset) as usize; // bytes of a mapped file are counted by `usize`
        Tensor { name: e.name, shape: e.shape, element: e.element, start, n_bytes: e.n_bytes }
    };
    let tensors: Vec<Tensor> = entries.into_iter().map(place).collect();
    check_overlap(path, &tensors)?;
    Ok(tensors)
}

/// Sorts by place and compares neighbours.
fn check_overlap(path: &Path, tensors: &[Tensor]) -> Result<(), Error> {
    let mut sorted: Vec<&Tensor> = tensors.iter().collect();
    sorted.sort_by_key(|t| t.start);
    for pair in sorted.windows(2) {
        let end = pair[0].start + pair[0].n_bytes;
        if pair[1].start < end {
            let [first, second] = [pair[0], pair[1]].map(|t| t.name.clone());
            let (start, end) = (pair[1].start as u64, end as u64);
            return Err(Error::Overlap { path: path.to_owned(), first, second, start, end });
        }
    }
    Ok(())
}
