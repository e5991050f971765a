//! What a command shows of itself: a trace of what it did, and numbers.

use es_core::App;
use es_core::command::RetryPolicy;
use es_core::memory::MemoryBackend;
use es_core::store::{EventStore as _, Version};
use es_core::testing::conformance::domain::{Account, Deposit, Open, Withdraw};
use es_core::testing::{Numbers, Trace};

async fn start(store: &MemoryBackend) -> App {
    App::on(store.clone()).retry(RetryPolicy::default()).start().await.unwrap()
}

fn open() -> Open {
    Open { owner: "ada".to_owned() }
}

/// C13
#[tokio::test]
async fn a_trace_shows_what_a_command_did() {
    let (store, ada) = (MemoryBackend::new(), "ada".to_owned());
    start(&store).await.send(&ada, open()).await.unwrap();
    // Another node, which keeps nothing yet.
    let app = start(&store).await;
    let (trace, _caught) = Trace::catch();
    app.send(&ada, Deposit { amount: 5 }).await.unwrap();
    app.send(&ada, Withdraw { amount: 9 }).await.unwrap_err();
    let [paid, refused] = &trace.of("es.command")[..] else { panic!("{trace:?}") };
    let fields = ["command", "stream", "outcome", "attempts", "version", "events"];
    assert_eq!(fields.map(|field| paid.field(field)), ["deposit", "account-ada", "done", "1", "2", "1"]);
    assert_eq!(fields.map(|field| refused.field(field)), ["withdraw", "account-ada", "refused", "1", "", ""]);
    assert!(!paid.field("id").is_empty() && paid.field("id") != refused.field("id"));
    assert!(!paid.field("correlation").is_empty());

    let [read, kept] = &trace.of("es.load")[..] else { panic!("{trace:?}") };
    let fields = ["aggregate", "stream", "from", "version", "events"];
    assert_eq!(fields.map(|field| read.field(field)), ["account", "account-ada", "start", "1", "1"]);
    assert_eq!(fields.map(|field| kept.field(field)), ["account", "account-ada", "kept", "2", "0"]);
    let [written] = &trace.of("es.commit")[..] else { panic!("{trace:?}") };
    let fields = ["streams", "events", "rows", "keys", "outcome", "position"];
    assert_eq!(fields.map(|field| written.field(field)), ["1", "1", "0", "0", "written", "2"]);
    assert_eq!([read.within, kept.within, written.within], [Some("es.command"); 3]);
}

/// C13
#[tokio::test]
async fn a_trace_shows_each_try_of_a_command() {
    let (store, ada) = (MemoryBackend::new(), "ada".to_owned());
    let (app, other) = (start(&store).await, start(&store).await);
    app.send(&ada, open()).await.unwrap();
    other.send(&ada, Deposit { amount: 5 }).await.unwrap();
    let (trace, _caught) = Trace::catch();
    app.send(&ada, Deposit { amount: 5 }).await.unwrap();
    let commits: Vec<String> =
        trace.of("es.commit").iter().map(|span| span.field("outcome").to_owned()).collect();
    assert_eq!(commits, ["conflict", "written"]);
    assert_eq!(trace.of("es.command")[0].field("attempts"), "2");
}

/// C14
#[test]
fn commands_are_counted_by_what_became_of_them() {
    let numbers = Numbers::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    metrics::with_local_recorder(&numbers, || runtime.block_on(counted()));
    for (series, times) in [
        ("es_command_seconds command=open outcome=done", 1.0),
        ("es_command_seconds command=open outcome=already_exists", 1.0),
        ("es_command_seconds command=deposit outcome=done", 2.0),
        ("es_command_seconds command=deposit outcome=repeated", 1.0),
        ("es_command_seconds command=withdraw outcome=refused", 1.0),
        ("es_command_retries_total command=deposit after=conflict", 1.0),
        ("es_commits_total outcome=conflict", 1.0),
        ("es_commits_total outcome=repeated", 1.0),
        ("es_commits_total outcome=written", 3.0),
        ("es_commits_resolved_total found=never", 1.0),
    ] {
        assert_eq!(numbers.of(series), times, "{series}: {numbers:#?}");
    }
    let found = |how: &str| numbers.of(&format!("es_states_total found={how}"));
    assert!(found("kept") > 0.0 && found("read") > 0.0, "{numbers:#?}");
}

async fn counted() {
    let (store, ada) = (MemoryBackend::new(), "ada".to_owned());
    let (app, other) = (start(&store).await, start(&store).await);
    app.send(&ada, open()).await.unwrap();
    app.send(&ada, open()).await.unwrap_err();
    other.send(&ada, Deposit { amount: 5 }).idempotency_key("once").await.unwrap();
    other.send(&ada, Deposit { amount: 5 }).idempotency_key("once").await.unwrap();
    // It knows of none of this.
    app.send(&ada, Deposit { amount: 5 }).await.unwrap();
    app.send(&ada, Withdraw { amount: 50 }).await.unwrap_err();
    let asked = es_core::store::Attempt { id: uuid::Uuid::from_u128(7), appends: Vec::new() };
    store.resolve(&asked).await.unwrap();
    assert_eq!(app.load::<Account>(&ada).await.unwrap().unwrap().version, Version(3));
}
