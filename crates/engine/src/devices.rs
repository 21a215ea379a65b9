//! The list of devices that can run a model.

use std::sync::Arc;

use backend_cpu::{Cpu, Isa};
use compute::Device;

use crate::Error;

/// The device for these options, its instruction set and its number of threads. There is one so far.
///
/// # Errors
/// [`Error::InstructionSet`]; [`Error::Device`] if the system refuses a thread.
pub(crate) fn open(threads: Option<usize>, isa: Option<&str>) -> Result<(Arc<dyn Device>, &'static str, usize), Error> {
    let isa = isa.map_or(Ok(Isa::detect()), named)?;
    let cpu = Cpu::with_isa(threads.unwrap_or_else(backend_cpu::n_threads_default), isa)?;
    let n_threads = cpu.n_threads();
    Ok((Arc::new(cpu), isa.name(), n_threads))
}

/// The instruction set of this machine that is called `name`, by letters and digits in any case.
fn named(name: &str) -> Result<Isa, Error> {
    let plain = |name: &str| name.replace('-', "").to_lowercase();
    let known = || Isa::available().map(|isa| plain(isa.name()));
    let found = Isa::available().find(|isa| plain(isa.name()) == plain(name));
    found.ok_or_else(|| Error::InstructionSet { found: name.into(), known: known().collect::<Vec<_>>().join(", ") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instruction_sets_have_names_that_can_be_typed() {
        assert_eq!(named("scalar").ok(), Some(Isa::Scalar));
        for isa in Isa::available() {
            assert_eq!(named(isa.name()).ok(), Some(isa));
            assert_eq!(named(&isa.name().replace('-', "").to_lowercase()).ok(), Some(isa));
        }
        let foreign = if cfg!(target_arch = "aarch64") { "avx2" } else { "neon" };
        for name in ["z80", foreign] {
            let error = named(name).expect_err("no such machine runs this").to_string();
            let expected = format!("this machine has no instruction set `{name}`; it has scalar");
            assert!(error.starts_with(&expected), "{error}");
        }
    }
}
