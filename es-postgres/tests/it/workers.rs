//! Processes that share the work on projections, while they are killed and the server is restarted.
//!
//! `ES_CHAOS_KILLS=300 cargo test --release -p es-postgres --test it workers -- --nocapture` is a long run.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::fs::File;
use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use es_core::event::EventData;
use es_core::processor::ProcessorState;
use es_core::store::{Append, Commit, EventStore as _, ExpectedVersion, NewEvent, StreamId};
use es_core::{
    Aggregate, App, AppBuilder, Apply, BoxError, Event, Position, Recorded, RecordedEvent, projection, view,
};
use es_postgres::testing::{Server, Shutdown};
use es_postgres::{PgBackend, Tx};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

use crate::processes::start;

const LIMIT: Duration = Duration::from_secs(180);
const ACCOUNTS: u64 = 200;
/// Accounts that get an event which the handlers cannot take in.
const POISONABLE: u64 = 5;
const POISON: i64 = 666;

#[derive(Event, Clone, Debug, PartialEq, Serialize, Deserialize)]
#[event(prefix = "account")]
enum AccountEvent {
    Deposited(Deposited),
    Noted(Noted),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Deposited {
    amount: i64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Noted {
    digit: String,
}

#[derive(Aggregate, Clone, Default)]
#[aggregate(id = u64, event = AccountEvent, error = Refusal)]
struct Account {}

#[derive(Clone, Debug, Serialize, Deserialize, thiserror::Error)]
#[error("nothing is refused here")]
struct Refusal;

impl Apply for Account {
    fn apply(&mut self, _: &AccountEvent) {}
}

/// Whether the handlers take in everything. Set once, before a process begins to work.
static MENDED: AtomicBool = AtomicBool::new(false);

fn poisoned(event: &Deposited) -> bool {
    event.amount == POISON && !MENDED.load(Ordering::SeqCst)
}

/// A deposit, as it is stored.
pub(crate) fn deposited(amount: i64) -> EventData {
    AccountEvent::Deposited(Deposited { amount }).encode().unwrap()
}

/// What depends on every event of an account, and on their order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Chain {
    n: u64,
    sum: i64,
    hash: u64,
}

impl Chain {
    fn add(&mut self, event: &RecordedEvent, amount: i64) {
        self.n += 1;
        self.sum += amount;
        let low = u64::try_from(event.id.as_u128() & u128::from(u64::MAX)).unwrap();
        self.hash = (self.hash ^ low).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(7);
    }
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct ByAccount(Chain);

#[view(name = "by_account", version = 1, key = u64)]
impl ByAccount {
    fn deposited(&mut self, e: Recorded<'_, Deposited>) -> Result<(), BoxError> {
        if poisoned(&e) {
            return Err("poisoned".into());
        }
        self.0.add(e.record(), e.amount);
        Ok(())
    }
}

/// All accounts whose numbers end in the same digit: keys that streams share.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct ByDigit {
    sum: i64,
    n: u64,
}

#[view(name = "by_digit", version = 1, key = String)]
impl ByDigit {
    #[on(by = digit())]
    fn deposited(&mut self, e: &Deposited) {
        self.sum += e.amount;
        self.n += 1;
    }

    #[on(by = digit)]
    fn noted(&mut self, _: &Noted) {
        self.n += 1;
    }
}

impl Deposited {
    fn digit(&self) -> String {
        (self.amount % 10).to_string()
    }
}

/// One slice, in the order of the log.
struct Sums;

#[projection(
    name = "sums",
    version = 1,
    schema_sql = "create table sums (stream text primary key, n bigint not null, sum bigint not null)"
)]
impl Sums {
    async fn deposited(&self, e: Recorded<'_, Deposited>, tx: &mut Tx) -> Result<(), sqlx::Error> {
        let amount = if poisoned(&e) { "1 / 0" } else { "$2" };
        let sql = format!(
            "insert into sums values ($1, 1, {amount}) on conflict (stream)
             do update set n = sums.n + 1, sum = sums.sum + excluded.sum"
        );
        let query = sqlx::query(sqlx::AssertSqlSafe(sql)).bind(e.stream().as_str());
        if amount == "$2" { query.bind(e.amount) } else { query }.execute(&mut **tx).await.map(drop)
    }
}

/// Any number of slices: refuses an event that is not the next one of its stream.
struct Versions;

#[projection(
    name = "versions", version = 1, partition = stream,
    schema_sql = "create table versions (stream text primary key, version bigint not null)"
)]
impl Versions {
    async fn deposited(&self, e: Recorded<'_, Deposited>, tx: &mut Tx) -> Result<(), BoxError> {
        if poisoned(&e) {
            return Err("poisoned".into());
        }
        let version = i64::try_from(e.version().0)?;
        let sql = "insert into versions values ($1, $2) on conflict (stream)
                   do update set version = excluded.version where versions.version = excluded.version - 1";
        let done = sqlx::query(sql).bind(e.stream().as_str()).bind(version).execute(&mut **tx).await?;
        if done.rows_affected() == 1 { Ok(()) } else { Err(format!("{version} is not the next one").into()) }
    }
}

pub(crate) fn wiring(backend: PgBackend) -> AppBuilder<PgBackend> {
    App::on(backend)
        .view::<ByAccount>()
        .view::<ByDigit>()
        .projection(Sums)
        .projection(Versions)
        .lease(Duration::from_millis(600))
        .processor_retries(2, Duration::from_millis(5), Duration::from_millis(100))
}

/// The part of a child: works until it is killed.
pub(crate) async fn work(url: &str, folder: &Path) {
    MENDED.store(folder.join("mended").exists(), Ordering::SeqCst);
    loop {
        // The server may be away.
        if let Ok(backend) = PgBackend::connect(url).await
            && let Ok(_app) = wiring(backend).workers(2).start().await
        {
            while !folder.join("stop").exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Appends until it is told to stop; what is not acknowledged may or may not be there, and the log says.
async fn append(store: PgBackend, stop: Arc<AtomicBool>, appended: Arc<AtomicU64>, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed);
    let ids = es_core::id::Ids::default();
    let mut poison_left = POISONABLE;
    while !stop.load(Ordering::SeqCst) {
        let appends = (0..rng.random_range(1..12)).map(|_| {
            let mut account = rng.random_range(0..ACCOUNTS);
            let mut amount = rng.random_range(1..500);
            if poison_left > 0 && rng.random_range(0..300) == 0 {
                poison_left -= 1;
                (account, amount) = (poison_left, POISON);
            }
            let data = deposited(amount);
            Append {
                stream: StreamId::new(format!("account-{account}")).unwrap(),
                expected: ExpectedVersion::Any,
                events: vec![NewEvent::new(ids.next(), data, Arc::default())],
            }
        });
        let commit = Commit { appends: appends.collect(), ..Commit::default() };
        if store.commit(commit).await.is_ok() {
            appended.fetch_add(1, Ordering::SeqCst);
        }
        tokio::time::sleep(Duration::from_millis(4)).await;
    }
}

/// What a plain fold of the log gives.
#[derive(Debug, Default, PartialEq)]
struct Expected {
    accounts: BTreeMap<u64, Chain>,
    digits: BTreeMap<String, (i64, u64)>,
    parked: BTreeSet<String>,
}

async fn fold(store: &PgBackend, mended: bool) -> Expected {
    let mut expected = Expected::default();
    let mut after = Position(0);
    loop {
        let page = store.read(&es_core::store::EventFilter::all(), after, 10_000).await.unwrap();
        for event in &page.events {
            let Some(Deposited { amount }) = event.payload::<Deposited>().unwrap() else { continue };
            let digit = expected.digits.entry((amount % 10).to_string()).or_default();
            *digit = (digit.0 + amount, digit.1 + 1);
            let stream = event.stream.as_str();
            if amount == POISON && !mended {
                expected.parked.insert(stream.to_owned());
            }
            if !expected.parked.contains(stream) {
                let account = stream.strip_prefix("account-").unwrap().parse().unwrap();
                expected.accounts.entry(account).or_default().add(event, amount);
            }
        }
        after = page.through;
        if !page.more {
            return expected;
        }
    }
}

pub(crate) async fn judge(app: &App, store: &PgBackend, mended: bool) {
    let expected = fold(store, mended).await;
    let mut accounts = BTreeMap::new();
    let views: &es_core::Views = app.services().get().unwrap();
    views.for_each::<ByAccount>(|key, row| accounts.extend([(key, row.0)])).await.unwrap();
    // The row of a key that failed at once was never written.
    accounts.retain(|_, chain| chain.n > 0);
    assert_eq!(accounts, expected.accounts);
    let mut digits = BTreeMap::new();
    views.for_each::<ByDigit>(|key, row| digits.extend([(key, (row.sum, row.n))])).await.unwrap();
    assert_eq!(digits, expected.digits);
    let chains = expected.accounts.iter().map(|(account, chain)| (format!("account-{account}"), chain));
    let sums: Vec<(String, i64, i64)> =
        sqlx::query_as("select stream, n, sum from sums").fetch_all(&store.db()).await.unwrap();
    let sums: BTreeMap<String, (i64, i64)> = sums.into_iter().map(|(s, n, sum)| (s, (n, sum))).collect();
    let n = |chain: &Chain| i64::try_from(chain.n).unwrap();
    assert_eq!(sums, chains.clone().map(|(stream, c)| (stream, (n(c), c.sum))).collect());
    let versions: Vec<(String, i64)> =
        sqlx::query_as("select stream, version from versions").fetch_all(&store.db()).await.unwrap();
    let versions: BTreeMap<String, i64> = versions.into_iter().collect();
    assert_eq!(versions, chains.map(|(stream, c)| (stream, n(c))).collect());
    for processor in app.processors() {
        let parked: BTreeSet<String> =
            processor.parked(None, 1_000).await.unwrap().into_iter().map(|s| s.key).collect();
        let of_view = |stream: &String| stream.strip_prefix("account-").unwrap().to_owned();
        let wanted = match processor.name() {
            "by_account/1" => expected.parked.iter().map(of_view).collect(),
            "by_digit/1" => BTreeSet::new(),
            _ => expected.parked.clone(),
        };
        assert_eq!(parked, wanted, "{}", processor.name());
    }
}

pub(crate) async fn settle(app: &App, store: &PgBackend) {
    let head = store.head().await.unwrap();
    for processor in app.processors() {
        if let Err(late) = processor.reach(head, LIMIT).await {
            panic!("{}; {:?}", es_core::chain(&late), processor.status());
        }
        assert!(!matches!(processor.status().state, ProcessorState::Halted { .. }));
    }
}

#[expect(clippy::print_stderr, reason = "a long run is made for its figures")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_are_killed_share_projections_that_equal_a_plain_fold() {
    let kills: u64 = env::var("ES_CHAOS_KILLS").map_or(15, |n| n.parse().unwrap());
    let began = Instant::now();
    let server = Arc::new(tokio::task::spawn_blocking(Server::start).await.unwrap().unwrap());
    let database = server.database().await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = PgBackend::connect(database.url()).await.unwrap();
    // Makes the tables, so that the children need not; and looks on.
    let app = wiring(store.clone()).looks_on().start().await.unwrap();
    let hire = |name: String| start("worker", database.url(), folder.path(), &name);
    let mut crew: Vec<Child> = (0..3).map(|i| hire(format!("w{i}"))).collect();
    let (stop, appended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let writing = tokio::spawn(append(store.clone(), stop.clone(), appended.clone(), 7));
    let mut rng = StdRng::seed_from_u64(11);
    let mut restarts = 0;
    for kill in 0..kills {
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..400))).await;
        let mut victim = crew.swap_remove(rng.random_range(0..crew.len()));
        // SIGKILL: nobody gets to say goodbye.
        victim.kill().unwrap();
        victim.wait().unwrap();
        crew.push(hire(format!("k{kill}")));
        if kill % 15 == 7 {
            let server = server.clone();
            let how = if restarts % 2 == 0 { Shutdown::Immediate } else { Shutdown::Fast };
            tokio::task::spawn_blocking(move || server.restart(how)).await.unwrap().unwrap();
            restarts += 1;
        }
    }
    stop.store(true, Ordering::SeqCst);
    writing.await.unwrap();
    settle(&app, &store).await;
    judge(&app, &store, false).await;

    // The handlers are mended, and somebody asks for what was parked.
    File::create(folder.path().join("mended")).unwrap();
    for mut child in crew.drain(..) {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    crew.extend((0..3).map(|i| hire(format!("m{i}"))));
    let mut retried = 0;
    for processor in app.processors() {
        for sequence in processor.parked(None, 1_000).await.unwrap() {
            let left = processor.retry(&sequence.key, LIMIT).await.unwrap();
            assert_eq!(left, None, "{} of {}", sequence.key, processor.name());
            retried += sequence.events;
        }
    }
    settle(&app, &store).await;
    judge(&app, &store, true).await;
    File::create(folder.path().join("stop")).unwrap();
    crew.iter_mut().for_each(|child| assert!(child.wait().unwrap().success()));
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
    eprintln!(
        "{} events, {kills} kills, {restarts} restarts, {retried} events handled again: {:?}",
        store.head().await.unwrap(),
        began.elapsed()
    );
}

/// Half of 5,000 events a second, as far as the machine can. One in ten is for SQL: that is a statement each.
async fn flood(store: PgBackend, stop: Arc<AtomicBool>) -> u64 {
    let ids = es_core::id::Ids::default();
    let mut appended = 0;
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    while !stop.load(Ordering::SeqCst) {
        tick.tick().await;
        let appends = (0..50_u64).map(|i| {
            let event = match i % 10 {
                0 => AccountEvent::Deposited(Deposited { amount: 1 }),
                digit => AccountEvent::Noted(Noted { digit: digit.to_string() }),
            };
            let data = event.encode().unwrap();
            Append {
                stream: StreamId::new(format!("account-{i}")).unwrap(),
                expected: ExpectedVersion::Any,
                events: vec![NewEvent::new(ids.next(), data, Arc::default())],
            }
        });
        store.commit(Commit { appends: appends.collect(), ..Commit::default() }).await.unwrap();
        appended += 50;
    }
    appended
}

/// What a reader sees of both projections: how many events they have taken in.
async fn counts(app: &App, store: &PgBackend) -> (i64, u64) {
    let sums = sqlx::query_scalar("select coalesce(sum(n), 0)::bigint from sums");
    let views: &es_core::Views = app.services().get().unwrap();
    let mut digits = 0;
    views.for_each::<ByDigit>(|_, row| digits += row.n).await.unwrap();
    (sums.fetch_one(&store.db()).await.unwrap(), digits)
}

#[expect(clippy::print_stderr, reason = "the rate is worth knowing")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_online_rebuild_beside_many_appends_shows_nobody_less_than_before() {
    let database = es_postgres::testing::database().await;
    let store = PgBackend::connect(database.url()).await.unwrap();
    let app = App::on(store.clone()).view::<ByDigit>().projection(Sums).start().await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let began = Instant::now();
    let writers: Vec<_> = (0..2).map(|_| tokio::spawn(flood(store.clone(), stop.clone()))).collect();
    app.wait_for::<Sums>(Position(2_000), LIMIT).await.unwrap();
    app.wait_for::<ByDigit>(Position(2_000), LIMIT).await.unwrap();
    let reads = tokio::spawn({
        let (app, store, stop) = (app.clone(), store.clone(), stop.clone());
        async move {
            let (mut least, mut n) = ((200, 2_000), 0_u64);
            while !stop.load(Ordering::SeqCst) {
                let seen = counts(&app, &store).await;
                assert!(seen.0 >= least.0 && seen.1 >= least.1, "{seen:?} after {least:?}");
                (least, n) = (seen, n + 1);
            }
            n
        }
    });
    for processor in app.processors() {
        let rebuild = processor.rebuild_online(es_core::processor::RebuildOptions::default()).await.unwrap();
        rebuild.caught_up(LIMIT).await.unwrap();
        rebuild.switch().await.unwrap();
        // It goes on as the one that is read, and the way back is open.
        let head = store.head().await.unwrap();
        let reached = async {
            while processor.status().generation != rebuild.generation() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            processor.wait_for(head, LIMIT).await.unwrap();
        };
        tokio::time::timeout(LIMIT, reached).await.unwrap();
        processor.roll_back().await.unwrap();
        processor.drop_previous().await.unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    let mut appended = 0;
    for writer in writers {
        appended += writer.await.unwrap();
    }
    let took = began.elapsed();
    let n = reads.await.unwrap();
    let head = store.head().await.unwrap();
    let settled = async {
        while counts(&app, &store).await != (i64::try_from(head.0 / 10).unwrap(), head.0) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LIMIT, settled).await.expect("both have everything");
    eprintln!("{appended} events in {took:?}, looked at {n} times");
}
