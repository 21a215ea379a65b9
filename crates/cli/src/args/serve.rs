//! Flags of the server.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use clap::{Args, ValueEnum, ValueHint};
use server::{Access, Log, Tls};

use super::{BudgetArgs, ModelArgs, SamplingArgs, StoreArgs};
use crate::error::Error;

/// Fewer letters are guessed.
const KEY_BYTES_MIN: usize = 16;

#[derive(Debug, Args)]
pub(crate) struct ServeArgs {
    /// Address to listen at
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1", value_parser = host, help_heading = "Server")]
    pub(crate) host: IpAddr,

    /// Port to listen at; 0 takes a free one
    #[arg(long, value_name = "N", default_value = "8000", help_heading = "Server")]
    pub(crate) port: u16,

    /// Name of the model for clients [default: the file's name]
    #[arg(long, value_name = "NAME", value_parser = alias, help_heading = "Server")]
    pub(crate) alias: Vec<String>,

    /// Conversations that are answered at the same time
    #[arg(long, visible_alias = "parallel", value_name = "N", default_value = "4", help_heading = "Server")]
    #[arg(value_parser = super::sessions, allow_negative_numbers = true)]
    pub(crate) sessions: usize,

    /// Room for each of them, in tokens [default: what the model knows and memory holds]
    #[arg(short, long, value_name = "N", value_parser = super::tokens, allow_negative_numbers = true, help_heading = "Server")]
    pub(crate) ctx: Option<usize>,

    /// Requests that wait when all are busy
    #[arg(long, value_name = "N", default_value = "256", help_heading = "Server")]
    pub(crate) queue: usize,

    /// A key that clients must know; several times for several keys
    #[arg(long, value_name = "KEY", help_heading = "Server")]
    api_key: Vec<String>,

    /// File with such keys, one a line
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Server")]
    api_key_file: Option<PathBuf>,

    /// Let anybody ask who reaches an address that is not this machine's alone
    #[arg(long, help_heading = "Server", conflicts_with_all = ["api_key", "api_key_file"])]
    no_auth: bool,

    /// A further name of this machine that clients may use
    #[arg(long, value_name = "NAME", value_parser = name, help_heading = "Server")]
    allow_host: Vec<String>,

    /// Origin whose pages may ask, as https://example.com
    #[arg(long, value_name = "ORIGIN", value_parser = origin, help_heading = "Server")]
    cors: Vec<String>,

    /// File with the certificate to speak TLS with, and those that it hangs on behind it, as PEM
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "tls_key", help_heading = "Server")]
    pub(crate) tls_cert: Option<PathBuf>,

    /// File with its key, as PEM
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, requires = "tls_cert", help_heading = "Server")]
    tls_key: Option<PathBuf>,

    /// What stderr tells of each request: a line of text, a JSON object, or nothing
    #[arg(long, value_enum, value_name = "FORM", default_value_t, help_heading = "Server")]
    log: LogForm,

    /// File to write to what is asked and answered: bodies, prompts, answers; it goes on behind what is there
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, help_heading = "Server")]
    pub(crate) trace: Option<PathBuf>,

    /// Write there how long texts are, and not the texts
    #[arg(long, requires = "trace", help_heading = "Server")]
    pub(crate) trace_redact: bool,

    #[command(flatten)]
    pub(crate) model: ModelArgs,

    #[command(flatten)]
    pub(crate) budget: BudgetArgs,

    #[command(flatten)]
    pub(crate) sampling: SamplingArgs,

    #[command(flatten)]
    pub(crate) store: StoreArgs,
}

/// How requests are told.
#[derive(Clone, Copy, Debug, Default, ValueEnum)]
enum LogForm {
    #[default]
    Text,
    Json,
    Off,
}

impl ServeArgs {
    /// What connections are made safe with, if they are.
    ///
    /// # Errors
    /// The certificate and the key are no good.
    pub(crate) fn tls(&self) -> Result<Option<Tls>, Error> {
        let Some((certificate, key)) = self.tls_cert.as_ref().zip(self.tls_key.as_ref()) else { return Ok(None) };
        Ok(Some(Tls::load(certificate, key)?))
    }

    /// What is told of requests.
    pub(crate) fn log(&self) -> Log {
        match self.log {
            LogForm::Text => Log::Text,
            LogForm::Json => Log::Json,
            LogForm::Off => Log::Off,
        }
    }

    /// Where to listen.
    pub(crate) fn address(&self) -> SocketAddr {
        SocketAddr::new(self.host, self.port)
    }

    /// Who may ask.
    ///
    /// # Errors
    /// Keys that cannot be read or could be guessed, and none where others than this machine reach us.
    pub(crate) fn access(&self) -> Result<Access, Error> {
        let mut keys = self.api_key.clone();
        if let Some(path) = &self.api_key_file {
            let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.clone(), source })?;
            keys.extend(text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned));
            if keys.is_empty() {
                return Err(usage(format!("{}: there is no key in it", path.display()), "write one a line"));
            }
        }
        if keys.iter().any(|key| key.len() < KEY_BYTES_MIN || key.chars().any(|c| !c.is_ascii_graphic())) {
            let what = format!("a key must have at least {KEY_BYTES_MIN} letters, digits or signs, and no spaces");
            return Err(usage(what, "make one with: openssl rand -hex 16"));
        }
        if keys.is_empty() && !self.no_auth && !server::is_local(self.host) {
            let what = format!("{} can be reached by others, and there is no key", self.host);
            return Err(usage(what, "give one with --api-key KEY, or let anybody in with --no-auth"));
        }
        Ok(Access::new(&keys, &self.allow_host, &self.cors))
    }
}

fn usage(what: String, help: &str) -> Error {
    Error::Usage { what, help: help.into() }
}

fn alias(text: &str) -> Result<String, String> {
    let is_sound = !text.is_empty() && text.chars().all(|c| !c.is_control() && !c.is_whitespace());
    is_sound.then(|| text.to_owned()).ok_or_else(|| "must be a name without spaces".into())
}

/// A name as it is in `Host`.
fn name(text: &str) -> Result<String, String> {
    let is_sound = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "-._".contains(c));
    is_sound.then(|| text.to_owned()).ok_or_else(|| "must be a name such as box.lan, without a port".into())
}

/// A page's origin as browsers send it.
fn origin(text: &str) -> Result<String, String> {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_sound = text == "*" || rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['/', '*', ' ']));
    is_sound
        .then(|| text.to_owned())
        .ok_or_else(|| "must be * or an origin such as https://example.com, without a path".into())
}

fn host(text: &str) -> Result<IpAddr, String> {
    match text {
        "localhost" => Ok(IpAddr::from([127, 0, 0, 1])),
        text => text.parse().map_err(|_| "must be an address such as 127.0.0.1, ::1 or 0.0.0.0, or localhost".into()),
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn parsed(args: &[&str]) -> Result<ServeArgs, String> {
        let cli = Cli::try_parse_from(["ds4", "serve"].iter().chain(args)).map_err(|e| e.to_string())?;
        let Some(Command::Serve(args)) = cli.command else { panic!("it is serve") };
        Ok(*args)
    }

    fn access(args: &[&str]) -> Result<Access, String> {
        parsed(args)?.access().map_err(|e| e.to_string())
    }

    #[test]
    fn requests_are_told_as_text_unless_it_is_said_otherwise() {
        let log = |args: &[&str]| parsed(args).map(|args| args.log());
        assert_eq!(log(&[]), Ok(Log::Text));
        assert_eq!(log(&["--log", "json"]), Ok(Log::Json));
        assert_eq!(log(&["--log", "off"]), Ok(Log::Off));
        assert!(log(&["--log", "xml"]).is_err_and(|why| why.contains("text, json, off")));
    }

    #[test]
    fn others_need_a_key_that_cannot_be_guessed() {
        assert!(!access(&[]).unwrap().needs_key());
        assert!(!access(&["--host", "::1"]).unwrap().needs_key());
        assert!(access(&["--host", "0.0.0.0"]).unwrap_err().contains("there is no key"));
        assert!(!access(&["--host", "0.0.0.0", "--no-auth"]).unwrap().needs_key());
        assert!(access(&["--host", "0.0.0.0", "--api-key", "0123456789abcdef"]).unwrap().needs_key());
        assert!(access(&["--api-key", "short"]).unwrap_err().contains("at least 16"));
        assert!(access(&["--host", "example.com"]).unwrap_err().contains("must be an address"));
        for wrong in ["https://x/", "blah", "", "https://"] {
            assert!(access(&["--cors", wrong]).unwrap_err().contains("without a path"), "{wrong}");
        }
        for wrong in ["box:80", "http://x", "*", ""] {
            assert!(access(&["--allow-host", wrong]).unwrap_err().contains("without a port"), "{wrong}");
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        assert!(access(&["--api-key-file", path]).unwrap_err().contains("there is no key in it"));
        std::fs::write(path, "0123456789abcdef\n\nfedcba9876543210\n").unwrap();
        assert!(access(&["--api-key-file", path]).unwrap().needs_key());
    }
}
