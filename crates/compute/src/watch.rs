//! A device that shows what its weights are multiplied with, and is another device otherwise.
//!
//! ```text
//! matmul, matmuls, gated     the rows of x
//! matmul_grouped             the parts of the rows of x, one after another
//! moe, for each expert       gate and up: the rows of x that chose it
//!                            down: swiglu(gate x, up x), computed once more for this, and the weights w_k beside it
//! ```
//!
//! Weights are those that were given a name ([`Memory::label`]). What is shown comes in the order of the rows, whatever
//! the batches, so that sums over it have the same bits as long as the device's results do. A mixture's experts are
//! computed by up to two thirds more: their `gate` and `up` twice. Nothing is recorded ([`Device::step`]), as rows have to be
//! read each time.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use crate::{
    Attention, Bank, Buffer, Chooser, Compressor, Device, DeviceError, Expert, F32, HostBytes, Hyper, Kind, Latent,
    Limits, Memory, Rope, Router, Step, Tensor, reference,
};

/// Who is shown rows.
pub trait Watcher: Send + Sync {
    /// Whether rows that meet the weight of this name are to be shown.
    fn wants(&self, weight: &str) -> bool;

    /// Rows have met weights.
    fn see(&self, seen: Seen<'_>);
}

/// Rows that have met weights.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The names of all weights that met them, as far as they are wanted.
    pub weights: &'a [Arc<str>],
    /// The expert whose weights they are, and how many experts there are.
    pub expert: Option<(usize, usize)>,
    /// `[rows, cols]`
    pub rows: &'a [f32],
    /// Columns of the weights.
    pub cols: usize,
    /// What each row is multiplied with before it meets the weights; without, nothing.
    pub factors: Option<&'a [f32]>,
}

/// The device.
pub struct Watched {
    inner: Arc<dyn Device>,
    watcher: Arc<dyn Watcher>,
    names: Mutex<Names>,
    scratch: Mutex<Option<Scratch>>,
    /// What went wrong with the rows that were to be shown.
    failed: Mutex<Option<DeviceError>>,
}

impl Watched {
    /// Shows `watcher` what the weights of `inner` are multiplied with.
    pub fn new(inner: Arc<dyn Device>, watcher: Arc<dyn Watcher>) -> Watched {
        Watched { inner, watcher, names: Mutex::default(), scratch: Mutex::default(), failed: Mutex::default() }
    }

    /// The names of those of `weights` that are watched.
    fn wanted<'a>(&self, weights: impl IntoIterator<Item = &'a Tensor>) -> Vec<Arc<str>> {
        let names = lock(&self.names);
        weights.into_iter().filter_map(|w| names.find(w)).filter(|name| self.watcher.wants(name)).collect()
    }

    /// Shows the rows of `x`, each cut into `n_group` parts.
    fn show<'a>(&self, weights: impl IntoIterator<Item = &'a Tensor>, x: &Tensor, n_group: usize) {
        let weights = self.wanted(weights);
        if !weights.is_empty()
            && let Some(rows) = self.remember(self.floats(x))
        {
            let cols = x.cols() / n_group;
            self.watcher.see(Seen { weights: &weights, expert: None, rows: &rows, cols, factors: None });
        }
    }

    /// Shows what the experts of a bank are multiplied with.
    fn show_experts(
        &self,
        x: &Tensor,
        bank: &Bank,
        experts: &Tensor,
        weights: &Tensor,
        limit: Option<f32>,
    ) -> Result<(), DeviceError> {
        let Some(any) = bank.any() else { return Ok(()) };
        let [into, down] = [self.wanted([&any.gate, &any.up]), self.wanted([&any.down])];
        if into.is_empty() && down.is_empty() {
            return Ok(());
        }
        let (x_rows, weight_rows) = (self.floats(x)?, self.floats(weights)?);
        let (k, n_embd) = (experts.cols(), x.cols());
        for (e, choices) in chosen(&self.integers(experts)?) {
            let Some(expert) = bank.get(e) else { continue };
            let rows: Vec<f32> = choices.iter().flat_map(|i| &x_rows[i / k * n_embd..][..n_embd]).copied().collect();
            let seen =
                Seen { weights: &into, expert: Some((e, bank.n_expert())), rows: &rows, cols: n_embd, factors: None };
            if !into.is_empty() {
                self.watcher.see(seen);
            }
            if !down.is_empty() {
                let factors: Vec<f32> = choices.iter().map(|&i| weight_rows[i]).collect();
                let (rows, cols) = (&self.activations(expert, &rows, limit)?[..], expert.down.cols());
                self.watcher.see(Seen { weights: &down, rows, cols, factors: Some(&factors), ..seen });
            }
        }
        Ok(())
    }

    /// `swiglu(gate x, up x)` of one expert.
    fn activations(&self, expert: &Expert, x_rows: &[f32], limit: Option<f32>) -> Result<Vec<f32>, DeviceError> {
        let (n_ff, n_embd) = (expert.gate.rows(), expert.gate.cols());
        let n = x_rows.len() / n_embd;
        let mut scratch = lock(&self.scratch);
        let [x, gate, up, y] = Scratch::cut(&mut scratch, &*self.inner, [n, n_embd, n_ff])?;
        reference::put(&*self.inner, &x, x_rows);
        self.inner.gated(&y, [(&gate, &expert.gate), (&up, &expert.up)], &x, limit);
        self.floats(&y)
    }

    fn floats(&self, t: &Tensor) -> Result<Vec<f32>, DeviceError> {
        Ok(self.bytes(t)?.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
    }

    fn integers(&self, t: &Tensor) -> Result<Vec<i32>, DeviceError> {
        Ok(self.bytes(t)?.as_chunks().0.iter().map(|b| i32::from_le_bytes(*b)).collect())
    }

    fn bytes(&self, t: &Tensor) -> Result<Vec<u8>, DeviceError> {
        let mut bytes = vec![0; t.byte_range().len()];
        self.inner.read(t, &mut bytes).map(|()| bytes)
    }

    /// Keeps a failure for who reads next.
    fn remember<T>(&self, result: Result<T, DeviceError>) -> Option<T> {
        result.map_err(|e| *lock(&self.failed) = Some(e)).ok()
    }
}

/// The experts that were chosen, ascending, with the places of the choices.
fn chosen(experts: &[i32]) -> BTreeMap<usize, Vec<usize>> {
    let mut chosen: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    experts.iter().enumerate().for_each(|(i, &e)| chosen.entry(e as usize).or_default().push(i));
    chosen
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind these locks is whole between any two statements.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What memory is called, by its buffer and where it starts there.
#[derive(Default)]
struct Names {
    known: BTreeMap<(usize, usize), Named>,
    /// How many there may be before those whose memory is gone are looked for.
    n_max: usize,
}

struct Named {
    /// As long as this is here, no other buffer is at the same address.
    buffer: Weak<dyn Buffer>,
    bytes: Range<usize>,
    name: Arc<str>,
}

impl Names {
    fn key(t: &Tensor) -> (usize, usize) {
        (Arc::as_ptr(t.buffer()).cast::<()>() as usize, t.byte_range().start)
    }

    fn insert(&mut self, t: &Tensor, name: &str) {
        // Weights that come from the SSD come and go.
        if self.known.len() >= self.n_max {
            self.known.retain(|_, named| named.buffer.strong_count() > 0);
            self.n_max = 2 * self.known.len() + 64;
        }
        let named = Named { buffer: Arc::downgrade(t.buffer()), bytes: t.byte_range(), name: name.into() };
        self.known.insert(Names::key(t), named);
    }

    /// The name of the tensor that `t` is, or is a part of.
    fn find(&self, t: &Tensor) -> Option<Arc<str>> {
        let (buffer, start) = Names::key(t);
        let (_, named) = self.known.range((buffer, 0)..=(buffer, start)).next_back()?;
        (t.byte_range().end <= named.bytes.end).then(|| named.name.clone())
    }
}

/// Buffers for the activations of one expert.
struct Scratch {
    sizes: [usize; 3],
    tensors: [Tensor; 4],
}

impl Scratch {
    /// Room for `n` rows of an expert's input, gate, up and activation; larger than before where that is needed.
    fn cut(
        scratch: &mut Option<Scratch>,
        dev: &dyn Device,
        sizes @ [n, n_embd, n_ff]: [usize; 3],
    ) -> Result<[Tensor; 4], DeviceError> {
        if !scratch.as_ref().is_some_and(|s| s.sizes[0] >= n && s.sizes[1..] == sizes[1..]) {
            *scratch = None;
            let alloc = |cols: usize| dev.alloc(F32, &[n, cols]);
            *scratch = Some(Scratch { sizes, tensors: [alloc(n_embd)?, alloc(n_ff)?, alloc(n_ff)?, alloc(n_ff)?] });
        }
        let scratch = scratch.as_ref().expect("just made");
        Ok(scratch.tensors.each_ref().map(|t| t.slice(0..n)))
    }
}

impl Memory for Watched {
    fn alloc(&self, kind: Kind, shape: &[usize]) -> Result<Tensor, DeviceError> {
        self.inner.alloc(kind, shape)
    }

    fn load(&self, kind: Kind, shape: &[usize], bytes: HostBytes) -> Result<Tensor, DeviceError> {
        self.inner.load(kind, shape, bytes)
    }

    fn write(&self, t: &Tensor, bytes: &[u8]) {
        self.inner.write(t, bytes);
    }

    fn read(&self, t: &Tensor, out: &mut [u8]) -> Result<(), DeviceError> {
        match lock(&self.failed).take() {
            Some(e) => Err(e),
            None => self.inner.read(t, out),
        }
    }

    fn pin(&self, t: &Tensor) {
        self.inner.pin(t);
    }

    fn label(&self, t: &Tensor, name: &str) {
        lock(&self.names).insert(t, name);
        self.inner.label(t, name);
    }
}

impl Device for Watched {
    fn name(&self) -> String {
        self.inner.name()
    }

    fn limits(&self, bytes: usize) -> Option<Limits> {
        self.inner.limits(bytes)
    }

    fn embed(&self, y: &Tensor, table: &Tensor, step: &Step) {
        self.inner.embed(y, table, step);
    }

    fn rms_norm(&self, y: &Tensor, x: &Tensor, w: Option<&Tensor>, eps: f32) {
        self.inner.rms_norm(y, x, w, eps);
    }

    fn matmul(&self, y: &Tensor, w: &Tensor, x: &Tensor) {
        self.inner.matmul(y, w, x);
        self.show([w], x, 1);
    }

    fn matmuls(&self, products: &[(&Tensor, &Tensor)], x: &Tensor) {
        self.inner.matmuls(products, x);
        self.show(products.iter().map(|(_, w)| *w), x, 1);
    }

    fn matmul_grouped(&self, y: &Tensor, w: &Tensor, x: &Tensor, n_group: usize) {
        self.inner.matmul_grouped(y, w, x, n_group);
        self.show([w], x, n_group);
    }

    fn add(&self, x: &Tensor, b: &Tensor) {
        self.inner.add(x, b);
    }

    fn swiglu(&self, y: &Tensor, gate: &Tensor, up: &Tensor, limit: Option<f32>) {
        self.inner.swiglu(y, gate, up, limit);
    }

    fn gated(&self, y: &Tensor, [gate, up]: [(&Tensor, &Tensor); 2], x: &Tensor, limit: Option<f32>) {
        self.inner.gated(y, [gate, up], x, limit);
        self.show([gate.1, up.1], x, 1);
    }

    fn rope(&self, x: &Tensor, rope: &Rope, inverse: bool, step: &Step) {
        self.inner.rope(x, rope, inverse, step);
    }

    fn store(&self, cache: &Tensor, x: &Tensor, step: &Step) {
        self.inner.store(cache, x, step);
    }

    fn attention(&self, y: &Tensor, q: &Tensor, k: &Tensor, v: &Tensor, a: &Attention, step: &Step) {
        self.inner.attention(y, q, k, v, a, step);
    }

    fn latent_attention(&self, y: &Tensor, q: &Tensor, a: &Latent, step: &Step) {
        self.inner.latent_attention(y, q, a, step);
    }

    fn compress(&self, kv: &Tensor, gate: &Tensor, c: &Compressor, step: &Step) {
        self.inner.compress(kv, gate, c, step);
    }

    fn hadamard(&self, x: &Tensor) {
        self.inner.hadamard(x);
    }

    fn round(&self, x: &Tensor, kind: Kind) {
        self.inner.round(x, kind);
    }

    fn choose(&self, chosen: &Tensor, q: &Tensor, weight: &Tensor, c: &Chooser, step: &Step) {
        self.inner.choose(chosen, q, weight, c, step);
    }

    fn hyper_pre(
        &self,
        y: &Tensor,
        post: &Tensor,
        comb: &Tensor,
        x: &Tensor,
        mixes: &Tensor,
        scale: &Tensor,
        base: &Tensor,
        h: &Hyper,
    ) {
        self.inner.hyper_pre(y, post, comb, x, mixes, scale, base, h);
    }

    fn hyper_post(&self, x: &Tensor, f: &Tensor, post: &Tensor, comb: &Tensor) {
        self.inner.hyper_post(x, f, post, comb);
    }

    fn hyper_head(&self, y: &Tensor, x: &Tensor, mixes: &Tensor, scale: &Tensor, base: &Tensor, h: &Hyper) {
        self.inner.hyper_head(y, x, mixes, scale, base, h);
    }

    fn route(&self, experts: &Tensor, weights: &Tensor, logits: &Tensor, r: &Router, step: &Step) {
        self.inner.route(experts, weights, logits, r, step);
    }

    fn moe(&self, y: &Tensor, x: &Tensor, bank: &Bank, experts: &Tensor, weights: &Tensor, limit: Option<f32>) {
        self.inner.moe(y, x, bank, experts, weights, limit);
        let _ = self.remember(self.show_experts(x, bank, experts, weights, limit));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Reference,
        conformance::{Promise, Random, check},
    };

    /// Remembers what it is shown: weights, expert, rows, columns and factors.
    #[derive(Default)]
    struct All(Mutex<Vec<(String, Option<(usize, usize)>, Vec<f32>, usize, Vec<f32>)>>);

    impl Watcher for All {
        fn wants(&self, weight: &str) -> bool {
            weight != "unwanted"
        }

        fn see(&self, seen: Seen<'_>) {
            let factors = seen.factors.map_or(Vec::new(), <[f32]>::to_vec);
            lock(&self.0).push((seen.weights.join(" "), seen.expert, seen.rows.to_vec(), seen.cols, factors));
        }
    }

    struct Bench {
        dev: Watched,
        all: Arc<All>,
        random: Random,
    }

    impl Bench {
        fn new() -> Bench {
            let all = Arc::new(All::default());
            Bench { dev: Watched::new(Arc::new(Reference), all.clone()), all, random: Random::new(1, "watched") }
        }

        fn tensor(&mut self, name: &str, shape: &[usize]) -> Tensor {
            let t = self.dev.alloc(F32, shape).expect("the host has memory");
            let values: Vec<f32> = (0..t.rows() * t.cols()).map(|_| self.random.unit()).collect();
            reference::put(&self.dev, &t, &values);
            if !name.is_empty() {
                self.dev.label(&t, name);
            }
            t
        }

        fn values(&self, t: &Tensor) -> Vec<f32> {
            reference::f32s(&self.dev, t)
        }

        fn seen(&self) -> Vec<(String, Option<(usize, usize)>, Vec<f32>, usize, Vec<f32>)> {
            std::mem::take(&mut *lock(&self.all.0))
        }
    }

    #[test]
    fn a_watched_device_conforms() {
        let dev = Watched::new(Arc::new(Reference), Arc::new(All::default()));
        let failures = check(&[&dev], Promise::Bits, 1);
        assert!(failures.is_empty(), "{}", failures[0]);
    }

    #[test]
    fn rows_are_shown_with_all_weights_that_meet_them() {
        let mut b = Bench::new();
        let x = b.tensor("", &[3, 8]);
        let [w, v, not] = ["w", "v", "unwanted"].map(|name| b.tensor(name, &[4, 8]));
        let narrow = b.tensor("narrow", &[4, 4]);
        let [y, z, act] = [(); 3].map(|()| b.tensor("", &[3, 4]));
        let rows = b.values(&x);
        b.dev.matmul(&y, &w, &x);
        b.dev.matmuls(&[(&y, &w), (&z, &not)], &x);
        b.dev.gated(&act, [(&y, &w), (&z, &v)], &x, None);
        b.dev.matmul_grouped(&y, &narrow, &x, 2);
        b.dev.matmul(&y, &not, &x);
        b.dev.matmul(&y.slice(1..2), &w, &x.slice(1..2));
        let shown = |weights: &str, rows: &[f32], cols| (weights.to_owned(), None, rows.to_vec(), cols, vec![]);
        let expected = [
            shown("w", &rows, 8),
            shown("w", &rows, 8),
            shown("w v", &rows, 8),
            shown("narrow", &rows, 4),
            shown("w", &rows[8..16], 8),
        ];
        assert_eq!(b.seen(), expected);
    }

    #[test]
    fn experts_are_shown_the_rows_that_chose_them_and_what_comes_of_these() {
        let mut b = Bench::new();
        let (n_expert, n_embd, n_ff) = (4, 8, 5);
        let [gate, up] = ["gate", "up"].map(|name| b.tensor(name, &[n_expert, n_ff, n_embd]));
        let down = b.tensor("down", &[n_expert, n_embd, n_ff]);
        let bank = Bank::resident(&gate, &up, &down);
        let (x, y, weights) = (b.tensor("", &[3, n_embd]), b.tensor("", &[3, n_embd]), b.tensor("", &[3, 2]));
        let experts = b.dev.alloc(Kind::I32, &[3, 2]).expect("the host has memory");
        let chosen = [0, 3, 1, 3, 0, 1];
        b.dev.write(&experts, &chosen.iter().flat_map(|e: &i32| e.to_le_bytes()).collect::<Vec<u8>>());
        // One after another, as from the SSD; nobody chose expert 2.
        for part in [0..2, 2..4] {
            let part = part.map(|e| (e, bank.get(e).expect("it is resident").clone())).collect();
            b.dev.moe(&y, &x, &Bank::new(n_expert, part), &experts, &weights, Some(1.5));
        }
        let (rows, factors) = (b.values(&x), b.values(&weights));
        let mut expected = vec![];
        for e in [0, 1, 3] {
            let places: Vec<usize> = (0..6).filter(|&i| chosen[i] == e as i32).collect();
            let [mut into, mut acts] = [vec![], vec![]];
            for t in places.iter().map(|i| i / 2) {
                let row = &rows[t * n_embd..][..n_embd];
                let expert = bank.get(e).expect("it is resident");
                let [gate, up] = [&expert.gate, &expert.up].map(|w| {
                    let product =
                        |w: &[f32]| w.iter().zip(row).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum::<f64>();
                    b.values(w).chunks(n_embd).map(|w| product(w) as f32).collect::<Vec<f32>>()
                });
                into.extend_from_slice(row);
                acts.extend(gate.iter().zip(&up).map(|(&g, &u)| reference::row::swiglu(g, u, Some(1.5))));
            }
            let of = Some((e, n_expert));
            expected.push(("gate up".to_owned(), of, into, n_embd, vec![]));
            expected.push(("down".to_owned(), of, acts, n_ff, places.iter().map(|&i| factors[i]).collect()));
        }
        assert_eq!(b.seen(), expected);
    }

    #[test]
    fn a_name_goes_with_its_memory() {
        let mut b = Bench::new();
        let (x, y) = (b.tensor("", &[1, 8]), b.tensor("", &[1, 4]));
        for i in 0..200 {
            let w = b.tensor(&format!("w{i}"), &[4, 8]);
            b.dev.matmul(&y, &w, &x);
        }
        assert_eq!(b.seen().last().map(|seen| seen.0.clone()), Some("w199".into()));
        assert!(lock(&b.dev.names).known.len() < 140, "names of what is gone are forgotten");
        let other = b.tensor("", &[4, 8]);
        b.dev.matmul(&y, &other, &x);
        assert_eq!(b.seen(), []);
    }
}
