//! Programs that live through another history of their store: an older state is restored under them, or comes in its
//! place. What they keep in memory is of a history that is gone.

use std::path::Path;
use std::time::Duration;

use es_core::command::RetryPolicy;
use es_core::store::{
    CommitError, EventStore as _, ExpectedVersion, Position, RecordedEvent, Resolution, Version,
};
use es_core::testing::conformance::domain::{Account, AccountError, Deposit, Open, OpenFirst, Withdraw};
use es_core::{App, ErrorKind};
use es_postgres::PgBackend;
use es_postgres::testing::{Database, Server};

use crate::dump::{dump, on, server};
use crate::support::{append, count, run, stream};

/// How an older state comes back.
#[derive(Clone, Copy, Debug)]
enum Comes {
    /// In place, under living connections.
    InPlace,
    /// In place, and every connection is cut.
    Cut,
    /// As another database under the same name.
    Swapped,
}
const ALL: [Comes; 3] = [Comes::InPlace, Comes::Cut, Comes::Swapped];

/// Others that use this database.
const CUT: &str = "select pg_terminate_backend(pid) from pg_stat_activity
                   where datname = current_database() and pid <> pg_backend_pid()";

/// A store whose state of some time comes back later.
struct World {
    server: Server,
    database: Database,
    folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let server = server().await;
        let database = server.database().await.unwrap();
        Self { server, database, folder: tempfile::tempdir().unwrap() }
    }

    /// A program that has nothing in memory yet.
    async fn program(&self) -> App {
        App::on(self.backend().await).start().await.unwrap()
    }

    async fn backend(&self) -> PgBackend {
        PgBackend::connect(self.database.url()).await.unwrap()
    }

    fn file(&self) -> std::path::PathBuf {
        self.folder.path().join("dump")
    }

    fn keep(&self) {
        dump(&self.server, &self.database, &self.file());
    }

    fn restore(&self, comes: Comes) {
        let (name, file) = (self.database.name(), self.file());
        let restore = |more: &[&str], file: &Path| {
            let all = [more, &["--exit-on-error", file.to_str().unwrap()]].concat();
            on(&self.server, &self.database, "pg_restore", &all);
        };
        match comes {
            Comes::InPlace => restore(&["--clean", "--if-exists"], &file),
            Comes::Cut => {
                restore(&["--clean", "--if-exists"], &file);
                on(&self.server, &self.database, "psql", &["-c", CUT]);
            }
            Comes::Swapped => {
                // From another database, since its name changes; and nobody comes in between.
                let admin = self.server.url("postgres");
                let there = "select 1 / (count(*) = 0)::integer from pg_stat_activity where datname";
                on_url(&self.server, &admin, &format!("alter database {name} allow_connections false"));
                on_url(&self.server, &admin, &CUT.replace("current_database()", &format!("'{name}'")));
                while !psql(&self.server, &admin, &format!("{there} = '{name}'")).status.success() {}
                on_url(&self.server, &admin, &format!("alter database {name} rename to {name}_old"));
                on_url(&self.server, &admin, &format!("create database {name}"));
                restore(&[], &file);
            }
        }
    }
}

fn psql(server: &Server, url: &str, sql: &str) -> std::process::Output {
    let mut psql = std::process::Command::new(server.bin().join("psql"));
    psql.args([url, "-v", "ON_ERROR_STOP=1", "-c", sql]).output().unwrap()
}

fn on_url(server: &Server, url: &str, sql: &str) {
    let done = psql(server, url, sql);
    assert!(done.status.success(), "{sql}: {}", String::from_utf8_lossy(&done.stderr));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_is_decided_on_the_history_that_is_there() {
    for comes in ALL {
        let (world, ada) = (World::new().await, "ada".to_owned());
        let living = world.program().await;
        living.send(&ada, Open { owner: "Ada".to_owned() }).await.unwrap();
        living.send(&ada, Deposit { amount: 10 }).await.unwrap();
        world.keep();
        living.send(&ada, Deposit { amount: 100 }).await.unwrap();
        world.restore(comes);
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
        let (world, ada) = (World::new().await, "ada".to_owned());
        let living = [world.program().await, world.program().await, world.program().await];
        living[0].send(&ada, Open { owner: "Ada".to_owned() }).await.unwrap();
        world.keep();
        for program in &living {
            program.send(&ada, Deposit { amount: 100 }).await.unwrap();
        }
        for program in &living {
            assert_eq!(program.load::<Account>(&ada).await.unwrap().unwrap().balance, 300);
        }
        world.restore(comes);
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
        let world = World::new().await;
        let store = world.backend().await;
        world.keep();
        for name in ["first", "second"] {
            let mut one = append("s", ExpectedVersion::Any, 1);
            one.appends[0].events[0].name = name.into();
            store.commit(one).await.unwrap();
        }
        assert_eq!(store.stream(&stream("s"), Version(0), 10).await.unwrap().len(), 2);
        world.restore(comes);
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
        let world = World::new().await;
        let living = world.program().await;
        let first = |owner: &str, id: &str| OpenFirst { owner: owner.to_owned(), id: id.to_owned() };
        living.decide(first("Ada", "a")).await.unwrap();
        world.keep();
        living.decide(first("Bob", "b")).await.unwrap();
        world.restore(comes);
        // The account of Bob is gone; that of Ada is not.
        living.decide(first("Bob", "b2")).await.unwrap();
        living.decide(first("Ada", "a2")).await.unwrap_err();
        assert_eq!(count(world.database.url(), "select count(*) from es.events").await, 2, "{comes:?}");
        assert_eq!(world.backend().await.head().await.unwrap(), Position(2));
    }
}

/// Makes a database read-only for new connections and transactions, or takes that back.
async fn read_only(database: &Database, is: bool) {
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
