//! The file of a trace. What is there is never overwritten: a run goes on behind those before it, and only where the file is a
//! trace. Lines are written whole; what a full disk took of one is cut off again.

use std::{
    fs::{File, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom, Write},
    path::Path,
};

use serde_json::json;

use crate::{log::now, outbox::Place};

/// How a trace begins, and with it each run in it.
const HEAD: &str = r#"{"event":"begin","version":1,"#;

/// Why a file cannot hold a trace.
#[derive(Debug, thiserror::Error)]
pub enum TraceError {
    /// A device, a pipe, a folder.
    #[error("is no ordinary file")]
    NotAFile,
    /// Something else that should stay as it is.
    #[error("is not empty, and no trace")]
    NotATrace,
    /// Two processes, one file.
    #[error("another process writes to it")]
    InUse,
    /// What the system says.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A file that a server writes to what is said and answered.
#[derive(Debug)]
pub struct Trace {
    file: File,
    n_bytes: u64,
    is_redacted: bool,
}

impl Trace {
    /// Makes a file that its owner alone may read, or goes on with a trace that is there, and begins a run in it; with `is_redacted`
    /// texts will be told by their sizes.
    ///
    /// # Errors
    /// The file is something else, another process's, or cannot be written.
    pub fn open(path: &Path, is_redacted: bool) -> Result<Trace, TraceError> {
        if path.metadata().is_ok_and(|found| !found.is_file()) {
            return Err(TraceError::NotAFile);
        }
        let mut file = files::private().read(true).append(true).create(true).open(path)?;
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => return Err(TraceError::InUse),
            Ok(()) | Err(TryLockError::Error(_)) => {} // not every file system has locks
        }
        let n_before = file.metadata()?.len();
        let mut line = format!("{HEAD}\"time\":{},\"redacted\":{is_redacted}}}\n", json!(now()));
        if n_before > 0 && !ends_whole(&mut file)? {
            line.insert(0, '\n'); // whoever wrote the last one was ended in the middle
        }
        file.write_all(line.as_bytes()).inspect_err(|_| _ = file.set_len(n_before))?;
        Ok(Trace { n_bytes: n_before + line.len() as u64, file, is_redacted })
    }

    pub(crate) fn is_redacted(&self) -> bool {
        self.is_redacted
    }
}

/// Whether a trace ends with a whole line.
///
/// # Errors
/// It is none.
fn ends_whole(file: &mut File) -> Result<bool, TraceError> {
    let (mut head, mut last) = ([0; HEAD.len()], [0]);
    let read = file.rewind().and_then(|()| file.read_exact(&mut head));
    if read.is_err() || head != HEAD.as_bytes() {
        return Err(TraceError::NotATrace);
    }
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// A file that can be cut.
trait Cut: Write + Send + 'static {
    /// Leaves so many bytes of it.
    fn cut(&mut self, n_bytes: u64) -> io::Result<()>;
}

impl Cut for File {
    fn cut(&mut self, n_bytes: u64) -> io::Result<()> {
        self.set_len(n_bytes)
    }
}

/// A trace that is written.
pub(super) struct Writing<F, W> {
    file: F,
    n_bytes: u64,
    /// Part of a line may be behind these bytes.
    is_torn: bool,
    /// That it fails was told.
    is_told: bool,
    warn: W,
}

impl<W: Fn(&str) + Send + 'static> Writing<File, W> {
    pub(super) fn new(trace: Trace, warn: W) -> Writing<File, W> {
        Writing { file: trace.file, n_bytes: trace.n_bytes, is_torn: false, is_told: false, warn }
    }
}

impl<F: Cut, W: Fn(&str) + Send + 'static> Writing<F, W> {
    fn append(&mut self, line: &str) -> io::Result<()> {
        if self.is_torn {
            self.file.cut(self.n_bytes)?;
        }
        let bytes = [line.as_bytes(), b"\n"].concat();
        self.is_torn = true;
        self.file.write_all(&bytes)?;
        self.is_torn = false;
        self.n_bytes += bytes.len() as u64;
        Ok(())
    }
}

impl<F: Cut, W: Fn(&str) + Send + 'static> Place for Writing<F, W> {
    fn write(&mut self, line: &str) -> bool {
        let written = self.append(line);
        if let Err(error) = &written
            && !std::mem::replace(&mut self.is_told, true)
        {
            (self.warn)(&format!("the trace cannot be written: {error}; answers go on, and the trace tells what it lacks"));
        }
        written.is_ok()
    }

    fn lost(&self, n: u64) -> String {
        json!({ "event": "lost", "time": now(), "n": n }).to_string()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        sync::{
            Arc, Mutex,
            atomic::{AtomicUsize, Ordering},
        },
    };

    use super::*;

    /// A disk that holds so many bytes.
    #[derive(Clone, Default)]
    struct Disk(Arc<(Mutex<Vec<u8>>, AtomicUsize)>);

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut held = self.0.0.lock().expect("nobody panics");
            let n = bytes.len().min(self.0.1.load(Ordering::Relaxed) - held.len());
            held.extend_from_slice(&bytes[..n]);
            if n == 0 { Err(io::ErrorKind::StorageFull.into()) } else { Ok(n) }
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl Cut for Disk {
        fn cut(&mut self, n_bytes: u64) -> io::Result<()> {
            self.0.0.lock().expect("nobody panics").truncate(n_bytes as usize);
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_is_told_once_and_leaves_no_half_lines() {
        let (disk, told) = (Disk::default(), Arc::new(AtomicUsize::new(0)));
        let of_trace = told.clone();
        let warn = move |_: &str| _ = of_trace.fetch_add(1, Ordering::Relaxed);
        let mut trace = Writing { file: disk.clone(), n_bytes: 0, is_torn: false, is_told: false, warn };
        let mut write = |n_bytes: usize, line: &str| {
            disk.0.1.store(n_bytes, Ordering::Relaxed);
            trace.write(line)
        };
        assert_eq!([(10, "first"), (10, "second"), (10, "third"), (20, "fourth")].map(|(n, l)| write(n, l)), [true, false, false, true]);
        assert_eq!(*disk.0.0.lock().expect("nobody panics"), b"first\nfourth\n");
        assert_eq!(told.load(Ordering::Relaxed), 1);
    }

    fn open(path: &Path) -> Result<(), String> {
        Trace::open(path, false).map(drop).map_err(|error| error.to_string())
    }

    #[test]
    fn only_a_trace_is_gone_on_with() {
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let path = folder.path().join("trace.jsonl");
        let held = Trace::open(&path, true).unwrap_or_else(|e| panic!("{e}"));
        assert!(open(&path).is_err_and(|why| why.contains("another process")));
        drop(held);
        fs::OpenOptions::new().append(true).open(&path).and_then(|mut file| file.write_all(b"{\"half")).expect("it is ours");
        assert_eq!(open(&path), Ok(()));
        let text = fs::read_to_string(&path).expect("it is text");
        let lines: Vec<_> = text.lines().collect();
        assert!(lines.len() == 3 && lines[0].contains("\"redacted\":true}") && lines[2].contains("\"redacted\":false}"), "{text}");
        for (i, other) in ["x", "{\"event\":\"begin\",\"version\":2,", &"x".repeat(1000)].into_iter().enumerate() {
            let path = folder.path().join(i.to_string());
            fs::write(&path, other).expect("it is ours");
            assert!(open(&path).is_err_and(|why| why.contains("no trace")), "{other}");
            assert_eq!(fs::read_to_string(&path).expect("it is text"), *other);
        }
        assert!(open(folder.path()).is_err_and(|why| why.contains("no ordinary file")));
        assert!(open(&folder.path().join("missing/trace")).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_may_read() {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let path = folder.path().join("trace.jsonl");
        assert_eq!(open(&path), Ok(()));
        assert_eq!(path.metadata().map_or(0, |found| found.permissions().mode() & 0o777), 0o600);
    }
}
