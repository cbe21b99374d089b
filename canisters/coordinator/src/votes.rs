//! Votes over the answers of several agents.

use std::collections::BTreeMap;

use shared_types::Digest;
use shared_types::coordinator::{Ballot, NoQuorum, TaskId, Verdict, VoteOutcome, VoteRule};

/// The form in which answers are compared. JSON loses its white space and has its keys in order; other text loses case, white space at its
/// ends, repeated white space, and marks at its end.
pub fn canonical(answer: &str) -> String {
    let trimmed = answer.trim();
    if trimmed.starts_with(['{', '[', '"'])
        && let Ok(value) = serde_json::from_str::<serde_json::Value>(trimmed)
    {
        return value.to_string();
    }
    let words: Vec<String> = trimmed.split_whitespace().map(str::to_lowercase).collect();
    words.join(" ").trim_end_matches(['.', '!', '?', ',', ';', ':', ' ']).to_owned()
}

/// Decides a vote: `ballots` are the answers by task, `waiting` the voters that may still answer. `None`: not decided yet.
pub fn decide(
    rule: &VoteRule,
    ballots: &[(TaskId, Digest)],
    waiting: u32,
    timed_out: bool,
) -> Option<Verdict> {
    let mut by_answer: BTreeMap<Digest, Vec<TaskId>> = BTreeMap::new();
    for (task, answer) in ballots {
        by_answer.entry(*answer).or_default().push(*task);
    }
    // Most votes; of several, the one whose first voter comes first.
    let best = by_answer.values().max_by_key(|tasks| (tasks.len(), std::cmp::Reverse(tasks.iter().min())));
    let votes = best.map_or(0, |tasks| tasks.len() as u32);
    let winner = best.and_then(|tasks| tasks.iter().min().copied());
    let outcome = if votes >= rule.quorum && votes > 0 {
        VoteOutcome::Quorum
    } else if waiting > 0 && !timed_out {
        return None;
    } else if votes == 0 {
        VoteOutcome::NoBallot
    } else {
        match rule.no_quorum {
            NoQuorum::Plurality => VoteOutcome::Plurality,
            NoQuorum::Fail => VoteOutcome::NoQuorum,
        }
    };
    let taken = matches!(outcome, VoteOutcome::Quorum | VoteOutcome::Plurality);
    let ballot = |(task, answer): &(TaskId, Digest)| Ballot { task: *task, canonical_sha256: *answer };
    Some(Verdict {
        outcome,
        timed_out: timed_out && waiting > 0,
        ballots: ballots.iter().map(ballot).collect(),
        votes,
        winner: winner.filter(|_| taken),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn forms_that_mean_the_same_are_equal() {
        assert_eq!(canonical("  Yes.\n"), canonical("yes"));
        assert_eq!(canonical("{\"b\": 1, \"a\": [2]}"), canonical("{ \"a\":[2],\"b\":1 }"));
        assert_ne!(canonical("yes"), canonical("no"));
        assert_eq!(canonical("{ not json }"), "{ not json }");
    }

    proptest! {
        /// Against counting by hand; the order in which ballots come changes nothing.
        #[test]
        fn the_answer_with_a_quorum_wins(
            answers in prop::collection::vec(0u8..3, 0..7),
            quorum in 1u32..5,
            plurality in any::<bool>(),
            waiting in 0u32..3,
            timed_out in any::<bool>(),
        ) {
            let no_quorum = if plurality { NoQuorum::Plurality } else { NoQuorum::Fail };
            let rule = VoteRule { quorum, timeout_ns: None, no_quorum };
            let ballots: Vec<(TaskId, Digest)> =
                answers.iter().enumerate().map(|(at, answer)| (at as u32 + 1, Digest::of(&[*answer]))).collect();
            let verdict = decide(&rule, &ballots, waiting, timed_out);
            let mut reversed = ballots.clone();
            reversed.reverse();
            let other = decide(&rule, &reversed, waiting, timed_out);
            prop_assert_eq!(verdict.as_ref().map(|v| (v.winner, v.votes)), other.as_ref().map(|v| (v.winner, v.votes)));

            let count = |answer: u8| answers.iter().map(|it| u32::from(*it == answer)).sum::<u32>();
            let most = (0..3).map(count).max().unwrap_or(0);
            match verdict {
                None => prop_assert!(most < quorum && waiting > 0 && !timed_out),
                Some(verdict) => {
                    prop_assert_eq!(verdict.votes, most);
                    prop_assert_eq!(verdict.outcome == VoteOutcome::Quorum, most >= quorum && most > 0);
                    let first = (1..=answers.len()).find(|task| count(answers[task - 1]) == most).map(|t| t as u32);
                    let taken = most > 0 && (most >= quorum || plurality);
                    prop_assert_eq!(verdict.winner, first.filter(|_| taken));
                }
            }
        }
    }
}
