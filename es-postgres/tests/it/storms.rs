//! Connections that die and servers that stop, under load: what was acknowledged is there once, and what became unknown
//! is found out for good.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use es_core::ErrorKind;
use es_core::store::{
    Attempt, Backend as _, Commit, CommitError, EventFilter, EventId, EventStore as _, Position, Resolution,
    Transaction as _, Version, read_all,
};
use es_postgres::PgBackend;
use es_postgres::testing::{self, Database, Server, Shutdown};
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};
use tokio::time::timeout;

use crate::support::{LIMIT, commit, exact, ids, mark, new_id, run, with};

/// What a writer was told about its events.
#[derive(Default)]
struct Told {
    applied: Vec<EventId>,
    never: Vec<EventId>,
    unknown: Vec<(Attempt, Resolution)>,
}

/// Writes until it is told to stop. Finds out about everything that becomes unknown.
async fn write(store: PgBackend, name: String, stop: Arc<AtomicBool>) -> Told {
    let mut told = Told::default();
    let mut version = Version(0);
    for turn in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let one = match turn % 4 {
            0 => commit("shared"),
            1 => Commit { outcomes: vec![mark(&new_id().to_string(), &name)], ..commit("shared") },
            _ => exact(&name, version.0),
        };
        let mine = ids(&one);
        let own = turn % 4 > 1;
        let outcome = if turn % 4 == 3 { within(&store, one).await } else { store.commit(one).await };
        let applied = match outcome {
            Ok(_) => true,
            Err(CommitError::Unknown(attempt)) => {
                let resolution = resolve(&store, &attempt).await;
                let applied = matches!(resolution, Resolution::Applied(_));
                told.unknown.push((*attempt, resolution));
                applied
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Transient, "{name}: {}", es_core::chain(&error));
                // Nobody is there now: no need to ask at full speed.
                tokio::time::sleep(Duration::from_millis(5)).await;
                false
            }
        };
        if applied && own {
            version.0 += 1;
        }
        if applied { &mut told.applied } else { &mut told.never }.extend(mine);
    }
    told
}

async fn within(store: &PgBackend, one: Commit) -> Result<es_core::store::Committed, CommitError> {
    let mut tx = store.begin().await?;
    let insert = sqlx::query("insert into mine values ($1)").bind(ids(&one)[0]).execute(&mut *tx).await;
    if let Err(e) = insert {
        return Err(es_core::store::StoreError::transient("a test", e).into());
    }
    *tx.staged() = one;
    tx.commit().await
}

async fn resolve(store: &PgBackend, attempt: &Attempt) -> Resolution {
    let resolved = timeout(LIMIT, async {
        loop {
            match store.resolve(attempt).await {
                Ok(resolution) => return resolution,
                Err(e) => assert_eq!(e.kind(), ErrorKind::Transient, "{}", es_core::chain(&e)),
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
    resolved.await.expect("somebody knows")
}

/// Two instances, eight writers, and whatever happens to them meanwhile.
async fn storm(database: &Database, rounds: u64, mut strike: impl AsyncFnMut(u64)) {
    let stores = [
        with(database, |o| o.with_connections(4)).await,
        with(database, |o| o.with_connections(4).with_notify(false)).await,
    ];
    run(database.url(), "create table mine (id uuid)").await;
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..8_usize)
        .map(|i| tokio::spawn(write(stores[i % 2].clone(), format!("own-{i}"), stop.clone())))
        .collect();
    for round in 0..rounds {
        let goal = until_head(&stores[0], Position(0)).await.0 + 40;
        until_head(&stores[0], Position(goal)).await;
        strike(round).await;
    }
    stop.store(true, Ordering::Relaxed);
    let told = timeout(LIMIT, futures::future::try_join_all(writers)).await.expect("they end").unwrap();
    settle(database, &told).await;
}

/// Asks a store that may be out of reach, until its head is there.
async fn until_head(store: &PgBackend, goal: Position) -> Position {
    let reached = timeout(LIMIT, async {
        loop {
            match store.head().await {
                Ok(head) if head >= goal => return head,
                _ => tokio::time::sleep(Duration::from_millis(2)).await,
            }
        }
    });
    reached.await.expect("the log goes on")
}

async fn settle(database: &Database, told: &[Told]) {
    let fresh = PgBackend::connect(database.url()).await.unwrap();
    let stored = read_all(&fresh, &EventFilter::all(), Position(0)).await.unwrap().events;
    let mut times: HashMap<EventId, usize> = HashMap::new();
    stored.iter().for_each(|e| *times.entry(e.id).or_default() += 1);
    assert!(times.values().all(|n| *n == 1), "there are copies");
    let applied: HashSet<EventId> = told.iter().flat_map(|t| &t.applied).copied().collect();
    let never: HashSet<EventId> = told.iter().flat_map(|t| &t.never).copied().collect();
    assert!(applied.iter().all(|id| times.contains_key(id)), "what was acknowledged is missing");
    assert!(never.iter().all(|id| !times.contains_key(id)), "what was never applied is there");
    assert_eq!(times.len(), applied.len(), "somebody else has written");
    // Asked again elsewhere, the answer is the same.
    for (attempt, resolution) in told.iter().flat_map(|t| &t.unknown) {
        assert_eq!(fresh.resolve(attempt).await.unwrap(), *resolution);
    }
    let mut rows: Vec<EventId> =
        sqlx::query_scalar("select id from mine").fetch_all(&fresh.db()).await.unwrap();
    rows.sort();
    rows.dedup();
    assert!(rows.iter().all(|id| applied.contains(id)), "a row without its event");
    assert_eq!(fresh.verify().await.unwrap(), [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_killed_in_the_middle_of_commits_lose_and_double_nothing() {
    let database = testing::database().await;
    let mut killer = PgConnection::connect(database.url()).await.unwrap();
    storm(&database, 25, async |round| {
        // All of them, or those that are just writing.
        let which = if round % 2 == 0 { "true" } else { "state = 'active'" };
        let kill = format!(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid() and {which}"
        );
        killer.execute(sqlx::AssertSqlSafe(kill)).await.unwrap();
    })
    .await;
}

async fn restarts(how: [Shutdown; 4]) {
    let server = Arc::new(tokio::task::spawn_blocking(Server::start).await.unwrap().unwrap());
    let database = server.database().await.unwrap();
    storm(&database, how.len() as u64, async |round| {
        let server = server.clone();
        let how = how[usize::try_from(round).unwrap()];
        tokio::task::spawn_blocking(move || server.restart(how)).await.unwrap().unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_restarted_under_load_loses_and_doubles_nothing() {
    restarts([Shutdown::Fast; 4]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_crashes_under_load_loses_and_doubles_nothing() {
    restarts([Shutdown::Immediate; 4]).await;
}
