//! Real processes on one store: this program starts itself, and each child plays a part.
//!
//! `ES_CHAOS_EVENTS=1000000 cargo test --release -p es-postgres --test it chaos -- --nocapture` is a long run.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs::{self, File};
use std::hash::{Hash as _, Hasher as _};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use es_core::ErrorKind;
use es_core::store::{
    Attempt, Backend as _, Commit, CommitError, Committed, EventFilter, EventId, EventStore as _,
    ExpectedVersion, Position, RecordedEvent, Resolution, Subscription, Transaction as _, Version,
};
use es_postgres::testing::{self, Server, Shutdown};
use es_postgres::{PgBackend, PgOptions};
use tempfile::TempDir;

use crate::support::{append, connect, mark, new_id, run, stream};

/// Which part a child plays; it plays none without it.
const PART: &str = "ES_TEST_PART";
const URL: &str = "ES_TEST_URL";
const FOLDER: &str = "ES_TEST_FOLDER";
const NAME: &str = "ES_TEST_NAME";

/// How long the parts of a short run may take. It only ends a test that fails.
const LIMIT: Duration = Duration::from_secs(120);

pub(crate) fn start(part: &str, url: &str, folder: &Path, name: &str) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["processes::part_of_a_child", "--exact", "--nocapture", "--test-threads=1"]);
    command.env(PART, part).env(URL, url).env(FOLDER, folder).env(NAME, name);
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn part_of_a_child() {
    let Ok(part) = env::var(PART) else { return };
    let (url, name) = (env::var(URL).unwrap(), env::var(NAME).unwrap());
    let folder = PathBuf::from(env::var(FOLDER).unwrap());
    match &*part {
        "echo" => echo(&url).await,
        "writer" => writer(&url, &folder, &name).await,
        "reader" => reader(&url, &folder, &name).await,
        "worker" => crate::workers::work(&url, &folder).await,
        "jobs" => crate::jobs::work(&url, &folder).await,
        "switcher" => crate::generations::switch_often(&url).await,
        other => panic!("no part {other}"),
    }
}

async fn patient<T, E: std::fmt::Debug>(mut ask: impl AsyncFnMut() -> Result<T, E>) -> T {
    loop {
        match ask().await {
            Ok(answer) => return answer,
            // Nobody is there now: no need to ask at full speed.
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// Answers each event of `ping` with one in `pong`, and ends at the twentieth.
async fn echo(url: &str) {
    let store = Arc::new(PgBackend::connect(url).await.unwrap());
    let mut subscription = Subscription::new(store.clone(), EventFilter::all(), Position(0));
    let mut seen = 0;
    while seen < 20 {
        let event = subscription.next().await.unwrap();
        if event.stream == stream("ping") {
            seen += 1;
            store.commit(append("pong", ExpectedVersion::Exact(Version(seen - 1)), 1)).await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_processes_see_each_others_appends_at_once_and_keep_one_order() {
    let database = testing::database().await;
    let folder = tempfile::tempdir().unwrap();
    let store = Arc::new(PgBackend::connect(database.url()).await.unwrap());
    let mut child = start("echo", database.url(), folder.path(), "echo");
    let mut answers = Subscription::new(store.clone(), EventFilter::all(), Position(0));
    for turn in 0..20 {
        store.commit(append("ping", ExpectedVersion::Exact(Version(turn)), 1)).await.unwrap();
        let answered = tokio::time::timeout(LIMIT, async {
            while answers.next().await.unwrap().stream != stream("pong") {}
        });
        answered.await.expect("the other process answers");
        // Whoever was answered sees the answer in any other way, too.
        assert_eq!(store.head().await.unwrap(), Position(2 * (turn + 1)));
    }
    assert!(child.wait().unwrap().success());
    let events = store.read(&EventFilter::all(), Position(0), 100).await.unwrap().events;
    let names: Vec<&str> = events.iter().map(|e| e.stream.as_str()).collect();
    assert_eq!(names, ["ping", "pong"].repeat(20));
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
}

/// Appends as fast as it can, and writes down what was acknowledged before it goes on.
async fn writer(url: &str, folder: &Path, name: &str) {
    let options = PgOptions::new(url).unwrap().with_connections(4);
    let store = patient(async || PgBackend::connect_with(options.clone()).await).await;
    let tasks = (0..12_u64).map(|task| {
        let (store, folder, name) = (store.clone(), folder.to_owned(), format!("{name}-{task}"));
        tokio::spawn(async move {
            let mut acknowledged = File::create(folder.join(format!("acks-{name}"))).unwrap();
            let (mut own, mut turn) = (Version(0), task);
            while !folder.join("stop").exists() {
                turn += 1;
                write_one(&store, &name, turn, &mut own, &mut acknowledged).await;
            }
        })
    });
    futures::future::try_join_all(tasks).await.unwrap();
}

async fn write_one(store: &PgBackend, name: &str, turn: u64, own: &mut Version, acknowledged: &mut File) {
    let n = usize::try_from(1 + turn % 7).unwrap();
    let mine = turn % 5 < 2;
    let one = match turn % 5 {
        0 | 1 => append(name, ExpectedVersion::Exact(*own), n),
        2 => append(&format!("shared-{}", turn % 11), ExpectedVersion::Any, n),
        // Many processes know its version: most are wrong.
        3 => append("contended", ExpectedVersion::Exact(version(store, "contended").await), 1),
        _ => Commit {
            outcomes: vec![mark(&new_id().to_string(), name)],
            ..append("keyed", ExpectedVersion::Any, n)
        },
    };
    let first = one.appends[0].events[0].id;
    let outcome = match turn % 10 {
        4 => rolled_back(store, one).await,
        6 => within(store, one).await,
        _ => store.commit(one).await,
    };
    let committed = match outcome {
        Ok(committed) => committed,
        Err(CommitError::Unknown(attempt)) => match settled(store, &attempt).await {
            Resolution::Applied(committed) => committed,
            Resolution::Never => return,
        },
        Err(error) => match error.kind() {
            ErrorKind::Conflict => return,
            ErrorKind::Transient => return tokio::time::sleep(Duration::from_millis(5)).await,
            _ => panic!("{}", es_core::chain(&error)),
        },
    };
    if mine {
        *own = committed.versions[0];
    }
    // The position of its last event, and its first event.
    writeln!(acknowledged, "{} {first}", committed.position.0).unwrap();
}

/// An empty append says where a stream is.
async fn version(store: &PgBackend, name: &str) -> Version {
    let asked = store.commit(append(name, ExpectedVersion::Any, 0)).await;
    asked.map_or(Version(0), |committed| committed.versions[0])
}

async fn within(store: &PgBackend, one: Commit) -> Result<Committed, CommitError> {
    let mut tx = store.begin().await?;
    let insert = sqlx::query("insert into mine values ($1)").bind(one.appends[0].events[0].id);
    insert.execute(&mut *tx).await.map_err(|e| es_core::store::StoreError::transient("a test", e))?;
    *tx.staged() = one;
    tx.commit().await
}

/// Undone: a conflict for whoever asked.
async fn rolled_back(store: &PgBackend, one: Commit) -> Result<Committed, CommitError> {
    let mut tx = store.begin().await?;
    let insert = sqlx::query("insert into mine values ($1)").bind(one.appends[0].events[0].id);
    insert.execute(&mut *tx).await.map_err(|e| es_core::store::StoreError::transient("a test", e))?;
    *tx.staged() = one;
    tx.rollback().await?;
    let (table, key) = ("undone".into(), String::new());
    Err(CommitError::Fenced { table, key, expected: 0, actual: 0 })
}

async fn settled(store: &PgBackend, attempt: &Attempt) -> Resolution {
    loop {
        match store.resolve(attempt).await {
            Ok(resolution) => return resolution,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

/// The ids of all events up to here, in their order, as one number.
#[derive(Default)]
struct Sequence {
    hasher: DefaultHasher,
    position: u64,
}

impl Sequence {
    fn take(&mut self, event: &RecordedEvent) {
        self.position += 1;
        assert_eq!(event.position, Some(Position(self.position)), "no hole and no copy");
        event.id.hash(&mut self.hasher);
    }

    fn line(&self) -> String {
        format!("{} {}", self.position, self.hasher.finish())
    }
}

/// Four subscriptions, to the end that somebody writes down. Each writes down what it saw now and then.
async fn reader(url: &str, folder: &Path, name: &str) {
    let options = PgOptions::new(url).unwrap().with_readers(4);
    let store = Arc::new(patient(async || PgBackend::connect_with(options.clone()).await).await);
    let all = (0..4).map(|i| {
        let (store, folder) = (store.clone(), folder.to_owned());
        let mut seen = File::create(folder.join(format!("seen-{name}-{i}"))).unwrap();
        tokio::spawn(async move {
            let mut subscription = Subscription::new(store, EventFilter::all(), Position(0));
            let mut sequence = Sequence::default();
            loop {
                match tokio::time::timeout(Duration::from_millis(200), subscription.next()).await {
                    Ok(Ok(event)) => {
                        sequence.take(&event);
                        if sequence.position % 1_000 == 0 {
                            writeln!(seen, "{}", sequence.line()).unwrap();
                        }
                    }
                    Ok(Err(_)) => tokio::time::sleep(Duration::from_millis(5)).await,
                    Err(_nothing_new) => {
                        let end = fs::read_to_string(folder.join("end")).unwrap_or_default();
                        if end.parse() == Ok(sequence.position) {
                            break;
                        }
                    }
                }
            }
            writeln!(seen, "{}", sequence.line()).unwrap();
        })
    });
    futures::future::try_join_all(all).await.unwrap();
}

struct Crew {
    url: String,
    folder: TempDir,
    writers: Vec<Child>,
    started: usize,
}

impl Crew {
    fn hire(&mut self) {
        self.started += 1;
        let name = format!("w{}", self.started);
        self.writers.push(start("writer", &self.url, self.folder.path(), &name));
    }
}

#[expect(clippy::print_stderr, reason = "a long run is made for its figures")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn chaos_loses_nothing_doubles_nothing_and_shows_everybody_one_sequence() {
    let goal: u64 = env::var("ES_CHAOS_EVENTS").map_or(20_000, |n| n.parse().unwrap());
    // A short run must end; a long one takes as long as it is long.
    let limit = LIMIT + Duration::from_millis(goal);
    let began = Instant::now();
    let server = Arc::new(tokio::task::spawn_blocking(Server::start).await.unwrap().unwrap());
    let database = server.database().await.unwrap();
    let store = PgBackend::connect(database.url()).await.unwrap();
    run(database.url(), "create table mine (id uuid)").await;
    let folder = tempfile::tempdir().unwrap();
    let mut readers: Vec<Child> =
        (0..2).map(|i| start("reader", database.url(), folder.path(), &format!("r{i}"))).collect();
    let mut crew = Crew { url: database.url().to_owned(), folder, writers: Vec::new(), started: 0 };
    (0..4).for_each(|_| crew.hire());
    let strikes = 9;
    for strike in 0..=strikes {
        reach(&store, goal * (strike + 1) / (strikes + 1), limit).await;
        if strike < strikes {
            hit(strike, &mut crew, &server).await;
        }
    }
    File::create(crew.folder.path().join("stop")).unwrap();
    for writer in &mut crew.writers {
        assert!(writer.wait().unwrap().success(), "a writer ends in peace");
    }
    let written = began.elapsed();
    let head = patient(async || store.head().await).await;
    let end = crew.folder.path().join("end");
    fs::write(end.with_extension("new"), head.0.to_string()).unwrap();
    fs::rename(end.with_extension("new"), end).unwrap();
    for reader in &mut readers {
        assert!(reader.wait().unwrap().success(), "a reader saw a hole, a copy or another order");
    }
    let acknowledged = judge(&store, crew.folder.path(), head).await;
    let pairs = "select count(*) from mine full join (select id from es.log) l using (id)
                 where mine.id is not null and l.id is null";
    assert_eq!(crate::support::count(database.url(), pairs).await, 0, "a row without its event");
    assert_eq!(store.verify().await.unwrap(), [""; 0]);
    eprintln!(
        "{} events, {acknowledged} acknowledged commits, {} writers, written in {written:?}, all in {:?}",
        head.0,
        crew.started,
        began.elapsed()
    );
}

async fn reach(store: &PgBackend, goal: u64, limit: Duration) {
    let reached = tokio::time::timeout(limit, async {
        while patient(async || store.head().await).await.0 < goal {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    reached.await.expect("the log goes on");
}

async fn hit(strike: u64, crew: &mut Crew, server: &Arc<Server>) {
    match strike % 3 {
        0 => {
            // SIGKILL: nobody gets to say goodbye.
            let mut writer = crew.writers.remove(0);
            writer.kill().unwrap();
            writer.wait().unwrap();
            crew.hire();
        }
        1 => {
            let mut killer = connect(&server.url("postgres")).await;
            let kill = "select pg_terminate_backend(pid) from pg_stat_activity
                        where datname <> 'postgres' and pid <> pg_backend_pid()";
            sqlx::query(kill).execute(&mut killer).await.unwrap();
        }
        _ => {
            let server = server.clone();
            let restarted = tokio::task::spawn_blocking(move || server.restart(Shutdown::Immediate));
            restarted.await.unwrap().unwrap();
        }
    }
}

/// Everybody saw the sequence that is stored, and whatever was acknowledged is in it.
async fn judge(store: &PgBackend, folder: &Path, head: Position) -> usize {
    let (mut sequence, mut lines) = (Sequence::default(), Vec::new());
    let mut stored: Vec<EventId> = Vec::new();
    let mut after = Position(0);
    while after < head {
        let page = store.read(&EventFilter::all(), after, 10_000).await.unwrap();
        for event in &page.events {
            sequence.take(event);
            stored.push(event.id);
            if sequence.position % 1_000 == 0 {
                lines.push(sequence.line());
            }
        }
        after = page.through;
    }
    lines.push(sequence.line());
    let mut acknowledged = 0;
    let mut seen = 0;
    for file in fs::read_dir(folder).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        let read = BufReader::new(File::open(&path).unwrap()).lines().map(Result::unwrap);
        if name.starts_with("seen-") {
            seen += 1;
            assert_eq!(read.collect::<Vec<_>>(), lines, "{name}");
        } else if name.starts_with("acks-") {
            // A line that a kill has cut off was not gone on from.
            for line in read.filter(|line| line.len() > 37) {
                let (position, id) = line.split_once(' ').unwrap();
                let Ok(id) = id.parse::<EventId>() else { continue };
                let last: usize = position.parse().unwrap();
                acknowledged += 1;
                let there = stored[last.saturating_sub(7)..last].contains(&id);
                assert!(there, "{name}: {id} was acknowledged at {position} and is not there");
            }
        }
    }
    assert_eq!(seen, 8);
    let mut once = stored.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(once.len(), stored.len(), "there are copies");
    acknowledged
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_follow_the_switches_of_another_process() {
    let database = testing::database().await;
    let store = PgBackend::connect(database.url()).await.unwrap();
    crate::generations::pairs(&store).await;
    let mut child = start("switcher", database.url(), Path::new("/"), "");
    let mut seen = [0, 0, 0];
    let status = loop {
        seen[crate::generations::generation_seen(&store).await] += 1;
        if let Some(status) = child.try_wait().unwrap() {
            break status;
        }
    };
    assert!(status.success());
    assert!(seen[1] > 0 && seen[2] > 0, "{seen:?}");
    assert_eq!(crate::generations::generation_seen(&store).await, 2, "as it was left");
}
