//! Files that are written: there in full or not at all, and what is ours readable by its owner alone.
//!
//! ```text
//! written under another name -> synced -> renamed -> the folder synced        `publish`
//! ```
#![forbid(unsafe_code)]

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    path::Path,
};

/// How files are opened that are nobody else's business: those that are made so are their owner's alone.
pub fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// Makes a folder, and those above it, that nobody else may look into; one that is there stays as it is.
///
/// # Errors
/// What the system says.
pub fn make_private_folder(path: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.recursive(true).create(path)
}

/// Puts bytes in the place of a file, all of them or none whatever happens, by way of a temporary name in the same folder
/// that nobody else uses.
///
/// # Errors
/// What the system says: then the file is as it was, or, where only the folder could not be made safe, as it is to be.
pub fn replace(path: &Path, temporary: &Path, bytes: &[u8]) -> io::Result<()> {
    // What is there is of somebody who was ended in the middle.
    let _ = fs::remove_file(temporary);
    let mut file = private().write(true).create_new(true).open(temporary)?;
    let written = file.write_all(bytes).and_then(|()| publish(&file, temporary, path));
    written.inspect_err(|_| _ = fs::remove_file(temporary))
}

/// Gives a file that is written its name, in the same folder, when its bytes outlast everything; then the name does, too.
///
/// # Errors
/// What the system says: then the file has its old name, or, where only the folder could not be made safe, the new one.
pub fn publish(file: &File, temporary: &Path, path: &Path) -> io::Result<()> {
    file.sync_all()?;
    fs::rename(temporary, path)?;
    sync_folder(folder_of(path))
}

/// Has the names in a folder outlast everything.
///
/// # Errors
/// What the system says.
pub fn sync_folder(path: &Path) -> io::Result<()> {
    // Elsewhere, folders cannot be opened as files, and names are kept with what they name.
    if cfg!(unix) { File::open(path)?.sync_all() } else { Ok(()) }
}

/// What can still be written to the disk that a file is on, or would be; `None` where the system does not tell.
pub fn free_bytes(path: &Path) -> Option<u64> {
    fs4::available_space(folder_of(path)).ok()
}

/// The folder that a file is in.
fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Fills `out` from byte `offset` of a file on.
///
/// # Errors
/// What the system says, or that the file ends before.
pub fn read_exact_at(file: &File, out: &mut [u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::read_exact_at(file, out, offset);
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < out.len() {
            match std::os::windows::fs::FileExt::seek_read(file, &mut out[done..], offset + done as u64)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                n => done += n,
            }
        }
        Ok(())
    }
}

/// Writes all of `bytes` to a file, from its byte `offset` on.
///
/// # Errors
/// What the system says.
pub fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    #[cfg(unix)]
    return std::os::unix::fs::FileExt::write_all_at(file, bytes, offset);
    #[cfg(windows)]
    {
        let mut done = 0;
        while done < bytes.len() {
            match std::os::windows::fs::FileExt::seek_write(file, &bytes[done..], offset + done as u64)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                n => done += n,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_leaves_nothing_beside_it() {
        let root = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let folder = root.path().join("a/b");
        make_private_folder(&folder).and_then(|()| make_private_folder(&folder)).unwrap_or_else(|e| panic!("{e}"));
        let [path, temporary] = ["file", "partial"].map(|name| folder.join(name));
        fs::write(&temporary, "half of what was to be").unwrap_or_else(|e| panic!("{e}"));
        for text in ["one", "another"] {
            replace(&path, &temporary, text.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
            assert_eq!(fs::read_to_string(&path).unwrap_or_default(), text);
        }
        let taken = folder.join("taken");
        fs::create_dir(&taken).unwrap_or_else(|e| panic!("{e}"));
        assert!(replace(&taken, &temporary, b"no file's place").is_err() && !temporary.exists());
    }

    #[test]
    fn bytes_have_their_place() {
        let file = tempfile::tempfile().unwrap_or_else(|e| panic!("{e}"));
        write_all_at(&file, b"world", 7)
            .and_then(|()| write_all_at(&file, b"hello, ", 0))
            .unwrap_or_else(|e| panic!("{e}"));
        let mut found = [0; 5];
        read_exact_at(&file, &mut found, 5).unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(&found, b", wor");
        assert!(read_exact_at(&file, &mut found, 8).is_err_and(|e| e.kind() == io::ErrorKind::UnexpectedEof));
    }

    #[test]
    fn a_name_alone_is_a_file_in_this_folder() {
        assert_eq!([folder_of(Path::new("x")), folder_of(Path::new("a/x"))], [Path::new("."), Path::new("a")]);
    }

    #[cfg(unix)]
    #[test]
    fn nobody_else_may_read() {
        use std::os::unix::fs::PermissionsExt as _;
        let root = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let folder = root.path().join("ours");
        make_private_folder(&folder).unwrap_or_else(|e| panic!("{e}"));
        let path = folder.join("file");
        replace(&path, &folder.join("partial"), b"text").unwrap_or_else(|e| panic!("{e}"));
        let mode = |path: &Path| fs::metadata(path).map_or(0, |found| found.permissions().mode() & 0o777);
        assert_eq!([mode(&folder), mode(&path)], [0o700, 0o600]);
    }
}
