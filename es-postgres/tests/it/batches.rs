//! What shares a batch, and what must not.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use es_core::ErrorKind;
use es_core::clock::Timestamp;
use es_core::event::Tag;
use es_core::store::rules::{Ledger, Verdict, judge};
use es_core::store::{
    AppendCondition, Backend as _, Check, Commit, CommitError, Committed, EventFilter, EventId,
    EventStore as _, ExpectedVersion, FilterItem, IdempotencyKey, Name, Outcome, Position, RecordedEvent,
    RowStore as _, StreamId, Transaction as _, Version, read_all,
};
use es_postgres::PgBackend;
use es_postgres::testing;
use sqlx::Connection as _;

use crate::support::{
    Gate, WAITING, Wire, append, assert_sound, commit, connect, count, event, exact, fresh, mark, new_id,
    refused, row, row_of, run, step, stream, until_count, with,
};

/// Everything of one batch: it waits together while another session holds the gate.
async fn in_one_batch(
    url: &str,
    store: &PgBackend,
    commits: Vec<Commit>,
) -> Vec<Result<Committed, CommitError>> {
    let held = Gate::hold(url).await;
    let first = tokio::spawn({
        let store = store.clone();
        async move { store.commit(commit("first")).await }
    });
    until_count(url, WAITING, 1).await;
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { futures::future::join_all(commits.into_iter().map(|commit| store.commit(commit))).await }
    });
    tokio::task::yield_now().await;
    held.release().await;
    first.await.unwrap().unwrap();
    waiting.await.unwrap()
}

#[tokio::test]
async fn one_request_whose_data_does_not_fit_fails_alone() {
    // A trigger of the user's own stands in for whatever a database can refuse.
    for raise in [
        "raise exception 'no b'",
        "raise exception 'no b' using errcode = 'check_violation'",
        "raise exception 'no b' using errcode = 'XY123'",
        "perform 1 / 0",
    ] {
        let (database, store) = fresh().await;
        let trigger = format!(
            "create function no_b() returns trigger language plpgsql as $$
             begin if new.name = 'b' then {raise}; end if; return new; end $$;
             create trigger no_b before insert on es.streams for each row execute function no_b()"
        );
        run(database.url(), &trigger).await;
        let all = in_one_batch(database.url(), &store, ["a", "b", "c"].map(commit).to_vec()).await;
        let [a, b, c] = all.try_into().unwrap();
        assert!(a.is_ok() && c.is_ok(), "{raise}: {a:?} {c:?}");
        assert!(b.is_err(), "{raise}");
        // By itself, too, and in a transaction of the user's own.
        drop(refused(store.commit(commit("b")).await));
        let mut tx = store.begin().await.unwrap();
        *tx.staged() = commit("b");
        drop(refused(tx.commit().await));
        assert_sound(database.url(), &store).await;
    }
}

#[tokio::test]
async fn what_one_request_waits_for_holds_up_no_other() {
    let database = testing::database().await;
    let store = with(&database, |o| o.with_lock_timeout(Duration::from_millis(300))).await;
    store.commit(Commit { rows: vec![row("k", 0, Some("1"))], ..Commit::default() }).await.unwrap();
    let mut locks = connect(database.url()).await;
    let mut locked = locks.begin().await.unwrap();
    sqlx::query("select from es.rows where key = 'k' for update").execute(&mut *locked).await.unwrap();
    let late = Commit { rows: vec![row("k", 1, Some("2"))], ..commit("a") };
    let all = in_one_batch(database.url(), &store, vec![commit("b"), late, commit("c"), commit("d")]).await;
    let [b, a, c, d] = all.try_into().unwrap();
    assert!(b.is_ok() && c.is_ok() && d.is_ok(), "{b:?} {c:?} {d:?}");
    assert_eq!(refused(a).kind(), ErrorKind::Transient);
    locked.rollback().await.unwrap();
    assert_sound(database.url(), &store).await;
}

/// The database is another one by now: whoever asks for a connection is told so, and once is enough.
#[tokio::test]
async fn a_connection_that_is_refused_is_refused_to_all_at_once() {
    let server =
        tokio::task::spawn_blocking(|| testing::ServerOptions::new().start().unwrap()).await.unwrap();
    let database = server.database().await.unwrap();
    let wire = Wire::to(&server);
    let store = PgBackend::connect_with(wire.options(&server, &database)).await.unwrap();
    store.commit(commit("s")).await.unwrap();
    let held = Gate::hold(database.url()).await;
    let first = tokio::spawn({
        let store = store.clone();
        async move { store.commit(commit("first")).await }
    });
    until_count(database.url(), WAITING, 1).await;
    let others = (0..8).map(|n| {
        let store = store.clone();
        async move { store.commit(commit(&format!("s{n}"))).await }
    });
    let others = tokio::spawn(futures::future::join_all(others));
    // They are in the queue by then.
    tokio::task::yield_now().await;
    run(database.url(), "update es.store set identity = gen_random_uuid()").await;
    let before = wire.made();
    wire.cut();
    assert_eq!(refused(first.await.unwrap()).kind(), ErrorKind::Unknown);
    for outcome in others.await.unwrap() {
        let error = refused(outcome);
        assert_eq!(error.kind(), ErrorKind::Misuse, "{error}");
        assert!(error.to_string().contains("start it again"), "{error}");
    }
    assert_eq!(wire.made() - before, 1);
    held.release().await;
}

#[tokio::test]
async fn a_codec_that_cannot_be_stored_fails_alone() {
    let (database, store) = fresh().await;
    let mut odd = commit("b");
    odd.appends[0].events[0].codec = Name::from("no\0name");
    let all = in_one_batch(database.url(), &store, vec![commit("a"), odd, commit("c")]).await;
    let [a, b, c] = all.try_into().unwrap();
    assert!(a.is_ok() && c.is_ok(), "{a:?} {c:?}");
    assert_eq!(refused(b).kind(), ErrorKind::Misuse);
}

#[tokio::test]
async fn every_version_of_a_type_can_be_stored_and_the_store_opened_again() {
    let (database, store) = fresh().await;
    for schema in [0, 1, i32::MAX.cast_unsigned(), i32::MAX.cast_unsigned() + 1, u32::MAX] {
        let mut one = commit("s");
        one.appends[0].events[0].schema = schema;
        store.commit(one).await.unwrap();
    }
    let again = PgBackend::connect(database.url()).await.unwrap();
    let found = again.stream(&stream("s"), Version(0), 10).await.unwrap();
    assert_eq!(found, store.stream(&stream("s"), Version(0), 10).await.unwrap());
    assert_eq!(found[4].schema, u32::MAX);
}

fn conditioned(name: &str, tag: &str, after: u64) -> Commit {
    let tag = Tag::parse(tag).unwrap();
    let mut one = commit(name);
    one.appends[0].events[0].tags.push(tag.clone());
    let fail_if_events_match = FilterItem::new().with_tag(tag).into();
    Commit { condition: Some(AppendCondition { fail_if_events_match, after: Position(after) }), ..one }
}

#[tokio::test]
async fn requests_that_conflict_in_one_batch_are_not_both_accepted_in_any_order() {
    let check = |name: &str, expected| Commit {
        checks: vec![Check { stream: stream(name), expected }],
        ..commit("checked")
    };
    let pairs: Vec<(Commit, Commit)> = vec![
        (exact("s", 0), exact("s", 0)),
        (exact("s", 0), check("s", ExpectedVersion::NoStream)),
        (append("s", ExpectedVersion::Any, 1), check("s", ExpectedVersion::NoStream)),
        (check("s", ExpectedVersion::NoStream), check("s", ExpectedVersion::Exists)),
        (conditioned("s", "t:1", 1), conditioned("u", "t:1", 1)),
        (
            conditioned("s", "t:1", 1),
            Commit { condition: conditioned("s", "t:1", 1).condition, ..exact("s", 0) },
        ),
        (
            Commit { outcomes: vec![mark("k", "s")], ..commit("s") },
            Commit { outcomes: vec![mark("k", "u")], ..commit("u") },
        ),
        (
            Commit { rows: vec![step("p", 0, 1)], ..commit("s") },
            Commit { rows: vec![step("p", 0, 2)], ..commit("u") },
        ),
        (
            Commit { rows: vec![row("k", 0, Some("1"))], ..commit("s") },
            Commit { rows: vec![row("k", 0, Some("2"))], ..commit("u") },
        ),
    ];
    for (i, (a, b)) in pairs.into_iter().enumerate() {
        for swapped in [false, true] {
            let (database, store) = fresh().await;
            let both = if swapped { vec![b.clone(), a.clone()] } else { vec![a.clone(), b.clone()] };
            let neighbour = commit("neighbour");
            let all = [vec![neighbour.clone()], both.clone(), vec![commit("another")]].concat();
            let outcomes = in_one_batch(database.url(), &store, all).await;
            assert!(outcomes[0].is_ok() && outcomes[3].is_ok(), "{i}: {outcomes:?}");
            // As if one came after the other.
            let expected = replayed(vec![commit("first"), neighbour].into_iter().chain(both).collect());
            let found: Vec<bool> = outcomes[1..3].iter().map(Result::is_ok).collect();
            assert_eq!(found, expected[2..], "{i} swapped {swapped}: {outcomes:?}");
        }
    }
}

/// Whether each of them is accepted, one after the other.
fn replayed(commits: Vec<Commit>) -> Vec<bool> {
    let mut model = Model::default();
    let verdict = |commit: Commit| {
        let applies = matches!(judge(&commit, &model), Ok(Verdict::Apply));
        if applies {
            model.apply(&commit);
        }
        applies
    };
    commits.into_iter().map(verdict).collect()
}

/// Commits that touch no stream wait for no gate: what they write may be made by others at the same time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_needs_no_gate_is_refused_alike_when_others_make_it_at_the_same_time() {
    let database = testing::database().await;
    let stores = [with(&database, |o| o).await, with(&database, |o| o).await];
    let kinds: [fn(&str) -> Commit; 3] = [
        |key| Commit { outcomes: vec![mark(key, "s")], ..Commit::default() },
        |key| Commit { rows: vec![step(key, 0, 1)], ..Commit::default() },
        |key| Commit { rows: vec![row(key, 0, Some("1"))], ..Commit::default() },
    ];
    for kind in kinds {
        for _ in 0..60 {
            let key = new_id().to_string();
            let all = stores.iter().flat_map(|store| {
                let state = store.commit(kind(&key));
                let log = store.commit(Commit { appends: commit("s").appends, ..kind(&key) });
                [state, log]
            });
            let outcomes = futures::future::join_all(all).await;
            assert_eq!(outcomes.iter().filter(|o| o.is_ok()).count(), 1, "{outcomes:?}");
            for error in outcomes.into_iter().filter_map(Result::err) {
                assert!(
                    matches!(error, CommitError::Repeated { .. } | CommitError::Fenced { .. }),
                    "{error:?}"
                );
            }
        }
    }
    assert_sound(database.url(), &stores[0]).await;
}

/// A row that was not there is "deleted" while another process makes it: that one waits, and its row stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_not_there_is_not_taken_from_somebody_who_makes_it_meanwhile() {
    let (database, store) = fresh().await;
    let other = PgBackend::connect(database.url()).await.unwrap();
    let held = Gate::hold(database.url()).await;
    let forgets = Commit { rows: vec![row("k", 0, None)], ..commit("s") };
    let running = tokio::spawn(async move { store.commit(forgets).await });
    until_count(database.url(), WAITING, 1).await;
    let made = Commit { rows: vec![row("k", 0, Some("1")), step("p", 0, 1)], ..Commit::default() };
    let making = tokio::spawn({
        let other = other.clone();
        async move { other.commit(made).await }
    });
    held.release().await;
    running.await.unwrap().unwrap();
    making.await.unwrap().unwrap();
    assert!(other.rows("v/1", &["k".to_owned()]).await.unwrap()[0].is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_that_has_to_wait_is_not_passed_by_for_ever() {
    let (database, store) = fresh().await;
    store.commit(commit("hot")).await.unwrap();
    // How far the log was when a caller last heard of it: who is slow to hear does not count.
    let (stop, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let callers: Vec<_> = (0..64)
        .map(|_| {
            let (store, stop, heard) = (store.clone(), stop.clone(), heard.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let done = store.commit(commit("hot")).await.unwrap();
                    heard.fetch_max(done.position.0, Ordering::Relaxed);
                }
            })
        })
        .collect();
    for i in 0..20_u64 {
        let check = Check { stream: stream("hot"), expected: ExpectedVersion::Exists };
        let slow = match i % 3 {
            0 => Commit { checks: vec![check], ..exact("slow", i) },
            1 => append("slow", ExpectedVersion::Exact(Version(i)), 1),
            _ => Commit {
                appends: [exact("slow", i).appends, append("hot", ExpectedVersion::Exists, 1).appends]
                    .concat(),
                ..Commit::default()
            },
        };
        let before = heard.load(Ordering::Relaxed);
        let passed = store.commit(slow).await.unwrap().position.0 - before;
        assert!(passed < 64 * 10, "{passed} others came first");
    }
    stop.store(true, Ordering::Relaxed);
    futures::future::try_join_all(callers).await.unwrap();
    assert_sound(database.url(), &store).await;
}

/// The contract in memory: enough of it to judge by.
#[derive(Default)]
struct Model {
    log: Vec<RecordedEvent>,
    outcomes: HashMap<IdempotencyKey, Outcome>,
    rows: HashMap<(String, String), u64>,
}

impl Model {
    fn apply(&mut self, commit: &Commit) {
        for append in &commit.appends {
            for event in &append.events {
                let version = Version(self.version(&append.stream).0 + 1);
                let position = Position(self.log.len() as u64 + 1);
                let recorded = event.clone().into_recorded(
                    append.stream.clone(),
                    version,
                    Some(position),
                    Timestamp::UNIX_EPOCH,
                );
                self.log.push(recorded);
            }
        }
        for mark in &commit.outcomes {
            self.outcomes.insert(mark.key.clone(), mark.outcome.clone());
        }
        for write in &commit.rows {
            let place = (write.table.to_string(), write.key.clone());
            match &write.row {
                Some(_) => self.rows.insert(place, write.rev + 1),
                None => self.rows.remove(&place),
            };
        }
    }
}

impl Ledger for Model {
    fn head(&self) -> Position {
        Position(self.log.len() as u64)
    }
    fn version(&self, stream: &StreamId) -> Version {
        Version(self.log.iter().filter(|e| e.stream == *stream).count() as u64)
    }
    fn last(&self, stream: &StreamId) -> Option<EventId> {
        self.log.iter().rev().find(|e| e.stream == *stream).map(|e| e.id)
    }
    fn tail(&self, stream: &StreamId, after: Version, limit: usize) -> Vec<RecordedEvent> {
        self.log.iter().filter(|e| e.stream == *stream && e.version > after).take(limit).cloned().collect()
    }
    fn first_match(&self, filter: &EventFilter, after: Position) -> Option<(Position, Name)> {
        let found = self.log.iter().find(|e| e.place() > after && filter.matches(e))?;
        Some((found.place(), found.name.clone()))
    }
    fn outcome(&self, key: &IdempotencyKey) -> Option<Outcome> {
        self.outcomes.get(key).cloned()
    }
    fn row_rev(&self, table: &str, key: &str) -> u64 {
        self.rows.get(&(table.to_owned(), key.to_owned())).copied().unwrap_or_default()
    }
}

/// Numbers from a seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

/// What the callers believe: mostly right, sometimes stale.
#[derive(Default)]
struct Beliefs {
    head: AtomicU64,
    versions: [AtomicU64; 3],
    /// The last events that they saw, with their versions.
    lasts: Mutex<[(u64, EventId); 3]>,
    rows: Mutex<HashMap<(String, String), u64>>,
}

impl Beliefs {
    fn rev(&self, table: &str, key: &str) -> u64 {
        let place = (table.to_owned(), key.to_owned());
        self.rows.lock().unwrap().get(&place).copied().unwrap_or_default()
    }
}

/// A commit of some of everything, with one event at least: so each that is accepted has a place in the log.
fn random(dice: &mut Dice, beliefs: &Beliefs) -> Commit {
    let mut one = Commit::default();
    for _ in 0..=dice.roll(2) {
        let s = dice.roll(3);
        let known = beliefs.versions[usize::try_from(s).unwrap()].load(Ordering::Relaxed);
        let (seen, last) = beliefs.lasts.lock().unwrap()[usize::try_from(s).unwrap()];
        let expected = match dice.roll(8) {
            6 if seen > 0 => ExpectedVersion::After(Version(seen), last),
            // Of another history.
            7 if dice.roll(3) == 0 => ExpectedVersion::After(Version(known), new_id()),
            0 => ExpectedVersion::NoStream,
            1 => ExpectedVersion::Exists,
            2 | 3 => ExpectedVersion::Exact(Version(known.saturating_sub(dice.roll(3) / 2))),
            _ => ExpectedVersion::Any,
        };
        let mut part = append(&format!("s{s}"), expected, 1 + usize::try_from(dice.roll(2)).unwrap());
        for event in part.appends.iter_mut().flat_map(|a| &mut a.events) {
            event.name = Name::from(["a", "b"][usize::try_from(dice.roll(2)).unwrap()]);
            event.tags = (0..dice.roll(3)).map(|_| Tag::new("t", dice.roll(3)).unwrap()).collect();
        }
        one.appends.extend(part.appends);
    }
    if dice.roll(4) == 0 {
        let s = dice.roll(3);
        let known = beliefs.versions[usize::try_from(s).unwrap()].load(Ordering::Relaxed);
        one.checks.push(Check {
            stream: stream(&format!("s{s}")),
            expected: match beliefs.lasts.lock().unwrap()[usize::try_from(s).unwrap()] {
                (seen, last) if seen > 0 && dice.roll(2) == 0 => ExpectedVersion::After(Version(seen), last),
                _ => ExpectedVersion::Exact(Version(known)),
            },
        });
    }
    if dice.roll(3) == 0 {
        let mut item = FilterItem::new().with_tag(Tag::new("t", dice.roll(3)).unwrap());
        if dice.roll(2) == 0 {
            item = item.with_types(["a"]);
        }
        let after = Position(beliefs.head.load(Ordering::Relaxed).saturating_sub(dice.roll(2)));
        one.condition = Some(AppendCondition { fail_if_events_match: item.into(), after });
    }
    if dice.roll(4) == 0 {
        one.outcomes.push(mark(&format!("k{}", dice.roll(60)), "s0"));
    }
    // The set of inline projections moves now and then, and some do not know it yet.
    one.inline = beliefs.rev("inline", "set");
    if dice.roll(30) == 0 {
        one.rows.push(row_of("inline", "set", one.inline, Some("1")));
    }
    for (table, keys) in [("v/1", 4), ("w/1", 3)] {
        if dice.roll(4) == 0 {
            let key = format!("r{}", dice.roll(keys));
            let rev = beliefs.rev(table, &key);
            one.rows.push(row_of(table, &key, rev, (dice.roll(5) > 0).then_some("1")));
        }
    }
    one
}

fn learn(beliefs: &Beliefs, one: &Commit, committed: &Committed) {
    beliefs.head.fetch_max(committed.position.0, Ordering::Relaxed);
    for (append, version) in one.appends.iter().zip(&committed.versions) {
        let s: usize = append.stream.as_str()[1..].parse().unwrap();
        let mut lasts = beliefs.lasts.lock().unwrap();
        if let Some(last) = append.events.last().filter(|_| version.0 > lasts[s].0) {
            lasts[s] = (version.0, last.id);
        }
        beliefs.versions[s].fetch_max(version.0, Ordering::Relaxed);
    }
    for write in &one.rows {
        let rev = if write.row.is_some() { write.rev + 1 } else { 0 };
        beliefs.rows.lock().unwrap().insert((write.table.to_string(), write.key.clone()), rev);
    }
}

/// Another seed: `ES_SEED=7`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_is_accepted_concurrently_is_accepted_one_after_the_other() {
    let seeds = std::env::var("ES_SEED").ok().map_or_else(|| vec![1, 2], |seed| vec![seed.parse().unwrap()]);
    for seed in seeds {
        replay(seed).await;
    }
}

async fn replay(seed: u64) {
    let database = testing::database().await;
    let beliefs = Arc::new(Beliefs::default());
    let mut tasks = Vec::new();
    for instance in 0..3_u64 {
        let store = with(&database, |o| o.with_notify(instance > 0)).await;
        for task in 0..8 {
            let (store, beliefs) = (store.clone(), beliefs.clone());
            let mut dice = Dice(seed * 1_000 + instance * 100 + task);
            tasks.push(tokio::spawn(async move {
                let mut accepted = Vec::new();
                for _ in 0..40 {
                    let one = random(&mut dice, &beliefs);
                    let by_transaction = dice.roll(6) == 0;
                    let outcome = if by_transaction {
                        let mut tx = store.begin().await.unwrap();
                        *tx.staged() = one.clone();
                        tx.commit().await
                    } else {
                        store.commit(one.clone()).await
                    };
                    match outcome {
                        Ok(committed) => {
                            learn(&beliefs, &one, &committed);
                            accepted.push((committed, one));
                        }
                        Err(e) if matches!(e.kind(), ErrorKind::Conflict | ErrorKind::Transient) => {}
                        Err(CommitError::Repeated { .. } | CommitError::Inline { .. }) => {}
                        Err(e) => panic!("seed {seed}: {}", es_core::chain(&e)),
                    }
                }
                accepted
            }));
        }
    }
    let all = futures::future::try_join_all(tasks).await.unwrap();
    let mut accepted: Vec<_> = all.into_iter().flatten().collect();
    accepted.sort_by_key(|(committed, _)| committed.position);
    let mut model = Model::default();
    for (committed, one) in &accepted {
        let verdict = judge(one, &model);
        assert_eq!(
            verdict.as_ref().ok(),
            Some(&Verdict::Apply),
            "seed {seed}: {committed:?} {one:?} {verdict:?}"
        );
        model.apply(one);
        assert_eq!(model.head(), committed.position, "seed {seed}");
        for (i, append) in one.appends.iter().enumerate() {
            let later: usize = one.appends[i + 1..]
                .iter()
                .filter(|a| a.stream == append.stream)
                .map(|a| a.events.len())
                .sum();
            let expected = model.version(&append.stream).0 - later as u64;
            assert_eq!(committed.versions[i].0, expected, "seed {seed}");
        }
    }
    assert!(accepted.len() > 100, "seed {seed}: {} were accepted", accepted.len());
    let store = PgBackend::connect(database.url()).await.unwrap();
    let stored = read_all(&store, &EventFilter::all(), Position(0)).await.unwrap().events;
    let same = |e: &RecordedEvent| (e.id, e.position, e.version, e.stream.clone(), e.tags.clone());
    assert!(stored.iter().map(same).eq(model.log.iter().map(same)), "seed {seed}: the logs differ");
    let mut rows = HashMap::new();
    for table in ["v/1", "w/1", "inline"] {
        let found = store.scan(table, None, 100).await.unwrap();
        rows.extend(found.into_iter().map(|row| ((table.to_owned(), row.key), row.rev)));
    }
    assert_eq!(rows, model.rows, "seed {seed}");
    let keys = count(database.url(), "select count(*) from es.outcomes").await;
    assert_eq!(keys, i64::try_from(model.outcomes.len()).unwrap(), "seed {seed}");
    assert_sound(database.url(), &store).await;
    drop(event("a"));
}
