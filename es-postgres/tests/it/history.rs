//! Programs that live through another history of their store: an older state is restored under them, or comes in its
//! place. What they keep in memory is of a history that is gone.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use es_core::command::RetryPolicy;
use es_core::store::{
    Backend as _, Commit, CommitError, EventStore as _, ExpectedVersion, Position, RecordedEvent, Resolution,
    Transaction as _, Version,
};
use es_core::testing::conformance::domain::{
    Account, AccountError, Deposit, Open, OpenFirst, Opened, Withdraw,
};
use es_core::{App, ErrorKind, view};
use es_postgres::PgBackend;
use es_postgres::testing::{Backup, Database, Server, ServerOptions, Shutdown};

use serde::{Deserialize, Serialize};

use crate::dump::{dump, on};
use crate::support::{Gate, WAITING, append, commit, count, data, fresh, row, run, stream, until_count};

/// How an older state comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comes {
    /// In place, under living connections.
    InPlace,
    /// In place, and every connection is cut.
    Cut,
    /// As another database under the same name.
    Swapped,
    /// On a standby that has not received the last commits, and takes over when its primary is gone.
    Promoted,
    /// On a server that was recovered to a point in time.
    Recovered,
}
pub(crate) const ALL: [Comes; 5] =
    [Comes::InPlace, Comes::Cut, Comes::Swapped, Comes::Promoted, Comes::Recovered];

/// Others that use this database.
pub(crate) const CUT: &str = "select pg_terminate_backend(pid) from pg_stat_activity
                   where datname = current_database() and pid <> pg_backend_pid()";

/// A store whose state of some time comes back later.
pub(crate) struct World {
    comes: Comes,
    server: Server,
    database: Database,
    folder: tempfile::TempDir,
    next: Next,
}

/// Where it comes back, if that is elsewhere.
enum Next {
    Here,
    Standby(Server),
    Backup(Option<Backup>),
    Recovered(Server),
}

impl World {
    pub(crate) async fn new(comes: Comes) -> Self {
        let options = ServerOptions::new().archives(comes == Comes::Recovered);
        let made = tokio::task::spawn_blocking(move || {
            let server = options.start().unwrap();
            let next = match comes {
                Comes::Promoted => Next::Standby(server.standby().unwrap()),
                Comes::Recovered => Next::Backup(Some(server.backup().unwrap())),
                _ => Next::Here,
            };
            (server, next)
        });
        let (server, next) = made.await.unwrap();
        let database = server.database().await.unwrap();
        Self { comes, server, database, folder: tempfile::tempdir().unwrap(), next }
    }

    /// Where the store is, now and later.
    pub(crate) fn url(&self) -> String {
        let here = self.server.socket_dir().display();
        let there = match &self.next {
            Next::Here => return self.database.url().to_owned(),
            Next::Standby(server) | Next::Recovered(server) => server.socket_dir().display(),
            Next::Backup(backup) => backup.as_ref().unwrap().socket_dir().display(),
        };
        let hosts = format!("{here},{there}").replace('/', "%2F");
        format!(
            "postgres://{}@localhost/{}?host={hosts}&sslmode=disable",
            self.server.user(),
            self.database.name()
        )
    }

    /// Where it is now, as one host.
    pub(crate) fn here(&self) -> String {
        match &self.next {
            Next::Standby(server) | Next::Recovered(server) => server.url(self.database.name()),
            Next::Here | Next::Backup(_) => self.database.url().to_owned(),
        }
    }

    /// A program that has nothing in memory yet.
    async fn program(&self) -> App {
        App::on(self.backend().await).start().await.unwrap()
    }

    pub(crate) async fn backend(&self) -> PgBackend {
        PgBackend::connect(&self.url()).await.unwrap()
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("dump")
    }

    /// This state comes back.
    pub(crate) fn keep(&self) {
        match &self.next {
            Next::Here => dump(&self.server, &self.database, &self.file()),
            Next::Standby(standby) => {
                let admin = self.server.url("postgres");
                let received = "select 1 / (count(*) = 1)::integer from pg_stat_replication
                                where replay_lsn >= pg_current_wal_lsn()";
                while !psql(&self.server, &admin, received).status.success() {}
                let admin = standby.url("postgres");
                on_url(standby, &admin, "alter system set primary_conninfo = ''");
                on_url(standby, &admin, "select pg_reload_conf()");
                let follows = "select 1 / (count(*) = 0)::integer from pg_stat_wal_receiver";
                while !psql(standby, &admin, follows).status.success() {}
            }
            Next::Backup(_) | Next::Recovered(_) => {
                on_url(&self.server, &self.server.url("postgres"), "select pg_create_restore_point('kept')");
            }
        }
    }

    pub(crate) fn restore(&mut self) {
        match &mut self.next {
            Next::Here => self.restore_dump(),
            Next::Standby(standby) => {
                self.server.stop(Shutdown::Immediate).unwrap();
                standby.promote().unwrap();
            }
            Next::Backup(backup) => {
                self.server.stop(Shutdown::Fast).unwrap();
                let backup = backup.take().expect("it is recovered once");
                self.next = Next::Recovered(backup.recover("kept").unwrap());
            }
            Next::Recovered(_) => panic!("it is recovered once"),
        }
    }

    /// The same beside programs that work. Whoever restores in place shuts writers out first, and tries again if readers were
    /// in the way.
    pub(crate) fn restore_under_load(&mut self) {
        if self.comes != Comes::InPlace {
            return self.restore();
        }
        let psql = |sql: &str| on(&self.server, &self.database, "psql", &["-c", sql]);
        let name = self.database.name();
        psql(&format!("alter database {name} set default_transaction_read_only = on"));
        psql(CUT);
        let mut restore = Command::new(self.server.bin().join("pg_restore"));
        restore.arg("-h").arg(self.server.socket_dir()).args(["-U", self.server.user(), "-d", name]);
        restore.args(["--clean", "--if-exists", "--single-transaction"]).arg(self.file());
        restore.env("PGOPTIONS", "-c default_transaction_read_only=off");
        let mut tries = 0;
        loop {
            let done = restore.output().unwrap();
            if done.status.success() {
                break;
            }
            tries += 1;
            assert!(tries < 20, "{}", String::from_utf8_lossy(&done.stderr));
        }
        psql(&format!("alter database {name} reset default_transaction_read_only"));
    }

    fn restore_dump(&self) {
        let (name, file) = (self.database.name(), self.file());
        let restore = |more: &[&str]| {
            let all = [more, &["--exit-on-error", file.to_str().unwrap()]].concat();
            on(&self.server, &self.database, "pg_restore", &all);
        };
        match self.comes {
            Comes::InPlace => restore(&["--clean", "--if-exists"]),
            Comes::Cut => {
                restore(&["--clean", "--if-exists"]);
                on(&self.server, &self.database, "psql", &["-c", CUT]);
            }
            _ => {
                // From another database, since names change; both at once, and nobody comes in between.
                let admin = self.server.url("postgres");
                on_url(&self.server, &admin, &format!("create database {name}_new"));
                restore(&["-d", &format!("{name}_new")]);
                let there = "select 1 / (count(*) = 0)::integer from pg_stat_activity where datname";
                on_url(&self.server, &admin, &format!("alter database {name} allow_connections false"));
                on_url(&self.server, &admin, &CUT.replace("current_database()", &format!("'{name}'")));
                while !psql(&self.server, &admin, &format!("{there} = '{name}'")).status.success() {}
                let swap = format!(
                    "begin; alter database {name} rename to {name}_old; alter database {name}_new rename to {name}; commit"
                );
                on_url(&self.server, &admin, &swap);
            }
        }
    }
}

fn psql(server: &Server, url: &str, sql: &str) -> std::process::Output {
    let mut psql = Command::new(server.bin().join("psql"));
    psql.args([url, "-v", "ON_ERROR_STOP=1", "-c", sql]).output().unwrap()
}

fn on_url(server: &Server, url: &str, sql: &str) {
    let done = psql(server, url, sql);
    assert!(done.status.success(), "{sql}: {}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_decided_on_the_history_that_is_there() {
    for comes in ALL {
        let (mut world, ada) = (World::new(comes).await, "ada".to_owned());
        let living = world.program().await;
        living.send(&ada, Open { owner: "Ada".to_owned() }).await.unwrap();
        living.send(&ada, Deposit { amount: 10 }).await.unwrap();
        world.keep();
        living.send(&ada, Deposit { amount: 100 }).await.unwrap();
        world.restore();
        world.program().await.send(&ada, Deposit { amount: 1 }).await.unwrap();
        // It remembers 110, at the version that the stream has again.
        let refused = living.send(&ada, Withdraw { amount: 50 }).await.unwrap_err();
        assert_eq!(refused.refusal(), Some(&AccountError::Overdrawn { balance: 11 }), "{comes:?}");
        let now = living.load::<Account>(&ada).await.unwrap().unwrap();
        assert_eq!((now.balance, now.version), (11, Version(3)), "{comes:?}");
        living.send(&ada, Withdraw { amount: 11 }).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_or_refused_is_of_the_history_that_is_there() {
    for comes in ALL {
        let (mut world, ada) = (World::new(comes).await, "ada".to_owned());
        let living = [world.program().await, world.program().await, world.program().await];
        living[0].send(&ada, Open { owner: "Ada".to_owned() }).await.unwrap();
        world.keep();
        for program in &living {
            program.send(&ada, Deposit { amount: 100 }).await.unwrap();
        }
        for program in &living {
            assert_eq!(program.load::<Account>(&ada).await.unwrap().unwrap().balance, 300);
        }
        world.restore();
        // Whether others have written since or not.
        let loaded = living[0].load::<Account>(&ada).await.unwrap().unwrap();
        assert_eq!((loaded.balance, loaded.version), (0, Version(1)), "{comes:?}");
        let fresh = world.program().await;
        for _ in 0..4 {
            fresh.send(&ada, Deposit { amount: 1 }).await.unwrap();
        }
        let loaded = living[1].load::<Account>(&ada).await.unwrap().unwrap();
        assert_eq!((loaded.balance, loaded.version), (4, Version(5)), "{comes:?}");
        let refused = living[2].send(&ada, Withdraw { amount: 5 }).await.unwrap_err();
        assert_eq!(refused.refusal(), Some(&AccountError::Overdrawn { balance: 4 }), "{comes:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_event_is_called_survives_another_history() {
    for comes in ALL {
        let mut world = World::new(comes).await;
        let store = world.backend().await;
        world.keep();
        for name in ["first", "second"] {
            let mut one = append("s", ExpectedVersion::Any, 1);
            one.appends[0].events[0].name = name.into();
            store.commit(one).await.unwrap();
        }
        assert_eq!(store.stream(&stream("s"), Version(0), 10).await.unwrap().len(), 2);
        world.restore();
        // Numbers are given out anew, the other way round.
        let names = ["second", "first"];
        for name in names {
            let mut one = append("s", ExpectedVersion::Any, 1);
            one.appends[0].events[0].name = name.into();
            world.backend().await.commit(one).await.unwrap();
        }
        let mut one = append("s", ExpectedVersion::Any, 1);
        one.appends[0].events[0].name = "first".into();
        if let Err(CommitError::Unknown(attempt)) = store.commit(one.clone()).await {
            // It was sent on a connection that was cut.
            assert_eq!(store.resolve(&attempt).await.unwrap(), Resolution::Never);
            store.commit(one).await.unwrap();
        }
        let called = |events: Vec<RecordedEvent>| -> Vec<String> {
            events.iter().map(|event| event.name.to_string()).collect()
        };
        let fresh = world.backend().await.stream(&stream("s"), Version(0), 10).await.unwrap();
        assert_eq!(called(fresh), ["second", "first", "first"], "{comes:?}");
        let living = store.stream(&stream("s"), Version(0), 10).await.unwrap();
        assert_eq!(called(living), ["second", "first", "first"], "{comes:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_across_streams_is_taken_on_the_history_that_is_there() {
    for comes in ALL {
        let mut world = World::new(comes).await;
        let living = world.program().await;
        let first = |owner: &str, id: &str| OpenFirst { owner: owner.to_owned(), id: id.to_owned() };
        living.decide(first("Ada", "a")).await.unwrap();
        world.keep();
        living.decide(first("Bob", "b")).await.unwrap();
        world.restore();
        // The account of Bob is gone; that of Ada is not.
        living.decide(first("Bob", "b2")).await.unwrap();
        living.decide(first("Ada", "a2")).await.unwrap_err();
        assert_eq!(count(&world.here(), "select count(*) from es.events").await, 2, "{comes:?}");
        assert_eq!(world.backend().await.head().await.unwrap(), Position(2));
    }
}

/// Accounts, as every commit writes them.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Owned(u32);

#[view(name = "owned", version = 1, key = String)]
impl Owned {
    fn opened(&mut self, _: &Opened) {
        self.0 += 1;
    }
}

/// An app whose commits go through inline projections asks its store as well.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_decision_beside_an_inline_view_is_taken_on_the_history_that_is_there() {
    let mut world = World::new(Comes::Cut).await;
    let app = App::on(world.backend().await).inline_view::<Owned>();
    let living = app.start().await.unwrap();
    let first = |owner: &str, id: &str| OpenFirst { owner: owner.to_owned(), id: id.to_owned() };
    living.decide(first("Ada", "a")).await.unwrap();
    world.keep();
    living.decide(first("Bob", "b")).await.unwrap();
    let before = living.store().history();
    world.restore();
    living.decide(first("Bob", "b2")).await.unwrap();
    assert!(living.store().history() > before);
    living.decide(first("Ada", "a2")).await.unwrap_err();
    assert_eq!(world.backend().await.head().await.unwrap(), Position(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_decided_on_another_history_is_refused() {
    let (database, living) = fresh().await;
    let write = |rev, value| Commit { rows: vec![row("k", rev, Some(value))], ..Commit::default() };
    living.commit(write(0, "1")).await.unwrap();
    // It waits behind the gate, and the store gets another history meanwhile, in which all revisions are the same.
    let gate = Gate::hold(database.url()).await;
    let waits = tokio::spawn({
        let living = living.clone();
        async move { living.commit(Commit { rows: vec![row("k", 1, Some("2"))], ..commit("s") }).await }
    });
    until_count(database.url(), WAITING, 1).await;
    run(database.url(), "update es.history set generation = gen_random_uuid()").await;
    gate.release().await;
    let refused = waits.await.unwrap().unwrap_err();
    assert!(matches!(refused, CommitError::OtherHistory), "{refused:?}");
    assert_eq!(data(&living, "v/1", "k").await.as_deref(), Some("1"));
    // What is decided from now on is decided on what is there.
    living.commit(write(1, "3")).await.unwrap();
    // So for a transaction of the user's own.
    let mut tx = living.begin().await.unwrap();
    *tx.staged() = write(2, "4");
    run(database.url(), "update es.history set generation = gen_random_uuid()").await;
    let refused = tx.commit().await.unwrap_err();
    assert!(matches!(refused, CommitError::OtherHistory), "{refused:?}");
    let mut tx = living.begin().await.unwrap();
    *tx.staged() = write(2, "5");
    tx.commit().await.unwrap();
    assert_eq!(data(&living, "v/1", "k").await.as_deref(), Some("5"));
}

/// Makes a database read-only for new connections and transactions, or takes that back.
pub(crate) async fn read_only(database: &Database, is: bool) {
    let how =
        if is { "set default_transaction_read_only = on" } else { "reset default_transaction_read_only" };
    let sql = format!("set transaction read write; alter database {} {how}", database.name());
    run(database.url(), &sql).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_does_not_write_is_nobodys_mistake_and_is_written_again_later() {
    let database = es_postgres::testing::database().await;
    let program = async || {
        let backend = PgBackend::connect(database.url()).await.unwrap();
        let app = App::on(backend).retry(RetryPolicy::never()).command_timeout(Duration::from_secs(5));
        app.start().await.unwrap()
    };
    let ada = "ada".to_owned();
    let living = program().await;
    living.send(&ada, Open { owner: "Ada".to_owned() }).await.unwrap();
    living.send(&ada, Deposit { amount: 1 }).await.unwrap();
    // One that writes for the first time then.
    let new = program().await;
    read_only(&database, true).await;
    run(database.url(), CUT).await;
    let error = new.send(&ada, Deposit { amount: 1 }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{}", es_core::chain(&error));
    // What was sent on a connection that was cut may have arrived: the server has to write before it can say so.
    let error = living.send(&ada, Deposit { amount: 1 }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unknown, "{}", es_core::chain(&error));
    let error = living.send(&ada, Deposit { amount: 1 }).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{}", es_core::chain(&error));
    read_only(&database, false).await;
    // Connections that were made meanwhile are let go.
    for app in [&living, &new] {
        app.send(&ada, Deposit { amount: 1 }).await.unwrap();
    }
    assert_eq!(living.load::<Account>(&ada).await.unwrap().unwrap().balance, 3);
}

/// A server says that it is read-only only to what writes: a transaction begins.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_of_a_server_that_did_not_write_is_not_used_again() {
    let (database, store) = fresh().await;
    run(database.url(), "create table notes (n int)").await;
    read_only(&database, true).await;
    run(database.url(), CUT).await;
    for ends in ["rollback", "drop", "commit"] {
        let mut tx = store.begin().await.unwrap();
        let error = sqlx::query("insert into notes values (1)").execute(&mut *tx).await.unwrap_err();
        assert_eq!(error.as_database_error().and_then(|e| e.code()).as_deref(), Some("25006"), "{ends}");
        match ends {
            "rollback" => tx.rollback().await.unwrap(),
            "commit" => drop(tx.commit().await.unwrap_err()),
            _ => drop(tx),
        }
    }
    // What is left of them has gone, or come home.
    let open = "select count(*) from pg_stat_activity
                where datname = current_database() and state like 'idle in transaction%'";
    until_count(database.url(), open, 0).await;
    read_only(&database, false).await;
    for n in 0..5 {
        let mut tx = store.begin().await.unwrap();
        sqlx::query("insert into notes values ($1)").bind(n).execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }
    assert_eq!(count(database.url(), "select count(*) from notes").await, 5);
}
