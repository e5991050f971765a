//! Generations of a projection's tables, beside each other: P1, P8 and P11.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use super::data::{ANY, append, events, id};
use super::patient::{Patient, ask, marked};
use super::{Subject, store};
use crate::ErrorKind;
use crate::store::{
    Backend as _, Builds as _, Commit, CommitError, Difference, Generation, RowWrite, StoreError, Tables,
    Transaction as _,
};

type Store<S> = Patient<<S as Subject>::Backend>;
type Tx<S> = <<S as Subject>::Backend as crate::store::Backend>::Tx;

/// The tables of the suites' own projection.
pub(super) const fn tables<S: Subject>() -> Tables {
    Tables { name: "paid_by", version: 1, schema: S::PAID }
}

/// A store with the first and the second generation; the first is the current one.
async fn installed<S: Subject>(subject: &S) -> (Store<S>, Tables) {
    let (store, tables) = (store(subject).await, tables::<S>());
    store.install(&tables, 1).await;
    store.install(&tables, 2).await;
    (store, tables)
}

/// A transaction in one generation, or in the current one.
async fn begin<S: Subject>(store: &Store<S>, tables: &Tables, generation: Option<Generation>) -> Tx<S> {
    match generation {
        Some(generation) => store.begin_at(tables, generation).await,
        None => store.begin().await,
    }
}

/// Pays in one transaction, with what is staged.
pub(super) async fn pay_with<S: Subject>(
    store: &Store<S>,
    generation: Option<Generation>,
    amounts: &[(&str, i64)],
    staged: Commit,
) -> Result<(), CommitError> {
    let staged = marked(staged);
    loop {
        let mut tx = begin::<S>(store, &tables::<S>(), generation).await;
        for (key, amount) in amounts {
            S::pay(&mut tx, key, *amount).await.unwrap_or_else(|e| panic!("paying {key}: {e}"));
        }
        tx.staged().rows.extend(staged.rows.iter().cloned());
        tx.staged().appends.extend(staged.appends.iter().cloned());
        if store.finish(tx).await? {
            return Ok(());
        }
    }
}

/// Pays in a generation.
async fn pay<S: Subject>(store: &Store<S>, generation: Generation, amounts: &[(&str, i64)]) {
    let paid = pay_with::<S>(store, Some(generation), amounts, Commit::default()).await;
    paid.expect("nothing stands against it");
}

/// Pays in the current generation, as whoever knows nothing of generations does.
async fn pay_now<S: Subject>(store: &Store<S>, amounts: &[(&str, i64)]) {
    let paid = pay_with::<S>(store, None, amounts, Commit::default()).await;
    paid.expect("nothing stands against it");
}

/// What a query of the user's sees.
pub(super) async fn paid<S: Subject>(store: &Store<S>) -> BTreeMap<String, i64> {
    S::paid(&store.0).await.unwrap_or_else(|e| panic!("reading what was paid: {e}"))
}

fn amounts(amounts: &[(&str, i64)]) -> BTreeMap<String, i64> {
    amounts.iter().map(|(key, amount)| ((*key).to_owned(), *amount)).collect()
}

async fn switch<S: Subject>(store: &Store<S>, to: Generation) {
    store.switch(&tables::<S>(), to, Commit::default()).await.expect("nothing stands against it");
}

/// One row of the framework's own.
fn row(table: &str, rev: u64) -> Commit {
    let row = RowWrite { table: table.into(), key: "k".to_owned(), rev, row: Some("1".into()) };
    Commit { rows: vec![row], ..Commit::default() }
}

async fn rev<S: Subject>(store: &Store<S>, table: &str) -> u64 {
    store.row(table, "k").await.map_or(0, |row| row.rev)
}

fn assert_fenced<T: std::fmt::Debug>(refused: Result<T, CommitError>) {
    let refused = refused.expect_err("a row is at another revision");
    assert!(matches!(refused, CommitError::Fenced { .. }), "{refused:?}");
}

/// P11
pub async fn what_is_written_in_a_generation_is_seen_in_that_one_alone<S: Subject>(subject: S) {
    let (store, _) = installed(&subject).await;
    pay::<S>(&store, 1, &[("ada", 1)]).await;
    pay::<S>(&store, 2, &[("ada", 10), ("bob", 5)]).await;
    assert_eq!(paid::<S>(&store).await, amounts(&[("ada", 1)]), "the current one is untouched");
    pay_now::<S>(&store, &[("ada", 1), ("cyd", 3)]).await;
    pay::<S>(&store, 2, &[("ada", 10)]).await;
    pay::<S>(&store, 1, &[("cyd", 1)]).await;
    assert_eq!(paid::<S>(&store).await, amounts(&[("ada", 2), ("cyd", 4)]));
    switch::<S>(&store, 2).await;
    assert_eq!(paid::<S>(&store).await, amounts(&[("ada", 20), ("bob", 5)]));
}

/// P11
pub async fn a_switch_changes_what_queries_read_and_where_others_write<S: Subject>(subject: S) {
    let (store, tables) = installed(&subject).await;
    pay::<S>(&store, 1, &[("ada", 1)]).await;
    pay::<S>(&store, 2, &[("ada", 2)]).await;
    let other = Patient(subject.again(&store.0).await);
    for (round, to) in [2, 1, 2, 2, 1].into_iter().enumerate() {
        store.switch(&tables, to, row("v", round as u64)).await.expect("nothing stands against it");
        assert_eq!(rev::<S>(&store, "v").await, round as u64 + 1, "what was committed with it");
        let before = paid::<S>(&store).await["ada"];
        assert_eq!(paid::<S>(&other).await["ada"], before, "for everybody");
        assert_eq!(before % 2 == 0, to == 2, "amounts of the second generation are even");
        pay_now::<S>(&store, &[("ada", 100)]).await;
        pay_now::<S>(&other, &[("ada", 100)]).await;
        pay::<S>(&store, to, &[("ada", 100)]).await;
        pay::<S>(&other, 3 - to, &[("ada", 10_000)]).await;
        assert_eq!(paid::<S>(&other).await["ada"], before + 300, "the other one is written beside it");
    }
    assert_eq!(paid::<S>(&store).await, amounts(&[("ada", 1 + 2 * 300 + 3 * 10_000)]));
    switch::<S>(&store, 2).await;
    assert_eq!(paid::<S>(&store).await, amounts(&[("ada", 2 + 3 * 300 + 2 * 10_000)]));
}

/// P11
pub async fn a_generation_nobody_wrote_is_empty_after_the_switch<S: Subject>(subject: S) {
    let (store, _) = installed(&subject).await;
    pay::<S>(&store, 1, &[("ada", 1)]).await;
    switch::<S>(&store, 2).await;
    assert_eq!(paid::<S>(&store).await, amounts(&[]));
    pay_now::<S>(&store, &[("bob", 2)]).await;
    switch::<S>(&store, 1).await;
    assert_eq!(paid::<S>(&store).await, amounts(&[("ada", 1)]));
}

/// P1, P11
pub async fn a_refused_switch_changes_nothing<S: Subject>(subject: S) {
    let (store, tables) = installed(&subject).await;
    pay::<S>(&store, 1, &[("ada", 1)]).await;
    pay::<S>(&store, 2, &[("ada", 2)]).await;
    let refused = Commit { rows: [row("v", 0).rows, row("w", 7).rows].concat(), ..Commit::default() };
    assert_fenced(store.switch(&tables, 2, refused).await);
    assert_eq!((rev::<S>(&store, "v").await, rev::<S>(&store, "w").await), (0, 0));
    assert_eq!(paid::<S>(&store).await, amounts(&[("ada", 1)]));
    pay_now::<S>(&store, &[("ada", 1)]).await;
    pay::<S>(&store, 2, &[("ada", 2)]).await;
    assert_eq!(paid::<S>(&store).await, amounts(&[("ada", 2)]));
    switch::<S>(&store, 2).await;
    assert_eq!(paid::<S>(&store).await, amounts(&[("ada", 4)]));
}

/// P11
pub async fn a_query_beside_switches_sees_one_generation_whole<S: Subject>(subject: S) {
    let (store, _) = installed(&subject).await;
    let keys: Vec<String> = (0..10).map(|i| format!("k-{i}")).collect();
    let all = |amount: i64| keys.iter().map(|key| (key.as_str(), amount)).collect::<Vec<_>>();
    pay::<S>(&store, 1, &all(1)).await;
    pay::<S>(&store, 2, &all(2)).await;
    let (reader, done) = (Patient(subject.again(&store.0).await), AtomicBool::new(false));
    let switching = async {
        for round in 0..10 {
            let to = if round % 2 == 0 { 2 } else { 1 };
            switch::<S>(&store, to).await;
            assert_eq!(paid::<S>(&store).await, amounts(&all(to.into())), "at once");
            tokio::task::yield_now().await;
        }
        done.store(true, Ordering::Relaxed);
    };
    let reading = async {
        while !done.load(Ordering::Relaxed) {
            let seen = paid::<S>(&reader).await;
            assert!(seen == amounts(&all(1)) || seen == amounts(&all(2)), "{seen:?}");
            // Gives way, also to the time of a simulated store.
            reader.head().await;
            tokio::task::yield_now().await;
        }
    };
    futures::join!(switching, reading);
}

/// P11
pub async fn generations_follow_each_other<S: Subject>(subject: S) {
    let (store, tables) = (store(&subject).await, tables::<S>());
    store.install(&tables, 1).await;
    pay_now::<S>(&store, &[("ada", 1)]).await;
    for new in 2..=5 {
        store.install(&tables, new).await;
        pay::<S>(&store, new, &[("ada", i64::from(new) * 10)]).await;
        pay::<S>(&store, new - 1, &[("late", 1)]).await;
        switch::<S>(&store, new).await;
        store.uninstall(&tables, new - 1, Commit::default()).await.expect("queries read another one");
        pay_now::<S>(&store, &[("ada", 1)]).await;
        assert_eq!(paid::<S>(&store).await, amounts(&[("ada", i64::from(new) * 10 + 1)]));
    }
}

/// P11
pub async fn an_installation_that_is_repeated_keeps_what_is_there<S: Subject>(subject: S) {
    let (store, tables) = installed(&subject).await;
    let below = format!("{}/x", tables.rows(2));
    store.commit(row(&below, 0)).await.expect("a new row");
    pay::<S>(&store, 1, &[("ada", 1)]).await;
    pay::<S>(&store, 2, &[("ada", 2)]).await;
    for to in [2, 1] {
        for generation in [1, 2] {
            store.install(&tables, generation).await;
            Patient(subject.again(&store.0).await).install(&tables, generation).await;
        }
        assert_eq!(
            paid::<S>(&store).await,
            amounts(&[("ada", i64::from(3 - to))]),
            "and the current one stays it"
        );
        switch::<S>(&store, to).await;
        assert_eq!(paid::<S>(&store).await, amounts(&[("ada", i64::from(to))]));
    }
    assert_eq!(rev::<S>(&store, &below).await, 1);
}

/// The next version of the suites' own projection.
fn next_version<S: Subject>() -> Tables {
    Tables { version: 2, ..tables::<S>() }
}

/// Both versions, with other amounts in each generation; the older one has the plain names.
async fn two_versions<S: Subject>(subject: &S) -> (Store<S>, [Tables; 2]) {
    let (store, old) = installed(subject).await;
    let new = next_version::<S>();
    for generation in [1, 2] {
        store.install(&new, generation).await;
    }
    for (version, amount) in [(&old, 1), (&new, 10)] {
        pay_in::<S>(&store, version, 1, &[("ada", amount)]).await;
        pay_in::<S>(&store, version, 2, &[("ada", 2 * amount), ("bob", amount)]).await;
    }
    (store, [old, new])
}

/// Pays in a generation of a version.
async fn pay_in<S: Subject>(store: &Store<S>, tables: &Tables, generation: Generation, paid: &[(&str, i64)]) {
    let staged = marked(Commit::default());
    loop {
        let mut tx = store.begin_at(tables, generation).await;
        for (key, amount) in paid {
            S::pay(&mut tx, key, *amount).await.unwrap_or_else(|e| panic!("paying {key}: {e}"));
        }
        tx.staged().rows.extend(staged.rows.iter().cloned());
        if store.finish(tx).await.expect("nothing stands against it") {
            return;
        }
    }
}

/// What a query of an app with this version sees.
async fn paid_of<S: Subject>(store: &Store<S>, tables: &Tables) -> BTreeMap<String, i64> {
    let mut services = crate::services::Services::default();
    store.0.provide(&mut services, std::slice::from_ref(tables));
    S::paid_through(&services).await.unwrap_or_else(|e| panic!("reading what was paid: {e}"))
}

/// P19
pub async fn versions_of_a_projection_are_beside_each_other<S: Subject>(subject: S) {
    let (store, [old, new]) = two_versions(&subject).await;
    let other = Patient(subject.again(&store.0).await);
    for store in [&store, &other] {
        assert_eq!(paid_of::<S>(store, &old).await, amounts(&[("ada", 1)]));
        assert_eq!(paid_of::<S>(store, &new).await, amounts(&[("ada", 10)]));
        assert_eq!(paid::<S>(store).await, amounts(&[("ada", 1)]), "the first one has the plain names");
    }
    for version in [&old, &new] {
        other.install(version, 1).await;
        other.install(version, 2).await;
    }
    pay_now::<S>(&other, &[("cyd", 1)]).await;
    assert_eq!(paid_of::<S>(&store, &old).await, amounts(&[("ada", 1), ("cyd", 1)]));
    store.switch(&new, 2, Commit::default()).await.expect("nothing stands against it");
    assert_eq!(paid_of::<S>(&other, &new).await, amounts(&[("ada", 20), ("bob", 10)]));
    assert_eq!(paid::<S>(&store).await, amounts(&[("ada", 1), ("cyd", 1)]), "of the other version");
    store.clear(&new, 2, Commit::default()).await.expect("nothing stands against it");
    pay_in::<S>(&store, &new, 2, &[("dan", 3)]).await;
    assert_eq!(paid_of::<S>(&other, &new).await, amounts(&[("dan", 3)]));
    assert_eq!(paid_of::<S>(&other, &old).await, amounts(&[("ada", 1), ("cyd", 1)]));
    store.uninstall(&new, 1, Commit::default()).await.expect("queries read another one");
    assert_eq!(paid_of::<S>(&other, &new).await, amounts(&[("dan", 3)]));
}

/// P28
pub async fn the_plain_names_are_given_from_one_version_to_another<S: Subject>(subject: S) {
    let (store, [old, new]) = two_versions(&subject).await;
    let other = Patient(subject.again(&store.0).await);
    store.publish(&new, row("v", 0)).await.expect("nothing stands against it");
    assert_eq!(rev::<S>(&store, "v").await, 1, "what was committed with it");
    for store in [&store, &other] {
        assert_eq!(paid::<S>(store).await, amounts(&[("ada", 10)]));
        assert_eq!(paid_of::<S>(store, &old).await, amounts(&[("ada", 1)]), "it has its own still");
    }
    pay_now::<S>(&other, &[("ada", 5)]).await;
    pay_in::<S>(&other, &old, 1, &[("ada", 5)]).await;
    assert_eq!(paid_of::<S>(&store, &new).await, amounts(&[("ada", 15)]));
    assert_eq!(paid_of::<S>(&store, &old).await, amounts(&[("ada", 6)]));
    store.switch(&old, 2, Commit::default()).await.expect("nothing stands against it");
    assert_eq!(paid::<S>(&store).await, amounts(&[("ada", 15)]), "those of the other version");
    assert_eq!(paid_of::<S>(&store, &old).await, amounts(&[("ada", 2), ("bob", 1)]));
    store.switch(&new, 2, Commit::default()).await.expect("nothing stands against it");
    assert_eq!(paid::<S>(&other).await, amounts(&[("ada", 20), ("bob", 10)]), "they follow the switch");
    assert_fenced(store.publish(&old, row("v", 7)).await);
    assert_eq!(paid::<S>(&store).await, amounts(&[("ada", 20), ("bob", 10)]));
    store.publish(&old, Commit::default()).await.expect("nothing stands against it");
    store.publish(&old, Commit::default()).await.expect("it has them");
    assert_eq!(paid::<S>(&other).await, amounts(&[("ada", 2), ("bob", 1)]), "and back");
    let missing = Tables { version: 3, ..new };
    let refused = store.publish(&missing, Commit::default()).await.expect_err("it is not there");
    assert!(matches!(refused, CommitError::Store(StoreError::Misuse { .. })), "{refused:?}");
}

/// P19
pub async fn a_version_is_removed_whole_and_no_other_is<S: Subject>(subject: S) {
    let (store, [old, new]) = two_versions(&subject).await;
    let other = Patient(subject.again(&store.0).await);
    let gone = [old.rows(1), format!("{}/x", old.rows(1)), old.rows(2), old.rows(13)];
    let kept = [
        new.rows(1),
        format!("{}/x", new.rows(1)),
        "paid_byx/1~1".to_owned(),
        "paidxby/1~1".to_owned(),
        "paid_by/11~1".to_owned(),
        "paid_by/1".to_owned(),
        "PAID_BY/1~1".to_owned(),
        "x/paid_by/1~1".to_owned(),
    ];
    fill::<S>(&store, &gone).await;
    fill::<S>(&store, &kept).await;
    assert_fenced(store.remove_version("paid_by", 1, row("v", 7)).await);
    assert_revs::<S>(&store, &gone, 1).await;
    assert_eq!(paid::<S>(&store).await, amounts(&[("ada", 1)]));
    for round in 0..2 {
        store.remove_version("paid_by", 1, row("v", round)).await.expect("nothing stands against it");
        assert_eq!(rev::<S>(&store, "v").await, round + 1, "what was committed with it");
        assert_revs::<S>(&store, &gone, 0).await;
        assert_revs::<S>(&store, &kept, 1).await;
        assert_eq!(
            paid::<S>(&store).await,
            amounts(&[("ada", 10)]),
            "the one that is left has the plain names"
        );
        assert_eq!(paid_of::<S>(&other, &new).await, amounts(&[("ada", 10)]));
    }
    pay_now::<S>(&other, &[("ada", 1)]).await;
    // Rolled back: it begins with nothing, and has no plain names.
    store.install(&old, 1).await;
    assert_eq!(paid_of::<S>(&store, &old).await, amounts(&[]));
    pay_in::<S>(&store, &old, 1, &[("ada", 7)]).await;
    assert_eq!(paid_of::<S>(&store, &old).await, amounts(&[("ada", 7)]));
    assert_eq!(paid::<S>(&store).await, amounts(&[("ada", 11)]));
    // The last one has gone: the next to come begins with the plain names.
    for version in [1, 2] {
        store.remove_version("paid_by", version, Commit::default()).await.expect("nothing stands against it");
    }
    store.install(&old, 1).await;
    pay_now::<S>(&store, &[("eve", 1)]).await;
    assert_eq!(paid::<S>(&other).await, amounts(&[("eve", 1)]));
    assert_eq!(paid_of::<S>(&other, &old).await, amounts(&[("eve", 1)]));
}

/// P11
pub async fn a_generation_that_is_not_installed_cannot_be_written<S: Subject>(subject: S) {
    let (store, tables) = installed(&subject).await;
    store.uninstall(&tables, 2, Commit::default()).await.expect("queries read another one");
    for generation in [2, 3] {
        let refused = loop {
            match store.0.begin_at(&tables, generation, super::LIMIT).await {
                Err(error) if error.kind() == ErrorKind::Transient => {}
                other => break other.expect_err("it is not there"),
            }
        };
        assert!(matches!(refused, StoreError::Misuse { .. }), "{refused:?}");
    }
    pay::<S>(&store, 1, &[("ada", 1)]).await;
}

/// Tables of the row store that a generation's name could be taken for, beside its own and those below it.
fn beside(tables: &Tables) -> Vec<String> {
    let strange = [
        "paid_by/1~10",
        "paid_by/1~10/x",
        "paid_by/1~2",
        "paid_by/1~2/x",
        "paid_by/11~1",
        "paid_by/11~1/x",
        "paid_by/1",
        "paid_by/1~",
        "paid_by",
        "paid_by/1~1x",
        "paid_by/1~1#0",
        "paid_by/1~1%/x",
        "paid_by/1~1 /x",
        "paidxby/1~1",
        "paidxby/1~1/x",
        "PAID_BY/1~1",
        "PAID_BY/1~1/x",
        "x/paid_by/1~1",
        "paid_by/1~10/1~1/x",
    ];
    assert_eq!(tables.rows(1), "paid_by/1~1");
    strange.map(str::to_owned).into()
}

fn below(tables: &Tables) -> Vec<String> {
    let name = tables.rows(1);
    vec![
        name.clone(),
        format!("{name}/x"),
        format!("{name}/x/y"),
        format!("{name}/%"),
        format!("{name}/\u{1F600}"),
    ]
}

async fn fill<S: Subject>(store: &Store<S>, names: &[String]) {
    let rows = names.iter().flat_map(|name| row(name, 0).rows).collect();
    store.commit(Commit { rows, ..Commit::default() }).await.expect("new rows");
}

async fn assert_revs<S: Subject>(store: &Store<S>, names: &[String], expected: u64) {
    for name in names {
        assert_eq!(rev::<S>(store, name).await, expected, "{name}");
    }
}

/// P8
pub async fn a_cleared_generation_is_empty_and_nothing_else_is<S: Subject>(subject: S) {
    let (store, tables) = installed(&subject).await;
    let (own, others) = (below(&tables), beside(&tables));
    fill::<S>(&store, &own).await;
    fill::<S>(&store, &others).await;
    pay::<S>(&store, 1, &[("ada", 1), ("bob", 1)]).await;
    pay::<S>(&store, 2, &[("ada", 2)]).await;
    let cleared = store.clear(&tables, 1, row("v", 0)).await;
    cleared.expect("nothing stands against it");
    assert_eq!(rev::<S>(&store, "v").await, 1, "what was committed with it");
    assert_revs::<S>(&store, &own, 0).await;
    assert_revs::<S>(&store, &others, 1).await;
    assert_eq!(paid::<S>(&store).await, amounts(&[]), "the current one");
    pay_now::<S>(&store, &[("cyd", 1)]).await;
    assert_eq!(paid::<S>(&store).await, amounts(&[("cyd", 1)]), "it is written again");
    switch::<S>(&store, 2).await;
    assert_eq!(paid::<S>(&store).await, amounts(&[("ada", 2)]));
    store.clear(&tables, 1, row("v", 1)).await.expect("one that is not the current one");
    assert_eq!(paid::<S>(&store).await, amounts(&[("ada", 2)]));
    switch::<S>(&store, 1).await;
    assert_eq!(paid::<S>(&store).await, amounts(&[]));
    store.clear(&tables, 1, row("v", 2)).await.expect("one that is empty");
    fill::<S>(&store, &own).await;
}

/// P1, P8
pub async fn a_refused_clear_changes_nothing<S: Subject>(subject: S) {
    let (store, tables) = installed(&subject).await;
    let own = below(&tables);
    fill::<S>(&store, &own).await;
    pay::<S>(&store, 1, &[("ada", 1)]).await;
    let refused = Commit { rows: [row("v", 0).rows, row("w", 7).rows].concat(), ..Commit::default() };
    assert_fenced(store.clear(&tables, 1, refused).await);
    assert_eq!((rev::<S>(&store, "v").await, rev::<S>(&store, "w").await), (0, 0));
    assert_revs::<S>(&store, &own, 1).await;
    assert_eq!(paid::<S>(&store).await, amounts(&[("ada", 1)]));
    pay_now::<S>(&store, &[("ada", 1)]).await;
    assert_eq!(paid::<S>(&store).await, amounts(&[("ada", 2)]));
}

/// P11
pub async fn the_generation_that_queries_read_is_not_uninstalled<S: Subject>(subject: S) {
    let (store, tables) = installed(&subject).await;
    for (current, other) in [(1, 2), (2, 1)] {
        switch::<S>(&store, current).await;
        pay::<S>(&store, 1, &[("ada", 1)]).await;
        pay::<S>(&store, 2, &[("ada", 1)]).await;
        let refused = store.uninstall(&tables, current, row("v", 0)).await.expect_err("queries read it");
        assert!(matches!(refused, CommitError::Store(StoreError::Misuse { .. })), "{refused:?}");
        assert_eq!(rev::<S>(&store, "v").await, 0, "nothing was done");
        assert_eq!(paid::<S>(&store).await.len(), 1);
        pay::<S>(&store, other, &[("ada", 1)]).await;
    }
}

/// P11
pub async fn an_uninstalled_generation_is_gone_and_can_be_made_anew<S: Subject>(subject: S) {
    let (store, tables) = installed(&subject).await;
    switch::<S>(&store, 2).await;
    let (own, others) = (below(&tables), beside(&tables));
    fill::<S>(&store, &own).await;
    fill::<S>(&store, &others).await;
    pay::<S>(&store, 1, &[("ada", 1)]).await;
    pay::<S>(&store, 2, &[("ada", 2)]).await;
    assert_fenced(store.uninstall(&tables, 1, row("v", 7)).await);
    assert_revs::<S>(&store, &own, 1).await;
    pay::<S>(&store, 1, &[("ada", 1)]).await;
    for round in 0..2 {
        store.uninstall(&tables, 1, row("v", round)).await.expect("harmless when it is gone");
        assert_eq!(rev::<S>(&store, "v").await, round + 1, "what was committed with it");
        assert_revs::<S>(&store, &own, 0).await;
        assert_revs::<S>(&store, &others, 1).await;
        assert_eq!(paid::<S>(&store).await, amounts(&[("ada", 2)]));
    }
    store.uninstall(&tables, 9, Commit::default()).await.expect("harmless for one that never was");
    store.install(&tables, 1).await;
    assert_eq!(paid::<S>(&store).await, amounts(&[("ada", 2)]), "the current one stays it");
    pay::<S>(&store, 1, &[("bob", 1)]).await;
    switch::<S>(&store, 1).await;
    assert_eq!(paid::<S>(&store).await, amounts(&[("bob", 1)]));
}

/// The tables that differ.
async fn compare<S: Subject>(
    store: &Store<S>,
    old: Generation,
    new: Generation,
    samples: usize,
) -> Vec<Difference> {
    let tables = tables::<S>();
    let mut differences = ask(|| store.0.compare(&tables, old, new, samples)).await;
    differences.retain(|d| d.added + d.removed + d.changed > 0 || !d.samples.is_empty());
    differences
}

/// P11
pub async fn a_comparison_counts_what_differs_and_shows_some_of_it<S: Subject>(subject: S) {
    let (store, _) = installed(&subject).await;
    let counts = |d: &Difference| (d.added, d.removed, d.changed);
    pay::<S>(&store, 1, &[("same", 1), ("changed", 222), ("removed", 333)]).await;
    assert!(compare::<S>(&store, 1, 1, 10).await.is_empty());
    for _ in 0..2 {
        let to_empty = compare::<S>(&store, 1, 2, 0).await;
        assert_eq!((to_empty.len(), counts(&to_empty[0]), to_empty[0].samples.len()), (1, (0, 3, 0), 0));
        switch::<S>(&store, 2).await;
    }
    pay::<S>(&store, 2, &[("same", 1), ("changed", 999), ("added", 444), ("more", 555)]).await;
    for current in [2, 1] {
        switch::<S>(&store, current).await;
        let [difference] = &compare::<S>(&store, 1, 2, 10).await[..] else { panic!("one table") };
        assert_eq!((difference.table.as_str(), counts(difference)), ("paid", (2, 1, 1)));
        let samples = &difference.samples;
        let text = |row: &Option<String>, amount: &str| row.as_ref().is_some_and(|row| row.contains(amount));
        assert_eq!(samples.len(), 4, "{samples:?}");
        assert!(samples.iter().any(|s| text(&s.old, "222") && text(&s.new, "999")), "{samples:?}");
        assert!(samples.iter().any(|s| text(&s.old, "333") && s.new.is_none()), "{samples:?}");
        assert!(samples.iter().any(|s| s.old.is_none() && text(&s.new, "444")), "{samples:?}");
        let [few] = &compare::<S>(&store, 1, 2, 2).await[..] else { panic!("one table") };
        assert_eq!((counts(few), few.samples.len()), ((2, 1, 1), 2));
        let [back] = &compare::<S>(&store, 2, 1, 10).await[..] else { panic!("one table") };
        assert_eq!(counts(back), (1, 2, 1));
    }
    let none = Tables { name: "nothing", version: 1, schema: "" };
    for generation in [1, 2] {
        store.install(&none, generation).await;
    }
    assert_eq!(ask(|| store.0.compare(&none, 1, 2, 10)).await, [], "it has no tables");
}

/// P1, P11
pub async fn a_transaction_in_a_generation_that_is_not_committed_leaves_nothing<S: Subject>(subject: S) {
    let (store, tables) = installed(&subject).await;
    for generation in [Some(1), Some(2), None] {
        for dropped in [true, false] {
            let mut tx = begin::<S>(&store, &tables, generation).await;
            S::pay(&mut tx, "ada", 1).await.expect("paid");
            tx.staged().rows.extend(row("v", 0).rows);
            if dropped {
                drop(tx);
            } else if let Err(error) = tx.rollback().await {
                assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
            }
        }
    }
    assert_eq!(rev::<S>(&store, "v").await, 0);
    assert_eq!(paid::<S>(&store).await, amounts(&[]));
    pay::<S>(&store, 2, &[("bob", 1)]).await;
    switch::<S>(&store, 2).await;
    assert_eq!(paid::<S>(&store).await, amounts(&[("bob", 1)]));
}

/// P11
pub async fn a_failed_statement_leaves_nothing_and_the_next_transaction_works<S: Subject>(subject: S) {
    let (store, tables) = installed(&subject).await;
    for (round, generation) in [Some(1), Some(2), None].into_iter().enumerate() {
        for dropped in [false, true] {
            let mut tx = begin::<S>(&store, &tables, generation).await;
            S::pay(&mut tx, "ada", 1).await.expect("paid");
            let error = S::fail(&mut tx).await;
            assert!(!store.0.is_transient(&*error), "it fails each time: {error}");
            if dropped {
                drop(tx);
            } else if let Err(error) = tx.rollback().await {
                assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
            }
        }
        pay::<S>(&store, 1, &[("bob", 1)]).await;
        pay::<S>(&store, 2, &[("cyd", 1)]).await;
        pay_now::<S>(&store, &[("bob", 1)]).await;
        let n = 2 * (round as i64 + 1);
        assert_eq!(paid::<S>(&store).await, amounts(&[("bob", n)]));
    }
    switch::<S>(&store, 2).await;
    assert_eq!(paid::<S>(&store).await, amounts(&[("cyd", 3)]));
}

/// P1
pub async fn rows_of_a_generation_and_what_is_staged_are_written_together_or_not_at_all<S: Subject>(
    subject: S,
) {
    let (store, _) = installed(&subject).await;
    let with_event = |rev| Commit { appends: append(&id("a"), ANY, events(1)).appends, ..row("v", rev) };
    for (done, generation) in [Some(1), Some(2), None].into_iter().enumerate() {
        let done = done as u64;
        let before = paid::<S>(&store).await;
        assert_fenced(pay_with::<S>(&store, generation, &[("ada", 1)], with_event(done + 1)).await);
        assert_eq!((rev::<S>(&store, "v").await, store.head().await), (done, done));
        assert_eq!(paid::<S>(&store).await, before);
        let paying = pay_with::<S>(&store, generation, &[("ada", 10)], with_event(done)).await;
        paying.expect("nothing stands against it");
        assert_eq!((rev::<S>(&store, "v").await, store.head().await), (done + 1, done + 1));
    }
    assert_eq!(
        paid::<S>(&store).await,
        amounts(&[("ada", 20)]),
        "the first generation, by name and as the current"
    );
    switch::<S>(&store, 2).await;
    assert_eq!(paid::<S>(&store).await, amounts(&[("ada", 10)]));
}
