//! A server that hangs: what was waited for in vain keeps no place in the pool of the user.

use std::process::Command;
use std::time::Duration;

use es_core::guard::{Guard, GuardKey, Guarded};
use es_core::store::{Branch as _, BranchId, Participant as _};
use es_postgres::testing;
use es_postgres::{PgGuarded, PgParticipant};
use sqlx::postgres::{PgConnection, PgPool, PgPoolOptions};
use tokio::time::timeout;

use crate::support::{LIMIT, new_id};

/// How long it is waited for.
const BRIEF: Duration = Duration::from_millis(100);

/// A process that is stopped, until this goes.
struct Stopped(i32);

impl Stopped {
    async fn of(conn: &mut PgConnection) -> Self {
        let pid = pid(conn).await;
        signal("-STOP", pid);
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal("-CONT", self.0);
    }
}

fn signal(name: &str, pid: i32) {
    assert!(Command::new("kill").arg(name).arg(pid.to_string()).status().unwrap().success());
}

async fn pid(conn: &mut PgConnection) -> i32 {
    sqlx::query_scalar("select pg_backend_pid()").fetch_one(conn).await.unwrap()
}

/// With one connection.
async fn pool(url: &str) -> PgPool {
    let pool = PgPoolOptions::new().max_connections(1).acquire_timeout(LIMIT / 2);
    pool.connect(url).await.unwrap()
}

/// Somebody else gets one, while the server hangs that had it.
async fn goes_on(pool: &PgPool, stopped: &Stopped) {
    let mut other = pool.acquire().await.expect("it has a place");
    assert_ne!(pid(&mut other).await, stopped.0);
}

#[tokio::test]
async fn a_branch_that_is_late_keeps_no_connection() {
    let database = testing::database().await;
    let pool = pool(database.url()).await;
    let participant = PgParticipant::new("left", pool.clone()).unwrap();
    participant.install().await.unwrap();
    let id = |name: &str| BranchId::new(new_id(), new_id(), name).unwrap();
    for prepares in [true, false] {
        let mut branch = participant.begin(&id("left")).await.unwrap();
        let stopped = Stopped::of(&mut branch).await;
        let late = match prepares {
            true => timeout(BRIEF, branch.prepare()).await,
            false => timeout(BRIEF, branch.rollback()).await,
        };
        late.expect_err("it hangs");
        goes_on(&pool, &stopped).await;
    }
}

#[tokio::test]
async fn a_guarded_call_that_is_late_keeps_no_connection() {
    let database = testing::database().await;
    let pool = pool(database.url()).await;
    let guarded = PgGuarded::new(pool.clone());
    guarded.install().await.unwrap();
    for ends in [true, false] {
        let call = Guard::new(&guarded, GuardKey::new(new_id(), "order/stock").unwrap(), 7);
        let Guarded::Run(mut tx) = call.forward().await.unwrap() else { panic!("it is the first") };
        let stopped = Stopped::of(&mut tx).await;
        match ends {
            true => drop(timeout(BRIEF, call.done(tx, "null".to_owned())).await.expect_err("it hangs")),
            false => drop(tx),
        }
        goes_on(&pool, &stopped).await;
    }
}

#[tokio::test]
async fn a_transaction_that_is_dropped_gives_its_connection_back() {
    let database = testing::database().await;
    let pool = pool(database.url()).await;
    let guarded = PgGuarded::new(pool.clone());
    guarded.install().await.unwrap();
    let call = Guard::new(&guarded, GuardKey::new(new_id(), "order/stock").unwrap(), 7);
    let own = pid(&mut pool.acquire().await.unwrap()).await;
    for _ in 0..3 {
        let Guarded::Run(tx) = call.forward().await.unwrap() else { panic!("nothing of it has stayed") };
        drop(tx);
    }
    let Guarded::Run(tx) = call.forward().await.unwrap() else { panic!("nothing of it has stayed") };
    call.done(tx, "1".to_owned()).await.unwrap();
    let Guarded::Done(output) = call.forward().await.unwrap() else { panic!("it has run") };
    assert_eq!((output.as_str(), pid(&mut pool.acquire().await.unwrap()).await), ("1", own));
}

/// As helpers do that take whatever a transaction can be begun on.
#[tokio::test]
async fn a_transaction_within_that_of_a_call_is_a_savepoint() {
    use sqlx::Connection as _;
    let database = testing::database().await;
    let pool = pool(database.url()).await;
    let guarded = PgGuarded::new(pool.clone());
    guarded.install().await.unwrap();
    let call = Guard::new(&guarded, GuardKey::new(new_id(), "order/stock").unwrap(), 7);
    let Guarded::Run(mut tx) = call.forward().await.unwrap() else { panic!("it is the first") };
    sqlx::raw_sql("create table seats (n int)").execute(&mut *tx).await.unwrap();
    for (n, stays) in [(1, true), (2, false)] {
        let mut within = tx.begin().await.unwrap();
        sqlx::query("insert into seats values ($1)").bind(n).execute(&mut *within).await.unwrap();
        if stays {
            within.commit().await.unwrap();
        }
    }
    call.done(tx, "null".to_owned()).await.unwrap();
    let seats: Vec<i32> = sqlx::query_scalar("select n from seats").fetch_all(&pool).await.unwrap();
    assert_eq!(seats, [1]);
}
