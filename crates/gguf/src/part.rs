//! One file: its header, whose keys and directory have files of their own.

use std::path::Path;

use crate::{
    Error, Metadata,
    cursor::Cursor,
    directory::{self, TENSOR_BYTES_MIN, Tensor},
    keys::{self, KEY_BYTES_MIN},
    map::Map,
};

/// Far more than models have, and few enough that their bookkeeping stays small.
const KEYS_MAX: u64 = 1 << 16;
const TENSORS_MAX: u64 = 1 << 16;

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
    pub(crate) data: usize, // the byte that offsets count from
}

impl Part {
    /// Maps and checks the file at `path`.
    pub(crate) fn open(path: &Path) -> Result<Part, Error> {
        Part::of(Map::open(path)?)
    }

    /// Checks what is mapped.
    pub(crate) fn of(map: Map) -> Result<Part, Error> {
        let path = map.path();
        let mut cursor = Cursor::new(path, map.bytes());
        let version = magic_and_version(path, map.bytes(), &mut cursor)?;
        let n_tensors = cursor.count(TENSOR_BYTES_MIN, TENSORS_MAX, "tensor count")?;
        let n_keys = cursor.count(KEY_BYTES_MIN, KEYS_MAX, "key count")?;
        let metadata = Metadata::new(path, keys::read(path, &mut cursor, n_keys)?);
        let alignment = alignment(&metadata)?;
        let tensors = directory::read(path, &mut cursor, n_tensors, alignment)?;
        let data = cursor.offset().next_multiple_of(alignment.into());
        directory::check_places(path, &tensors, data, map.bytes().len() as u64)?;
        map.check_unchanged()?;
        Ok(Part { map, version, metadata, tensors, data: data as usize })
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
