//! What an engine on rows needs of a store: many scans at once, wake-ups, turns, queues: W1 to W3, W5.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::join_all;

use super::data::{ANY, append, events, id, new_id};
use super::patient::{Patient, ask};
use super::{Subject, store};
use crate::clock::Clock as _;
use crate::limits::MAX_PAGE;
use crate::slices::Slices;
use crate::store::queue::{Marks, Queue};
use crate::store::{CURRENT, Commit, CommitError, RowStore as _, RowWrite, Span};
use crate::testing::TestClock;

const TABLE: &str = "jobs";
const HOT: &str = "hot.jobs";

fn write(table: &str, key: &str, rev: u64, data: Option<&str>) -> RowWrite {
    RowWrite { table: table.into(), key: key.to_owned(), rev, row: data.map(|d| d.to_owned().into()) }
}

fn rows(rows: Vec<RowWrite>) -> Commit {
    Commit { rows, ..Commit::default() }
}

fn span(after: &str, before: Option<&str>, limit: usize) -> Span {
    Span { after: after.to_owned(), before: before.map(str::to_owned), limit }
}

/// W1
pub async fn many_spans_are_answered_each_in_its_order<S: Subject>(subject: S) {
    let store = store(&subject).await;
    for table in [TABLE, HOT] {
        let keys = ["a", "a:1", "a:2", "a:3", "b:1", "c", "ä"];
        let all = keys.iter().map(|key| write(table, key, 0, Some(key))).collect();
        store.commit(rows(all)).await.expect("new rows");
        let spans = [
            (span("a:", Some("a;"), 10), vec!["a:1", "a:2", "a:3"]),
            (span("a:1", Some("a;"), 1), vec!["a:2"]),
            (span("", Some("a"), 10), vec![]),
            (span("", None, 2), vec!["a", "a:1"]),
            (span("b:1", None, usize::MAX), vec!["c", "ä"]),
            (span("c", Some("b"), 10), vec![]),
            (span("b", Some("b"), 10), vec![]),
            (span("a:", Some("a;"), 10), vec!["a:1", "a:2", "a:3"]),
            (span("a", Some("b"), 0), vec![]),
        ];
        let (asked, expected): (Vec<Span>, Vec<Vec<&str>>) = spans.into_iter().unzip();
        let found = ask(|| store.0.scan_many(table, &asked)).await;
        for row in found.iter().flatten() {
            assert_eq!((row.rev, &*row.data), (1, row.key.as_bytes()));
        }
        let found: Vec<Vec<&str>> =
            found.iter().map(|rows| rows.iter().map(|row| &*row.key).collect()).collect();
        assert_eq!(found, expected, "{table}");
        assert!(ask(|| store.0.scan_many(table, &[])).await.is_empty());
        assert_eq!(ask(|| store.0.scan_many("missing", &asked)).await, vec![Vec::new(); asked.len()]);
    }
    store.commit(rows(vec![write(CURRENT, "name", 0, Some(TABLE))])).await.expect("a new name");
    let last = [span("c", None, 10)];
    let found = ask(|| store.0.scan_many("name", &last)).await;
    assert_eq!(found[0][0].key, "ä", "through the name of the table");
}

/// W1
pub async fn a_thousand_spans_hold_what_a_scan_of_each_holds<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let key = |i: usize| format!("{:04}:{i:06}", i % 1_024);
    let all = (0..3_000).map(|i| write(HOT, &key(i), 0, Some("{}"))).collect();
    store.commit(rows(all)).await.expect("new rows");
    let spans: Vec<Span> = (0..1_024)
        .map(|slice| span(&format!("{slice:04}:"), Some(&format!("{slice:04};")), MAX_PAGE))
        .collect();
    let found = ask(|| store.0.scan_many(HOT, &spans)).await;
    let scanned = store.scan(HOT, MAX_PAGE).await;
    assert_eq!(found.iter().map(Vec::len).sum::<usize>(), 3_000);
    assert_eq!(found.into_iter().flatten().collect::<Vec<_>>(), scanned);
}

/// W1
pub async fn many_spans_are_read_in_one_snapshot<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let reader = Patient(subject.again(&store.0).await);
    let place = |round: u64| if round.is_multiple_of(2) { "a" } else { "z" };
    store.commit(rows(vec![write(HOT, "a", 0, Some("token"))])).await.expect("new");
    let done = AtomicBool::new(false);
    let moving = async {
        for round in 0..40 {
            let moved =
                vec![write(HOT, place(round), 1, None), write(HOT, place(round + 1), 0, Some("token"))];
            store.commit(rows(moved)).await.expect("it is there");
            tokio::task::yield_now().await;
        }
        done.store(true, Ordering::Relaxed);
    };
    let reading = async {
        while !done.load(Ordering::Relaxed) {
            let spans = [span("", Some("b"), 10), span("b", None, 10)];
            let found = ask(|| reader.0.scan_many(HOT, &spans)).await;
            assert_eq!(found.iter().map(Vec::len).sum::<usize>(), 1, "neither lost nor doubled: {found:?}");
            tokio::task::yield_now().await;
        }
    };
    futures::join!(moving, reading);
}

/// W2
pub async fn a_commit_of_rows_wakes_who_watches_their_table_and_slices<S: Subject>(subject: S) {
    let store = store(&subject).await;
    for (table, with_events) in [(TABLE, false), (HOT, false), (TABLE, true)] {
        let mut wake = store.0.watch_rows(table, Slices { first: 5, last: 7 });
        let mut woken = false;
        // Late or lost for some commits, but not for ever: while commits go on, one comes.
        for _ in 0..100 {
            wake.mark_unchanged();
            let key = format!("0007:{}", new_id().simple());
            let appends = if with_events { append(&id("a"), ANY, events(1)).appends } else { Vec::new() };
            let commit = Commit { appends, ..rows(vec![write(table, &key, 0, Some("{}"))]) };
            store.commit(commit).await.expect("a new row");
            woken = wake.has_changed().expect("the store is there");
            if woken {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert!(woken, "a hundred commits of rows of {table} in this process, and no wake-up");
    }
}

/// W3
pub async fn writers_of_the_same_rows_in_opposite_orders_all_end<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let other = Patient(subject.again(&store.0).await);
    for round in 0..10 {
        let keys: Vec<String> = (0..6).map(|i| format!("{round:02}-{i}")).collect();
        for (rev, data) in [(0, Some("made")), (1, Some("changed")), (2, None)] {
            let writers = (0..12).map(|i| {
                let table = |j: usize| if (i + j).is_multiple_of(2) { TABLE } else { HOT };
                let mut commit: Vec<RowWrite> =
                    keys.iter().enumerate().map(|(j, key)| write(table(j), key, rev, data)).collect();
                if i % 3 == 0 {
                    commit.reverse();
                }
                // Some of them wait for their turn in the log as well.
                let appends = if i % 4 < 2 { append(&id("log"), ANY, events(1)).appends } else { Vec::new() };
                let store = if i % 2 == 0 { &store } else { &other };
                store.commit(Commit { appends, ..rows(commit) })
            });
            let outcomes = join_all(writers).await;
            let refused = |o: &&Result<_, CommitError>| matches!(o, Err(CommitError::Fenced { .. }));
            let (won, lost) =
                (outcomes.iter().filter(|o| o.is_ok()).count(), outcomes.iter().filter(refused).count());
            // Two sets of rows, and one writer of each is the first.
            assert_eq!((won, lost), (2, 10), "{outcomes:?}");
        }
    }
    store.assert_sound().await;
}

/// W3
pub async fn a_refused_writer_names_the_row_that_it_lost<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.commit(rows(vec![write(TABLE, "b", 0, Some("1"))])).await.expect("new");
    let lost = rows(vec![write(HOT, "a", 0, Some("1")), write(TABLE, "b", 7, Some("2"))]);
    let refused = store.commit(lost).await.expect_err("it is at another revision");
    let CommitError::Fenced { table, key, expected, actual } = refused else { panic!("{refused:?}") };
    assert_eq!((&*table, &*key, expected, actual), (TABLE, "b", 7, 1));
    assert_eq!(store.row(HOT, "a").await, None);
}

/// W5
pub async fn a_queue_gives_what_is_due_until_it_is_done<S: Subject>(subject: S) {
    let clock = TestClock::default();
    let store = Patient(subject.open_at(clock.clone()).await);
    let queue = Queue::<u32>::new("work").expect("a short name");
    let (mut marks, mut left) = (Marks::default(), 0..u32::MAX);
    let (mut done, mut pushed) = (Vec::new(), 0);
    for round in 0..30_u32 {
        let now = clock.now();
        let push: Vec<RowWrite> = (0..8)
            .map(|i| {
                let due = now + Duration::from_secs(u64::from(i * round % 11));
                let value = left.next().expect("there are enough");
                let slice = u16::try_from(value * 37 % 1_024).expect("below 1,024");
                queue.push(slice, due, now, new_id(), value).expect("a number is JSON")
            })
            .collect();
        pushed += push.len();
        store.commit(rows(push)).await.expect("new rows");
        clock.advance(Duration::from_secs(2));
        let now = clock.now();
        let due = ask(|| {
            let mut marks = marks.clone();
            let queue = &queue;
            let store = &store;
            async move {
                let due = queue.due(&store.0, &[Slices::ALL], &mut marks, now, 100).await?;
                Ok::<_, crate::store::StoreError>((due, marks))
            }
        })
        .await;
        marks = due.1;
        let mut gone = Vec::new();
        for waiting in due.0 {
            let waiting = waiting.expect("a number is JSON");
            assert!(waiting.due <= now);
            done.push(waiting.row.value);
            gone.push(queue.done(&waiting.row));
        }
        store.commit(rows(gone)).await.expect("nobody else takes them out");
    }
    clock.advance(Duration::from_secs(60));
    let now = clock.now();
    let rest = ask(|| {
        let mut marks = marks.clone();
        let (queue, store) = (&queue, &store);
        async move { queue.due(&store.0, &[Slices::ALL], &mut marks, now, 100).await }
    })
    .await;
    done.extend(rest.into_iter().map(|waiting| waiting.expect("a number is JSON").row.value));
    done.sort_unstable();
    assert_eq!(done, (0..u32::try_from(pushed).expect("few")).collect::<Vec<_>>(), "each once");
}
