//! The same deploy on a server and on a file.

use std::collections::BTreeSet;
use std::env;
use std::path::Path;
use std::time::{Duration, Instant};

use es_core::store::{EventFilter, EventStore, Position, read_all};
use es_postgres::{PgBackend, testing};
use es_sqlite::SqliteBackend;
use rand::RngExt as _;

use crate::fleet::Fleet;
use crate::roll::forward_and_back;

/// A version that no process runs stays, or goes soon and is built again by the next one that runs it.
const KEPT: [Duration; 2] = [Duration::from_hours(1), Duration::from_millis(1)];

#[expect(clippy::print_stderr, reason = "the seed repeats a run that failed")]
fn rounds(what: &str, mut round: impl FnMut(u64, Duration) -> Fleet) {
    let rounds: u64 = env::var("ES_DEPLOYS_ROUNDS").map_or(1, |rounds| rounds.parse().unwrap());
    let first =
        env::var("ES_DEPLOYS_SEED").map_or_else(|_| rand::rng().random(), |seed| seed.parse().unwrap());
    for seed in (0..rounds).map(|round| u64::wrapping_add(first, round)) {
        let began = Instant::now();
        eprintln!("{what}: ES_DEPLOYS_SEED={seed}");
        let fleet = round(seed, KEPT[usize::from(seed % 2 == 1)]);
        let Fleet { done, kills, checks, .. } = &fleet;
        eprintln!("{done} commands, {kills} kills, {checks} checks in {:?}", began.elapsed());
    }
}

/// Each payment had its effect at least once.
async fn all_had_their_effect(store: &dyn EventStore, effects: &Path) {
    let log = read_all(store, &EventFilter::all(), Position(0)).await.unwrap();
    let seen = std::fs::read_to_string(effects).unwrap();
    let seen: BTreeSet<&str> = seen.lines().collect();
    let mut payments = log.events.iter().filter(|event| &*event.name == "account.deposited");
    let missed = payments.find(|event| !seen.contains(&*event.id.to_string()));
    assert!(missed.is_none(), "{missed:?}");
}

#[test]
fn a_rolling_deploy_and_a_rollback_on_postgresql() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    rounds("postgresql", |seed, kept| {
        let database = runtime.block_on(testing::database());
        let folder = tempfile::tempdir().unwrap();
        let mut fleet = Fleet::new(database.url().to_owned(), folder.path().to_owned(), kept, seed);
        forward_and_back(&mut fleet, 2);
        runtime.block_on(async {
            let store = PgBackend::connect(database.url()).await.unwrap();
            all_had_their_effect(&store, &fleet.effects()).await;
            assert_eq!(store.verify().await.unwrap(), [""; 0]);
        });
        fleet
    });
}

#[test]
fn a_rolling_deploy_and_a_rollback_on_a_file() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    rounds("sqlite", |seed, kept| {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("bank.db");
        let mut fleet = Fleet::new(file.to_str().unwrap().to_owned(), folder.path().to_owned(), kept, seed);
        forward_and_back(&mut fleet, 1);
        runtime.block_on(async {
            let store = SqliteBackend::open(&file).await.unwrap();
            all_had_their_effect(&store, &fleet.effects()).await;
            assert_eq!(store.verify().await.unwrap(), [""; 0]);
        });
        fleet
    });
}
