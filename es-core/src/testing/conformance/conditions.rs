//! Append conditions, the dynamic consistency boundaries: E20 to E27.

use futures::future::join_all;

use super::data::{ANY, NO_STREAM, append, events, exact, id, places, tag, tagged};
use super::domain::OpenFirst;
use super::patient::Patient;
use super::{Subject, store};
use crate::command::RetryPolicy;

use crate::store::{Backend, Commit, CommitError, EventFilter, FilterItem, Position, RowStore};
use crate::{App, DecideError, ErrorKind};

/// Position 1 to 5: subscriptions of two students to two courses, and a change of one course.
async fn courses<B: Backend + RowStore + Clone>(store: &Patient<B>) {
    store
        .put(
            "log",
            vec![
                tagged("subscribed", &["course:1", "student:1"]),
                tagged("subscribed", &["course:1", "student:2"]),
                tagged("unsubscribed", &["course:1", "student:1"]),
                tagged("subscribed", &["course:2", "student:1"]),
                tagged("resized", &["course:2"]),
            ],
        )
        .await;
}

fn item(types: &[&'static str], tags: &[&str]) -> FilterItem {
    tags.iter().fold(FilterItem::new().with_types(types.iter().copied()), |item, t| item.with_tag(tag(t)))
}

fn filter(types: &[&'static str], tags: &[&str]) -> EventFilter {
    item(types, tags).into()
}

/// H4
pub async fn a_condition_beyond_the_log_is_refused<S: Subject>(subject: S) {
    let store = store(&subject).await;
    courses(&store).await;
    let nothing = || filter(&["other"], &[]);
    for after in [6, 7, 1_000] {
        let commit = Commit::default().and("a", ANY, events(1)).under(nothing(), Position(after));
        let refused = store.commit(commit).await.expect_err("nobody can have read so far");
        assert_eq!(refused.kind(), ErrorKind::Conflict, "{refused}");
        assert!(matches!(refused, CommitError::BehindHead { head: Position(5), .. }), "{refused:?}");
    }
    let commit = Commit::default().and("a", ANY, events(1)).under(nothing(), Position(5));
    store.commit(commit).await.expect("it goes as far as the log");
    assert_eq!(store.head().await, 6);
}

/// E28
pub async fn a_condition_finds_the_rare_event_among_many<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let common = |_| tagged("subscribed", &["year:1", "course:1"]);
    store.put("log", (0..300).map(common).collect()).await;
    // Position 301: among many that have each of its tags but one.
    store.put("log", vec![tagged("subscribed", &["year:1", "course:1", "student:1"])]).await;
    store.put("log", (0..300).map(common).collect()).await;
    for (tags, after, broken) in [
        (&["year:1", "course:1", "student:1"][..], 0, Some(301)),
        (&["student:1", "year:1"], 300, Some(301)),
        (&["year:1", "course:1", "student:1"], 301, None),
        (&["year:1", "course:1"], 600, Some(601)),
        (&["year:1", "course:1", "student:2"], 0, None),
        (&["course:2", "year:1", "student:1"], 0, None),
    ] {
        for (types, fits) in [(&["subscribed", "other"][..], true), (&["other"], false), (&[], true)] {
            let append = Commit::default().and("a", ANY, events(1));
            let committed = store.commit(append.under(filter(types, tags), Position(after))).await;
            match (broken.filter(|_| fits), committed) {
                (None, Ok(_)) => {}
                (Some(at), Err(CommitError::ConditionFailed { position, .. })) => {
                    assert_eq!(position, Position(at), "{tags:?} after {after}");
                }
                (expected, found) => panic!("{tags:?} {types:?} after {after}: {expected:?}, {found:?}"),
            }
        }
    }
}

/// E20, E21
pub async fn a_filter_means_any_of_its_types_and_all_of_its_tags<S: Subject>(subject: S) {
    let store = store(&subject).await;
    courses(&store).await;
    for (filter, expected) in [
        (EventFilter::all(), vec![1, 2, 3, 4, 5]),
        (filter(&["subscribed"], &[]), vec![1, 2, 4]),
        (filter(&["resized", "unsubscribed"], &[]), vec![3, 5]),
        (filter(&[], &["course:1"]), vec![1, 2, 3]),
        (filter(&[], &["course:1", "student:1"]), vec![1, 3]),
        (filter(&["subscribed"], &["course:1", "student:1"]), vec![1]),
        (filter(&["resized"], &[]).or(item(&[], &["student:2"])), vec![2, 5]),
        (filter(&["subscribed"], &["course:1"]).or(item(&["subscribed"], &["student:1"])), vec![1, 2, 4]),
        (filter(&["subscribed", "unsubscribed"], &[]).tagged(&tag("student:1")), vec![1, 3, 4]),
        (filter(&["other"], &[]), vec![]),
        (filter(&[], &["course:3"]), vec![]),
        (filter(&[], &["course"]), vec![]),
        (filter(&["subscribe"], &[]), vec![]),
    ] {
        let page = store.read(&filter, 0).await;
        assert_eq!(places(&page.events), expected, "{filter:?}");
        assert_eq!(page.through, Position(5), "the position to use as `after`, whatever matched");
        let inside: Vec<_> = store.all().await.into_iter().filter(|e| filter.matches(e)).collect();
        assert_eq!(page.events, inside, "the store and the filter agree");
    }
}

/// E21
pub async fn a_read_that_matches_nothing_still_says_how_far_it_looked<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let nothing = filter(&["never"], &[]);
    assert_eq!(store.read(&nothing, 0).await.through, Position(0));
    courses(&store).await;
    let page = store.read(&nothing, 0).await;
    assert!(page.events.is_empty());
    assert_eq!((page.through, page.more), (Position(5), false));
}

/// E22, E27
pub async fn a_matching_event_after_the_read_refuses_the_append_and_is_named<S: Subject>(subject: S) {
    let store = store(&subject).await;
    courses(&store).await;
    let course = filter(&["subscribed", "unsubscribed"], &["course:1"]);
    let under = |after| append(&id("x"), ANY, events(1)).under(course.clone(), Position(after));
    let refused = store.commit(under(1)).await.expect_err("2 and 3 match");
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    let CommitError::ConditionFailed { position, name, after } = refused else { panic!("{refused:?}") };
    assert_eq!((position, &*name, after), (Position(2), "subscribed", Position(1)));
    assert_eq!(store.head().await, 5, "nothing was written");
    store.commit(under(3)).await.expect("nothing matched after 3");
}

/// E22
pub async fn events_that_match_the_tags_but_not_the_types_do_not_refuse<S: Subject>(subject: S) {
    let store = store(&subject).await;
    courses(&store).await;
    let resized = filter(&["resized"], &["course:1"]);
    store.commit(append(&id("x"), ANY, events(1)).under(resized, Position(0))).await.expect("no such event");
    let everything = append(&id("x"), ANY, events(1)).under(EventFilter::all(), Position(5));
    store.commit(everything).await.expect_err("the append before this one matches everything");
}

/// E23
pub async fn of_two_decisions_that_both_read_nothing_one_wins<S: Subject>(subject: S) {
    let store = store(&subject).await;
    for round in 0..20 {
        let name = format!("name:{round}");
        let claim = |stream: &str| {
            append(&id(stream), ANY, vec![tagged("claimed", &[&name])])
                .under(filter(&["claimed"], &[&name]), Position(0))
        };
        let (a, b) = futures::join!(store.commit(claim("ada")), store.commit(claim("bob")));
        assert!(a.is_ok() != b.is_ok(), "{a:?} {b:?}");
    }
    assert_eq!(store.head().await, 20);
}

/// E24
pub async fn of_ten_appends_with_overlapping_conditions_one_wins<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let claim = |i: usize| {
        let seat = filter(&["booked"], &["seat:1"]).or(item(&["booked"], &["seat:2"]));
        let tags = if i.is_multiple_of(2) { ["seat:1"] } else { ["seat:2"] };
        append(&id(&format!("s-{i}")), NO_STREAM, vec![tagged("booked", &tags)]).under(seat, Position(0))
    };
    let outcomes = join_all((0..10).map(|i| store.commit(claim(i)))).await;
    assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 1, "{outcomes:?}");
    assert_eq!(store.head().await, 1);
}

/// E24
pub async fn of_ten_appends_with_disjoint_tags_all_win<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let claim = |i: usize| {
        let seat = format!("seat:{i}");
        append(&id("seats"), ANY, vec![tagged("booked", &[&seat])])
            .under(filter(&["booked"], &[&seat]), Position(0))
    };
    let outcomes = join_all((0..10).map(|i| store.commit(claim(i)))).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    store.assert_sound().await;
}

/// E25
pub async fn an_append_of_several_events_does_not_conflict_with_itself<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let both = vec![tagged("booked", &["seat:1"]), tagged("booked", &["seat:1"])];
    let commit = append(&id("a"), NO_STREAM, both.clone())
        .and("b", NO_STREAM, vec![tagged("booked", &["seat:1"])])
        .under(filter(&["booked"], &["seat:1"]), Position(0));
    store.commit(commit).await.expect("its own events are not `after` what it read");
    assert_eq!(store.head().await, 3);
}

/// E26
pub async fn a_version_and_a_condition_in_one_commit_must_both_hold<S: Subject>(subject: S) {
    let store = store(&subject).await;
    courses(&store).await;
    let commit = |version, after| {
        Commit::default()
            .and("log", exact(version), events(1))
            .under(filter(&["resized"], &[]), Position(after))
    };
    let refused = store.commit(commit(4, 5)).await.expect_err("the version does not hold");
    assert!(matches!(refused, CommitError::Conflict { .. }), "{refused:?}");
    let refused = store.commit(commit(5, 4)).await.expect_err("the condition does not hold");
    assert!(matches!(refused, CommitError::ConditionFailed { .. }), "{refused:?}");
    assert_eq!(store.head().await, 5);
    store.commit(commit(5, 5)).await.expect("both hold");
}

/// E17
pub async fn a_condition_sees_what_a_neighbour_in_the_batch_appends<S: Subject>(subject: S) {
    let store = store(&subject).await;
    for round in 0..20 {
        let seat = format!("seat:{round}");
        let plain = append(&id(&format!("p-{round}")), NO_STREAM, vec![tagged("booked", &[&seat])]);
        let careful = append(&id(&format!("c-{round}")), NO_STREAM, events(1))
            .under(filter(&["booked"], &[&seat]), Position(0));
        let (plain, careful) = futures::join!(store.commit(plain), store.commit(careful));
        let plain = plain.expect("it depends on nothing");
        if let Ok(careful) = careful {
            assert!(careful.position < plain.position, "it was first, or it was refused");
        }
    }
    store.assert_sound().await;
}

/// E23, E24: the same through the app, which reads again and decides again.
pub async fn of_ten_decisions_across_streams_one_is_taken<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let policy = RetryPolicy::default().with_attempts(50);
    let one = App::on(store.0.clone()).retry(policy).start().await.expect("nothing to prepare");
    let other =
        App::on(subject.again(&store.0).await).retry(policy).start().await.expect("nothing to prepare");
    let decide = |owner: &str, i: usize| {
        let app = if i.is_multiple_of(2) { &one } else { &other };
        app.decide(OpenFirst { owner: owner.to_owned(), id: format!("{owner}-{i}") })
    };
    let ada = join_all((0..10).map(|i| decide("ada", i)));
    let (ada, bob) = futures::join!(ada, decide("bob", 0));
    assert_eq!(ada.iter().filter(|o| o.is_ok()).count(), 1, "{ada:?}");
    assert!(
        ada.iter().filter_map(|o| o.as_ref().err()).all(|e| matches!(e, DecideError::Refused(_))),
        "{ada:?}"
    );
    bob.expect("another owner");
    assert_eq!(store.head().await, 2);
    let event = &store.all().await[0];
    assert!(event.metadata.correlation.is_some(), "a flow of its own");
    assert_eq!(event.metadata.correlation, event.metadata.causation);
}
