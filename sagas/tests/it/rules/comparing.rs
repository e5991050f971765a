//! What two looks go by, and what is done about what they find: Z12 to Z20, Z22.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use es_core::{BoxError, EventStore as _, Timestamp};
use futures::{Stream, StreamExt as _, stream};
use sagas::reconcile::{Class, Entry, Reconciliation, Redriven, Report};
use tokio::sync::watch;

use super::Subject;
use super::ground::Ground;

type Rows = Vec<Entry<u32, i64>>;

/// Of what two functions say of a side each time.
fn of<S: Subject>(
    ground: &Ground<'_, S>,
    left: impl Fn() -> Rows + Send + Sync + 'static,
    right: impl Fn() -> Rows + Send + Sync + 'static,
) -> Reconciliation<u32, i64> {
    let between = Reconciliation::between(
        "books",
        ground.backend.clone(),
        move || stream::iter(left()).map(Ok::<_, BoxError>),
        move || stream::iter(right()).map(Ok::<_, BoxError>),
    );
    between.unwrap().looks_again_after(Duration::ZERO)
}

fn rows(all: &[(u32, i64)]) -> Rows {
    all.iter().map(|(key, value)| Entry::new(*key, *value)).collect()
}

/// Runs it until the store has answered.
async fn runs<S: Subject, K, V>(ground: &Ground<'_, S>, of: &Reconciliation<K, V>) -> Report
where
    K: Ord + Clone + std::fmt::Display + Send + Sync + 'static,
    V: PartialEq + std::fmt::Debug + Send + Sync + 'static,
{
    ground.ask(async || of.run().await).await
}

async fn now<S: Subject>(ground: &Ground<'_, S>) -> Timestamp {
    ground.ask(async || ground.backend.now().await).await
}

/// Z12
pub(super) async fn what_is_pending_takes_no_place_of_what_differs<S: Subject>(subject: &S) {
    const MANY: u32 = 10_001;
    let ground = Ground::open(subject).await;
    let at = now(&ground).await;
    let with = |entry: fn(Entry<u32, i64>, Timestamp) -> Entry<u32, i64>| {
        move || {
            let many = (0..MANY).map(|key| entry(Entry::new(key, 1), at));
            many.chain([Entry::new(MANY, 1)]).collect::<Rows>()
        }
    };
    let none = Vec::new;
    let live = of(&ground, with(|entry, _| entry.live(true)), none);
    let young = of(&ground, with(Entry::changed_at), none);
    let touched = of(&ground, with(|entry, _| entry), none).pending_if(|key| async move { Ok(key < MANY) });
    for books in [live, young, touched] {
        let report = runs(&ground, &books).await;
        assert_eq!((report.of(Class::MissingRight), report.unconfirmed), (1, 0), "{report}");
        assert_eq!((report.pending, report.keys), (u64::from(MANY), u64::from(MANY) + 1), "{report}");
    }
}

/// Z13
pub(super) async fn what_ends_while_it_is_looked_at_is_not_done_again<S: Subject>(subject: &S) {
    let ground = Ground::open(subject).await;
    // What is done about the first key takes so long that two transactions end meanwhile: of the second key, and of the
    // third, which has just been written.
    let (ended, again) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Vec::new())));
    let changed = now(&ground).await;
    let left = move || vec![Entry::new(1, 1), Entry::new(2, 1), Entry::new(3, 1).changed_at(changed)];
    let own = ended.clone();
    let right = move || if own.load(Ordering::Relaxed) { rows(&[(2, 1), (3, 1)]) } else { Rows::new() };
    let (own, all, clock) = (ended.clone(), again.clone(), ground.clock.clone());
    let books = of(&ground, left, right)
        .pending_if(move |key| {
            let is_open = key == 2 && !ended.load(Ordering::Relaxed);
            async move { Ok(is_open) }
        })
        .redrive(Class::MissingRight, move |found| {
            own.store(true, Ordering::Relaxed);
            clock.advance(Duration::from_secs(120));
            all.lock().unwrap().push(found.key);
            async { Ok(()) }
        });
    let report = runs(&ground, &books).await;
    let again = again.lock().unwrap().clone();
    assert!(!again.is_empty() && again.iter().all(|key| *key == 1), "{again:?}: {report}");
}

/// Z14
pub(super) async fn what_settles_in_no_run_is_told<S: Subject>(subject: &S) {
    let ground = Ground::open(subject).await;
    // One is wrong by ten, and booked on at each look; one is wrong, and written at each look.
    let (n, changed) = (Arc::new(AtomicI64::new(0)), Arc::new(Mutex::new(now(&ground).await)));
    let (own, is_right) = (n.clone(), Arc::new(AtomicBool::new(false)));
    let at = changed.clone();
    let left = move || {
        let n = own.fetch_add(1, Ordering::Relaxed) + 1;
        vec![Entry::new(1, n), Entry::new(2, 500).changed_at(*at.lock().unwrap())]
    };
    let right_now = is_right.clone();
    let right = move || {
        let n = n.load(Ordering::Relaxed);
        if right_now.load(Ordering::Relaxed) {
            rows(&[(1, n), (2, 500)])
        } else {
            rows(&[(1, n - 10), (2, 400)])
        }
    };
    let books = of(&ground, left, right);
    let mut report = runs(&ground, &books).await;
    let keys = |report: &Report| report.first.iter().map(|of| of.key.clone()).collect::<Vec<_>>();
    for _ in 0..9 {
        assert_eq!(report.pending + report.of(Class::Unsettled), 2, "{report}");
        ground.seconds(3_600);
        *changed.lock().unwrap() = now(&ground).await;
        report = runs(&ground, &books).await;
    }
    assert!(!report.is_clean() && keys(&report).len() == 2, "{report}");
    assert_eq!(report.of(Class::Unsettled), 2, "{report}");
    is_right.store(true, Ordering::Relaxed);
    let report = runs(&ground, &books).await;
    assert!(report.is_clean() && report.pending == 0, "{report}");
}

/// Z15
pub(super) async fn what_is_the_same_is_known_by_its_value<S: Subject>(subject: &S) {
    let ground = Ground::open(subject).await;
    // The text of a map is in another order each time.
    let map = |more: i64| (0..8).map(|n| (n, i64::from(n) + more)).collect::<HashMap<u8, i64>>();
    let side = move |more| move || stream::iter([Ok::<_, BoxError>((1_u32, map(more)))]);
    let books = Reconciliation::between("maps", ground.backend.clone(), side(0), side(1)).unwrap();
    let report = runs(&ground, &books.looks_again_after(Duration::ZERO)).await;
    assert_eq!((report.of(Class::Mismatch), report.pending), (1, 0), "{report}");
}

/// Z16
pub(super) async fn a_key_that_is_there_twice_is_all_that_is_there_of_it<S: Subject>(subject: &S) {
    let ground = Ground::open(subject).await;
    let twice = |all: &'static [(u32, i64)]| of(&ground, move || rows(all), || rows(&[(2, 1)]));
    let books = twice(&[(2, 1), (2, 5)]);
    let report = runs(&ground, &books).await;
    assert_eq!(report.of(Class::Duplicate), 1, "{report}");
    ground.ask(async || books.accept(&report.first[0], "ada", "it was charged twice").await).await;
    for same in [&[(2, 1), (2, 5)], &[(2, 5), (2, 1)]] {
        let report = runs(&ground, &twice(same)).await;
        assert_eq!((report.of(Class::Duplicate), report.accepted), (0, 1), "{report}");
    }
    for another in [&[(2, 1), (2, 5), (2, 5)][..], &[(2, 1), (2, 9)], &[(2, 1), (2, 1)]] {
        let report = runs(&ground, &twice(another)).await;
        assert_eq!((report.of(Class::Duplicate), report.accepted), (1, 0), "{another:?}: {report}");
    }
    // In which order they come is all one, and one that is young is pending.
    let looks = AtomicUsize::new(0);
    let turns = move || match looks.fetch_add(1, Ordering::Relaxed) % 2 {
        0 => rows(&[(2, 500), (2, 700)]),
        _ => rows(&[(2, 700), (2, 500)]),
    };
    let report = runs(&ground, &of(&ground, turns, || rows(&[(2, 1)]))).await;
    assert_eq!((report.of(Class::Duplicate), report.pending), (1, 0), "{report}");
    let at = now(&ground).await;
    let young = move || vec![Entry::new(2, 1), Entry::new(2, 1).changed_at(at)];
    let report = runs(&ground, &of(&ground, young, || rows(&[(2, 1)]))).await;
    assert_eq!((report.of(Class::Duplicate), report.pending), (0, 1), "{report}");
}

/// Z17
pub(super) async fn an_older_run_takes_the_place_of_no_later_one<S: Subject>(subject: &S) {
    let ground = Ground::open(subject).await;
    // The older one reads the key, and stands still; the key breaks, and the later one finds that.
    let ((begun, begins), (goes, waits)) = (watch::channel(false), watch::channel(false));
    let slow = move || {
        let (begun, mut waits) = (begun.clone(), waits.clone());
        stream::once(async move {
            begun.send_replace(true);
            waits.wait_for(|goes| *goes).await?;
            Ok::<_, BoxError>((1_u32, 5_i64))
        })
    };
    let right = || stream::iter([Ok::<_, BoxError>((1_u32, 5_i64))]);
    let older = Reconciliation::between("books", ground.backend.clone(), slow, right).unwrap();
    let later = of(&ground, || rows(&[(1, 5)]), || rows(&[(1, 4)]));
    let mut begins = begins;
    let (old, new) = futures::future::join(runs(&ground, &older), async {
        begins.wait_for(|begun| *begun).await.unwrap();
        ground.seconds(300);
        let new = runs(&ground, &later).await;
        goes.send_replace(true);
        new
    })
    .await;
    assert!(old.is_clean() && !new.is_clean(), "{old}; {new}");
    let last = ground.ask(async || later.last().await).await;
    // Over a store that fails the older one may have begun anew.
    let expected = if old.began > new.began { old } else { new };
    assert_eq!(last, Some(expected));
}

/// Z18
pub(super) async fn what_is_too_much_to_be_right_is_not_done_again<S: Subject>(subject: &S) {
    let ground = Ground::open(subject).await;
    let again = Arc::new(AtomicUsize::new(0));
    let own = again.clone();
    let all: Vec<(u32, i64)> = (0..101).map(|key| (key, 1)).collect();
    let books = of(&ground, move || rows(&all), Rows::new).redrive(Class::MissingRight, move |_| {
        own.fetch_add(1, Ordering::Relaxed);
        async { Ok(()) }
    });
    let report = runs(&ground, &books).await;
    assert_eq!(again.load(Ordering::Relaxed), 0);
    assert_eq!((report.of(Class::MissingRight), report.redriven, report.failed), (101, 0, 101), "{report}");
    let why = report.first[0].redriven.clone();
    assert!(matches!(&why, Some(Redriven::Failed(why)) if why.contains("too many to be right")), "{why:?}");
    let report = runs(&ground, &books.redrive_at_most(101)).await;
    assert_eq!((report.redriven, report.failed), (101, 0), "{report}");
    assert!(again.load(Ordering::Relaxed) >= 101);
}

/// A side that counts how many are open.
fn counted(
    open: &Arc<AtomicUsize>,
    all: &'static [(u32, i64)],
) -> impl Fn() -> std::pin::Pin<Box<dyn Stream<Item = Result<(u32, i64), BoxError>> + Send>> + Send + Sync + use<>
{
    struct Open(Arc<AtomicUsize>);
    impl Drop for Open {
        fn drop(&mut self) {
            self.0.fetch_sub(1, Ordering::Relaxed);
        }
    }
    let open = open.clone();
    move || {
        open.fetch_add(1, Ordering::Relaxed);
        let held = Open(open.clone());
        stream::iter(all)
            .map(move |of| {
                let _ = &held;
                Ok(*of)
            })
            .boxed()
    }
}

/// Z19
pub(super) async fn no_side_is_open_while_something_is_done_again<S: Subject>(subject: &S) {
    let ground = Ground::open(subject).await;
    let (open, seen) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(Vec::new())));
    let (left, right) = (counted(&open, &[(1, 1), (2, 1), (3, 1)]), counted(&open, &[(3, 1)]));
    let books = Reconciliation::between("books", ground.backend.clone(), left, right).unwrap();
    let (own, all) = (open.clone(), seen.clone());
    let books = books.looks_again_after(Duration::ZERO).redrive(Class::MissingRight, move |_| {
        all.lock().unwrap().push(own.load(Ordering::Relaxed));
        async { Ok(()) }
    });
    runs(&ground, &books).await;
    let seen = seen.lock().unwrap().clone();
    assert!(seen.len() >= 2 && seen.iter().all(|open| *open == 0), "{seen:?}");
}

/// Z22
pub(super) async fn what_fails_for_one_key_keeps_no_other_from_being_done<S: Subject>(subject: &S) {
    let ground = Ground::open(subject).await;
    // Nobody answers the second time that it is asked about the last key.
    let asked = Arc::new(AtomicUsize::new(0));
    let books = || of(&ground, || rows(&[(1, 1), (2, 1), (3, 1)]), Rows::new);
    let silent = books()
        .pending_if(move |key| {
            let is_even = key == 3 && asked.fetch_add(1, Ordering::Relaxed) % 2 == 1;
            async move { if is_even { Err("it is away".into()) } else { Ok(false) } }
        })
        .redrive(Class::MissingRight, |_| async { Ok(()) });
    let report = runs(&ground, &silent).await;
    assert_eq!((report.of(Class::MissingRight), report.redriven, report.failed), (3, 2, 1), "{report}");
    let why =
        |report: &Report, key: &str| report.first.iter().find(|of| of.key == key).unwrap().redriven.clone();
    let unsaid = "whether it is pending was not said: it is away";
    assert_eq!(why(&report, "3"), Some(Redriven::Failed(unsaid.to_owned())));
    assert_eq!(ground.ask(async || silent.last().await).await, Some(report));
    // Whoever answers panics for one, and the action for another.
    let panics = books()
        .pending_if(|key| async move { if key == 2 { panic!("who is it") } else { Ok(false) } })
        .redrive(Class::MissingRight, |found| async move {
            if found.key == 1 { panic!("not again") } else { Ok(()) }
        });
    let report = runs(&ground, &panics).await;
    assert_eq!((report.of(Class::MissingRight), report.redriven, report.failed), (3, 1, 2), "{report}");
    for (key, panic) in [("1", "not again"), ("2", "who is it")] {
        let why = why(&report, key);
        assert!(matches!(&why, Some(Redriven::Failed(why)) if why.contains(panic)), "{why:?}");
    }
    // Nobody answers at all: the first ones are asked about.
    let all: Vec<(u32, i64)> = (0..30).map(|key| (key, 1)).collect();
    let last = Arc::new(Mutex::new(0));
    let own = last.clone();
    let away = of(&ground, move || rows(&all), Rows::new)
        .pending_if(move |key| {
            let mut last = own.lock().unwrap();
            *last = key.max(*last);
            async { Err("it is away".into()) }
        })
        .redrive(Class::MissingRight, |_| async { Ok(()) });
    let report = runs(&ground, &away).await;
    assert_eq!((report.redriven, report.failed, *last.lock().unwrap()), (0, 30, 9), "{report}");
}

/// Z20
pub(super) async fn what_was_accepted_is_listed_and_can_be_taken_back<S: Subject>(subject: &S) {
    let ground = Ground::open(subject).await;
    let books = of(&ground, || rows(&[(1, 5), (2, 7)]), || rows(&[(1, 4), (2, 6)]));
    for difference in &runs(&ground, &books).await.first {
        ground.ask(async || books.accept(difference, "ada", &format!("why {}", difference.key)).await).await;
    }
    let accepted = async || ground.ask(async || books.accepted().await).await;
    let mut all: Vec<_> = accepted().await.into_iter().map(|of| (of.key, of.actor, of.reason)).collect();
    all.sort();
    let of = |key: &str| (key.to_owned(), "ada".to_owned(), format!("why {key}"));
    assert_eq!(all, [of("1"), of("2")]);
    assert!(runs(&ground, &books).await.is_clean());
    // The answer to the first try may be lost.
    ground.ask(async || books.withdraw("1").await).await;
    assert!(!ground.ask(async || books.withdraw("1").await).await);
    assert_eq!(accepted().await.len(), 1);
    let report = runs(&ground, &books).await;
    assert_eq!((report.of(Class::Mismatch), report.accepted), (1, 1), "{report}");
}
