//! What an agent is told.

use std::fmt::Write as _;

use crate::text;

/// The prompt of a task for a model that goes on with a text: the role, the task with its artifacts, and where the answer begins.
pub fn compose(instructions: &str, task: &str, inputs: &[(String, String)], input_bytes: usize) -> String {
    format!("{instructions}\n\nTask: {}\nAnswer:\n", request(task, inputs, input_bytes))
}

/// The task, and the artifacts that it takes, which share `input_bytes`.
pub fn request(task: &str, inputs: &[(String, String)], input_bytes: usize) -> String {
    let mut prompt = format!("{task}\n");
    let mut left = input_bytes;
    for (at, (title, artifact)) in inputs.iter().enumerate() {
        let share = left / (inputs.len() - at);
        let shown = text::beginning(artifact, share);
        left -= shown.len();
        if shown.is_empty() {
            continue;
        }
        let cut = if shown.len() < artifact.len() { " […]" } else { "" };
        let _ = write!(prompt, "\n{title}:\n{shown}{cut}\n");
    }
    prompt
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn artifacts_share_what_there_is(texts in prop::collection::vec("[a-zé]{0,40}", 0..5), bytes in 0usize..120) {
            let inputs: Vec<(String, String)> = texts.iter().map(|it| ("T".to_owned(), it.clone())).collect();
            let prompt = compose("You.", "Do.", &inputs, bytes);
            let given: usize = prompt.len() - compose("You.", "Do.", &[], 0).len();
            let framing = inputs.len() * "\nT:\n […]\n".len();
            prop_assert!(given <= bytes + framing);
            let whole: usize = texts.iter().map(String::len).sum();
            if whole <= bytes / texts.len().max(1) {
                prop_assert!(texts.iter().all(|it| prompt.contains(it.as_str())));
            }
        }
    }
}
