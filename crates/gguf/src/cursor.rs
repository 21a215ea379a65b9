//! Reads the fields of a header one after the other. Each read names its field, lazily: the name is only spelled when
//! the read fails.

use std::{fmt::Display, path::Path};

use crate::{Error, error::shorten};

/// The longest string in bytes, and array in elements: ten times what the largest vocabularies need.
const LEN_MAX: u64 = 1 << 28;

/// A place in the bytes of a file.
pub(crate) struct Cursor<'a> {
    path: &'a Path,
    bytes: &'a [u8],
    pos: usize, // at most `bytes.len()`
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(path: &'a Path, bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { path, bytes, pos: 0 }
    }

    /// The byte that the next field starts at.
    pub(crate) fn offset(&self) -> u64 {
        self.pos as u64
    }

    /// Bytes from here to the end of the file.
    pub(crate) fn left(&self) -> u64 {
        (self.bytes.len() - self.pos) as u64
    }

    /// Fails unless `n` more bytes are there.
    pub(crate) fn check_left(&self, n: u64, field: impl Display) -> Result<(), Error> {
        if n <= self.left() {
            return Ok(());
        }
        Err(Error::Cut {
            path: self.path.to_owned(),
            field: field.to_string(),
            offset: self.offset(),
            needs: n,
            len: self.bytes.len() as u64,
        })
    }

    /// The next `n` bytes.
    pub(crate) fn take(&mut self, n: u64, field: impl Display) -> Result<&'a [u8], Error> {
        self.check_left(n, field)?;
        let start = self.pos;
        self.pos += n as usize; // no more than are left, so it fits
        Ok(&self.bytes[start..self.pos])
    }

    pub(crate) fn u32(&mut self, field: impl Display) -> Result<u32, Error> {
        let bytes = self.take(4, field)?;
        Ok(u32::from_le_bytes(bytes.try_into().expect("four were taken")))
    }

    pub(crate) fn u64(&mut self, field: impl Display) -> Result<u64, Error> {
        let bytes = self.take(8, field)?;
        Ok(u64::from_le_bytes(bytes.try_into().expect("eight were taken")))
    }

    /// A number of things of which each takes at least `bytes_min` bytes.
    pub(crate) fn count(&mut self, bytes_min: u64, count_max: u64, field: impl Display) -> Result<usize, Error> {
        let offset = self.offset();
        let count = self.u64(&field)?;
        let room = self.left() / bytes_min;
        if count > count_max.min(room) {
            let allowed = match count_max < room {
                true => format!("at most {count_max}"),
                false => format!("at most {room}, for which there is room in the {} bytes that follow", self.left()),
            };
            return Err(self.invalid(offset, field, count, allowed));
        }
        Ok(count as usize) // no more than there are bytes, so it fits
    }

    /// A length and as much UTF-8. The bytes are copied before they are checked.
    pub(crate) fn string(&mut self, field: impl Display) -> Result<String, Error> {
        let mut text = String::new();
        self.string_into(&mut text, field)?;
        Ok(text)
    }

    /// [`string`](Cursor::string), appended to `out`.
    pub(crate) fn string_into(&mut self, out: &mut String, field: impl Display) -> Result<(), Error> {
        let start = self.offset();
        let len = self.u64(format_args!("length of {field}"))?;
        self.check_len(start, len, format_args!("length of {field}"))?;
        let offset = self.offset();
        let bytes = self.take(len, &field)?.to_vec();
        let text = String::from_utf8(bytes).map_err(|e| {
            let found = format!("`{}`", shorten(&String::from_utf8_lossy(e.as_bytes())));
            self.invalid(offset, field, found, "UTF-8")
        })?;
        out.push_str(&text);
        Ok(())
    }

    /// The length of an array of elements of at least `bytes_min` bytes each, all of which are there.
    pub(crate) fn array_len(&mut self, bytes_min: u64, field: impl Display) -> Result<u64, Error> {
        let start = self.offset();
        let len = self.u64(format_args!("length of {field}"))?;
        self.check_len(start, len, format_args!("length of {field}"))?;
        self.check_left(len * bytes_min, field)?;
        Ok(len)
    }

    fn check_len(&self, offset: u64, len: u64, field: impl Display) -> Result<(), Error> {
        if len <= LEN_MAX { Ok(()) } else { Err(self.invalid(offset, field, len, format!("at most {LEN_MAX}"))) }
    }

    /// The error for a value that was read at `offset`.
    pub(crate) fn invalid(
        &self,
        offset: u64,
        field: impl Display,
        found: impl Display,
        allowed: impl Into<String>,
    ) -> Error {
        Error::Invalid {
            path: self.path.to_owned(),
            field: field.to_string(),
            offset,
            found: found.to_string(),
            allowed: allowed.into(),
        }
    }
}
