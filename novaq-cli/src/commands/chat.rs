//! `novaq chat`: a conversation with a compressed model.

use std::future::{Future, poll_fn};
use std::io::{self, BufRead, IsTerminal};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, mpsc};
use std::task::Poll;

use anyhow::{Context, bail};
use clap::Args as ClapArgs;
use novaq_engine::artifact::LoadedModel;
use novaq_engine::chat::{ChatTemplate, Message, Role};
use novaq_engine::model::Budget;
use novaq_engine::text::{TextEvent, TextGeneration};
use tokio::signal::ctrl_c;

use crate::artifact_dir::ArtifactDir;
use crate::compress::write_whole;
use crate::generation::{Options, template_hint};
use crate::output;
use crate::say;

/// Talk with a model that has a chat template, offline. Each line of standard input is a message; `/help` lists commands.
///
/// Ctrl-C ends the answer, not the conversation. When the conversation leaves less than a quarter of the context for the answer,
/// its oldest turns are left out; the system prompt stays.
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The artifact's folder.
    #[arg(value_name = "DIR")]
    artifact: PathBuf,

    /// Tell the model how to answer.
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    #[command(flatten)]
    options: Options,
}

const HELP: &str = "\
/reset      begin anew; the system prompt stays
/save FILE  write the conversation to FILE, for `novaq run --messages FILE`
/quit       end the conversation, as Ctrl-D does
//TEXT      a message that begins with a slash";

/// Whether an answer is under way, and whether Ctrl-C was pressed in it.
#[derive(Clone)]
struct Answering(Arc<AtomicU8>);

impl Answering {
    const NO: u8 = 0;
    const YES: u8 = 1;
    const INTERRUPTED: u8 = 2;

    /// Listens for Ctrl-C, from the moment that this returns.
    fn listen() -> anyhow::Result<Self> {
        let answering = Self(Arc::new(AtomicU8::new(Self::NO)));
        let listening = answering.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (listens, from_now_on) = mpsc::channel();
        std::thread::spawn(move || {
            runtime.block_on(async {
                let mut pressed = pin!(ctrl_c());
                // Waiting for it for the first time is what takes the signal from the system.
                let mut early =
                    poll_fn(|context| Poll::Ready(pressed.as_mut().poll(context).is_ready())).await;
                // The other side waits for this message.
                let _ = listens.send(());
                while early || pressed.as_mut().await.is_ok() {
                    early = false;
                    listening.pressed();
                    pressed.set(ctrl_c());
                }
            });
        });
        from_now_on.recv().context("Ctrl-C can't be listened for")?;
        Ok(answering)
    }

    fn pressed(&self) {
        let exchanged =
            self.0.compare_exchange(Self::YES, Self::INTERRUPTED, Ordering::Relaxed, Ordering::Relaxed);
        if exchanged == Err(Self::NO) {
            eprintln!("\n`/quit` or Ctrl-D ends the conversation");
        }
    }

    fn set(&self, state: u8) {
        self.0.store(state, Ordering::Relaxed);
    }

    fn interrupted(&self) -> bool {
        self.0.load(Ordering::Relaxed) == Self::INTERRUPTED
    }
}

/// A conversation, of which the oldest turns may be out of the model's sight.
struct Conversation {
    system: Option<Message>,
    messages: Vec<Message>,
    /// Messages at the beginning that are left out.
    left_out: usize,
    /// The last answer: what it has computed of the conversation is not computed again.
    last: Option<TextGeneration>,
}

impl Conversation {
    fn all(&self) -> Vec<Message> {
        self.system.iter().chain(&self.messages).cloned().collect()
    }

    /// The prompt's tokens, after leaving out as many of the oldest turns as it takes to have `room` tokens left of
    /// the context; how many messages that are.
    fn encode(
        &mut self,
        template: &ChatTemplate,
        loaded: &LoadedModel,
        room: usize,
    ) -> anyhow::Result<(Vec<u32>, usize)> {
        let context = loaded.model.config().max_position_embeddings;
        let mut left_out = self.left_out;
        loop {
            let seen: Vec<Message> = self.system.iter().chain(&self.messages[left_out..]).cloned().collect();
            let prompt = template.encode(&loaded.tokenizer, &seen)?;
            // A turn begins with what the person says.
            let mut rest = self.messages.iter().enumerate().skip(left_out + 1);
            match rest.find(|(_, message)| message.role == Role::User) {
                Some((next, _)) if prompt.len() + room > context => left_out = next,
                _ if prompt.len() >= context => {
                    let system = if self.system.is_some() { " with the system prompt" } else { "" };
                    bail!("the message{system} has {} tokens, the context holds {context}", prompt.len());
                }
                _ => {
                    let more = left_out - self.left_out;
                    self.left_out = left_out;
                    return Ok((prompt, more));
                }
            }
        }
    }
}

/// Runs the command.
///
/// # Errors
/// If the artifact is damaged, the model has no chat template, or an option does not fit it.
pub fn run(args: &Args) -> anyhow::Result<()> {
    args.options.validate()?;
    let artifact = ArtifactDir::open(&args.artifact)?;
    args.options.validate_for(artifact.manifest())?;
    let spinner = output::spinner("Loading");
    let loaded = artifact.load()?;
    spinner.finish_and_clear();
    let template = template_hint(ChatTemplate::of(&loaded))?;
    let answering = Answering::listen()?;
    let system = args.system.clone().map(|content| Message { role: Role::System, content });
    let mut conversation = Conversation { system, messages: Vec::new(), left_out: 0, last: None };

    let mut input = io::stdin().lock();
    let terminal = input.is_terminal();
    if terminal {
        eprintln!("{}: `/help` lists commands", artifact.manifest().name);
    }
    loop {
        if terminal {
            eprint!("> ");
        }
        let mut line = String::new();
        if input.read_line(&mut line)? == 0 {
            return Ok(());
        }
        let line = line.trim();
        let content = match line.split_once(char::is_whitespace).unwrap_or((line, "")) {
            ("", _) => continue,
            ("/quit", "") => return Ok(()),
            ("/help", "") => {
                eprintln!("{HELP}");
                continue;
            }
            ("/reset", "") => {
                conversation.messages.clear();
                conversation.left_out = 0;
                continue;
            }
            ("/save", file) if !file.trim().is_empty() => {
                match save(Path::new(file.trim()), &conversation) {
                    Ok(()) => eprintln!("Saved: `{}`", file.trim()),
                    Err(error) => output::report(&error),
                }
                continue;
            }
            (command, _) if command.starts_with('/') && !command.starts_with("//") => {
                eprintln!("there is no command `{line}`; `/help` lists them");
                continue;
            }
            _ => line.strip_prefix('/').unwrap_or(line),
        };
        conversation.messages.push(Message { role: Role::User, content: content.to_owned() });
        answering.set(Answering::YES);
        let answer = answer(args, &template, &loaded, &mut conversation, &answering);
        answering.set(Answering::NO);
        match answer {
            Ok(content) => conversation.messages.push(Message { role: Role::Assistant, content }),
            // What can't be answered is not part of the conversation.
            Err(error) => {
                conversation.messages.pop();
                output::report(&error);
            }
        }
    }
}

/// Prints the answer to the last message, and returns it.
fn answer(
    args: &Args,
    template: &ChatTemplate,
    loaded: &LoadedModel,
    conversation: &mut Conversation,
    answering: &Answering,
) -> anyhow::Result<String> {
    let room = args.options.max_tokens.min(loaded.model.config().max_position_embeddings / 4);
    let (prompt, left_out) = conversation.encode(template, loaded, room)?;
    if left_out > 0 {
        let messages = output::counted(left_out as u64, "message");
        eprintln!("The context is full: {messages} more at the beginning left out");
    }
    let mut text = args.options.begin(loaded, prompt, &[])?;
    if let Some(last) = conversation.last.take() {
        text.reuse(&last)?;
    }
    // A layer at a time, so that Ctrl-C is heard in a long prompt too.
    while text.finished().is_none() && !answering.interrupted() {
        if let TextEvent::Token(_, piece) = text.advance(loaded, &mut Budget::new(1))? {
            output::print(format_args!("{piece}"));
        }
    }
    say!("");
    let answer = text.text().to_owned();
    conversation.last = Some(text);
    Ok(answer)
}

fn save(path: &Path, conversation: &Conversation) -> anyhow::Result<()> {
    let mut json = serde_json::to_vec_pretty(&conversation.all())?;
    json.push(b'\n');
    write_whole(path, &json)
}
