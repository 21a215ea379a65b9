//! The list of devices that can run a model.

use std::sync::Arc;

use backend_cpu::Cpu;
use compute::Device;

/// The device for these options, and its number of threads. There is one so far.
pub(crate) fn open(threads: Option<usize>) -> (Arc<dyn Device>, usize) {
    let cpu = Cpu::new(threads.unwrap_or_else(backend_cpu::n_threads_default));
    let n_threads = cpu.n_threads();
    (Arc::new(cpu), n_threads)
}
