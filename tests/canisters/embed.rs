//! An agent whose model is an encoder.

use novaq_engine::artifact::LoadedEncoder;
use ohms_tests::artifact::Artifact;
use ohms_tests::network::{Agent, Network, owner, stranger};
use ohms_tests::wasm::Canister;
use shared_types::agent::{
    AgentConfig, AgentError, EmbedArgs, Embeddings, GenerationParams, JobFailure, JobState, LoadError,
    LoadState, MAX_EMBED_BYTES, MAX_EMBED_TEXTS,
};

const TEXTS: [&str; 4] = ["A fox", "The hare and the tortoise ran a race.", "fox", "a"];

fn args(texts: &[&str]) -> (EmbedArgs,) {
    (EmbedArgs { texts: texts.iter().map(|text| (*text).to_owned()).collect() },)
}

fn embed(network: &Network, agent: &Agent, texts: &[&str]) -> Result<Embeddings, AgentError> {
    network.update(owner(), agent.id, "embed", args(texts))
}

/// What `novaq embed` computes, bit by bit.
fn native(artifact: &Artifact, text: &str) -> (Vec<u32>, u32) {
    let LoadedEncoder { encoder, tokenizer } = artifact.load_encoder();
    let tokens = tokenizer.encode_truncated(text, encoder.config().max_seq_length).unwrap();
    let vector = encoder.embed(&tokens).unwrap();
    (vector.iter().map(|x| x.to_bits()).collect(), tokens.len() as u32)
}

#[test]
fn an_agent_embeds_as_the_native_engine_does() {
    let network = Network::new();
    let artifact = &Artifact::encoder();
    let repository = network.repository();
    repository.publish(artifact);
    let agent = network.agent(repository.id, artifact.id, AgentConfig::default());

    // The first call begins the load.
    let loading = embed(&network, &agent, &TEXTS);
    assert_eq!(loading, Err(AgentError::NotLoaded { load: LoadState::Loading }));
    network.wait_for("the load", || (agent.status().load == LoadState::Loaded).then_some(()));
    let draft = || -> Result<Embeddings, AgentError> {
        network.query(owner(), agent.id, "embed_draft", args(&TEXTS))
    };
    assert_eq!(draft(), Err(AgentError::NotInHeap));
    let long = "a fox ".repeat(200);
    let texts = [&TEXTS[..], &[long.as_str()]].concat();
    for upgraded in [false, true] {
        let found = embed(&network, &agent, &texts).unwrap();
        assert_eq!((found.model_id, found.embeddings.len()), (artifact.id, texts.len()));
        for (text, embedding) in texts.iter().zip(&found.embeddings) {
            let bits = embedding.vector.iter().map(|x| x.to_bits()).collect();
            assert_eq!((bits, embedding.tokens), native(artifact, text), "`{text}`");
        }
        assert_eq!(draft().unwrap().embeddings, found.embeddings[..TEXTS.len()]);
        assert!(agent.status().in_heap && found.instructions > 0);
        if !upgraded {
            network.upgrade(agent.id, Canister::Agent);
        }
    }

    // Jobs need a decoder, and the encoder stays what it is.
    let job = agent.wait(agent.submit("Once", &GenerationParams::default()));
    assert_eq!(job.job.state, JobState::Failed { reason: JobFailure::NoDecoder });
    assert_eq!(embed(&network, &agent, &TEXTS[..1]).unwrap().embeddings.len(), 1);
}

#[test]
fn what_cannot_be_embedded_is_refused() {
    let network = Network::new();
    let artifact = Artifact::small();
    let repository = network.repository();
    repository.publish(artifact);
    let agent = network.agent(repository.id, artifact.id, AgentConfig::default());
    let field = |texts: &[&str]| match embed(&network, &agent, texts) {
        Err(AgentError::InvalidField(error)) => error.field,
        other => panic!("{other:?}"),
    };
    assert_eq!(field(&[]), "texts");
    assert_eq!(field(&["a"; MAX_EMBED_TEXTS + 1]), "texts");
    assert_eq!(field(&["a", ""]), "texts[1]");
    assert_eq!(field(&["a", "b", &"c".repeat(MAX_EMBED_BYTES + 1)]), "texts[2]");
    for method in ["embed", "embed_draft"] {
        let refused: Result<Embeddings, AgentError> =
            network.update(stranger(), agent.id, method, args(&TEXTS));
        assert_eq!(refused, Err(AgentError::Unauthorized), "{method}");
    }
    embed(&network, &agent, &TEXTS).unwrap_err();
    network.wait_for("the load", || (agent.status().load == LoadState::Loaded).then_some(()));
    assert_eq!(embed(&network, &agent, &TEXTS), Err(AgentError::NoEncoder));
    // The decoder is in the heap now, and does its work.
    let job =
        agent.wait(agent.submit("Once", &GenerationParams { max_tokens: 2, ..GenerationParams::default() }));
    assert_eq!(job.tokens.len(), 2);

    // A model that can't be had is named, and the next call tries again.
    let unknown =
        network.agent(repository.id, shared_types::ModelId::of(b"no model"), AgentConfig::default());
    embed(&network, &unknown, &TEXTS).unwrap_err();
    let failed = LoadState::Failed { reason: LoadError::UnknownModel };
    network.wait_for("the failure", || (unknown.status().load == failed).then_some(()));
    assert_eq!(embed(&network, &unknown, &TEXTS), Err(AgentError::NotLoaded { load: failed }));
}
