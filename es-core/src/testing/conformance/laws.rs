//! Laws, over random histories: a store is compared with a model of a few lines.
//!
//! A history is made from a seed, so a failure names the seed that repeats it.

use std::collections::{BTreeMap, HashMap};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::data::{ANY, EXISTS, NO_STREAM, encoded, event, exact};
use super::domain::{Account, AccountEvent, Deposit, Donate, Split, Withdraw, deposited};
use super::generations::{paid, pay_with, tables};
use super::patient::Patient;
use super::{LIMIT, Subject, sent, store};
use crate::store::{
    Backend, Commit, Committed, EventId, ExpectedVersion, Generation, Position, RowStore, RowWrite, Version,
};
use crate::{App, Apply, CommandError, ErrorKind, Event};

const CASES: u64 = 12;
const GENERATION_CASES: u64 = 5;
const STREAMS: [&str; 3] = ["a", "b", "c"];

/// What a store should be: event ids by stream, and how many there are.
#[derive(Debug, Default)]
struct Model {
    streams: HashMap<String, Vec<EventId>>,
    head: u64,
}

impl Model {
    fn version(&self, stream: &str) -> u64 {
        self.streams.get(stream).map_or(0, |events| events.len() as u64)
    }

    /// Whether every expectation holds, counting what the commit itself appended before.
    fn accepts(&self, commit: &Commit) -> bool {
        let mut added = HashMap::<&str, u64>::new();
        let appends = commit.appends.iter().all(|append| {
            let stream = append.stream.as_str();
            let more = added.entry(stream).or_default();
            let holds = append.expected.holds(Version(self.version(stream) + *more));
            *more += append.events.len() as u64;
            holds
        });
        appends && commit.checks.iter().all(|c| c.expected.holds(Version(self.version(c.stream.as_str()))))
    }

    fn apply(&mut self, commit: &Commit) -> Committed {
        let mut versions = Vec::new();
        for append in &commit.appends {
            let events = self.streams.entry(append.stream.to_string()).or_default();
            events.extend(append.events.iter().map(|e| e.id));
            self.head += append.events.len() as u64;
            versions.push(Version(events.len() as u64));
        }
        Committed { position: Position(self.head), versions }
    }
}

fn random_expectation(random: &mut StdRng, version: u64) -> ExpectedVersion {
    match random.random_range(0..8) {
        0 | 1 => ANY,
        2 => NO_STREAM,
        3 => EXISTS,
        4 => exact((version + random.random_range(0..3)).saturating_sub(1)),
        _ => exact(version),
    }
}

fn random_commit(random: &mut StdRng, model: &Model) -> Commit {
    let mut commit = Commit::default();
    for _ in 0..random.random_range(1..4) {
        let stream = STREAMS[random.random_range(0..STREAMS.len())];
        let before: usize =
            commit.appends.iter().filter(|a| a.stream.as_str() == stream).map(|a| a.events.len()).sum();
        let expected = random_expectation(random, model.version(stream) + before as u64);
        let n = random.random_range(0..4);
        commit = commit.and(stream, expected, (0..n).map(|_| event("e")).collect());
    }
    if random.random_bool(0.3) {
        let stream = STREAMS[random.random_range(0..STREAMS.len())];
        commit = commit.checking(stream, random_expectation(random, model.version(stream)));
    }
    commit
}

/// Whether a second copy of an accepted commit is answered like the first.
fn is_repeatable(commit: &Commit) -> bool {
    let exact = |expected: ExpectedVersion| expected.exact().is_some();
    commit.appends.iter().all(|a| exact(a.expected)) && commit.appends.iter().any(|a| !a.events.is_empty())
}

/// E1, E2, E8, E9, E13: what is accepted is what the model accepts, whole; the rest leaves no trace.
pub async fn commits_are_accepted_and_refused_as_the_model_says<S: Subject>(subject: S) {
    for seed in 0..CASES {
        let store = store(&subject).await;
        let mut random = StdRng::seed_from_u64(seed);
        let mut model = Model::default();
        let mut accepted: Vec<Commit> = Vec::new();
        for step in 0..30 {
            let commit = random_commit(&mut random, &model);
            let outcome = store.commit(commit.clone()).await;
            match (model.accepts(&commit), outcome) {
                (true, Ok(done)) => {
                    assert_eq!(done, model.apply(&commit), "seed {seed}, step {step}: {commit:?}");
                    accepted.push(commit);
                }
                (false, Err(refused)) => {
                    assert_eq!(refused.kind(), ErrorKind::Conflict, "seed {seed}, step {step}");
                }
                (expected, outcome) => {
                    panic!("seed {seed}, step {step}: accepted {expected}, but {outcome:?}: {commit:?}")
                }
            }
            if let Some(again) = accepted.iter().rfind(|c| is_repeatable(c)).filter(|_| step % 4 == 3) {
                store
                    .commit(again.clone())
                    .await
                    .unwrap_or_else(|e| panic!("seed {seed}, step {step}: again: {e}"));
            }
        }
        assert_is(&store, &model, seed).await;
    }
}

async fn assert_is<B: Backend + RowStore + Clone>(store: &Patient<B>, model: &Model, seed: u64) {
    store.assert_sound().await;
    assert_eq!(store.head().await, model.head, "seed {seed}");
    for stream in STREAMS {
        let stored = super::data::ids(&store.stream(stream).await);
        assert_eq!(&stored, model.streams.get(stream).unwrap_or(&Vec::new()), "stream {stream}, seed {seed}");
    }
}

/// N1 to N4, X9: `fold(snapshot) + tail == fold(all)`, after commits of many events, retries, repeated
/// requests, refusals, appends by others, and restarts.
pub async fn a_snapshot_and_its_tail_fold_to_the_same_as_all_events<S: Subject>(subject: S) {
    for seed in 0..CASES {
        let store = store(&subject).await;
        let mut random = StdRng::seed_from_u64(seed);
        for restart in 0..4 {
            let app = App::on(store.0.clone()).start().await.expect("nothing to prepare");
            for step in 0..8 {
                random_step(&app, &store, &mut random, restart * 100 + step).await;
            }
            assert_eq!(load(&app).await, fold(&store).await, "seed {seed}, kept in memory");
            assert!(app.shutdown(LIMIT).await);
            let fresh = App::on(store.0.clone()).start().await.expect("nothing to prepare");
            assert_eq!(load(&fresh).await, fold(&store).await, "seed {seed}, from the snapshot");
        }
    }
}

async fn random_step<B: Backend + RowStore + Clone>(
    app: &App,
    store: &Patient<B>,
    random: &mut StdRng,
    step: u32,
) {
    let key = "a".to_owned();
    let name = format!("k-{}", step - random.random_range(0..3).min(step % 100));
    let outcome = match random.random_range(0..6) {
        0 => sent!(app.send(&key, Donate { amount: 3 }).idempotency_key(&name)).map(drop),
        1 => sent!(app.send(&key, Split { times: 7 })).map(drop),
        2 => sent!(app.send(&key, Split { times: 25 })).map(drop),
        3 => sent!(app.send(&key, Withdraw { amount: 20 }).idempotency_key(&name)).map(drop),
        4 => {
            store.put("account-a", vec![encoded(&deposited(1))]).await;
            Ok(())
        }
        _ => sent!(app.send(&key, Deposit { amount: 2 })).map(drop),
    };
    match outcome {
        Ok(())
        | Err(CommandError::Refused(_) | CommandError::NotFound { .. } | CommandError::KeyReused { .. }) => {}
        Err(error) => panic!("{error:?}"),
    }
}

async fn load(app: &App) -> Account {
    loop {
        if let Ok(found) = app.load::<Account>(&"a".to_owned()).await {
            return found.map(|l| l.state).unwrap_or_default();
        }
    }
}

async fn fold<B: Backend + RowStore + Clone>(store: &Patient<B>) -> Account {
    let mut account = Account::default();
    for stored in store.stream("account-a").await {
        AccountEvent::decode(&stored).expect("readable").into_iter().for_each(|e| account.apply(&e));
    }
    account
}

/// What generations should be.
#[derive(Debug, Default)]
struct Generations {
    current: Generation,
    /// What was paid, and the revision of the row below the generation's name.
    kept: BTreeMap<Generation, (BTreeMap<String, i64>, u64)>,
}

impl Generations {
    /// Any that is installed.
    fn any(&self, random: &mut StdRng) -> Generation {
        *self.kept.keys().nth(random.random_range(0..self.kept.len())).expect("the current one, at least")
    }
}

/// P1, P8, P11: after any changes, refused ones and repeated ones included, each generation has what was written in it.
pub async fn generations_keep_what_the_model_says<S: Subject>(subject: S) {
    for seed in 0..GENERATION_CASES {
        let store = store(&subject).await;
        let mut random = StdRng::seed_from_u64(seed);
        let mut model = Generations { current: 1, kept: [(1, Default::default())].into() };
        store.install(&tables::<S>(), 1).await;
        for step in 0..40 {
            let what = random_change::<S>(&store, &mut model, &mut random, step).await;
            let seen = paid::<S>(&store).await;
            assert_eq!(seen, model.kept[&model.current].0, "seed {seed}, step {step}: {what}");
        }
        for (generation, (amounts, rev)) in &model.kept {
            let stored = store.row(&below::<S>(*generation), "k").await.map_or(0, |row| row.rev);
            assert_eq!(stored, *rev, "seed {seed}, generation {generation}");
            let switched = store.switch(&tables::<S>(), *generation, Commit::default()).await;
            switched.expect("it is installed");
            assert_eq!(paid::<S>(&store).await, *amounts, "seed {seed}, generation {generation}");
        }
    }
}

fn below<S: Subject>(generation: Generation) -> String {
    format!("{}/x", tables::<S>().rows(generation))
}

/// A commit of one row, at the revision that it has or, now and then, at another.
fn at(random: &mut StdRng, table: &str, rev: u64) -> (Commit, bool) {
    let refused = random.random_bool(0.2);
    let rev = if refused { rev + 1 } else { rev };
    let row = RowWrite { table: table.into(), key: "k".to_owned(), rev, row: Some("1".into()) };
    (Commit { rows: vec![row], ..Commit::default() }, refused)
}

async fn random_change<S: Subject>(
    store: &Patient<S::Backend>,
    model: &mut Generations,
    random: &mut StdRng,
    step: u64,
) -> String {
    let (tables, any) = (tables::<S>(), random.random_range(1..5));
    let (new, installed) = (format!("step-{step}"), model.any(random));
    let (what, outcome, refused) = match random.random_range(0..10) {
        0..4 => {
            let named = random.random_bool(0.7).then_some(installed);
            let generation = named.unwrap_or(model.current);
            let (amounts, rev) = model.kept.get_mut(&generation).expect("installed");
            let (commit, refused) = at(random, &below::<S>(generation), *rev);
            let (key, amount) =
                (["ada", "bob", "cyd"][random.random_range(0..3)], random.random_range(1..100));
            if !refused {
                *rev += 1;
                *amounts.entry(key.to_owned()).or_default() += amount;
            }
            let paying = pay_with::<S>(store, named, &[(key, amount)], commit).await;
            (format!("paying {amount} to {key} in {named:?}"), paying, refused)
        }
        4 | 5 => {
            let (commit, refused) = at(random, &new, 0);
            if !refused {
                model.current = installed;
            }
            let switched = store.switch(&tables, installed, commit).await.map(drop);
            (format!("switching to {installed}"), switched, refused)
        }
        6 => {
            let (commit, refused) = at(random, &new, 0);
            if !refused {
                model.kept.insert(installed, Default::default());
            }
            let cleared = store.clear(&tables, installed, commit).await.map(drop);
            (format!("clearing {installed}"), cleared, refused)
        }
        7 => {
            let (commit, fenced) = at(random, &new, 0);
            let refused = fenced || any == model.current;
            if !refused {
                model.kept.remove(&any);
            }
            let uninstalled = store.uninstall(&tables, any, commit).await.map(drop);
            (format!("uninstalling {any}"), uninstalled, refused)
        }
        _ => {
            store.install(&tables, any).await;
            model.kept.entry(any).or_default();
            (format!("installing {any}"), Ok(()), false)
        }
    };
    assert_eq!(outcome.is_err(), refused, "step {step}, {what}: {outcome:?}");
    what
}
