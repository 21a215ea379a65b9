//! Programs and libraries of others, against our server: `cargo xtask clients [NAME ...]`, all of them without a name.
//!
//! ```text
//! table.rs     the clients, their versions, and how they are run with nobody there
//! install.rs   from their registries into a folder for caches, outside the repository
//! served.rs    the server under test, with a model of 1 MB from testdata, and a real one for libraries
//! proxy.rs     between them: holds answers to the script, remembers what went by
//! script.rs    what the model says: a call of the client's own tool, then what came of it
//! verdict.rs   what must have come of it
//! http.rs      as much of it as the proxy speaks
//! ```
//!
//! Libraries have tests of their own, in tests/clients.
//!
//! Each client has a home and a folder of its own, in which a file holds a word that nobody else knows. To show that word at the
//! end, the client must have understood the call, made it, and sent its result back. Then all of its first turn must have been
//! known in the second; and once more with a server that was started anew between them.
//!
//! What cannot be fetched, a client or the real model, is SKIPPED, aloud; that is not a pass, and no failure.

mod http;
mod install;
mod proxy;
mod script;
mod served;
mod table;
mod verdict;

use std::{
    env,
    error::Error,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use self::{
    install::{Packages, path},
    proxy::Proxy,
    script::SECRET,
    served::{Model, Served},
    table::{CLIENTS, Client, LIBRARIES, Library, Place},
    verdict::Loop,
};

/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(600);
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// The file with the word.
const FILE: &str = "note.txt";
const QUESTION: &str = "Which word is in note.txt?";

/// What came of one of them.
enum Outcome {
    /// It works, and has made a call if it makes any.
    Done(String, Option<Box<Loop>>),
    Skipped(String),
}

/// What all of them need.
struct Bench<'a> {
    root: &'a Path,
    program: PathBuf,
    cache: PathBuf,
    /// The folder of this run.
    run: PathBuf,
}

/// Runs those with these names, or all.
///
/// # Errors
/// One of them fails.
pub(crate) fn test(root: &Path, names: &[&str]) -> Result<(), Box<dyn Error>> {
    check_names(names)?;
    let is_chosen = |name: &str| names.is_empty() || names.contains(&name);
    let cache = cache()?;
    let run = cache.join("run");
    let _alone = alone(&cache)?;
    if run.exists() {
        fs::remove_dir_all(&run)?;
    }
    let bench = Bench { root, program: served::build(root)?, cache, run };
    let clients: Vec<_> = CLIENTS.iter().filter(|client| is_chosen(client.name)).collect();
    let libraries: Vec<_> = LIBRARIES.iter().filter(|library| is_chosen(library.name)).collect();
    let n_failed = bench.libraries(&libraries)? + bench.clients(&clients)?;
    if n_failed == 0 { Ok(()) } else { Err(format!("{n_failed} failed").into()) }
}

fn check_names(names: &[&str]) -> Result<(), String> {
    let known: Vec<_> = LIBRARIES.iter().map(|l| l.name).chain(CLIENTS.iter().map(|c| c.name)).collect();
    match names.iter().find(|name| !known.contains(name)) {
        Some(name) => Err(format!("no client is called `{name}`; there are {}", known.join(", "))),
        None => Ok(()),
    }
}

impl Bench<'_> {
    /// Tests libraries, with each of their models. Returns how many of these tests fail.
    fn libraries(&self, libraries: &[&Library]) -> Result<usize, Box<dyn Error>> {
        let mut n_failed = 0;
        for library in libraries {
            for &model in library.models {
                let name = format!("{}/{}", library.name, model.name());
                let outcome = self.library(library, model, &name);
                n_failed += usize::from(self.tell(&name, &library.packages, &outcome));
            }
        }
        Ok(n_failed)
    }

    /// Runs clients, and then sends again what they asked. Returns how many fail.
    fn clients(&self, clients: &[&Client]) -> Result<usize, Box<dyn Error>> {
        if clients.is_empty() {
            return Ok(0);
        }
        let (mut loops, mut n_failed) = (Vec::new(), 0);
        let served = self.serve_clients()?;
        for client in clients {
            let outcome = self.client(client, &served);
            n_failed += usize::from(self.tell(client.name, &client.packages, &outcome));
            if let Ok(Outcome::Done(_, Some(turns))) = outcome {
                loops.push((client.name, turns));
            }
        }
        served.end()?;
        served::forget(&self.run.join("server"))?;
        Ok(n_failed + self.restart(&loops)?)
    }

    /// Asks first turns again of a server that knows nothing of them, and second ones of the next. Returns how many of these it does
    /// not know as it should.
    fn restart(&self, loops: &[(&str, Box<Loop>)]) -> Result<usize, Box<dyn Error>> {
        let served = self.serve_clients()?;
        let firsts: Vec<_> =
            loops.iter().map(|(_, turns)| turns.first.again(served.address)).collect::<Result<_, _>>()?;
        served.end()?;
        let served = self.serve_clients()?;
        let mut n_failed = 0;
        for ((name, turns), first) in loops.iter().zip(firsts) {
            let told = if turns.tells_reasoning() {
                let turns = Loop { first, second: turns.second.again(served.address)? };
                let known = turns.is_known();
                n_failed += usize::from(known.is_err());
                known.map_or_else(|why| format!("FAILED: {why}"), |(n, of)| format!("{n} tokens of {of} were known"))
            } else {
                "it does not send reasoning back, so that only the server that wrote it can know its turns".to_owned()
            };
            println!("{name}, after a restart: {told}");
        }
        served.end()?;
        Ok(n_failed)
    }

    /// The server that clients are run against, one after another.
    fn serve_clients(&self) -> Result<Served, Box<dyn Error>> {
        let file = Model::Micro.file(self.root, &self.run)?;
        self.serve("server", (Model::Micro, &file), served::CLIENTS)
    }

    /// A server that keeps what it computes in a folder of this name.
    fn serve(&self, name: &str, model: (Model, &Path), flags: &[&str]) -> Result<Served, Box<dyn Error>> {
        let folder = self.run.join(name);
        fs::create_dir_all(&folder)?;
        Served::start(&self.program, model, &folder, flags)
    }

    /// Says what came of it. Whether it failed.
    fn tell(&self, name: &str, packages: &Packages, outcome: &Result<Outcome, Box<dyn Error>>) -> bool {
        let what = match outcome {
            Ok(Outcome::Done(what, _)) => format!("works; {what}"),
            Ok(Outcome::Skipped(why)) => format!("SKIPPED: {why}"),
            Err(why) => format!("FAILED: {why}; see {}", self.run.join(name).display()),
        };
        println!("{name} ({}): {what}", packages.list().join(", "));
        outcome.is_err()
    }

    fn library(&self, library: &Library, model: Model, name: &str) -> Result<Outcome, Box<dyn Error>> {
        let folder = self.run.join(name);
        fs::create_dir_all(&folder)?;
        let (programs, file) = match self.have(library, model, &folder) {
            Ok(had) => had,
            Err(why) => return Ok(Outcome::Skipped(why)),
        };
        let served = self.serve(name, (model, &file), library.flags)?;
        let mut command = Command::new(library.program);
        command.args(library.arguments).current_dir(self.root);
        command.env("SERVER", format!("http://{}", served.address)).env("KEY", served::KEY).env("MODEL", model.name());
        command.env("PACKAGES", library.packages.folder(&self.cache));
        let start = Instant::now();
        let status = run(isolated(command, &folder, &programs), &folder)?;
        let seconds = start.elapsed().as_secs_f64();
        served.end()?;
        match status.success() {
            true => Ok(Outcome::Done(format!("{seconds:.1} s"), None)),
            false => Err(format!("its tests ended with {status}").into()),
        }
    }

    /// Where the programs for a library and the model's file are, which may be in this folder.
    ///
    /// # Errors
    /// Why something cannot be had.
    fn have(&self, library: &Library, model: Model, folder: &Path) -> Result<(Vec<PathBuf>, PathBuf), String> {
        let system = env::var_os("PATH").unwrap_or_default();
        let is_there = |program: &&str| env::split_paths(&system).any(|folder| folder.join(program).is_file());
        if !library.needs.is_empty() && !library.needs.iter().any(is_there) {
            return Err(format!("there is no {}", library.needs.join(", and no ")));
        }
        let programs = library.packages.install(&self.cache)?;
        let file = model.file(self.root, folder).map_err(|error| error.to_string())?;
        Ok((programs, file))
    }

    fn client(&self, client: &Client, served: &Served) -> Result<Outcome, Box<dyn Error>> {
        let programs = match client.packages.install(&self.cache) {
            Ok(programs) => programs,
            Err(why) => return Ok(Outcome::Skipped(why)),
        };
        let folder = self.run.join(client.name);
        let (home, work) = (folder.join("home"), folder.join("work"));
        fs::create_dir_all(&home)?;
        fs::create_dir_all(&work)?;
        let secret = client.call.map(|_| format!("{SECRET}{:016x}", random()));
        fs::write(work.join(FILE), secret.as_deref().unwrap_or_default())?;
        let call = client.call.map(|call| call(&work.join(FILE)));
        let proxy = Proxy::start(served.address, call)?;
        let place = Place { server: proxy.address, home: &home, question: QUESTION };
        let mut command = (client.command)(&place)?;
        command.current_dir(&work);
        let start = Instant::now();
        let status = run(isolated(command, &home, &programs), &folder)?;
        let seconds = start.elapsed().as_secs_f64();
        let exchanges = proxy.exchanges();
        verdict::nothing_was_refused(&exchanges)?;
        verdict::answer_is_shown(&fs::read_to_string(folder.join("stdout"))?, secret.as_deref())?;
        if !status.success() {
            return Err(format!("it ended with {status}").into());
        }
        let what = format!("{seconds:.1} s, requests: {}", exchanges.len());
        let Some(secret) = secret else { return Ok(Outcome::Done(what, None)) };
        let turns = verdict::tool_loop(&exchanges, &secret)?;
        let (n, of) = turns.is_known()?;
        Ok(Outcome::Done(format!("{what}; of its second turn's {of} tokens {n} were known"), Some(Box::new(turns))))
    }
}

/// Where packages and runs are kept.
fn cache() -> Result<PathBuf, Box<dyn Error>> {
    let folder = match (env::var_os("XDG_CACHE_HOME"), env::var_os("HOME")) {
        (Some(caches), _) => PathBuf::from(caches),
        (None, Some(home)) => PathBuf::from(home).join(".cache"),
        (None, None) => return Err("there is neither XDG_CACHE_HOME nor HOME".into()),
    };
    Ok(folder.join("server-clients"))
}

/// Waits until no other process is at it: they share packages, and the folder of the run. None begins until the file is closed.
fn alone(cache: &Path) -> io::Result<File> {
    fs::create_dir_all(cache)?;
    let lock = File::create(cache.join("lock"))?;
    if lock.try_lock().is_err() {
        println!("another run is under way: this one waits for its end");
        lock.lock()?;
    }
    Ok(lock)
}

/// A number that no client can know.
fn random() -> u64 {
    use std::hash::{BuildHasher as _, RandomState};
    RandomState::new().hash_one(())
}

/// A command that finds nothing of ours but programs, and whose files stay in its home.
fn isolated(mut command: Command, home: &Path, programs: &[PathBuf]) -> Command {
    let own: Vec<_> =
        command.get_envs().filter_map(|(name, value)| Some((name.to_owned(), value?.to_owned()))).collect();
    command.env_clear().envs(own);
    command
        .env("PATH", path(programs))
        .env("HOME", home)
        .env("TERM", "dumb")
        .env("LANG", "C.UTF-8")
        .env("NO_COLOR", "1");
    command
}

/// Runs it to its end, what it says in files.
fn run(mut command: Command, folder: &Path) -> io::Result<ExitStatus> {
    command.stdin(Stdio::null());
    command.stdout(File::create(folder.join("stdout"))?).stderr(File::create(folder.join("stderr"))?);
    let mut child = in_group(&mut command).spawn()?;
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if start.elapsed() > PATIENCE {
            end(&mut child)?;
            return Err(io::Error::other(format!("it took longer than {} s", PATIENCE.as_secs())));
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// With all that it starts, so that all of it can be ended.
fn in_group(command: &mut Command) -> &mut Command {
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(command, 0);
    command
}

fn end(child: &mut Child) -> io::Result<ExitStatus> {
    Command::new("kill").args(["-KILL", "--", &format!("-{}", child.id())]).status()?;
    child.wait()
}
