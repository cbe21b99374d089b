//! A model with random weights: small enough for tests, large enough for several shards.

use std::sync::{Arc, OnceLock};

use ed25519_dalek::SigningKey;
use novaq_engine::artifact::{LoadedEncoder, LoadedModel, Loader, Manifest, Shards, Signature};
use novaq_engine::generate::{Event, Generation};
use novaq_engine::kernel::Fold;
use novaq_engine::model::{BertConfig, Budget, Config, RopeScaling, Variant};
use novaq_engine::synth::{self, Format, Synthetic, SyntheticEncoder, config_like};
use novaq_engine::tokenizer::Tokenizer;
use shared_types::ModelId;
use shared_types::agent::GenerationParams;

/// The key that signs the artifacts; [`crate::network::Network::repository`] registers it for the uploader.
pub fn signing_key() -> SigningKey {
    SigningKey::from_bytes(&[7; 32])
}

/// An artifact in memory, signed.
#[derive(Debug)]
pub struct Artifact {
    /// The manifest.
    pub manifest: Manifest,
    /// Its canonical bytes.
    pub manifest_bytes: Vec<u8>,
    /// The shard files.
    pub shards: Vec<Vec<u8>>,
    /// The model's id.
    pub id: ModelId,
}

impl Artifact {
    /// The artifact of most tests: about 6 MB in four shards, the tokenizer of the bundled model.
    ///
    /// # Panics
    /// When the engine can't make it.
    pub fn shared() -> &'static Self {
        static ARTIFACT: OnceLock<Artifact> = OnceLock::new();
        ARTIFACT.get_or_init(|| Self::synthetic(512, 1_024, 2))
    }

    /// An artifact of about 2 MB in two shards, for tests that run a job hundreds of times.
    ///
    /// # Panics
    /// When the engine can't make it.
    pub fn small() -> &'static Self {
        static ARTIFACT: OnceLock<Artifact> = OnceLock::new();
        ARTIFACT.get_or_init(|| Self::synthetic(256, 1_280, 1))
    }

    /// An artifact of 43 MB in 23 shards. Two agents don't load it within one round, which takes no further message after
    /// 4 B instructions.
    ///
    /// # Panics
    /// When the engine can't make it.
    pub fn large() -> Self {
        Self::synthetic(2_048, 4_096, 1)
    }

    /// The artifact loaded natively.
    ///
    /// # Panics
    /// When the engine can't load it.
    pub fn load(&self) -> LoadedModel {
        let shards = Shards(self.shards.iter().map(Vec::as_slice).collect());
        Loader::load(Arc::new(self.manifest.clone()), &shards).expect("a loadable artifact")
    }

    /// An artifact of random weights in a shape that `config_like` knows, with `bits` per weight and 3 in the embedding, and
    /// a token for each byte.
    ///
    /// # Panics
    /// When there is no such shape, or the engine can't make it.
    pub fn like(shape: &str, bits: f64) -> Self {
        let config = config_like(shape).expect("a shape");
        let tokenizer = synth::tokenizer(config.vocab_size).expect("a tokenizer").to_bytes();
        let body = Format::of_bits(bits, Fold::of_bits(bits)).expect("a number of codebooks");
        let embedding = Format::of_bits(3.0, Fold::of_head_bits(3.0)).expect("a number of codebooks");
        let mut shards: Vec<Vec<u8>> = Vec::new();
        let synthetic = Synthetic { config, body, embedding, seed: 1, tokenizer };
        let manifest = synthetic.write(&mut shards).expect("a valid configuration");
        Self::signed(manifest, shards, &signing_key())
    }

    /// An artifact of 2 MB in eight layers.
    ///
    /// # Panics
    /// When the engine can't make it.
    pub fn layered() -> Self {
        Self::with([128, 384, 8], 256, None)
    }

    /// An artifact of 16 MB in four layers, which make up most of it.
    ///
    /// # Panics
    /// When the engine can't make it.
    pub fn large_layers() -> Self {
        Self::with([512, 2_048, 4], 256, None)
    }

    /// An artifact of 6 MB in four layers, 4 MB of which are codes of two bits per weight.
    ///
    /// # Panics
    /// When the engine can't make it.
    pub fn large_codes() -> Self {
        let body = Format::Aq { codebooks: 4, dimension: 8, fold: Fold::ONE };
        Self::with_body([512, 2_048, 4], 256, None, body)
    }

    /// An artifact of half a MB with a context of 2,048 positions.
    ///
    /// # Panics
    /// When the engine can't make it.
    pub fn long_context() -> Self {
        Self::with([64, 256, 1], 2_048, None)
    }

    /// An artifact of half a MB with a context of so many positions and a chat template.
    ///
    /// # Panics
    /// When the engine can't make it.
    pub fn with_template(chat_template: &str, positions: usize) -> Self {
        Self::with([64, 256, 1], positions, Some(chat_template))
    }

    /// An encoder of a quarter of a MB that reads texts of up to 32 tokens.
    ///
    /// # Panics
    /// When the engine can't make it.
    pub fn encoder() -> Self {
        let config = BertConfig {
            vocab_size: tokenizer().vocab_size(),
            hidden_size: 48,
            intermediate_size: 96,
            num_hidden_layers: 3,
            num_attention_heads: 4,
            max_position_embeddings: 64,
            max_seq_length: 32,
            ..SyntheticEncoder::minilm()
        };
        Self::of_encoder(config, Format::Aq { codebooks: 4, dimension: 8, fold: Fold::ONE })
    }

    /// An encoder of random weights in the shape of all-MiniLM-L6-v2, 3 bits per weight.
    ///
    /// # Panics
    /// When the engine can't make it.
    pub fn minilm() -> Self {
        let body = Format::Aq { codebooks: 6, dimension: 8, fold: Fold::ONE };
        Self::of_encoder(SyntheticEncoder::minilm(), body)
    }

    fn of_encoder(config: BertConfig, body: Format) -> Self {
        let tokenizer = tokenizer().to_bytes();
        let synthetic = SyntheticEncoder { config, body, embedding: Format::Int8, seed: 1, tokenizer };
        let mut shards: Vec<Vec<u8>> = Vec::new();
        let mut manifest = synthetic.write(&mut shards).expect("a valid configuration");
        // A repository takes it after a decoder of the same name; a version of another length would change the files' size.
        "1.1.0".clone_into(&mut manifest.version);
        Self::signed(manifest, shards, &signing_key())
    }

    /// The encoder loaded natively.
    ///
    /// # Panics
    /// When the engine can't load it.
    pub fn load_encoder(&self) -> LoadedEncoder {
        let shards = Shards(self.shards.iter().map(Vec::as_slice).collect());
        Loader::load_encoder(Arc::new(self.manifest.clone()), &shards).expect("a loadable artifact")
    }

    fn synthetic(hidden_size: usize, intermediate_size: usize, num_hidden_layers: usize) -> Self {
        Self::with([hidden_size, intermediate_size, num_hidden_layers], 256, None)
    }

    fn with(sizes: [usize; 3], max_position_embeddings: usize, chat_template: Option<&str>) -> Self {
        Self::with_body(sizes, max_position_embeddings, chat_template, Format::Int8)
    }

    fn with_body(
        [hidden_size, intermediate_size, num_hidden_layers]: [usize; 3],
        max_position_embeddings: usize,
        chat_template: Option<&str>,
        body: Format,
    ) -> Self {
        let tokenizer = tokenizer();
        let config = Config {
            vocab_size: tokenizer.vocab_size(),
            hidden_size,
            intermediate_size,
            num_hidden_layers,
            num_attention_heads: hidden_size / 64,
            num_key_value_heads: (hidden_size / 64).min(4),
            head_dim: 64,
            max_position_embeddings,
            rms_norm_eps: 1e-5,
            rope_theta: 10_000.0,
            rope_scaling: RopeScaling::Default,
            tie_word_embeddings: true,
            attention_bias: false,
            mlp_bias: false,
            bos_token_id: None,
            eos_token_ids: Vec::new(),
            variant: Variant::default(),
        };
        let synthetic =
            Synthetic { config, body, embedding: Format::Int8, seed: 1, tokenizer: tokenizer.to_bytes() };
        let mut shards: Vec<Vec<u8>> = Vec::new();
        let manifest = synthetic.write_with_template(&mut shards, chat_template);
        Self::signed(manifest.expect("a valid configuration"), shards, &signing_key())
    }

    /// The artifact of a manifest and its shards, signed by `key`.
    ///
    /// # Panics
    /// When the manifest has numbers that are not finite.
    pub fn signed(manifest: Manifest, shards: Vec<Vec<u8>>, key: &SigningKey) -> Self {
        let id = manifest.id().expect("finite numbers");
        let manifest = Manifest { signature: Some(Signature::new(key, &id)), ..manifest };
        let manifest_bytes = manifest.to_bytes().expect("finite numbers");
        Self { manifest, manifest_bytes, shards, id: ModelId::new(id) }
    }

    /// Writes the artifact to the folder `path`, without its signature.
    ///
    /// # Panics
    /// When a file can't be written.
    pub fn write_unsigned(&self, path: &std::path::Path) {
        let manifest = Manifest { signature: None, ..self.manifest.clone() };
        let manifest = manifest.to_bytes().expect("finite numbers");
        std::fs::write(path.join("manifest.json"), manifest).expect("a folder that can be written");
        for (index, shard) in self.shards.iter().enumerate() {
            std::fs::write(path.join(format!("shard-{index:05}.novaq")), shard).expect("the same folder");
        }
    }

    /// Tokens and text that the engine generates natively, in one go.
    ///
    /// # Panics
    /// When the engine refuses the request.
    pub fn generate(&self, prompt: &str, params: &GenerationParams) -> (Vec<u32>, String) {
        let loaded = self.load();
        let LoadedModel { model, tokenizer, .. } = &loaded;
        let prompt =
            tokenizer.encode_prompt(prompt, model.config().bos_token_id).expect("an encodable prompt");
        let request = params.request(&loaded, prompt).expect("a schema that can be followed");
        let mut generation = Generation::new(model, request).expect("a prompt that fits");
        let mut budget = Budget::unlimited();
        while !matches!(generation.advance(model, &mut budget).expect("finite logits"), Event::Finished(_)) {}
        let tokens = generation.generated().to_vec();
        let text = tokenizer.decode(&tokens, true).expect("decodable tokens");
        (tokens, text)
    }
}

/// That of the bundled model.
fn tokenizer() -> Tokenizer {
    let json = include_bytes!("../../models/ohms-tales-6m/tokenizer.json");
    Tokenizer::from_json(json).expect("the bundled tokenizer is readable")
}
