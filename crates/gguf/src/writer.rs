//! Writes a file: the same input gives the same bytes. The file appears under its name when it is complete.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
    process,
};

use crate::{Element, Error, Layout, Value};

/// Keys and tensors of a file to be written, in order.
pub struct Writer<'a> {
    version: u32,
    keys: Vec<(String, Value)>,
    tensors: Vec<Tensor<'a>>,
}

struct Tensor<'a> {
    name: String,
    shape: Vec<usize>,
    element: Element,
    fill: Fill<'a>,
}

type Fill<'a> = Box<dyn Fn(&mut dyn Write) -> io::Result<()> + 'a>;

impl Default for Writer<'_> {
    fn default() -> Self {
        Writer { version: 3, keys: Vec::new(), tensors: Vec::new() }
    }
}

impl<'a> Writer<'a> {
    /// An empty file of version 3.
    pub fn new() -> Writer<'a> {
        Writer::default()
    }

    /// Writes another version of the format: 2 differs in nothing but its number.
    pub fn version(&mut self, version: u32) -> &mut Self {
        self.version = version;
        self
    }

    /// Adds a key, or replaces its value. `general.alignment`, a `u32`, is obeyed; without it, tensors start at
    /// multiples of 32.
    pub fn set(&mut self, key: &str, value: impl Into<Value>) -> &mut Self {
        let value = value.into();
        match self.keys.iter_mut().find(|(k, _)| k == key) {
            Some((_, place)) => *place = value,
            None => self.keys.push((key.into(), value)),
        }
        self
    }

    /// Adds a tensor; `shape` is outermost first.
    pub fn tensor(&mut self, name: &str, shape: &[usize], element: Element, bytes: impl AsRef<[u8]> + 'a) -> &mut Self {
        self.tensor_with(name, shape, element, move |out| out.write_all(bytes.as_ref()))
    }

    /// Adds a tensor whose data `fill` will write when its turn comes, so that it need not be in memory before.
    pub fn tensor_with(
        &mut self,
        name: &str,
        shape: &[usize],
        element: Element,
        fill: impl Fn(&mut dyn Write) -> io::Result<()> + 'a,
    ) -> &mut Self {
        self.tensors.push(Tensor { name: name.into(), shape: shape.into(), element, fill: Box::new(fill) });
        self
    }

    /// Writes the file: under a name beside `path` first, which is removed if anything fails.
    ///
    /// # Errors
    /// What the system, or a tensor's `fill`, says.
    ///
    /// # Panics
    /// If a tensor's rows are no whole blocks, or its data has not the length that its shape says.
    pub fn write(&self, path: &Path) -> Result<(), Error> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let partial = path.with_file_name(format!(".{name}.{}.partial", process::id()));
        let written = self.write_to_file(&partial).and_then(|file| files::publish(&file, &partial, path));
        written.map_err(|source| {
            // The first error is the one to report; if this fails too, a partial file stays.
            let _ = fs::remove_file(&partial);
            Error::Io { path: path.to_owned(), source }
        })
    }

    fn write_to_file(&self, path: &Path) -> io::Result<File> {
        let mut out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        self.write_to(&mut out)?;
        Ok(out.into_inner()?)
    }

    /// Writes the bytes of the file to `out`.
    ///
    /// # Errors
    /// What `out`, or a tensor's `fill`, says.
    ///
    /// # Panics
    /// As [`write`](Writer::write).
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        let tensors = self.tensors.iter().map(|t| (t.name.as_str(), t.shape.as_slice(), t.element));
        let layout = Layout::new(self.version, &self.keys, tensors);
        out.write_all(layout.header())?;
        let ends = (1..self.tensors.len()).map(|i| layout.range(i).start).chain([layout.n_bytes()]);
        for (i, (tensor, end)) in self.tensors.iter().zip(ends).enumerate() {
            let range = layout.range(i);
            let mut counted = Counted { out, n: 0 };
            (tensor.fill)(&mut counted)?;
            assert_eq!(counted.n, range.end - range.start, "bytes of tensor `{}`", tensor.name);
            pad(out, end - range.end)?;
        }
        Ok(())
    }
}

fn pad(out: &mut dyn Write, n: u64) -> io::Result<()> {
    io::copy(&mut io::Read::take(io::repeat(0), n), out).map(drop)
}

/// Counts what passes through.
struct Counted<'a> {
    out: &'a mut dyn Write,
    n: u64,
}

impl Write for Counted<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = self.out.write(bytes)?;
        self.n += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
