//! The list of families, and the keys that all have.

use gguf::Value;

use super::{Error, builder::Plan, config::Config, deepseek_v4, llama, shards::Shards};

/// A line of the list of families.
pub(super) struct Family {
    /// What `config.json` calls it in `architectures`.
    arch: &'static str,
    pub(super) keys: fn(&Config) -> Result<Keys, Error>,
    pub(super) plan: fn(&Config, &Shards) -> Result<Plan, Error>,
    /// Its name for a pre-tokenizer that has several.
    pub(super) pre: &'static str,
}

/// Every family.
static FAMILIES: &[Family] = &[
    Family { arch: "DeepseekV4ForCausalLM", keys: deepseek_v4::keys, plan: deepseek_v4::plan, pre: "joyai-llm" },
    Family { arch: "LlamaForCausalLM", keys: llama::llama_keys, plan: llama::llama_plan, pre: "llama-bpe" },
    Family { arch: "Qwen2ForCausalLM", keys: llama::qwen2_keys, plan: llama::qwen2_plan, pre: "qwen2" },
];

impl Family {
    /// The family of a model.
    pub(super) fn of(config: &Config) -> Result<&'static Family, Error> {
        let list = config.get("architectures").ok_or_else(|| config.missing("architectures"))?;
        let first = list.as_array().and_then(|list| list.first()?.as_str());
        let found = first.map_or_else(|| list.to_string(), String::from);
        FAMILIES.iter().find(|f| f.arch == found).ok_or_else(|| Error::UnknownFamily {
            path: config.path().to_owned(),
            found: gguf::shorten(&found),
            known: FAMILIES.iter().map(|f| f.arch).collect::<Vec<_>>().join(", "),
        })
    }
}

/// Keys of a GGUF, those of one architecture named without its prefix.
pub(super) struct Keys {
    arch: &'static str,
    entries: Vec<(String, Value)>,
}

impl Keys {
    pub(super) fn new(arch: &'static str) -> Keys {
        Keys { arch, entries: vec![("general.architecture".into(), arch.into())] }
    }

    pub(super) fn set(&mut self, key: &str, value: impl Into<Value>) {
        self.entries.push((format!("{}.{key}", self.arch), value.into()));
    }

    pub(super) fn into_entries(self) -> Vec<(String, Value)> {
        self.entries
    }
}
