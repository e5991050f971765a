//! Processes that share jobs of a queue, without a log, while they are killed.
//!
//! `ES_CHAOS_KILLS=300 cargo test --release -p es-postgres --test it jobs -- --nocapture` is a long run.

use std::env;
use std::fs::File;
use std::path::Path;
use std::process::Child;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use es_core::cluster::StateStore;
use es_core::testing::conformance::jobs::{Jobs, Node, Wiring};
use es_postgres::PgBackend;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::processes::start;
use crate::support::{assert_sound, fresh};

const LIMIT: Duration = Duration::from_secs(180);
const LEASE: Duration = Duration::from_millis(600);
/// No job is later than this, however many nodes were killed. It is no measure, only a sanity limit.
const LATE: i64 = 120_000_000;

fn wiring() -> Wiring {
    Wiring { jobs: vec![(Jobs::new("jobs"), 2)], whole: vec!["sweep".to_owned()] }
}

/// The part of a child: works until it is killed, or told to stop.
pub(crate) async fn work(url: &str, folder: &Path) {
    let store: Arc<dyn StateStore> = loop {
        match PgBackend::connect(url).await {
            Ok(store) => break Arc::new(store),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    };
    let node = Node::start(&store, LEASE, &wiring());
    while !folder.join("stop").exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    node.stop().await;
}

/// Pushes until it is told to stop: jobs that are due, that were, and that will be. Gives how many.
async fn push(store: PgBackend, stop: Arc<AtomicBool>) -> u64 {
    let (jobs, mut rng, mut pushed) = (Jobs::new("jobs"), StdRng::seed_from_u64(7), 0);
    while !stop.load(Ordering::SeqCst) {
        let some: Vec<(u64, i64)> =
            (0..rng.random_range(1..12)).map(|i| (pushed + i, rng.random_range(-1_000..1_500))).collect();
        jobs.push(&store, &some).await.unwrap();
        pushed += some.len() as u64;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    pushed
}

#[expect(clippy::print_stderr, reason = "a long run is made for its figures")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn processes_that_are_killed_do_each_job_once() {
    let kills: u64 = env::var("ES_CHAOS_KILLS").map_or(40, |n| n.parse().unwrap());
    let began = Instant::now();
    let (database, store) = fresh().await;
    let folder = tempfile::tempdir().unwrap();
    let hire = |name: String| start("jobs", database.url(), folder.path(), &name);
    let mut crew: Vec<Child> = (0..3).map(|i| hire(format!("w{i}"))).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let pushing = tokio::spawn(push(store.clone(), stop.clone()));
    let mut rng = StdRng::seed_from_u64(13);
    for kill in 0..kills {
        tokio::time::sleep(Duration::from_millis(rng.random_range(50..400))).await;
        let mut victim = crew.swap_remove(rng.random_range(0..crew.len()));
        // SIGKILL: nobody gets to say goodbye.
        victim.kill().unwrap();
        victim.wait().unwrap();
        crew.push(hire(format!("k{kill}")));
    }
    stop.store(true, Ordering::SeqCst);
    let pushed = pushing.await.unwrap();
    let jobs = Jobs::new("jobs");
    let emptied = async {
        while jobs.waiting(&store).await.unwrap() > 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(LIMIT, emptied).await.is_err() {
        panic!("{} jobs wait: {:?}", jobs.waiting(&store).await.unwrap(), jobs.shares(&store).await);
    }
    let done = jobs.done(&store).await.unwrap();
    let each: Vec<u64> = done.iter().map(|doing| doing.job).collect();
    assert_eq!(each, (0..pushed).collect::<Vec<_>>(), "each job once");
    assert_eq!(jobs.counted(&store).await.unwrap(), pushed);
    assert!(done.iter().all(|doing| doing.at >= doing.due), "none is early");
    let latest = done.iter().map(|doing| doing.at - doing.due).max().unwrap();
    assert!(latest < LATE, "{latest} \u{b5}s late");
    let nodes: std::collections::BTreeSet<_> = done.iter().map(|doing| doing.node).collect();
    assert!(nodes.len() > 2, "they were shared");
    File::create(folder.path().join("stop")).unwrap();
    crew.iter_mut().for_each(|child| assert!(child.wait().unwrap().success()));
    assert!(jobs.owners(&store).await.unwrap().keys().eq([&None]), "all of it was given back");
    assert_sound(database.url(), &store).await;
    eprintln!(
        "{pushed} jobs, {kills} kills, {} nodes, at most {} ms late: {:?}",
        nodes.len(),
        latest / 1_000,
        began.elapsed()
    );
}
