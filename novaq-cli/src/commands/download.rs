//! `novaq download`: brings a model of the Hugging Face Hub to its cache.

use clap::Args as ClapArgs;

use crate::hub::Location;
use crate::{output, say};

/// Download a model of the Hugging Face Hub.
///
/// It goes to the cache of the hub's own clients (`HF_HOME`, or `~/.cache/huggingface`), from `HF_ENDPOINT`, with the token
/// in `HF_TOKEN` or that of `hf auth login`. What is there already is not downloaded again; a download that was interrupted goes
/// on where it was.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The model: `hf:OWNER/NAME`, with a revision after `@`; a GGUF file of it as `hf:OWNER/NAME/FILE.gguf`.
    #[arg(value_name = "MODEL")]
    model: Location,

    /// Print the result as JSON.
    #[arg(long)]
    json: bool,
}

/// Runs the command.
///
/// # Errors
/// If the model is none of the hub, the hub does not give it, or there is no room for it.
pub fn run(args: &Args) -> anyhow::Result<()> {
    let fetched = args.model.fetch()?;
    let Some(origin) = fetched.origin else {
        anyhow::bail!("`{}` is no model of the hub: write `hf:OWNER/NAME`", args.model);
    };
    if args.json {
        let path = &fetched.path;
        return output::json(
            &serde_json::json!({ "repository": origin.repository, "revision": origin.revision, "path": path }),
        );
    }
    say!("Model: {} at {}", origin.repository, origin.revision);
    say!("Path: `{}`", fetched.path.display());
    Ok(())
}
