//! A model: one file, or several that are opened by the first.
//!
//! ```text
//! name-00001-of-00003.gguf   all keys, the first tensors   split.no 0, split.count 3, split.tensors.count of all
//! name-00002-of-00003.gguf   the next tensors              split.no 1, split.count 3
//! name-00003-of-00003.gguf   the last                      split.no 2, split.count 3
//! ```
//!
//! The other parts are looked for beside the first, by names made of its own, so a file cannot lead us elsewhere.

use std::{collections::HashMap, fmt, ops::Range, path::Path, sync::Arc};

use crate::{Bytes, Element, Error, Metadata, Origin, Stamp, directory::Tensor, error::shorten, map::Map, part::Part};

const NO: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// An opened model.
pub struct Gguf {
    parts: Vec<Arc<Map>>,
    version: u32,
    metadata: Metadata,
    tensors: Vec<TensorInfo>,
    by_name: HashMap<String, usize>,
}

/// An entry of the directory.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// The name, unique in the model.
    pub name: String,
    /// The dimensions, outermost first: the file's, reversed. None is zero.
    pub shape: Vec<usize>,
    /// The type of the elements.
    pub element: Element,
    part: usize,
    range: Range<usize>, // in the part
}

impl TensorInfo {
    /// Length of the data.
    pub fn n_bytes(&self) -> usize {
        self.range.len()
    }

    /// Number of elements, in all dimensions together.
    pub fn n_elements(&self) -> usize {
        self.shape.iter().product()
    }
}

impl Gguf {
    /// Opens and checks the model at `path`, without reading its weights.
    ///
    /// # Errors
    /// Each of [`Error`]'s, by what is wrong with the files.
    pub fn open(path: &Path) -> Result<Gguf, Error> {
        Gguf::of(Part::open(path)?)
    }

    /// Opens and checks the model at `origin`, without reading its weights.
    ///
    /// # Errors
    /// As [`Gguf::open`].
    ///
    /// # Panics
    /// If a model inside the program does not begin at a multiple of 64 bytes.
    pub fn open_from(origin: &Origin) -> Result<Gguf, Error> {
        match origin {
            Origin::File(path) => Gguf::open(path),
            Origin::Inside(inside) => Gguf::of(Part::of(Map::inside(*inside))?),
        }
    }

    fn of(first: Part) -> Result<Gguf, Error> {
        let Part { map, version, metadata, tensors, data } = first;
        let (parts, by_name) = (Vec::new(), HashMap::with_capacity(tensors.len()));
        let mut model = Gguf { parts, version, metadata, tensors: Vec::new(), by_name };
        model.push(map, tensors, data)?;
        model.open_others()?;
        Ok(model)
    }

    /// The path that was opened: the first file's; of a model inside the program, its name.
    pub fn path(&self) -> &Path {
        self.parts[0].path()
    }

    /// The keys of the first file, which has them all.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensors in the order of the directory, one file's after the other's.
    pub fn tensors(&self) -> &[TensorInfo] {
        &self.tensors
    }

    /// The tensor called `name`.
    pub fn tensor(&self, name: &str) -> Option<&TensorInfo> {
        self.by_name.get(name).map(|&i| &self.tensors[i])
    }

    /// The data of a tensor of this model.
    ///
    /// # Panics
    /// If the tensor is another model's, and lies past the end of this one.
    pub fn bytes(&self, t: &TensorInfo) -> Bytes {
        Bytes::new(self.parts[t.part].clone(), t.range.clone())
    }

    /// The file that holds a tensor of this model, and where in it: for readers that do not use the map. A model inside the
    /// program has none, see [`Gguf::is_file`].
    pub fn place(&self, t: &TensorInfo) -> (&Path, Range<u64>) {
        (self.parts[t.part].path(), t.range.start as u64..t.range.end as u64)
    }

    /// Checks that the paths still lead to the files that were opened, for readers that open them again.
    ///
    /// # Errors
    /// [`Error::Changed`], [`Error::Io`].
    pub fn is_there(&self) -> Result<(), Error> {
        self.parts.iter().try_for_each(|map| map.is_there())
    }

    /// Length of all files together.
    pub fn file_bytes(&self) -> u64 {
        self.parts.iter().map(|map| map.bytes().len() as u64).sum()
    }

    /// The version of the format, 2 or 3; of several files, the first one's.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The files, the opened one first; none of a model inside the program.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.stamps().map(|(path, _)| path)
    }

    /// The same files as they were when they were opened.
    pub fn stamps(&self) -> impl Iterator<Item = (&Path, Stamp)> {
        self.parts.iter().filter_map(|map| Some((map.path(), map.stamp()?)))
    }

    /// Whether it is read from files, and not a part of the program.
    pub fn is_file(&self) -> bool {
        self.parts.iter().all(|map| map.stamp().is_some())
    }

    /// Number of files.
    pub fn n_parts(&self) -> usize {
        self.parts.len()
    }

    /// Opens the rest of a split model.
    fn open_others(&mut self) -> Result<(), Error> {
        let count = split_count(self.path(), &self.metadata)?;
        if count == 1 {
            return Ok(());
        }
        let first = self.path().to_owned();
        let stem = stem(&first, 0, count)?;
        for no in 1..count {
            let path = first.with_file_name(format!("{stem}{}", suffix(no, count)));
            let part = open_part(&path, no, count, &self.metadata)?;
            self.push(part.map, part.tensors, part.data)?;
        }
        self.check_tensor_count()
    }

    /// Adds a file and its tensors, whose offsets count from byte `data`.
    fn push(&mut self, map: Map, tensors: Vec<Tensor>, data: usize) -> Result<(), Error> {
        let n = self.parts.len();
        for t in tensors {
            if let Some(&i) = self.by_name.get(&t.name) {
                return Err(Error::InTwoParts {
                    path: map.path().to_owned(),
                    tensor: t.name,
                    first: self.parts[self.tensors[i].part].path().to_owned(),
                });
            }
            self.by_name.insert(t.name.clone(), self.tensors.len());
            let start = data + t.offset as usize; // checked to be in the mapped file, whose bytes `usize` counts
            let range = start..start + t.n_bytes;
            self.tensors.push(TensorInfo { name: t.name, shape: t.shape, element: t.element, part: n, range });
        }
        self.parts.push(Arc::new(map));
        Ok(())
    }

    fn check_tensor_count(&self) -> Result<(), Error> {
        let found = self.metadata.u64(TENSORS)?;
        if found == self.tensors.len() as u64 {
            return Ok(());
        }
        Err(Error::TensorCount { path: self.path().to_owned(), found, expected: self.tensors.len() })
    }
}

impl fmt::Debug for Gguf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut f = f.debug_struct("Gguf");
        f.field("path", &self.path()).field("n_tensors", &self.tensors.len()).finish_non_exhaustive()
    }
}

/// The number of files that the keys of the opened one promise. It must be the first.
fn split_count(path: &Path, metadata: &Metadata) -> Result<u32, Error> {
    let Some(count) = metadata.u32_opt(COUNT)?.filter(|&count| count != 0) else {
        return Ok(1);
    };
    if count > u16::MAX.into() {
        let (key, allowed) = (COUNT.into(), format!("1 to {}", u16::MAX));
        return Err(Error::OutOfRange { path: path.to_owned(), key, found: count.into(), allowed });
    }
    let no = metadata.u32(NO)?;
    if no >= count {
        let (key, allowed) = (NO.into(), format!("0 to {}", count - 1));
        return Err(Error::OutOfRange { path: path.to_owned(), key, found: no.into(), allowed });
    }
    if no > 0 {
        let first = stem(path, no, count)? + &suffix(0, count);
        return Err(Error::NotFirst { path: path.to_owned(), part: no + 1, count, first: shorten(&first) });
    }
    Ok(count)
}

/// How the name of part `no`, counted from zero, ends.
fn suffix(no: u32, count: u32) -> String {
    format!("-{:05}-of-{count:05}.gguf", no + 1)
}

/// What the names of all parts begin with, given that of part `no`.
fn stem(path: &Path, no: u32, count: u32) -> Result<String, Error> {
    let suffix = suffix(no, count);
    let name = path.file_name().and_then(|name| name.to_str());
    match name.and_then(|name| name.strip_suffix(suffix.as_str())) {
        Some(stem) => Ok(stem.into()),
        None => Err(Error::SplitName { path: path.to_owned(), part: no + 1, count, suffix }),
    }
}

/// Opens part `no` and checks that it belongs to the model of `first`.
fn open_part(path: &Path, no: u32, count: u32, first: &Metadata) -> Result<Part, Error> {
    let part = Part::open(path).map_err(|e| match e {
        Error::Io { path, source } => Error::MissingPart { path, part: no + 1, count, source },
        other => other,
    })?;
    check_same(&part.metadata, NO, no, first)?;
    check_same(&part.metadata, COUNT, count, first)?;
    const ARCHITECTURE: &str = "general.architecture";
    if let (Some(found), Some(expected)) = (part.metadata.get(ARCHITECTURE), first.get(ARCHITECTURE))
        && found != expected
    {
        return Err(split_error(path, ARCHITECTURE, found, expected, first.path()));
    }
    Ok(part)
}

fn check_same(part: &Metadata, key: &'static str, expected: u32, first: &Metadata) -> Result<(), Error> {
    match part.u32_opt(key)? {
        Some(found) if found == expected => Ok(()),
        Some(found) => Err(split_error(part.path(), key, found, expected, first.path())),
        None => Err(split_error(part.path(), key, "absent", expected, first.path())),
    }
}

fn split_error(
    path: &Path,
    key: &'static str,
    found: impl fmt::Display,
    expected: impl fmt::Display,
    first: &Path,
) -> Error {
    let (found, expected) = (found.to_string(), expected.to_string());
    Error::Split { path: path.to_owned(), key, found, expected, first: first.to_owned() }
}
