//! Databases that take part in transactions across several: what only a server can show.

use std::collections::BTreeSet;

use es_core::ErrorKind;
use es_core::store::{Branch as _, BranchId, Fate, Marked, Participant as _};
use es_postgres::PgParticipant;
use es_postgres::testing::ServerOptions;
use sqlx::PgPool;
use uuid::Uuid;

use crate::support::until_count;

/// Nothing is prepared on a standby, and what was committed may not have come there yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_not_believed_that_nothing_is_prepared_or_committed() {
    let both = || {
        let server = ServerOptions::new().start().unwrap();
        let standby = server.standby().unwrap();
        (server, standby)
    };
    let (server, standby) = tokio::task::spawn_blocking(both).await.unwrap();
    let at = async |url: String| PgParticipant::new("stock", PgPool::connect(&url).await.unwrap()).unwrap();
    let (primary, follows) = (at(server.url("postgres")).await, at(standby.url("postgres")).await);
    primary.install().await.unwrap();
    let cluster = Uuid::from_u128(7);
    let id = BranchId::new(cluster, Uuid::from_u128(8), "stock").unwrap();
    let mut branch = primary.begin(&id).await.unwrap();
    sqlx::query("create table notes (n int)").execute(&mut *branch).await.unwrap();
    branch.prepare().await.unwrap();
    let received = "select count(*) from pg_stat_replication where replay_lsn >= pg_current_wal_lsn()";
    until_count(&server.url("postgres"), received, 1).await;
    for error in [
        follows.prepared(cluster).await.unwrap_err(),
        follows.of_others(Uuid::nil()).await.unwrap_err(),
        follows.was_committed(&id).await.unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Transient, "{}", es_core::chain(&error));
        assert!(es_core::chain(&error).contains("the server is a standby"), "{}", es_core::chain(&error));
    }
    assert_eq!(primary.prepared(cluster).await.unwrap().len(), 1);
    // Once it has taken over it knows.
    let promoted = tokio::task::spawn_blocking(move || {
        standby.promote().unwrap();
        standby
    });
    let _standby = promoted.await.unwrap();
    assert_eq!(follows.prepared(cluster).await.unwrap()[0].id, id);
    assert_eq!(follows.commit(&id).await.unwrap(), Fate::Committed);
    let committed = Marked::Committed(BTreeSet::from(["stock".to_owned()]));
    assert_eq!(follows.was_committed(&id).await.unwrap(), committed);
}
