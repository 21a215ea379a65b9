//! The directory of tensors, checked as it is read: names, shapes, types; and when all of it is known, places.

use std::{collections::HashMap, path::Path};

use crate::{
    Element, Error,
    cursor::Cursor,
    element,
    error::{is_treacherous, shorten},
};

/// The shortest entry: a name of one byte and one dimension.
pub(crate) const TENSOR_BYTES_MIN: u64 = 8 + 1 + 4 + 8 + 4 + 8;

/// The longest name of a tensor, in bytes.
pub const NAME_BYTES_MAX: usize = 63;
const DIMS_MAX: u32 = 4;
const BYTES_ALLOWED: &str = "at most 9223372036854775807 elements and bytes";

/// An entry of the directory.
pub(crate) struct Tensor {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>, // outermost first
    pub(crate) element: Element,
    pub(crate) offset: u64, // into the data
    pub(crate) n_bytes: usize,
}

/// The next `n` entries.
pub(crate) fn read(path: &Path, cursor: &mut Cursor, n: usize, alignment: u32) -> Result<Vec<Tensor>, Error> {
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

/// Checks that the tensors lie in a file of `len` bytes, whose data starts at byte `data`, and share no byte.
pub(crate) fn check_places(path: &Path, tensors: &[Tensor], data: u64, len: u64) -> Result<(), Error> {
    // Offset and length may be any two `i64`s, and together with `data` more than a `u64` holds. So the file's length is
    // what is counted down; the end, for the message, stops at the largest number there is.
    let left = |t: &Tensor| len.checked_sub(data)?.checked_sub(t.offset)?.checked_sub(t.n_bytes as u64);
    let end = |t: &Tensor| data.saturating_add(t.offset).saturating_add(t.n_bytes as u64);
    if let Some(last) = tensors.iter().filter(|t| left(t).is_none()).max_by_key(|t| end(t)) {
        let (start, end) = (data.saturating_add(last.offset), end(last));
        return Err(Error::Truncated { path: path.to_owned(), tensor: last.name.clone(), start, end, len });
    }
    let mut sorted: Vec<&Tensor> = tensors.iter().collect();
    sorted.sort_by_key(|t| t.offset);
    for pair in sorted.windows(2) {
        let (start, end) = (data + pair[1].offset, end(pair[0])); // in the file, all of them
        if start < end {
            let [first, second] = [pair[0], pair[1]].map(|t| t.name.clone());
            return Err(Error::Overlap { path: path.to_owned(), first, second, start, end });
        }
    }
    Ok(())
}

fn entry(cursor: &mut Cursor, i: usize, alignment: u32) -> Result<Tensor, Error> {
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
    Ok(Tensor { name, shape, element, offset, n_bytes })
}

fn tensor_name(cursor: &mut Cursor, i: usize) -> Result<String, Error> {
    let offset = cursor.offset();
    let name = cursor.string(format_args!("name of tensor {i}"))?;
    if (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.contains(is_treacherous) {
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
