//! Messages are read and written by the SDK of `CloudEvents` in Python as they are by us.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use es_core::memory::MemoryBackend;
use es_core::{App, Metadata};
use sagas::message::{Envelope, Publishing as _};
use sagas::relay::{Relay, Relays as _, TopicMessages};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use uuid::Uuid;

/// The version that is fetched.
const SDK: &str = "cloudevents==2.2.0";

/// Messages that a relay has sent.
async fn sent(bodies: &[Value]) -> Vec<Envelope> {
    let (sender, mut arrives) = mpsc::channel(16);
    let relay = Relay::of(TopicMessages::of("transfers")).source("https://bank.example.com/transfers");
    let app = App::on(MemoryBackend::new()).relay(relay, sender).start().await.unwrap();
    let mut metadata = Metadata::default();
    metadata.correlation = Some(Uuid::from_u128(7));
    metadata.tenant = Some("a bank".to_owned());
    metadata.trace_parent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned());
    let mut sent = Vec::new();
    for body in bodies {
        app.publish("transfers", "t 1/ü", body).unwrap().metadata(metadata.clone()).await.unwrap();
        sent.push(arrives.recv().await.unwrap());
    }
    sent
}

/// Where the SDK is, fetched with `pip` if it is not there yet; why not.
fn sdk() -> Result<PathBuf, String> {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join(SDK);
    if !place.is_dir() {
        let work = place.with_extension(std::process::id().to_string());
        let pip = ["-m", "pip", "install", "--quiet", "--only-binary", ":all:", "--target"];
        let done = Command::new("python3").args(pip).arg(&work).arg(SDK).stdin(Stdio::null()).output();
        let done = done.map_err(|error| format!("python3 does not start: {error}"))?;
        if !done.status.success() {
            return Err(format!("pip does not install {SDK}: {}", String::from_utf8_lossy(&done.stderr)));
        }
        // In one step, so that nobody finds half of it. Another run may have been faster.
        drop(fs::rename(&work, &place));
    }
    Ok(place)
}

fn asked(sdk: &Path, messages: &[Envelope]) -> Vec<Value> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/cloud_events.py");
    let mut python = Command::new("python3");
    let python = python.arg(script).env("PYTHONPATH", sdk).env("PYTHONDONTWRITEBYTECODE", "1");
    let mut running = python.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = running.stdin.take().unwrap();
    for message in messages {
        writeln!(lines, "{}", serde_json::to_string(message).unwrap()).unwrap();
    }
    drop(lines);
    let done = running.wait_with_output().unwrap();
    assert!(done.status.success(), "the SDK refuses a message");
    String::from_utf8(done.stdout).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
#[expect(clippy::print_stderr, reason = "whoever runs it should know that it was skipped")]
async fn messages_are_cloud_events_to_others() {
    let sdk = match sdk() {
        Ok(sdk) => sdk,
        Err(why) => {
            eprintln!("skipped, for there is no SDK of CloudEvents: {why}");
            return;
        }
    };
    let bodies =
        [json!({"amount": 5, "to": "ü"}), json!("done"), json!([1, 2.5, null]), json!(true), json!({})];
    let sent = sent(&bodies).await;
    let answers = asked(&sdk, &sent);
    assert_eq!(answers.len(), bodies.len());
    for ((message, answer), body) in sent.iter().zip(answers).zip(bodies) {
        assert_eq!(answer["data"], body);
        let attributes = answer["attributes"].as_object().unwrap();
        let own = serde_json::to_value(message).unwrap();
        for (name, value) in own.as_object().unwrap() {
            if !["data", "time"].contains(&&**name) {
                assert_eq!(attributes[name], *value, "{name}");
            }
        }
        let time: es_core::Timestamp = attributes["time"].as_str().unwrap().parse().unwrap();
        assert_eq!(Some(time), message.time);
        let read: Envelope = serde_json::from_value(answer["written"].clone()).unwrap();
        assert_eq!(read, *message, "what it writes reads the same");
        assert!(message.previous.is_none() == (message.data == json!({"amount": 5, "to": "ü"})));
    }
}
