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

use compute::{Device, F32, Kind, Tensor};
use gguf::{Element, Gguf, TensorInfo};

use crate::Error;

/// Binds tensors by name.
pub(crate) struct Loader<'a> {
    gguf: &'a Gguf,
    dev: &'a dyn Device,
    used: RefCell<HashSet<String>>,
    n_params: Cell<u64>,
}

impl<'a> Loader<'a> {
    pub(crate) fn new(gguf: &'a Gguf, dev: &'a dyn Device) -> Loader<'a> {
        Loader { gguf, dev, used: RefCell::default(), n_params: Cell::new(0) }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.gguf.tensor(name).is_some()
    }

    /// How many rows a tensor has, before its shape is known: the vocabulary.
    pub(crate) fn rows_of(&self, name: &str) -> Result<usize, Error> {
        Ok(self.gguf.tensor(name).ok_or_else(|| self.missing(name))?.shape[0])
    }

    /// Weights in the type that the file has.
    pub(crate) fn matrix(&self, name: &str, shape: &[usize]) -> Result<Tensor, Error> {
        let info = self.find(name, shape)?;
        let Element::Packed(format) = info.element else {
            return Err(self.wrong_element(info, "any type for weights"));
        };
        Ok(self.dev.load(Kind::Packed(format), shape, Arc::new(self.gguf.bytes(info)))?)
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
        let info = self.find(name, shape)?;
        let Element::Packed(format) = info.element else {
            return Err(self.wrong_element(info, "any type for weights"));
        };
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
    pub(crate) fn experts(&self, name: &str, shape: &[usize], n_expert: usize) -> Result<Tensor, Error> {
        let info = self.find(name, shape)?;
        if info.element != Element::I32 {
            return Err(self.wrong_element(info, "I32"));
        }
        let bytes = self.gguf.bytes(info);
        let entries = bytes.as_ref().as_chunks().0.iter().map(|b| i32::from_le_bytes(*b));
        if let Some((index, found)) = entries.enumerate().find(|(_, e)| !(0..n_expert as i32).contains(e)) {
            return Err(self.wrong_entry(name, index, found, format_args!("0 to {}", n_expert - 1)));
        }
        Ok(self.dev.load(Kind::I32, shape, Arc::new(bytes))?)
    }

    /// Checks that nothing is left over but what `left_out` names, and returns the number of parameters bound.
    pub(crate) fn finish(self, left_out: impl Fn(&str) -> bool) -> Result<u64, Error> {
        let used = self.used.borrow();
        let mut unknown = self.gguf.tensors().iter().map(|t| &t.name).filter(|n| !used.contains(*n) && !left_out(n));
        match unknown.next() {
            Some(name) => Err(Error::Unknown {
                path: self.gguf.path().to_path_buf(),
                tensor: name.clone(),
                others: unknown.count(),
            }),
            None => Ok(self.n_params.get()),
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
