//! `#[view]` says by which rule it finds keys: a handler that changes is no other rule.

use std::sync::Arc;
use std::time::Duration;

use es_core::event::EventData;
use es_core::memory::MemoryBackend;
use es_core::processor::{Backfill, ProcessorOptions};
use es_core::store::{Append, Commit, EventStore as _, ExpectedVersion, NewEvent, StreamId};
use es_core::testing::conformance::domain::{Deposited, Donate};
use es_core::{App, Event, View};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct ByAccount(u64);

#[es_core::view(name = "payments", key = String)]
impl ByAccount {
    fn paid(&mut self, _: &Deposited) {
        self.0 += 1;
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct InTwos(u64);

#[es_core::view(name = "payments", key = String)]
impl InTwos {
    fn paid(&mut self, _: &Deposited) {
        self.0 += 2;
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct ByReference(u64);

#[es_core::view(name = "payments", key = String)]
impl ByReference {
    #[on(by = reference)]
    fn paid(&mut self, _: &Deposited) {
        self.0 += 2;
    }
}

async fn start<V: View>(store: &MemoryBackend) -> Result<App, String> {
    let options = ProcessorOptions::default().backfill(Backfill::Refuse);
    let app = App::on(store.clone()).view::<V>().processors(options).lease(Duration::from_millis(200));
    app.start().await.map_err(|error| error.to_string())
}

#[tokio::test]
async fn another_key_of_an_event_is_another_rule() {
    let store = MemoryBackend::new();
    let app = start::<ByAccount>(&store).await.unwrap();
    let done = app.send(&"ada".to_owned(), Donate { amount: 1 }).await.unwrap();
    app.wait_for::<ByAccount>(&done, Duration::from_secs(60)).await.unwrap();
    app.shutdown(Duration::from_secs(60)).await;
    let app = start::<InTwos>(&store).await.expect("other handlers, and the same keys");
    app.shutdown(Duration::from_secs(60)).await;
    let error = start::<ByReference>(&store).await.expect_err("its rows are under the accounts");
    assert!(error.contains("finds the rows of account.deposited by other keys now"), "{error}");
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Left {
    from: String,
    to: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Joined {
    from: String,
    to: String,
}

/// What was one event before.
#[derive(Deserialize)]
struct Moved {
    from: String,
    to: String,
}

impl From<Moved> for Vec<MemberEvent> {
    fn from(Moved { from, to }: Moved) -> Self {
        let left = Left { from: from.clone(), to: to.clone() };
        vec![left.into(), Joined { from, to }.into()]
    }
}

#[derive(Event, Clone, Debug)]
#[event(prefix = "member", retired("member.moved" = Moved))]
enum MemberEvent {
    Left(Left),
    Joined(Joined),
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Members(i64);

#[es_core::view(name = "members", key = String)]
impl Members {
    #[on(by = from)]
    fn left(&mut self, _: &Left) {
        self.0 -= 1;
    }

    #[on(by = to)]
    fn joined(&mut self, _: &Joined) {
        self.0 += 1;
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Swapped(i64);

#[es_core::view(name = "members", key = String)]
impl Swapped {
    #[on(by = to)]
    fn left(&mut self, _: &Left) {
        self.0 -= 1;
    }

    #[on(by = from)]
    fn joined(&mut self, _: &Joined) {
        self.0 += 1;
    }
}

#[tokio::test]
async fn two_payloads_of_one_event_that_swap_their_keys_have_another_rule() {
    let store = MemoryBackend::new();
    let data = EventData {
        name: "member.moved".into(),
        schema: 1,
        codec: "json".into(),
        data: r#"{"from":"a","to":"b"}"#.into(),
        tags: Vec::new(),
    };
    let event = NewEvent::new(es_core::id::Ids::default().next(), data, Arc::default());
    let stream = StreamId::new("member-ada").unwrap();
    let append = Append { stream, expected: ExpectedVersion::Any, events: vec![event] };
    store.commit(Commit { appends: vec![append], ..Commit::default() }).await.unwrap();
    let app = start::<Members>(&store).await.unwrap();
    app.settle(Duration::from_secs(60)).await.unwrap();
    app.shutdown(Duration::from_secs(60)).await;
    let error = start::<Swapped>(&store).await.expect_err("each row is where the other one looks");
    assert!(error.contains("finds the rows of member.moved by other keys now"), "{error}");
}
