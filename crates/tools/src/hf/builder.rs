//! What a family says of its tensors: which stored ones make which of the GGUF, and their shapes. Everything is found and
//! checked here, and what no rule has asked for is refused, so that reading rows later can only fail where files do.

use std::collections::HashSet;

use gguf::{Element, shorten};
use quant::Format;
use safetensors::Dtype;

use super::{
    Error,
    rows::{FP4_BLOCK, Order, Origin, Part, Spelling},
    shards::Shards,
};
use crate::Weights;

/// Types of numbers that are stored as they are: norms, biases, and matrices that matter.
const PLAIN: &[Dtype] = &[Dtype::F32, Dtype::BF16, Dtype::F16];
/// Types of other matrices.
const PACKED: &[Dtype] = &[Dtype::F32, Dtype::BF16, Dtype::F16, Dtype::F8_E4M3];
/// Types of experts' matrices: with two FP4 to a byte.
const EXPERTS: &[Dtype] = &[Dtype::I8, Dtype::F8_E4M3, Dtype::BF16, Dtype::F16, Dtype::F32];
/// Types of lookup tables.
const NUMBERS: &[Dtype] = &[Dtype::I64, Dtype::I32];

/// The tensors of the GGUF so far.
pub(super) struct Builder<'a> {
    files: &'a Shards,
    used: HashSet<usize>,
    weights: Vec<Weights>,
    origins: Vec<Origin>,
}

/// All tensors of the GGUF.
pub(super) struct Plan {
    pub(super) weights: Vec<Weights>,
    pub(super) origins: Vec<Origin>,
    /// The stored tensors that are not among them, by design.
    pub(super) left_out: Vec<String>,
}

impl<'a> Builder<'a> {
    pub(super) fn new(files: &'a Shards) -> Builder<'a> {
        Builder { files, used: HashSet::new(), weights: Vec::new(), origins: Vec::new() }
    }

    /// A tensor that is stored as floats.
    pub(super) fn plain(&mut self, name: &str, stored: &str, shape: &[usize]) -> Result<(), Error> {
        self.add(name, &[stored.into()], shape, PLAIN, Order::Same)
    }

    /// A matrix.
    pub(super) fn matrix(&mut self, name: &str, stored: &str, shape: [usize; 2]) -> Result<(), Error> {
        self.add(name, &[stored.into()], &shape, PACKED, Order::Same)
    }

    /// A matrix of heads' rows, in which what turns together becomes neighbours.
    pub(super) fn interleaved(
        &mut self,
        name: &str,
        stored: &str,
        shape: [usize; 2],
        head_dim: usize,
    ) -> Result<(), Error> {
        self.add(name, &[stored.into()], &shape, PACKED, Order::Interleaved { head_dim })
    }

    /// A matrix per expert, `[n_expert, rows, cols]` together.
    pub(super) fn experts(
        &mut self,
        name: &str,
        stored: impl Fn(usize) -> String,
        shape: [usize; 3],
    ) -> Result<(), Error> {
        let stored: Vec<_> = (0..shape[0]).map(stored).collect();
        self.add(name, &stored, &shape, EXPERTS, Order::Same)
    }

    /// A table of expert numbers.
    pub(super) fn numbers(&mut self, name: &str, stored: &str, shape: [usize; 2]) -> Result<(), Error> {
        self.add(name, &[stored.into()], &shape, NUMBERS, Order::Same)
    }

    /// Numbers that no file has.
    pub(super) fn computed(&mut self, name: &str, values: Vec<f32>) {
        let element = Element::Packed(Format::F32);
        self.weights.push(Weights { name: name.into(), shape: vec![values.len()], element });
        self.origins.push(Origin::Computed(values));
    }

    /// Checks that nothing is left over but what `is_left_out` names.
    pub(super) fn finish(self, is_left_out: impl Fn(&str) -> bool) -> Result<Plan, Error> {
        let unused = self.files.names().enumerate().filter(|(i, _)| !self.used.contains(i)).map(|(_, name)| name);
        let (left_out, unknown): (Vec<&str>, Vec<&str>) = unused.partition(|name| is_left_out(name));
        match unknown.first() {
            Some(name) => Err(Error::Unknown {
                path: self.files.folder().to_owned(),
                tensor: shorten(name),
                others: unknown.len() - 1,
            }),
            None => Ok(Plan {
                weights: self.weights,
                origins: self.origins,
                left_out: left_out.into_iter().map(String::from).collect(),
            }),
        }
    }

    fn add(
        &mut self,
        name: &str,
        stored: &[String],
        shape: &[usize],
        allowed: &[Dtype],
        order: Order,
    ) -> Result<(), Error> {
        let part_shape = &shape[shape.len() - shape.len().min(2)..];
        let mut spelling = None;
        let mut parts: Vec<Part> = Vec::with_capacity(stored.len());
        for stored in stored {
            let tensor = self.find(stored)?;
            let found = self.spelling(tensor, allowed)?;
            if *spelling.get_or_insert(found) != found {
                let first = self.files.stored(parts[0].tensor).dtype.to_string();
                return Err(self.wrong_dtype(tensor, format!("{first}, as the other experts' of this layer")));
            }
            parts.push(self.part(tensor, found, part_shape)?);
        }
        let spelling = spelling.expect("a tensor is made of at least one");
        self.weights.push(Weights { name: name.into(), shape: shape.into(), element: spelling.element() });
        self.origins.push(Origin::Stored { parts, spelling, order });
        Ok(())
    }

    fn spelling(&self, tensor: usize, allowed: &[Dtype]) -> Result<Spelling, Error> {
        let dtype = self.files.stored(tensor).dtype;
        match Spelling::of(dtype).filter(|_| allowed.contains(&dtype)) {
            Some(spelling) => Ok(spelling),
            None => Err(self.wrong_dtype(tensor, allowed.iter().map(Dtype::to_string).collect::<Vec<_>>().join(", "))),
        }
    }

    /// A stored tensor of the right shape, with its scales.
    fn part(&mut self, tensor: usize, spelling: Spelling, shape: &[usize]) -> Result<Part, Error> {
        if spelling == Spelling::Fp4 && !shape[shape.len() - 1].is_multiple_of(FP4_BLOCK) {
            let allowed = format!("a type whose rows may have {} numbers: FP4 has blocks of {FP4_BLOCK}", shape[1]);
            return Err(self.wrong_dtype(tensor, allowed));
        }
        self.check_shape(tensor, spelling.stored_shape(shape))?;
        let scales = match spelling.scales_shape(shape) {
            None => None,
            Some(shape) => Some(self.scales(tensor, shape)?),
        };
        Ok(Part { tensor, scales })
    }

    fn scales(&mut self, tensor: usize, shape: Vec<usize>) -> Result<usize, Error> {
        let name = &self.files.stored(tensor).name;
        let name = format!("{}.scale", name.strip_suffix(".weight").unwrap_or(name));
        let scales = self.find(&name)?;
        self.check_shape(scales, shape)?;
        match self.files.stored(scales).dtype {
            Dtype::F8_E8M0 => Ok(scales),
            _ => Err(self.wrong_dtype(scales, "F8_E8M0".into())),
        }
    }

    fn find(&mut self, stored: &str) -> Result<usize, Error> {
        let missing = || Error::Missing { path: self.files.folder().to_owned(), tensor: stored.into() };
        let tensor = self.files.find(stored).ok_or_else(missing)?;
        self.used.insert(tensor);
        Ok(tensor)
    }

    fn check_shape(&self, tensor: usize, expected: Vec<usize>) -> Result<(), Error> {
        let stored = self.files.stored(tensor);
        if stored.shape == expected {
            return Ok(());
        }
        let (path, tensor, found) = (self.files.path(tensor).to_owned(), stored.name.clone(), stored.shape.clone());
        Err(Error::Shape { path, tensor, found, expected })
    }

    fn wrong_dtype(&self, tensor: usize, allowed: String) -> Error {
        let stored = self.files.stored(tensor);
        let (path, found) = (self.files.path(tensor).to_owned(), stored.dtype.to_string());
        Error::Dtype { path, tensor: stored.name.clone(), found, allowed }
    }
}
