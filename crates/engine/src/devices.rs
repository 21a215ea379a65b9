//! The list of devices that can run a model.

use std::sync::Arc;

use backend_cpu::Cpu;
use compute::{Device, DeviceError};

/// The device for these options, and its number of threads. There is one so far.
pub(crate) fn open(threads: Option<usize>) -> Result<(Arc<dyn Device>, usize), DeviceError> {
    let cpu = Cpu::new(threads.unwrap_or_else(backend_cpu::n_threads_default))?;
    let n_threads = cpu.n_threads();
    Ok((Arc::new(cpu), n_threads))
}
