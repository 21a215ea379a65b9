//! The GGUF format.
//!
//! ```text
//! general.type = "imatrix"
//! imatrix.datasets      strings   imatrix.chunk_count  u32   imatrix.chunk_size  u32
//! imatrix.down_rows     "weighted" or "alike": ours; absent in files of llama.cpp
//! NAME.in_sum2          F32 [n_mat, columns]   sums of squares
//! NAME.counts           F32 [n_mat, 1]         rows, exact up to 2^24
//! ```
//!
//! What else llama.cpp writes (`NAME.in_sum`, `NAME.stats`) is passed over: it is for people to look at. Some of its builds name a
//! matrix that they cut into groups `NAME (reshaped)`, which is read as NAME.

use std::{
    io::{self, Write},
    path::Path,
};

use gguf::{Element, Gguf, NAME_BYTES_MAX, TensorInfo, Writer};
use quant::Format;

use super::{Entry, Error, Imatrix, Rows, sums::Sums};

const F32: Element = Element::Packed(Format::F32);
const SUMS: &str = ".in_sum2";
const COUNTS: &str = ".counts";
const RESHAPED: &str = " (reshaped)";
const DATASETS: &str = "imatrix.datasets";
const CHUNK_COUNT: &str = "imatrix.chunk_count";
const CHUNK_SIZE: &str = "imatrix.chunk_size";
const DOWN_ROWS: &str = "imatrix.down_rows";
const DOWN: [(Rows, &str); 2] = [(Rows::Weighted, "weighted"), (Rows::Alike, "alike")];

/// Reads a file of this format.
pub(super) fn read(path: &Path) -> Result<Imatrix, Error> {
    let file = Gguf::open(path)?;
    let keys = file.metadata();
    let kind = keys.str_opt("general.type")?.unwrap_or("model");
    if kind != "imatrix" {
        let found = format!("a GGUF of type {:?}", kind.chars().take(64).collect::<String>());
        return Err(Error::NotImatrix { path: path.into(), found });
    }
    let mut read = Imatrix::new(keys.u32_opt(CHUNK_SIZE)?.filter(|&size| size > 0).unwrap_or(super::CHUNK_SIZE));
    read.chunk_count = keys.u32_opt(CHUNK_COUNT)?.unwrap_or(0);
    read.datasets = keys.strs_opt(DATASETS)?.unwrap_or_default().into_iter().map(str::to_owned).collect();
    read.down = rows(path, keys.str_opt(DOWN_ROWS)?)?;
    for sums in file.tensors() {
        if let Some(name) = sums.name.strip_suffix(SUMS) {
            let refused = |why| Error::Entry { path: path.into(), entry: name.into(), why };
            let entry = entry(&file, name, sums).map_err(refused)?;
            if read.entries.insert(name.trim_end_matches(RESHAPED).into(), entry).is_some() {
                return Err(refused("is there twice".into()));
            }
        }
    }
    check_counts(&file, &read)?;
    Ok(read)
}

fn rows(path: &Path, key: Option<&str>) -> Result<Option<Rows>, Error> {
    let Some(word) = key else { return Ok(None) };
    let known = DOWN.iter().find(|(_, name)| *name == word);
    known.map(|(rows, _)| Some(*rows)).ok_or_else(|| Error::Entry {
        path: path.into(),
        entry: DOWN_ROWS.into(),
        why: format!("{:?} is none of {:?}", word.chars().take(64).collect::<String>(), DOWN.map(|(_, name)| name)),
    })
}

/// Fails if there is nothing, or a tensor was counted whose sums are missing.
fn check_counts(file: &Gguf, read: &Imatrix) -> Result<(), Error> {
    if read.entries.is_empty() {
        return Err(Error::NotImatrix { path: file.path().into(), found: "a GGUF without sums".into() });
    }
    let counted = file.tensors().iter().filter_map(|t| t.name.strip_suffix(COUNTS));
    match counted.into_iter().find(|&name| !read.entries.contains_key(name.trim_end_matches(RESHAPED))) {
        Some(name) => Err(Error::Entry {
            path: file.path().into(),
            entry: name.into(),
            why: format!("has `{name}{COUNTS}`, but no `{name}{SUMS}`"),
        }),
        None => Ok(()),
    }
}

fn entry(file: &Gguf, name: &str, sums: &TensorInfo) -> Result<Entry, String> {
    let counts = format!("{name}{COUNTS}");
    let counts = file.tensor(&counts).ok_or_else(|| format!("has `{name}{SUMS}`, but no `{counts}`"))?;
    let rows = |t: &TensorInfo| t.shape.split_last().map_or(0, |(_, outer)| outer.iter().product::<usize>());
    if rows(sums) != counts.n_elements() {
        return Err(format!("sums of {} matrices, but {} counts", rows(sums), counts.n_elements()));
    }
    let counts = floats(file, counts)?.all().iter().enumerate().map(|(i, &x)| count(i, x)).collect::<Result<_, _>>()?;
    Entry::of(floats(file, sums)?, counts)
}

/// Whole numbers that a `u64` holds.
fn count(i: usize, x: f32) -> Result<u64, String> {
    let whole = x.fract() == 0.0 && (0.0..2f32.powi(63)).contains(&x);
    whole.then_some(x as u64).ok_or_else(|| format!("count {i} is {x}; allowed: whole numbers from 0 to 2^63"))
}

fn floats(file: &Gguf, t: &TensorInfo) -> Result<Sums, String> {
    match t.element {
        F32 => Ok(Sums::There { bytes: file.bytes(t), factor: 1.0 }),
        other => Err(format!("`{}` is {}; allowed: F32", t.name, other.name())),
    }
}

impl Imatrix {
    /// Writes a GGUF. The same importance gives the same bytes.
    ///
    /// # Errors
    /// What `out` says; [`io::ErrorKind::InvalidInput`] if a name is too long for the format.
    pub fn write_gguf(&self, out: &mut dyn Write) -> io::Result<()> {
        if let Some(name) = self.entries.keys().find(|name| name.len() + SUMS.len() > NAME_BYTES_MAX) {
            let what = format!("`{name}` is longer than names in a GGUF may be; the format dat has room for it");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        let mut file = Writer::new();
        file.set("general.type", "imatrix").set(DATASETS, self.datasets.clone());
        file.set(CHUNK_COUNT, self.chunk_count).set(CHUNK_SIZE, self.chunk_size);
        if let Some((_, word)) = DOWN.iter().find(|(rows, _)| Some(*rows) == self.down) {
            file.set(DOWN_ROWS, *word);
        }
        for (name, entry) in &self.entries {
            let n = entry.counts().len();
            file.tensor_with(&format!("{name}{SUMS}"), &[n, entry.n_cols()], F32, move |out| {
                put(out, entry.sums().iter().copied())
            });
            file.tensor_with(&format!("{name}{COUNTS}"), &[n, 1], F32, move |out| {
                put(out, entry.counts().iter().map(|&count| count as f32))
            });
        }
        file.write_to(out)
    }
}

fn put(out: &mut dyn Write, mut floats: impl Iterator<Item = f32>) -> io::Result<()> {
    floats.try_for_each(|x| out.write_all(&x.to_le_bytes()))
}
