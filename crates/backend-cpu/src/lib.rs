//! The CPU as a product, not a reference: every operation of [`compute::Device`] on a pool of threads, with kernels
//! for the instruction set found when the program starts.
//!
//! Results do not depend on the number of threads nor on how many rows a batch has: every output element is computed
//! by one thread, in an order fixed by the shapes of the weights and the positions in the sequence.
//!
//! | file | holds |
//! |---|---|
//! | `topology.rs`, `pool.rs`, `memory.rs` | cores; threads; tensors' bytes as slices |
//! | `activation.rs`, `dot/` | packing of rows before a dot product; dot products per format and instruction set |
//! | `vector.rs`, `vector/` | the other loops over f32 |
//! | `rows.rs` | rows of a batch as products want them |
//! | `matmul.rs`, `few.rs`, `moe.rs`, `attention.rs`, `latent.rs`, `simple.rs` | the operations |
//! | `peak.rs` | what bounds them all |
#![deny(unsafe_code)]

#[allow(unsafe_code, reason = "stores into typed rows")]
mod activation;
#[allow(unsafe_code, reason = "threads write different parts of one output")]
mod attention;
#[allow(unsafe_code, reason = "loads, stores and the choice of kernels")]
mod dot;
#[allow(unsafe_code, reason = "threads write different parts of one output")]
mod few;
#[allow(unsafe_code, reason = "threads write different parts of one output")]
mod latent;
#[allow(unsafe_code, reason = "threads write different parts of one output")]
mod matmul;
#[allow(unsafe_code, reason = "the memory behind tensors")]
mod memory;
#[allow(unsafe_code, reason = "threads write different parts of one output")]
mod moe;
#[allow(unsafe_code, reason = "the choice of instruction set, and an empty instruction")]
mod peak;
#[allow(unsafe_code, reason = "regions borrow from their caller")]
mod pool;
mod rows;
mod simple;
mod topology;
#[allow(unsafe_code, reason = "loads, stores and the choice of instruction set")]
mod vector;

use std::sync::{Arc, Mutex};

use compute::{
    Attention, Bank, Chooser, Compressor, Device, DeviceError, HostBytes, Hyper, Kind, Latent, Limits, Memory, Rope,
    Router, Step, Tensor, shapes,
};
pub use dot::Isa;
use dot::Kernel;
use memory::{Access, HostBuffer, Lock, Owned};
use pool::Pool;
use quant::Format;
pub use topology::n_threads_default;
use vector::Vector;

/// The CPU.
pub struct Cpu {
    pool: Pool,
    isa: Isa,
    vector: Vector,
    kernels: Vec<Kernel>, // as in `quant::FORMATS`
    running: Lock,
    scratch: Mutex<matmul::Scratch>,
}

impl Cpu {
    /// The CPU with `n_threads`, the caller's included, and the best instruction set there is.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn new(n_threads: usize) -> Result<Cpu, DeviceError> {
        Cpu::with_isa(n_threads, Isa::detect())
    }

    /// The same with an instruction set of the caller's choice.
    ///
    /// # Errors
    /// If the system refuses a thread.
    ///
    /// # Panics
    /// If this machine lacks it.
    pub fn with_isa(n_threads: usize, isa: Isa) -> Result<Cpu, DeviceError> {
        let kernels = quant::FORMATS.iter().map(|&f| dot::kernel(f, isa)).collect();
        let refused = |source| DeviceError::Threads { device: "CPU".into(), n_threads, source };
        Ok(Cpu {
            pool: Pool::new(n_threads).map_err(refused)?,
            isa,
            vector: Vector::new(isa),
            kernels,
            running: Lock::default(),
            scratch: Mutex::default(),
        })
    }

    /// How many threads compute.
    pub fn n_threads(&self) -> usize {
        self.pool.n_threads()
    }

    fn kernel(&self, format: Format) -> &Kernel {
        let i = quant::FORMATS.iter().position(|&f| f == format).expect("FORMATS lists every format");
        &self.kernels[i]
    }

    /// The kernel for the weights `w`.
    fn kernel_of(&self, w: &Tensor) -> &Kernel {
        let Kind::Packed(format) = w.kind() else { panic!("weights of kind {:?}", w.kind()) };
        self.kernel(format)
    }

    fn access<'a>(&'a self, outs: &'a [&'a Tensor], ins: &'a [&'a Tensor]) -> Access<'a> {
        Access::new(&self.running, outs, ins)
    }
}

impl Memory for Cpu {
    fn alloc(&self, kind: Kind, shape: &[usize]) -> Result<Tensor, DeviceError> {
        let refused = |bytes: usize| DeviceError::OutOfMemory { device: self.name(), bytes };
        let bytes = kind.bytes(shape).ok_or_else(|| refused(usize::MAX))?;
        let owned = Owned::new(bytes).ok_or_else(|| refused(bytes))?;
        Ok(Tensor::new(Arc::new(HostBuffer::Owned(owned, self.running.clone())), kind, shape))
    }

    fn load(&self, kind: Kind, shape: &[usize], bytes: HostBytes) -> Result<Tensor, DeviceError> {
        let len = (*bytes).as_ref().len();
        let t = Tensor::new(Arc::new(HostBuffer::Shared(bytes)), kind, shape);
        assert_eq!(t.byte_range().end, len, "bytes of {t:?}");
        Ok(t)
    }

    fn write(&self, t: &Tensor, bytes: &[u8]) {
        self.access(&[t], &[]).out::<u8>(0).copy_from_slice(bytes);
    }

    fn read(&self, t: &Tensor, out: &mut [u8]) -> Result<(), DeviceError> {
        out.copy_from_slice(self.access(&[], &[t]).input::<u8>(0));
        Ok(())
    }

    fn pin(&self, t: &Tensor) {
        t.buffer().as_any().downcast_ref::<HostBuffer>().into_iter().for_each(HostBuffer::pin);
    }
}

impl Device for Cpu {
    fn name(&self) -> String {
        format!("CPU ({}, {} threads)", self.isa.name(), self.n_threads())
    }

    fn limits(&self, bytes: usize) -> Option<Limits> {
        peak::limits(self, bytes).ok()
    }

    fn embed(&self, y: &Tensor, table: &Tensor, step: &Step) {
        simple::embed(self, y, table, step);
    }

    fn rms_norm(&self, y: &Tensor, x: &Tensor, w: Option<&Tensor>, eps: f32) {
        simple::rms_norm(self, y, x, w, eps);
    }

    fn matmul_grouped(&self, y: &Tensor, w: &Tensor, x: &Tensor, n_group: usize) {
        match x.rows() {
            0..=few::FEW => few::matmuls(self, &[(y, w)], x, n_group),
            _ => matmul::matmuls(self, &[(y, w)], x, n_group),
        }
    }

    fn matmuls(&self, products: &[(&Tensor, &Tensor)], x: &Tensor) {
        match x.rows() {
            0..=few::FEW => few::matmuls(self, products, x, 1),
            _ => matmul::matmuls(self, products, x, 1),
        }
    }

    fn gated(&self, y: &Tensor, [gate, up]: [(&Tensor, &Tensor); 2], x: &Tensor, limit: Option<f32>) {
        shapes::gated(y, [gate, up], x);
        if x.rows() <= few::FEW {
            return few::gated(self, y, [gate.1, up.1], x, limit);
        }
        self.matmuls(&[gate, up], x);
        self.swiglu(y, gate.0, up.0, limit);
    }

    fn add(&self, x: &Tensor, b: &Tensor) {
        simple::add(self, x, b);
    }

    fn swiglu(&self, y: &Tensor, gate: &Tensor, up: &Tensor, limit: Option<f32>) {
        simple::swiglu(self, y, gate, up, limit);
    }

    fn rope(&self, x: &Tensor, rope: &Rope, inverse: bool, step: &Step) {
        simple::rope(self, x, rope, inverse, step);
    }

    fn store(&self, cache: &Tensor, x: &Tensor, step: &Step) {
        simple::store(self, cache, x, step);
    }

    fn attention(&self, y: &Tensor, q: &Tensor, k: &Tensor, v: &Tensor, a: &Attention, step: &Step) {
        attention::attention(self, y, q, k, v, a, step);
    }

    fn latent_attention(&self, y: &Tensor, q: &Tensor, a: &Latent, step: &Step) {
        latent::latent_attention(self, y, q, a, step);
    }

    fn compress(&self, kv: &Tensor, gate: &Tensor, c: &Compressor, step: &Step) {
        latent::compress(self, kv, gate, c, step);
    }

    fn hadamard(&self, x: &Tensor) {
        simple::hadamard(self, x);
    }

    fn round(&self, x: &Tensor, kind: Kind) {
        simple::round(self, x, kind);
    }

    fn choose(&self, chosen: &Tensor, q: &Tensor, weight: &Tensor, c: &Chooser, step: &Step) {
        latent::choose(self, chosen, q, weight, c, step);
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
        simple::hyper_pre(self, [y, post, comb], [x, mixes, scale, base], h);
    }

    fn hyper_post(&self, x: &Tensor, f: &Tensor, post: &Tensor, comb: &Tensor) {
        simple::hyper_post(self, x, f, post, comb);
    }

    fn hyper_head(&self, y: &Tensor, x: &Tensor, mixes: &Tensor, scale: &Tensor, base: &Tensor, h: &Hyper) {
        simple::hyper_head(self, y, [x, mixes, scale, base], h);
    }

    fn route(&self, experts: &Tensor, weights: &Tensor, logits: &Tensor, r: &Router, step: &Step) {
        simple::route(self, experts, weights, logits, r, step);
    }

    fn moe(&self, y: &Tensor, x: &Tensor, bank: &Bank, experts: &Tensor, weights: &Tensor, limit: Option<f32>) {
        moe::moe(self, y, x, bank, experts, weights, limit);
    }
}

#[cfg(test)]
mod tests {
    use compute::{
        F32,
        conformance::{Promise, check},
    };

    use super::*;

    #[test]
    fn scalar_code_conforms() {
        conforms(Isa::Scalar);
    }

    #[test]
    fn avx2_conforms() {
        conforms(Isa::Avx2);
    }

    #[test]
    fn avx512_conforms() {
        conforms(Isa::Avx512);
    }

    #[test]
    fn another_cpu_cannot_reach_what_this_one_may_be_writing() {
        let [a, b] = [1, 1].map(|n_threads| Cpu::new(n_threads).expect("no more threads"));
        let x = a.alloc(F32, &[1, 4]).expect("16 bytes");
        let reach = |f: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_ok();
        assert!(reach(&|| a.write(&x, &[1; 16])));
        assert!(!reach(&|| b.write(&x, &[1; 16])));
        assert!(!reach(&|| b.read(&x, &mut [1; 16]).expect("the CPU does not fail")));
        let weights = a.load(F32, &[1, 4], Arc::new(vec![0; 16])).expect("read in place");
        assert!(reach(&|| b.read(&weights, &mut [1; 16]).expect("the CPU does not fail")));
    }

    #[test]
    fn amx_conforms() {
        conforms(Isa::Amx);
    }

    #[test]
    fn neon_conforms() {
        conforms(Isa::Neon);
    }

    /// Every operation is the reference's, to the bit the same for one to three threads and however a batch is cut.
    fn conforms(isa: Isa) {
        if !Isa::available().any(|i| i == isa) {
            return eprintln!("skipped: this machine has no {}", isa.name());
        }
        let devices = [1, 2, 3].map(|n_threads| Cpu::with_isa(n_threads, isa).expect("the system has some threads"));
        let failures = check(&devices.each_ref().map(|d| d as &dyn Device), Promise::Bits, 1);
        let lines: Vec<String> = failures.iter().take(20).map(|f| f.to_string()).collect();
        assert!(failures.is_empty(), "{} failures\n{}", failures.len(), lines.join("\n"));
    }
}
