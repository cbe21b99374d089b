//! Hugging Face's layout: a folder with `config.json`, `tokenizer.json` and one or many safetensors files.

use std::path::{Path, PathBuf};

use super::tensors::{Convention, Tensors};
use super::{CheckpointError, Opened, Source, config, read, safetensors, stored_norm_offset};

/// What is beside the tensors in the folder.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }
}

/// Opens the checkpoint in `directory`.
pub(super) fn open(directory: &Path) -> Result<Opened, CheckpointError> {
    let path = directory.join("config.json");
    let mut config = config::parse(&read(&path)?, &path)?;
    let generation = directory.join("generation_config.json");
    if generation.is_file() {
        for token in config::end_tokens(&read(&generation)?, &generation)? {
            if !config.eos_token_ids.contains(&token) {
                config.eos_token_ids.push(token);
            }
        }
    }
    config.validate()?;
    let tensors = safetensors::open(directory)?;
    let name = names(&tensors);
    let norm_offset = stored_norm_offset(&config);
    let tensors = tensors.with_convention(Convention { name, norm_offset, ..Convention::HUGGING_FACE });
    Ok(Opened { config, tensors, source: Box::new(Folder::new(directory)) })
}

/// The names of `tensors`: as usual, or those of a text model inside one that sees images too, as older and newer
/// versions of transformers have them.
fn names(tensors: &Tensors) -> fn(&str) -> String {
    let older = |name: &str| format!("language_model.{name}");
    let newer = |name: &str| match name.strip_prefix("model.") {
        Some(rest) => format!("model.language_model.{rest}"),
        None => name.to_owned(),
    };
    let names: [fn(&str) -> String; 2] = [older, newer];
    let holds = |name: &fn(&str) -> String| tensors.contains(&name("model.norm.weight"));
    names.into_iter().find(holds).unwrap_or(str::to_owned)
}

/// The template of a `tokenizer_config.json`, which may have several by name.
fn default_template(chat_template: &serde_json::Value) -> Option<&str> {
    match chat_template.as_array() {
        Some(named) => named.iter().find(|template| template["name"] == "default")?["template"].as_str(),
        None => chat_template.as_str(),
    }
}

impl Source for Folder {
    fn tokenizer_json(&self) -> Result<Vec<u8>, CheckpointError> {
        read(&self.0.join("tokenizer.json"))
    }

    /// From `chat_template.jinja` or `tokenizer_config.json`.
    fn chat_template(&self) -> Option<String> {
        let from_file = std::fs::read_to_string(self.0.join("chat_template.jinja")).ok();
        from_file.or_else(|| {
            let json = std::fs::read(self.0.join("tokenizer_config.json")).ok()?;
            let json: serde_json::Value = serde_json::from_slice(&json).ok()?;
            default_template(json.get("chat_template")?).map(str::to_owned)
        })
    }

    /// From the front matter of `README.md`.
    fn license(&self) -> Option<String> {
        let card = std::fs::read_to_string(self.0.join("README.md")).ok()?;
        let front = card.strip_prefix("---\n")?.split("\n---").next()?;
        front.lines().find_map(|line| Some(line.strip_prefix("license:")?.trim().to_owned()))
    }

    fn files(&self) -> Vec<String> {
        ["config.json", "tokenizer.json"].map(str::to_owned).to_vec()
    }

    /// Older checkpoints have buffers among their weights, tied ones sometimes a head, and models that see images the
    /// weights for that. Any other tensor that the model does not need means that it is another model.
    fn tolerates(&self, tensor: &str) -> bool {
        const BUFFERS: [&str; 4] = [".rotary_emb.inv_freq", ".masked_bias", ".attn.bias", ".position_ids"];
        const PARTS: [&str; 2] = ["vision_tower.", "multi_modal_projector."];
        let tensor = tensor.strip_prefix("model.").unwrap_or(tensor);
        tensor.ends_with("lm_head.weight")
            || BUFFERS.iter().any(|buffer| tensor.ends_with(buffer))
            || PARTS.iter().any(|part| tensor.starts_with(part))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_several_templates_the_default_is_taken() {
        let found = |json: serde_json::Value| default_template(&json).map(str::to_owned);
        assert_eq!(found("one".into()).as_deref(), Some("one"));
        let several = serde_json::json!([
            {"name": "tool_use", "template": "tools"}, {"name": "default", "template": "chat"},
        ]);
        assert_eq!(found(several).as_deref(), Some("chat"));
        assert_eq!(found(serde_json::json!([{"name": "rag", "template": "r"}])), None);
        assert_eq!(found(serde_json::json!(7)), None);
    }
}
