//! How near an instruction is to roles in meaning, as an encoder on chain says: asked where no word of the instruction names a role.
//!
//! What comes of it is an order of the answers to choose from, never an answer: of the labelled instructions that ask for a role, the
//! nearest one is right for four of five, while one that asks for none can be nearer to a role than most that do.

use std::cell::Cell;
use std::collections::BTreeMap;

use candid::Principal;
use shared_types::agent::{Embeddings, MAX_EMBED_TEXTS};
use shared_types::coordinator::{Analysis, QuestionTopic, RoleScore, RoleTemplate};
use shared_types::{Digest, ModelId};

use crate::{analysis, platform, roles, state};

/// Signals of a role from this weight on say what it does.
const TELLING_WEIGHT: u32 = 4;

/// Names that a role's text begins with.
const NAMES: usize = 6;

/// Roles that are named as near.
const NEAREST: usize = 3;

/// Vectors of roles that are kept in the heap; with more they are all forgotten.
const MAX_VECTORS: usize = 1_024;

/// Instructions for which a model is asked at the same time: others are left to the rules.
const MAX_ASKING: u32 = 4;

/// Answers of the encoder that one instruction waits for: it embeds as many texts as fit its message.
const MAX_ANSWERS: u32 = 8;

thread_local! {
    static ASKING: Cell<u32> = const { Cell::new(0) };
}

/// The right to ask; given back on drop, also when the message that takes the answer traps.
pub(crate) struct Asking;

impl Asking {
    pub(crate) fn begin() -> Option<Self> {
        let asking = ASKING.get();
        (asking < MAX_ASKING).then(|| {
            ASKING.set(asking + 1);
            Self
        })
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        ASKING.set(ASKING.get().saturating_sub(1));
    }
}

/// How near a role is.
#[derive(Clone, Debug, PartialEq)]
pub struct Nearness {
    /// The role.
    pub role: String,
    /// Cosine with the instruction.
    pub cosine: f32,
}

/// Vectors of roles' texts, as one model gives them.
#[derive(Default)]
pub struct Vectors {
    model: Option<ModelId>,
    by_text: BTreeMap<Digest, Vec<f32>>,
}

impl Vectors {
    fn knows(&self, text: &str) -> bool {
        self.by_text.contains_key(&Digest::of(text.as_bytes()))
    }

    /// Keeps a vector; those of another model, or too many, are forgotten.
    fn keep(&mut self, model: ModelId, text: &str, vector: Vec<f32>) {
        if self.model != Some(model) || self.by_text.len() >= MAX_VECTORS {
            *self = Self { model: Some(model), by_text: BTreeMap::new() };
        }
        self.by_text.insert(Digest::of(text.as_bytes()), vector);
    }

    /// [`nearest`] among the roles whose vectors `model` has given.
    fn nearest(&self, model: ModelId, vector: &[f32], roles: &[(String, String)]) -> Vec<Nearness> {
        let known = roles
            .iter()
            .filter(|_| self.model == Some(model))
            .filter_map(|(role, text)| Some((role, &self.by_text.get(&Digest::of(text.as_bytes()))?[..])));
        nearest(vector, known)
    }
}

/// Roles with their vectors, by their nearness to a vector, the nearest first; those of another length or of none are left out.
pub fn nearest<'a>(vector: &[f32], roles: impl Iterator<Item = (&'a String, &'a [f32])>) -> Vec<Nearness> {
    let mut near: Vec<Nearness> = roles
        .filter_map(|(role, known)| Some(Nearness { role: role.clone(), cosine: cosine(vector, known)? }))
        .collect();
    near.sort_by(|a, b| b.cosine.total_cmp(&a.cosine).then_with(|| a.role.cmp(&b.role)));
    near
}

/// The cosine of two vectors of the same length that are not zero.
fn cosine(a: &[f32], b: &[f32]) -> Option<f32> {
    let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
    let lengths = (dot(a, a) * dot(b, b)).sqrt();
    (a.len() == b.len() && lengths > 0.0).then(|| dot(a, b) / lengths)
}

/// What is embedded for a role: its names, and what speaks most for it.
pub fn text_of(role: &RoleTemplate) -> String {
    let names: Vec<&str> = role.names.iter().take(NAMES).map(String::as_str).collect();
    let telling = role.signals.iter().filter(|signal| signal.weight >= TELLING_WEIGHT);
    let signals: Vec<&str> = telling.map(|signal| signal.text.as_str()).collect();
    format!("{}: {}. {}", role.name, names.join(", "), signals.join(", "))
}

/// The roles by their nearness to an instruction that no rule finds a role in; none without an encoder, or when it does not answer.
/// Nothing is lost with these calls: they change nothing.
pub async fn of(owner: Principal, instruction: &str) -> Vec<Nearness> {
    let Some((encoder, roles)) = state::read(|state| {
        let config = &state.settings().config;
        let encoder = config.encoder?;
        state.store.read(owner, |workspace| {
            let found = analysis::analyse(instruction, &workspace.roles, config.max_agents);
            let texts =
                roles::of(&workspace.roles).into_iter().map(|role| (role.name.clone(), text_of(role)));
            found.clauses.is_empty().then(|| (encoder, texts.collect::<Vec<_>>()))
        })
    }) else {
        return Vec::new();
    };
    let Some(_asking) = Asking::begin() else { return Vec::new() };
    let unknown = |state: &state::State| {
        let texts = roles.iter().map(|(_, text)| text).filter(|text| !state.vectors.knows(text));
        texts.take(MAX_EMBED_TEXTS - 1).cloned().collect::<Vec<String>>()
    };
    for _ in 0..MAX_ANSWERS {
        let mut texts = vec![instruction.to_owned()];
        texts.extend(state::read(unknown));
        let Ok(Ok(Embeddings { model_id, embeddings, .. })) = platform::embed(encoder, &texts).await else {
            return Vec::new();
        };
        let mut vectors = embeddings.into_iter().map(|embedding| embedding.vector);
        let Some(vector) = vectors.next() else { return Vec::new() };
        let near = state::mutate(|state| {
            for (text, vector) in texts[1..].iter().zip(vectors) {
                state.vectors.keep(model_id, text, vector);
            }
            unknown(state).is_empty().then(|| state.vectors.nearest(model_id, &vector, &roles))
        });
        if let Some(near) = near {
            return near;
        }
    }
    Vec::new()
}

/// Puts the nearest roles first among the answers to the question which role is meant, and says how near they are.
pub fn suggest(analysis: &mut Analysis, near: &[Nearness]) {
    let Some(question) = analysis.questions.iter_mut().find(|it| it.topic == QuestionTopic::Role) else {
        return;
    };
    let place = |role: &String| near.iter().position(|it| it.role == *role).unwrap_or(near.len());
    question.options.sort_by_key(place);
    for Nearness { role, cosine } in near.iter().take(NEAREST) {
        let reason = format!("near in meaning: {cosine:.2}");
        match analysis.roles.iter_mut().find(|it| it.role == *role) {
            Some(known) => known.reasons.push(reason),
            None => analysis.roles.push(RoleScore {
                role: role.clone(),
                score: 0,
                taken: false,
                reasons: vec![reason],
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_roles_are_the_first_answers() {
        let own = BTreeMap::new();
        let roles: Vec<(String, String)> =
            roles::of(&own).into_iter().map(|role| (role.name.clone(), text_of(role))).collect();
        let mut vectors = Vectors::default();
        let model = Digest::of(b"a model");
        for (at, (_, text)) in roles.iter().enumerate() {
            assert!(!vectors.knows(text));
            let angle = at as f32 * 0.2;
            vectors.keep(model, text, vec![angle.cos(), angle.sin()]);
        }
        let near = vectors.nearest(model, &[0.0, 2.0], &roles);
        assert_eq!(near.len(), roles.len());
        assert_eq!(near[0].role, roles[8].0, "1.6 is nearest to a right angle");
        assert!(near.is_sorted_by(|a, b| a.cosine >= b.cosine));
        assert_eq!(vectors.nearest(Digest::of(b"another"), &[0.0, 2.0], &roles), []);
        assert_eq!(vectors.nearest(model, &[0.0, 2.0, 0.0], &roles), [], "of another length");

        let mut unclear = analysis::analyse("Something with the thing", &own, 10);
        suggest(&mut unclear, &near);
        let nearest: Vec<&String> = near.iter().map(|it| &it.role).collect();
        assert_eq!(unclear.questions[0].options.iter().collect::<Vec<_>>(), nearest);
        assert_eq!(unclear.roles[0].reasons, [format!("near in meaning: {:.2}", near[0].cosine)]);
        assert!(unclear.roles.iter().all(|it| !it.taken));

        let clear = analysis::analyse("Create a developer", &own, 10);
        let mut suggested = clear.clone();
        suggest(&mut suggested, &near);
        assert_eq!(suggested, clear, "what the rules find stays");
    }

    #[test]
    fn vectors_are_bounded_and_of_one_model() {
        let mut vectors = Vectors::default();
        for n in 0..3 * MAX_VECTORS {
            vectors.keep(Digest::of(b"a model"), &format!("text {n}"), vec![1.0]);
            assert!(vectors.by_text.len() <= MAX_VECTORS);
        }
        vectors.keep(Digest::of(b"another"), "text", vec![1.0]);
        assert_eq!(vectors.by_text.len(), 1);
    }
}
