//! What a token is said to cost, against what it multiplies and looks at on a device that counts.

use std::{path::PathBuf, sync::Mutex};

use compute::{
    Attention, Bank, Chooser, Device, DeviceError, HostBytes, Kind, Latent, Memory, Reference, Row, Step, Tensor,
    reference,
};
use experts::Routing;
use gguf::Gguf;
use models::{KvType, Residency, StateOptions, Work};

/// Computes as the definitions say, and adds up what the operations read: of weights, and of caches.
#[derive(Default)]
struct Counting(Mutex<[Work; 2]>);

const WEIGHTS: usize = 0;
const CACHES: usize = 1;

impl Counting {
    fn count(&self, what: usize, n_row: usize, row_bytes: usize, n_mac: usize) {
        let mut counts = self.0.lock().expect("counting does not panic");
        counts[what].n_bytes += (n_row * row_bytes) as u64;
        counts[what].n_mac += (n_row * n_mac) as u64;
    }

    fn take(&self) -> [Work; 2] {
        std::mem::take(&mut *self.0.lock().expect("counting does not panic"))
    }
}

impl Memory for Counting {
    fn alloc(&self, kind: Kind, shape: &[usize]) -> Result<Tensor, DeviceError> {
        Reference.alloc(kind, shape)
    }

    fn load(&self, kind: Kind, shape: &[usize], bytes: HostBytes) -> Result<Tensor, DeviceError> {
        Reference.load(kind, shape, bytes)
    }

    fn write(&self, t: &Tensor, bytes: &[u8]) {
        Reference.write(t, bytes);
    }

    fn read(&self, t: &Tensor, out: &mut [u8]) -> Result<(), DeviceError> {
        Reference.read(t, out)
    }
}

/// The last position of a step.
fn pos(step: &Step) -> usize {
    *reference::i32s(&Reference, &step.pos).last().expect("a step has rows") as usize
}

impl Device for Counting {
    fn name(&self) -> String {
        "counting".into()
    }

    fn matmul_grouped(&self, y: &Tensor, w: &Tensor, x: &Tensor, n_group: usize) {
        self.count(WEIGHTS, w.rows(), w.row_bytes(), w.cols());
        Reference.matmul_grouped(y, w, x, n_group);
    }

    fn moe(&self, y: &Tensor, x: &Tensor, bank: &Bank, experts: &Tensor, weights: &Tensor, limit: Option<f32>) {
        let e = bank.any().expect("all experts are here");
        for w in [&e.gate, &e.up, &e.down] {
            self.count(WEIGHTS, w.rows() * experts.cols(), w.row_bytes(), w.cols());
        }
        Reference.moe(y, x, bank, experts, weights, limit);
    }

    fn attention(&self, y: &Tensor, q: &Tensor, k: &Tensor, v: &Tensor, a: &Attention, step: &Step) {
        self.count(CACHES, 2 * (pos(step) + 1), k.row_bytes(), q.cols());
        Reference.attention(y, q, k, v, a, step);
    }

    fn latent_attention(&self, y: &Tensor, q: &Tensor, a: &Latent, step: &Step) {
        let n_compressed = a.compressed.as_ref().map_or(0, |c| match &c.chosen {
            Some(chosen) => reference::i32s(self, chosen).iter().filter(|&&row| row >= 0).count(),
            None => (pos(step) + 1) / c.ratio,
        });
        self.count(CACHES, a.window.min(pos(step) + 1) + n_compressed, a.ring.row_bytes(), 2 * q.cols());
        Reference.latent_attention(y, q, a, step);
    }

    fn choose(&self, chosen: &Tensor, q: &Tensor, weight: &Tensor, c: &Chooser, step: &Step) {
        self.count(CACHES, (pos(step) + 1) / c.ratio, c.rows.row_bytes(), q.cols());
        Reference.choose(chosen, q, weight, c, step);
    }
}

#[test]
fn a_token_costs_what_it_multiplies() {
    for name in ["llama/micro", "qwen2/micro", "deepseek_v4/micro-flash", "deepseek_v4/micro-pro"] {
        let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join(format!("../../testdata/{name}.gguf"));
        let gguf = Gguf::open(&path).unwrap_or_else(|e| panic!("{e}"));
        let dev = Counting::default();
        let model = models::open(&gguf, &dev, Residency::All).unwrap_or_else(|e| panic!("{e}"));
        let n_layer = model.shape().n_layer;
        for kv in [KvType::Native, KvType::F32] {
            let options = StateOptions { n_ctx: 160, n_slot: 1, n_batch: 8, kv };
            let state = model.state(&dev, &options, &Routing::default()).unwrap_or_else(|e| panic!("{e}"));
            let step = Step::new(&dev, 1).unwrap_or_else(|e| panic!("{e}"));
            for pos in 0..150 {
                let of = format!("{name}, {kv:?} at {pos}");
                let cost = model.cost(pos, kv);
                dev.take();
                let row = Row { id: pos as u32 * 17 % 300, pos: pos as u32, slot: 0 };
                state.forward(&dev, &step.set(&dev, &[row]), 0..n_layer).unwrap_or_else(|e| panic!("{e}"));
                assert_eq!(dev.take(), [cost.layers, cost.attention], "{of}");
                if pos == 0 {
                    state.logits(&dev, 0..1);
                    assert_eq!(dev.take()[WEIGHTS], cost.logits, "{of}");
                }
            }
        }
    }
}
