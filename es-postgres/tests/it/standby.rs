//! A program that starts while only a standby answers.

use es_core::ErrorKind;
use es_core::store::{EventStore as _, Position};
use es_postgres::testing::ServerOptions;
use es_postgres::{PgBackend, PgOptions};

use crate::support::{commit, until_count};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_no_mistake_and_a_store_once_it_is_promoted() {
    let both = || {
        let server = ServerOptions::new().start().unwrap();
        let standby = server.standby().unwrap();
        (server, standby)
    };
    let (server, standby) = tokio::task::spawn_blocking(both).await.unwrap();
    let primary = PgBackend::connect(&server.url("postgres")).await.unwrap();
    primary.commit(commit("a")).await.unwrap();
    let received = "select count(*) from pg_stat_replication where replay_lsn >= pg_current_wal_lsn()";
    until_count(&server.url("postgres"), received, 1).await;

    let url = standby.url("postgres");
    for target in ["", "&target_session_attrs=any", "&target_session_attrs=primary"] {
        let error = PgBackend::connect(&format!("{url}{target}")).await.unwrap_err();
        let words = es_core::chain(&error);
        assert_eq!(error.kind(), ErrorKind::Transient, "{target:?}: {words}");
        assert!(words.contains("is a standby"), "{target:?}: {words}");
    }
    let error = PgOptions::new(&url).unwrap().migrate().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{}", es_core::chain(&error));
    let findings = PgOptions::new(&url).unwrap().check().await.unwrap();
    let problems: Vec<&String> = findings.iter().flat_map(|finding| &finding.problems).collect();
    assert!(problems.iter().any(|problem| problem.contains("the server is a standby")), "{problems:?}");

    let promoted = tokio::task::spawn_blocking(move || {
        standby.promote().unwrap();
        standby
    });
    let _standby = promoted.await.unwrap();
    let store = PgBackend::connect(&url).await.unwrap();
    assert_eq!(store.head().await.unwrap(), Position(1));
    store.commit(commit("b")).await.unwrap();
}
