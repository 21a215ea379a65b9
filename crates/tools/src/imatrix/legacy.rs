//! The format of `.dat` files, which came before there was a GGUF for this.
//!
//! ```text
//! i32 number of entries; of each:  i32 length, name   i32 ncall   i32 nval   f32[nval], of experts one after another
//! i32 number of chunks             may be missing, as may what follows
//! i32 length, name of the text
//! ```
//!
//! Values are `ncall * mean`, and 1 is the mean of an expert that no row met. llama.cpp writes for `ncall` the chunks that
//! the most frequent expert filled, antirez's DS4 writes 1. An `ncall` of 0 was written by old versions where the division rounded
//! down; the values are then 0, too, and say nothing.

use std::{
    io::{self, Write},
    path::Path,
};

use gguf::Bytes;

use super::{CHUNK_SIZE, Entry, Error, Imatrix, sums::Sums};

/// Bytes of the shortest entry: a name of one byte, and a value.
const ENTRY_BYTES_MIN: u64 = 4 + 1 + 4 + 4 + 4;
/// The longest name of a tensor: several times those that there are.
const NAME_BYTES_MAX: u64 = 256;
/// The longest name of a text.
const DATASET_BYTES_MAX: u64 = 1 << 16;

const I32_MAX: u64 = i32::MAX as u64;

/// Reads a file of this format.
pub(super) fn read(path: &Path) -> Result<Imatrix, Error> {
    let mut fields = Fields::open(path)?;
    // Nothing else tells such a file from any other.
    let other = |_| Error::NotImatrix { path: path.into(), found: "neither GGUF nor .dat".into() };
    let n = fields.number("number of entries", 1, |left| left / ENTRY_BYTES_MIN).map_err(other)?;
    let mut read = Imatrix::new(CHUNK_SIZE);
    for i in 0..n {
        let name = name(&mut fields, i);
        let name = if i == 0 { name.map_err(other)? } else { name? };
        let entry = entry(&mut fields, &name)?;
        if read.entries.insert(name.clone(), entry).is_some() {
            return Err(Error::Entry { path: path.into(), entry: name, why: "is there twice".into() });
        }
    }
    if fields.left() > 0 {
        read.chunk_count = fields.number("number of chunks", 0, |_| I32_MAX)? as u32;
    }
    if fields.left() > 0 {
        let len = fields.number("length of the text's name", 0, |left| left.min(DATASET_BYTES_MAX))?;
        let name = String::from_utf8_lossy(fields.take(len, "name of the text")?.as_ref()).into_owned();
        read.datasets.extend((len > 0).then_some(name));
    }
    match fields.left() {
        0 => Ok(read),
        left => Err(fields.invalid(fields.offset, "the end", format!("{left} bytes too early"), "the end of the file")),
    }
}

fn name(fields: &mut Fields, i: u64) -> Result<String, Error> {
    let field = format!("name of entry {i}");
    let len = fields.number(&format!("length of the {field}"), 1, |_| NAME_BYTES_MAX)?;
    let offset = fields.offset;
    let name = fields.take(len, &field)?;
    let name = str::from_utf8(name.as_ref()).ok().filter(|name| name.chars().all(|c| c.escape_debug().len() == 1));
    name.map(str::to_owned).ok_or_else(|| fields.invalid(offset, &field, "something else", "printable UTF-8"))
}

fn entry(fields: &mut Fields, name: &str) -> Result<Entry, Error> {
    let n_call = fields.number(&format!("ncall of entry `{name}`"), 1, |_| I32_MAX)?;
    let n_val = fields.number(&format!("nval of entry `{name}`"), 1, |left| left / 4)?;
    let bytes = fields.take(4 * n_val, &format!("values of entry `{name}`"))?;
    // A power of two, so nothing is rounded.
    let sums = Sums::There { bytes, factor: CHUNK_SIZE as f32 };
    let entry = Entry::of(sums, vec![n_call * u64::from(CHUNK_SIZE)]);
    entry.map_err(|why| Error::Entry { path: fields.path.into(), entry: name.into(), why })
}

/// The fields of a file, one after another.
struct Fields<'a> {
    path: &'a Path,
    bytes: Bytes,
    offset: u64,
}

impl<'a> Fields<'a> {
    fn open(path: &'a Path) -> Result<Fields<'a>, Error> {
        Ok(Fields { path, bytes: Bytes::open(path)?, offset: 0 })
    }

    fn left(&self) -> u64 {
        self.bytes.as_ref().len() as u64 - self.offset
    }

    fn take(&mut self, n: u64, field: &str) -> Result<Bytes, Error> {
        if n > self.left() {
            let found = format!("{n} bytes long");
            return Err(self.invalid(self.offset, field, found, format!("at most {}, which are left", self.left())));
        }
        let start = self.offset as usize; // in the map, as is what follows
        self.offset += n;
        Ok(self.bytes.slice(start..start + n as usize))
    }

    /// A number from `least` on; `most` is told how many bytes are left behind it.
    fn number(&mut self, field: &str, least: u64, most: impl FnOnce(u64) -> u64) -> Result<u64, Error> {
        let offset = self.offset;
        let bytes = self.take(4, field)?;
        let found = i32::from_le_bytes(bytes.as_ref().try_into().expect("four were taken"));
        let most = most(self.left());
        let fits = u64::try_from(found).ok().filter(|found| (least..=most).contains(found));
        fits.ok_or_else(|| self.invalid(offset, field, found, format!("{least} to {most}")))
    }

    fn invalid(&self, offset: u64, field: &str, found: impl ToString, allowed: impl Into<String>) -> Error {
        let (found, allowed) = (found.to_string(), allowed.into());
        Error::Field { path: self.path.into(), field: field.into(), offset, found, allowed }
    }
}

impl Imatrix {
    /// Writes a legacy file, which holds less: means, no counts by expert, and the name of the last text only. Read again,
    /// importance is the same but for rounding.
    ///
    /// # Errors
    /// What `out` says; [`io::ErrorKind::FileTooLarge`] if a number does not fit the format.
    pub fn write_legacy(&self, out: &mut dyn Write) -> io::Result<()> {
        number(out, self.entries.len())?;
        for (name, entry) in &self.entries {
            text(out, name)?;
            let most = entry.counts().iter().copied().max().unwrap_or(0);
            let n_call = most.div_ceil(self.chunk_size.into());
            number(out, n_call)?;
            number(out, entry.n_sums())?;
            for (sums, &count) in entry.sums().chunks(entry.n_cols()).zip(entry.counts()) {
                let value = |&sum: &f32| match count {
                    0 => n_call as f32,
                    // As long as the product of both is exact, so is the way there and back.
                    count => (f64::from(sum) * n_call as f64 / count as f64) as f32,
                };
                sums.iter().try_for_each(|sum| out.write_all(&value(sum).to_le_bytes()))?;
            }
        }
        number(out, self.chunk_count)?;
        text(out, self.datasets.last().map_or("", String::as_str))
    }
}

fn number(out: &mut dyn Write, n: impl TryInto<i32>) -> io::Result<()> {
    let n: i32 = n.try_into().map_err(|_| io::ErrorKind::FileTooLarge)?;
    out.write_all(&n.to_le_bytes())
}

fn text(out: &mut dyn Write, text: &str) -> io::Result<()> {
    number(out, text.len())?;
    out.write_all(text.as_bytes())
}
