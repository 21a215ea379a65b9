//! The header of a safetensors file, checked: what it returns are tensors that lie in the file and share no byte.
//!
//! ```text
//! length u64   JSON {"name": {"dtype", "shape", "data_offsets": [begin, end]}, .., "__metadata__": {..}}   data
//! ```
//!
//! Little-endian; offsets count from the data, which the tensors cover without holes: what no tensor owns could be read
//! by another program as another file. Nothing is allocated by what a field claims, but by the bytes that are there.
//! Source: the documentation of safetensors, "Format"; the review of its format by Trail of Bits, 2023.

use std::{fs::File, ops::Range, path::Path};

use gguf::shorten;
use safetensors::{Dtype, tensor::TensorInfo};
use serde_json::{Map, Value};

use super::Error;

/// The longest header that the format allows.
const HEADER_BYTES_MAX: u64 = 100_000_000;

/// What describes a file, not a tensor.
const METADATA: &str = "__metadata__";

/// A tensor as a file has it.
pub(super) struct Stored {
    pub(super) name: String,
    pub(super) dtype: Dtype,
    /// Dimensions, outermost first.
    pub(super) shape: Vec<usize>,
    /// Its bytes in the file.
    pub(super) range: Range<u64>,
}

/// The tensors of a file of `len` bytes, in the order of their bytes.
pub(super) fn read(path: &Path, file: &File, len: u64) -> Result<Vec<Stored>, Error> {
    let header = bytes(path, file, len)?;
    let data = 8 + header.len() as u64;
    let json: Map<String, Value> = serde_json::from_slice(&header)
        .map_err(|e| Error::Json { path: path.to_owned(), what: format!("header: {}", shorten(&e.to_string())) })?;
    let tensors = json.into_iter().filter(|(name, _)| name != METADATA);
    let mut tensors = tensors.map(|(name, value)| tensor(path, name, value, data)).collect::<Result<Vec<_>, _>>()?;
    tensors.sort_by_key(|t| (t.range.start, t.range.end));
    check_cover(path, &tensors, data, len)?;
    Ok(tensors)
}

fn bytes(path: &Path, file: &File, len: u64) -> Result<Vec<u8>, Error> {
    let cut = |needs| Error::Cut { path: path.to_owned(), needs, len };
    if len < 8 {
        return Err(cut(8));
    }
    let mut n = [0; 8];
    files::read_exact_at(file, &mut n, 0).map_err(Error::io(path))?;
    let n = u64::from_le_bytes(n);
    if !(2..=HEADER_BYTES_MAX).contains(&n) {
        let allowed = format!("2 to {HEADER_BYTES_MAX}");
        return Err(Error::invalid(path, "length of the header at byte 0", &n.to_string(), allowed));
    }
    if n > len - 8 {
        return Err(cut(8 + n));
    }
    let mut header = vec![0; n as usize];
    files::read_exact_at(file, &mut header, 8).map_err(Error::io(path))?;
    match header[0] {
        b'{' => Ok(header),
        other => {
            Err(Error::invalid(path, "the header at byte 8", &format!("`{}`", other.escape_ascii()), "an object, `{`"))
        }
    }
}

fn tensor(path: &Path, name: String, value: Value, data: u64) -> Result<Stored, Error> {
    let field = || format!("tensor `{}`", shorten(&name));
    if let Some(dtype) = value.get("dtype").filter(|&d| serde_json::from_value::<Dtype>(d.clone()).is_err()) {
        let known = "the types of the safetensors format, F32, BF16, F8_E4M3 and others";
        return Err(Error::invalid(path, format!("type of {}", field()), &dtype.to_string(), known));
    }
    let info: TensorInfo = serde_json::from_value(value)
        .map_err(|e| Error::invalid(path, field(), &e.to_string(), "an object of dtype, shape and data_offsets"))?;
    let (begin, end) = (info.data_offsets.0 as u64, info.data_offsets.1 as u64);
    let Some(range) = data.checked_add(begin).zip(data.checked_add(end)).filter(|(begin, end)| begin <= end) else {
        let found = format!("[{begin}, {end}]");
        return Err(Error::invalid(path, format!("data_offsets of {}", field()), &found, "[begin, end], begin first"));
    };
    let n_elements = info.shape.iter().try_fold(1_u64, |n, &dim| n.checked_mul(dim as u64));
    let n_bits = n_elements.and_then(|n| n.checked_mul(info.dtype.bitsize() as u64));
    if n_bits.is_none_or(|n| n % 8 != 0 || n / 8 != end - begin) {
        return Err(Error::Size {
            path: path.to_owned(),
            tensor: shorten(&name),
            dtype: info.dtype.to_string(),
            shape: info.shape,
            needs: n_bits.map_or("more than 2^60 bytes".into(), |n| format!("{} bytes", n as f64 / 8.0)),
            found: end - begin,
        });
    }
    Ok(Stored { name, dtype: info.dtype, shape: info.shape, range: range.0..range.1 })
}

/// Checks that the tensors, in the order of their bytes, follow on each other from the header to the end of the file.
fn check_cover(path: &Path, tensors: &[Stored], data: u64, len: u64) -> Result<(), Error> {
    let (mut done, mut last) = (data, "");
    for t in tensors {
        let Range { start, end } = t.range;
        if start < done {
            let (first, second) = (shorten(last), shorten(&t.name));
            return Err(Error::Overlap { path: path.to_owned(), first, second, start, end: done });
        }
        if start > done {
            return Err(Error::Hole { path: path.to_owned(), start: done, end: start });
        }
        if end > len {
            return Err(Error::Truncated { path: path.to_owned(), tensor: shorten(&t.name), start, end, len });
        }
        (done, last) = (end, &t.name);
    }
    if done < len {
        return Err(Error::Hole { path: path.to_owned(), start: done, end: len });
    }
    Ok(())
}
