//! What a compression would come to, from the headers alone.

use novaq_engine::artifact::{Estimates, SourceFile};
use novaq_engine::tokenizer::Tokenizer;
use serde::Serialize;

use super::cost::{Cost, Task};
use super::output;
use super::plan::{self, Additive, Folding, Layout, MatrixCodec, Named, Part, Plan, TooSmall};
use super::sensitivity::Sensitivity;
use super::size::{Kind, Sizes};
use super::{Budget, Options};
use crate::checkpoint::Checkpoint;
use crate::output::HintExt;

/// Multiply-adds that one pass over the calibration text should take at most, whatever the size of the model.
const CALIBRATION_WORK: u64 = 80_000_000_000;

/// Fewest and most calibration tokens by default.
const CALIBRATION_TOKENS: [u64; 2] = [8192, 40_960];

/// What a compression would come to, from the headers alone.
#[derive(Clone, Debug, Serialize)]
pub struct Forecast {
    /// Whether the codecs are those that the compression will choose. If not, it will choose others within the same
    /// bits by what it measures, and padding makes other sizes of them.
    pub exact: bool,
    /// Weights of the model.
    pub parameters: u64,
    /// Most bytes of all files.
    pub bytes: u64,
    /// By how many bytes it may be less: the digits of what is measured at the end.
    pub variable_bytes: u64,
    /// Number of shards.
    pub shards: usize,
    /// Bytes of the matrices: codes, scales and codebooks.
    pub matrix_bytes: u64,
    /// The bytes of all files by what they are for.
    pub kinds: Vec<Kind>,
    /// Bits of the codes alone per weight of the layers.
    pub bits_per_weight_codes: f64,
    /// All bits per weight of the layers.
    pub bits_per_weight_body: f64,
    /// All bits per weight of the embedding and the head.
    pub bits_per_weight_embedding: f64,
    /// Bits of all files together per weight.
    pub bits_per_weight_file: f64,
    /// How many times smaller all files are than the weights in 32-bit floats.
    pub ratio_fp32: f64,
    /// How many times smaller all files are than the weights in 16-bit floats.
    pub ratio_fp16: f64,
    /// What it takes to run the model.
    pub estimates: Estimates,
    /// Calibration tokens.
    pub calibration_tokens: usize,
    /// What the compression takes.
    pub cost: Cost,
}

/// What [`super::run`] would make of `checkpoint`. Reads the tokenizer and no weights; writes nothing.
///
/// # Errors
/// If a file can't be read, or the budget can't be met.
pub fn forecast(checkpoint: &Checkpoint, options: &Options) -> anyhow::Result<Forecast> {
    let named = overrides(checkpoint, options)?;
    let tokenizer_json = checkpoint.tokenizer_json()?;
    let tokenizer = Tokenizer::from_json(&tokenizer_json)?;
    super::check_vocabulary(&tokenizer, plan::EMBEDDING, checkpoint.config().vocab_size)?;
    let sizes = sizes(checkpoint, options, checkpoint.source_lengths()?, &tokenizer)?;
    let planning = Planning { layout: checkpoint, options, named: &named, sizes: &sizes };
    let plan = planning.expected()?;
    let exact = planning.follows_from_headers(&plan);
    let tokens = calibration_tokens(checkpoint, options);
    let cost = Cost::of(&Task {
        checkpoint,
        plan: &plan,
        fixed: exact,
        tokens,
        sampled: options.calibration.is_none(),
        refine: options.refine,
        refine_steps: options.refine_steps,
        memory: options.memory,
        tokenizer_bytes: tokenizer_json.len() as u64,
    })?;
    Forecast::new(&sizes, &plan, exact, tokens, cost)
}

impl Forecast {
    /// What `plan` comes to, on `calibration_tokens` tokens.
    pub(super) fn new(
        sizes: &Sizes,
        plan: &Plan,
        exact: bool,
        calibration_tokens: usize,
        cost: Cost,
    ) -> anyhow::Result<Self> {
        let manifest = sizes.manifest(plan)?;
        let [most, least] = sizes.range(plan)?;
        let kinds = sizes.by_kind(plan, &manifest);
        let codebooks = manifest.codebooks.iter().map(|set| set.section.length);
        let matrices = manifest.tensors.iter().filter(|t| t.shape.len() == 2).map(|t| t.section.length);
        let c = &manifest.compression;
        Ok(Self {
            exact,
            parameters: c.parameters,
            bytes: most,
            variable_bytes: most - least,
            shards: manifest.shards.len(),
            matrix_bytes: codebooks.chain(matrices).sum(),
            kinds,
            bits_per_weight_codes: c.bits_per_weight_codes,
            bits_per_weight_body: c.bits_per_weight_body,
            bits_per_weight_embedding: c.bits_per_weight_embedding,
            bits_per_weight_file: c.bits_per_weight_file,
            ratio_fp32: c.ratio_fp32,
            ratio_fp16: c.ratio_fp16,
            estimates: manifest.estimates,
            calibration_tokens,
            cost,
        })
    }
}

/// The codecs of single matrices that the options ask for.
pub(super) fn overrides(layout: &dyn Layout, options: &Options) -> anyhow::Result<Named> {
    plan::named(layout, &options.overrides).map_err(anyhow::Error::msg).hint(|| {
        "names are those of `novaq inspect --tensors`, as `model.layers.0.mlp.up_proj.weight`".to_owned()
    })
}

/// The sizes of artifacts of `checkpoint`.
pub(super) fn sizes<'a>(
    checkpoint: &'a Checkpoint,
    options: &Options,
    sources: Vec<SourceFile>,
    tokenizer: &Tokenizer,
) -> anyhow::Result<Sizes<'a>> {
    let unknown = Estimates { heap_bytes: 0, cache_bytes_per_token: 0, instructions_per_token: 0 };
    let draft = output::draft(checkpoint, options, sources, calibration(options), None, unknown)?;
    let folding = Folding::new(options.fold, checkpoint.parameters());
    Ok(Sizes::new(checkpoint, tokenizer.to_bytes().len() as u64, draft, folding))
}

/// What the manifest says about the calibration text.
pub(super) fn calibration(options: &Options) -> String {
    match &options.calibration {
        Some(path) => format!("text of `{}`", path.file_name().unwrap_or_default().display()),
        None => "sampled from the original at temperature 1".to_owned(),
    }
}

pub(super) fn calibration_tokens(checkpoint: &Checkpoint, options: &Options) -> usize {
    options.calibration_tokens.unwrap_or_else(|| default_calibration_tokens(checkpoint))
}

/// Calibration tokens where nobody says how many.
pub fn default_calibration_tokens(checkpoint: &Checkpoint) -> usize {
    let [least, most] = CALIBRATION_TOKENS;
    (CALIBRATION_WORK / checkpoint.parameters().max(1)).clamp(least, most) as usize
}

/// What a plan depends on, beside what is measured.
pub(super) struct Planning<'a> {
    pub(super) layout: &'a dyn Layout,
    pub(super) options: &'a Options,
    /// Codecs of single matrices.
    pub(super) named: &'a Named,
    pub(super) sizes: &'a Sizes<'a>,
}

impl Planning<'_> {
    /// The plan as long as nothing is measured.
    ///
    /// # Errors
    /// If the budget can't be met.
    pub(super) fn expected(&self) -> anyhow::Result<Plan> {
        self.plan(&Sensitivity::expected(self.layout))
    }

    /// The plan, if nothing that could be measured changes it.
    ///
    /// # Errors
    /// If the budget can't be met.
    pub(super) fn fixed(&self) -> anyhow::Result<Option<Plan>> {
        let plan = self.expected()?;
        Ok(self.follows_from_headers(&plan).then_some(plan))
    }

    /// Whether [`Self::expected`], which is `plan`, is what any measurement gives: the budget leaves no choice.
    pub(super) fn follows_from_headers(&self, plan: &Plan) -> bool {
        match self.options.budget {
            Budget::Codec(_) => true,
            Budget::Bits(_) => !self.layout.tells_by_noise() || plan.is_at_an_end(),
            Budget::Bytes(_) | Budget::Ratio(_) => plan.is_low_rank(),
        }
    }

    /// The plan for parts that are as sensitive as measured.
    ///
    /// # Errors
    /// If the budget can't be met.
    pub(super) fn plan(&self, sensitivity: &Sensitivity) -> anyhow::Result<Plan> {
        let Self { layout, options, named, sizes } = *self;
        let fp32 = 4 * Part::all(layout).iter().map(Part::weights).sum::<u64>();
        let target = match options.budget {
            Budget::Codec(codec) => {
                return Ok(Plan::uniform(layout, codec, options.embedding_codec(), named.clone()));
            }
            Budget::Bits(bits) => {
                let embedding = options.embedding_codec();
                let sensitivity = layout.tells_by_noise().then_some(sensitivity);
                return Ok(Plan::within_bits(layout, bits, sensitivity, embedding, named.clone()));
            }
            Budget::Bytes(bytes) => bytes,
            Budget::Ratio(ratio) => (fp32 as f64 / ratio) as u64,
        };
        let size = |plan: &Plan| anyhow::Ok(sizes.manifest(plan)?.compression.bytes);
        let plan = Plan::within_bytes(layout, target, options.embedding, named.clone(), sensitivity, size);
        match plan.as_ref().err().and_then(|error| error.downcast_ref()) {
            Some(&TooSmall { smallest, .. }) => plan.hint(|| {
                // Rounded down, so that what is proposed can be reached.
                let ratio = (10.0 * fp32 as f64 / smallest as f64).floor() / 10.0;
                let fixed = if options.embedding.is_some() || !named.is_empty() {
                    ", or leave out `--embedding-bpw` and `--tensor`"
                } else {
                    ""
                };
                format!("ask for `--size {smallest}` or `--ratio {ratio}`{fixed}")
            }),
            None => plan,
        }
    }
}

impl Options {
    /// Codec of the embedding where a budget for the whole artifact does not choose it.
    pub(super) fn embedding_codec(&self) -> MatrixCodec {
        self.embedding.unwrap_or(MatrixCodec::Aq(Additive { books: 8, dim: 8 }))
    }
}
