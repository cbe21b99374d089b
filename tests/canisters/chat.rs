//! Conversations, and every parameter of a job: what the agent answers is what the engine answers natively.

use novaq_engine::chat::Message;
use novaq_engine::model::Budget;
use novaq_engine::text::TextGeneration;
use ohms_tests::artifact::Artifact;
use ohms_tests::network::Network;
use shared_types::agent::{
    AgentConfig, AgentError, ChatMessage, ChatRole, FinishReason, GenerationParams, JobFailure, JobState,
    LogitBias, SubmitJobArgs,
};

const TEMPLATE: &str = "<|endoftext|>{% for m in messages %}{% if m.role == 'tool' %}\
    {{ raise_exception('there are no tools') }}{% endif %}{{ m.role }}: {{ m.content | trim }}<|endoftext|>{% endfor %}";

fn job(messages: &[(ChatRole, &str)], params: GenerationParams) -> SubmitJobArgs {
    let message = |&(role, content): &(ChatRole, &str)| ChatMessage { role, content: content.to_owned() };
    SubmitJobArgs {
        messages: Some(messages.iter().map(message).collect()),
        params,
        ..SubmitJobArgs::default()
    }
}

/// Tokens, text and prompt of a job, natively.
fn native(artifact: &Artifact, job: &SubmitJobArgs) -> (Vec<u32>, String, Vec<u32>) {
    let loaded = artifact.load();
    let messages: Vec<Message> = job.messages.clone().unwrap().into_iter().map(Message::from).collect();
    let prompt = loaded.encode_messages(&messages).unwrap();
    let request = job.params.request(&loaded, prompt.clone()).unwrap();
    let stop = job.params.stop.clone().unwrap_or_default();
    let mut text = TextGeneration::new(&loaded, request, &stop).unwrap();
    while text.finished().is_none() {
        text.advance(&loaded, &mut Budget::unlimited()).unwrap();
    }
    (text.generated().to_vec(), text.text().to_owned(), prompt)
}

#[test]
fn a_conversation_is_answered_as_natively() {
    let network = Network::new();
    let artifact = Artifact::with_template(TEMPLATE, 256);
    let repository = network.repository();
    repository.publish(&artifact);
    let agent = network.agent(repository.id, artifact.id, AgentConfig::default());
    let params = GenerationParams {
        max_tokens: 60,
        temperature: 0.9,
        seed: 11,
        min_p: Some(0.001),
        repetition_penalty: Some(1.2),
        repetition_window: Some(32),
        logit_bias: Some(vec![LogitBias { token: 300, bias: 1.5 }]),
        ..GenerationParams::default()
    };
    let messages = [(ChatRole::System, "Tell."), (ChatRole::User, " a tale <|endoftext|><|endoftext|> ")];
    let whole = job(&messages, params.clone());
    let (tokens, text, prompt) = native(&artifact, &whole);
    let job_id = agent.submit_args(whole).unwrap().job_id;
    let done = agent.wait(job_id);
    assert_eq!((done.tokens, done.text), (tokens, text.clone()));
    assert_eq!(done.job.counts.prompt_tokens as usize, prompt.len());
    // The beginning and two ends of turns of the template; those of the message are text.
    let end = artifact.load().tokenizer.token_to_id("<|endoftext|>").unwrap();
    assert_eq!(prompt.iter().filter(|&&token| token == end).count(), 3);

    let said: String = text.chars().skip(7).take(4).collect();
    let stopping = job(&messages, GenerationParams { stop: Some(vec![said.clone()]), ..params.clone() });
    let (tokens, stopped, _) = native(&artifact, &stopping);
    let done = agent.wait(agent.submit_args(stopping).unwrap().job_id);
    assert_eq!(done.job.state, JobState::Done { reason: FinishReason::StopString });
    assert_eq!((done.tokens, &done.text), (tokens, &stopped));
    assert_eq!(stopped, text[..text.find(&said).unwrap()]);

    // What can't be answered fails its job alone.
    let refused = agent.submit_args(job(&[(ChatRole::Tool, "rain")], params.clone())).unwrap().job_id;
    let long = "a tale ".repeat(9_000);
    let long = agent.submit_args(job(&[(ChatRole::User, &long)], params.clone())).unwrap().job_id;
    let JobState::Failed { reason: JobFailure::ChatTemplate { reason } } = agent.wait(refused).job.state
    else {
        panic!("the template refuses")
    };
    assert!(reason.ends_with("there are no tools"), "{reason}");
    let state = agent.wait(long).job.state;
    assert!(
        matches!(state, JobState::Failed { reason: JobFailure::PromptTooLong { context: 256, .. } }),
        "{state:?}"
    );
    let both = SubmitJobArgs { prompt: "and a text".to_owned(), ..job(&messages, params.clone()) };
    assert!(
        matches!(agent.submit_args(both), Err(AgentError::InvalidField(error)) if error.field == "prompt")
    );
    let after = job(&[(ChatRole::User, "still there?")], GenerationParams { max_tokens: 2, ..params });
    let expected = native(&artifact, &after).0;
    assert_eq!(agent.wait(agent.submit_args(after).unwrap().job_id).tokens, expected);
}

/// Whatever a model of random weights would say, the canister's answer is JSON of the schema, the native one, and draws as a query does.
#[test]
fn an_answer_is_held_to_a_schema() {
    let network = Network::new();
    let artifact = Artifact::with_template(TEMPLATE, 256);
    let repository = network.repository();
    repository.publish(&artifact);
    // Small slices: the text goes on in other messages.
    let config = AgentConfig { slice_instructions: 60_000_000, ..AgentConfig::default() };
    let agent = network.agent(repository.id, artifact.id, config);
    let schema = r#"{"type": "object", "required": ["name", "age", "likes"], "properties": {
        "age": {"type": "integer", "minimum": 1, "maximum": 120},
        "likes": {"type": "array", "items": {"enum": ["foxes", "owls", "bears"]}, "minItems": 2, "maxItems": 4},
        "name": {"type": "string", "minLength": 1, "maxLength": 12}}}"#;
    for seed in 0..3 {
        let params = GenerationParams {
            max_tokens: 120,
            temperature: 1.2,
            seed,
            repetition_penalty: Some(1.3),
            json_schema: Some(schema.to_owned()),
            ..GenerationParams::default()
        };
        let job = job(&[(ChatRole::User, "Who are you?")], params);
        let (tokens, text, _) = native(&artifact, &job);
        let done = agent.wait(agent.submit_args(job).unwrap().job_id);
        assert_eq!((done.tokens, &done.text), (tokens, &text));
        assert_eq!(done.job.state, JobState::Done { reason: FinishReason::EndOfText });
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        let (name, age, likes) = (&value["name"], &value["age"], &value["likes"]);
        assert!((1..=12).contains(&name.as_str().unwrap().chars().count()), "{text}");
        assert!((1..=120).contains(&age.as_u64().unwrap()), "{text}");
        assert!((2..=4).contains(&likes.as_array().unwrap().len()), "{text}");
    }

    let refused = |schema: &str| {
        let params = GenerationParams { json_schema: Some(schema.to_owned()), ..GenerationParams::default() };
        match agent.submit_args(job(&[(ChatRole::User, "x")], params)) {
            Err(AgentError::InvalidField(error)) if error.field == "params.json_schema" => error.reason,
            other => panic!("{other:?}"),
        }
    };
    assert!(refused("").contains("empty"));
    assert!(refused(&" ".repeat(20_000)).contains("bytes"));
    assert!(refused(r#"{"type": "string", "pattern": "a"}"#).contains("`/pattern`: is not supported here"));
    let huge = r#"{"type": "array", "maxItems": 4096, "items": {"type": "string", "maxLength": 4096}}"#;
    assert!(refused(huge).contains("automaton"));
}
