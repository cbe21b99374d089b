use super::*;
use serde::Deserialize;
use std::collections::BTreeSet;

/// An instruction and what a person says that it asks for.
#[derive(Deserialize)]
struct Labelled {
    text: String,
    /// The roles; none where the coordinator has to ask.
    roles: BTreeSet<String>,
    #[serde(default)]
    agents: Option<u64>,
    #[serde(default)]
    tasks: Option<usize>,
}

fn read(lines: &str) -> Vec<Labelled> {
    lines.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{line}: {e}"))).collect()
}

fn tuning() -> Vec<Labelled> {
    read(include_str!("../instructions/tuning.jsonl"))
}

/// Written before the rules, which were never changed to fit them.
fn held_out() -> Vec<Labelled> {
    read(include_str!("../instructions/held-out.jsonl"))
}

fn found(analysis: &Analysis) -> BTreeSet<String> {
    if analysis.questions.is_empty() {
        analysis.clauses.iter().map(|clause| clause.role.clone()).collect()
    } else {
        BTreeSet::new()
    }
}

/// How many of the role sets are right, in thousandths; calls `wrong` with the others.
fn score(set: &[Labelled], wrong: impl Fn(&Labelled, &Analysis)) -> usize {
    let right = set.iter().filter(|labelled| {
        let analysis = analyse(&labelled.text, &BTreeMap::new(), 100);
        let right = found(&analysis) == labelled.roles;
        if !right {
            wrong(labelled, &analysis);
        }
        right
    });
    right.count() * 1_000 / set.len()
}

#[test]
fn role_sets_of_the_labelled_instructions() {
    let (tuning, held_out) = (tuning(), held_out());
    assert!(tuning.len() + held_out.len() >= 120 && held_out.len() >= 30);
    let known: BTreeSet<&str> = tuning.iter().map(|labelled| labelled.text.as_str()).collect();
    assert!(held_out.iter().all(|labelled| !known.contains(labelled.text.as_str())));
    let tuned = score(&tuning, |labelled, analysis| {
        println!("{}: {:?}, not {:?}", labelled.text, found(analysis), labelled.roles);
    });
    // What is wrong there is not shown: the rules must not be changed to fit it.
    let kept_apart = score(&held_out, |_, _| {});
    println!(
        "right: {tuned} ‰ of {} tuned on, {kept_apart} ‰ of {} kept apart",
        tuning.len(),
        held_out.len()
    );
    assert!(tuned >= 900, "{tuned} ‰");
    assert!(kept_apart >= 900, "{kept_apart} ‰");
}

#[test]
fn agents_and_tasks_are_counted() {
    let (mut right, mut all) = (0, 0);
    for labelled in tuning() {
        let analysis = analyse(&labelled.text, &BTreeMap::new(), 100);
        let work = analysis.clauses.iter().filter(|clause| clause.is_work).count();
        let agents = planned_agents(&analysis.clauses);
        let checks = [labelled.agents.map(|it| it == agents), labelled.tasks.map(|it| it == work)];
        for is_right in checks.into_iter().flatten() {
            (right, all) = (right + usize::from(is_right), all + 1);
            if !is_right {
                println!("{}: {agents} agents, {work} tasks: {:?}", labelled.text, analysis.clauses);
            }
        }
    }
    println!("right: {right} of {all} numbers of agents and tasks");
    assert!(right * 10 >= all * 9, "{right} of {all}");
}

fn order_of(text: &str) -> Vec<(String, Vec<u32>)> {
    let analysis = analyse(text, &BTreeMap::new(), 100);
    analysis.clauses.into_iter().map(|clause| (clause.role, clause.after)).collect()
}

#[test]
fn words_of_order_are_followed() {
    let pairs = |expected: &[(&str, &[u32])]| -> Vec<(String, Vec<u32>)> {
        expected.iter().map(|(role, after)| ((*role).to_owned(), after.to_vec())).collect()
    };
    assert_eq!(
        order_of("Write a tale, then review it, then title it"),
        pairs(&[("writer", &[]), ("reviewer", &[0]), ("writer", &[0, 1])])
    );
    assert_eq!(
        order_of("After researching volcanoes, write a tale"),
        pairs(&[("researcher", &[]), ("writer", &[0])])
    );
    assert_eq!(
        order_of("Write a tale after you research it"),
        pairs(&[("writer", &[1]), ("researcher", &[])])
    );
    assert_eq!(order_of("A tester and a developer"), pairs(&[("tester", &[1]), ("developer", &[])]));
}

#[test]
fn questions_instead_of_guesses() {
    let topic = |text: &str| {
        let analysis = analyse(text, &BTreeMap::new(), 10);
        analysis.questions.first().map(|question| question.topic)
    };
    assert_eq!(topic("Create agents"), Some(QuestionTopic::Role));
    assert_eq!(topic("Create 500 developers"), Some(QuestionTopic::Count));
    assert_eq!(topic("Two agents: three developers and two testers"), Some(QuestionTopic::Count));
    assert_eq!(topic("Create three developers"), None);
    assert_eq!(topic(""), Some(QuestionTopic::Role));
}

#[test]
fn an_own_role_is_found_by_its_words() {
    let baker = RoleTemplate {
        name: "baker".to_owned(),
        names: vec!["baker".to_owned()],
        signals: Vec::new(),
        capabilities: Vec::new(),
        follows: vec!["planner".to_owned()],
        instructions: "You bake.".to_owned(),
        max_tokens: 10,
    };
    let own = BTreeMap::from([(baker.name.clone(), baker)]);
    assert!(found(&analyse("Two bakers and a planner", &own, 10)).contains("baker"));
    assert!(!found(&analyse("Two bakers and a planner", &BTreeMap::new(), 10)).contains("baker"));
}

#[test]
fn reasons_are_given() {
    let analysis = analyse("Create Python coding agents", &BTreeMap::new(), 100);
    assert_eq!(analysis.intent, Intent::Create);
    assert_eq!(analysis.capabilities, ["language:python"]);
    assert!(analysis.roles[0].taken && !analysis.roles[0].reasons.is_empty(), "{:?}", analysis.roles);
}

proptest::proptest! {
    /// Whatever is said, it is answered.
    #[test]
    fn no_instruction_stops_the_rules(text in "[ a-z,.;:!?'é0-9-]{0,200}|\\PC{0,80}") {
        let analysis = analyse(&text, &BTreeMap::new(), 10);
        let clear = analysis.questions.is_empty();
        proptest::prop_assert!(clear != analysis.clauses.is_empty() || !analysis.questions.is_empty());
        for (at, clause) in analysis.clauses.iter().enumerate() {
            proptest::prop_assert!(clause.after.iter().all(|before| (*before as usize) != at));
        }
    }
}
