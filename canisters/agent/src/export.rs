//! Everything that an agent remembers, as lines of JSON.

use serde::Serialize;
use shared_types::agent::AgentError;
use shared_types::agent::memory::{
    ExportCursor, ExportMemoryArgs, ExportedMemory, GetConversationArgs, ListConversationsArgs, ListFactsArgs,
};
use shared_types::paging::MAX_PAGE;

use crate::state::State;

/// A line, with its kind in front.
#[derive(Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
enum Line<T> {
    Profile(T),
    Fact(T),
    Conversation(T),
    Turn(T),
}

/// The page after the cursor: first the profile and the facts, then one conversation after the other, each before its turns.
///
/// # Errors
/// [`AgentError::UnknownConversation`] when the conversation was forgotten meanwhile.
pub fn page(state: &State, args: &ExportMemoryArgs) -> Result<ExportedMemory, AgentError> {
    let mut lines = String::new();
    let next = match &args.after {
        None => {
            push(&mut lines, Line::Profile(&state.character().profile));
            facts(state, None, &mut lines)
        }
        Some(ExportCursor::Facts(after)) => facts(state, Some(*after), &mut lines),
        Some(ExportCursor::Turns(name, after)) => turns(state, name, Some(*after), &mut lines)?,
    };
    // What comes next may be the beginning of another part.
    let next = match next {
        Part::More(cursor) => Some(cursor),
        Part::NextConversation(after) => {
            let args = ListConversationsArgs { after, limit: 1 };
            match state.conversations.list(&args).conversations.pop() {
                None => None,
                Some(conversation) => {
                    let name = conversation.name.clone();
                    push(&mut lines, Line::Conversation(conversation));
                    match turns(state, &name, None, &mut lines)? {
                        Part::More(cursor) => Some(cursor),
                        // The cursor after its last turn leads to the next conversation.
                        Part::NextConversation(_) => Some(ExportCursor::Turns(name, u32::MAX)),
                    }
                }
            }
        }
    };
    Ok(ExportedMemory { lines, next })
}

enum Part {
    More(ExportCursor),
    NextConversation(Option<String>),
}

fn facts(state: &State, after: Option<u64>, lines: &mut String) -> Part {
    let page = state.facts.list(&ListFactsArgs { after, limit: MAX_PAGE });
    for fact in page.facts {
        push(lines, Line::Fact(fact));
    }
    page.next.map_or(Part::NextConversation(None), |next| Part::More(ExportCursor::Facts(next)))
}

fn turns(state: &State, name: &str, after: Option<u32>, lines: &mut String) -> Result<Part, AgentError> {
    let args = GetConversationArgs { name: name.to_owned(), after, limit: MAX_PAGE };
    let page = state.conversations.turns(&args)?;
    for turn in page.turns {
        push(lines, Line::Turn(turn));
    }
    Ok(match page.next {
        Some(next) => Part::More(ExportCursor::Turns(name.to_owned(), next)),
        None => Part::NextConversation(Some(name.to_owned())),
    })
}

fn push<T: Serialize>(lines: &mut String, line: Line<T>) {
    lines.push_str(&serde_json::to_string(&line).expect("a record of plain data is always encodable"));
    lines.push('\n');
}
