//! The tokenizer of a GGUF file, as the `tokenizer.json` that does the same.
//!
//! Which pre-tokenizers and defaults the names stand for: `src/llama-vocab.cpp` of
//! <https://github.com/ggml-org/llama.cpp>.

use serde_json::{Value, json};

use super::super::CheckpointError;
use super::super::sentencepiece::{self, Kind, Piece};
use super::container::Metadata;

const MODEL: &str = "tokenizer.ggml.model";
const PRE: &str = "tokenizer.ggml.pre";
const TOKENS: &str = "tokenizer.ggml.tokens";
const SCORES: &str = "tokenizer.ggml.scores";
const KINDS: &str = "tokenizer.ggml.token_type";
const MERGES: &str = "tokenizer.ggml.merges";

/// GPT-2's words: contractions, letters, digits, signs, spaces. What no pattern matches is a word too.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

/// Llama 3's words: up to three digits.
const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Qwen2's words: single digits.
const QWEN2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// What the name of a pre-tokenizer stands for.
struct Words {
    /// The names in [`PRE`].
    names: &'static [&'static str],
    /// One after the other, each cuts what the one before left.
    patterns: &'static [&'static str],
    /// Whether a word that is a token is taken whole.
    ignore_merges: bool,
    /// Whether a beginning is put in front if nothing says so.
    add_bos: bool,
}

const WORDS: [Words; 5] = [
    Words {
        names: &["default"],
        patterns: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        ignore_merges: false,
        add_bos: false,
    },
    Words {
        names: &["gpt-2", "phi-2", "mpt", "olmo", "jais"],
        patterns: &[GPT2],
        ignore_merges: false,
        add_bos: false,
    },
    Words {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        patterns: &[r"\p{N}", GPT2],
        ignore_merges: false,
        add_bos: false,
    },
    Words {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3"],
        patterns: &[LLAMA3],
        ignore_merges: true,
        add_bos: true,
    },
    Words { names: &["qwen2"], patterns: &[QWEN2], ignore_merges: false, add_bos: false },
];

/// The `tokenizer.json` for the tokenizer that `metadata` describes.
pub(super) fn json(metadata: &Metadata) -> Result<Value, CheckpointError> {
    let tokens = metadata.texts(TOKENS)?.ok_or_else(|| metadata.missing(TOKENS))?;
    let kinds = kinds(metadata, tokens.len())?;
    match metadata.text(MODEL)? {
        Some("llama") => sentencepiece_json(metadata, &tokens, &kinds),
        Some("gpt2") => byte_level_json(metadata, &tokens, &kinds),
        Some(other) => {
            Err(metadata.invalid(MODEL, format!("is `{other}`; supported are `llama` and `gpt2`")))
        }
        None => Err(metadata.missing(MODEL)),
    }
}

/// What each of `count` tokens is for. Without a list of that, all are text but the signs that the metadata names.
fn kinds(metadata: &Metadata, count: usize) -> Result<Vec<Kind>, CheckpointError> {
    if let Some(numbers) = metadata.integers(KINDS)? {
        if numbers.len() != count {
            return Err(metadata.invalid(KINDS, format!("has {} entries for {count} tokens", numbers.len())));
        }
        let kind = |number: i32| Kind::from_number(number.into());
        return numbers
            .into_iter()
            .map(|number| kind(number).ok_or_else(|| metadata.invalid(KINDS, format!("holds {number}"))))
            .collect();
    }
    let mut kinds = vec![Kind::Normal; count];
    for (name, kind) in [("bos", Kind::Control), ("eos", Kind::Control), ("unknown", Kind::Unknown)] {
        let id = metadata.size(&format!("tokenizer.ggml.{name}_token_id"))?;
        if let Some(of_id) = id.and_then(|id| kinds.get_mut(id)) {
            *of_id = kind;
        }
    }
    Ok(kinds)
}

/// The tokens that are put around a text; `add_bos` says whether a beginning is if no field does.
fn template(metadata: &Metadata, tokens: &[&str], add_bos: bool) -> Result<Value, CheckpointError> {
    let around = |end: &str, otherwise: bool| -> Result<Option<(u32, &str)>, CheckpointError> {
        if !metadata.flag(&format!("tokenizer.ggml.add_{end}_token"))?.unwrap_or(otherwise) {
            return Ok(None);
        }
        let key = format!("tokenizer.ggml.{end}_token_id");
        let Some(id) = metadata.size(&key)? else { return Ok(None) };
        let token = tokens.get(id).ok_or_else(|| metadata.invalid(&key, format!("is {id}, no token")))?;
        Ok(Some((id as u32, *token)))
    };
    Ok(sentencepiece::template(around("bos", add_bos)?, around("eos", false)?))
}

/// `SentencePiece`'s BPE by scores.
fn sentencepiece_json(
    metadata: &Metadata,
    tokens: &[&str],
    kinds: &[Kind],
) -> Result<Value, CheckpointError> {
    let scores = metadata.floats(SCORES)?.ok_or_else(|| metadata.missing(SCORES))?;
    if scores.len() != tokens.len() {
        let reason = format!("has {} entries for {} tokens", scores.len(), tokens.len());
        return Err(metadata.invalid(SCORES, reason));
    }
    let pieces: Vec<Piece> = tokens
        .iter()
        .zip(kinds)
        .zip(scores)
        .map(|((&text, &kind), score)| Piece { text: text.to_owned(), score, kind })
        .collect();
    let prefix = metadata.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let unknown = metadata.size("tokenizer.ggml.unknown_token_id")?;
    let unknown = unknown.or_else(|| kinds.iter().position(|&kind| kind == Kind::Unknown));
    sentencepiece::tokenizer_json(&pieces, unknown, prefix, &template(metadata, tokens, true)?)
        .map_err(|reason| metadata.invalid(TOKENS, reason))
}

/// GPT-2's BPE over bytes, with a list of merges.
fn byte_level_json(metadata: &Metadata, tokens: &[&str], kinds: &[Kind]) -> Result<Value, CheckpointError> {
    let name = metadata.text(PRE)?.unwrap_or("default");
    let words = WORDS.iter().find(|words| words.names.contains(&name)).ok_or_else(|| {
        let known: Vec<&str> = WORDS.iter().flat_map(|words| words.names).copied().collect();
        metadata.invalid(PRE, format!("is `{name}`; supported are {}", known.join(", ")))
    })?;
    let merges = metadata.texts(MERGES)?.ok_or_else(|| metadata.missing(MERGES))?;
    let vocabulary = sentencepiece::vocabulary(tokens.iter().copied())
        .map_err(|reason| metadata.invalid(TOKENS, reason))?;
    let mut pre_tokenizers: Vec<Value> = words
        .patterns
        .iter()
        .map(|pattern| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false}))
        .collect();
    pre_tokenizers.push(
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false}),
    );
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": sentencepiece::added_tokens(tokens.iter().copied().zip(kinds.iter().copied())),
        "normalizer": null,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": pre_tokenizers},
        "post_processor": template(metadata, tokens, words.add_bos)?,
        "decoder": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": false, "use_regex": false},
        "model": {
            "type": "BPE",
            "dropout": null,
            "unk_token": null,
            "continuing_subword_prefix": null,
            "end_of_word_suffix": null,
            "fuse_unk": false,
            "byte_fallback": false,
            "ignore_merges": words.ignore_merges,
            "vocab": vocabulary,
            "merges": merges
        }
    }))
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::path::Path;

    use novaq_engine::tokenizer::Tokenizer;

    use super::super::container;
    use super::*;

    /// The tokenizers of llama.cpp's own tests: texts and the ids that it gives them.
    #[test]
    fn ids_agree_with_llama_cpp() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models/llama.cpp_vocab_tests");
        if !folder.is_dir() {
            // The macros are captured in a test that passes; this line has to be seen.
            let _ = writeln!(std::io::stderr(), "skipped: {} is not there", folder.display());
            return;
        }
        for name in ["llama-spm", "phi-3", "gpt-2"] {
            let path = folder.join(format!("ggml-vocab-{name}.gguf"));
            let (_, metadata, _) = container::open(&path).unwrap();
            let original = Tokenizer::from_json(json(&metadata).unwrap().to_string().as_bytes()).unwrap();
            let compact = Tokenizer::from_bytes(&original.to_bytes()).unwrap();
            let read = |extension| std::fs::read_to_string(path.with_extension(extension)).unwrap();
            let (texts, ids) = (read("gguf.inp"), read("gguf.out"));
            let texts: Vec<&str> = texts.split("\n__ggml_vocab_test__\n").collect();
            assert!(texts.len() > 40, "{}", texts.len());
            for (text, line) in texts.iter().zip(ids.lines().chain(std::iter::repeat(""))) {
                let expected: Vec<u32> = line.split_whitespace().map(|id| id.parse().unwrap()).collect();
                for tokenizer in [&original, &compact] {
                    assert_eq!(tokenizer.encode(text, false).unwrap(), expected, "{name}: {text:?}");
                }
            }
        }
    }
}
