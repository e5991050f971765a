//! Rows of the framework's own, by table and key: P1, P4, P11 and P16, and the clock: R8.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::data::{ANY, EXISTS, NO_STREAM, append, encoded, event, events, exact, id};
use super::domain::opened;
use super::double::Double;
use super::patient::{Patient, ask, marked};
use super::{Subject, store};
use crate::ErrorKind;
use crate::limits::MAX_PAGE;
use crate::store::{
    Backend, CURRENT, Commit, CommitError, EventFilter, INLINE, IdempotencyKey, Outcome, OutcomeMark,
    Position, RowStore, RowWrite, Table, Transaction as _, Version,
};
use crate::testing::TestClock;

const TABLE: &str = "v/1";

/// A write of one row.
fn write(table: &str, key: &str, rev: u64, data: Option<&str>) -> RowWrite {
    RowWrite { table: table.into(), key: key.to_owned(), rev, row: data.map(|d| d.to_owned().into()) }
}

fn rows(rows: Vec<RowWrite>) -> Commit {
    Commit { rows, ..Commit::default() }
}

fn row(key: &str, rev: u64, data: Option<&str>) -> Commit {
    rows(vec![write(TABLE, key, rev, data)])
}

/// P1
pub async fn rows_of_several_tables_and_events_are_written_together_or_not_at_all<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let both =
        |rev, other| rows(vec![write(TABLE, "k", rev, Some("new")), write("v/2", "k", other, Some("new"))]);
    let with_events =
        |rev, other| Commit { appends: append(&id("a"), ANY, events(1)).appends, ..both(rev, other) };
    for refused in [both(1, 0), both(0, 1), with_events(1, 0), with_events(0, 1)] {
        let refused = store.commit(refused).await.expect_err("one of the rows is not there");
        assert!(matches!(refused, CommitError::Fenced { .. }), "{refused:?}");
        assert_eq!((store.row(TABLE, "k").await, store.row("v/2", "k").await), (None, None));
        assert_eq!((store.head().await, store.version("a").await), (0, 0));
    }
    store.commit(with_events(0, 0)).await.expect("all hold");
    for table in [TABLE, "v/2"] {
        assert_eq!(store.row(table, "k").await.map(|r| r.rev), Some(1), "{table}");
    }
    assert_eq!(store.head().await, 1);
}

/// P1, P4
pub async fn a_row_is_written_only_at_the_revision_that_was_read<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.commit(row("k", 0, Some("one"))).await.expect("not there yet");
    store.commit(row("k", 0, Some("again"))).await.expect_err("there by now");
    let read = store.row(TABLE, "k").await.expect("there");
    assert_eq!((read.key.as_str(), read.rev, &*read.data), ("k", 1, &b"one"[..]));
    store.commit(row("k", 1, Some("two"))).await.expect("at the revision");
    let refused = store.commit(row("k", 1, None)).await.expect_err("somebody was faster");
    assert!(matches!(refused, CommitError::Fenced { .. }), "{refused:?}");
    assert_eq!(refused.kind(), ErrorKind::Conflict);
    store.commit(row("k", 2, None)).await.expect("deleted");
    assert_eq!(store.row(TABLE, "k").await, None);
}

/// P1
pub async fn rows_are_scanned_in_the_order_of_their_keys<S: Subject>(subject: S) {
    let store = store(&subject).await;
    for key in ["b", "a%", "a", "B", "ä", "a_"] {
        store.commit(row(key, 0, Some(key))).await.expect("a new row");
    }
    let scan = |after: Option<&'static str>, limit| {
        let store = store.clone();
        async move {
            ask(|| store.0.scan(TABLE, after, limit)).await.into_iter().map(|r| r.key).collect::<Vec<_>>()
        }
    };
    assert_eq!(scan(None, 100).await, ["B", "a", "a%", "a_", "b", "ä"], "bytewise");
    assert_eq!(scan(Some("a"), 2).await, ["a%", "a_"]);
    assert_eq!(scan(Some("aa"), 2).await, ["b", "ä"]);
    assert!(scan(Some("ä"), 2).await.is_empty());
    assert!(ask(|| store.0.scan("v/2", None, 10)).await.is_empty(), "another version has rows of its own");
    let keys = ["b", "missing", "a"].map(str::to_owned);
    let rows = ask(|| store.0.rows(TABLE, &keys)).await;
    assert_eq!(
        rows.iter().map(|r| r.as_ref().map(|r| &*r.key)).collect::<Vec<_>>(),
        [Some("b"), None, Some("a")]
    );
}

/// P1
pub async fn revisions_count_writes_and_begin_anew_after_a_deletion<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.commit(row("k", 0, None)).await.expect("nothing to delete");
    for life in ["first", "second"] {
        for rev in 0..4 {
            store.commit(row("k", rev, Some(life))).await.expect("at the revision");
            let read = store.row(TABLE, "k").await.expect("there");
            assert_eq!((read.rev, &*read.data), (rev + 1, life.as_bytes()));
        }
        assert_fenced(store.commit(row("k", 0, None)).await);
        store.commit(row("k", 4, None)).await.expect("deleted");
        assert_eq!(store.row(TABLE, "k").await, None);
        assert_fenced(store.commit(row("k", 4, Some("a ghost"))).await);
    }
    assert!(store.scan(TABLE, 10).await.is_empty());
}

/// P1
pub async fn a_row_comes_back_byte_for_byte<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let all: Vec<u8> = (0..=255).collect();
    let data = [&b""[..], b"\0", b"null", b"\"x\"", &all];
    let keys = ["", "-", "'; drop table rows; --", "\u{1F600}", "a\n"].map(|key| format!("k{key}"));
    let write = |(key, data): (&String, &&[u8])| RowWrite {
        row: Some(bytes::Bytes::copy_from_slice(data)),
        ..write(TABLE, key, 0, None)
    };
    store.commit(rows(keys.iter().zip(&data).map(write).collect())).await.expect("new rows");
    let stored = ask(|| store.0.rows(TABLE, &keys)).await;
    for (row, (key, data)) in stored.into_iter().zip(keys.iter().zip(data)) {
        let row = row.expect("there: an empty row is a row");
        assert_eq!((&row.key, row.rev, &*row.data), (key, 1, data));
    }
    assert_eq!(store.scan(TABLE, 2).await.len(), keys.len());
}

/// P1
pub async fn thousands_of_rows_are_written_in_one_commit_or_none_is<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let keys: Vec<String> = (0..2_500).map(|i| format!("k-{i:04}")).collect();
    let all = |rev, data| rows(keys.iter().map(|key| write(TABLE, key, rev, data)).collect());
    let mut refused = all(0, Some("one"));
    refused.rows.push(write(TABLE, "missing", 1, Some("one")));
    assert_fenced(store.commit(refused).await);
    assert!(store.scan(TABLE, 10).await.is_empty());
    for (rev, data) in [(0, "one"), (1, "two")] {
        store.commit(all(rev, Some(data))).await.expect("all hold");
        let mut asked = keys.clone();
        asked.push("missing".to_owned());
        asked.reverse();
        let found = ask(|| store.0.rows(TABLE, &asked)).await;
        assert_eq!((found.len(), &found[0]), (2_501, &None));
        for (key, row) in asked.iter().zip(found).skip(1) {
            let row = row.expect("there");
            assert_eq!((&row.key, row.rev, &*row.data), (key, rev + 1, data.as_bytes()));
        }
    }
    let mut refused = all(2, None);
    refused.rows[2_400].rev = 1;
    assert_fenced(store.commit(refused).await);
    assert_eq!(store.scan(TABLE, 1_000).await.len(), 2_500);
    store.commit(all(2, None)).await.expect("all hold");
    assert!(store.scan(TABLE, 10).await.is_empty());
}

/// P1
pub async fn pages_of_a_scan_go_on_behind_the_last_key<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let alphabet = ["\t", " ", "%", "'", "A", "\\", "_", "a", "z", "~", "\u{e9}", "\u{fffd}", "\u{10000}"];
    let pairs = alphabet.iter().flat_map(|a| alphabet.map(|b| format!("{a}{b}")));
    let mut keys: Vec<String> = alphabet.iter().map(|a| (*a).to_owned()).chain(pairs).collect();
    let all = keys.iter().rev().map(|key| write(TABLE, key, 0, Some(key))).collect();
    store.commit(rows(all)).await.expect("new rows");
    store
        .commit(rows(vec![write("v/10", "a", 0, None), write("v/0", "a", 0, Some("x"))]))
        .await
        .expect("others");
    keys.sort_unstable();
    for limit in [1, 7, keys.len(), MAX_PAGE, usize::MAX] {
        let scanned: Vec<String> = store.scan(TABLE, limit).await.into_iter().map(|row| row.key).collect();
        assert_eq!(scanned, keys, "in pages of {limit}");
    }
    assert!(ask(|| store.0.scan(TABLE, None, 0)).await.is_empty());
    assert!(ask(|| store.0.rows(TABLE, &[])).await.is_empty());
    let before_all = ask(|| store.0.scan(TABLE, Some(""), 1)).await;
    assert_eq!(before_all[0].key, keys[0]);
}

/// P1
pub async fn what_is_below_a_prefix_is_read_without_what_lies_behind<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let table = Table::<u64>::new("below").expect("a name");
    let below = ["a:", "a:1", "a:2", "a:3"].map(str::to_owned);
    let behind = (0..300).map(|n| format!("b:{n}"));
    let all = below.iter().cloned().chain(behind).map(|key| table.insert(key, 7).expect("a row"));
    store.commit(rows(all.collect())).await.expect("new rows");
    let line = Double::new(store.0.clone());
    let read = async |after: Option<&str>, limit| {
        let found = ask(|| table.below(&line, "a:", after, limit)).await;
        found.into_iter().map(|row| row.key).collect::<Vec<_>>()
    };
    // The prefix itself is no key.
    assert_eq!(read(None, usize::MAX).await, below[1..]);
    assert_eq!(line.scanned_of("below").0, 3, "others are not read");
    assert_eq!(read(Some("a:1"), 1).await, below[2..3]);
    assert_eq!(read(Some("a:3"), MAX_PAGE).await, [""; 0]);
    // Without a prefix it is all of it.
    let all = ask(|| table.stored_below(&line, "", None, usize::MAX)).await;
    assert_eq!(all.len(), 304);
}

/// Makes a name stand for a table.
fn name(name: &str, rev: u64, table: Option<&str>) -> RowWrite {
    write(CURRENT, name, rev, table)
}

/// The data of a table's rows, as both ways to read them find it.
async fn read<B: Backend + RowStore + Clone>(store: &Patient<B>, table: &str) -> Vec<String> {
    let text = |row: &crate::store::StoredRow| String::from_utf8_lossy(&row.data).into_owned();
    let scanned = store.scan(table, 100).await;
    let keys: Vec<String> = scanned.iter().map(|row| row.key.clone()).collect();
    let found: Vec<_> = ask(|| store.0.rows(table, &keys)).await.into_iter().flatten().collect();
    assert_eq!(scanned, found, "{table}");
    scanned.iter().map(text).collect()
}

/// P11
pub async fn a_name_stands_for_the_table_that_is_current<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let (one, two) = ("balance/1~1", "balance/1~2");
    let data = vec![
        write(one, "a", 0, Some("one")),
        write(two, "a", 0, Some("two")),
        write(two, "b", 0, Some("two")),
    ];
    store.commit(rows(data)).await.expect("new rows");
    assert!(read(&store, "balance/1").await.is_empty(), "a table without a name is itself");
    store.commit(rows(vec![name("balance/1", 0, Some(one))])).await.expect("a new name");
    assert_eq!(read(&store, "balance/1").await, ["one"]);
    store.commit(rows(vec![name("balance/1", 1, Some(two))])).await.expect("at the revision");
    assert_eq!(read(&store, "balance/1").await, ["two", "two"]);
    assert_eq!((read(&store, one).await, read(&store, two).await.len()), (vec!["one".to_owned()], 2));
    assert!(read(&store, "balance/10").await.is_empty());
    assert!(read(&store, "BALANCE/1").await.is_empty(), "names mean exactly their bytes");
    let after = ask(|| store.0.scan("balance/1", Some("a"), 10)).await;
    assert_eq!(after.iter().map(|row| &*row.key).collect::<Vec<_>>(), ["b"]);
    store.commit(rows(vec![name("saldo/1", 0, Some("balance/1"))])).await.expect("a new name");
    assert!(read(&store, "saldo/1").await.is_empty(), "the name of a name is not followed");
    store.commit(rows(vec![name("balance/1", 2, Some("balance/1~3"))])).await.expect("at the revision");
    assert!(read(&store, "balance/1").await.is_empty(), "a table without rows");
    store.commit(rows(vec![name("balance/1", 3, None)])).await.expect("at the revision");
    assert!(read(&store, "balance/1").await.is_empty());
    assert_eq!(read(&store, two).await.len(), 2);
}

/// P11
pub async fn a_write_goes_to_the_table_that_it_says<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store
        .commit(rows(vec![name("v/1", 0, Some("v/1~1")), write("v/1~1", "k", 0, Some("one"))]))
        .await
        .expect("new");
    assert_fenced(store.commit(row("k", 1, Some("two"))).await);
    store.commit(row("k", 0, Some("by its name"))).await.expect("no row has this table and key");
    assert_eq!(read(&store, "v/1").await, ["one"]);
    store.commit(rows(vec![write("v/1~1", "k", 1, Some("two"))])).await.expect("at the revision");
    assert_eq!(read(&store, "v/1").await, ["two"]);
    store.commit(rows(vec![name("v/1", 1, None)])).await.expect("at the revision");
    assert_eq!(read(&store, "v/1").await, ["by its name"]);
}

/// P11
pub async fn a_reader_sees_the_old_table_or_the_new_one_whole<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let reader = Patient(subject.again(&store.0).await);
    let keys: Vec<String> = (0..20).map(|i| format!("k-{i:02}")).collect();
    let table = |round: u64| format!("v/1~{round}");
    let all = |round: u64, rev: u64, data: Option<&str>| -> Vec<RowWrite> {
        keys.iter().map(|key| write(&table(round), key, rev, data)).collect()
    };
    let mut first = all(0, 0, Some("0"));
    first.push(name("v/1", 0, Some(&table(0))));
    store.commit(rows(first)).await.expect("new rows");
    let done = AtomicBool::new(false);
    let writing = async {
        for round in 1..=20 {
            let text = round.to_string();
            let mut change = all(round, 0, Some(&text));
            change.extend(all(round - 1, 1, None));
            change.push(name("v/1", round, Some(&table(round))));
            store.commit(rows(change)).await.expect("all hold");
            assert_eq!(reader.row("v/1", "k-07").await.map(|r| r.data), Some(text.into()), "at once");
            tokio::task::yield_now().await;
        }
        done.store(true, Ordering::Relaxed);
    };
    let reading = async {
        while !done.load(Ordering::Relaxed) {
            let found = ask(|| reader.0.rows("v/1", &keys)).await;
            let found: Vec<_> = found.into_iter().flatten().map(|row| row.data).collect();
            let scanned: Vec<_> =
                ask(|| reader.0.scan("v/1", None, 100)).await.into_iter().map(|r| r.data).collect();
            for seen in [found, scanned] {
                assert_eq!(seen.len(), keys.len());
                assert!(seen.iter().all(|data| *data == seen[0]), "{seen:?}");
            }
            tokio::task::yield_now().await;
        }
    };
    futures::join!(writing, reading);
}

/// Says which set of inline projections is stored, from now on.
fn inline(rev: u64) -> RowWrite {
    write(INLINE.0, INLINE.1, rev, Some("[]"))
}

/// By a writer that runs this set.
fn by(inline: u64, commit: Commit) -> Commit {
    Commit { inline, ..commit }
}

fn assert_fenced<T: std::fmt::Debug>(refused: Result<T, CommitError>) {
    let refused = refused.expect_err("a row is at another revision");
    assert!(matches!(refused, CommitError::Fenced { .. }), "{refused:?}");
}

fn assert_inline<T: std::fmt::Debug>(refused: Result<T, CommitError>, expected: (u64, u64)) {
    let refused = refused.expect_err("the writer runs another set");
    assert_eq!(refused.kind(), ErrorKind::Misuse);
    let CommitError::Inline { stored, named } = refused else { panic!("{refused:?}") };
    assert_eq!((stored, named), expected);
}

/// P16
pub async fn events_are_written_only_with_the_inline_projections_that_are_stored<S: Subject>(subject: S) {
    let store = store(&subject).await;
    for stored in 0..3_u64 {
        let version = stored;
        let expectations = [ANY, exact(version), if version == 0 { NO_STREAM } else { EXISTS }];
        for named in (0..4).filter(|named| *named != stored) {
            for expected in expectations {
                let stale = by(named, append(&id("a"), expected, events(1)));
                assert_inline(store.commit(stale).await, (stored, named));
            }
            let second = by(named, append(&id("b"), ANY, events(0)).and("a", ANY, events(1)));
            assert_inline(store.commit(second).await, (stored, named));
        }
        assert_eq!(store.head().await, version, "nothing was written");
        store.commit(by(stored, append(&id("a"), ANY, events(1)))).await.expect("the set that is stored");
        store.commit(rows(vec![inline(stored)])).await.expect("another set");
    }
    store.assert_sound().await;
}

/// P16
pub async fn a_commit_without_events_needs_no_inline_projections<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.put("a", events(1)).await;
    store.commit(rows(vec![inline(0)])).await.expect("a first set");
    for named in [0, 1, 7] {
        store.commit(by(named, row(&format!("k-{named}"), 0, Some("x")))).await.expect("a row");
        store.commit(by(named, Commit::default().checking("a", exact(1)))).await.expect("a check");
        let done =
            store.commit(by(named, append(&id("a"), exact(1), events(0)))).await.expect("an empty append");
        assert_eq!((done.position, done.versions), (Position(1), vec![Version(1)]));
        store
            .commit(by(named, Commit { outcomes: vec![mark(&format!("k-{named}"))], ..Commit::default() }))
            .await
            .expect("an outcome");
    }
    assert_eq!(store.head().await, 1);
}

/// P16
pub async fn events_in_a_transaction_need_the_inline_projections_too<S: Subject>(subject: S) {
    let store = store(&subject).await;
    store.commit(rows(vec![inline(0)])).await.expect("a first set");
    for named in [0, 2, 1] {
        let commit = marked(append(&id("a"), ANY, events(1)));
        let outcome = loop {
            let mut tx = store.begin().await;
            subject.put_row(&mut tx, "k", "v").await;
            tx.staged().rows.extend(commit.rows.iter().cloned());
            tx.staged().appends.extend(commit.appends.iter().cloned());
            tx.staged().inline = named;
            match store.finish(tx).await {
                Ok(false) => {}
                outcome => break outcome,
            }
        };
        let row = subject.row(&store.0, "k").await;
        if named == 1 {
            outcome.expect("the set that is stored");
            assert_eq!((store.head().await, row.as_deref()), (1, Some("v")));
        } else {
            assert_inline(outcome, (1, named));
            assert_eq!((store.head().await, row), (0, None));
        }
    }
}

fn mark(key: &str) -> OutcomeMark {
    let (key, fingerprint) = (IdempotencyKey::new(key).expect("a key"), 1);
    let (version, position) = (Version(1), Position(0));
    OutcomeMark {
        key,
        outcome: Outcome { fingerprint, stream: id("a"), version, position, events: 1, refusal: None },
    }
}

/// P16
pub async fn inline_projections_are_judged_after_conditions_and_before_rows<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let first =
        Commit { outcomes: vec![mark("k")], ..append(&id("a"), exact(0), vec![encoded(&opened("ada"))]) };
    store.commit(first.clone()).await.expect("accepted");
    store.commit(rows(vec![inline(0)])).await.expect("a first set");
    let stale = |expected| Commit {
        rows: row("k", 9, None).rows,
        ..append(&id("a"), expected, vec![event("noted")])
    };
    let repeated = store.commit(first.clone()).await.expect_err("used before");
    assert!(matches!(repeated, CommitError::Repeated { .. }), "{repeated:?}");
    let again = store.commit(Commit { outcomes: Vec::new(), ..first }).await;
    assert_eq!(again.expect("answered like the first time").position, Position(1));
    let conflict = store.commit(stale(exact(9))).await.expect_err("it is elsewhere");
    assert!(matches!(conflict, CommitError::Conflict { .. }), "{conflict:?}");
    let checked = store.commit(stale(ANY).checking("b", EXISTS)).await.expect_err("it is not there");
    assert!(matches!(checked, CommitError::Conflict { .. }), "{checked:?}");
    let broken =
        store.commit(stale(ANY).under(EventFilter::all(), Position(0))).await.expect_err("there is one");
    assert!(matches!(broken, CommitError::ConditionFailed { .. }), "{broken:?}");
    assert_inline(store.commit(stale(ANY).under(EventFilter::all(), Position(1))).await, (1, 0));
    assert_fenced(store.commit(by(1, stale(ANY))).await);
    assert_eq!(store.head().await, 1);
}

/// P16
pub async fn another_set_of_inline_projections_holds_from_its_commit_on<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let own = Commit { rows: vec![inline(0)], ..append(&id("a"), ANY, events(1)) };
    store.commit(own).await.expect("a commit is judged by what was stored before it");
    for stored in 1..6 {
        let change = async { store.commit(rows(vec![inline(stored)])).await.expect("at the revision") };
        let (before, after): (Vec<Commit>, Vec<Commit>) = (0..10)
            .map(|i| {
                let stream = id(&format!("s-{stored}-{i}"));
                let commit = |named| by(named, append(&stream, NO_STREAM, events(1)));
                (commit(stored), commit(stored + 1))
            })
            .unzip();
        let writers = before.into_iter().chain(after).map(|commit| {
            let (store, named) = (store.clone(), commit.inline);
            async move { (named, store.commit(commit).await) }
        });
        let (_, outcomes) = futures::join!(change, futures::future::join_all(writers));
        let position = |of: u64| {
            let done = outcomes.iter().filter(move |(named, _)| *named == of);
            done.filter_map(|(_, outcome)| Some(outcome.as_ref().ok()?.position))
        };
        let (last, first) = (position(stored).max(), position(stored + 1).min());
        assert!(last.is_none() || first.is_none() || last < first, "{last:?} {first:?}");
        for (named, outcome) in outcomes {
            match outcome {
                Err(CommitError::Conflict { .. }) | Ok(_) => {}
                refused => assert_inline(refused, (2 * stored + 1 - named, named)),
            }
        }
    }
    store.assert_sound().await;
}

/// R8
pub async fn the_clock_of_the_store_is_the_one_that_events_are_recorded_by<S: Subject>(subject: S) {
    let store = store(&subject).await;
    let other = Patient(subject.again(&store.0).await);
    for _ in 0..10 {
        store.put("a", events(1)).await;
        let last = store.all().await.pop().expect("just written").recorded_at;
        assert!(store.now().await >= last);
        assert!(other.now().await >= last);
    }
    let clock = TestClock::default();
    let store = Patient(subject.open_at(clock.clone()).await);
    for _ in 0..3 {
        store.put("a", events(1)).await;
        let last = store.all().await.pop().expect("just written").recorded_at;
        assert_eq!(
            (store.now().await, last),
            (crate::clock::Clock::now(&clock), crate::clock::Clock::now(&clock))
        );
        clock.advance(Duration::from_micros(1_234_567));
        assert_eq!(store.now().await, crate::clock::Clock::now(&clock), "also when nothing is written");
    }
}
