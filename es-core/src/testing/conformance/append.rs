//! Appending: E1 to E9, E13, E15 to E18.

use futures::future::join_all;

use super::data::{
    ANY, EXISTS, NO_STREAM, append, event, events, exact, id, ids, new_id, places, raw, versions,
};
use super::patient::{Patient, ask};
use super::{Subject, store};
use crate::ErrorKind;
use crate::store::{
    Attempt, Commit, CommitError, Committed, EventFilter, EventStore, ExpectedVersion, Position, Resolution,
    RowWrite, Subscription, Version,
};

/// E1
pub async fn versions_and_positions_count_from_one_without_holes<S: Subject>(subject: S) {
    let store = store(&subject).await;
    assert_eq!(store.head().await, 0);
    let first = store.append("a", NO_STREAM, events(2)).await.expect("accepted");
    assert_eq!(first, Committed { position: Position(2), versions: vec![Version(2)] });
    store.put("b", events(3)).await;
    let last = store.append("a", exact(2), events(1)).await.expect("accepted");
    assert_eq!(last, Committed { position: Position(6), versions: vec![Version(3)] });
    let a = store.stream("a").await;
    assert_eq!((versions(&a), places(&a)), (vec![1, 2, 3], vec![1, 2, 6]));
    assert_eq!(places(&store.stream("b").await), [3, 4, 5]);
    store.assert_sound().await;
}

/// E2
pub async fn each_expectation_does_what_it_says<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("there", events(2)).await;
    for (stream, expected, accepted) in [
        ("there", ANY, true),
        ("there", EXISTS, true),
        ("there", exact(2), false),
        ("there", exact(4), true),
        ("there", NO_STREAM, false),
        ("missing", EXISTS, false),
        ("missing", exact(1), false),
        ("missing", NO_STREAM, true),
        ("missing too", exact(0), true),
        ("missing three", ANY, true),
    ] {
        let outcome = store.append(stream, expected, events(1)).await;
        assert_eq!(outcome.is_ok(), accepted, "{stream} expected at {expected}: {outcome:?}");
    }
    store.assert_sound().await;
}

/// E2
pub async fn expectations_hold_in_a_commit_of_several_streams<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("a", events(1)).await;
    let both = |a, b| Commit::default().and("a", a, events(1)).and("b", b, events(1));
    for (a, b) in [(exact(0), NO_STREAM), (exact(1), EXISTS), (NO_STREAM, ANY), (ANY, exact(1))] {
        let refused = store.commit(both(a, b)).await.expect_err("one of them does not hold");
        assert_eq!(refused.kind(), ErrorKind::Conflict);
    }
    let done = store.commit(both(exact(1), NO_STREAM)).await.expect("both hold");
    assert_eq!(done.versions, [Version(2), Version(1)]);
}

/// E2
pub async fn a_stream_that_stands_twice_in_a_commit_is_continued<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let twice = |second| Commit::default().and("a", NO_STREAM, events(2)).and("a", second, events(1));
    let refused = store.commit(twice(NO_STREAM)).await.expect_err("the first append made the stream");
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    let done = store.commit(twice(exact(2))).await.expect("counts what came before in the commit");
    assert_eq!(done.versions, [Version(2), Version(3)]);
    assert_eq!(store.version("a").await, 3);
}

/// H2
pub async fn an_append_follows_the_event_that_it_was_decided_on<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let first = events(2);
    let [one, two] = [first[0].id, first[1].id];
    store.put("a", first).await;
    let after = |version, event| ExpectedVersion::After(Version(version), event);
    // A version alone is not enough, and neither is an event.
    for expected in [after(2, new_id()), after(2, one), after(1, one), after(3, two), after(0, two)] {
        let refused = store.append("a", expected, events(1)).await.expect_err("it is not the last");
        assert_eq!(refused.kind(), ErrorKind::Conflict, "{expected}");
        let check = Commit::default().and("b", ANY, events(1)).checking("a", expected);
        assert_eq!(
            store.commit(check).await.expect_err("likewise").kind(),
            ErrorKind::Conflict,
            "{expected}"
        );
        let missing = store.append("missing", expected, events(1)).await.expect_err("it has no event");
        assert_eq!(missing.kind(), ErrorKind::Conflict, "{expected}");
    }
    let check = Commit::default().and("b", NO_STREAM, events(1)).checking("a", after(2, two));
    store.commit(check).await.expect("it is the last");
    // Within a commit: what came before in it.
    let (next, other) = (events(2), new_id());
    let (three, four) = (next[0].id, next[1].id);
    for (second, accepted) in [(other, false), (two, false), (three, false), (four, true)] {
        let twice = Commit::default().and("a", after(2, two), next.clone());
        let done = store.commit(twice.and("a", after(4, second), events(1))).await;
        assert_eq!(done.is_ok(), accepted, "{done:?}");
    }
    // The same once more: it stands, and is not written again.
    let again = store.append("a", after(2, two), next).await.expect("a repetition");
    assert_eq!(again.versions, [Version(4)]);
    let five = store.stream("a").await.last().expect("there are five").id;
    // Together, with others that believe something else.
    let believes = [five, other, five, four]
        .map(|last| store.commit(Commit::default().and("c", ANY, events(1)).checking("a", after(5, last))));
    let all: Vec<bool> = join_all(believes).await.iter().map(Result::is_ok).collect();
    assert_eq!(all, [true, false, true, false]);
    assert_eq!((store.version("a").await, store.version("c").await), (5, 2));
    store.assert_sound().await;
}

/// E2
pub async fn a_check_on_a_stream_that_is_not_written_counts<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("seen", events(2)).await;
    let write = |expected| append(&id("written"), ANY, events(1)).checking("seen", expected);
    for wrong in [exact(1), exact(3), NO_STREAM] {
        let refused = store.commit(write(wrong)).await.expect_err("the check does not hold");
        let CommitError::Conflict { stream, expected, actual, .. } = refused else { panic!("{refused:?}") };
        assert_eq!((stream, expected, actual), (id("seen"), wrong, Version(2)));
    }
    assert_eq!(store.version("written").await, 0);
    store.commit(write(exact(2))).await.expect("the check holds");
    store.commit(write(EXISTS)).await.expect("the check holds");
}

/// E2
pub async fn a_check_makes_no_stream<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.commit(append(&id("a"), ANY, events(1)).checking("ghost", NO_STREAM)).await.expect("it holds");
    assert!(store.stream("ghost").await.is_empty());
    store.append("ghost", NO_STREAM, events(1)).await.expect("still not there");
}

/// E3, B10
pub async fn append_at_another_version_conflicts_and_writes_nothing<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("a", events(3)).await;
    for wrong in [0, 1, 2, 4, 1_000_000] {
        let refused = store.append("a", exact(wrong), events(2)).await.expect_err("not the version");
        assert_eq!(refused.kind(), ErrorKind::Conflict);
        let CommitError::Conflict { stream, expected, actual, since } = refused else {
            panic!("{refused:?}")
        };
        assert_eq!((stream, expected, actual), (id("a"), exact(wrong), Version(3)));
        assert!(since.is_empty(), "nobody asked");
    }
    assert_eq!(store.head().await, 3);
}

/// E3
pub async fn a_conflict_brings_the_events_since_if_asked<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("a", events(4)).await;
    let asking = Commit { explain: true, ..append(&id("a"), exact(1), events(1)) };
    let refused = store.commit(asking).await.expect_err("not the version");
    let CommitError::Conflict { since, .. } = refused else { panic!("{refused:?}") };
    assert_eq!(since, store.stream("a").await.split_off(1));
}

/// E4
pub async fn of_ten_concurrent_appends_at_one_version_one_wins<S: Subject>(subject: S) {
    let store = store(&subject).await;
    for version in 0..5 {
        let outcomes = join_all((0..10).map(|_| store.append("a", exact(version), events(1)))).await;
        assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 1, "{outcomes:?}");
        assert!(outcomes.iter().filter_map(|o| o.as_ref().err()).all(|e| e.kind() == ErrorKind::Conflict));
    }
    assert_eq!(store.version("a").await, 5);
    store.assert_sound().await;
}

/// E4
pub async fn concurrent_appends_to_different_streams_all_win<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let names: Vec<String> = (0..20).map(|i| format!("s-{i}")).collect();
    let outcomes = join_all(names.iter().map(|name| store.append(name, NO_STREAM, events(2)))).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    store.assert_sound().await;
}

/// E5
pub async fn any_never_conflicts_however_concurrent<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let outcomes = join_all((0..30).map(|_| store.append("a", ANY, events(2)))).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(store.version("a").await, 60);
    store.assert_sound().await;
}

/// E6
pub async fn a_refused_commit_leaves_its_neighbours_untouched<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("taken", events(1)).await;
    let names: Vec<String> =
        (0..30).map(|i| if i % 3 == 0 { "taken".to_owned() } else { format!("s-{i}") }).collect();
    let outcomes = join_all(names.iter().map(|name| store.append(name, NO_STREAM, events(2)))).await;
    for (name, outcome) in names.iter().zip(&outcomes) {
        assert_eq!(outcome.is_ok(), name != "taken", "{name}: {outcome:?}");
    }
    assert_eq!(store.version("taken").await, 1);
    assert_eq!(store.head().await, 41);
    store.assert_sound().await;
}

/// E7
pub async fn an_empty_append_writes_nothing_and_says_where_the_stream_is<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("a", events(2)).await;
    store.put("b", events(3)).await;
    let done = store.append("a", exact(2), Vec::new()).await.expect("accepted");
    assert_eq!(done, Committed { position: Position(5), versions: vec![Version(2)] });
    let done = store.append("ghost", NO_STREAM, Vec::new()).await.expect("accepted");
    assert_eq!(done.versions, [Version(0)]);
    let refused = store.append("a", exact(1), Vec::new()).await.expect_err("it still checks");
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    assert_eq!(store.head().await, 5);
    store.append("ghost", NO_STREAM, events(1)).await.expect("no stream was made");
}

/// E8
pub async fn a_commit_of_several_streams_is_all_or_nothing<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("c", events(1)).await;
    let refused =
        Commit::default().and("a", ANY, events(2)).and("b", ANY, events(2)).and("c", NO_STREAM, events(1));
    store.commit(refused).await.expect_err("c is there");
    assert_eq!((store.version("a").await, store.version("b").await, store.head().await), (0, 0, 1));
    let accepted = Commit::default().and("a", NO_STREAM, events(2)).and("c", exact(1), events(1)).and(
        "b",
        ANY,
        events(1),
    );
    let done = store.commit(accepted).await.expect("all hold");
    assert_eq!(done, Committed { position: Position(5), versions: vec![Version(2), Version(2), Version(1)] });
    let all: Vec<_> = store.all().await.iter().map(|e| e.stream.to_string()).collect();
    assert_eq!(all, ["c", "a", "a", "c", "b"], "in the order of the commit");
}

/// E9
pub async fn the_same_events_again_are_answered_like_the_first_time<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let first = append(&id("a"), NO_STREAM, events(2)).and("b", exact(0), events(1));
    let second = append(&id("a"), exact(2), events(2));
    let done_first = store.commit(first.clone()).await.expect("accepted");
    assert_eq!(store.commit(first.clone()).await.expect("the same answer"), done_first);
    let done_second = store.commit(second.clone()).await.expect("accepted");
    store.put("a", events(5)).await;
    assert_eq!(store.commit(second).await.expect("the same answer, also later"), done_second);
    assert_eq!(store.commit(first).await.expect("the same answer, also later").versions, done_first.versions);
    assert_eq!(store.head().await, 10, "nothing was written again");
}

/// E9
pub async fn the_same_events_with_one_more_or_elsewhere_conflict<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let mut same = events(2);
    store.append("a", NO_STREAM, same.clone()).await.expect("accepted");
    same.push(event("noted"));
    let refused = store.append("a", NO_STREAM, same).await.expect_err("one more");
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    store.append("a", NO_STREAM, events(2)).await.expect_err("other ids");
    assert_eq!(store.head().await, 2);
}

/// E9
pub async fn the_same_id_with_other_content_is_refused<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let first = raw("noted", 1, r#"{"a":1}"#);
    store.append("a", NO_STREAM, vec![first.clone()]).await.expect("accepted");
    let other = crate::store::NewEvent { data: r#"{"a":2}"#.into(), ..first.clone() };
    let refused = store.append("a", NO_STREAM, vec![other]).await.expect_err("another payload");
    assert!(matches!(&refused, CommitError::EventIdReused { id, .. } if *id == first.id), "{refused:?}");
    assert_eq!(refused.kind(), ErrorKind::Misuse);
    assert_eq!(store.head().await, 1);
}

/// E9: what stands in its rows was not written, so it is not said to be.
pub async fn the_same_events_with_rows_conflict<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let row =
        |key: &str, rev| RowWrite { table: "v/1".into(), key: key.to_owned(), rev, row: Some("x".into()) };
    let plain = append(&id("a"), NO_STREAM, events(2));
    let with = |rows| Commit { rows, ..plain.clone() };
    let done = store.commit(with(vec![row("k", 0)])).await.expect("accepted");
    // As the first time, behind that, and beside it.
    for rows in [vec![row("k", 0)], vec![row("k", 1)], vec![row("other", 0)]] {
        let refused = store.commit(with(rows)).await.expect_err("it has rows");
        assert!(matches!(refused, CommitError::Conflict { .. }), "{refused:?}");
    }
    assert_eq!(store.row("v/1", "k").await.expect("there").rev, 1);
    assert_eq!(store.row("v/1", "other").await, None);
    assert_eq!(store.commit(plain).await.expect("without rows as the first time"), done);
    assert_eq!(store.head().await, 2);
}

/// E13
pub async fn a_refused_commit_leaves_no_hole_in_positions<S: Subject>(subject: S) {
    let store = store(&subject).await;
    for version in 0..10 {
        store.append("a", exact(version), events(1)).await.expect("accepted");
        store.append("a", exact(version), events(3)).await.expect_err("stale");
        store.commit(append(&id("b"), ANY, events(2)).checking("a", NO_STREAM)).await.expect_err("checked");
    }
    assert_eq!(store.head().await, 10);
    store.assert_sound().await;
}

/// E12, E15
pub async fn two_handles_see_each_others_appends_at_once_and_keep_one_order<S: Subject>(subject: S) {
    let one = store(&subject).await;
    let two = Patient(subject.again(&one.0).await);
    assert_eq!(one.0.identity(), two.0.identity(), "they are one store");
    for version in (0..10).step_by(2) {
        one.append("a", exact(version), events(1)).await.expect("sees the other's append");
        assert_eq!(two.version("a").await, version + 1);
        two.append("a", exact(version + 1), events(1)).await.expect("sees the other's append");
        assert_eq!(one.head().await, version + 2);
        one.append("a", exact(version + 1), events(1)).await.expect_err("the other was there");
    }
    assert_eq!(one.all().await, two.all().await);
    one.assert_sound().await;
}

/// E15
pub async fn two_handles_that_race_lose_no_update<S: Subject>(subject: S) {
    let one = store(&subject).await;
    let two = Patient(subject.again(&one.0).await);
    for version in 0..10 {
        let (a, b) = futures::join!(
            one.append("a", exact(version), events(1)),
            two.append("a", exact(version), events(1))
        );
        assert!(a.is_ok() != b.is_ok(), "exactly one wins: {a:?} {b:?}");
    }
    let any = |store: Patient<S::Backend>| async move {
        join_all((0..10).map(|_| store.put("b", events(2)))).await
    };
    futures::join!(any(one.clone()), any(two.clone()));
    assert_eq!(one.head().await, 50);
    two.assert_sound().await;
}

/// E16
pub async fn resolve_of_an_attempt_that_was_not_applied_is_never_and_stays_so<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let commit = append(&id("a"), NO_STREAM, events(2));
    let attempt = Attempt::of(new_id(), &commit);
    assert_eq!(ask(|| store.0.resolve(&attempt)).await, Resolution::Never);
    assert_eq!(ask(|| store.0.resolve(&attempt)).await, Resolution::Never);
    store.commit(commit).await.expect("another attempt with the same events is another attempt");
    assert_eq!(store.head().await, 2);
}

/// E17
pub async fn commits_that_conflict_with_each_other_are_never_both_accepted<S: Subject>(subject: S) {
    let store = store(&subject).await;
    for round in 0..20 {
        let (a, b) = (format!("a-{round}"), format!("b-{round}"));
        let wrote = |stream: &str| Commit::default().and(stream, NO_STREAM, events(1));
        let each_checks_the_other = [wrote(&a).checking(&b, NO_STREAM), wrote(&b).checking(&a, NO_STREAM)];
        assert_one_wins(&store, each_checks_the_other).await;
        let (a, b) = (format!("c-{round}"), format!("d-{round}"));
        let opposite_order = [
            wrote(&a).and(&b, NO_STREAM, events(1)),
            wrote(&b).and(&a, NO_STREAM, events(1)),
            Commit::default().checking(&b, NO_STREAM).and(&a, NO_STREAM, events(2)),
        ];
        assert_one_wins(&store, opposite_order).await;
    }
    store.assert_sound().await;
}

async fn assert_one_wins<S, const N: usize>(store: &Patient<S>, commits: [Commit; N])
where
    S: crate::Backend + crate::store::RowStore + Clone,
{
    let outcomes = join_all(commits.into_iter().map(|commit| store.commit(commit))).await;
    assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 1, "{outcomes:?}");
}

/// B16
pub async fn commits_over_the_same_streams_in_opposite_order_all_end<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let over = |one: &str, two: &str| Commit::default().and(one, ANY, events(1)).and(two, ANY, events(1));
    let commits = (0..20).map(|i| if i % 2 == 0 { over("a", "b") } else { over("b", "a") });
    let outcomes = join_all(commits.map(|commit| store.commit(commit))).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!((store.version("a").await, store.version("b").await), (20, 20));
    store.assert_sound().await;
}

/// E18
pub async fn appends_go_on_while_a_reader_stands_in_the_middle_of_a_read<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("a", events(100)).await;
    let other = std::sync::Arc::new(subject.again(&store.0).await);
    let mut reader = Subscription::new(other, EventFilter::all(), Position(0));
    let mut seen = vec![super::next(&mut reader).await];
    for _ in 0..50 {
        store.put("a", events(2)).await;
    }
    while seen.len() < 200 {
        seen.push(super::next(&mut reader).await);
    }
    assert_eq!(ids(&seen), ids(&store.all().await));
}
