//! A model of nothing but experts, in a file, and what a device is given of it.

use std::{any::Any, collections::HashMap, fs::File, sync::Arc};

use compute::{Bank, Buffer, Device, DeviceError, HostBytes, Kind, Memory, Reference, Tensor};
use experts::{Ask, Places, ReadError, Room, Store, Turn};
use gguf::{Element, Gguf, Writer};
use tempfile::TempDir;

/// Gate and up, `[rows, cols]`; down is the other way round. Some of them lie in two pages of the file.
const SHAPE: [usize; 2] = [8, 40];
const MATRIX_BYTES: usize = 4 * SHAPE[0] * SHAPE[1];

/// What is read for an expert.
pub(crate) const EXPERT_BYTES: u64 = 3 * MATRIX_BYTES as u64;

/// Layers of experts whose bytes say whose they are.
pub(crate) struct Model {
    folder: TempDir,
    pub(crate) places: Places,
    n_expert: usize,
    /// Of the last layer.
    n_cut: usize,
}

impl Model {
    pub(crate) fn new(n_layer: usize, n_expert: usize) -> Model {
        let folder = tempfile::tempdir().expect("a folder");
        let mut writer = Writer::new();
        for i in 0..3 * n_layer {
            let bytes: Vec<u8> = (0..n_expert).flat_map(|e| matrix(i / 3, e, i % 3)).collect();
            writer.tensor(&i.to_string(), &shape(n_expert, i % 3), Element::I32, bytes);
        }
        let path = folder.path().join("model.gguf");
        writer.write_to(&mut File::create(&path).expect("created")).expect("written");
        let (gguf, mut places) = (Gguf::open(&path).expect("opened"), Places::default());
        for layer in gguf.tensors().chunks(3) {
            places.push(&gguf, [0, 1, 2].map(|m| (&layer[m], Kind::I32)));
        }
        Model { folder, places, n_expert, n_cut: 0 }
    }

    /// Cuts off the last `n` experts of the last layer, or what is left of them: they cannot be read.
    pub(crate) fn cut(self, n: usize) -> Model {
        let file = File::options().write(true).open(self.folder.path().join("model.gguf")).expect("opened");
        let len = file.metadata().expect("a length").len();
        file.set_len(len - (n * MATRIX_BYTES) as u64).expect("cut");
        Model { n_cut: n, ..self }
    }

    /// Whether an expert can be read.
    pub(crate) fn is_whole(&self, layer: usize, e: usize) -> bool {
        layer + 1 < self.places.n_experts() / self.n_expert || e + self.n_cut < self.n_expert
    }

    /// A store that has room for so many of them.
    pub(crate) fn store(&self, n_slots: usize) -> Store {
        Store::new(self.places.clone(), Room::fixed(n_slots)).expect("a small arena")
    }

    /// The experts in a bank, whose bytes must be theirs.
    pub(crate) fn check(&self, layer: usize, bank: &Bank) -> Vec<usize> {
        let here: Vec<_> = (0..self.n_expert).filter_map(|e| bank.get(e).map(|expert| (e, expert))).collect();
        for &(e, expert) in &here {
            for (m, w) in [&expert.gate, &expert.up, &expert.down].into_iter().enumerate() {
                let mut bytes = vec![0; w.byte_range().len()];
                InPlace.read(w, &mut bytes).expect("host memory");
                assert!(bytes == matrix(layer, e, m), "matrix {m} of expert {e} of layer {layer}");
            }
        }
        here.into_iter().map(|(e, _)| e).collect()
    }

    /// Meets what was asked for in a layer. The experts that were added, in the order in which they were.
    pub(crate) fn each(&self, layer: usize, ask: Ask) -> (Vec<usize>, Result<(), ReadError>) {
        let mut added = Vec::new();
        let result = ask.each(&InPlace, &mut |bank| {
            added.extend(self.check(layer, bank));
            std::thread::yield_now();
            self.check(layer, bank);
        });
        (added, result)
    }

    /// The same, early. What is kept has a number below `n_chosen` to itself, and is added once.
    pub(crate) fn each_early(&self, layer: usize, ask: Ask, n_chosen: usize) -> (Vec<usize>, Result<(), ReadError>) {
        let (mut added, mut kept) = (Vec::new(), HashMap::new());
        let result = ask.each_early(&InPlace, &mut |turn| match turn {
            Turn::Add(bank) => added.extend(self.check(layer, bank)),
            Turn::AddKept(i) => added.push(kept.remove(&i).expect("it was kept")),
            Turn::Keep(i, bank) => {
                let [e] = self.check(layer, bank)[..] else { panic!("one at a time is kept") };
                assert!(i < n_chosen && kept.insert(i, e).is_none(), "number {i}");
            }
        });
        assert!(result.is_err() || kept.is_empty(), "all that was kept is added");
        (added, result)
    }
}

fn shape(n_expert: usize, m: usize) -> [usize; 3] {
    let [rows, cols] = SHAPE;
    if m < 2 { [n_expert, rows, cols] } else { [n_expert, cols, rows] }
}

fn matrix(layer: usize, e: usize, m: usize) -> Vec<u8> {
    let first = ((layer * 1000 + e) * 3 + m) * 1000;
    (first..).take(MATRIX_BYTES / 4).flat_map(|word| (word as i32).to_le_bytes()).collect()
}

/// A device that computes where the bytes are, as processors do, so that nobody else may write there meanwhile.
pub(crate) struct InPlace;

struct Host(HostBytes);

impl Buffer for Host {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Memory for InPlace {
    fn alloc(&self, kind: Kind, shape: &[usize]) -> Result<Tensor, DeviceError> {
        Reference.alloc(kind, shape)
    }

    fn load(&self, kind: Kind, shape: &[usize], bytes: HostBytes) -> Result<Tensor, DeviceError> {
        Ok(Tensor::new(Arc::new(Host(bytes)), kind, shape))
    }

    fn write(&self, t: &Tensor, bytes: &[u8]) {
        Reference.write(t, bytes);
    }

    fn read(&self, t: &Tensor, out: &mut [u8]) -> Result<(), DeviceError> {
        match t.buffer().as_any().downcast_ref::<Host>() {
            Some(host) => out.copy_from_slice(&(*host.0).as_ref()[t.byte_range()]),
            None => Reference.read(t, out)?,
        }
        Ok(())
    }
}

impl Device for InPlace {
    fn name(&self) -> String {
        "in place".into()
    }
}
