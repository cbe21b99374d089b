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
    let request = job.params.request(prompt.clone());
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
    let artifact = Artifact::with_template(TEMPLATE);
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
