//! The server that is tested: built from this repository, with a model that can be held to any words, or a real one.

use std::{
    error::Error,
    fs::{self, File},
    io::{self, BufRead as _, BufReader},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use serde_json::Value;

use crate::fetch::fetch;

/// The file of the model in the program.
const NANO: &str = "crates/nano/nano.gguf";
/// The smallest model that has DeepSeek V4's structure and format. Its vocabulary is bytes, so that a conversation takes as many tokens as
/// it has letters: some clients' instructions have 100,000.
const MICRO: &str = "testdata/deepseek_v4/micro-long.gguf";
/// Room for them.
pub(crate) const CLIENTS: &[&str] = &["--sessions", "4", "--ctx", "200000"];
/// Little room, and a key that has to be known.
pub(crate) const LIBRARIES: &[&str] = &["--sessions", "2", "--ctx", "4096", "--api-key", KEY];
/// Room for an answer that is stopped long before its end.
pub(crate) const PAGE: &[&str] = &["--sessions", "2", "--ctx", "65536", "--api-key", KEY];
pub(crate) const KEY: &str = "a-key-of-these-tests";

/// What is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Model {
    /// It has random weights, and a format with reasoning and calls.
    Micro,
    /// What it says makes sense; its format has neither.
    Real,
    /// The same with a format that has calls, [`TEMPLATE`].
    Calling,
    /// The model in the program: small, but taught to call five tools of its own accord.
    Nano,
}

/// A chat template in the way of Hermes, no longer than SmolLM2's own.
const TEMPLATE: &str = "{% if tools %}<|im_start|>system
Call tools with <tool_call>.
{{ tools | tojson }}<|im_end|>
{% endif %}{% for m in messages %}<|im_start|>{{ m.role }}
{{ m.content }}{% for c in m.tool_calls %}<tool_call>
{{ c.function | tojson }}
</tool_call>{% endfor %}<|im_end|>
{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant
{% endif %}";

impl Model {
    /// What it is called by clients.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Model::Micro => "micro",
            Model::Real | Model::Calling => "smollm2",
            Model::Nano => "nano",
        }
    }

    /// Where it is; what is made of another is put into a folder.
    ///
    /// # Errors
    /// It cannot be had.
    pub(crate) fn file(self, root: &Path, folder: &Path) -> Result<PathBuf, Box<dyn Error>> {
        match self {
            Model::Micro => Ok(root.join(MICRO)),
            Model::Nano => Ok(root.join(NANO)),
            Model::Real => fetch(root, self.name()),
            Model::Calling => {
                let path = folder.join("calling.gguf");
                fs::write(&path, with_template(fs::read(fetch(root, self.name())?)?)?)?;
                Ok(path)
            }
        }
    }
}

/// A model file with [`TEMPLATE`] in the place of its own, filled up to its length, so that all else stays where it is.
fn with_template(mut file: Vec<u8>) -> Result<Vec<u8>, &'static str> {
    const KEY: &[u8] = b"tokenizer.chat_template";
    const TYPE_BYTES: usize = 4;
    let key = file.windows(KEY.len()).position(|at| at == KEY).ok_or("it has no chat template")?;
    let behind = &mut file[key + KEY.len() + TYPE_BYTES..];
    let (n_bytes, text) = behind.split_first_chunk_mut().ok_or("its chat template is cut off")?;
    let n_bytes = u64::from_le_bytes(*n_bytes) as usize;
    let own = text.get_mut(..n_bytes).ok_or("its chat template is cut off")?;
    let n_more = n_bytes.checked_sub(TEMPLATE.len() + "{##}".len()).ok_or("its chat template is shorter than ours")?;
    own.copy_from_slice(format!("{TEMPLATE}{{#{}#}}", " ".repeat(n_more)).as_bytes());
    Ok(file)
}

/// A server that runs, until it is dropped.
pub(crate) struct Served {
    pub(crate) address: SocketAddr,
    process: Child,
}

/// Builds the program as the tests of the workspace do, who have it built already: for one package alone, cargo chooses other
/// features of what others wrote, and builds all of that again. Returns where it is.
pub(crate) fn build(root: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let args = ["test", "--quiet", "--workspace", "--no-run", "--message-format", "json-render-diagnostics"];
    let built = Command::new("cargo").current_dir(root).args(args).stderr(Stdio::inherit()).output()?;
    let messages = String::from_utf8(built.stdout)?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let is_program = |message: &Value| message["target"]["kind"][0] == "bin" && message["profile"]["test"] == false;
    let programs = messages.filter(|message| is_program(message) && message["target"]["name"] != "xtask");
    let program = programs.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).next_back();
    program.ok_or_else(|| format!("cargo test --no-run: {}", built.status).into())
}

impl Served {
    /// Starts one with a model, whose file this is. It keeps what it computes in a folder, and what it has to say in a file there.
    pub(crate) fn start(
        program: &Path,
        (model, file): (Model, &Path),
        folder: &Path,
        flags: &[&str],
    ) -> Result<Served, Box<dyn Error>> {
        let mut process = Command::new(program)
            .args(["serve", "--port", "0", "--alias", model.name(), "--model"])
            .arg(file)
            .args(flags)
            .arg("--kv-disk-dir")
            .arg(folder.join("kv"))
            .arg("--cache-dir")
            .arg(folder.join("cache"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(process.stderr.take().ok_or("it was asked for")?);
        let mut told = String::new();
        while lines.read_line(&mut told)? > 0 {
            if let Some(address) = told.lines().last().and_then(address) {
                let mut log = File::create(folder.join("server.log"))?;
                std::thread::spawn(move || io::copy(&mut lines, &mut log));
                return Ok(Served { address, process });
            }
        }
        Err(format!("the server ended: {told}").into())
    }

    /// Has it end in an orderly way, and waits for that.
    pub(crate) fn end(mut self) -> Result<(), Box<dyn Error>> {
        let asked = Command::new("kill").arg(self.process.id().to_string()).status()?;
        let ended = self.process.wait()?;
        if asked.success() && ended.success() { Ok(()) } else { Err(format!("the server ended with {ended}").into()) }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.process.kill(); // it may have ended
        let _ = self.process.wait();
    }
}

/// Removes what a server that has ended keeps of conversations in its folder. What it sealed their reasoning with stays.
pub(crate) fn forget(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder.join("kv"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "kv") {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// Where the server says that it listens.
fn address(line: &str) -> Option<SocketAddr> {
    line.split("http://").nth(1)?.split([',', ';', ' ', '/']).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_template_takes_the_place_of_another_and_moves_nothing() {
        let file = |template: &str| {
            let n_bytes = (template.len() as u64).to_le_bytes();
            [b"..tokenizer.chat_template\x08\0\0\0", &n_bytes[..], template.as_bytes(), b"more"].concat()
        };
        let own = "x".repeat(TEMPLATE.len() + 6);
        assert_eq!(with_template(file(&own)), Ok(file(&format!("{TEMPLATE}{{#  #}}"))));
        assert_eq!(with_template(file("x")), Err("its chat template is shorter than ours"));
        assert_eq!(with_template(file(&own)[..40].to_vec()), Err("its chat template is cut off"));
        assert_eq!(with_template(b"more".to_vec()), Err("it has no chat template"));
    }

    #[test]
    fn the_address_is_read_from_what_the_server_says() {
        let line = "micro, DeepSeek V4, at http://127.0.0.1:8123; Ctrl+C ends";
        assert_eq!(address(line), Some(SocketAddr::from(([127, 0, 0, 1], 8123))));
        assert_eq!(address("opening"), None);
    }
}
