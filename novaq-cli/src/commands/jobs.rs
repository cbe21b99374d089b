//! `novaq jobs`: texts to generate one after the other, in a queue on disk.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args as ClapArgs, Subcommand};
use novaq_engine::artifact::LoadedModel;
use novaq_engine::model::Budget;
use novaq_engine::text::{TextEvent, TextGeneration};
use serde::Serialize;

use crate::artifact_dir::ArtifactDir;
use crate::generation::{InputArgs, Options, ended_by, reason_name};
use crate::job_queue::{Claim, Job, JobId, JobQueue, State, Task};
use crate::output::{self, HintExt};
use crate::say;

/// Generate texts one after the other, from a queue on disk. A job that was interrupted, even by a kill, goes on from the tokens
/// that it has, and ends with the same.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Add a job.
    Add(Box<Add>),
    /// List the jobs, in the order in which they are worked on.
    List {
        #[command(flatten)]
        queue: Queue,

        /// Print the result as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Work on the jobs until none is left; several processes may work on one queue.
    Work(Queue),
    /// Print what a job has generated.
    Show {
        #[command(flatten)]
        one: One,

        /// Print the whole job as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Remove a job.
    Remove(One),
}

#[derive(Debug, ClapArgs)]
struct Queue {
    /// The queue's folder.
    #[arg(value_name = "QUEUE")]
    path: PathBuf,
}

#[derive(Debug, ClapArgs)]
struct One {
    #[command(flatten)]
    queue: Queue,

    /// The job's number.
    #[arg(value_name = "JOB")]
    id: JobId,
}

#[derive(Debug, ClapArgs)]
struct Add {
    /// The queue's folder; made if it is not there.
    #[arg(value_name = "QUEUE")]
    queue: PathBuf,

    /// The artifact's folder.
    #[arg(value_name = "DIR")]
    artifact: PathBuf,

    #[command(flatten)]
    input: InputArgs,

    #[command(flatten)]
    options: Options,

    /// Jobs with a higher priority are worked on first.
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    priority: i32,
}

/// A job as `list --json` and `show --json` print it.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    job: Job,
    in_work: bool,
    tokens: Vec<u32>,
}

impl Row {
    fn of(queue: &JobQueue, job: Job) -> anyhow::Result<Self> {
        let in_work = queue.in_work(job.id)?;
        Ok(Self { in_work, tokens: queue.tokens(job.id)?, job })
    }

    /// Where the job stands, in a word.
    fn state(&self) -> &'static str {
        match self.job.state {
            State::Queued if self.in_work => "in work",
            State::Queued if !self.tokens.is_empty() => "begun",
            State::Queued => "queued",
            State::Done { .. } => "done",
            State::Failed { .. } => "failed",
        }
    }
}

/// Runs the command.
///
/// # Errors
/// If the queue can't be read or written, there is no such job, or a model can't be loaded.
pub fn run(args: Args) -> anyhow::Result<()> {
    match args.command {
        Command::Add(args) => add(&args),
        Command::List { queue, json } => list(&JobQueue::open(&queue.path)?, json),
        Command::Work(queue) => work(&JobQueue::open(&queue.path)?),
        Command::Show { one, json } => show(&JobQueue::open(&one.queue.path)?, one.id, json),
        Command::Remove(one) => remove(&JobQueue::open(&one.queue.path)?, one.id),
    }
}

fn add(args: &Add) -> anyhow::Result<()> {
    let artifact = ArtifactDir::open(&args.artifact)?;
    args.options.validate_for(artifact.manifest())?;
    let task = Task {
        model: std::path::absolute(&args.artifact)?,
        model_id: hex::encode(artifact.model_id()),
        priority: args.priority,
        input: args.input.read()?,
        options: args.options.clone(),
    };
    say!("Job: {}", JobQueue::create(&args.queue)?.add(task)?);
    Ok(())
}

fn list(queue: &JobQueue, json: bool) -> anyhow::Result<()> {
    let rows = queue.jobs()?.into_iter().map(|job| Row::of(queue, job));
    let rows: Vec<Row> = rows.collect::<anyhow::Result<_>>()?;
    if json {
        return output::json(&rows);
    }
    let cells = rows.iter().map(|row| {
        let Task { model, priority, options, .. } = &row.job.task;
        let tokens = format!("{} of {}", row.tokens.len(), options.max_tokens);
        [
            row.job.id.to_string(),
            row.state().to_owned(),
            priority.to_string(),
            tokens,
            model.display().to_string(),
        ]
    });
    output::table(["job", "state", "priority", "tokens", "model"], cells);
    Ok(())
}

fn show(queue: &JobQueue, id: JobId, json: bool) -> anyhow::Result<()> {
    let row = Row::of(queue, queue.job(id)?)?;
    if json {
        return output::json(&row);
    }
    match &row.job.state {
        State::Done { text, .. } => {
            say!("{text}");
            Ok(())
        }
        State::Failed { reason } => bail!("job {id} failed: {reason}"),
        State::Queued => {
            let tokens = output::counted(row.tokens.len() as u64, "token");
            Err(anyhow::anyhow!("job {id} is not done: {}, {tokens} so far", row.state()))
                .hint(|| "`novaq jobs work <QUEUE>` works on it".to_owned())
        }
    }
}

fn remove(queue: &JobQueue, id: JobId) -> anyhow::Result<()> {
    queue.job(id)?;
    match queue.claim(id)? {
        Some(claim) => queue.remove(&claim),
        None => bail!("job {id} is in work"),
    }
}

/// Works on one job after the other, always on the first in order that nobody else works on.
fn work(queue: &JobQueue) -> anyhow::Result<()> {
    let mut loaded: Option<(PathBuf, LoadedModel)> = None;
    // Jobs whose model can't be loaded now: they stay in the queue.
    let mut unloadable: Vec<(JobId, anyhow::Error)> = Vec::new();
    'jobs: loop {
        for job in queue.jobs()? {
            if job.state != State::Queued || unloadable.iter().any(|(id, _)| *id == job.id) {
                continue;
            }
            let Some(mut claim) = queue.claim(job.id)? else { continue };
            if claim.job.state != State::Queued {
                continue;
            }
            let task = &claim.job.task;
            if loaded.as_ref().is_none_or(|(model, _)| *model != task.model) {
                loaded = None;
                match load(&task.model, &task.model_id) {
                    Ok(model) => loaded = Some((task.model.clone(), model)),
                    Err(error) => {
                        output::report(&error);
                        unloadable.push((job.id, error));
                    }
                }
            }
            if let Some((_, model)) = &loaded {
                work_on(queue, &mut claim, model)?;
            }
            // A job of a higher priority may have come.
            continue 'jobs;
        }
        break;
    }
    match unloadable.len() as u64 {
        0 => Ok(()),
        count => bail!("{} left in the queue", output::counted(count, "job")),
    }
}

/// Loads the model that a job was added for.
fn load(model: &Path, model_id: &str) -> anyhow::Result<LoadedModel> {
    let artifact = ArtifactDir::open(model)?;
    let found = hex::encode(artifact.model_id());
    if found != model_id {
        return Err(anyhow::anyhow!("`{}` holds another model: {found}, not {model_id}", model.display()))
            .hint(|| "remove the job and add it again".to_owned());
    }
    let spinner = output::spinner("Loading");
    let loaded = artifact.load();
    spinner.finish_and_clear();
    loaded
}

/// Generates what is left of a job.
fn work_on(queue: &JobQueue, claim: &mut Claim, loaded: &LoadedModel) -> anyhow::Result<()> {
    let Job { id, ref task, .. } = claim.job;
    let begun = queue.tokens(id)?;
    let prompt = task.input.encode(loaded);
    let text = prompt.and_then(|prompt| task.options.begin(loaded, prompt, &begun));
    let end = match text {
        Ok(mut text) => {
            generate(queue, claim, loaded, &mut text).with_context(|| format!("job {id}"))?;
            text.finished().map(|reason| (text, reason)).context("the text has not ended")
        }
        Err(error) => Err(error),
    };
    match end {
        Ok((text, reason)) => {
            let tokens = output::counted(text.generated().len() as u64, "token");
            let state = State::Done {
                prompt_tokens: text.generation().request().prompt.clone(),
                text: text.text().to_owned(),
                finish_reason: reason_name(reason).to_owned(),
            };
            queue.set_state(claim, state)?;
            say!("Job {id}: {tokens}, ended by {}", ended_by(reason));
        }
        Err(error) => {
            let reason = error.chain().map(ToString::to_string).collect::<Vec<_>>().join(": ");
            say!("Job {id}: failed: {reason}");
            queue.set_state(claim, State::Failed { reason })?;
        }
    }
    Ok(())
}

/// Generates to the end; every token is in its file before the next one is computed.
fn generate(
    queue: &JobQueue,
    claim: &Claim,
    loaded: &LoadedModel,
    text: &mut TextGeneration,
) -> anyhow::Result<()> {
    let mut file = queue.append(claim, text.generated().len())?;
    while text.finished().is_none() {
        if let TextEvent::Token(token, _) = text.advance(loaded, &mut Budget::unlimited())? {
            file.push(token)?;
        }
    }
    Ok(())
}
