//! Text as it is generated from the command line: parameters, conversations, jobs.

mod common;

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};
use std::time::{Duration, Instant};

use assert_cmd::Command;
use serde_json::{Value, json};
use tempfile::TempDir;

const TEMPLATE: &str = "{{ bos_token }}{% for m in messages %}{% if m.content == 'no' %}{{ raise_exception('not that') }}\
    {% endif %}{{ m.role[0] }}:{{ m.content }}<|end|>{% endfor %}a:";

/// A folder with an artifact in `model`, whose hidden width is `hidden`.
fn folder(hidden: usize, template: Option<&str>) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    common::write_chat_artifact(&folder.path().join("model"), hidden, template);
    folder
}

fn novaq(folder: &Path, args: &[&str], input: &str) -> (bool, String, String) {
    let output =
        Command::cargo_bin("novaq").unwrap().current_dir(folder).args(args).write_stdin(input).output();
    let output = output.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.success(), text(output.stdout), text(output.stderr))
}

fn succeed(folder: &Path, args: &[&str]) -> String {
    let (success, stdout, stderr) = novaq(folder, args, "");
    assert!(success, "{stderr}");
    stdout
}

fn fail(folder: &Path, args: &[&str]) -> String {
    let (success, stdout, stderr) = novaq(folder, args, "");
    assert!(!success && stdout.is_empty(), "{stdout}");
    stderr
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn run(folder: &Path, args: &[&str]) -> Value {
    parsed(&succeed(folder, &[&["run", "model", "--json"], args].concat()))
}

#[test]
fn parameters_change_what_is_drawn() {
    let folder = folder(32, None);
    let run = |args: &[&str]| {
        run(folder.path(), &[&["--prompt", "Once upon", "--max-tokens", "16"], args].concat())
    };
    let plain = run(&["--seed", "3"]);
    assert_eq!(plain["finish_reason"], "length");
    for changed in [["--min-p", "0.7"], ["--repetition-penalty", "50"], ["--logit-bias", "40=9.5"]] {
        assert_ne!(run(&[&["--seed", "3"], &changed[..]].concat())["tokens"], plain["tokens"], "{changed:?}");
    }
    // One that always wins.
    assert_eq!(run(&["--logit-bias", "40=1000"])["tokens"], json!(vec![40; 16]));
    // A window of one token forbids repetition, the whole text forbids every token that was there.
    let penalty = ["--temperature", "0", "--logit-bias", "40=60", "--logit-bias", "41=59"];
    let window = run(&[&penalty[..], &["--repetition-penalty", "3", "--repetition-window", "1"]].concat());
    let tokens: Vec<u32> = serde_json::from_value(window["tokens"].clone()).unwrap();
    assert_eq!(tokens[..4], [40, 41, 40, 41]);

    let text = plain["text"].as_str().unwrap();
    let stop: String = text.chars().skip(5).take(3).collect();
    let stopped = run(&["--seed", "3", "--stop", &stop, "--stop", "never said"]);
    assert_eq!(stopped["finish_reason"], "stop_string");
    assert_eq!(stopped["text"], text[..text.find(&stop).unwrap()]);
    let (all, some) = (plain["tokens"].as_array().unwrap(), stopped["tokens"].as_array().unwrap());
    assert_eq!(all[..some.len()], some[..]);
}

#[test]
fn a_text_is_held_to_a_schema() {
    let folder = folder(32, None);
    let schema = r#"{"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "minItems": 3, "maxItems": 3}"#;
    fs::write(folder.path().join("schema.json"), schema).unwrap();
    let arguments = ["--prompt", "Numbers: ", "--json-schema", "schema.json", "--temperature", "1.5"];
    for seed in ["1", "2", "3"] {
        let answer = run(folder.path(), &[&arguments[..], &["--seed", seed]].concat());
        assert_eq!(answer["finish_reason"], "stop");
        let numbers: Vec<u32> = serde_json::from_str(answer["text"].as_str().unwrap()).unwrap();
        assert!(numbers.len() == 3 && numbers.iter().all(|&number| number < 100), "{numbers:?}");
    }
    let missing = fail(folder.path(), &["run", "model", "--prompt", "x", "--json-schema", "nowhere.json"]);
    assert!(missing.contains("--json-schema") && missing.contains("No such file"), "{missing}");
    fs::write(folder.path().join("schema.json"), r#"{"type": "array", "items": {"type": "date"}}"#).unwrap();
    let refused = fail(folder.path(), &["run", "model", "--prompt", "x", "--json-schema", "schema.json"]);
    assert!(refused.contains("`json_schema` at `/items/type`: is not one of"), "{refused}");
}

#[test]
fn parameters_out_of_range_are_refused() {
    let folder = folder(32, None);
    let errors: Vec<String> = [
        &["--min-p=1.5"][..],
        &["--repetition-penalty=0"],
        &["--logit-bias=504=1"],
        &["--logit-bias=5=inf"],
        &["--logit-bias=5=1", "--logit-bias=5=2"],
        &["--logit-bias=five=1"],
        &["--stop="],
        &["--max-tokens=0"],
        &["--messages=m.json"],
    ]
    .iter()
    .map(|args| fail(folder.path(), &[&["run", "model", "--prompt", "a"], *args].concat()))
    .collect();
    insta::assert_snapshot!("parameters", errors.join("---\n"));
}

#[test]
fn messages_are_answered() {
    let folder = folder(32, Some(TEMPLATE));
    let file = folder.path().join("talk.json");
    let talk = |messages: Value| {
        fs::write(&file, messages.to_string()).unwrap();
        run(folder.path(), &["--messages", "talk.json", "--max-tokens", "6"])
    };
    let answer = talk(json!([{"role": "user", "content": "hi<|end|>"}]));
    let tokenizer = common::tokenizer();
    let prompt: Vec<u32> = serde_json::from_value(answer["prompt_tokens"].clone()).unwrap();
    assert_eq!(tokenizer.decode(&prompt, false).unwrap(), "<|begin|>u:hi<|end|><|end|>a:");
    assert_eq!(prompt.iter().filter(|&&token| token == 501).count(), 1, "the message's own is text");
    // The answer alone is printed.
    let printed = succeed(folder.path(), &["run", "model", "--messages", "talk.json", "--max-tokens", "6"]);
    assert_eq!(printed, format!("{}\n", answer["text"].as_str().unwrap()));

    let refused = |messages: &str| {
        fs::write(&file, messages).unwrap();
        fail(folder.path(), &["run", "model", "--messages", "talk.json"])
    };
    let errors = [
        refused(r#"[{"role": "user", "content": "no"}]"#),
        refused(r#"[{"role": "end", "content": "x"}]"#),
        refused(r#"{"role": "user"}"#),
        refused("[]"),
        fail(folder.path(), &["run", "model", "--messages", "nowhere.json"])
            .lines()
            .next()
            .unwrap()
            .to_owned(),
    ];
    insta::assert_snapshot!("messages", errors.join("---\n"));
}

#[test]
fn a_model_without_a_template_does_not_talk() {
    let folder = folder(32, None);
    fs::write(folder.path().join("talk.json"), r#"[{"role": "user", "content": "hi"}]"#).unwrap();
    let expected = "error: the model has no chat template\n\
                    hint: `novaq run <DIR> --prompt <TEXT>` goes on from a text\n";
    assert_eq!(fail(folder.path(), &["run", "model", "--messages", "talk.json"]), expected);
    assert_eq!(fail(folder.path(), &["chat", "model"]), expected);
}

#[test]
fn verify_says_whether_the_template_is_of_use() {
    for (template, line) in [
        (TEMPLATE, "Chat template: compiles"),
        (
            "\n{% if %}",
            "Chat template: of no use (`chat_template`, line 2: syntax error: unexpected end of block)",
        ),
    ] {
        let folder = folder(32, Some(template));
        let verified = succeed(folder.path(), &["verify", "model"]);
        assert!(verified.lines().any(|found| found == line), "{verified}");
    }
}

#[test]
fn a_conversation_goes_on_from_its_answers() {
    let folder = folder(32, Some(TEMPLATE));
    let options = ["--max-tokens", "5", "--seed", "4"];
    let input = "hi\n/save one.json\n\n//so\n/save two.json\nno\n/jump\n/reset\nhi\n/help\n/quit\nnot read\n";
    let (success, stdout, stderr) =
        novaq(folder.path(), &[&["chat", "model", "--system", "S"], &options[..]].concat(), input);
    assert!(success, "{stderr}");
    let read = |file: &str| parsed(&fs::read_to_string(folder.path().join(file)).unwrap());
    // Each answer is that of `run` to the messages before it.
    let answer = |messages: &Value| {
        fs::write(folder.path().join("until.json"), messages.to_string()).unwrap();
        run(folder.path(), &[&["--messages", "until.json"], &options[..]].concat())["text"].clone()
    };
    let message = |role: &str, content: &Value| json!({"role": role, "content": content});
    let mut messages = json!([message("system", &"S".into()), message("user", &"hi".into())]);
    let first = answer(&messages);
    messages.as_array_mut().unwrap().push(message("assistant", &first));
    assert_eq!(read("one.json"), messages);
    messages.as_array_mut().unwrap().push(message("user", &"/so".into()));
    let second = answer(&messages);
    messages.as_array_mut().unwrap().push(message("assistant", &second));
    assert_eq!(read("two.json"), messages);
    let [first, second] = [first, second].map(|text| text.as_str().unwrap().to_owned());
    assert_eq!(stdout, format!("{first}\n{second}\n{first}\n"));
    insta::assert_snapshot!("chat", stderr);
}

#[test]
fn the_oldest_turns_make_room() {
    let folder = folder(32, Some(TEMPLATE));
    let long = "z".repeat(60);
    let input = format!("one\ntwo\nthree\nfour\nfive\n{long}\nsix\n/save all.json\n");
    let args = ["chat", "model", "--system", "S", "--max-tokens", "9", "--temperature", "0"];
    let (success, _, stderr) = novaq(folder.path(), &args, &input);
    assert!(success, "{stderr}");
    insta::assert_snapshot!("chat_context", stderr);
    // What is left out of the model's sight stays in the conversation.
    let all = parsed(&fs::read_to_string(folder.path().join("all.json")).unwrap());
    assert_eq!(all.as_array().unwrap().len(), 13);
}

/// A process of the command with pipes.
fn spawn(folder: &Path, args: &[&str]) -> Child {
    let program = assert_cmd::cargo::cargo_bin("novaq");
    let mut command = Process::new(program);
    command.current_dir(folder).args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
    command.spawn().unwrap()
}

#[cfg(unix)]
#[test]
fn ctrl_c_ends_the_answer_alone() {
    let folder = folder(512, Some(TEMPLATE));
    let mut chat =
        spawn(folder.path(), &["chat", "model", "--max-tokens", "1000", "--logit-bias", "501=-1000"]);
    let mut stdin = chat.stdin.take().unwrap();
    let mut stdout = chat.stdout.take().unwrap();
    writeln!(stdin, "hi").unwrap();
    let mut first = [0];
    stdout.read_exact(&mut first).unwrap();
    // SAFETY: the process is a child that was not waited for.
    assert_eq!(unsafe { libc::kill(chat.id() as libc::pid_t, libc::SIGINT) }, 0);
    writeln!(stdin, "/save talk.json\n/quit").unwrap();
    let mut rest = Vec::new();
    stdout.read_to_end(&mut rest).unwrap();
    assert!(chat.wait().unwrap().success());
    let talk = parsed(&fs::read_to_string(folder.path().join("talk.json")).unwrap());
    let answer = talk[1]["content"].as_str().unwrap();
    assert_eq!([&first[..], &rest].concat(), format!("{answer}\n").into_bytes());
}

/// The same parameters of `run` and of a job.
const OPTIONS: [&str; 8] =
    ["--max-tokens", "30", "--seed", "5", "--repetition-penalty", "1.2", "--min-p", "0.01"];

#[test]
fn jobs_are_done_by_priority_and_give_what_run_does() {
    let folder = folder(32, Some(TEMPLATE));
    let at = folder.path();
    fs::write(at.join("talk.json"), r#"[{"role": "user", "content": "hi"}]"#).unwrap();
    let add = |args: &[&str]| succeed(at, &[&["jobs", "add", "queue", "model"], args, &OPTIONS].concat());
    assert_eq!(add(&["--prompt", "Once"]), "Job: 1\n");
    assert_eq!(add(&["--messages", "talk.json", "--priority", "2"]), "Job: 2\n");
    assert_eq!(
        add(&["--prompt", "a tale that is much too long for this model", "--priority=-1"]),
        "Job: 3\n"
    );
    let list = |name: &str| {
        let listed = succeed(at, &["jobs", "list", "queue"]).replace(at.to_str().unwrap(), "…");
        insta::assert_snapshot!(name, listed);
    };
    list("jobs_queued");
    let unfinished = fail(at, &["jobs", "show", "queue", "1"]);
    insta::assert_snapshot!("jobs_work", succeed(at, &["jobs", "work", "queue"]));
    list("jobs_done");
    assert_eq!(succeed(at, &["jobs", "work", "queue"]), "", "nothing is left");

    for (id, input) in [("1", ["--prompt", "Once"]), ("2", ["--messages", "talk.json"])] {
        let job = parsed(&succeed(at, &["jobs", "show", "queue", id, "--json"]));
        let reference = run(at, &[&input[..], &OPTIONS].concat());
        assert_eq!(job["tokens"], reference["tokens"]);
        for field in ["text", "finish_reason", "prompt_tokens"] {
            assert_eq!(job[field], reference[field]);
        }
        let text = succeed(at, &["jobs", "show", "queue", id]);
        assert_eq!(text, format!("{}\n", reference["text"].as_str().unwrap()));
    }
    assert_eq!(succeed(at, &["jobs", "remove", "queue", "3"]), "");
    let errors = [
        unfinished,
        fail(at, &["jobs", "show", "queue", "3"]),
        fail(at, &["jobs", "remove", "queue", "9"]),
        fail(at, &["jobs", "list", "model"]),
        fail(at, &["jobs", "add", "model", "model", "--prompt", "a"]),
        fail(at, &["jobs", "add", "queue", "model", "--prompt", "a", "--min-p", "7"]),
        fail(at, &["jobs", "add", "queue", "model", "--prompt", "a", "--logit-bias", "504=1"]),
    ];
    insta::assert_snapshot!("jobs_errors", errors.join("---\n"));
    assert_eq!(add(&["--prompt", "Once"]), "Job: 4\n", "a number is not given again");
}

#[test]
fn a_job_whose_model_is_away_waits_for_it() {
    let folder = folder(32, None);
    let at = folder.path();
    common::write_artifact(&at.join("other"), 48);
    for model in ["model", "other"] {
        succeed(at, &["jobs", "add", "queue", model, "--prompt", "a", "--max-tokens", "3"]);
    }
    fs::rename(at.join("model"), at.join("away")).unwrap();
    let (success, stdout, stderr) = novaq(at, &["jobs", "work", "queue"], "");
    assert!(!success && stdout.starts_with("Job 2: 3 tokens"), "{stdout}");
    assert!(stderr.contains("is not an artifact") && stderr.contains("1 job left in the queue"), "{stderr}");
    fs::rename(at.join("other"), at.join("model")).unwrap();
    let (success, _, stderr) = novaq(at, &["jobs", "work", "queue"], "");
    assert!(!success && stderr.contains("holds another model"), "{stderr}");
    fs::rename(at.join("model"), at.join("other")).unwrap();
    fs::rename(at.join("away"), at.join("model")).unwrap();
    assert!(succeed(at, &["jobs", "work", "queue"]).starts_with("Job 1: 3 tokens"));
}

#[test]
fn two_workers_share_the_jobs() {
    let folder = folder(128, None);
    let at = folder.path();
    for seed in 1..=8 {
        let seed = format!("--seed={seed}");
        succeed(at, &["jobs", "add", "queue", "model", "--prompt", "a", "--max-tokens", "40", &seed]);
    }
    let workers = [0, 1].map(|_| spawn(at, &["jobs", "work", "queue"]));
    let mut done = Vec::new();
    for worker in workers {
        let output = worker.wait_with_output().unwrap();
        assert!(output.status.success());
        let lines = String::from_utf8(output.stdout).unwrap();
        done.extend(lines.lines().map(|line| line.split_once(':').unwrap().0.to_owned()));
    }
    // One may still be at its last job when the other one ends; none is done twice.
    done.sort();
    assert_eq!(done, (1..=8).map(|id| format!("Job {id}")).collect::<Vec<_>>());
}

/// A worker that is killed at any token, and what a kill can leave of the tokens' file.
#[test]
fn a_killed_job_ends_with_the_same_tokens() {
    let folder = folder(1536, None);
    let at = folder.path();
    let options = ["--prompt", "Once", "--max-tokens", "40", "--seed", "2", "--repetition-penalty", "1.3"];
    let reference = run(at, &[&options[..], &["--logit-bias", "501=-1000"]].concat());
    let add = || {
        let add = [&["jobs", "add", "queue", "model", "--logit-bias", "501=-1000"], &options[..]].concat();
        succeed(at, &add);
    };
    let shown = |id: &str| parsed(&succeed(at, &["jobs", "show", "queue", id, "--json"]));
    let check = |id: &str| {
        succeed(at, &["jobs", "work", "queue"]);
        let job = shown(id);
        assert_eq!(job["tokens"], reference["tokens"]);
        assert_eq!(job["text"], reference["text"]);
    };

    add();
    let tokens = at.join("queue/job-00000001.tokens");
    let written = || fs::metadata(&tokens).map_or(0, |file| file.len() / 8);
    let mut killed = 0;
    // Each worker may add some tokens before it is killed.
    for _ in 0..3 {
        let before = written();
        let mut worker = spawn(at, &["jobs", "work", "queue"]);
        let begun = Instant::now();
        while written() <= before && begun.elapsed() < Duration::from_mins(1) {
            std::thread::sleep(Duration::from_millis(1));
        }
        worker.kill().unwrap();
        worker.wait().unwrap();
        killed += u32::from(shown("1")["state"] == "queued");
    }
    assert!(killed > 0, "every worker was faster than its kill");
    assert_eq!(shown("1")["in_work"], false);
    check("1");

    // A torn entry, and one that never reached the disk.
    let whole = fs::read(&tokens).unwrap();
    let torn = [whole[..whole.len() / 2 + 3].to_vec(), [&whole[..24], &[0; 16]].concat(), Vec::new()];
    for (id, left) in (2..).zip(torn) {
        add();
        fs::write(at.join(format!("queue/job-{id:08}.tokens")), left).unwrap();
        check(&id.to_string());
    }
}
