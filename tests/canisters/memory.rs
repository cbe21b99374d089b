//! What an agent remembers: conversations, summaries, facts, export, and its phases.

use ohms_tests::artifact::Artifact;
use ohms_tests::network::{Agent, Network, owner};
use ohms_tests::wasm::Canister;
use shared_types::agent::memory::{
    ConverseArgs, ExportMemoryArgs, ExportedMemory, Fact, FoundFacts, GetConversationArgs, NewFact,
    RememberArgs, SearchFactsArgs, SearchMethod, Turn, TurnPage,
};
use shared_types::agent::phase::{AgentOperation, AgentPhase};
use shared_types::agent::profile::{AgentProfile, MemoryPolicy, WhenFull};
use shared_types::agent::{AgentConfig, AgentError, GenerationParams, JobPrompt, LoadState, SubmitJobArgs};

fn converse(network: &Network, agent: &Agent, message: &str) -> Result<Turn, AgentError> {
    let args = ConverseArgs {
        conversation: "tale".to_owned(),
        message: message.to_owned(),
        key: message.to_owned(),
        priority: None,
    };
    network.update(owner(), agent.id, "converse", (args,))
}

fn turns(network: &Network, agent: &Agent) -> TurnPage {
    let args = GetConversationArgs { name: "tale".to_owned(), after: None, limit: 100 };
    let page: Result<TurnPage, AgentError> = network.query(owner(), agent.id, "get_conversation", (args,));
    page.unwrap()
}

/// Says something and waits for the answer.
fn say(network: &Network, agent: &Agent, message: &str) -> Turn {
    let turn = converse(network, agent, message).unwrap();
    assert_eq!(converse(network, agent, message).unwrap().index, turn.index, "said once");
    agent.wait(turn.job_id);
    turns(network, agent).turns.into_iter().find(|it| it.index == turn.index).unwrap()
}

fn remember(network: &Network, agent: &Agent, texts: &[&str]) -> Vec<Fact> {
    let facts = texts.iter().map(|text| NewFact { text: (*text).to_owned(), vector: None }).collect();
    let args = RememberArgs { facts, encoder: None };
    let facts: Result<Vec<Fact>, AgentError> = network.update(owner(), agent.id, "remember", (args,));
    facts.unwrap()
}

fn search(network: &Network, agent: &Agent, text: &str) -> FoundFacts {
    let args = SearchFactsArgs { text: text.to_owned(), vector: None, encoder: None, limit: 3 };
    let found: Result<FoundFacts, AgentError> = network.query(owner(), agent.id, "search_facts", (args,));
    found.unwrap()
}

#[test]
fn a_conversation_is_remembered_summarised_exported_and_erased() {
    let network = Network::new();
    let artifact = Artifact::small();
    let repository = network.repository();
    repository.publish(artifact);
    let agent = network.agent(repository.id, artifact.id, AgentConfig::default());
    let profile = AgentProfile {
        role: "writer".to_owned(),
        instructions: "Tell tales.".to_owned(),
        capabilities: vec!["tales".to_owned()],
        params: Some(GenerationParams { max_tokens: 6, ..GenerationParams::default() }),
        memory: Some(MemoryPolicy {
            context_bytes: Some(160),
            when_full: WhenFull::Summarise,
            recalled_facts: 2,
        }),
    };
    let configured: Result<(), AgentError> =
        network.update(owner(), agent.id, "configure", (profile.clone(),));
    configured.unwrap();
    let fact = remember(&network, &agent, &["The fox is red.", "Crows sing."])[0].id;

    let loading = converse(&network, &agent, "Hello").unwrap_err();
    assert_eq!(loading, AgentError::NotLoaded { load: LoadState::Loading });
    network.wait_for("the load", || (agent.status().load == LoadState::Loaded).then_some(()));
    let first = say(&network, &agent, "Who is the fox?");
    assert_eq!((first.turns_in_prompt, first.facts_in_prompt.as_slice()), (0, &[fact][..]));
    let second = say(&network, &agent, "And then?");
    assert_eq!((second.turns_in_prompt, second.facts_in_prompt.len()), (1, 0));
    let prompt: Result<JobPrompt, AgentError> =
        network.query(owner(), agent.id, "get_prompt", (second.job_id,));
    let prompt = prompt.unwrap();
    let whole = prompt.messages.map_or(prompt.prompt, |messages| {
        messages.into_iter().map(|message| message.content).collect::<Vec<_>>().join("\n")
    });
    for part in ["Tell tales.", "Who is the fox?", first.answer.as_deref().unwrap(), "And then?"] {
        assert!(whole.contains(part), "`{part}` in `{whole}`");
    }

    // More than fits: the model writes a summary, with which later prompts begin.
    for n in 0..6 {
        say(&network, &agent, &format!("Once more, number {n}"));
    }
    let conversation = network.wait_for("the summary", || {
        Some(turns(&network, &agent).conversation).filter(|it| it.summary_job.is_none() && it.summarised > 0)
    });
    assert!(conversation.summary.is_some_and(|summary| !summary.is_empty()));

    // An upgrade changes nothing; the export has it all.
    network.upgrade(agent.id, Canister::Agent);
    let page = turns(&network, &agent);
    assert_eq!((page.turns.len(), page.turns[0].answer.clone()), (8, first.answer));
    let status = agent.status();
    assert_eq!((status.role.as_str(), status.memory.facts, status.memory.conversations), ("writer", 2, 1));
    let (mut lines, mut after) = (String::new(), None);
    loop {
        let exported: Result<ExportedMemory, AgentError> =
            network.query(owner(), agent.id, "export_memory", (ExportMemoryArgs { after },));
        let exported = exported.unwrap();
        lines.push_str(&exported.lines);
        after = exported.next;
        if after.is_none() {
            break;
        }
    }
    let kinds: Vec<String> = lines
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["kind"].as_str().unwrap().to_owned()
        })
        .collect();
    let of = |kind: &str| kinds.iter().filter(|it| *it == kind).count();
    assert_eq!([of("profile"), of("fact"), of("conversation"), of("turn")], [1, 2, 1, 8]);
    let erased: Result<(), AgentError> = network.update(owner(), agent.id, "erase_memory", ());
    erased.unwrap();
    let memory = agent.status().memory;
    assert_eq!((memory.facts, memory.conversations), (0, 0));
}

#[test]
fn facts_are_found_by_meaning_with_an_encoder_and_by_words_without() {
    let network = Network::new();
    let texts = ["The fox is red.", "Crows sing at dawn.", "The tortoise wins the race."];
    let encoder = &Artifact::encoder();
    let decoder = Artifact::small();
    let [decoders, encoders] = [decoder, encoder].map(|artifact| {
        let repository = network.repository();
        repository.publish(artifact);
        repository
    });
    let plain = network.agent(decoders.id, decoder.id, AgentConfig::default());
    remember(&network, &plain, &texts);
    let found = search(&network, &plain, "Who wins a race?");
    assert_eq!((found.method, found.facts[0].fact.text.as_str()), (SearchMethod::Lexical, texts[2]));
    assert!(!found.facts[0].fact.has_vector);

    let encoding = network.agent(encoders.id, encoder.id, AgentConfig::default());
    let load: Result<LoadState, AgentError> = network.update(owner(), encoding.id, "load_model", ());
    load.unwrap();
    network.wait_for("the load", || (encoding.status().load == LoadState::Loaded).then_some(()));
    let facts = remember(&network, &encoding, &texts);
    assert!(facts.iter().all(|fact| fact.has_vector));
    let found = search(&network, &encoding, texts[1]);
    assert_eq!((found.method, found.compared), (SearchMethod::InnerProduct, 3));
    assert_eq!(found.facts[0].fact.text, texts[1], "a text is nearest to itself");
    let forgotten: Result<(), AgentError> =
        network.update(owner(), encoding.id, "forget_fact", (found.facts[0].fact.id,));
    forgotten.unwrap();
    network.upgrade(encoding.id, Canister::Agent);
    assert_eq!(search(&network, &encoding, texts[1]).method, SearchMethod::Lexical, "not in the heap yet");
    assert_eq!(encoding.status().memory.vectors, 2);
}

#[test]
fn an_agent_s_life_goes_from_phase_to_phase() {
    let network = Network::new();
    let artifact = Artifact::small();
    let repository = network.repository();
    repository.publish(artifact);
    let agent = network.agent(repository.id, artifact.id, AgentConfig::default());
    let become_ = |phase: AgentPhase| -> Result<(), AgentError> {
        network.update(owner(), agent.id, "set_phase", (phase,))
    };
    let params = GenerationParams { max_tokens: 2, ..GenerationParams::default() };
    let submit = || {
        let args =
            SubmitJobArgs { prompt: "A fox".to_owned(), params: params.clone(), ..SubmitJobArgs::default() };
        agent.submit_args(args)
    };
    assert_eq!(agent.status().phase, AgentPhase::Active);
    let job = submit().unwrap().job_id;
    become_(AgentPhase::Paused).unwrap();
    let refused = |phase| Err(AgentError::WrongPhase { phase, operation: AgentOperation::Submit });
    assert_eq!(submit(), refused(AgentPhase::Paused));
    (0..20).for_each(|_| network.pic.tick());
    assert!(!agent.progress(job, 0).job.state.is_final(), "its jobs rest");
    let resumed: Result<(), AgentError> = network.update(owner(), agent.id, "resume_queue", ());
    assert!(matches!(resumed, Err(AgentError::WrongPhase { .. })), "{resumed:?}");
    become_(AgentPhase::Deprecated).unwrap();
    assert_eq!(become_(AgentPhase::Archived), Err(AgentError::OpenJobs { jobs: 1 }));
    assert_eq!(agent.wait(job).tokens.len(), 2, "what it has it finishes");
    become_(AgentPhase::Archived).unwrap();
    let back = AgentError::WrongPhase { phase: AgentPhase::Archived, operation: AgentOperation::Advance };
    assert_eq!(become_(AgentPhase::Active), Err(back));
    assert_eq!(agent.progress(job, 0).tokens.len(), 2, "it is read");
}
