//! Transactions across databases in the list of all, and what was decided against what is there: Z10, Z11, Z6, Z21, A62.

use std::time::Duration;

use es_core::store::{Table, write_rows};
use es_core::{App, Backend};
use sagas::overview::{
    Act, ActError, ActName, Filter, Listed, Overview, Page, Pattern, Status, Transactions as _,
};
use sagas::reconcile::{self, Class, ReconcileError};
use sagas::two_phase::{Decision, TwoPhase, TwoPhaseApp as _};

use super::Subject;
use super::across::{Across, At, Fault, crashes};

/// A node that looks on: nothing is recovered but by whoever asks.
async fn looks_on<B: Backend + Clone>(backend: &B, two_phase: &TwoPhase<B>) -> App {
    App::on(backend.clone()).two_phase(two_phase).looks_on().start().await.unwrap()
}

async fn page(all: &Overview, filter: &Filter) -> Page {
    let page = all.page(filter, None, 100).await.unwrap();
    assert_eq!(page.next, None);
    page
}

async fn statuses(all: &Overview, filter: &Filter) -> Vec<(String, Status)> {
    let page = page(all, filter).await;
    assert_eq!(page.unasked, []);
    page.transactions.into_iter().map(|listed| (listed.which.key, listed.status)).collect()
}

async fn asked(all: &Overview, listed: &Listed, act: Act) -> Result<(), ActError> {
    all.ask(&listed.which, act, "ada", "because", Duration::from_secs(30)).await
}

/// Z10
pub(super) async fn what_is_across_databases_is_in_the_one_list<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let done = across.written("done").await;
    let key = |txn: uuid::Uuid| txn.simple().to_string();
    let done_key = key(done.id());
    done.commit().await.unwrap().wait_all().await.unwrap();
    // One is prepared and undecided, one is decided and not committed, one is rolled back by hand once it was decided, and
    // one is committed by hand before it was.
    let [doubt, decided, odd, torn] = [
        across.written("a").await,
        across.written("b").await,
        across.written("c").await,
        across.written("d").await,
    ];
    let [doubt_key, decided_key, odd_key, torn_key] = [&doubt, &decided, &odd, &torn].map(|tx| key(tx.id()));
    let prepared = || [0, 1].map(|i| across.at(i).stops(At::Prepare, true));
    let before_commit = || [0, 1].map(|i| across.at(i).stops(At::Commit, false));
    crashes(torn.commit(), &prepared()).await;
    let gid = across.prepared(0).await.pop().unwrap();
    across.by_hand(0, format!("commit prepared '{gid}'")).await;
    crashes(odd.commit(), &before_commit()).await;
    let gid = across.prepared(0).await.pop().unwrap();
    across.by_hand(0, format!("rollback prepared '{gid}'")).await;
    // What became of it is seen by whoever looks first.
    across.another_node().await.recover().await.unwrap();
    crashes(doubt.commit(), &prepared()).await;
    crashes(decided.commit(), &before_commit()).await;

    let app = looks_on(&across.backend, &across.another_node().await).await;
    let all = app.transactions();
    let mut open = statuses(&all, &Filter::open()).await;
    open.sort();
    let mut expected = vec![
        (doubt_key.clone(), Status::InDoubt),
        (decided_key.clone(), Status::Committing),
        (odd_key.clone(), Status::Parked),
        (torn_key.clone(), Status::Torn),
    ];
    expected.sort();
    assert_eq!(open, expected);
    assert_eq!(
        statuses(&all, &Filter::open().with_status(Status::Done)).await,
        [(done_key, Status::Done)],
        "what is not done is not among what is"
    );
    let waiting = page(&all, &Filter::needs_person()).await.transactions;
    let [parked, torn] = &waiting[..] else { panic!("{waiting:#?}") };
    assert!(parked.reason.as_ref().is_some_and(|why| why.contains("\"stock\"")), "{parked:?}");
    assert!(torn.reason.as_ref().is_some_and(|why| why.contains("a person has to decide")), "{torn:?}");
    assert!(waiting.iter().all(|of| of.begun.is_some() && of.error.is_some()), "{waiting:?}");

    // A page of one each gives the same.
    let (mut keys, mut after) = (Vec::new(), None);
    loop {
        let page = all.page(&Filter::open(), after.as_ref(), 1).await.unwrap();
        keys.extend(page.transactions.into_iter().map(|listed| (listed.which.key, listed.status)));
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    keys.sort();
    assert_eq!(keys, expected);

    let error = asked(&all, torn, Act::Abandon).await.unwrap_err();
    let ActError::NotKnown { pattern: Pattern::TWO_PHASE, act: ActName::Abandon, knows } = error else {
        panic!("{error:?}")
    };
    assert_eq!(knows, [ActName::Retry, ActName::Skip, ActName::Decide]);
    let decide = Act::Decide(Decision::Commit);
    assert!(matches!(asked(&all, parked, decide.clone()).await.unwrap_err(), ActError::Declined { .. }));
    let dry = all.dry_run(&torn.which, decide.clone(), "ada", "because").await.unwrap();
    assert!(dry.contains("\"billing\" is committed"), "{dry}");
    assert_eq!(across.have("d").await, 1);
    asked(&all, torn, decide).await.unwrap();
    assert_eq!(across.have("d").await, 2);
    let skip = |part: &str| Act::Skip { part: part.to_owned() };
    assert!(matches!(asked(&all, parked, skip("mail")).await.unwrap_err(), ActError::Declined { .. }));
    asked(&all, parked, skip("stock")).await.unwrap();
    assert_eq!(page(&all, &Filter::needs_person()).await.transactions, []);
    for listed in page(&all, &Filter::open()).await.transactions {
        asked(&all, &listed, Act::Retry { part: None }).await.unwrap();
    }
    assert_eq!(statuses(&all, &Filter::open()).await, []);
    assert_eq!((across.have("a").await, across.have("b").await, across.have("c").await), (0, 2, 1));
    across.is_at_rest().await;
    app.shutdown(Duration::from_secs(10)).await;
}

/// Z11
pub(super) async fn a_participant_that_cannot_be_asked_is_named_and_keeps_no_other_from_the_list<
    S: Subject,
>(
    subject: &S,
) {
    let across = Across::open(subject, 2).await;
    let tx = across.written("a").await;
    let key = tx.id().simple().to_string();
    crashes(tx.commit(), &[0, 1].map(|i| across.at(i).stops(At::Prepare, true))).await;
    let app = looks_on(&across.backend, &across.two_phase).await;
    let all = app.transactions();
    // It is asked twice in a page: for what is prepared, and for what nobody decides about.
    for _ in 0..2 {
        across.at(0).will(At::Scan, Fault::Lost);
    }
    let seen = page(&all, &Filter::open()).await;
    let [unasked] = &seen.unasked[..] else { panic!("{:?}", seen.unasked) };
    assert_eq!((unasked.pattern, unasked.part.as_deref()), (Pattern::TWO_PHASE, Some("stock")));
    assert!(unasked.why.contains("the connection was lost"), "{unasked}");
    let [listed] = &seen.transactions[..] else { panic!("{:?}", seen.transactions) };
    assert_eq!((&listed.which.key, listed.status), (&key, Status::InDoubt));
    assert!(!listed.reason.as_ref().is_some_and(|why| why.contains("stock")), "{listed:?}");
    across.at(0).forget_faults();
    assert_eq!(statuses(&all, &Filter::open()).await, [(key, Status::InDoubt)]);
    app.shutdown(Duration::from_secs(10)).await;
}

/// Z6
pub(super) async fn what_is_prepared_and_what_was_decided_are_compared<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let node = across.another_node().await;
    let compares = async || {
        let decisions = reconcile::decisions(across.backend.clone(), &node).unwrap();
        decisions.looks_again_after(Duration::ZERO).run().await
    };
    across.written("done").await.commit().await.unwrap().wait_all().await.unwrap();
    // What recovery is at is no difference: undecided, and decided.
    let (doubt, decided) = (across.written("a").await, across.written("b").await);
    crashes(doubt.commit(), &[0, 1].map(|i| across.at(i).stops(At::Prepare, true))).await;
    crashes(decided.commit(), &[0, 1].map(|i| across.at(i).stops(At::Commit, false))).await;
    let report = compares().await.unwrap();
    assert!(report.is_clean(), "{report}");
    node.recover().await.unwrap();
    assert!(compares().await.unwrap().is_clean());

    // One is committed by hand, and nothing was decided; of another the list of what is to be done is lost.
    let (torn, forgotten) = (across.written("c").await, across.written("d").await);
    let (torn_key, forgotten_key) = (torn.id().simple().to_string(), forgotten.id().simple().to_string());
    crashes(torn.commit(), &[0, 1].map(|i| across.at(i).stops(At::Prepare, true))).await;
    let gid = across.prepared(0).await.pop().unwrap();
    across.by_hand(0, format!("commit prepared '{gid}'")).await;
    crashes(forgotten.commit(), &[0, 1].map(|i| across.at(i).stops(At::Commit, false))).await;
    let open = Table::<serde_json::Value>::new("hot.two-phase.open").unwrap();
    let row = open.all(&across.backend).await.unwrap().pop().unwrap();
    assert!(write_rows(&across.backend, vec![open.delete(&row)]).await.unwrap().is_yes());
    let report = compares().await.unwrap();
    let of = |class| {
        report.first.iter().filter(|of| of.class == class).map(|of| of.key.clone()).collect::<Vec<_>>()
    };
    assert_eq!(of(Class::MissingLeft), [torn_key], "{report}");
    let both = ["billing", "stock"].map(|name| format!("{forgotten_key} at {name:?}"));
    assert_eq!(of(Class::Mismatch), both, "{report}");
    // Who cannot be asked is not taken for one where nothing is prepared.
    let own = reconcile::decisions(across.backend.clone(), &across.two_phase).unwrap();
    across.at(0).forget_faults();
    across.at(0).will(At::Scan, Fault::Lost);
    let error = own.run().await.unwrap_err();
    assert!(matches!(error, ReconcileError::Read(_)), "{error}");
    assert!(own.last().await.unwrap().is_some_and(|last| last == report), "what was found before stays");

    let stray = node.strays().await.unwrap().found.pop().unwrap();
    node.adopt(&stray, Decision::Commit, "ada", "because").await.unwrap();
    node.recover().await.unwrap();
    assert!(compares().await.unwrap().is_clean());
    assert_eq!((across.have("c").await, across.have("d").await), (2, 2));
}

/// A62
pub(super) async fn what_is_rolled_back_is_in_the_list_while_a_participant_is_away<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let tx = across.written("a").await;
    let key = tx.id().simple().to_string();
    crashes(tx.commit(), &[0, 1].map(|i| across.at(i).stops(At::Prepare, true))).await;
    for _ in 0..2 {
        across.at(1).will(At::Abort, Fault::Lost);
    }
    assert_eq!(across.two_phase.recover().await.unwrap().aborted, 1);
    let app = looks_on(&across.backend, &across.two_phase).await;
    let all = app.transactions();
    let listed = page(&all, &Filter::open()).await.transactions;
    let [undoing] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!((&undoing.which.key, undoing.status), (&key, Status::Undoing));
    let waits = all.waits_for(&undoing.which).await.unwrap();
    assert!(waits.len() == 1 && waits[0].contains("\"billing\""), "{waits:?}");
    assert_eq!(page(&all, &Filter::needs_person()).await.transactions, []);
    across.two_phase.recover().await.unwrap();
    let undone = Filter::open().with_status(Status::Undone);
    assert_eq!(statuses(&all, &undone).await, [(key, Status::Undone)]);
    app.shutdown(Duration::from_secs(10)).await;
}

/// Z21
pub(super) async fn a_retry_across_databases_says_what_it_has_left<S: Subject>(subject: &S) {
    let across = Across::open(subject, 2).await;
    let [decided, odd, torn] =
        [across.written("a").await, across.written("b").await, across.written("c").await];
    let before_commit = || [0, 1].map(|i| across.at(i).stops(At::Commit, false));
    crashes(torn.commit(), &[0, 1].map(|i| across.at(i).stops(At::Prepare, true))).await;
    let gid = across.prepared(0).await.pop().unwrap();
    across.by_hand(0, format!("commit prepared '{gid}'")).await;
    let odd_key = odd.id().simple().to_string();
    crashes(odd.commit(), &before_commit()).await;
    let of_odd = across.prepared(0).await.into_iter().find(|gid| gid.contains(&odd_key)).unwrap();
    across.by_hand(0, format!("rollback prepared '{of_odd}'")).await;
    across.another_node().await.recover().await.unwrap();
    crashes(decided.commit(), &before_commit()).await;

    let app = looks_on(&across.backend, &across.two_phase).await;
    let all = app.transactions();
    let open = page(&all, &Filter::open()).await.transactions;
    let of = |status| open.iter().find(|listed| listed.status == status).expect("it is listed");
    let retry = || Act::Retry { part: None };
    let declined = async |listed: &Listed, act: Act| match asked(&all, listed, act).await {
        Err(ActError::Declined { why }) => why,
        other => panic!("{other:?}"),
    };
    across.at(0).will(At::Commit, Fault::Lost);
    let why = declined(of(Status::Committing), retry()).await;
    assert!(why.contains("\"stock\" is not done"), "{why}");
    asked(&all, of(Status::Committing), retry()).await.unwrap();
    // One that is done is done; of one that is parked or torn a person says what is so.
    asked(&all, of(Status::Committing), retry()).await.unwrap();
    assert_eq!(across.have("a").await, 2);
    let why = declined(of(Status::Parked), retry()).await;
    assert!(why.contains("\"stock\" is not what was decided") && why.contains("skip"), "{why}");
    let why = declined(of(Status::Torn), retry()).await;
    assert!(why.contains("a person has to decide"), "{why}");
    let part = Act::Retry { part: Some("stock".to_owned()) };
    assert!(declined(of(Status::Parked), part).await.contains("or nothing"));
    let mut nobody = of(Status::Torn).clone();
    (nobody.which.key, nobody.which.id) = (uuid::Uuid::new_v4().simple().to_string(), None);
    for act in [retry(), Act::Decide(Decision::Commit)] {
        let error = asked(&all, &nobody, act).await.unwrap_err();
        assert!(matches!(error, ActError::Missing(_)), "{error:?}");
    }
    // One that does not answer within the limit is not said to be done.
    let gate = across.at(1).stops(At::Scan, false);
    let limit = Duration::from_millis(50);
    let error = all.ask(&of(Status::Torn).which, retry(), "ada", "because", limit).await.unwrap_err();
    assert!(matches!(error, ActError::Store(_)), "{error:?}");
    drop(gate);
    across.at(1).forget_faults();
    app.shutdown(Duration::from_secs(10)).await;
}
