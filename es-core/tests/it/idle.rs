//! What processors cost when nothing happens.

use std::time::Duration;

use es_core::clock::Clock;
use es_core::memory::MemoryBackend;
use es_core::projection::Change;
use es_core::services::{Scope, Services};
use es_core::store::{Commit, EventFilter, EventStore as _, RowWrite};
use es_core::testing::conformance::domain::Open;
use es_core::testing::conformance::double::Double;
use es_core::testing::epoch;
use es_core::{App, AppBuilder, BoxError, Projection, Reactor, RecordedEvent, Timestamp, View};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

type Counted = Double<MemoryBackend>;

const NODES: u64 = 3;
const SECONDS: u64 = 100;
/// Four in the time of a lease, which is five seconds.
const LOOKS: u64 = SECONDS * 4 / 5;
/// Of a node: the time, its own row, the shares, the nodes; then the head, and what was asked, built and told, by which code, and in
/// which versions.
const CALLS_OF_A_LOOK: u64 = 10;

/// The time of the runtime, which is paused.
#[derive(Debug)]
struct Virtual(Instant);

impl Clock for Virtual {
    fn now(&self) -> Timestamp {
        epoch() + self.0.elapsed()
    }
}

const fn name(kind: u8, ten: usize, one: usize) -> [u8; 3] {
    const DIGITS: [u8; 10] = *b"0123456789";
    [kind, DIGITS[ten], DIGITS[one]]
}

const fn text(name: &'static [u8; 3]) -> &'static str {
    match std::str::from_utf8(name) {
        Ok(text) => text,
        Err(_) => panic!("digits are UTF-8"),
    }
}

/// A reactor, one of a hundred.
#[derive(Debug)]
struct Quiet<const TEN: usize, const ONE: usize>;

impl<const TEN: usize, const ONE: usize> Reactor for Quiet<TEN, ONE> {
    const NAME: &'static str = text(const { &name(b'q', TEN, ONE) });
    fn filter() -> EventFilter {
        EventFilter::all()
    }

    async fn react(&self, _: &RecordedEvent, _: Scope<'_>) -> Result<(), BoxError> {
        Ok(())
    }

    fn missing(_: &Services) -> Vec<String> {
        Vec::new()
    }
}

/// A view, one of a hundred.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Count<const TEN: usize, const ONE: usize>(u64);

impl<const TEN: usize, const ONE: usize> Projection for Count<TEN, ONE> {
    const NAME: &'static str = text(const { &name(b'v', TEN, ONE) });
    fn filter() -> EventFilter {
        EventFilter::all()
    }
}

impl<const TEN: usize, const ONE: usize> View for Count<TEN, ONE> {
    type Key = String;
    fn changes(event: &RecordedEvent) -> Result<Vec<Change<'_, Self>>, BoxError> {
        let count = |row: &mut Self| {
            row.0 += 1;
            Ok(())
        };
        Ok(vec![Change::new(event.stream.as_str().to_owned(), count)])
    }
}

macro_rules! ten {
    ($app:ident, $($one:literal)*) => {
        $app$(.view::<Count<TEN, $one>>().reactor(Quiet::<TEN, $one>))*
    };
}

fn ten<const TEN: usize>(app: AppBuilder<Counted>) -> AppBuilder<Counted> {
    ten!(app, 0 1 2 3 4 5 6 7 8 9)
}

fn two_hundred(app: AppBuilder<Counted>) -> AppBuilder<Counted> {
    let low = ten::<4>(ten::<3>(ten::<2>(ten::<1>(ten::<0>(app)))));
    ten::<9>(ten::<8>(ten::<7>(ten::<6>(ten::<5>(low)))))
}

#[tokio::test(start_paused = true)]
async fn two_hundred_processors_on_three_nodes_cost_next_to_nothing_when_nothing_happens() {
    let store = Double::new(MemoryBackend::with_clock(Virtual(Instant::now())));
    let mut apps = Vec::new();
    for _ in 0..NODES {
        apps.push(two_hundred(App::on(store.clone())).start().await.unwrap());
    }
    for i in 0..5 {
        apps[0].send(&i.to_string(), Open { owner: "ada".to_owned() }).await.unwrap();
    }
    for app in &apps {
        assert_eq!(app.processors().len(), 200);
        app.settle(Duration::from_secs(300)).await.unwrap();
    }
    // Until everybody has a fair share, and every checkpoint is at the head.
    sleep(Duration::from_secs(30)).await;
    let before = store.calls();
    sleep(Duration::from_secs(SECONDS)).await;
    let calls = store.calls() - before;
    // And each node asks for the head once a second, for all of its processors.
    let expected = NODES * (LOOKS * CALLS_OF_A_LOOK + SECONDS);
    // A look more or less, as the time begins in the middle of one.
    let most = expected + NODES * (CALLS_OF_A_LOOK + 1);
    assert!(calls <= most, "{calls} calls in {SECONDS} s, {most} are expected");
    assert!(most < 50 * SECONDS, "that is little");
}

/// Versions of a projection that have been removed, each of which leaves these shares.
const GONE: usize = 100;
const SHARES: usize = 10;

/// What a removal leaves: rows that fence late writers for ever.
async fn leave(store: &Counted) {
    let row = |table: &str, key: String, row: &'static str| RowWrite {
        table: table.into(),
        key,
        rev: 0,
        row: Some(row.into()),
    };
    for version in 1..=GONE {
        let mut rows =
            vec![row("generations", format!("old/{version}"), r#"{"current":1,"last":1,"retired":true}"#)];
        let share = r#"{"position":5,"epoch":3,"replay":0}"#;
        rows.extend((0..SHARES).map(|i| row("checkpoints", format!("old/{version}~1#{i:04}"), share)));
        store.commit(Commit { rows, ..Commit::default() }).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn shares_of_versions_that_have_gone_are_not_read_with_each_look() {
    let store = Double::new(MemoryBackend::with_clock(Virtual(Instant::now())));
    let app = ten::<0>(App::on(store.clone())).start().await.unwrap();
    let rows_read = async || {
        // Until it has found out what there is.
        sleep(Duration::from_secs(30)).await;
        let (rows, calls) = (store.scanned(), store.calls());
        sleep(Duration::from_secs(SECONDS)).await;
        (store.scanned() - rows, store.calls() - calls)
    };
    let (before, calls_before) = rows_read().await;
    leave(&store).await;
    let (after, calls_after) = rows_read().await;
    // That they have gone is read, a row for each.
    let looks = usize::try_from(LOOKS).unwrap() + 2;
    let most = before + looks * GONE;
    assert!(after <= most, "{after} rows, {before} without them, {most} are expected");
    assert!(
        calls_after <= calls_before + CALLS_OF_A_LOOK + 1,
        "{calls_after} calls, {calls_before} without them"
    );
    assert!(app.shutdown(Duration::from_secs(300)).await);
}
