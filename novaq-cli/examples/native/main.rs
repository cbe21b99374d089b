//! `cargo xtask bench native`: tokens per second of the engine on this machine, beside llama.cpp on models of the same shapes, of
//! random weights.
//!
//! The `novaq` beside this program makes our artifacts; `beside_llama_cpp.py` makes and measures llama.cpp's files, in a process of its own
//! that waits for its turn. Contenders take turns, there and back, so that other load on the machine hits all of them; figures are
//! medians. A text takes one thread of ours, as the engine starts none; llama.cpp is measured on one, and on more. On one thread
//! the time is that of the core, so that waiting for it does not count; on more it is the clock's, which wants an idle machine.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, ensure};
use clap::Parser;
use novaq_cli::artifact_dir::ArtifactDir;
use novaq_cli::generation::Options;
use novaq_cli::resources::Usage;
use novaq_engine::artifact::LoadedModel;
use novaq_engine::kernel::Backend;
use novaq_engine::model::{Budget, Config};
use novaq_engine::synth::{config_like, shape_names};
use novaq_engine::text::TextEvent;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

/// Bits per weight of our layers. Embedding and head have 3, as `novaq synth` gives them.
const BITS: [&str; 2] = ["2", "1.5"];

/// What all others are compared with: this type of llama.cpp, on one thread.
const YARDSTICK: &str = "Q4_0";

const PACKAGES: &str = "llama-cpp-python gguf";

#[derive(Parser)]
#[command(name = "cargo xtask bench native")]
struct Args {
    /// Names of shapes [default: smollm2-135m qwen3-0.6b].
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(shape_names()))]
    shapes: Vec<String>,

    /// Python 3 with the packages llama-cpp-python and gguf.
    #[arg(long, value_name = "PATH", default_value = "python3")]
    python: PathBuf,

    /// Threads that llama.cpp is measured on, besides one.
    #[arg(long, value_name = "N", default_value_t = 2)]
    threads: u32,

    /// Tokens of the prompt.
    #[arg(long, value_name = "N", default_value_t = 256)]
    prompt: usize,

    /// Tokens that are decoded after it.
    #[arg(long, value_name = "N", default_value_t = 128)]
    decode: usize,

    /// Turns of each contender that count. Each has one before.
    #[arg(long, value_name = "N", default_value_t = 5)]
    turns: usize,
}

/// One turn of a contender.
#[derive(Clone, Copy, Deserialize)]
struct Turn {
    prompt_seconds: f64,
    decode_seconds: f64,
}

/// A row of the table.
struct Contender {
    name: String,
    /// What llama.cpp calls it, if it is one of its own.
    of_llama_cpp: Option<String>,
    threads: u32,
    /// Bytes of all weights.
    bytes: u64,
    model: Option<LoadedModel>,
    turns: Vec<Turn>,
}

impl Contender {
    /// Median of the tokens per second, of a prompt and decoded.
    fn speeds(&self, args: &Args) -> [f64; 2] {
        let median = |seconds: fn(&Turn) -> f64, tokens: usize| {
            let mut all: Vec<f64> = self.turns.iter().map(seconds).collect();
            all.sort_by(f64::total_cmp);
            let (low, high) = (all[(all.len() - 1) / 2], all[all.len() / 2]);
            tokens as f64 / f64::midpoint(low, high)
        };
        [median(|turn| turn.prompt_seconds, args.prompt), median(|turn| turn.decode_seconds, args.decode)]
    }
}

fn main() -> anyhow::Result<()> {
    let mut args = Args::parse();
    ensure!(args.prompt > 0 && args.decode > 0, "`--prompt` and `--decode`: at least 1");
    ensure!(args.turns > 0 && args.threads > 0, "`--turns` and `--threads`: at least 1");
    if args.shapes.is_empty() {
        args.shapes = ["smollm2-135m", "qwen3-0.6b"].map(str::to_owned).to_vec();
    }
    let novaq = novaq()?;
    let llama_cpp = has_packages(&args.python);
    if !llama_cpp {
        let python = args.python.display();
        eprintln!(
            "llama.cpp needs Python 3 and two packages, which `{python}` lacks: `python3 -m venv v && v/bin/pip install {PACKAGES}`, \
             then `--python v/bin/python`"
        );
    }
    let mut notes = vec![format!("ours: vectors of {:?}, one thread", Backend::detect())];
    println!(
        "| shape | weights | bytes | bits per weight in all | threads | prompt, tokens per second | decoded, tokens per second | \
         prompt / {YARDSTICK} | decoded / {YARDSTICK} |"
    );
    println!("|---|---|---|---|---|---|---|---|---|");
    for shape in &args.shapes {
        let folder = tempfile::tempdir()?;
        let config = config_like(shape).with_context(|| format!("no shape is called `{shape}`"))?;
        let prompt: Vec<u32> = (0..args.prompt).map(|i| (i * 7919 % config.vocab_size) as u32).collect();
        let mut contenders = ours(&novaq, shape, folder.path())?;
        let mut other = None;
        if llama_cpp {
            let (process, prepared) = LlamaCpp::start(&args, &config, &prompt, folder.path())?;
            contenders.extend(theirs(&args, &prepared));
            for note in prepared.notes(shape) {
                if !notes.contains(&note) {
                    notes.push(note);
                }
            }
            other = Some(process);
        }
        measure(&args, &prompt, &mut contenders, other.as_mut())?;
        print(&args, shape, config.parameters(), &contenders);
    }
    println!();
    for note in notes {
        println!("{note}");
    }
    if !llama_cpp {
        println!("skipped: llama.cpp, which Python's packages {PACKAGES} bring");
    }
    Ok(())
}

/// Takes turns: forwards, backwards, forwards; the first turn of each warms up.
fn measure(
    args: &Args,
    prompt: &[u32],
    contenders: &mut [Contender],
    mut other: Option<&mut LlamaCpp>,
) -> anyhow::Result<()> {
    for turn in 0..=args.turns {
        let mut order: Vec<&mut Contender> = contenders.iter_mut().collect();
        if turn % 2 == 1 {
            order.reverse();
        }
        for contender in order {
            let taken = match (&contender.model, &contender.of_llama_cpp, &mut other) {
                (Some(model), _, _) => our_turn(model, prompt, args.decode)?,
                (None, Some(name), Some(other)) => other.turn(name, contender.threads)?,
                _ => continue,
            };
            if turn > 0 {
                contender.turns.push(taken);
            }
        }
    }
    Ok(())
}

/// The options of `novaq run`.
#[derive(Parser)]
struct RunOptions {
    #[command(flatten)]
    options: Options,
}

/// The most probable tokens after a prompt, as `novaq run --temperature 0` generates them.
fn our_turn(loaded: &LoadedModel, prompt: &[u32], decode: usize) -> anyhow::Result<Turn> {
    // The first one follows from the prompt's pass.
    let most = (1 + decode).to_string();
    let RunOptions { options } = RunOptions::parse_from(["run", "--temperature", "0", "--max-tokens", &most]);
    let mut text = options.begin(loaded, prompt.to_vec(), &[])?;
    let mut budget = Budget::unlimited();
    let now = || {
        Usage::of_this_process().map(|usage| usage.processor_seconds).context("this system does not count")
    };
    let began = now()?;
    text.advance(loaded, &mut budget)?;
    let read = now()?;
    while !matches!(text.advance(loaded, &mut budget)?, TextEvent::Finished(_)) {}
    ensure!(text.generated().len() == 1 + decode, "the text ended early");
    Ok(Turn { prompt_seconds: read - began, decode_seconds: now()? - read })
}

/// Our contenders, made by `novaq synth`.
fn ours(novaq: &Path, shape: &str, folder: &Path) -> anyhow::Result<Vec<Contender>> {
    let make = |bits: &str| {
        let path = folder.join(format!("ours-{bits}"));
        let mut command = Command::new(novaq);
        command.args(["synth", "--like", shape, "--bpw", bits, "--output"]).arg(&path).stdout(Stdio::null());
        ensure!(command.status()?.success(), "`novaq synth` failed");
        let artifact = ArtifactDir::open(&path)?;
        let manifest = artifact.manifest();
        let tensors = manifest.tensors.iter().map(|tensor| tensor.section.length);
        let codebooks = manifest.codebooks.iter().map(|codebooks| codebooks.section.length);
        Ok(Contender {
            name: format!("ours at {bits} bits"),
            of_llama_cpp: None,
            threads: 1,
            bytes: tensors.chain(codebooks).sum(),
            model: Some(artifact.load()?),
            turns: Vec::new(),
        })
    };
    BITS.into_iter().map(make).collect()
}

/// llama.cpp's contenders.
fn theirs(args: &Args, prepared: &Prepared) -> Vec<Contender> {
    let threads = if args.threads == 1 { vec![1] } else { vec![1, args.threads] };
    let of = |threads: u32| {
        prepared.files.iter().map(move |(name, file)| Contender {
            name: format!("llama.cpp {name}"),
            of_llama_cpp: Some(name.clone()),
            threads,
            bytes: file["bytes"].as_u64().unwrap_or(0),
            model: None,
            turns: Vec::new(),
        })
    };
    threads.into_iter().flat_map(of).collect()
}

fn print(args: &Args, shape: &str, parameters: u64, contenders: &[Contender]) {
    let yardstick = contenders
        .iter()
        .find(|contender| contender.of_llama_cpp.as_deref() == Some(YARDSTICK) && contender.threads == 1)
        .map(|contender| contender.speeds(args));
    for contender in contenders {
        let speeds = contender.speeds(args);
        let ratio = |which: usize| match yardstick {
            Some(yardstick) => format!("{:.2}", speeds[which] / yardstick[which]),
            None => "-".to_owned(),
        };
        println!(
            "| {shape} | {} | {:.1} MB | {:.2} | {} | {:.1} | {:.1} | {} | {} |",
            contender.name,
            contender.bytes as f64 / 1e6,
            8.0 * contender.bytes as f64 / parameters as f64,
            contender.threads,
            speeds[0],
            speeds[1],
            ratio(0),
            ratio(1)
        );
    }
}

/// The program, where cargo puts it.
fn novaq() -> anyhow::Result<PathBuf> {
    let this = std::env::current_exe()?;
    let folder = this.parent().and_then(Path::parent).context("this program is in no folder")?;
    let path = folder.join(format!("novaq{}", std::env::consts::EXE_SUFFIX));
    ensure!(path.exists(), "`{}` is missing: run `cargo xtask build`", path.display());
    Ok(path)
}

fn has_packages(python: &Path) -> bool {
    let mut command = Command::new(python);
    command.args(["-c", "import gguf, llama_cpp"]).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.success())
}

/// What `beside_llama_cpp.py` says when its files are there.
#[derive(Deserialize)]
struct Prepared {
    version: String,
    system: String,
    files: Map<String, Value>,
}

impl Prepared {
    fn notes(&self, shape: &str) -> Vec<String> {
        let matrices = |file: &Value| {
            let counts = file["matrices"].as_object().into_iter().flatten();
            counts.map(|(name, count)| format!("{count} in {name}")).collect::<Vec<_>>().join(", ")
        };
        let mut notes =
            vec![format!("llama-cpp-python {}: {}", self.version, self.system.trim_end_matches([' ', '|']))];
        notes.extend(
            self.files
                .iter()
                .map(|(name, file)| format!("{shape}, {name}: of its matrices {}", matrices(file))),
        );
        notes
    }
}

/// `beside_llama_cpp.py` at work.
struct LlamaCpp {
    child: Child,
    /// `None` once it may end.
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl LlamaCpp {
    /// Starts it, and waits until its files are there.
    fn start(
        args: &Args,
        config: &Config,
        prompt: &[u32],
        folder: &Path,
    ) -> anyhow::Result<(Self, Prepared)> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/native/beside_llama_cpp.py");
        let config = json!({
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
            "tie_word_embeddings": config.tie_word_embeddings,
            "qkv_bias": config.variant.qkv_bias,
            "qk_norm": config.variant.qk_norm,
        });
        let mut command = Command::new(&args.python);
        command.arg(script).arg(config.to_string()).arg(folder);
        command.arg(json!(prompt).to_string()).arg(args.decode.to_string());
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = Some(child.stdin.take().context("no input")?);
        let output = BufReader::new(child.stdout.take().context("no output")?);
        let mut this = Self { child, input, output };
        let prepared = this.read()?;
        Ok((this, prepared))
    }

    fn turn(&mut self, name: &str, threads: u32) -> anyhow::Result<Turn> {
        writeln!(self.input.as_ref().context("it has ended")?, "{name} {threads}")?;
        self.read()
    }

    fn read<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        serde_json::from_str(&line).context("`beside_llama_cpp.py` failed")
    }
}

impl Drop for LlamaCpp {
    fn drop(&mut self) {
        // At the end of its input it ends.
        self.input = None;
        let _ = self.child.wait();
    }
}
