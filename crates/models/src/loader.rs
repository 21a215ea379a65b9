//! Tensors of the file, checked against the hyper-parameters and handed to the device.
//!
//! Matrices keep the type that the file gives them, whichever it is. Vectors (norms, biases, scales) become f32. Every
//! tensor of the file has to be asked for, or be known as a part that we leave out: see [`Loader::finish`].

use std::{
    cell::{Cell, RefCell},
    collections::HashSet,
    fmt::Display,
    sync::Arc,
};

use compute::{Bank, Device, F32, Kind, Tensor};
use experts::Places;
use gguf::{Element, Gguf, TensorInfo};
use quant::Format;

use crate::{Error, Residency, Work};

/// Whether a tensor holds experts, which may stay on the SSD: by the name that all families give them.
pub fn is_expert(tensor: &str) -> bool {
    tensor.contains("_exps.")
}

/// Binds tensors by name.
pub(crate) struct Loader<'a> {
    gguf: &'a Gguf,
    dev: &'a dyn Device,
    residency: Residency,
    used: RefCell<HashSet<String>>,
    n_params: Cell<u64>,
    bytes: Cell<u64>,
    places: RefCell<Places>,
}

/// What was bound.
pub(crate) struct Bound {
    /// Weights, all experts counted.
    pub(crate) n_params: u64,
    /// Bytes of those that stay in memory.
    pub(crate) bytes: u64,
    /// Where the experts are that do not.
    pub(crate) places: Places,
}

/// The experts of a layer.
pub(crate) struct Experts {
    /// All of them, if they stay in memory.
    pub(crate) bank: Option<Bank>,
    /// The products of one.
    pub(crate) work: Work,
}

impl<'a> Loader<'a> {
    pub(crate) fn new(gguf: &'a Gguf, dev: &'a dyn Device, residency: Residency) -> Loader<'a> {
        let (used, places) = (RefCell::default(), RefCell::default());
        Loader { gguf, dev, residency, used, n_params: Cell::new(0), bytes: Cell::new(0), places }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.gguf.tensor(name).is_some()
    }

    /// How many rows a tensor has, before its shape is known: the vocabulary.
    pub(crate) fn rows_of(&self, name: &str) -> Result<usize, Error> {
        Ok(self.gguf.tensor(name).ok_or_else(|| self.missing(name))?.shape[0])
    }

    /// Weights in the type that the file has: where they are mapped, or copied if the rest of the file does not fit into
    /// memory, as mapped pages would be dropped for what is read from it.
    pub(crate) fn matrix(&self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        let (info, format) = self.packed(name, shape)?;
        self.bind(info, Kind::Packed(format))
    }

    fn bind(&self, info: &TensorInfo, kind: Kind) -> Result<Tensor, Error> {
        self.bytes.set(self.bytes.get() + info.n_bytes() as u64);
        let t = match self.residency {
            Residency::All => self.dev.load(kind, &info.shape, Arc::new(self.gguf.bytes(info)))?,
            Residency::WithoutExperts => self.copy(info, kind)?,
        };
        self.dev.label(&t, &info.name);
        Ok(t)
    }

    fn copy(&self, info: &TensorInfo, kind: Kind) -> Result<Tensor, Error> {
        let (t, bytes) = (self.dev.alloc(kind, &info.shape)?, self.gguf.bytes(info));
        self.dev.write(&t, bytes.as_ref());
        self.dev.pin(&t);
        bytes.release();
        Ok(t)
    }

    /// A layer's experts, given the names and shapes of their three stacks of matrices; layers come in order.
    pub(crate) fn experts(&self, names: [&str; 3], shapes: [[usize; 3]; 3]) -> Result<Experts, Error> {
        let [gate, up, down] = [0, 1, 2].map(|i| self.packed(names[i], &shapes[i]));
        let stacks = [gate?, up?, down?].map(|(info, format)| (info, Kind::Packed(format)));
        let of_one = |(info, _): &(&TensorInfo, Kind)| Work {
            n_bytes: (info.n_bytes() / info.shape[0]) as u64,
            n_mac: (info.n_elements() / info.shape[0]) as u64,
        };
        let work = stacks.iter().map(of_one).sum();
        if self.residency == Residency::WithoutExperts {
            self.places.borrow_mut().push(self.gguf, stacks);
            return Ok(Experts { bank: None, work });
        }
        let [gate, up, down] = stacks.map(|(info, kind)| self.bind(info, kind));
        Ok(Experts { bank: Some(Bank::resident(&gate?, &up?, &down?)), work })
    }

    /// Weights as f32.
    pub(crate) fn vector(&self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        self.upload(shape, &self.values(name, shape)?)
    }

    /// As [`Loader::vector`], where the file may lack it.
    pub(crate) fn vector_opt(&self, name: &str, shape: &[usize]) -> Result<Option<Tensor>, Error> {
        if self.has(name) { self.vector(name, shape).map(Some) } else { Ok(None) }
    }

    /// Weights as numbers on the host.
    pub(crate) fn values(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, Error> {
        let (info, format) = self.packed(name, shape)?;
        let mut values = vec![0.0; shape.iter().product()];
        format.decode(self.gguf.bytes(info).as_ref(), &mut values);
        Ok(values)
    }

    /// Numbers that are computed here.
    pub(crate) fn upload(&self, shape: &[usize], values: &[f32]) -> Result<Tensor, Error> {
        let bytes: Vec<u8> = values.iter().flat_map(|v| v.to_le_bytes()).collect();
        let t = self.dev.alloc(F32, shape)?;
        self.dev.write(&t, &bytes);
        Ok(t)
    }

    /// Expert numbers; each is less than `n_expert`.
    pub(crate) fn expert_numbers(&self, name: &str, shape: &[usize], n_expert: usize) -> Result<Tensor, Error> {
        let info = self.find(name, shape)?;
        if info.element != Element::I32 {
            return Err(self.wrong_element(info, "I32"));
        }
        let bytes = self.gguf.bytes(info);
        let entries = bytes.as_ref().as_chunks().0.iter().map(|b| i32::from_le_bytes(*b));
        if let Some((index, found)) = entries.enumerate().find(|(_, e)| !(0..n_expert as i32).contains(e)) {
            return Err(self.wrong_entry(name, index, found, format_args!("0 to {}", n_expert - 1)));
        }
        drop(bytes);
        self.bind(info, Kind::I32)
    }

    /// Checks that nothing is left over but what `left_out` names.
    pub(crate) fn finish(self, left_out: impl Fn(&str) -> bool) -> Result<Bound, Error> {
        let used = self.used.borrow();
        let mut unknown = self.gguf.tensors().iter().map(|t| &t.name).filter(|n| !used.contains(*n) && !left_out(n));
        match unknown.next() {
            Some(name) => Err(Error::Unknown {
                path: self.gguf.path().to_path_buf(),
                tensor: name.clone(),
                others: unknown.count(),
            }),
            None => Ok(Bound { n_params: self.n_params.get(), bytes: self.bytes.get(), places: self.places.take() }),
        }
    }

    /// The error for a number in a tensor.
    pub(crate) fn wrong_entry(&self, tensor: &str, index: usize, found: impl Display, allowed: impl Display) -> Error {
        Error::Entry {
            path: self.gguf.path().to_path_buf(),
            tensor: tensor.to_string(),
            index,
            found: found.to_string(),
            allowed: allowed.to_string(),
        }
    }

    fn packed(&self, name: &str, shape: &[usize]) -> Result<(&'a TensorInfo, Format), Error> {
        let info = self.find(name, shape)?;
        match info.element {
            Element::Packed(format) => Ok((info, format)),
            _ => Err(self.wrong_element(info, "any type for weights")),
        }
    }

    fn find(&self, name: &str, shape: &[usize]) -> Result<&'a TensorInfo, Error> {
        let info = self.gguf.tensor(name).ok_or_else(|| self.missing(name))?;
        if info.shape != shape {
            return Err(Error::Shape {
                path: self.gguf.path().to_path_buf(),
                tensor: name.to_string(),
                found: info.shape.clone(),
                expected: shape.to_vec(),
            });
        }
        if self.used.borrow_mut().insert(name.to_string()) {
            self.n_params.set(self.n_params.get() + shape.iter().product::<usize>() as u64);
        }
        Ok(info)
    }

    fn missing(&self, name: &str) -> Error {
        Error::Missing { path: self.gguf.path().to_path_buf(), tensor: name.to_string() }
    }

    fn wrong_element(&self, info: &TensorInfo, allowed: &'static str) -> Error {
        Error::Element {
            path: self.gguf.path().to_path_buf(),
            tensor: info.name.clone(),
            found: info.element.name().to_string(),
            allowed,
        }
    }
}
