//! What commands come to when they are sent: answers that were lost, interceptors, outages of some. On memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use es_core::command::{Dispatch, Halted, Interceptor, NamedCommand, Next};
use es_core::memory::MemoryBackend;
use es_core::store::{Append, Commit, EventStore as _, ExpectedVersion, NewEvent, StreamId};
use es_core::testing::Log;
use es_core::{App, Event as _};
use sagas::{Instances, Life, Processes as _, Verb};
use tokio::sync::Semaphore;

use crate::rules::play::{Act, ByKey, Enter, StageEvent, began};

/// What happens to commands on their way.
#[derive(Clone, Debug)]
enum Mood {
    /// Each goes through, and fails after it.
    FailsAfter,
    /// Each goes through, and its sender never hears of it.
    HangsAfter,
    /// None goes through.
    SaysNo,
    /// They wait for a permit.
    Waits(Arc<Semaphore>),
    /// Those for this ledger never come back.
    Hangs(&'static str),
    /// The first panics.
    Panics,
    /// The first two fail before anything is done.
    FailsAtFirst,
    /// Each fails with an error that cannot be shown.
    Unspeakable,
    /// They are counted.
    Counts(Arc<AtomicUsize>),
}

#[derive(Clone, Debug)]
struct Guard(Mood, Arc<AtomicUsize>);

#[async_trait::async_trait]
impl Interceptor for Guard {
    async fn dispatch(&self, dispatch: &mut Dispatch, next: Next<'_>) -> Result<(), Halted> {
        let before = self.1.fetch_add(1, Ordering::Relaxed);
        match &self.0 {
            Mood::SaysNo => return Err(Halted::because("closed for maintenance")),
            Mood::Unspeakable => return Err(Halted::because(Unspeakable)),
            Mood::Waits(gate) => gate.acquire().await.unwrap().forget(),
            Mood::Hangs(ledger) if dispatch.stream().as_str().ends_with(ledger) => {
                std::future::pending::<()>().await;
            }
            Mood::Panics if before == 0 => panic!("it was to panic"),
            Mood::FailsAtFirst if before < 2 => return Err(Halted::because("nobody answers")),
            Mood::Counts(sent) => drop(sent.fetch_add(1, Ordering::Relaxed)),
            _ => {}
        }
        next.run(dispatch).await?;
        match &self.0 {
            Mood::FailsAfter => Err(Halted::because("the auditor has failed")),
            Mood::HangsAfter => std::future::pending().await,
            _ => Ok(()),
        }
    }
}

#[derive(Debug)]
struct Unspeakable;

impl std::fmt::Display for Unspeakable {
    fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        panic!("it cannot be said")
    }
}

impl std::error::Error for Unspeakable {}

async fn start(store: &MemoryBackend, mood: Mood) -> App {
    let app = App::on(store.clone()).process::<ByKey>().interceptor(Guard(mood, Arc::default()));
    app.command_timeout(Duration::from_secs(3_000)).start().await.unwrap()
}

async fn tell(store: &MemoryBackend, events: Vec<StageEvent>) {
    let new =
        |event: &StageEvent| NewEvent::new(uuid::Uuid::new_v4(), event.encode().unwrap(), Arc::default());
    let stream = StreamId::new("stage-main").unwrap();
    let append = Append { stream, expected: ExpectedVersion::Any, events: events.iter().map(new).collect() };
    store.commit(Commit { appends: vec![append], ..Commit::default() }).await.unwrap();
}

fn enter(what: &str) -> Act {
    Act::Enter("book".to_owned(), what.to_owned())
}

/// Until it has come to that; what is entered in `book`.
async fn until(store: &MemoryBackend, key: &str, what: impl Fn(&sagas::InstanceStatus) -> bool) -> usize {
    let instances = Instances::of::<ByKey>(store.clone()).unwrap();
    let mut last = None;
    for _ in 0..20_000 {
        last = instances.get(key).await.unwrap();
        if last.as_ref().is_some_and(&what) {
            let book = StreamId::new("ledger-book").unwrap();
            return store.stream(&book, es_core::Version(0), 1_000).await.unwrap().len();
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("it never came to that: {last:?}");
}

fn took(instance: &sagas::InstanceStatus) -> String {
    instance.state.as_ref().map(|state| state.text().to_owned()).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn an_interceptor_that_fails_after_a_command_does_not_make_it_a_refusal() {
    let store = MemoryBackend::new();
    let app = start(&store, Mood::FailsAfter).await;
    tell(&store, vec![began("a", "begun", vec![enter("1"), enter("2")])]).await;
    let entered = until(&store, "a", |a| a.inputs > 0 && a.open_commands == 0).await;
    assert_eq!(entered, 2);
    until(&store, "a", |a| !took(a).contains("refused")).await;
    app.shutdown(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn what_a_command_came_to_stands_though_an_interceptor_says_no_by_now() {
    let store = MemoryBackend::new();
    let app = start(&store, Mood::HangsAfter).await;
    tell(&store, vec![began("a", "begun", vec![enter("1")])]).await;
    let entered = || async { until(&store, "a", |_| true).await };
    while entered().await == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    app.shutdown(Duration::ZERO).await;
    let app = start(&store, Mood::SaysNo).await;
    let entered = until(&store, "a", |a| a.open_commands == 0).await;
    assert_eq!(entered, 1);
    until(&store, "a", |a| !took(a).contains("refused")).await;
    // One that did not act is refused.
    tell(&store, vec![began("b", "begun", vec![enter("2")])]).await;
    until(&store, "b", |b| took(b).contains("refused 2")).await;
    app.shutdown(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn an_interceptor_that_is_away_for_a_moment_is_no_refusal() {
    let store = MemoryBackend::new();
    let app = start(&store, Mood::FailsAtFirst).await;
    tell(&store, vec![began("a", "begun", vec![enter("1")])]).await;
    assert_eq!(until(&store, "a", |a| a.inputs > 0 && a.open_commands == 0).await, 1);
    until(&store, "a", |a| !took(a).contains("refused")).await;
    app.shutdown(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_command_that_meets_what_only_a_newer_program_knows_waits_for_it() {
    let (store, sent) = (MemoryBackend::new(), Arc::new(AtomicUsize::new(0)));
    let mut later = began("x", "x", Vec::new()).encode().unwrap();
    later.name = "ledger.sealed".into();
    let (new, stream) =
        (NewEvent::new(uuid::Uuid::new_v4(), later, Arc::default()), StreamId::new("ledger-book").unwrap());
    let append = Append { stream, expected: ExpectedVersion::Any, events: vec![new] };
    store.commit(Commit { appends: vec![append], ..Commit::default() }).await.unwrap();
    let app = start(&store, Mood::Counts(sent.clone())).await;
    tell(&store, vec![began("a", "begun", vec![enter("1")])]).await;
    while sent.load(Ordering::Relaxed) < 10 {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    until(&store, "a", |a| a.open_commands == 1 && !matches!(a.life, Life::Parked { .. })).await;
    app.shutdown(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_command_that_acted_in_the_words_of_another_program_is_answered() {
    let (store, gate) = (MemoryBackend::new(), Arc::new(Semaphore::new(0)));
    let app = start(&store, Mood::Waits(gate.clone())).await;
    tell(&store, vec![began("a", "begun", vec![enter("1")])]).await;
    until(&store, "a", |a| a.open_commands == 1).await;
    let id = Instances::of::<ByKey>(store.clone()).unwrap().get("a").await.unwrap().unwrap().id;
    // What a program of before has sent under its key; this one would write a field more.
    let other = App::on(store.clone()).command::<Enter>().start().await.unwrap();
    let sent = Enter { what: "1".to_owned(), refuse: false, asked: Some("nobody".to_owned()) };
    let command = NamedCommand::of(&"book".to_owned(), &sent).unwrap();
    other.sender().send_named(command).idempotency_key(format!("process/{id}/1/0")).await.unwrap();
    gate.add_permits(1_000);
    let entered = until(&store, "a", |a| a.open_commands == 0).await;
    assert_eq!(entered, 1);
    until(&store, "a", |a| a.life == Life::Running && !took(a).contains("refused")).await;
    app.shutdown(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_command_that_is_stuck_is_in_the_way_of_no_other_instance() {
    let store = MemoryBackend::new();
    let app = App::on(store.clone()).process::<ByKey>().start().await.unwrap();
    app.shutdown(Duration::from_secs(10)).await;
    // Of all keys, the one whose commands are read first.
    let keys: Vec<String> = (0..50).map(|n| format!("k{n}")).collect();
    let slice = |key: &&String| es_core::processor::slice_of(key);
    let (first, last) = (keys.iter().min_by_key(slice).unwrap(), keys.iter().max_by_key(slice).unwrap());
    let stuck = || began(first, "begun", vec![Act::Many(1_000)]);
    tell(&store, vec![stuck()]).await;
    let start = async || {
        let app = App::on(store.clone()).process::<ByKey>();
        let app = app.interceptor(Guard(Mood::Hangs("many"), Arc::default()));
        app.command_timeout(Duration::from_millis(20)).start().await.unwrap()
    };
    let app = start().await;
    until(&store, first, |a| a.open_commands == 1_000).await;
    app.shutdown(Duration::ZERO).await;
    let app = start().await;
    tell(&store, vec![began(last, "begun", vec![enter("1")])]).await;
    let entered = until(&store, last, |b| b.open_commands == 0).await;
    assert_eq!(entered, 1);
    app.shutdown(Duration::ZERO).await;
    // And what is stuck goes on, once it can.
    let app = App::on(store.clone()).process::<ByKey>().start().await.unwrap();
    until(&store, first, |a| a.open_commands == 0).await;
    app.shutdown(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_stuck_command_lets_those_behind_it_go_once_it_is_answered() {
    let (store, gate) = (MemoryBackend::new(), Arc::new(Semaphore::new(0)));
    let app = App::on(store.clone()).process::<ByKey>();
    let app = app.interceptor(Guard(Mood::Waits(gate.clone()), Arc::default()));
    let app = app.command_timeout(Duration::from_millis(20)).start().await.unwrap();
    tell(&store, vec![began("a", "begun", vec![enter("1"), enter("2"), enter("3")])]).await;
    // It was in vain often enough to be noted.
    tokio::time::sleep(Duration::from_secs(30)).await;
    gate.add_permits(1_000);
    let entered = until(&store, "a", |a| a.open_commands == 0).await;
    assert_eq!(entered, 3);
    app.shutdown(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_on_the_way_loses_no_command() {
    let store = MemoryBackend::new();
    let app = start(&store, Mood::Panics).await;
    tell(&store, vec![began("a", "begun", vec![enter("1"), enter("2")])]).await;
    let entered = until(&store, "a", |a| a.inputs > 0 && a.open_commands == 0).await;
    assert_eq!(entered, 2);
    app.shutdown(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn an_error_that_cannot_be_shown_does_not_stop_its_instance_for_ever() {
    let store = MemoryBackend::new();
    let app = start(&store, Mood::Unspeakable).await;
    tell(&store, vec![began("a", "begun", vec![enter("1"), enter("2")])]).await;
    until(&store, "a", |a| matches!(&a.life, Life::Parked { error, .. } if error.contains("panic"))).await;
    app.shutdown(Duration::ZERO).await;
    // An operator has it sent again, once it can be.
    let app = start(&store, Mood::Counts(Arc::default())).await;
    let instances = Instances::of::<ByKey>(store.clone()).unwrap();
    drop(instances.ask("a", Verb::Retry, "ada", "it can be said now").await.unwrap());
    assert_eq!(until(&store, "a", |a| a.life == Life::Running && a.open_commands == 0).await, 2);
    app.shutdown(Duration::ZERO).await;
}

/// Every command for `post` hangs: one of each of so many instances, of so many bytes.
async fn many_hang(store: &MemoryBackend, n: usize, bytes: usize) -> App {
    let app = App::on(store.clone()).process::<ByKey>();
    let app = app.interceptor(Guard(Mood::Hangs("post"), Arc::default())).start().await.unwrap();
    let post = |n: usize| began(&format!("k{n}"), "begun", vec![Act::Post(1, bytes)]);
    for chunk in (0..n).collect::<Vec<_>>().chunks(500) {
        tell(store, chunk.iter().map(|n| post(*n)).collect()).await;
    }
    app
}

#[tokio::test(start_paused = true)]
async fn a_partner_that_hangs_holds_up_no_command_for_another() {
    let store = MemoryBackend::new();
    let app = many_hang(&store, 500, 1).await;
    let enters = async |key: &str| {
        let begun = tokio::time::Instant::now();
        tell(&store, vec![began(key, "begun", vec![enter(key)])]).await;
        until(&store, key, |a| a.inputs > 0 && a.open_commands == 0).await;
        assert!(begun.elapsed() < Duration::from_secs(40), "{key} took {:?}", begun.elapsed());
    };
    until(&store, "k499", |a| a.open_commands == 1).await;
    enters("at first").await;
    // They are known to be stuck.
    tokio::time::sleep(Duration::from_secs(3_000)).await;
    enters("later").await;
    app.shutdown(Duration::ZERO).await;
}

#[tokio::test(start_paused = true)]
async fn a_command_that_becomes_stuck_is_a_warning_once() {
    let (log, _guard) = Log::catch();
    let store = MemoryBackend::new();
    let app = many_hang(&store, 3, 1).await;
    until(&store, "k2", |a| a.open_commands == 1).await;
    tokio::time::sleep(Duration::from_secs(10_000)).await;
    let said: Vec<String> = log.take().into_iter().filter(|text| text.contains("a command is")).collect();
    assert_eq!(said.len(), 3, "{said:#?}");
    assert!(said.iter().all(|text| text.contains("process=\"by_key\"")), "{said:#?}");
    app.shutdown(Duration::ZERO).await;
}
