//! Tests for ARM on another machine: `cargo xtask arm`, with Debian's cross compiler and QEMU.

use std::{env, error::Error, path::Path, process::Command};

const TARGET: &str = "aarch64-unknown-linux-gnu";
/// Where Debian puts ARM's C library.
const LIBRARIES: &str = "/usr/aarch64-linux-gnu";
const LINKER: &str = "aarch64-linux-gnu-gcc";
const EMULATOR: &str = "qemu-aarch64-static";

/// What has to be there, and the Debian package that brings it.
const TOOLS: [(&str, &str); 3] = [
    (LINKER, "gcc-aarch64-linux-gnu"),
    (EMULATOR, "qemu-user-static"),
    ("/usr/aarch64-linux-gnu/lib/libc.so.6", "libc6-dev-arm64-cross"),
];

/// Runs the tests of what has kernels for ARM, on an emulated processor that has everything.
pub(crate) fn test(root: &Path) -> Result<(), Box<dyn Error>> {
    let packages = missing(&is_there);
    if !packages.is_empty() {
        return Err(format!("this needs Debian's {0}; try: apt-get install {0}", packages.join(" ")).into());
    }
    run(Command::new("rustup").args(["target", "add", TARGET]))?;
    run(Command::new("cargo")
        .current_dir(root)
        .args(["test", "--target", TARGET, "-p", "quant", "-p", "backend-cpu"])
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER", LINKER)
        .env("CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER", format!("{EMULATOR} -cpu max -L {LIBRARIES}")))
}

/// The packages of the tools that are not there.
fn missing(is_there: &dyn Fn(&str) -> bool) -> Vec<&'static str> {
    TOOLS.iter().filter(|(tool, _)| !is_there(tool)).map(|&(_, package)| package).collect()
}

/// Whether there is such a file, or such a program in a folder of `PATH`.
fn is_there(tool: &str) -> bool {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|folder| folder.join(tool).is_file())
}

fn run(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let program = command.get_program().display().to_string();
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{program}: {status}").into()),
        Err(error) => Err(format!("{program}: {error}").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_is_named_by_its_package() {
        assert_eq!(missing(&|_| true), [""; 0]);
        assert_eq!(missing(&|tool| tool != EMULATOR), ["qemu-user-static"]);
        assert_eq!(missing(&|_| false).len(), TOOLS.len());
    }
}
