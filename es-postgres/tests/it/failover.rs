//! What follows the log lives through another history: subscriptions, processors, keys; and three processes under load.

use std::fs::File;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use es_core::event::EventId;
use es_core::store::{
    Append, Commit, EventFilter, EventStore as _, ExpectedVersion, NewEvent, Position, RecordedEvent,
    StoreError, StreamId, Subscription, read_all,
};
use es_core::testing::conformance::domain::{Deposit, Open};
use es_core::{App, ErrorKind};
use es_postgres::PgBackend;
use es_postgres::testing::Database;

use crate::history::{ALL, CUT, Comes, World, read_only};
use crate::processes::start;
use crate::support::{LIMIT, commit, new_id, run};
use crate::workers::{deposited, judge, settle, wiring};

/// One event of this type, wherever its stream is.
async fn append(store: &PgBackend, name: &'static str) {
    let mut one = commit("s");
    one.appends[0].events[0].name = name.into();
    store.commit(one).await.unwrap();
}

/// The next event, once the store answers.
async fn next(subscription: &mut Subscription) -> Result<RecordedEvent, StoreError> {
    let next = async {
        loop {
            match subscription.next().await {
                Err(error) if error.kind() == ErrorKind::Transient => tokio::task::yield_now().await,
                outcome => return outcome,
            }
        }
    };
    tokio::time::timeout(LIMIT, next).await.expect("it delivers, or says why not")
}

/// There is nothing to deliver now: all that is there was looked at.
async fn is_at_the_end(subscription: &mut Subscription) {
    let waits = tokio::time::timeout(Duration::from_millis(200), subscription.next()).await;
    assert!(waits.is_err(), "there is nothing more: {waits:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_skips_nothing_of_the_history_that_is_there() {
    for comes in ALL {
        let mut world = World::new(comes).await;
        let store = Arc::new(world.backend().await);
        append(&store, "early").await;
        let early = EventFilter::types(["early"]);
        let mut goes_on = Subscription::new(store.clone(), early, Position(0));
        let mut has_seen = Subscription::new(store.clone(), EventFilter::all(), Position(0));
        for subscription in [&mut goes_on, &mut has_seen] {
            assert_eq!(next(subscription).await.unwrap().position, Some(Position(1)));
        }
        world.keep();
        for _ in 0..5 {
            append(&store, "late").await;
            next(&mut has_seen).await.unwrap();
        }
        let mut is_ahead = Subscription::new(store.clone(), EventFilter::all(), Position(6));
        for subscription in [&mut goes_on, &mut is_ahead] {
            is_at_the_end(subscription).await;
        }
        world.restore();
        // Below what it has looked at, and as far as the lost log went.
        let fresh = world.backend().await;
        append(&fresh, "early").await;
        let event = next(&mut goes_on).await.unwrap();
        assert_eq!((event.position, &*event.name), (Some(Position(2)), "early"), "{comes:?}");
        let why = next(&mut is_ahead).await.unwrap_err().to_string();
        assert!(why.contains("the log ends at #2"), "{comes:?}: {why}");
        for _ in 0..6 {
            append(&fresh, "other").await;
        }
        for _ in 0..2 {
            let why = next(&mut has_seen).await.unwrap_err().to_string();
            assert!(why.contains("the bookmark at #6 is of another history"), "{comes:?}: {why}");
        }
    }
}

async fn deposits(store: &PgBackend, n: u64) {
    for i in 0..n {
        deposit(store, i % 7).await.unwrap();
    }
}

async fn deposit(store: &PgBackend, account: u64) -> Result<EventId, ErrorKind> {
    let amount = i64::try_from(account).unwrap() + 1;
    let event = NewEvent::new(new_id(), deposited(amount), Arc::default());
    let id = event.id;
    let stream = StreamId::new(format!("account-{account}")).unwrap();
    let append = Append { stream, expected: ExpectedVersion::Any, events: vec![event] };
    let commit = Commit { appends: vec![append], ..Commit::default() };
    store.commit(commit).await.map(|_| id).map_err(|error| error.kind())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processors_go_on_from_what_is_there() {
    for comes in ALL {
        let mut world = World::new(comes).await;
        let store = world.backend().await;
        let _works = wiring(store.clone()).start().await.unwrap();
        let looks_on = async |world: &World| {
            let store = world.backend().await;
            let app = wiring(store.clone()).looks_on().start().await.unwrap();
            settle(&app, &store).await;
            judge(&app, &store, false).await;
        };
        deposits(&store, 30).await;
        looks_on(&world).await;
        world.keep();
        deposits(&store, 30).await;
        looks_on(&world).await;
        world.restore();
        // Below where it was, and then beyond.
        for n in [10, 40] {
            deposits(&world.backend().await, n).await;
            looks_on(&world).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_is_remembered_as_far_as_its_outcome_is_there() {
    for comes in ALL {
        let mut world = World::new(comes).await;
        let (living, ada) = (App::on(world.backend().await).start().await.unwrap(), "ada".to_owned());
        living.send(&ada, Open { owner: "Ada".to_owned() }).await.unwrap();
        let pay = async |key: &str| living.send(&ada, Deposit { amount: 1 }).idempotency_key(key).await;
        assert!(!pay("kept").await.unwrap().repeated);
        world.keep();
        assert!(!pay("lost").await.unwrap().repeated);
        assert!(pay("lost").await.unwrap().repeated);
        world.restore();
        assert!(pay("kept").await.unwrap().repeated, "{comes:?}");
        assert!(!pay("lost").await.unwrap().repeated, "{comes:?}");
        assert!(pay("lost").await.unwrap().repeated, "{comes:?}");
    }
}

/// When an event was sent, and when it was acknowledged.
const BEFORE: u8 = 0;
/// What is sent now may be lost.
const LOST: u8 = 1;
const AFTER: u8 = 2;

/// Appends until it is the end; gives what was acknowledged, and when it was sent and acknowledged.
async fn write(store: PgBackend, phase: Arc<AtomicU8>) -> Vec<(EventId, u8, u8)> {
    let mut written = Vec::new();
    let mut tick = tokio::time::interval(Duration::from_millis(4));
    loop {
        tick.tick().await;
        let sent = phase.load(Ordering::SeqCst);
        if sent > AFTER {
            return written;
        }
        match deposit(&store, written.len() as u64 % 50).await {
            Ok(id) => written.push((id, sent, phase.load(Ordering::SeqCst))),
            // Whatever happens to the server is nobody's mistake, and no damage.
            Err(kind) => assert!(matches!(kind, ErrorKind::Transient | ErrorKind::Unknown), "{kind:?}"),
        }
    }
}

/// What a reader was given, until it was told of another history.
async fn read(store: Arc<PgBackend>, phase: Arc<AtomicU8>) -> (Vec<EventId>, Option<String>) {
    let mut log = Subscription::new(store, EventFilter::all(), Position(0));
    let mut seen = Vec::new();
    loop {
        match tokio::time::timeout(Duration::from_secs(1), log.next()).await {
            Ok(Ok(event)) => seen.push(event.id),
            Ok(Err(error)) if error.kind() == ErrorKind::Misuse => return (seen, Some(error.to_string())),
            Ok(Err(error)) => assert_eq!(error.kind(), ErrorKind::Transient, "{error}"),
            Err(_) if phase.load(Ordering::SeqCst) > AFTER => return (seen, None),
            Err(_) => {}
        }
    }
}

/// Programs that end with the test, however that ends.
struct Children(Vec<Child>);

impl Drop for Children {
    fn drop(&mut self) {
        for child in &mut self.0 {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// Three processes share projections, while others write and read.
struct Crew {
    children: Children,
    folder: tempfile::TempDir,
    phase: Arc<AtomicU8>,
    writer: tokio::task::JoinHandle<Vec<(EventId, u8, u8)>>,
    reader: tokio::task::JoinHandle<(Vec<EventId>, Option<String>)>,
    /// Looks on, and lives through it as well.
    app: App,
    store: PgBackend,
}

impl Crew {
    async fn hire(url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = PgBackend::connect(url).await.unwrap();
        let app = wiring(store.clone()).looks_on().start().await.unwrap();
        let hire = |i| start("worker", url, folder.path(), &format!("w{i}"));
        let children = Children((0..3).map(hire).collect());
        let phase = Arc::new(AtomicU8::new(BEFORE));
        let other = PgBackend::connect(url).await.unwrap();
        let writer = tokio::spawn(write(other.clone(), phase.clone()));
        let reader = tokio::spawn(read(Arc::new(other), phase.clone()));
        Self { children, folder, phase, writer, reader, app, store }
    }

    fn is(&self, phase: u8) {
        self.phase.store(phase, Ordering::SeqCst);
    }

    /// Until so many more events were written, and everybody has them.
    async fn works(&self, events: u64) {
        let from = self.head().await;
        let written = async {
            while self.head().await < from + events {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LIMIT, written).await.expect("it is written");
        settle(&self.app, &self.store).await;
    }

    async fn head(&self) -> u64 {
        let head = async {
            loop {
                match self.store.head().await {
                    Ok(head) => return head.0,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Transient, "{error}"),
                }
            }
        };
        tokio::time::timeout(LIMIT, head).await.expect("the store answers")
    }

    /// Everything is as the log says, and the log has what was acknowledged of the history that is left.
    async fn ends(self, fresh: PgBackend, loses: bool) {
        let Self { mut children, folder, phase, writer, reader, app, store } = self;
        phase.store(AFTER + 1, Ordering::SeqCst);
        let (written, (seen, told)) = (writer.await.unwrap(), reader.await.unwrap());
        settle(&app, &store).await;
        judge(&app, &store, false).await;
        File::create(folder.path().join("stop")).unwrap();
        for child in &mut children.0 {
            assert!(child.wait().unwrap().success());
        }
        let all = EventFilter::all();
        let log: Vec<EventId> =
            read_all(&fresh, &all, Position(0)).await.unwrap().events.iter().map(|e| e.id).collect();
        let living = read_all(&store, &all, Position(0)).await.unwrap().events;
        assert!(living.iter().map(|e| e.id).eq(log.iter().copied()), "everybody reads the same");
        let mut lost = 0;
        for (id, sent, acknowledged) in written {
            let times = log.iter().filter(|there| **there == id).count();
            lost += usize::from(times == 0);
            if sent == AFTER || acknowledged == BEFORE {
                assert_eq!(times, 1, "sent in {sent}, acknowledged in {acknowledged}");
            }
        }
        assert_eq!(lost > 0, loses, "{lost} were lost");
        match told {
            Some(why) => assert!(why.contains("history") || why.contains("the log ends"), "{why}"),
            None => assert_eq!(seen, log),
        }
        assert_eq!(fresh.verify().await.unwrap(), [""; 0]);
    }
}

async fn crew_lives_through(comes: Comes) {
    let mut world = World::new(comes).await;
    let crew = Crew::hire(&world.url()).await;
    crew.works(100).await;
    crew.is(LOST);
    world.keep();
    crew.works(100).await;
    world.restore_under_load();
    crew.is(AFTER);
    crew.works(200).await;
    crew.ends(world.backend().await, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_live_through_a_standby_that_lost_commits() {
    crew_lives_through(Comes::Promoted).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_live_through_a_recovery_to_a_point_in_time() {
    crew_lives_through(Comes::Recovered).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_live_through_a_restore_in_place() {
    crew_lives_through(Comes::InPlace).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_live_through_a_database_that_is_swapped() {
    crew_lives_through(Comes::Swapped).await;
}

/// Until the writer has been told so often that the store does not write.
async fn refuses(database: &Database) {
    let store = PgBackend::connect(database.url()).await.unwrap();
    for _ in 0..20 {
        assert_eq!(deposit(&store, 1).await.unwrap_err(), ErrorKind::Transient);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_processes_live_through_a_time_without_writes() {
    let database = es_postgres::testing::database().await;
    let crew = Crew::hire(database.url()).await;
    crew.works(100).await;
    for _ in 0..2 {
        read_only(&database, true).await;
        run(database.url(), CUT).await;
        refuses(&database).await;
        read_only(&database, false).await;
        crew.works(50).await;
    }
    crew.ends(PgBackend::connect(database.url()).await.unwrap(), false).await;
}
