//! Three programs share the runs of one journal, with a second database next to it, and are killed at any moment.
//!
//! A run says its seed; `ES_SAGA_SEED` repeats its choices.
//! `ES_SAGA_RUNS=50000 cargo test --release -p sagas --all-features --test it crew -- --nocapture` is a long run.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::marker::PhantomData;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use std::{env, fs};

use es_core::prelude::*;
use es_core::store::{EventFilter, Position, Transaction};
use es_postgres::testing::{Server, Shutdown};
use es_postgres::{PgBackend, PgGuarded};
use es_sqlite::SqliteBackend;
use futures::{StreamExt as _, TryStreamExt as _, stream};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use sagas::saga::{
    Cx, Guarded, Journal, OrRetry as _, Ran, Retry, RunError, RunFilter, RunStatus, Runs, Saga, SagaApp as _,
    SagaInput, Sagas as _, Step, StepError, Undo,
};
use serde::{Deserialize, Serialize};
use sqlx::{Connection as _, Executor as _};

use crate::rules::shaky::{self, Ledger};

const PART: &str = "ES_CREW_PART";
const URL: &str = "ES_CREW_URL";
const FOLDER: &str = "ES_CREW_FOLDER";
const RUNS: &str = "ES_SAGA_RUNS";
const FEW: u64 = 240;
/// A program is killed for so many runs that have ended, but no more often than this; and the server, where there is one,
/// for so many programs.
const RUNS_A_KILL: u64 = 80;
const KILLS: u64 = 150;
const KILLS_A_CRASH: u64 = 10;
/// How long nothing may happen. It only ends a test that fails.
const LIMIT: Duration = Duration::from_secs(180);
/// One that was killed is replaced this soon.
const LEASE: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Noted {
    what: String,
}

#[derive(Event, Clone, Debug, PartialEq)]
#[event(prefix = "parcel")]
enum ParcelEvent {
    Noted(Noted),
}

#[derive(Aggregate, Clone, Default)]
#[aggregate(id = String, event = ParcelEvent, error = Never)]
struct Parcel {}

#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize, thiserror::Error)]
enum Never {}

impl Apply for Parcel {
    fn apply(&mut self, _: &ParcelEvent) {}
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Note {
    what: String,
}

#[commands]
impl Parcel {
    #[create_if_missing]
    fn note(&self, cmd: Note) -> Result<Noted, Never> {
        Ok(Noted { what: cmd.what })
    }
}

/// What is sent: by its number, it is paid or not, and has room or not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Send {
    number: u64,
}
impl SagaInput for Send {}

impl Send {
    const fn is_declined(&self) -> bool {
        self.number % 10 == 3
    }

    const fn is_too_large(&self) -> bool {
        self.number % 7 == 5
    }

    /// What is in the log and in the other database, once it has ended.
    fn leaves(&self) -> (&'static [&'static str], &'static [&'static str]) {
        match (self.is_declined(), self.is_too_large()) {
            (true, _) => (&["opened", "closed"], &[]),
            (false, true) => (&["opened", "closed"], &["paid", "refunded"]),
            (false, false) => (&["opened", "booked"], &["paid", "shipped"]),
        }
    }
}

fn brief() -> Retry {
    Retry::default().pauses(Duration::from_millis(20), Duration::from_secs(1)).tries(50)
}

/// Now and then a call fails when it has done everything.
fn fails_sometimes() -> Result<(), BoxError> {
    static CALLS: AtomicU64 = AtomicU64::new(0);
    match CALLS.fetch_add(1, Ordering::Relaxed) % 9 {
        8 => Err("the line was cut".into()),
        _ => Ok(()),
    }
}

/// In the journal's database: an event, in the commit of the step.
async fn note<T: Transaction>(cx: &Cx<'_, Send, ()>, what: &str, tx: &mut T) -> Result<(), BoxError> {
    let note = Note { what: what.to_owned() };
    cx.sender.send(&cx.key.to_owned(), note).within(tx).await?;
    Ok(())
}

struct Open<T>(PhantomData<fn() -> T>);

impl<T: Transaction> Step<Send> for Open<T> {
    const NAME: &'static str = "open";
    type Needs = ();
    type Output = ();
    type Refusal = Infallible;
    type Place = Journal<T>;
    async fn run(&self, cx: Cx<'_, Send, ()>, tx: &mut T) -> Result<(), StepError<Infallible>> {
        note(&cx, "opened", tx).await.or_retry()?;
        fails_sometimes().or_retry()
    }
    fn retry(&self) -> Retry {
        brief()
    }
}

impl<T: Transaction> Undo<Send> for Open<T> {
    async fn undo(&self, cx: Cx<'_, Send, ()>, _: Ran<()>, tx: &mut T) -> Result<(), BoxError> {
        note(&cx, "closed", tx).await?;
        fails_sometimes()
    }
}

struct Pay<D>(PhantomData<fn() -> D>);

impl<D: Ledger> Step<Send> for Pay<D> {
    const NAME: &'static str = "pay";
    type Needs = ();
    type Output = ();
    type Refusal = &'static str;
    type Place = Guarded<D>;
    async fn run(&self, cx: Cx<'_, Send, ()>, tx: &mut D::Tx) -> Result<(), StepError<&'static str>> {
        D::write(tx, &format!("{} paid", cx.key)).await.or_retry()?;
        if cx.input.is_declined() {
            return Err(StepError::Refused("declined"));
        }
        fails_sometimes().or_retry()
    }
    fn retry(&self) -> Retry {
        brief()
    }
}

impl<D: Ledger> Undo<Send> for Pay<D> {
    async fn undo(&self, cx: Cx<'_, Send, ()>, _: Ran<()>, tx: &mut D::Tx) -> Result<(), BoxError> {
        D::write(tx, &format!("{} refunded", cx.key)).await?;
        fails_sometimes()
    }
}

struct Book<T>(PhantomData<fn() -> T>);

impl<T: Transaction> Step<Send> for Book<T> {
    const NAME: &'static str = "book";
    type Needs = ();
    type Output = ();
    type Refusal = &'static str;
    type Place = Journal<T>;
    async fn run(&self, cx: Cx<'_, Send, ()>, tx: &mut T) -> Result<(), StepError<&'static str>> {
        if cx.input.is_too_large() {
            return Err(StepError::Refused("no room"));
        }
        note(&cx, "booked", tx).await.or_retry()?;
        fails_sometimes().or_retry()
    }
    fn retry(&self) -> Retry {
        brief()
    }
}

struct Ship<D>(PhantomData<fn() -> D>);

impl<D: Ledger> Step<Send> for Ship<D> {
    const NAME: &'static str = "ship";
    type Needs = ();
    type Output = ();
    type Refusal = Infallible;
    type Place = Guarded<D>;
    async fn run(&self, cx: Cx<'_, Send, ()>, tx: &mut D::Tx) -> Result<(), StepError<Infallible>> {
        D::write(tx, &format!("{} shipped", cx.key)).await.or_retry()?;
        fails_sometimes().or_retry()
    }
    fn retry(&self) -> Retry {
        brief()
    }
}

fn wire<B: Backend, D: Ledger + Clone>(journal: B, other: D) -> es_core::AppBuilder<B> {
    let saga: Saga<Send, B::Tx> = Saga::new("send", 1)
        .step(Open(PhantomData))
        .step(Pay::<D>(PhantomData))
        .pivot(Book(PhantomData))
        .then(Ship::<D>(PhantomData))
        .build();
    App::on(journal).lease(LEASE).aggregate::<Parcel>().provide(other).saga(saga)
}

/// Which store, and whether it also starts the runs: so many.
fn start(part: &str, url: &str, folder: &Path, places: u64) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["crew::part_of_a_child", "--exact", "--nocapture", "--test-threads=1"]);
    command.env(PART, part).env(URL, url).env(FOLDER, folder).env(RUNS, places.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn part_of_a_child() {
    let Ok(part) = env::var(PART) else { return };
    let (url, folder) = (env::var(URL).unwrap(), PathBuf::from(env::var(FOLDER).unwrap()));
    let places = env::var(RUNS).unwrap().parse().unwrap();
    match &*part {
        "postgres" => {
            let (journal, other) = postgres(&url).await;
            work(|| wire(journal.clone(), other.clone()), &folder, places).await;
        }
        "sqlite" => {
            let (journal, other) = sqlite(&folder).await;
            work(|| wire(journal.clone(), other.clone()), &folder, places).await;
        }
        other => panic!("no part {other}"),
    }
}

async fn postgres(url: &str) -> (PgBackend, PgGuarded) {
    let journal = patient(async || PgBackend::connect(url).await).await;
    let (server, options) = url.split_once('?').unwrap();
    // The other database is that of the same name, and `_other`.
    let other = PgGuarded::new(sqlx::PgPool::connect_lazy(&format!("{server}_other?{options}")).unwrap());
    (journal, other)
}

async fn sqlite(folder: &Path) -> (SqliteBackend, es_sqlite::SqliteGuarded) {
    let journal = SqliteBackend::open(folder.join("journal.db")).await.unwrap();
    (journal, shaky::file(folder.join("other.db")).await)
}

/// A server that was killed comes back.
async fn patient<T, E: std::fmt::Debug>(mut ask: impl AsyncFnMut() -> Result<T, E>) -> T {
    let since = Instant::now();
    loop {
        match ask().await {
            Ok(answer) => return answer,
            Err(error) => assert!(since.elapsed() < LIMIT, "{error:?}"),
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Until there is a file `stop`.
async fn work<B: Backend>(wired: impl Fn() -> es_core::AppBuilder<B>, folder: &Path, places: u64) {
    let app = patient(async || wired().start().await).await;
    if places > 0 {
        place(&app, folder, places).await;
    }
    while !folder.join("stop").exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(app.shutdown(Duration::from_secs(20)).await);
}

/// A run to its end. One whose beginning is lost with a server begins again.
async fn run(app: &App, number: u64) {
    let (input, key) = (Send { number }, number.to_string());
    patient(async || match app.run_saga(&key, input.clone()).await {
        Err(error) if error.kind() != ErrorKind::Transient && !matches!(error, RunError::Gone { .. }) => {
            panic!("{error}")
        }
        ended => ended,
    })
    .await;
}

/// Starts runs, and waits for their ends. How many have ended is noted, so that one which was killed goes on there: what was
/// started twice is one run.
async fn place(app: &App, folder: &Path, places: u64) {
    const AT_ONCE: usize = 128;
    let from = ended(folder);
    let ended = stream::iter(from..places).map(|number| async move {
        run(app, number).await;
        Ok::<u64, RunError>(number + 1)
    });
    let mut ended = std::pin::pin!(ended.buffered(AT_ONCE));
    while let Some(number) = ended.try_next().await.unwrap() {
        let noted = folder.join("ended.new");
        fs::write(&noted, number.to_string()).unwrap();
        fs::rename(noted, folder.join("ended")).unwrap();
    }
}

fn ended(folder: &Path) -> u64 {
    fs::read_to_string(folder.join("ended")).map_or(0, |n| n.parse().unwrap())
}

/// The first one also starts the runs.
struct Crew<'p> {
    part: &'p str,
    url: &'p str,
    folder: &'p Path,
    runs: u64,
    children: Vec<Child>,
}

impl<'p> Crew<'p> {
    fn start(part: &'p str, url: &'p str, folder: &'p Path, runs: u64) -> Self {
        let mut crew = Self { part, url, folder, runs, children: Vec::new() };
        crew.children = (0..3).map(|at| crew.start_one(at)).collect();
        crew
    }

    fn start_one(&self, at: usize) -> Child {
        start(self.part, self.url, self.folder, if at == 0 { self.runs } else { 0 })
    }

    /// Until so many have ended.
    async fn until(&mut self, goal: u64) {
        let (mut since, mut last) = (Instant::now(), 0);
        loop {
            let now = ended(self.folder);
            if now >= goal {
                return;
            }
            if now > last {
                (since, last) = (Instant::now(), now);
            }
            assert!(since.elapsed() < LIMIT, "{now} of {goal} have ended");
            self.all_work();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn all_work(&mut self) {
        for (at, child) in self.children.iter_mut().enumerate() {
            let ended = child.try_wait().unwrap();
            assert_eq!(ended, None, "program {at} ended by itself");
        }
    }

    /// Kills one of them without a goodbye, and starts it again.
    fn strike(&mut self, victim: usize) {
        self.children[victim].kill().unwrap();
        self.children[victim].wait().unwrap();
        self.children[victim] = self.start_one(victim);
    }

    async fn until_all_have_ended(&mut self, runs: &Runs) {
        let open = RunFilter::all().with_status(RunStatus::Running).with_status(RunStatus::Undoing);
        let open = open.with_status(RunStatus::Parked);
        let since = Instant::now();
        loop {
            let left = patient(async || runs.list(&open, None, 5).await).await.runs;
            if left.is_empty() {
                return;
            }
            assert!(since.elapsed() < LIMIT, "never over: {left:?}");
            self.all_work();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn end(mut self) {
        fs::write(self.folder.join("stop"), "").unwrap();
        for mut child in self.children.drain(..) {
            assert!(child.wait().unwrap().success());
        }
    }
}

impl Drop for Crew<'_> {
    fn drop(&mut self) {
        for child in &mut self.children {
            drop(child.kill());
            drop(child.wait());
        }
    }
}

/// What each run has left is what becomes of its input, and nothing twice.
async fn judge<B: Backend, D: Ledger>(journal: &B, other: &D, runs: u64) {
    let (mut noted, mut done) = (BTreeMap::<u64, Vec<String>>::new(), BTreeMap::<u64, Vec<String>>::new());
    let mut after = Position(0);
    loop {
        let page = journal.read(&EventFilter::of::<Noted>(), after, 1_000).await.unwrap();
        for event in &page.events {
            let number = event.stream.as_str().rsplit('-').next().unwrap().parse().unwrap();
            noted.entry(number).or_default().push(event.payload::<Noted>().unwrap().unwrap().what);
        }
        after = page.through;
        if !page.more {
            break;
        }
    }
    for written in other.written().await {
        let (number, what) = written.split_once(' ').unwrap();
        done.entry(number.parse().unwrap()).or_default().push(what.to_owned());
    }
    for number in 0..runs {
        let (in_log, elsewhere) = Send { number }.leaves();
        assert_eq!(noted.remove(&number).unwrap_or_default(), in_log, "run {number}");
        assert_eq!(done.remove(&number).unwrap_or_default(), elsewhere, "run {number}");
    }
    assert_eq!((noted, done), Default::default());
}

#[expect(
    clippy::print_stderr,
    reason = "the seed repeats a run that failed; a long run is made for its figures"
)]
async fn play<B: Backend + Clone, D: Ledger + Clone>(
    (part, url, folder): (&str, &str, &Path),
    (journal, other): (B, D),
    crash: impl Fn(),
) {
    let runs: u64 = env::var(RUNS).map_or(FEW, |n| n.parse().unwrap());
    let seed = env::var("ES_SAGA_SEED").map_or_else(|_| rand::random(), |n| n.parse().unwrap());
    eprintln!("{part}: ES_SAGA_SEED={seed}");
    let (began, mut rng) = (Instant::now(), StdRng::seed_from_u64(seed));
    let app = wire(journal.clone(), other.clone()).looks_on().start().await.unwrap();
    let mut crew = Crew::start(part, url, folder, runs);
    let each = RUNS_A_KILL.max(runs / KILLS);
    let kills = runs / each;
    for kill in 0..kills {
        crew.until(kill * each + rng.random_range(1..=each)).await;
        crew.strike(rng.random_range(0..3));
        if kill % KILLS_A_CRASH == 1 {
            crash();
        }
    }
    crew.until(runs).await;
    crew.until_all_have_ended(&app.saga_runs::<Send>().unwrap()).await;
    crew.end();
    app.shutdown(Duration::from_secs(20)).await;
    judge(&journal, &other, runs).await;
    eprintln!("{part}: {runs} runs, {kills} kills, in {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_programs_that_are_killed_do_each_step_once_on_postgresql() {
    let server = tokio::task::spawn_blocking(Server::start).await.unwrap().unwrap();
    let url = server.url("crew");
    let admin = sqlx::PgPool::connect(&server.url("postgres")).await.unwrap();
    for made in ["create database crew", "create database crew_other"] {
        sqlx::raw_sql(made).execute(&admin).await.unwrap();
    }
    admin.close().await;
    let (journal, other) = postgres(&url).await;
    other.make().await;
    let folder = tempfile::tempdir().unwrap();
    let crash = || server.restart(Shutdown::Immediate).unwrap();
    play(("postgres", &url, folder.path()), (journal.clone(), other), crash).await;
    assert_eq!(journal.verify().await.unwrap(), Vec::<String>::new());
}

/// The address that leads to the socket of a server: a link, which another server may have next.
fn lead(address: &Path, to: &Server) {
    let next = address.with_extension("next");
    std::os::unix::fs::symlink(to.socket_dir(), &next).unwrap();
    fs::rename(next, address).unwrap();
}

/// Both databases are on the server that is lost, so what is left of them is of one moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_programs_do_each_step_once_though_a_standby_takes_over_that_has_lost_commits() {
    let both = || {
        let server = Server::start().unwrap();
        let standby = server.standby().unwrap();
        (server, standby)
    };
    let (server, standby) = tokio::task::spawn_blocking(both).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let address = folder.path().join("db");
    lead(&address, &server);
    let host = address.display().to_string().replace('/', "%2F");
    let url = format!("postgres://{}@localhost/crew?host={host}&sslmode=disable", server.user());
    let sql = async |on: &Server, sql: &'static str| {
        let mut conn = sqlx::PgConnection::connect(&on.url("postgres")).await.unwrap();
        conn.execute(sql).await.unwrap();
    };
    for made in ["create database crew", "create database crew_other"] {
        sql(&server, made).await;
    }
    let (journal, other) = postgres(&url).await;
    other.make().await;
    let app = wire(journal.clone(), other.clone()).looks_on().start().await.unwrap();
    let mut crew = Crew::start("postgres", &url, folder.path(), FEW);
    crew.until(FEW / 3).await;
    // It hears no more of its primary.
    sql(&standby, "alter system set primary_conninfo = ''").await;
    sql(&standby, "select pg_reload_conf()").await;
    crew.until(FEW * 2 / 3).await;
    server.stop(Shutdown::Immediate).unwrap();
    standby.promote().unwrap();
    lead(&address, &standby);
    crew.until(FEW).await;
    // Runs whose beginning was lost begin again; the others have ended, and nothing of them is done twice.
    let again = stream::iter(0..FEW).map(|number| run(&app, number));
    again.buffered(64).for_each(|()| async {}).await;
    crew.until_all_have_ended(&app.saga_runs::<Send>().unwrap()).await;
    crew.end();
    app.shutdown(Duration::from_secs(20)).await;
    judge(&journal, &other, FEW).await;
    assert_eq!(journal.verify().await.unwrap(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_programs_that_are_killed_do_each_step_once_in_files() {
    let folder = tempfile::tempdir().unwrap();
    let (journal, other) = sqlite(folder.path()).await;
    other.make().await;
    play(("sqlite", "", folder.path()), (journal.clone(), other), || {}).await;
    assert_eq!(journal.verify().await.unwrap(), Vec::<String>::new());
}
