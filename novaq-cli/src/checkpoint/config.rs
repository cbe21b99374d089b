//! `config.json`, as older and newer versions of transformers write it.

use std::path::Path;

use novaq_engine::model::{Config, RopeScaling};
use serde_json::{Map, Value};

use super::CheckpointError;

/// Reads the hyper-parameters of a Llama model.
pub(super) fn parse(json: &[u8], path: &Path) -> Result<Config, CheckpointError> {
    let root: Value = serde_json::from_slice(json)
        .map_err(|e| CheckpointError::Invalid { path: path.to_owned(), reason: e.to_string() })?;
    let Value::Object(root) = root else {
        return Err(CheckpointError::Invalid { path: path.to_owned(), reason: "no JSON object".into() });
    };
    let root = Fields(&root);
    root.check_architecture()?;

    let hidden_size = root.size("hidden_size")?.ok_or_else(|| missing("hidden_size"))?;
    let num_attention_heads =
        root.size("num_attention_heads")?.ok_or_else(|| missing("num_attention_heads"))?;
    let head_dim = match root.size("head_dim")? {
        Some(head_dim) => head_dim,
        None if num_attention_heads > 0 && hidden_size.is_multiple_of(num_attention_heads) => {
            hidden_size / num_attention_heads
        }
        None => {
            let reason = format!("{num_attention_heads} does not divide `hidden_size` {hidden_size}");
            return Err(invalid("num_attention_heads", reason));
        }
    };
    let (rope_theta, rope_scaling) = root.rope()?;
    Ok(Config {
        vocab_size: root.size("vocab_size")?.ok_or_else(|| missing("vocab_size"))?,
        hidden_size,
        intermediate_size: root.size("intermediate_size")?.ok_or_else(|| missing("intermediate_size"))?,
        num_hidden_layers: root.size("num_hidden_layers")?.ok_or_else(|| missing("num_hidden_layers"))?,
        num_attention_heads,
        num_key_value_heads: root.size("num_key_value_heads")?.unwrap_or(num_attention_heads),
        head_dim,
        // The defaults of transformers' LlamaConfig.
        max_position_embeddings: root.size("max_position_embeddings")?.unwrap_or(2048),
        rms_norm_eps: root.number("rms_norm_eps")?.unwrap_or(1e-6),
        rope_theta,
        rope_scaling,
        tie_word_embeddings: root.flag("tie_word_embeddings")?,
        attention_bias: root.flag("attention_bias")?,
        mlp_bias: root.flag("mlp_bias")?,
        bos_token_id: root.tokens("bos_token_id")?.first().copied(),
        eos_token_ids: root.tokens("eos_token_id")?,
    })
}

fn invalid(field: &'static str, reason: impl Into<String>) -> CheckpointError {
    CheckpointError::Config { field, reason: reason.into() }
}

fn missing(field: &'static str) -> CheckpointError {
    invalid(field, "is missing")
}

/// An object of the configuration; `null` counts as absent.
struct Fields<'a>(&'a Map<String, Value>);

impl Fields<'_> {
    fn get(&self, field: &str) -> Option<&Value> {
        self.0.get(field).filter(|v| !v.is_null())
    }

    fn size(&self, field: &'static str) -> Result<Option<usize>, CheckpointError> {
        self.get(field)
            .map(|v| {
                let size = v.as_u64().and_then(|n| usize::try_from(n).ok());
                size.ok_or_else(|| invalid(field, format!("is {v}, not a size")))
            })
            .transpose()
    }

    fn number(&self, field: &'static str) -> Result<Option<f64>, CheckpointError> {
        self.get(field)
            .map(|v| v.as_f64().ok_or_else(|| invalid(field, format!("is {v}, not a number"))))
            .transpose()
    }

    fn flag(&self, field: &'static str) -> Result<bool, CheckpointError> {
        self.get(field).map_or(Ok(false), |v| {
            v.as_bool().ok_or_else(|| invalid(field, format!("is {v}, not true or false")))
        })
    }

    /// One token id or a list of them.
    fn tokens(&self, field: &'static str) -> Result<Vec<u32>, CheckpointError> {
        let token = |v: &Value| {
            let id = v.as_u64().and_then(|n| u32::try_from(n).ok());
            id.ok_or_else(|| invalid(field, format!("is {v}, not a token id")))
        };
        match self.get(field) {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list.iter().map(token).collect(),
            Some(one) => Ok(vec![token(one)?]),
        }
    }

    fn check_architecture(&self) -> Result<(), CheckpointError> {
        const SUPPORTED: &str = "LlamaForCausalLM";
        let architecture = self.get("architectures").and_then(|v| v.get(0)).and_then(Value::as_str);
        if architecture.is_some_and(|name| name != SUPPORTED) {
            let name = architecture.unwrap_or_default();
            return Err(invalid("architectures", format!("is `{name}`; supported is `{SUPPORTED}`")));
        }
        let model_type = self.get("model_type").and_then(Value::as_str);
        if model_type.is_some_and(|t| t != "llama") || (architecture.is_none() && model_type.is_none()) {
            let name = model_type.unwrap_or_default();
            return Err(invalid("model_type", format!("is `{name}`; supported is `llama`")));
        }
        match self.get("hidden_act").and_then(Value::as_str) {
            None | Some("silu") => Ok(()),
            Some(other) => Err(invalid("hidden_act", format!("is `{other}`; supported is `silu`"))),
        }
    }

    /// Base and scaling of the rotary embedding: `rope_parameters` (transformers 5), or `rope_theta` beside
    /// `rope_scaling` with its kind under `rope_type` or `type`.
    fn rope(&self) -> Result<(f64, RopeScaling), CheckpointError> {
        const FIELD: &str = "rope_scaling";
        let empty = Map::new();
        let object = |field: &'static str| match self.get(field) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(other) => Err(invalid(field, format!("is {other}, not an object"))),
        };
        let parameters = Fields(match object("rope_parameters")? {
            Some(map) => map,
            None => object(FIELD)?.unwrap_or(&empty),
        });
        let theta = match parameters.number("rope_theta")? {
            Some(theta) => theta,
            None => self.number("rope_theta")?.unwrap_or(10_000.0),
        };
        let needed = |field: &'static str| {
            parameters.number(field)?.ok_or_else(|| invalid(FIELD, format!("has no `{field}`")))
        };
        let kind = parameters.get("rope_type").or_else(|| parameters.get("type")).and_then(Value::as_str);
        let scaling = match kind {
            None | Some("default") => RopeScaling::Default,
            Some("linear") => RopeScaling::Linear { factor: needed("factor")? },
            Some("llama3") => RopeScaling::Llama3 {
                factor: needed("factor")?,
                low_freq_factor: needed("low_freq_factor")?,
                high_freq_factor: needed("high_freq_factor")?,
                original_max_position_embeddings: parameters
                    .size("original_max_position_embeddings")?
                    .ok_or_else(|| invalid(FIELD, "has no `original_max_position_embeddings`"))?,
            },
            Some(other) => {
                let reason = format!("is of type `{other}`; supported are `default`, `linear` and `llama3`");
                return Err(invalid(FIELD, reason));
            }
        };
        Ok((theta, scaling))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse_with(change: &str) -> Result<Config, CheckpointError> {
        let base = r#"{"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
            "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100,
            "bos_token_id": 1, "eos_token_id": 2, "rope_theta": 500.0}"#;
        let mut base: Map<String, Value> = serde_json::from_str(base).unwrap();
        base.extend(serde_json::from_str::<Map<String, Value>>(change).unwrap());
        parse(&serde_json::to_vec(&base).unwrap(), Path::new("config.json"))
    }

    #[test]
    fn absent_fields_take_the_defaults_of_transformers() {
        let config = parse_with("{}").unwrap();
        assert_eq!((config.head_dim, config.num_key_value_heads), (16, 4));
        assert_eq!((config.rope_theta, config.rope_scaling), (500.0, RopeScaling::Default));
        assert_eq!((config.bos_token_id, config.eos_token_ids), (Some(1), vec![2]));
        assert!(!config.tie_word_embeddings);
    }

    #[test]
    fn both_spellings_of_rope_are_read() {
        let new =
            parse_with(r#"{"rope_parameters": {"rope_theta": 9.0, "rope_type": "linear", "factor": 2.0}}"#);
        let new = new.unwrap();
        assert_eq!((new.rope_theta, new.rope_scaling), (9.0, RopeScaling::Linear { factor: 2.0 }));
        let old = parse_with(r#"{"rope_scaling": {"type": "linear", "factor": 4.0}}"#).unwrap();
        assert_eq!((old.rope_theta, old.rope_scaling), (500.0, RopeScaling::Linear { factor: 4.0 }));
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (change, words) in [
            (r#"{"architectures": ["GPT2LMHeadModel"]}"#, "`architectures` is `GPT2LMHeadModel`"),
            (r#"{"model_type": "qwen2"}"#, "`model_type` is `qwen2`"),
            (r#"{"hidden_act": "gelu"}"#, "`hidden_act` is `gelu`"),
            (r#"{"rope_scaling": {"type": "yarn", "factor": 4.0}}"#, "`rope_scaling` is of type `yarn`"),
            (r#"{"rope_scaling": {"type": "linear"}}"#, "`rope_scaling` has no `factor`"),
            (r#"{"hidden_size": -1}"#, "`hidden_size` is -1"),
            (r#"{"hidden_size": null}"#, "`hidden_size` is missing"),
            (r#"{"num_attention_heads": 5}"#, "`num_attention_heads` 5 does not divide"),
            (r#"{"eos_token_id": ["x"]}"#, "`eos_token_id` is \"x\""),
        ] {
            let error = parse_with(change).unwrap_err().to_string();
            assert!(error.contains(words), "{error}");
        }
    }
}
