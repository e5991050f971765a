//! What the server for tests promises, above all: nothing is left of it.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "a test; the helpers of tests stand outside of them")]

use std::env;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::{Duration, Instant};

use es_postgres::testing::{Database, Server, ServerError, ServerOptions, Shutdown, database};
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};

/// Tells this program, started by itself, which part to play.
const PART: &str = "ES_TEST_PART";

/// For tests that only need a server that runs; in a static, so it also shows that nothing is left of one there.
static SHARED: LazyLock<Server> = LazyLock::new(|| Server::start().unwrap());

async fn one<T>(url: &str, query: &'static str) -> T
where
    T: for<'r> sqlx::Decode<'r, sqlx::Postgres> + sqlx::Type<sqlx::Postgres> + Send + Unpin,
{
    let mut connection = PgConnection::connect(url).await.unwrap();
    sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap()
}

async fn run(url: &str, statement: &'static str) {
    PgConnection::connect(url).await.unwrap().execute(statement).await.unwrap();
}

fn is_alive(pid: u32) -> bool {
    // The shell collects the server that has ended, so what has this number is alive.
    let status =
        Command::new("/bin/sh").args(["-c", "kill -0 \"$1\" 2>/dev/null", "sh", &pid.to_string()]).status();
    status.unwrap().success()
}

/// Waits for what another process brings about.
fn until(what: &str, mut done: impl FnMut() -> bool) {
    let began = Instant::now();
    while !done() {
        assert!(began.elapsed() < Duration::from_secs(60), "not within a minute: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test]
async fn a_server_starts_with_its_settings() {
    let server = ServerOptions::new().setting("work_mem", "5MB").start().unwrap();
    let url = server.url("postgres");
    assert_eq!(one::<String>(&url, "show work_mem").await, "5MB");
    assert_eq!(one::<String>(&url, "show fsync").await, "off");
    assert_eq!(one::<String>(&url, "show max_connections").await, "300");
    assert_eq!(one::<String>(&url, "show server_encoding").await, "UTF8");
    assert_eq!(one::<String>(&url, "show listen_addresses").await, "");
    let version = one::<String>(&url, "show server_version_num").await;
    assert_eq!(version.parse::<u32>().unwrap() / 10_000, server.version());
    assert!(server.bin().join("postgres").is_file());
    assert!(server.socket_dir().join(format!(".s.PGSQL.{}", server.port())).exists());
}

#[tokio::test]
async fn a_durable_server_waits_for_the_disk() {
    let server = ServerOptions::new().durable(true).start().unwrap();
    let url = server.url("postgres");
    assert_eq!(one::<String>(&url, "show fsync").await, "on");
    assert_eq!(one::<String>(&url, "show full_page_writes").await, "on");
    let database = server.database().await.unwrap();
    assert_eq!(one::<i32>(database.url(), "select 1").await, 1);
}

#[tokio::test]
async fn two_servers_do_not_meet() {
    let (one_server, other) = (Server::start().unwrap(), Server::start().unwrap());
    run(&one_server.url("postgres"), "create table here (n int)").await;
    let exists = "select to_regclass('here') is not null";
    assert!(one::<bool>(&one_server.url("postgres"), exists).await);
    assert!(!one::<bool>(&other.url("postgres"), exists).await);
}

#[tokio::test]
async fn a_restart_keeps_data_and_address() {
    let server = Server::start().unwrap();
    let url = server.url("postgres");
    run(&url, "create table kept as select 0 as n").await;
    for how in [Shutdown::Fast, Shutdown::Immediate] {
        let before = server.pid().unwrap();
        run(&url, "update kept set n = n + 1").await;
        server.restart(how).unwrap();
        assert_ne!(server.pid(), Some(before));
        assert!(!is_alive(before));
    }
    assert_eq!(one::<i32>(&url, "select n from kept").await, 2);
}

#[tokio::test]
async fn a_stopped_server_refuses_until_it_is_started_again() {
    let server = Server::start().unwrap();
    let url = server.url("postgres");
    server.stop(Shutdown::Fast).unwrap();
    assert_eq!(server.pid(), None);
    PgConnection::connect(&url).await.unwrap_err();
    server.start_again().unwrap();
    let pid = server.pid();
    server.start_again().unwrap();
    assert_eq!(server.pid(), pid);
    assert_eq!(one::<i32>(&url, "select 1").await, 1);
}

#[tokio::test]
async fn a_server_that_was_killed_can_be_started_again() {
    let server = Server::start().unwrap();
    let url = server.url("postgres");
    run(&url, "create table kept ()").await;
    let pid = server.pid().unwrap();
    assert!(Command::new("/bin/sh").args(["-c", &format!("kill -s QUIT {pid}")]).status().unwrap().success());
    server.restart(Shutdown::Fast).unwrap();
    assert_eq!(one::<i64>(&url, "select count(*) from kept").await, 0);
}

#[test]
fn a_dropped_server_leaves_nothing() {
    let server = Server::start().unwrap();
    let (pid, folder) = (server.pid().unwrap(), server.socket_dir().to_owned());
    assert!(is_alive(pid) && folder.exists());
    drop(server);
    assert!(!is_alive(pid));
    assert!(!folder.exists());
}

#[test]
fn a_stopped_server_leaves_nothing_either() {
    let server = Server::start().unwrap();
    server.stop(Shutdown::Immediate).unwrap();
    let folder = server.socket_dir().to_owned();
    drop(server);
    assert!(!folder.exists());
}

#[test]
fn missing_programs_are_named_with_what_to_do() {
    let error = ServerOptions::new().bin("/no/such/folder").start().unwrap_err();
    assert!(matches!(error, ServerError::NotThere { .. }), "{error:?}");
    assert!(error.to_string().contains("/no/such/folder"), "{error}");
}

#[test]
fn a_setting_that_is_refused_comes_with_the_servers_words() {
    let error = ServerOptions::new().setting("no_such_setting", "1").start().unwrap_err();
    assert!(matches!(error, ServerError::Exited { .. }), "{error:?}");
    assert!(error.to_string().contains("no_such_setting"), "{error}");
}

#[tokio::test]
async fn each_database_is_new_and_empty() {
    let (here, there) = (SHARED.database().await.unwrap(), SHARED.database().await.unwrap());
    run(here.url(), "create table mine ()").await;
    assert!(!one::<bool>(there.url(), "select to_regclass('mine') is not null").await);
    assert_eq!(one::<String>(there.url(), "select current_database()::text").await, there.name());
}

#[tokio::test]
async fn a_dropped_database_is_gone_although_it_is_in_use() {
    let database = SHARED.database().await.unwrap();
    let connection = PgConnection::connect(database.url()).await.unwrap();
    let name = database.name().to_owned();
    drop(database);
    let mut all = PgConnection::connect(&SHARED.url("postgres")).await.unwrap();
    let count =
        sqlx::query_scalar::<_, i64>("select count(*) from pg_database where datname = $1").bind(name);
    assert_eq!(count.fetch_one(&mut all).await.unwrap(), 0);
    drop(connection);
}

#[tokio::test]
async fn a_database_of_a_server_that_has_gone_is_dropped_in_silence() {
    let server = Server::start().unwrap();
    let database = server.database().await.unwrap();
    drop(server);
    drop(database);
}

#[tokio::test(flavor = "multi_thread")]
async fn databases_are_made_at_the_same_time() {
    let made = futures::future::join_all((0..16).map(|_| SHARED.database())).await;
    let made: Vec<Database> = made.into_iter().map(Result::unwrap).collect();
    for database in &made {
        assert_eq!(one::<i32>(database.url(), "select 1").await, 1);
    }
}

// ---- This program as a child of itself ----

/// Starts this program again, in a part below.
fn play(part: &str, environment: &[(&str, &str)]) -> Child {
    let mut command = Command::new(env::current_exe().unwrap());
    command.args(["--exact", "a_part_of_another_test", "--nocapture", "--test-threads=1"]);
    command.env(PART, part).envs(environment.iter().copied());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// What the child says about its server.
fn told(child: &mut Child) -> (u32, PathBuf) {
    let output = BufReader::new(child.stdout.as_mut().unwrap());
    let line =
        output.lines().map(Result::unwrap).find(|line| line.contains("SERVER ")).expect("it starts a server");
    let (_, told) = line.split_once("SERVER ").unwrap();
    let (pid, folder) = told.split_once(' ').unwrap();
    (pid.parse().unwrap(), folder.into())
}

#[tokio::test]
async fn a_part_of_another_test() {
    let Ok(part) = env::var(PART) else { return };
    let mut output = std::io::stdout();
    if part == "database" {
        let database = database().await;
        let same = one::<String>(database.url(), "select current_database()::text").await == database.name();
        writeln!(output, "DATABASE {same} {}", database.url()).unwrap();
        return;
    }
    let server = Server::start().unwrap();
    let (pid, folder) = (server.pid().unwrap(), server.socket_dir());
    writeln!(output, "SERVER {pid} {}", folder.display()).unwrap();
    match part.as_str() {
        "waits" => {
            let _end = std::io::stdin().read(&mut [0]).unwrap();
        }
        "exits" => std::process::exit(3),
        other => unreachable!("{other} is no part"),
    }
}

fn leaves_nothing(pid: u32, folder: &Path) {
    until("the server has ended", || !is_alive(pid));
    until("its folder is gone", || !folder.exists());
}

#[test]
fn a_killed_process_leaves_nothing() {
    let mut child = play("waits", &[]);
    let (pid, folder) = told(&mut child);
    assert!(is_alive(pid) && folder.exists());
    child.kill().unwrap();
    child.wait().unwrap();
    leaves_nothing(pid, &folder);
}

#[test]
fn a_process_that_exits_without_drops_leaves_nothing() {
    let mut child = play("exits", &[]);
    let (pid, folder) = told(&mut child);
    assert_eq!(child.wait().unwrap().code(), Some(3));
    leaves_nothing(pid, &folder);
}

#[tokio::test]
async fn the_server_of_database_url_is_used_and_left_clean() {
    let server = Server::start().unwrap();
    let url = server.url("postgres");
    let played = play("database", &[("DATABASE_URL", &url)]).wait_with_output().unwrap();
    let output = String::from_utf8(played.stdout).unwrap();
    assert!(played.status.success(), "{output}");
    let (_, query) = url.split_once('?').unwrap();
    assert!(output.contains("DATABASE true postgres://") && output.contains(query), "{output}");
    let left = "select count(*) from pg_database where datname like 'es_test_%'";
    assert_eq!(one::<i64>(&url, left).await, 0);
}

#[test]
fn programs_that_a_user_may_not_run_are_named() {
    // Only root becomes somebody else, so only then a folder can be closed to the server.
    let server = Server::start().unwrap();
    let folder = fs::metadata(server.socket_dir()).unwrap();
    let mine = tempfile_dir();
    let own = fs::metadata(&mine).unwrap();
    let another_user =
        std::os::unix::fs::MetadataExt::uid(&folder) != std::os::unix::fs::MetadataExt::uid(&own);
    if another_user {
        for program in ["initdb", "postgres"] {
            fs::copy(server.bin().join(program), mine.join(program)).unwrap();
        }
        let closed = std::os::unix::fs::PermissionsExt::from_mode(0o700);
        fs::set_permissions(&mine, closed).unwrap();
        let error = ServerOptions::new().bin(&mine).start().unwrap_err();
        assert!(matches!(error, ServerError::Unreachable { .. }), "{error:?}");
    }
    fs::remove_dir_all(mine).unwrap();
}

fn tempfile_dir() -> PathBuf {
    let made = env::temp_dir().join(format!("es-closed-{}", std::process::id()));
    fs::create_dir(&made).unwrap();
    made
}
