//! What becomes of a commit whose outcome nobody knows: H8 and H9.

use async_trait::async_trait;

use super::commands;
use super::data::{ANY, NO_STREAM, append, event, events, exact, filter_condition, id, new_id};
use super::domain::Deposit;
use super::double::{Double, Line};
use super::patient::{Patient, ask};
use super::{Subject, sent, store};
use crate::command::{Dispatch, Halted, Interceptor, Next};
use crate::store::{
    Attempt, Backend, Check, Commit, CommitError, EventFilter, EventStore as _, IdempotencyKey, Outcome,
    OutcomeMark, Position, Resolution, RowStore, RowWrite, StoreError, Transaction as _, Version, Won,
    write_rows,
};
use crate::{App, CommandError, ErrorKind};

const TABLE: &str = "balance/1~1";

fn row(rev: u64, data: Option<&str>) -> Commit {
    let row = data.map(|data| data.to_owned().into());
    let rows = vec![RowWrite { table: TABLE.into(), key: "ada".to_owned(), rev, row }];
    Commit { rows, ..Commit::default() }
}

/// A request that was refused, under a key.
fn key(fingerprint: u128) -> Commit {
    let outcome = Outcome {
        fingerprint,
        stream: id("ada"),
        version: Version(0),
        position: Position(0),
        events: 0,
        refusal: Some("\"no\"".into()),
    };
    let key = IdempotencyKey::new("request-1").expect("a key");
    Commit { outcomes: vec![OutcomeMark { key, outcome }], ..Commit::default() }
}

/// Commits under a name until that went through. Gives the attempt that did.
async fn named<B: Backend + RowStore + Clone>(store: &Patient<B>, commit: &Commit) -> Attempt {
    loop {
        let commit = Commit { attempt: new_id(), ..commit.clone() };
        let attempt = Attempt::of(commit.attempt, &commit);
        match store.0.commit(commit).await {
            Ok(_) => return attempt,
            Err(CommitError::Unknown(unknown)) => {
                assert_eq!(*unknown, attempt, "a commit with a name keeps it");
                if let Resolution::Applied(_) = ask(|| store.0.resolve(&attempt)).await {
                    return attempt;
                }
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}"),
        }
    }
}

async fn resolve<B: Backend + RowStore + Clone>(store: &Patient<B>, attempt: &Attempt) -> Resolution {
    let first = ask(|| store.0.resolve(attempt)).await;
    assert_eq!(ask(|| store.0.resolve(attempt)).await, first, "it never changes its mind");
    first
}

/// H8
pub async fn an_event_proves_its_commit_whatever_became_of_its_rows<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let both = Commit { rows: row(0, Some("1")).rows, ..append(&id("a"), NO_STREAM, events(3)) }
        .and("b", ANY, events(0))
        .and("c", ANY, events(1));
    let attempt = Attempt::of(new_id(), &both);
    let committed = store.commit(both).await.expect("nothing stands against it");
    for change in [row(1, Some("2")), row(2, None), row(0, Some("another"))] {
        store.commit(change).await.expect("at the revision");
        store.put("a", events(1)).await;
        let Resolution::Applied(found) = resolve(&store, &attempt).await else {
            panic!("its events are there")
        };
        assert_eq!((found.position, found.versions), (committed.position, committed.versions.clone()));
    }
}

/// H8
pub async fn an_attempt_that_never_ran_is_never_whoever_wrote_its_rows_and_keys<S: Subject>(subject: S) {
    let store = store(&subject).await;
    for (mine, other) in
        [(key(1), key(2)), (row(0, Some("1")), row(0, Some("2"))), (row(1, None), row(1, None))]
    {
        store.commit(other).await.expect("the first");
        let mine = Commit { attempt: new_id(), ..mine };
        let attempt = Attempt::of(mine.attempt, &mine);
        assert_eq!(resolve(&store, &attempt).await, Resolution::Never, "{mine:?}");
    }
}

/// H8
pub async fn a_commit_without_events_is_proven_by_its_name<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("a", events(2)).await;
    let checked = Commit { rows: row(2, Some("3")).rows, ..append(&id("a"), exact(2), Vec::new()) };
    let mut attempts = Vec::new();
    for commit in [row(0, Some("1")), row(1, Some("2")), checked, row(3, None), key(1)] {
        attempts.push(named(&store, &commit).await);
    }
    assert_eq!(store.row(TABLE, "ada").await, None);
    let other = Patient(subject.again(&store.0).await);
    for store in [&store, &other] {
        for attempt in &attempts {
            let Resolution::Applied(found) = resolve(store, attempt).await else { panic!("{attempt:?}") };
            assert_eq!(found.versions, vec![Version(2); attempt.appends.len()]);
        }
    }
}

/// H8
pub async fn a_commit_that_only_looks_leaves_nothing_behind<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("a", events(2)).await;
    let checks = vec![Check { stream: id("a"), expected: exact(2) }];
    let condition = Some(filter_condition(EventFilter::all(), Position(2)));
    let empty = append(&id("a"), exact(2), Vec::new());
    for look in [
        Commit { checks: checks.clone(), ..Commit::default() },
        Commit { condition: condition.clone(), ..Commit::default() },
        empty.clone(),
        Commit { checks, condition, ..empty },
        Commit::default(),
    ] {
        let expected = vec![Version(2); look.appends.len()];
        loop {
            let named = Commit { attempt: new_id(), ..look.clone() };
            let attempt = Attempt::of(named.attempt, &named);
            let answer = store.0.commit(named).await;
            if let Ok(committed) = &answer {
                assert_eq!(committed.versions, expected);
            }
            match answer {
                Ok(_) | Err(CommitError::Unknown(_)) => {
                    for store in [&store, &Patient(subject.again(&store.0).await)] {
                        assert_eq!(resolve(store, &attempt).await, Resolution::Never, "{look:?}");
                    }
                    break;
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}"),
            }
        }
        let again = store.commit(look).await.expect("nothing stands against it");
        assert_eq!(again.versions, expected);
    }
    // What is written beside it is proven as before.
    let checked = Commit { checks: vec![Check { stream: id("a"), expected: exact(2) }], ..row(0, Some("1")) };
    let attempt = named(&store, &checked).await;
    assert!(matches!(resolve(&store, &attempt).await, Resolution::Applied(_)));
    assert_eq!(store.head().await, 2);
}

/// H8
pub async fn a_transaction_without_events_is_proven_by_its_name<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let attempt = loop {
        let mut tx = store.begin().await;
        subject.put_row(&mut tx, "k", "v").await;
        *tx.staged() = Commit { attempt: new_id(), ..row(0, Some("1")) };
        let attempt = Attempt::of(tx.staged().attempt, tx.staged());
        match tx.commit().await {
            Ok(_) => break attempt,
            Err(CommitError::Unknown(unknown)) => {
                assert_eq!(*unknown, attempt, "a commit with a name keeps it");
                if let Resolution::Applied(_) = ask(|| store.0.resolve(&attempt)).await {
                    break attempt;
                }
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::Transient, "{error:?}"),
        }
    };
    store.commit(row(1, None)).await.expect("at the revision");
    assert!(matches!(resolve(&store, &attempt).await, Resolution::Applied(_)));
    assert_eq!(subject.row(&store.0, "k").await.as_deref(), Some("v"));
}

/// H8, E16
pub async fn what_was_given_up_stays_never_though_its_events_are_sent_again<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let commit = Commit { rows: row(0, Some("1")).rows, ..append(&id("a"), NO_STREAM, vec![event("noted")]) };
    let attempt = Attempt::of(new_id(), &commit);
    assert_eq!(resolve(&store, &attempt).await, Resolution::Never);
    let again = named(&store, &commit).await;
    assert_eq!(resolve(&store, &attempt).await, Resolution::Never, "that was another attempt");
    assert!(matches!(resolve(&store, &again).await, Resolution::Applied(_)));
}

/// H8, E16
pub async fn an_attempt_that_was_given_up_is_refused_when_it_comes_late<S: Subject>(subject: S) {
    let store = store(&subject).await;
    for commit in [row(0, Some("1")), key(1), append(&id("a"), ANY, events(1))] {
        let late = Commit { attempt: new_id(), ..commit };
        let attempt = Attempt::of(late.attempt, &late);
        assert_eq!(resolve(&store, &attempt).await, Resolution::Never);
        loop {
            match store.0.commit(late.clone()).await {
                Ok(_) => panic!("it was given up: {late:?}"),
                Err(CommitError::Unknown(_)) => break,
                Err(error) if error.kind() == ErrorKind::Transient => {}
                Err(_) => break,
            }
        }
        assert_eq!(resolve(&store, &attempt).await, Resolution::Never);
    }
    assert_eq!((store.head().await, store.row(TABLE, "ada").await), (0, None));
}

/// H8
pub async fn an_attempt_of_nothing_that_can_be_found_is_a_mistake<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let unnamed = Attempt::of(uuid::Uuid::nil(), &row(0, Some("1")));
    loop {
        match store.0.resolve(&unnamed).await {
            Err(error) if error.kind() == ErrorKind::Transient => {}
            outcome => {
                assert_eq!(outcome.expect_err("nothing can be looked for").kind(), ErrorKind::Misuse);
                return;
            }
        }
    }
}

/// H9
pub async fn an_outcome_that_the_store_does_not_tell_is_unknown<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let line = Double::new(store.0.clone());
    for kind in [ErrorKind::Transient, ErrorKind::Corrupt] {
        line.set(Line::LosesAnswers(kind));
        let mut n = 0;
        let first = loop {
            n += 1;
            let key = format!("{kind:?} {n}");
            let rows = vec![RowWrite { table: TABLE.into(), key, rev: 0, row: Some("1".into()) }];
            let outcome = line.commit(Commit { rows, ..Commit::default() }).await;
            match Won::after(&line, outcome).await {
                Err(CommitError::Unknown(attempt)) => break (attempt, n),
                Err(error) if error.kind() == ErrorKind::Transient => {}
                told => panic!("nobody told it: {told:?}"),
            }
        };
        let written = loop {
            n += 1;
            let key = format!("{kind:?} {n}");
            let rows = vec![RowWrite { table: TABLE.into(), key, rev: 0, row: Some("1".into()) }];
            match write_rows(&line, rows).await {
                Err(error) if error.kind() == ErrorKind::Transient => {}
                told => break told.expect_err("nobody told it"),
            }
        };
        assert_eq!(written.kind(), ErrorKind::Unknown, "{written}");
        let StoreError::Unknown { attempt: second, .. } = written else { panic!("{written}") };
        line.set(Line::Up);
        for (attempt, n) in [first, (second, n)] {
            let is_there = matches!(resolve(&store, &attempt).await, Resolution::Applied(_));
            let row = store.row(TABLE, &format!("{kind:?} {n}")).await;
            assert_eq!(is_there, row.is_some(), "it is found out once the store answers");
        }
    }
}

/// H9, E10
pub async fn a_command_whose_outcome_is_not_told_is_unknown_and_found_by_its_key<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let line = Double::new(store.0.clone());
    let app = commands::with_account(&store, 5).await;
    let cut = commands::app(&Patient(line.clone())).await;
    let pay = async |app: &App| app.send(&commands::key(), Deposit { amount: 1 }).idempotency_key("k").await;
    line.set(Line::LosesAnswers(ErrorKind::Corrupt));
    let error = sent!(pay(&cut)).expect_err("nobody told it");
    assert!(matches!(error, CommandError::Unknown { .. }), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Unknown);
    line.set(Line::Up);
    let first = sent!(pay(&cut)).expect("accepted");
    let again = sent!(pay(&app)).expect("the first outcome");
    assert!(again.repeated);
    assert_eq!((first.position, first.version), (again.position, Version(3)));
    assert_eq!(store.version("account-a").await, 3, "it took effect once");
}

/// An interceptor that has words of its own for what is not known.
#[derive(Debug)]
struct Rewords;

#[async_trait]
impl Interceptor for Rewords {
    async fn dispatch(&self, dispatch: &mut Dispatch, next: Next<'_>) -> Result<(), Halted> {
        next.run(dispatch).await.map_err(|halted| match halted {
            Halted::Command { kind: ErrorKind::Unknown, text } => Halted::because(text),
            halted => halted,
        })
    }
}

/// H9, C3
pub async fn an_outcome_that_is_not_told_is_unknown_whatever_an_interceptor_says<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let line = Double::new(store.0.clone());
    drop(commands::with_account(&store, 5).await);
    let app = App::on(line.clone()).interceptor(Rewords).start().await.expect("nothing to prepare");
    line.set(Line::LosesAnswers(ErrorKind::Corrupt));
    let error = sent!(app.send(&commands::key(), Deposit { amount: 1 })).expect_err("nobody told it");
    assert!(matches!(error, CommandError::InterceptedAfter(_)), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::Unknown);
}
