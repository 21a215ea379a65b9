//! For tests: a disk that fails when it is told to, loses what was not synced when the power goes, and counts its bytes.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::outside::{Listed, Lock, Outside, SyncBytes};

/// What goes wrong, and how far it gets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fault {
    pub(crate) kind: io::ErrorKind,
    pub(crate) extent: Extent,
    /// Whether all later operations fail, too.
    pub(crate) lasts: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Extent {
    Nothing,
    Half,
    All,
}

/// A disk with one folder, as processes see it that began since the power came back last. Clones are the same disk.
#[derive(Clone, Default)]
pub(crate) struct Sim {
    world: Arc<Mutex<World>>,
    n_crashes: u64,
}

#[derive(Default)]
pub(crate) struct World {
    pub(crate) now_ms: u64,
    pub(crate) files: BTreeMap<PathBuf, (Vec<u8>, u64)>,
    /// What the power cannot take.
    safe: BTreeMap<PathBuf, (Vec<u8>, u64)>,
    /// Files of whose bytes it can take half, whether or not their names are safe.
    unsynced: BTreeSet<PathBuf>,
    changed_ms: u64,
    is_locked: bool,
    n_crashes: u64,
    /// Operations so far.
    pub(crate) n_ops: u64,
    /// Which operation fails, and how.
    pub(crate) fault: Option<(u64, Fault)>,
    pub(crate) bytes_max: u64,
    /// What somebody else does after the next list was made, or before the next file is read or written.
    pub(crate) meanwhile: Option<Box<dyn FnOnce() + Send>>,
    /// The most bytes that there ever were.
    pub(crate) peak_bytes: u64,
}

impl Sim {
    pub(crate) fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The disk for a new process.
    pub(crate) fn plugged_in(&self) -> Sim {
        let n_crashes = self.world().n_crashes;
        Sim { n_crashes, ..self.clone() }
    }

    /// The power goes, which ends all processes, and comes back. Of each change of a name since the last sync, and of the bytes
    /// of each file that was not synced itself, `kept` says whether they arrived.
    pub(crate) fn crash(&self, mut kept: impl FnMut() -> bool) {
        let mut world = self.world();
        let World { files, safe, unsynced, .. } = &mut *world;
        let paths: Vec<_> = files.keys().chain(safe.keys()).cloned().collect();
        for path in paths {
            if files.get(&path) != safe.get(&path) && !kept() {
                unsynced.remove(&path);
                match safe.get(&path).cloned() {
                    Some(file) => _ = files.insert(path, file),
                    None => _ = files.remove(&path),
                }
            }
        }
        for path in std::mem::take(unsynced) {
            if let Some((bytes, _)) = files.get_mut(&path).filter(|_| !kept()) {
                bytes.truncate(bytes.len() / 2);
            }
        }
        *safe = files.clone();
        (world.is_locked, world.fault, world.peak_bytes) = (false, None, 0);
        world.n_crashes += 1;
    }

    fn let_others_work(&self) {
        let work = self.world().meanwhile.take();
        work.into_iter().for_each(|work| work());
    }

    /// One operation: the fault that is due, or nothing.
    fn op(&self) -> (MutexGuard<'_, World>, Option<Fault>) {
        let mut world = self.world();
        if self.n_crashes < world.n_crashes {
            let gone = Fault { kind: io::ErrorKind::Other, extent: Extent::Nothing, lasts: true };
            return (world, Some(gone));
        }
        world.n_ops += 1;
        let n = world.n_ops;
        let fault = world.fault.filter(|(at, fault)| n == *at || fault.lasts && n > *at);
        (world, fault.map(|(_, fault)| fault))
    }

    /// An operation that is done or is not.
    fn change<T>(&self, change: impl FnOnce(&mut World) -> io::Result<T>) -> io::Result<T> {
        let (mut world, fault) = self.op();
        let done = match fault {
            Some(Fault { extent: Extent::All, kind, .. }) => change(&mut world).and(Err(kind.into())),
            Some(Fault { kind, .. }) => Err(kind.into()),
            None => change(&mut world),
        };
        let n_bytes = world.files.values().map(|(bytes, _)| bytes.len() as u64).sum();
        world.peak_bytes = world.peak_bytes.max(n_bytes);
        done
    }
}

struct Unlock(Sim);

impl Drop for Unlock {
    fn drop(&mut self) {
        let mut world = self.0.world();
        if self.0.n_crashes == world.n_crashes {
            world.is_locked = false;
        }
    }
}

impl Outside for Sim {
    fn now_ms(&self) -> u64 {
        self.world().now_ms
    }

    fn prepare(&self, _: &Path) -> io::Result<()> {
        self.change(|_| Ok(()))
    }

    fn lock(&self, _: &Path) -> io::Result<Option<Lock>> {
        self.change(|_| Ok(()))?;
        let is_free = !std::mem::replace(&mut self.world().is_locked, true);
        Ok(is_free.then(|| Box::new(Unlock(self.clone())) as Lock))
    }

    fn modified_ms(&self, _: &Path) -> io::Result<u64> {
        self.change(|world| Ok(world.changed_ms))
    }

    fn list(&self, _: &Path) -> io::Result<Vec<Listed>> {
        let all = self.change(|world| {
            let file_name = |path: &Path| path.file_name().and_then(|n| n.to_str()).unwrap_or_default().to_owned();
            let listed = |(path, (bytes, modified_ms)): (&PathBuf, &(Vec<u8>, u64))| Listed {
                file_name: file_name(path),
                is_file: true,
                n_bytes: bytes.len() as u64,
                modified_ms: *modified_ms,
            };
            Ok(world.files.iter().map(listed).collect())
        });
        self.let_others_work();
        all
    }

    fn read(&self, path: &Path, bytes_max: u64) -> io::Result<(Vec<u8>, u64)> {
        self.let_others_work();
        self.change(|world| {
            let (bytes, _) = world.files.get(path).ok_or(io::ErrorKind::NotFound)?;
            let n = bytes.len().min(usize::try_from(bytes_max).unwrap_or(usize::MAX));
            Ok((bytes[..n].to_vec(), bytes.len() as u64))
        })
    }

    fn write(&self, path: &Path, parts: &[&[u8]]) -> io::Result<SyncBytes> {
        self.let_others_work();
        let (mut world, fault) = self.op();
        let mut bytes = parts.concat();
        if fault.is_some_and(|fault| fault.extent == Extent::Nothing) {
            return Err(fault.map_or(io::ErrorKind::Other, |fault| fault.kind).into());
        }
        if world.files.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let used: usize = world.files.values().map(|(bytes, _)| bytes.len()).sum();
        let is_full = (used + bytes.len()) as u64 > world.bytes_max;
        if is_full || fault.is_some_and(|fault| fault.extent == Extent::Half) {
            bytes.truncate(bytes.len() / 2);
        }
        world.peak_bytes = world.peak_bytes.max((used + bytes.len()) as u64);
        let now_ms = world.now_ms;
        world.files.insert(path.to_owned(), (bytes, now_ms));
        world.unsynced.insert(path.to_owned());
        world.changed_ms = now_ms;
        match fault {
            Some(fault) => Err(fault.kind.into()),
            None if is_full => Err(io::ErrorKind::StorageFull.into()),
            None => {
                let (sim, path) = (self.clone(), path.to_owned());
                Ok(Box::new(move || {
                    sim.change(|world| {
                        world.unsynced.remove(&path);
                        Ok(())
                    })
                }))
            }
        }
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(|world| {
            let file = world.files.remove(from).ok_or(io::ErrorKind::NotFound)?;
            world.files.insert(to.to_owned(), file);
            world.unsynced.remove(to);
            if world.unsynced.remove(from) {
                world.unsynced.insert(to.to_owned());
            }
            world.changed_ms = world.now_ms;
            Ok(())
        })
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(|world| {
            world.changed_ms = world.now_ms;
            world.unsynced.remove(path);
            world.files.remove(path).map(drop).ok_or(io::ErrorKind::NotFound.into())
        })
    }

    fn sync(&self, _: &Path) -> io::Result<()> {
        self.change(|world| {
            world.safe = world.files.clone();
            Ok(())
        })
    }

    fn touch(&self, path: &Path, modified_ms: u64) -> io::Result<()> {
        self.change(|world| {
            world.files.get_mut(path).ok_or(io::ErrorKind::NotFound)?.1 = modified_ms;
            Ok(())
        })
    }
}
