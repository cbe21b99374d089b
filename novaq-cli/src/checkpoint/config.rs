//! `config.json`, as older and newer versions of transformers write it.

use std::path::Path;

use novaq_engine::model::{Activation, Config, LayerType, RopeScaling, Variant};
use serde_json::{Map, Value, json};

use super::CheckpointError;

/// An architecture of transformers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Architecture {
    Llama,
    Mistral,
    Qwen2,
    Qwen3,
    Gemma3,
    /// Gemma 3 with a vision tower; its text model is nested in `text_config`.
    Gemma3Multimodal,
}

use Architecture::{Gemma3, Gemma3Multimodal, Llama, Mistral, Qwen2, Qwen3};

impl Architecture {
    const ALL: [Self; 6] = [Llama, Mistral, Qwen2, Qwen3, Gemma3, Gemma3Multimodal];

    /// Its name in `architectures`.
    fn class(self) -> &'static str {
        match self {
            Llama => "LlamaForCausalLM",
            Mistral => "MistralForCausalLM",
            Qwen2 => "Qwen2ForCausalLM",
            Qwen3 => "Qwen3ForCausalLM",
            Gemma3 => "Gemma3ForCausalLM",
            Gemma3Multimodal => "Gemma3ForConditionalGeneration",
        }
    }

    /// Its `model_type`.
    fn model_type(self) -> &'static str {
        match self {
            Llama => "llama",
            Mistral => "mistral",
            Qwen2 => "qwen2",
            Qwen3 => "qwen3",
            Gemma3 => "gemma3_text",
            Gemma3Multimodal => "gemma3",
        }
    }

    /// What its class in transformers has for fields that are absent, as far as checkpoints leave them out.
    fn defaults(self) -> Value {
        match self {
            Llama => json!({"max_position_embeddings": 2048}),
            Mistral => {
                json!({"max_position_embeddings": 131_072, "num_key_value_heads": 8, "sliding_window": 4096})
            }
            Qwen2 => json!({
                "max_position_embeddings": 32_768, "num_key_value_heads": 32, "sliding_window": 4096,
                "max_window_layers": 28,
            }),
            Qwen3 => json!({
                "max_position_embeddings": 32_768, "num_key_value_heads": 32, "sliding_window": 4096,
                "max_window_layers": 28, "head_dim": 128,
            }),
            Gemma3 | Gemma3Multimodal => json!({
                "vocab_size": 262_208, "hidden_size": 2304, "intermediate_size": 9216, "num_hidden_layers": 26,
                "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256,
                "max_position_embeddings": 131_072, "hidden_activation": "gelu_pytorch_tanh",
                "query_pre_attn_scalar": 256, "sliding_window": 4096, "sliding_window_pattern": 6,
                "rope_theta": 1e6, "rope_local_base_freq": 1e4, "tie_word_embeddings": true, "bos_token_id": 2,
                "eos_token_id": 1,
            }),
        }
    }

    /// The architecture that `architectures` and `model_type` name.
    fn of(root: &Fields) -> Result<Self, CheckpointError> {
        let listed = |name: fn(Self) -> &'static str| {
            let names = Self::ALL.map(|architecture| format!("`{}`", name(architecture)));
            format!("supported are {}", names.join(", "))
        };
        let model_type = root.text("model_type")?;
        let class = root.get("architectures").and_then(|v| v.get(0)).and_then(Value::as_str);
        let found = match class {
            Some(class) => Self::ALL
                .into_iter()
                .find(|a| a.class() == class)
                .ok_or_else(|| invalid("architectures", format!("is `{class}`; {}", listed(Self::class))))?,
            None => Self::ALL.into_iter().find(|a| Some(a.model_type()) == model_type).ok_or_else(|| {
                let name = model_type.unwrap_or_default();
                invalid("model_type", format!("is `{name}`; {}", listed(Self::model_type)))
            })?,
        };
        match model_type.filter(|name| *name != found.model_type()) {
            Some(name) => {
                let reason = format!("is `{name}`; that of `{}` is `{}`", found.class(), found.model_type());
                Err(invalid("model_type", reason))
            }
            None => Ok(found),
        }
    }
}

/// Reads the hyper-parameters of a decoder.
pub(super) fn parse(json: &[u8], path: &Path) -> Result<Config, CheckpointError> {
    let fail = |reason: String| CheckpointError::Invalid { path: path.to_owned(), reason };
    match serde_json::from_slice(json).map_err(|e| fail(e.to_string()))? {
        Value::Object(root) => from_json(root),
        _ => Err(fail("no JSON object".into())),
    }
}

/// The tokens at which generation ends by a `generation_config.json`, which chat models have more of there than in `config.json`.
pub(super) fn end_tokens(json: &[u8], path: &Path) -> Result<Vec<u32>, CheckpointError> {
    let fail = |reason: String| CheckpointError::Invalid { path: path.to_owned(), reason };
    let root = serde_json::from_slice(json).map_err(|e| fail(e.to_string()))?;
    Fields(root).tokens("eos_token_id").map_err(|error| match error {
        CheckpointError::Config { field, reason } => fail(format!("`{field}` {reason}")),
        other => other,
    })
}

fn from_json(root: Map<String, Value>) -> Result<Config, CheckpointError> {
    let mut fields = Fields(root);
    let architecture = Architecture::of(&fields)?;
    if architecture == Gemma3Multimodal {
        fields = fields.nested("text_config")?;
    }
    if let Value::Object(defaults) = architecture.defaults() {
        for (field, value) in defaults {
            fields.0.entry(field).or_insert(value);
        }
    }
    fields.config(architecture)
}

/// The hyper-parameters as versions 4 and 5 of transformers both read them.
///
/// # Errors
/// If transformers has no architecture that computes what this model does.
pub fn to_json(config: &Config) -> Result<Value, CheckpointError> {
    let variant = &config.variant;
    let architecture = Architecture::ALL.into_iter().find(|a| a.model_type() == config.architecture());
    let architecture = architecture.unwrap_or(Llama);
    let rope_scaling = match config.rope_scaling {
        RopeScaling::Default => Value::Null,
        RopeScaling::Linear { factor } => json!({"rope_type": "linear", "factor": factor}),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings,
        } => {
            json!({
                "rope_type": "llama3",
                "factor": factor,
                "low_freq_factor": low_freq_factor,
                "high_freq_factor": high_freq_factor,
                "original_max_position_embeddings": original_max_position_embeddings,
            })
        }
    };
    let mut json = json!({
        "architectures": [architecture.class()],
        "model_type": architecture.model_type(),
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_hidden_layers,
        "num_attention_heads": config.num_attention_heads,
        "num_key_value_heads": config.num_key_value_heads,
        "head_dim": config.head_dim,
        "max_position_embeddings": config.max_position_embeddings,
        "rms_norm_eps": config.rms_norm_eps,
        "rope_theta": config.rope_theta,
        "rope_scaling": rope_scaling,
        "tie_word_embeddings": config.tie_word_embeddings,
        "bos_token_id": config.bos_token_id,
        "eos_token_id": eos_json(config),
        "torch_dtype": "float32",
    });
    let activation = match architecture {
        Gemma3 => "hidden_activation",
        _ => "hidden_act",
    };
    json[activation] = json!(variant.hidden_act);
    if [Llama, Qwen3, Gemma3].contains(&architecture) {
        json["attention_bias"] = config.attention_bias.into();
    }
    if architecture == Llama {
        json["mlp_bias"] = config.mlp_bias.into();
    } else {
        json["sliding_window"] = json!(variant.sliding_window);
    }
    if [Qwen2, Qwen3].contains(&architecture) {
        json["use_sliding_window"] = variant.sliding_window.is_some().into();
    }
    if [Qwen2, Qwen3, Gemma3].contains(&architecture) {
        let layers = 0..config.num_hidden_layers;
        json["layer_types"] = layers.map(|layer| json!(config.layer_type(layer))).collect();
    }
    if architecture == Gemma3 {
        json["query_pre_attn_scalar"] =
            number(variant.query_pre_attn_scalar.unwrap_or(config.head_dim as f64));
        json["rope_local_base_freq"] = json!(variant.rope_local_base_freq.unwrap_or(config.rope_theta));
    }
    // What an architecture has no field for would be lost.
    match json.as_object().map(|object| from_json(object.clone())).transpose()? {
        Some(read) if read == *config => Ok(json),
        _ => {
            let reason = format!(
                "would be `{}`, which in transformers does not have all that this model has",
                architecture.class()
            );
            Err(invalid("architectures", reason))
        }
    }
}

/// One id, a list of several, or null.
pub fn eos_json(config: &Config) -> Value {
    match config.eos_token_ids[..] {
        [] => Value::Null,
        [id] => id.into(),
        _ => json!(config.eos_token_ids),
    }
}

/// An integer where that is the number: transformers' type of the field.
fn number(value: f64) -> Value {
    let integer = value as u64;
    if integer as f64 == value { integer.into() } else { value.into() }
}

fn invalid(field: &'static str, reason: impl Into<String>) -> CheckpointError {
    CheckpointError::Config { field, reason: reason.into() }
}

fn missing(field: &'static str) -> CheckpointError {
    invalid(field, "is missing")
}

/// An object of the configuration; `null` counts as absent.
struct Fields(Map<String, Value>);

impl Fields {
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

    fn needed_size(&self, field: &'static str) -> Result<usize, CheckpointError> {
        self.size(field)?.ok_or_else(|| missing(field))
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

    fn text(&self, field: &'static str) -> Result<Option<&str>, CheckpointError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(invalid(field, format!("is {other}, not a text"))),
        }
    }

    fn object(&self, field: &'static str) -> Result<Option<Self>, CheckpointError> {
        match self.get(field) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(Self(map.clone()))),
            Some(other) => Err(invalid(field, format!("is {other}, not an object"))),
        }
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

    /// The object of a model inside this one. What is said of the whole holds for it.
    fn nested(mut self, field: &'static str) -> Result<Self, CheckpointError> {
        let mut inner = self.object(field)?.ok_or_else(|| missing(field))?;
        for of_whole in ["bos_token_id", "eos_token_id", "tie_word_embeddings"] {
            if let Some(value) = self.0.remove(of_whole).filter(|v| !v.is_null()) {
                inner.0.insert(of_whole.to_owned(), value);
            }
        }
        Ok(inner)
    }

    fn config(&self, architecture: Architecture) -> Result<Config, CheckpointError> {
        let hidden_size = self.needed_size("hidden_size")?;
        let num_attention_heads = self.needed_size("num_attention_heads")?;
        let head_dim = match self.size("head_dim")? {
            Some(head_dim) => head_dim,
            None if num_attention_heads > 0 && hidden_size.is_multiple_of(num_attention_heads) => {
                hidden_size / num_attention_heads
            }
            None => {
                let reason = format!("{num_attention_heads} does not divide `hidden_size` {hidden_size}");
                return Err(invalid("num_attention_heads", reason));
            }
        };
        let num_hidden_layers = self.needed_size("num_hidden_layers")?;
        let (rope_theta, rope_scaling, local) = self.rope()?;
        let variant = self.variant(architecture, head_dim, num_hidden_layers)?;
        // Frequencies of their own only where some layers have them and they are others.
        let is_same = local == Some(rope_theta) && rope_scaling == RopeScaling::Default;
        let rope_local_base_freq = local.filter(|_| variant.sliding_window.is_some() && !is_same);
        Ok(Config {
            vocab_size: self.needed_size("vocab_size")?,
            hidden_size,
            intermediate_size: self.needed_size("intermediate_size")?,
            num_hidden_layers,
            num_attention_heads,
            num_key_value_heads: self.size("num_key_value_heads")?.unwrap_or(num_attention_heads),
            head_dim,
            max_position_embeddings: self.needed_size("max_position_embeddings")?,
            rms_norm_eps: self.number("rms_norm_eps")?.unwrap_or(1e-6),
            rope_theta,
            rope_scaling,
            tie_word_embeddings: self.flag("tie_word_embeddings")?,
            attention_bias: [Llama, Qwen3, Gemma3, Gemma3Multimodal].contains(&architecture)
                && self.flag("attention_bias")?,
            mlp_bias: architecture == Llama && self.flag("mlp_bias")?,
            bos_token_id: self.tokens("bos_token_id")?.first().copied(),
            eos_token_ids: self.tokens("eos_token_id")?,
            variant: Variant { rope_local_base_freq, ..variant },
        })
    }

    /// In what the model departs from Llama's architecture, but for the rotary frequencies.
    fn variant(
        &self,
        architecture: Architecture,
        head_dim: usize,
        layers: usize,
    ) -> Result<Variant, CheckpointError> {
        for field in ["attn_logit_softcapping", "final_logit_softcapping"] {
            if let Some(value) = self.get(field) {
                return Err(invalid(field, format!("is {value}, which is not supported")));
            }
        }
        if self.flag("use_bidirectional_attention")? {
            return Err(invalid("use_bidirectional_attention", "is true, which is not supported"));
        }
        let is_gemma = [Gemma3, Gemma3Multimodal].contains(&architecture);
        let activation = if is_gemma { "hidden_activation" } else { "hidden_act" };
        let hidden_act = match self.text(activation)? {
            None | Some("silu") => Activation::Silu,
            Some("gelu_pytorch_tanh") => Activation::GeluPytorchTanh,
            Some(other) => {
                let reason = format!("is `{other}`; supported are `silu` and `gelu_pytorch_tanh`");
                return Err(invalid(activation, reason));
            }
        };
        let scalar = if is_gemma { self.number("query_pre_attn_scalar")? } else { None };
        let variant = Variant {
            qkv_bias: architecture == Qwen2,
            qk_norm: architecture == Qwen3 || is_gemma,
            post_norms: is_gemma,
            scale_embeddings: is_gemma,
            hidden_act,
            query_pre_attn_scalar: scalar.filter(|&scalar| scalar != head_dim as f64),
            ..Variant::default()
        };
        let window = match architecture {
            Llama => None,
            Qwen2 | Qwen3 if !self.flag("use_sliding_window")? => None,
            _ => self.size("sliding_window")?,
        };
        let Some(window) = window else { return Ok(variant) };
        Ok(variant.with_windows(window, self.layer_types(architecture, layers)?))
    }

    /// The types of the layers of a model that has a window.
    fn layer_types(
        &self,
        architecture: Architecture,
        layers: usize,
    ) -> Result<Vec<LayerType>, CheckpointError> {
        const FIELD: &str = "layer_types";
        let given = self.get(FIELD).filter(|_| architecture != Mistral);
        if let Some(given) = given {
            return serde_json::from_value(given.clone())
                .map_err(|error| invalid(FIELD, format!("is not a list of types: {error}")));
        }
        let pattern = self.size("sliding_window_pattern")?;
        let full_before = self.size("max_window_layers")?;
        let slides = |layer: usize| match architecture {
            Qwen2 | Qwen3 => full_before.is_none_or(|layers| layer >= layers),
            Gemma3 | Gemma3Multimodal => {
                pattern.is_none_or(|pattern| pattern == 0 || !(layer + 1).is_multiple_of(pattern))
            }
            Llama | Mistral => true,
        };
        // More are refused later.
        let layers = 0..layers.min(1 << 24);
        let layer_type =
            |slides: bool| if slides { LayerType::SlidingAttention } else { LayerType::FullAttention };
        Ok(layers.map(|layer| layer_type(slides(layer))).collect())
    }

    /// Base and scaling of the rotary embedding, and the base in layers whose attention slides where it is another:
    /// `rope_parameters` (transformers 5), for each type of layers or for all; or `rope_theta` and
    /// `rope_local_base_freq` beside `rope_scaling` with its kind under `rope_type` or `type`.
    fn rope(&self) -> Result<(f64, RopeScaling, Option<f64>), CheckpointError> {
        let parameters = match self.object("rope_parameters")? {
            Some(parameters) => parameters,
            None => self.object("rope_scaling")?.unwrap_or_else(|| Self(Map::new())),
        };
        let default_theta = self.number("rope_theta")?.unwrap_or(10_000.0);
        let local_theta = self.number("rope_local_base_freq")?;
        let Some(full) = parameters.object("full_attention")? else {
            let (theta, scaling) = parameters.rope_of_layers(default_theta)?;
            return Ok((theta, scaling, local_theta));
        };
        let (theta, scaling) = full.rope_of_layers(default_theta)?;
        let Some(local) = parameters.object("sliding_attention")? else {
            return Ok((theta, scaling, local_theta));
        };
        let (local, local_scaling) = local.rope_of_layers(local_theta.unwrap_or(default_theta))?;
        if local_scaling != RopeScaling::Default && (local, local_scaling) != (theta, scaling.clone()) {
            let reason = "is stretched for `sliding_attention`, which is not supported";
            return Err(invalid("rope_parameters", reason));
        }
        Ok((theta, scaling, Some(local)))
    }

    /// Base and scaling in an object of rotary parameters.
    fn rope_of_layers(&self, default_theta: f64) -> Result<(f64, RopeScaling), CheckpointError> {
        const FIELD: &str = "rope_scaling";
        let needed = |field: &'static str| {
            self.number(field)?.ok_or_else(|| invalid(FIELD, format!("has no `{field}`")))
        };
        if let Some(share) = self.number("partial_rotary_factor")?.filter(|&share| share != 1.0) {
            return Err(invalid("partial_rotary_factor", format!("is {share}; supported is 1")));
        }
        let kind = self.get("rope_type").or_else(|| self.get("type")).and_then(Value::as_str);
        let scaling = match kind {
            None | Some("default") => RopeScaling::Default,
            Some("linear") => RopeScaling::Linear { factor: needed("factor")? },
            Some("llama3") => RopeScaling::Llama3 {
                factor: needed("factor")?,
                low_freq_factor: needed("low_freq_factor")?,
                high_freq_factor: needed("high_freq_factor")?,
                original_max_position_embeddings: self
                    .size("original_max_position_embeddings")?
                    .ok_or_else(|| invalid(FIELD, "has no `original_max_position_embeddings`"))?,
            },
            Some(other) => {
                let reason = format!("is of type `{other}`; supported are `default`, `linear` and `llama3`");
                return Err(invalid(FIELD, reason));
            }
        };
        Ok((self.number("rope_theta")?.unwrap_or(default_theta), scaling))
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
    fn end_tokens_of_generation_are_read() {
        let tokens = |json: &str| end_tokens(json.as_bytes(), Path::new("generation_config.json"));
        assert_eq!(tokens(r#"{"eos_token_id": [2, 7]}"#).unwrap(), [2, 7]);
        assert_eq!(tokens(r#"{"eos_token_id": 2, "top_p": 0.9}"#).unwrap(), [2]);
        assert!(tokens("{}").unwrap().is_empty());
        let error = tokens(r#"{"eos_token_id": "x"}"#).unwrap_err().to_string();
        assert!(error.contains("generation_config.json") && error.contains("`eos_token_id`"), "{error}");
        assert!(tokens("[]").is_err());
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

    /// `config.json` of small models of the other architectures, in the spelling of transformers 4.
    fn parse_small(architecture: &str, change: &Value) -> Result<Config, CheckpointError> {
        let mut base = json!({
            "architectures": [architecture], "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 100, "rope_theta": 500.0,
        });
        base.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        parse(&serde_json::to_vec(&base).unwrap(), Path::new("config.json"))
    }

    use LayerType::{FullAttention, SlidingAttention};

    #[test]
    fn windows_are_those_of_the_architecture() {
        let window = |architecture, change| parse_small(architecture, &change).unwrap().variant;
        let sliding = |window, layer_types: &[LayerType]| {
            let variant = Variant { sliding_window: Some(window), ..Variant::default() };
            Variant { layer_types: layer_types.to_vec(), ..variant }
        };
        assert_eq!(window("MistralForCausalLM", json!({})), sliding(4096, &[]));
        assert_eq!(window("MistralForCausalLM", json!({"sliding_window": null})), Variant::default());
        assert_eq!(window("LlamaForCausalLM", json!({"sliding_window": 7})), Variant::default());

        let qwen = json!({"sliding_window": 7, "max_window_layers": 3});
        let off = Variant { qkv_bias: true, ..Variant::default() };
        assert_eq!(window("Qwen2ForCausalLM", qwen.clone()), off);
        let mut on = qwen.clone();
        on["use_sliding_window"] = true.into();
        let last = [FullAttention, FullAttention, FullAttention, SlidingAttention];
        assert_eq!(window("Qwen2ForCausalLM", on.clone()), Variant { qkv_bias: true, ..sliding(7, &last) });
        on["layer_types"] = json!(vec![SlidingAttention; 4]);
        assert_eq!(window("Qwen3ForCausalLM", on.clone()), Variant { qk_norm: true, ..sliding(7, &[]) });
        on["layer_types"] = json!(vec![FullAttention; 4]);
        assert_eq!(window("Qwen3ForCausalLM", on.clone()), Variant { qk_norm: true, ..Variant::default() });
        on["layer_types"] = json!(["chunked_attention"]);
        let error = parse_small("Qwen3ForCausalLM", &on).unwrap_err().to_string();
        assert!(error.contains("`layer_types` is not a list of types: unknown variant `chunked_attention`"));
        on["layer_types"] = json!(["sliding_attention", "full_attention"]);
        let error = parse_small("Qwen3ForCausalLM", &on).unwrap().validate().unwrap_err().to_string();
        assert!(error.contains("`layer_types`: 2 for 4 layers"), "{error}");
    }

    #[test]
    fn gemma_is_read_in_every_spelling() {
        let change = json!({
            "num_hidden_layers": 7, "sliding_window": 9, "head_dim": 16, "query_pre_attn_scalar": 16,
            "rope_theta": 500.0, "rope_local_base_freq": 50.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0},
        });
        let older = parse_small("Gemma3ForCausalLM", &change).unwrap();
        let mut layer_types = vec![SlidingAttention; 7];
        layer_types[5] = FullAttention;
        let expected = Variant {
            qkv_bias: false,
            qk_norm: true,
            post_norms: true,
            scale_embeddings: true,
            hidden_act: Activation::GeluPytorchTanh,
            query_pre_attn_scalar: None,
            sliding_window: Some(9),
            layer_types,
            rope_local_base_freq: Some(50.0),
        };
        assert_eq!(older.variant, expected);
        assert_eq!((older.rope_theta, &older.rope_scaling), (500.0, &RopeScaling::Linear { factor: 8.0 }));
        assert!(older.tie_word_embeddings);

        let mut newer = change;
        for field in ["rope_theta", "rope_local_base_freq", "rope_scaling"] {
            newer[field] = Value::Null;
        }
        newer["layer_types"] = json!(older.variant.layer_types);
        newer["rope_parameters"] = json!({
            "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 500.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 50.0},
        });
        assert_eq!(parse_small("Gemma3ForCausalLM", &newer).unwrap(), older);
        newer["rope_parameters"]["sliding_attention"] = json!({"rope_type": "linear", "factor": 2.0});
        let error = parse_small("Gemma3ForCausalLM", &newer).unwrap_err().to_string();
        assert!(error.contains("`rope_parameters` is stretched for `sliding_attention`"), "{error}");
    }

    /// The text model's fields that google/gemma-3-4b-it has in `text_config`: all others are defaults.
    #[test]
    fn the_text_model_inside_another_may_leave_out_almost_all() {
        let config = json!({
            "architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "eos_token_id": [1, 106],
            "text_config": {
                "hidden_size": 2560, "intermediate_size": 10240, "model_type": "gemma3_text", "num_hidden_layers": 34,
                "rope_scaling": {"factor": 8.0, "rope_type": "linear"}, "sliding_window": 1024,
            },
        });
        let config = parse(&serde_json::to_vec(&config).unwrap(), Path::new("config.json")).unwrap();
        config.validate().unwrap();
        assert_eq!((config.vocab_size, config.num_attention_heads, config.head_dim), (262_208, 8, 256));
        assert_eq!((config.rope_theta, config.variant.rope_local_base_freq), (1e6, Some(1e4)));
        assert_eq!((config.bos_token_id, &config.eos_token_ids), (Some(2), &vec![1, 106]));
        assert_eq!((config.window(4), config.window(5)), (Some(1024), None));
    }

    #[test]
    fn what_is_written_is_read_as_the_same_model() {
        let sliding =
            json!({"sliding_window": 7, "use_sliding_window": true, "max_window_layers": 2, "head_dim": 16});
        for architecture in Architecture::ALL.map(Architecture::class) {
            if architecture == Gemma3Multimodal.class() {
                continue;
            }
            for change in [json!({"sliding_window": null}), sliding.clone(), json!({"attention_bias": true})]
            {
                let config = parse_small(architecture, &change).unwrap();
                let written = to_json(&config).unwrap();
                assert_eq!(from_json(written.as_object().unwrap().clone()).unwrap(), config);
            }
        }
        let mut config = parse_small("Qwen3ForCausalLM", &json!({})).unwrap();
        config.variant.scale_embeddings = true;
        let error = to_json(&config).unwrap_err().to_string();
        assert!(
            error.contains("would be `Qwen3ForCausalLM`, which in transformers does not have"),
            "{error}"
        );
    }

    #[test]
    fn what_is_not_supported_is_named() {
        for (change, words) in [
            (r#"{"architectures": ["GPT2LMHeadModel"]}"#, "`architectures` is `GPT2LMHeadModel`"),
            (r#"{"model_type": "qwen2"}"#, "`model_type` is `qwen2`; that of `LlamaForCausalLM` is `llama`"),
            (
                r#"{"architectures": null, "model_type": "phi3"}"#,
                "`model_type` is `phi3`; supported are `llama`,",
            ),
            (r#"{"hidden_act": "gelu"}"#, "`hidden_act` is `gelu`"),
            (r#"{"hidden_act": 1}"#, "`hidden_act` is 1, not a text"),
            (
                r#"{"attn_logit_softcapping": 50.0}"#,
                "`attn_logit_softcapping` is 50.0, which is not supported",
            ),
            (
                r#"{"final_logit_softcapping": 30.0}"#,
                "`final_logit_softcapping` is 30.0, which is not supported",
            ),
            (r#"{"use_bidirectional_attention": true}"#, "`use_bidirectional_attention` is true"),
            (r#"{"rope_parameters": {"partial_rotary_factor": 0.5}}"#, "`partial_rotary_factor` is 0.5"),
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
