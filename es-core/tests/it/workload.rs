//! A random workload on the simulated store: what was acknowledged is there, once, whatever happened.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use es_core::command::RetryPolicy;
use es_core::store::{EventFilter, EventStore, Position, Subscription, read_all};
use es_core::testing::conformance::domain::{Account, AccountEvent, Deposit, Donate, Open, Withdraw};
use es_core::testing::conformance::readside::Balance;
use es_core::testing::{Counts, Faults, SeededEntropy, SimStore, TestClock, seed_from_env_or};
use es_core::{App, Apply, CommandError, Event, RecordedEvent, Views};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

const SEEDS: u64 = 50;
const ACCOUNTS: usize = 5;
const WRITERS: u64 = 4;
const COMMANDS: usize = 25;
const LIMIT: Duration = Duration::from_secs(600);

/// What the clients were told.
#[derive(Debug, Default)]
struct History {
    /// Stream and version of the last event of each acknowledged command, by the key it was sent under.
    acknowledged: BTreeMap<String, (String, u64, Vec<AccountEvent>)>,
    /// Keys whose command was refused.
    refused: Vec<String>,
    n_repeated: usize,
}

#[test]
fn nothing_acknowledged_is_lost_and_each_key_acts_once() {
    let mut counts = Counts::default();
    match std::env::var_os("ES_SIM_SEED") {
        Some(_) => counts += run(seed_from_env_or(0)),
        None => {
            (0..SEEDS).for_each(|seed| counts += run(seed));
            assert_interesting(counts);
        }
    }
}

#[test]
fn a_seed_repeats_its_run() {
    for seed in 0..5 {
        assert_eq!(run(seed), run(seed), "seed {seed}");
    }
}

/// A run that did not meet its faults has proven nothing.
fn assert_interesting(counts: Counts) {
    let Counts { refused, failed, applied_late, fenced, resolved_applied, resolved_never, .. } = counts;
    for (what, count, least) in [
        ("conflict", refused, 200),
        ("failure", failed, 200),
        ("late commit", applied_late, 20),
        ("late commit that was fenced", fenced, 100),
        ("unknown that was applied", resolved_applied, 200),
        ("unknown that was not", resolved_never, 200),
        ("failed read", counts.failed_reads, 200),
        ("lost wake-up", counts.lost_wakes, 100),
        ("late wake-up", counts.late_wakes, 100),
    ] {
        assert!(count >= least, "only {count} times: {what} ({counts:?})");
    }
}

fn run(seed: u64) -> Counts {
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let sim = SimStore::with_clock(seed, TestClock::default()).with_faults(Faults::heavy());
        let history = Arc::new(Mutex::new(History::default()));
        // Two nodes on one store: they meet only there.
        let nodes = [node(&sim, seed).await, node(&sim, seed + 1_000).await];
        let writers = (0..WRITERS).zip(nodes.iter().cycle());
        let writers = writers.map(|(w, node)| write(node.clone(), history.clone(), seed * 100 + w));
        let (seen, _) = futures::join!(subscribe(&sim, &history), futures::future::join_all(writers));
        sim.heal();
        let history = std::mem::take(&mut *history.lock().unwrap());
        check(&sim, &nodes, &history, &seen).await;
        for node in &nodes {
            assert!(node.shutdown(LIMIT).await);
        }
        sim.counts()
    })
}

async fn node(sim: &SimStore, seed: u64) -> App {
    let policy = RetryPolicy::default().with_attempts(30);
    loop {
        let app = App::on(sim.clone())
            .view::<Balance>()
            .entropy(SeededEntropy::new(seed))
            .clock(TestClock::default());
        // A store that does not answer at start is met again, as by a program that is started again.
        if let Ok(app) = app.retry(policy).command_timeout(LIMIT).start().await {
            return app;
        }
    }
}

/// Commands under keys, some of them sent twice, as by a client that did not get its answer.
async fn write(app: App, history: Arc<Mutex<History>>, seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    for i in 0..COMMANDS {
        let (id, key) = (random.random_range(0..ACCOUNTS).to_string(), format!("{seed}-{i}"));
        let amount = random.random_range(1..50);
        let kind = random.random_range(0..4);
        for _ in 0..=usize::from(random.random_bool(0.2)) {
            let outcome = match kind {
                0 => app.send(&id, Open { owner: key.clone() }).idempotency_key(&key).await,
                1 => app.send(&id, Deposit { amount }).idempotency_key(&key).await,
                2 => app.send(&id, Withdraw { amount }).idempotency_key(&key).await,
                _ => app.send(&id, Donate { amount }).idempotency_key(&key).await,
            };
            note(&mut history.lock().unwrap(), &key, &id, outcome);
        }
    }
}

type Answer = Result<es_core::Done<AccountEvent>, CommandError<<Account as es_core::Aggregate>::Error>>;

fn note(history: &mut History, key: &str, id: &str, outcome: Answer) {
    match outcome {
        Ok(done) => {
            let told = (format!("account-{id}"), done.version.0, done.events);
            history.n_repeated += usize::from(done.repeated);
            let before = history.acknowledged.insert(key.to_owned(), told.clone());
            assert!(before.is_none_or(|before| before == told), "the same key, the same answer: {key}");
        }
        Err(CommandError::Refused(_)) => history.refused.push(key.to_owned()),
        // Not remembered, since nothing was decided: sent again it may go through.
        Err(CommandError::NotFound { .. } | CommandError::AlreadyExists { .. }) => {}
        Err(error) => panic!("{key}: {error:?}"),
    }
}

/// One reader from the start, over all failures, until the writers are through and it has caught up.
async fn subscribe(sim: &SimStore, history: &Mutex<History>) -> Vec<RecordedEvent> {
    let mut subscription = Subscription::new(Arc::new(sim.clone()), EventFilter::all(), Position(0));
    let mut seen = Vec::new();
    loop {
        match tokio::time::timeout(Duration::from_secs(30), subscription.next()).await {
            Ok(Ok(event)) => seen.push(event),
            Ok(Err(error)) => assert_eq!(error.kind(), es_core::ErrorKind::Transient),
            // Thirty virtual seconds without an event: nobody writes any more.
            Err(_) if !history.lock().unwrap().acknowledged.is_empty() => return seen,
            Err(_) => {}
        }
    }
}

async fn check(sim: &SimStore, nodes: &[App], history: &History, seen: &[RecordedEvent]) {
    let log = read_all(sim, &EventFilter::all(), Position(0)).await.unwrap().events;
    assert_eq!(seen, log, "a subscriber saw the whole log, once, in order");
    let mut accounts = BTreeMap::<String, (Account, u64, u64)>::new();
    let mut by_place = BTreeMap::new();
    for (i, stored) in log.iter().enumerate() {
        assert_eq!(stored.place().0, i as u64 + 1);
        let (account, version, payments) = accounts.entry(stored.stream.to_string()).or_default();
        *version += 1;
        assert_eq!(stored.version.0, *version);
        for event in AccountEvent::decode(stored).unwrap() {
            *payments += u64::from(!matches!(event, AccountEvent::Opened(_)));
            account.apply(&event);
            by_place.insert((stored.stream.to_string(), stored.version.0), event);
        }
    }
    let mut acknowledged = 0;
    for (key, (stream, version, events)) in &history.acknowledged {
        let first = version + 1 - events.len() as u64;
        for (i, event) in events.iter().enumerate() {
            assert_eq!(
                by_place.get(&(stream.clone(), first + i as u64)),
                Some(event),
                "{key} was acknowledged"
            );
            acknowledged += 1;
        }
        assert!(!history.refused.contains(key), "{key} has one outcome");
    }
    assert_eq!(acknowledged, log.len(), "each key acted once, and nothing else did");
    for node in nodes {
        node.settle(LIMIT).await.unwrap();
        let views: &Views = node.services().get().unwrap();
        for (stream, (account, _, payments)) in &accounts {
            let key = stream.strip_prefix("account-").unwrap().to_owned();
            assert!(account.balance >= 0 || *payments > 0);
            let row = views.get::<Balance>(&key).await.unwrap().unwrap();
            assert_eq!(
                row,
                Balance { amount: account.balance, n_payments: *payments },
                "the row is the fold of the log"
            );
            assert_eq!(node.load::<Account>(&key).await.unwrap().unwrap().state, *account);
        }
    }
    assert!(history.n_repeated > 0, "some requests were repeated");
    assert_eq!(sim.head().await.unwrap().0, log.len() as u64);
}
