//! The roles that instructions can ask for: those that the canister brings, and those that its owner has defined.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use shared_types::coordinator::RoleTemplate;

use crate::text;

const BUILT_IN: [&str; 12] = [
    include_str!("../roles/developer.json"),
    include_str!("../roles/reviewer.json"),
    include_str!("../roles/tester.json"),
    include_str!("../roles/front-end.json"),
    include_str!("../roles/back-end.json"),
    include_str!("../roles/operations.json"),
    include_str!("../roles/lead.json"),
    include_str!("../roles/concierge.json"),
    include_str!("../roles/writer.json"),
    include_str!("../roles/researcher.json"),
    include_str!("../roles/note-taker.json"),
    include_str!("../roles/planner.json"),
];

static ROLES: LazyLock<Vec<RoleTemplate>> = LazyLock::new(|| {
    let parse = |text: &&str| serde_json::from_str(text).expect("a test reads every file of `roles`");
    BUILT_IN.iter().map(parse).collect()
});

static CAPABILITIES: LazyLock<Vec<(String, Vec<Vec<String>>)>> = LazyLock::new(|| {
    let by_tag: BTreeMap<String, Vec<String>> =
        serde_json::from_str(include_str!("../capabilities.json")).expect("a test reads `capabilities.json`");
    let stems = |phrases: Vec<String>| phrases.iter().map(|phrase| text::stems(phrase)).collect();
    by_tag.into_iter().map(|(tag, phrases)| (tag, stems(phrases))).collect()
});

/// The roles that the canister brings.
pub fn built_in() -> &'static [RoleTemplate] {
    &ROLES
}

/// Tags of languages and technologies, each with the phrases that name it, as stems.
pub fn capabilities() -> &'static [(String, Vec<Vec<String>>)] {
    &CAPABILITIES
}

/// All roles of an owner: an own one stands in the place of a built-in one of its name.
pub fn of(own: &BTreeMap<String, RoleTemplate>) -> Vec<&RoleTemplate> {
    let rest = built_in().iter().filter(|role| !own.contains_key(&role.name));
    rest.chain(own.values()).collect()
}

/// A role of an owner.
pub fn find<'a>(own: &'a BTreeMap<String, RoleTemplate>, name: &str) -> Option<&'a RoleTemplate> {
    own.get(name).or_else(|| built_in().iter().find(|role| role.name == name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_data_files_are_valid() {
        for role in built_in() {
            role.validate().unwrap_or_else(|error| panic!("{}: {error}", role.name));
            for followed in &role.follows {
                assert!(find(&BTreeMap::new(), followed).is_some(), "{} follows {followed}", role.name);
            }
        }
        assert!(capabilities().len() > 20);
    }
}
