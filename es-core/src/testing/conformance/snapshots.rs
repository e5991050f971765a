//! Snapshots: N1 to N4.

use super::data::{NO_STREAM, encoded, exact, new_id};
use super::domain::{Account, Deposit, Open, Split, deposited, opened};
use super::patient::Patient;
use super::{LIMIT, Subject, sent, store};
use crate::store::{Backend, RowStore, Snapshot, SnapshotStore, Version};
use crate::{App, Apply};

const STREAM: &str = "account-a";

fn key() -> String {
    "a".to_owned()
}

async fn app<B: Backend>(backend: B) -> App {
    App::on(backend).start().await.expect("nothing to prepare")
}

async fn load(app: &App) -> Account {
    loop {
        match app.load::<Account>(&key()).await {
            Ok(found) => return found.expect("there").state,
            Err(error) => assert!(matches!(error, crate::LoadError::Store(_)), "{error}"),
        }
    }
}

/// An account with `n` deposits, and what it folds to.
async fn account<B: Backend + RowStore + Clone>(store: &Patient<B>, n: usize) -> Account {
    let mut history = vec![opened("ada")];
    history.extend((0..n).map(|_| deposited(2)));
    store.append(STREAM, NO_STREAM, history.iter().map(encoded).collect()).await.expect("accepted");
    let mut account = Account::default();
    history.iter().for_each(|event| account.apply(event));
    account
}

/// A snapshot of this state, as if the event at `version` were the last it knows.
async fn snapshot_of<B: Backend + RowStore + Clone>(
    store: &Patient<B>,
    state: &Account,
    version: u64,
) -> Snapshot {
    let last = store.stream(STREAM).await.into_iter().find(|e| e.version.0 == version).expect("there");
    Snapshot {
        stream: last.stream,
        version: Version(version),
        event: last.id,
        schema: 1,
        data: serde_json::to_vec(state).expect("plain data").into(),
    }
}

/// N1: the next load believes it, and reads only what came after.
pub async fn a_load_begins_at_the_snapshot<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let mut state = account(&store, 4).await;
    state.owner = "from the snapshot".to_owned();
    store.put_snapshot(&snapshot_of(&store, &state, 5).await).await;
    store.append(STREAM, exact(5), vec![encoded(&deposited(3))]).await.expect("accepted");
    let loaded = load(&app(store.0.clone()).await).await;
    assert_eq!((loaded.owner.as_str(), loaded.balance, loaded.n_events), ("from the snapshot", 11, 6));
}

/// N1, N3
pub async fn a_snapshot_is_taken_each_time_a_multiple_is_passed<S: Subject>(subject: S) {
    let store = store(&subject).await;
    // The store may fail to take one: that costs a longer load, and the next multiple is another chance.
    for round in 0..20 {
        let app = app(store.0.clone()).await;
        if round == 0 {
            sent!(app.send(&key(), Open { owner: "ada".to_owned() })).expect("accepted");
            assert_eq!(store.snapshot(STREAM).await, None, "not before the tenth event");
        }
        let done = sent!(app.send(&key(), Split { times: 13 })).expect("accepted");
        assert!(app.shutdown(LIMIT).await, "what runs in the background has ended");
        let Some(snapshot) = store.snapshot(STREAM).await else { continue };
        if snapshot.version == done.version {
            let state: Account = serde_json::from_slice(&snapshot.data).expect("as it was written");
            assert_eq!(state.n_events, done.version.0);
            assert_eq!(state, fold(&store).await);
            return;
        }
    }
    panic!("twenty multiples of ten were passed, and no snapshot was taken")
}

async fn fold<B: Backend + RowStore + Clone>(store: &Patient<B>) -> Account {
    use crate::Event as _;
    let mut account = Account::default();
    for stored in store.stream(STREAM).await {
        let events = super::domain::AccountEvent::decode(&stored).expect("readable");
        events.into_iter().for_each(|event| account.apply(&event));
    }
    account
}

/// N1
pub async fn a_snapshot_is_taken_on_request<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let state = account(&store, 2).await;
    let app = app(store.0.clone()).await;
    let taken = loop {
        match app.snapshot::<Account>(&key()).await {
            Ok(taken) => break taken,
            Err(error) => assert!(matches!(error, crate::LoadError::Store(_)), "{error}"),
        }
    };
    assert!(taken);
    assert_eq!(store.snapshot(STREAM).await, Some(snapshot_of(&store, &state, 3).await));
}

/// N2
pub async fn a_snapshot_that_cannot_be_used_is_ignored<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let state = account(&store, 4).await;
    let good = snapshot_of(&store, &Account { balance: -1, ..state.clone() }, 3).await;
    for bad in [
        Snapshot { data: "{\"owner\":".into(), ..good.clone() },
        Snapshot { data: Vec::new().into(), ..good.clone() },
        Snapshot { schema: 0, ..good.clone() },
        Snapshot { schema: 2, ..good.clone() },
    ] {
        super::patient::ask(|| store.0.drop_snapshot(&bad.stream)).await;
        store.put_snapshot(&bad).await;
        let app = app(store.0.clone()).await;
        assert_eq!(load(&app).await, state, "{bad:?}");
    }
}

/// N4
pub async fn a_snapshot_of_another_history_is_ignored<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let state = account(&store, 4).await;
    let good = snapshot_of(&store, &Account { balance: -1, ..state.clone() }, 3).await;
    for bad in [
        Snapshot { version: Version(9), ..good.clone() },
        Snapshot { event: new_id(), ..good.clone() },
        Snapshot { version: Version(4), ..good.clone() },
        Snapshot { version: Version(0), ..good.clone() },
    ] {
        super::patient::ask(|| store.0.drop_snapshot(&bad.stream)).await;
        store.put_snapshot(&bad).await;
        let app = app(store.0.clone()).await;
        assert_eq!(load(&app).await, state, "{bad:?}");
        let done = sent!(app.send(&key(), super::domain::Look {})).expect("accepted");
        assert_eq!(done.version, Version(5));
    }
}

/// N3
pub async fn a_newer_snapshot_is_not_replaced_by_an_older_one<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let state = account(&store, 4).await;
    let (old, new) = (snapshot_of(&store, &state, 2).await, snapshot_of(&store, &state, 4).await);
    let other_schema = Snapshot { schema: 2, ..old.clone() };
    for (put, expected) in
        [(&old, &old), (&old, &old), (&new, &new), (&old, &new), (&other_schema, &other_schema)]
    {
        store.put_snapshot(put).await;
        assert_eq!(store.snapshot(STREAM).await.as_ref(), Some(expected));
    }
    super::patient::ask(|| store.0.drop_snapshot(&old.stream)).await;
    assert_eq!(store.snapshot(STREAM).await, None);
    super::patient::ask(|| store.0.drop_snapshot(&old.stream)).await;
}

/// N3
pub async fn a_refused_command_takes_no_snapshot<S: Subject>(subject: S) {
    let store = store(&subject).await;
    account(&store, 8).await;
    let app = app(store.0.clone()).await;
    sent!(app.send(&key(), super::domain::Withdraw { amount: 1_000 })).expect_err("not that much on it");
    sent!(app.send(&key(), Deposit { amount: 1 }).expect_version(Version(3))).expect_err("not at 3");
    assert!(app.shutdown(LIMIT).await);
    assert_eq!(store.snapshot(STREAM).await, None);
}
