//! The clients: where they come from, how they are pointed at a server, and how they are run without anybody there.

use std::{fs, io, net::SocketAddr, path::Path, process::Command};

use serde_json::{Value, json};

use super::{
    install::Packages,
    script::Call,
    served::{self, Model},
};

/// What clients call the model.
const NAME: &str = Model::Micro.name();

/// A program that talks to the server.
pub(crate) struct Client {
    pub(crate) name: &'static str,
    pub(crate) packages: Packages,
    /// Writes its settings, and says how it is asked something.
    pub(crate) command: fn(&Place<'_>) -> io::Result<Command>,
    /// A call of a tool of its own that shows a file; none if it has no tools.
    pub(crate) call: Option<fn(&Path) -> Call>,
}

/// Libraries that talk to the server, and tests of them.
pub(crate) struct Library {
    pub(crate) name: &'static str,
    pub(crate) packages: Packages,
    /// Programs of the system, of which one must be there; with none, nothing is needed.
    pub(crate) needs: &'static [&'static str],
    /// What the server is to serve; the tests are run with each.
    pub(crate) models: &'static [Model],
    /// How the server is started.
    pub(crate) flags: &'static [&'static str],
    /// What runs the tests.
    pub(crate) program: &'static str,
    /// With what, from the repository.
    pub(crate) arguments: &'static [&'static str],
}

/// Where a client runs.
pub(crate) struct Place<'a> {
    pub(crate) server: SocketAddr,
    /// Its `HOME`.
    pub(crate) home: &'a Path,
    pub(crate) question: &'a str,
}

impl Place<'_> {
    fn url(&self) -> String {
        format!("http://{}", self.server)
    }

    /// The same for clients of OpenAI.
    fn openai(&self) -> String {
        format!("http://{}/v1", self.server)
    }

    /// Writes a file of settings.
    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let path = self.home.join(name);
        fs::create_dir_all(path.parent().unwrap_or(self.home))?;
        fs::write(path, text)
    }
}

const OF_PYTHON: Packages = Packages::Pip(&["openai==3.57.0", "anthropic==2.14.0"]);
const OF_NODE: Packages = Packages::Npm(&["openai@7.59.0", "@anthropic-ai/sdk@1.14.0", "zod@4.6.7"], None);

pub(crate) const LIBRARIES: [Library; 8] = [
    library("sdk-python", OF_PYTHON, "python", &["tests/clients/sdk.py"]),
    library("sdk-node", OF_NODE, "node", &["--test", "tests/clients/sdk.mjs"]),
    Library { models: &[Model::Calling], ..library("calls-python", OF_PYTHON, "python", &["tests/clients/calls.py"]) },
    Library {
        models: &[Model::Calling],
        ..library("calls-node", OF_NODE, "node", &["--test", "tests/clients/calls.mjs"])
    },
    Library { models: &[Model::Nano], ..library("calls-nano", OF_PYTHON, "python", &["tests/clients/nano.py"]) },
    library("ollama-python", Packages::Pip(&["ollama==0.6.3"]), "python", &["tests/clients/ollama_sdk.py"]),
    library("ollama-node", Packages::Npm(&["ollama@0.6.4"], None), "node", &["--test", "tests/clients/ollama_sdk.mjs"]),
    Library {
        needs: &["chromium", "google-chrome"],
        models: &[Model::Micro],
        flags: served::PAGE,
        ..library("page", Packages::Pip(&["playwright==1.65.2"]), "python", &["crates/server/page/test/page_test.py"])
    },
];

/// A library that needs nothing else, and whose tests know two models and how little room there is.
const fn library(
    name: &'static str,
    packages: Packages,
    program: &'static str,
    arguments: &'static [&'static str],
) -> Library {
    let models = &[Model::Micro, Model::Real];
    Library { name, packages, needs: &[], models, flags: served::LIBRARIES, program, arguments }
}

/// All of them. `docs/clients.md` says the same to people.
pub(crate) const CLIENTS: [Client; 9] = [
    Client {
        name: "codex",
        packages: Packages::Npm(&["@openai/codex@0.171.0"], None),
        command: codex,
        call: Some(|file| call("exec_command", json!({ "cmd": format!("cat {}", file.display()) }))),
    },
    Client {
        name: "claude-code",
        packages: Packages::Npm(&["@anthropic-ai/claude-code@2.1.332"], Some("@anthropic-ai/claude-code/install.cjs")),
        command: claude_code,
        call: Some(|file| call("Read", json!({ "file_path": file }))),
    },
    Client {
        name: "opencode",
        packages: Packages::Npm(&["opencode-ai@1.18.33"], Some("opencode-ai/postinstall.mjs")),
        command: opencode,
        call: Some(|file| call("read", json!({ "filePath": file }))),
    },
    Client {
        name: "pi",
        packages: Packages::Npm(&["@earendil-works/pi-coding-agent@1.6.0"], None),
        command: pi,
        call: Some(|file| call("read", json!({ "path": file }))),
    },
    Client {
        name: "qwen-code",
        packages: Packages::Npm(&["@qwen-code/qwen-code@0.24.4"], None),
        command: qwen_code,
        call: Some(|file| call("read_file", json!({ "file_path": file }))),
    },
    Client {
        name: "continue",
        packages: Packages::Npm(&["@continuedev/cli@1.5.47"], None),
        command: continue_,
        call: Some(|file| call("Read", json!({ "filepath": file }))),
    },
    Client {
        name: "mini-swe-agent",
        packages: Packages::Pip(&["mini-swe-agent==2.4.6"]),
        command: mini_swe_agent,
        call: Some(|file| Call {
            closing: Some(json!({ "command": "echo COMPLETE_TASK_AND_SUBMIT_FINAL_OUTPUT" })),
            ..call("bash", json!({ "command": format!("cat {}", file.display()) }))
        }),
    },
    Client { name: "aider", packages: Packages::Pip(&["aider-chat==0.86.2"]), command: aider, call: None },
    Client { name: "llm", packages: Packages::Pip(&["llm==0.36"]), command: llm, call: None },
];

fn call(name: &'static str, arguments: Value) -> Call {
    Call { name, arguments, closing: None }
}

fn codex(place: &Place<'_>) -> io::Result<Command> {
    let settings = format!(
        "model = \"{NAME}\"\nmodel_provider = \"local\"\n\n[model_providers.local]\nname = \"Local\"\n\
         base_url = \"{}\"\nwire_api = \"responses\"\n",
        place.openai()
    );
    place.write(".codex/config.toml", &settings)?;
    let mut command = Command::new("codex");
    // Where it runs nothing else is to be protected, and its sandbox needs rights that containers do not give.
    command.args(["exec", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", place.question]);
    Ok(command)
}

fn claude_code(place: &Place<'_>) -> io::Result<Command> {
    let mut command = Command::new("claude");
    command
        .args(["--print", place.question, "--allowedTools", "Read"])
        .env("ANTHROPIC_BASE_URL", place.url())
        .env("ANTHROPIC_AUTH_TOKEN", "local")
        .env("ANTHROPIC_MODEL", NAME)
        .env("ANTHROPIC_DEFAULT_HAIKU_MODEL", NAME)
        .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1");
    Ok(command)
}

fn opencode(place: &Place<'_>) -> io::Result<Command> {
    let provider = json!({
        "npm": "@ai-sdk/openai-compatible",
        "name": "Local",
        "options": { "baseURL": place.openai(), "apiKey": "local" },
        "models": { NAME: { "name": NAME } },
    });
    let settings = json!({ "provider": { "local": provider }, "autoupdate": false, "share": "disabled" });
    place.write(".config/opencode/opencode.json", &settings.to_string())?;
    let mut command = Command::new("opencode");
    command.args(["run", "--model", &format!("local/{NAME}"), place.question]);
    Ok(command)
}

fn pi(place: &Place<'_>) -> io::Result<Command> {
    let model = json!({
        "id": NAME, "name": NAME, "reasoning": true, "input": ["text"], "contextWindow": 100_000, "maxTokens": 8000,
        "cost": { "input": 0, "output": 0, "cacheRead": 0, "cacheWrite": 0 },
    });
    let provider =
        json!({ "baseUrl": place.openai(), "api": "openai-completions", "apiKey": "local", "models": [model] });
    place.write(".pi/agent/models.json", &json!({ "providers": { "local": provider } }).to_string())?;
    let mut command = Command::new("pi");
    command.args(["--provider", "local", "--model", NAME, "--print", place.question]);
    Ok(command)
}

fn qwen_code(place: &Place<'_>) -> io::Result<Command> {
    let mut command = Command::new("qwen");
    command
        .args(["--auth-type", "openai", "--yolo", "--prompt", place.question])
        .env("OPENAI_BASE_URL", place.openai())
        .env("OPENAI_API_KEY", "local")
        .env("OPENAI_MODEL", NAME);
    Ok(command)
}

fn continue_(place: &Place<'_>) -> io::Result<Command> {
    let settings = format!(
        "name: local\nversion: 0.0.1\nschema: v1\nmodels:\n  - name: {NAME}\n    provider: openai\n    model: {NAME}\n    \
         apiBase: {}\n    apiKey: local\n",
        place.openai()
    );
    place.write("continue.yaml", &settings)?;
    let mut command = Command::new("cn");
    command.args(["--print", "--config"]).arg(place.home.join("continue.yaml")).arg(place.question);
    Ok(command)
}

fn mini_swe_agent(place: &Place<'_>) -> io::Result<Command> {
    let mut command = Command::new("mini");
    command
        .args(["--model", &format!("openai/{NAME}"), "--task", place.question, "--yolo", "--exit-immediately"])
        .arg("--output")
        .arg(place.home.join("trajectory.json"))
        .env("OPENAI_API_BASE", place.openai())
        .env("OPENAI_API_KEY", "local")
        .env("MSWEA_CONFIGURED", "true")
        .env("MSWEA_COST_TRACKING", "ignore_errors");
    Ok(command)
}

fn aider(place: &Place<'_>) -> io::Result<Command> {
    let mut command = Command::new("aider");
    command
        .args(["--model", &format!("openai/{NAME}"), "--message", place.question, "--no-git", "--yes-always"])
        .args(["--no-check-update", "--analytics-disable", "--no-show-model-warnings", "--no-pretty"])
        .env("OPENAI_API_BASE", place.openai())
        .env("OPENAI_API_KEY", "local");
    Ok(command)
}

fn llm(place: &Place<'_>) -> io::Result<Command> {
    let settings = format!("- model_id: {NAME}\n  model_name: {NAME}\n  api_base: {}\n", place.openai());
    place.write("llm/extra-openai-models.yaml", &settings)?;
    let mut command = Command::new("llm");
    command.args(["--model", NAME, "--key", "local", place.question]).env("LLM_USER_PATH", place.home.join("llm"));
    Ok(command)
}
