//! Pages of a mapped file that cannot be read any more: the file was cut short, or its disk failed. The system says so
//! with a signal, SIGBUS, in the middle of whatever read them, and nothing can be made of it but a clear end.
#![cfg(unix)]
#![allow(unsafe_code, reason = "a signal handler")]

use std::sync::OnceLock;

static LINE: OnceLock<&'static str> = OnceLock::new();

/// From now on, when a page of a mapped file cannot be read, the process writes `line` to standard error and ends with
/// status 1, instead of being killed without a word. Only the first call counts.
pub fn explain_lost_pages(line: &'static str) {
    if LINE.set(line).is_err() {
        return;
    }
    let handler: extern "C" fn(libc::c_int) = end;
    // SAFETY: the handler does nothing but read an initialised static, write and exit, which handlers may.
    unsafe { libc::signal(libc::SIGBUS, handler as libc::sighandler_t) };
}

extern "C" fn end(_: libc::c_int) {
    let line = LINE.get().copied().unwrap_or_default();
    // SAFETY: a readable range; both calls are allowed in handlers.
    unsafe {
        libc::write(2, line.as_ptr().cast(), line.len());
        libc::_exit(1)
    }
}
