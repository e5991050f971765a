//! Reactors that act on several streams at the same time: P1, P3, P10, P14, P15, P26, K1.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;

use super::domain::Deposited;
use super::double::{Double, Line};
use super::patient::ask;
use super::payments::{World, discard, eventually, parked_keys, payment, retry, rows};
use super::{LIMIT, Subject, settle, start};
use crate::processor::{NotTheEvent, ParkedFilter, ProcessorError, ProcessorOptions};
use crate::projection::Partition;
use crate::services::{Scope, Services};
use crate::slices::Slices;
use crate::store::{Backend, EventFilter, Position, RecordedEvent};
use crate::testing::TestClock;
use crate::{App, AppBuilder, BoxError, ErrorKind, Reactor};

/// Short, so that a node which has gone is soon known to be.
const LEASE: Duration = Duration::from_millis(400);
/// How many calls are in flight at most.
pub(super) const N: usize = 4;
/// How many events a batch has at most.
const BATCH: usize = 8 * N;
pub(super) const ACCOUNTS: usize = 12;

/// Calls that wait until they may end. Clones share them, on whichever node they are made.
#[derive(Clone, Debug)]
pub(super) struct Posts<const IN_FLIGHT: usize = N> {
    may: Arc<Semaphore>,
    calls: Arc<Mutex<Calls>>,
}

/// What the calls have come to.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// How many are in flight, by stream.
    now: BTreeMap<String, usize>,
    /// How many were in flight at most.
    most: usize,
    /// How often two of one stream were.
    pub(super) overlaps: usize,
    begun: Vec<Position>,
    pub(super) acted: Vec<(String, Position)>,
    /// The calls of these streams fail, and how often they did.
    pub(super) failing: BTreeMap<String, usize>,
    /// The receivers of these cannot be reached; how often that was tried.
    away: BTreeMap<String, usize>,
    /// How long that takes.
    away_for: Duration,
}

impl Calls {
    pub(super) fn in_flight(&self) -> usize {
        self.now.values().sum()
    }

    /// For which events it has acted, of each stream in order.
    fn by_stream(&self) -> BTreeMap<&str, Vec<Position>> {
        let mut streams = BTreeMap::<&str, Vec<Position>>::new();
        self.acted.iter().for_each(|(stream, position)| streams.entry(stream).or_default().push(*position));
        streams
    }

    /// It has acted for so many events of each account in order, once for each; or again, after a crash.
    pub(super) fn assert_complete(&self, n: usize, once: bool) {
        assert_eq!(self.overlaps, 0, "two calls of one stream were in flight");
        let mut streams = self.by_stream();
        assert_eq!(streams.len(), ACCOUNTS, "{streams:?}");
        for (stream, acted) in &mut streams {
            if !once {
                acted.dedup();
            }
            assert!(acted.len() == n && acted.is_sorted_by(|a, b| a < b), "{stream}: {acted:?}");
        }
    }

    /// How many calls were made again for what had been done.
    pub(super) fn repeats(&self) -> usize {
        self.acted.len() - self.acted.iter().collect::<BTreeSet<_>>().len()
    }
}

impl<const IN_FLIGHT: usize> Posts<IN_FLIGHT> {
    /// Calls of which so many may end.
    pub(super) fn new(may: usize) -> Self {
        Self { may: Arc::new(Semaphore::new(may)), calls: Arc::default() }
    }

    pub(super) fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn open(&self) {
        self.may.add_permits(100_000);
    }

    /// No more calls may end.
    pub(super) fn close(&self) {
        self.may.forget_permits(usize::MAX);
    }

    /// So many more calls may end.
    pub(super) fn allow(&self, calls: usize) {
        self.may.add_permits(calls);
    }

    pub(super) fn wiring<B: Backend + Clone>(&self, backend: &B) -> AppBuilder<B> {
        let retries = (Duration::from_millis(1), Duration::from_millis(5));
        App::on(backend.clone()).reactor(self.clone()).processor_retries(2, retries.0, retries.1)
    }

    pub(super) async fn until(&self, what: impl Fn(&Calls) -> bool) {
        eventually(async || {
            let calls = self.calls();
            if what(&calls) { Ok(()) } else { Err(format!("{calls:?}")) }
        })
        .await;
    }
}

/// A call, also one that is given up.
struct InFlight<'c>(&'c Mutex<Calls>, String);

impl<'c> InFlight<'c> {
    fn begin(calls: &'c Mutex<Calls>, event: &RecordedEvent) -> Self {
        let (mut now, stream) =
            (calls.lock().unwrap_or_else(PoisonError::into_inner), event.stream.to_string());
        let of_stream = now.now.entry(stream.clone()).or_default();
        *of_stream += 1;
        now.overlaps += usize::from(*of_stream > 1);
        now.most = now.most.max(now.in_flight());
        now.begun.push(event.place());
        drop(now);
        Self(calls, stream)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let mut calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *calls.now.get_mut(&self.1).expect("it has begun") -= 1;
    }
}

impl<const IN_FLIGHT: usize> Reactor for Posts<IN_FLIGHT> {
    const NAME: &'static str = "posts";
    const PARTITION: Partition = if IN_FLIGHT > 1 { Partition::Stream } else { Partition::Whole };
    const IN_FLIGHT: usize = IN_FLIGHT;
    fn filter() -> EventFilter {
        EventFilter::of::<Deposited>()
    }
    async fn react(&self, event: &RecordedEvent, _: Scope<'_>) -> Result<(), BoxError> {
        let in_flight = InFlight::begin(&self.calls, event);
        self.may.acquire().await?.forget();
        let away_for = {
            let mut calls = self.calls();
            if let Some(failed) = calls.failing.get_mut(&in_flight.1) {
                *failed += 1;
                return Err("the mailbox is full".into());
            }
            let Some(tried) = calls.away.get_mut(&in_flight.1) else {
                calls.acted.push((in_flight.1.clone(), event.place()));
                return Ok(());
            };
            *tried += 1;
            calls.away_for
        };
        tokio::time::sleep(away_for).await;
        Err(NotTheEvent::new("the receiver", "it is away").into())
    }
    fn missing(_: &Services) -> Vec<String> {
        Vec::new()
    }
}

/// Lets a reactor begin before the payments, so that its first batch has many of them.
async fn activate<S: Subject>(world: &World<S>, posts: &Posts<N>) {
    assert!(start(|| posts.wiring(&world.store.0)).await.shutdown(LIMIT).await);
}

/// The payments from one amount to another, into each account one after the other.
pub(super) async fn rounds<S: Subject>(world: &World<S>, amounts: std::ops::RangeInclusive<i64>) {
    for n in amounts {
        for account in 0..ACCOUNTS {
            world.put(&account.to_string(), vec![payment(n)]).await;
        }
    }
}

/// What an app answers that is asked to forget the reactor, once it can.
async fn forgets(app: &App) -> Result<bool, ProcessorError> {
    loop {
        match app.forget_processor("posts").await {
            Err(error) if error.kind() == ErrorKind::Transient => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            answer => return answer,
        }
    }
}

/// P10
pub async fn a_reactor_that_nobody_runs_is_forgotten<S: Subject>(subject: S) {
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    posts.open();
    posts.calls().failing = BTreeMap::from([("account-1".to_owned(), 0)]);
    let app = start(|| posts.wiring(&world.store.0).lease(LEASE)).await;
    rounds(&world, 1..=2).await;
    settle(&app).await;
    assert_eq!(parked_keys(&app.processors()[0]).await, [("account-1".to_owned(), 2)]);
    let other = start(|| App::on(world.store.0.clone())).await;
    let run = forgets(&other).await.expect_err("a live node runs it");
    assert!(matches!(run, ProcessorError::RunBy { .. }), "{run}");
    assert!(app.shutdown(LIMIT).await);
    // Asked again after an error, it may have gone.
    let _had_place = forgets(&other).await.expect("nobody runs it");
    assert!(!forgets(&other).await.expect("it has gone"));
    for table in ["posts~1/parked", "posts~1/parked/events"] {
        assert_eq!(rows(&world.store, table).await, []);
    }
    let left = rows(&world.store, "checkpoints").await;
    assert!(!left.is_empty() && left.iter().all(|(_, row)| row.get("last").is_none()), "{left:?}");
    // Whoever runs it again begins at the head.
    rounds(&world, 3..=3).await;
    posts.calls().failing.clear();
    let before = posts.calls().acted.len();
    let app = start(|| posts.wiring(&world.store.0).lease(LEASE)).await;
    rounds(&world, 4..=4).await;
    settle(&app).await;
    assert_eq!(posts.calls().acted.len() - before, ACCOUNTS);
    assert_eq!(parked_keys(&app.processors()[0]).await, []);
    let version = other.forget_processor("balance/1").await.expect_err("it is none");
    assert!(matches!(version, ProcessorError::NotRebuildable { .. }), "{version}");
}

/// P10
pub async fn a_reactor_that_was_forgotten_while_nobody_saw_its_node_begins_again<S: Subject>(subject: S) {
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    posts.open();
    let line = Double::new(subject.again(&world.store.0).await);
    let app = start(|| posts.wiring(&line).lease(LEASE)).await;
    rounds(&world, 1..=1).await;
    settle(&app).await;
    let other = start(|| App::on(world.store.0.clone())).await;
    line.set(Line::HoldsCommits("nodes"));
    eventually(async || match forgets(&other).await {
        Ok(_) => Ok(()),
        Err(error) => Err(error.to_string()),
    })
    .await;
    let before = posts.calls().acted.len();
    line.set(Line::Up);
    let mut n = 1;
    eventually(|| {
        n += 1;
        let world = &world;
        let posts = &posts;
        async move {
            world.pay("0", n..=n).await;
            if posts.calls().acted.len() > before { Ok(()) } else { Err("nobody acts".to_owned()) }
        }
    })
    .await;
}

/// P15
pub async fn streams_are_acted_on_at_the_same_time_and_each_in_order<S: Subject>(subject: S) {
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    activate(&world, &posts).await;
    rounds(&world, 1..=3).await;
    let app = start(|| posts.wiring(&world.store.0)).await;
    posts.until(|calls| calls.in_flight() == N).await;
    posts.open();
    settle(&app).await;
    posts.calls().assert_complete(3, true);
    assert_eq!(posts.calls().most, N, "neither more nor fewer");
    // One stream alone has one call in flight.
    posts.calls().most = 0;
    world.pay("0", 4..=40).await;
    settle(&app).await;
    let calls = posts.calls();
    assert_eq!((calls.most, calls.repeats()), (1, 0));
}

/// P3, P15
pub async fn nodes_share_the_streams_of_a_reactor_and_keep_their_order<S: Subject>(subject: S) {
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    let other = subject.again(&world.store.0).await;
    activate(&world, &posts).await;
    rounds(&world, 1..=3).await;
    let first = start(|| posts.wiring(&world.store.0)).await;
    posts.until(|calls| calls.in_flight() == N).await;
    // In the middle of a batch another node comes for its share.
    let second = start(|| posts.wiring(&other)).await;
    posts.open();
    eventually(async || {
        let rows = rows(&world.store, "checkpoints").await;
        let owners: BTreeSet<_> = rows.iter().filter_map(|(_, row)| row["owner"].as_str()).collect();
        if owners.len() == 2 { Ok(()) } else { Err(format!("{rows:?}")) }
    })
    .await;
    rounds(&world, 4..=9).await;
    settle(&first).await;
    settle(&second).await;
    posts.calls().assert_complete(9, false);
    assert!(posts.calls().most <= 2 * N);
    // What the other node has begun is waited for; then the rest is this one's.
    assert!(first.shutdown(LIMIT).await);
    rounds(&world, 10..=10).await;
    settle(&second).await;
    posts.calls().assert_complete(10, false);
}

/// K1
pub async fn a_call_that_fails_parks_its_stream_and_repeats_no_other<S: Subject>(subject: S) {
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    activate(&world, &posts).await;
    rounds(&world, 1..=1).await;
    let app = start(|| posts.wiring(&world.store.0)).await;
    posts.until(|calls| calls.in_flight() == N).await;
    let failing = ["account-1", "account-2", "account-7"];
    posts.calls().failing = failing.iter().map(|stream| ((*stream).to_owned(), 0)).collect();
    posts.open();
    rounds(&world, 2..=5).await;
    settle(&app).await;
    let processor = &app.processors()[0];
    assert_eq!(parked_keys(processor).await, failing.map(|stream| (stream.to_owned(), 5)));
    {
        let mut calls = posts.calls();
        assert_eq!((calls.by_stream().len(), calls.acted.len(), calls.repeats()), (9, 9 * 5, 0));
        assert!(calls.failing.values().all(|failed| *failed >= 3), "it was tried again: {:?}", calls.failing);
        calls.failing.clear();
    }
    for stream in failing {
        assert_eq!(retry(processor, stream).await, None);
    }
    rounds(&world, 6..=6).await;
    settle(&app).await;
    posts.calls().assert_complete(6, true);
}

/// K11
pub async fn a_receiver_that_is_away_holds_no_retry_of_others_up<S: Subject>(subject: S) {
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    posts.open();
    let failing = ["account-0", "account-1", "account-2", "account-7"];
    posts.calls().failing = failing.iter().map(|stream| ((*stream).to_owned(), 0)).collect();
    activate(&world, &posts).await;
    rounds(&world, 1..=2).await;
    let app = start(|| posts.wiring(&world.store.0)).await;
    settle(&app).await;
    let processor = &app.processors()[0];
    assert_eq!(parked_keys(processor).await, failing.map(|stream| (stream.to_owned(), 2)));
    {
        let mut calls = posts.calls();
        calls.failing.clear();
        calls.away = failing[..2].iter().map(|stream| ((*stream).to_owned(), 0)).collect();
    }
    let waiting = async { futures::join!(retry(processor, failing[0]), retry(processor, failing[1])) };
    let others = async {
        posts.until(|calls| calls.away.values().all(|tried| *tried > 0)).await;
        for stream in &failing[2..] {
            assert_eq!(retry(processor, stream).await, None);
        }
        let left = parked_keys(processor).await;
        assert_eq!(left, [(failing[0].to_owned(), 2), (failing[1].to_owned(), 2)]);
        // Once they are back, that is done as well.
        posts.calls().away.clear();
    };
    let (waited, ()) = futures::join!(waiting, others);
    assert_eq!(waited, (None, None));
    posts.calls().assert_complete(2, true);
}

/// K2, K11
pub async fn a_retry_that_waits_is_not_in_the_way_of_a_discard<S: Subject>(subject: S) {
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    posts.open();
    let streams = ["account-0", "account-1"];
    posts.calls().failing = streams.iter().map(|stream| ((*stream).to_owned(), 0)).collect();
    activate(&world, &posts).await;
    rounds(&world, 1..=1).await;
    let app = start(|| posts.wiring(&world.store.0)).await;
    settle(&app).await;
    let processor = &app.processors()[0];
    {
        let mut calls = posts.calls();
        calls.failing.clear();
        calls.away = streams.iter().map(|stream| ((*stream).to_owned(), 0)).collect();
    }
    let waiting = async |stream: &str| {
        let mut again = false;
        loop {
            match processor.retry(stream, LIMIT).await {
                Err(ProcessorError::Discarded { key, .. }) => return assert_eq!(key, stream),
                // A store that does not answer has it asked for again.
                Err(ProcessorError::NotParked { .. }) if again => return,
                Err(ProcessorError::Asked { .. }) if again => {}
                Err(error) if error.kind() == ErrorKind::Transient => again = true,
                other => panic!("it was discarded: {other:?}"),
            }
        }
    };
    let discarding = async {
        posts.until(|calls| calls.away.values().all(|tried| *tried > 0)).await;
        discard(processor, streams[0], "its receiver has gone for good").await;
        let all = ParkedFilter::default();
        ask(|| processor.discard_all(&all, "the others as well", LIMIT)).await;
        assert_eq!(parked_keys(processor).await, []);
    };
    futures::join!(waiting(streams[0]), waiting(streams[1]), discarding);
}

/// P1
pub async fn a_batch_of_calls_is_one_commit<S: Subject>(subject: S) {
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    let line = Double::new(world.store.0.clone());
    activate(&world, &posts).await;
    rounds(&world, 1..=20).await;
    let app = start(|| posts.wiring(&line)).await;
    posts.until(|calls| calls.in_flight() == N).await;
    let before = line.commits("checkpoints").len();
    posts.open();
    settle(&app).await;
    posts.calls().assert_complete(20, true);
    let (events, commits) = (20 * ACCOUNTS, line.commits("checkpoints").len() - before);
    assert!(commits >= events / BATCH && commits <= events / 8, "{commits} commits for {events} events");
}

/// P14
pub async fn a_shutdown_waits_for_the_calls_in_flight_and_begins_none<S: Subject>(subject: S) {
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    activate(&world, &posts).await;
    rounds(&world, 1..=1).await;
    let app = start(|| posts.wiring(&world.store.0)).await;
    posts.until(|calls| calls.in_flight() == N).await;
    let mut closing = Box::pin(app.shutdown(LIMIT));
    assert!(futures::poll!(&mut closing).is_pending(), "calls are in flight");
    posts.may.add_permits(N);
    assert!(closing.await);
    let before: Vec<Position> = posts.calls().begun.clone();
    assert_eq!((before.len(), posts.calls().acted.len()), (N, N), "those that were in flight");
    posts.open();
    let next = start(|| posts.wiring(&world.store.0)).await;
    rounds(&world, 2..=2).await;
    settle(&next).await;
    posts.calls().assert_complete(2, false);
    let twice = posts.calls().repeats();
    assert!(twice <= N, "{twice}: no more than what the store may not have heard of");
}

/// K11
pub async fn new_events_have_as_much_time_as_retries_in_vain<S: Subject>(subject: S) {
    const NEW: usize = 40;
    let (world, posts) = (World::new(&subject).await, Posts::<1>::new(0));
    let short = Duration::from_millis(1);
    let options = ProcessorOptions::default().retries(0, short, short).page(1);
    let app = start(|| App::on(world.store.0.clone()).reactor(posts.clone()).processors(options)).await;
    let streams: Vec<String> = (0..10).map(|account| format!("account-{account}")).collect();
    let all = || streams.iter().map(|stream| (stream.clone(), 0)).collect();
    posts.calls().failing = all();
    posts.open();
    for account in 0..streams.len() {
        world.pay(&account.to_string(), 1..=1).await;
    }
    settle(&app).await;
    {
        let mut calls = posts.calls();
        calls.failing.clear();
        (calls.away, calls.away_for) = (all(), Duration::from_millis(300));
    }
    for stream in &streams {
        super::poisoned::ask(&app.processors()[0], stream).await;
    }
    let tried = |calls: &Calls| calls.away.values().sum::<usize>();
    posts.until(|calls| tried(calls) > 0).await;
    world.pay("new", 1..=NEW as i64).await;
    let before = tried(&posts.calls());
    posts.until(|calls| calls.acted.len() >= NEW).await;
    // One by one, each of the new events would wait for a retry.
    let in_vain = tried(&posts.calls()) - before;
    assert!(in_vain <= NEW / 2, "{in_vain} retries in vain for {NEW} new events");
}

/// P3
pub async fn no_call_begins_once_the_lease_may_have_run_out<S: Subject>(subject: S) {
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    let line = Double::new(world.store.0.clone());
    activate(&world, &posts).await;
    rounds(&world, 1..=2).await;
    let app = start(|| posts.wiring(&line).lease(LEASE)).await;
    posts.until(|calls| calls.in_flight() == N).await;
    line.set(Line::Down);
    // Whoever takes it over may do so from now on.
    tokio::time::sleep(LEASE * 2).await;
    posts.open();
    posts.until(|calls| calls.acted.len() >= N && calls.in_flight() == 0).await;
    assert_eq!(posts.calls().begun.len(), N);
    line.set(Line::Up);
    settle(&app).await;
    posts.calls().assert_complete(2, false);
}

/// P14
pub async fn a_crash_repeats_no_more_than_a_batch<S: Subject>(subject: S) {
    let (world, posts) = (World::new(&subject).await, Posts::<N>::new(0));
    let line = Double::new(subject.again(&world.store.0).await);
    activate(&world, &posts).await;
    rounds(&world, 1..=10).await;
    let first = start(|| posts.wiring(&line).lease(LEASE)).await;
    posts.until(|calls| calls.in_flight() == N).await;
    line.set(Line::Down);
    posts.may.add_permits(N);
    posts.until(|calls| calls.acted.len() == N).await;
    drop(first);
    let second = start(|| posts.wiring(&world.store.0).lease(LEASE)).await;
    posts.open();
    settle(&second).await;
    let calls = posts.calls();
    let all: BTreeSet<&(String, Position)> = calls.acted.iter().collect();
    assert_eq!(all.len(), 10 * ACCOUNTS);
    assert!(calls.repeats() <= BATCH, "{} of {BATCH}", calls.repeats());
}

/// P10
pub async fn a_checkpoint_that_cannot_be_written_repeats_no_call<S: Subject>(subject: S) {
    let (world, one, many) = (World::new(&subject).await, Posts::<1>::new(0), Posts::<N>::new(0));
    let line = Double::new(world.store.0.clone());
    let other = super::store(&subject).await;
    let further = Double::new(other.0.clone());
    let (by_one, by_many) = (start(|| one.wiring(&line)).await, start(|| many.wiring(&further)).await);
    rounds(&world, 1..=2).await;
    for account in 0..ACCOUNTS {
        other.put(&format!("account-{account}"), vec![payment(1), payment(2)]).await;
    }
    one.until(|calls| calls.in_flight() == 1).await;
    many.until(|calls| calls.in_flight() > 0).await;
    for line in [&line, &further] {
        line.set(Line::Refuses("checkpoints"));
    }
    one.open();
    many.open();
    one.until(|calls| !calls.acted.is_empty()).await;
    many.until(|calls| !calls.acted.is_empty()).await;
    for line in [&line, &further] {
        line.set(Line::Up);
    }
    settle(&by_one).await;
    settle(&by_many).await;
    one.calls().assert_complete(2, true);
    many.calls().assert_complete(2, true);
}

/// P26
pub async fn a_range_that_stands_still_is_ill_though_others_go_on<S: Subject>(subject: S) {
    let (world, posts) = (World::<S>::new(&subject).await, Posts::<N>::new(0));
    posts.open();
    let backends = [subject.again(&world.store.0).await, subject.again(&world.store.0).await];
    let (mut apps, clock) = (Vec::new(), TestClock::default());
    for backend in &backends {
        apps.push(start(|| posts.wiring(backend).lease(LEASE).clock(clock.clone())).await);
    }
    let ranges = |app: &App| app.processors()[0].status().ranges;
    eventually(async || match (&ranges(&apps[0])[..], &ranges(&apps[1])[..]) {
        ([low, high], [also_low, also_high])
            if low.owner.is_some()
                && high.owner.is_some()
                && low.owner != high.owner
                && (low.owner, high.owner) == (also_low.owner, also_high.owner) =>
        {
            Ok(())
        }
        other => Err(format!("{other:?}")),
    })
    .await;
    let [low, high] = &ranges(&apps[0])[..] else { panic!("each has half of them") };
    let account_in = |slices: Slices| {
        let mut accounts = (0..).map(|n: u32| n.to_string());
        accounts.find(|account| slices.has(&format!("account-{account}"))).expect("there are many")
    };
    let (stands, goes_on) = (account_in(low.slices), account_in(high.slices));
    {
        let mut calls = posts.calls();
        calls.away_for = LIMIT;
        calls.away.insert(format!("account-{stands}"), 0);
    }
    world.pay(&stands, 1..=1).await;
    let told = format!(": slices {} of node {}", low.slices, low.owner.expect("both have one"));
    let mut paid = 0;
    for app in &apps {
        let look = async |paid: i64| {
            clock.advance(Duration::from_millis(100));
            world.pay(&goes_on, paid..=paid).await;
            let health = app.health().await;
            match health.ill(&app.processors()[0].status(), Duration::from_secs(1)) {
                Some(why) if why.ends_with(&told) => Ok(()),
                other => Err(format!("{other:?}, and not {told}")),
            }
        };
        eventually(|| {
            paid += 1;
            look(paid)
        })
        .await;
    }
}
