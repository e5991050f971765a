//! How long it is known what was decided about transactions across databases, and what whoever asks or waits is told: A37, A38.

use std::sync::Arc;
use std::time::Duration;

use es_core::entropy::SystemEntropy;
use es_core::id::Ids;
use es_core::store::Table;
use es_core::{App, ErrorKind};
use sagas::two_phase::{Decision, GlobalTx, InDoubt, TwoPhase, TwoPhaseApp as _, TwoPhaseError};
use serde_json::Value;
use tokio::time::timeout;

use super::Subject;
use super::across::{Across, At, Fault, LIMIT, crashes, write};

const HOUR: u64 = 60 * 60;

async fn decisions<S: Subject>(across: &Across<'_, S>) -> usize {
    let table = Table::<Value>::new("two-phase.decisions").unwrap();
    table.all(&across.backend).await.unwrap().len()
}

async fn written<S: Subject>(
    across: &Across<'_, S>,
    node: &TwoPhase<S::Backend>,
    what: &str,
) -> (GlobalTx<S::Backend>, InDoubt) {
    let mut tx = node.begin();
    for i in 0..2 {
        write(&mut tx, across.at(i), what).await;
    }
    let doubt = tx.doubt();
    (tx, doubt)
}

/// A37
pub(super) async fn what_was_decided_is_forgotten_once_all_of_it_is_done<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let builder = TwoPhase::on(across.backend.clone()).unwrap();
    assert!(
        builder.remember(Duration::from_secs(HOUR - 1)).build().unwrap_err().to_string().contains("an hour")
    );
    let node = TwoPhase::on(across.backend.clone()).unwrap().grace(Duration::ZERO);
    let node = node.ids(Ids::new(Arc::new(across.clock.clone()), Arc::new(SystemEntropy)));
    let node = node.participant(across.at(0).clone()).participant(across.at(1).clone());
    let node = node.remember(Duration::from_secs(HOUR)).build().unwrap();
    // One is done, one not quite, and one was rolled back by recovery.
    let (tx, done) = written(&across, &node, "done").await;
    tx.commit().await.unwrap();
    let (tx, odd) = written(&across, &node, "odd").await;
    crashes(tx.commit(), &[0, 1].map(|i| across.at(i).stops(At::Commit, false))).await;
    let gid = across.prepared(0).await.pop().unwrap();
    across.by_hand(0, format!("rollback prepared '{gid}'")).await;
    let (tx, aborted) = written(&across, &node, "aborted").await;
    crashes(tx.commit(), &[0, 1].map(|i| across.at(i).stops(At::Prepare, true))).await;
    node.recover().await.unwrap();
    across.clock.advance(Duration::from_secs(2 * HOUR));
    let (tx, young) = written(&across, &node, "young").await;
    tx.commit().await.unwrap();
    assert_eq!(decisions(&across).await, 4);
    let app = App::on(across.backend.clone()).two_phase(&node).start().await.unwrap();
    let is_forgotten = async {
        while decisions(&across).await == 4 {
            tokio::task::yield_now().await;
        }
    };
    timeout(LIMIT, is_forgotten).await.expect("one is forgotten");
    app.shutdown(Duration::from_secs(10)).await;
    assert_eq!(decisions(&across).await, 3);
    let another = across.another_node().await;
    for (doubt, decision) in
        [(&odd, Decision::Commit), (&aborted, Decision::Abort), (&young, Decision::Commit)]
    {
        assert_eq!(another.resolve(doubt).await.unwrap(), decision);
    }
    // Nobody says that it was aborted.
    for _ in 0..2 {
        let error = another.resolve(&done).await.unwrap_err();
        assert!(error.to_string().contains("is not known any more"), "{error}");
    }
    assert_eq!((decisions(&across).await, another.pending().await.unwrap().len()), (3, 1));
    assert_eq!((across.have("done").await, across.have("young").await), (2, 2));
}

/// A38
pub(super) async fn whoever_is_overtaken_or_waits_is_told_what_is_so<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    // Somebody has asked what became of it: it can be done again.
    let mut tx = across.two_phase.begin();
    write(&mut tx, across.at(0), "one").await;
    let doubt = tx.doubt();
    assert_eq!(across.another_node().await.resolve(&doubt).await.unwrap(), Decision::Abort);
    let error = tx.commit().await.unwrap_err();
    assert!(matches!(error, TwoPhaseError::Aborted { .. }), "{error}");
    assert_eq!(error.kind(), ErrorKind::Transient, "{}", es_core::chain(&error));
    // An operator has taken off the list what was rolled back by hand, before whoever waits has looked.
    across.at(0).will(At::Commit, Fault::Lost);
    let gate = across.at(1).stops(At::Commit, false);
    let tx = across.written("two").await;
    let txn = tx.id();
    let rolls_back = async {
        gate.met().await;
        let gid = across.prepared(0).await.pop().unwrap();
        across.by_hand(0, format!("rollback prepared '{gid}'")).await;
        gate.let_go();
    };
    let (done, ()) = futures::join!(tx.commit(), rolls_back);
    let another = across.another_node().await;
    another.recover().await.unwrap();
    another.accept(txn, "stock", "ada", "entered by hand").await.unwrap();
    across.is_at_rest().await;
    let error = done.unwrap().wait_all().await.unwrap_err();
    assert!(matches!(error, TwoPhaseError::Parked { ref branches, .. } if *branches == ["stock"]), "{error}");
}
