//! However many rows a build has, they go a portion at a time: P12.

use std::time::Duration;

use super::double::{Double, Line};
use super::fences::{New, Old, Store, deposit, end, run, sum};
use super::patient::{Patient, ask};
use super::payments::{Repeatable, World, answered, eventually};
use super::{LIMIT, Subject, settle, start, store};
use crate::App;
use crate::processor::{PORTION, ProcessorError, RebuildOptions, Reset, noted, remove_version};
use crate::state::{Generations, generations};
use crate::store::{Commit, Position, RowWrite};

const OLD: &str = "fenced/1";
const TABLE: &str = "fenced/1~1";
/// The view has a row for each account.
const ACCOUNTS: usize = 8;
/// Rows beside those of accounts, whose keys come behind them: two portions.
const MORE: usize = 2 * PORTION;

async fn fill<S: Subject>(store: &Store<S>) {
    put_all::<S>(store, TABLE, |i| (format!("a{i:05}"), r#"{"sum":1}"#.to_owned())).await;
}

/// Skips of events that have yet to happen, so that nothing asks for them.
pub(super) async fn skips<S: Subject>(store: &Store<S>, table: &str) {
    let skip = |i| {
        let position = 1_000_000 + i;
        let key = format!("{position:020}:{i:016x}");
        (key, format!(r#"{{"position":{position},"key":"k","reason":"r","at":"2026-01-01T00:00:06Z"}}"#))
    };
    put_all::<S>(store, table, skip).await;
}

async fn put_all<S: Subject>(store: &Store<S>, table: &str, row: impl Fn(usize) -> (String, String)) {
    let rows: Vec<RowWrite> = (0..MORE)
        .map(|i| {
            let (key, row) = row(i);
            RowWrite { table: table.into(), key, rev: 0, row: Some(row.into()) }
        })
        .collect();
    for some in rows.chunks(1_000) {
        let commit = Commit { rows: some.to_vec(), ..Commit::default() };
        store.commit(commit).await.expect("nothing else writes them");
    }
}

async fn left<S: Subject>(store: &Store<S>) -> usize {
    store.scan(TABLE, 10_000).await.len()
}

async fn builds<S: Subject>(store: &Store<S>, processor: &str) -> Generations {
    let table = generations();
    ask(|| table.get(&store.0, processor)).await.expect("it has begun").value
}

async fn until_held<B>(line: &Double<B>) {
    let held = async {
        while line.held() == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, held).await.expect("it comes to the portion that is held");
}

/// P11, P12
pub async fn a_build_goes_in_portions_and_another_node_goes_on_with_it<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    deposit::<S>(&store).await;
    let app = run::<S, Old>(&store).await;
    let processor = app.processor::<Old>().expect("it runs");
    let rebuild = ask(|| processor.rebuild_online(RebuildOptions::default())).await;
    ask(|| rebuild.caught_up(LIMIT)).await;
    answered(|| rebuild.switch()).await.expect("it has caught up");
    fill::<S>(&store).await;
    end(app).await;
    let line = Double::new(subject.again(&store.0).await);
    let removes = start(|| App::on(line.clone()).view::<Old>().looks_on()).await;
    line.set(Line::HoldsCommitsAfter(TABLE, 1));
    // By the other node, if it has to be asked again: then it finds nothing.
    let removed = ask(|| removes.processor::<Old>().expect("it looks on").drop_previous());
    let meanwhile = async {
        until_held(&line).await;
        let left = left::<S>(&store).await;
        assert!(left >= MORE + ACCOUNTS - PORTION, "{left} are left after one portion");
        // It waits for none of what is still to go.
        deposit::<S>(&store).await;
        let other = run::<S, Old>(&store).await;
        eventually(async || match (self::left::<S>(&store).await, builds::<S>(&store, OLD).await.leaving) {
            (0, leaving) if leaving.is_empty() => Ok(()),
            left => Err(format!("{left:?} is left")),
        })
        .await;
        line.set(Line::Up);
        other
    };
    let (_, other) = tokio::join!(removed, meanwhile);
    assert_eq!(sum::<Old>(&other).await, 2);
}

/// P19, W4
pub async fn a_version_goes_in_portions_and_none_of_them_reaches_the_one_that_comes_back<
    S: Subject + 'static,
>(
    subject: S,
) {
    let store = store(&subject).await;
    deposit::<S>(&store).await;
    end(run::<S, Old>(&store).await).await;
    fill::<S>(&store).await;
    end(run::<S, New>(&store).await).await;
    let line = Double::new(subject.again(&store.0).await);
    line.set(Line::HoldsCommitsAfter(TABLE, 2));
    let removed = async {
        loop {
            let noted = ask(|| noted(&store.0, "fenced")).await;
            match remove_version(&line, "fenced", 1, noted).await {
                Ok(false) | Err(_) if line.held() == 0 => {}
                outcome => break outcome,
            }
        }
    };
    let meanwhile = async {
        until_held(&line).await;
        let left = left::<S>(&store).await;
        assert!(left >= ACCOUNTS, "{left} are left after two portions");
        let back = run::<S, Old>(&store).await;
        assert!(!builds::<S>(&store, OLD).await.goes());
        line.set(Line::Up);
        back
    };
    let (removed, back) = tokio::join!(removed, meanwhile);
    drop(removed);
    assert_eq!(left::<S>(&store).await, ACCOUNTS, "what was built since is there, and nothing of before");
    assert_eq!(sum::<Old>(&back).await, 1);
}

async fn until_set_back<S: Subject>(store: &Patient<S::Backend>, name: &str) {
    eventually(async || match builds::<S>(store, name).await.set_back.is_empty() {
        true => Ok(()),
        false => Err("it is being set back".to_owned()),
    })
    .await;
}

/// Asked again once another node has done it, that one has it.
fn done_by_another(reset: Result<(), ProcessorError>) {
    match reset {
        Ok(()) | Err(ProcessorError::HeldBy { .. }) => {}
        Err(error) => panic!("another node has done it: {error}"),
    }
}

/// P8, P12
pub async fn a_reset_that_was_cut_short_is_gone_on_with<S: Subject + 'static>(subject: S) {
    let store = store(&subject).await;
    deposit::<S>(&store).await;
    let line = Double::new(subject.again(&store.0).await);
    let app = start(|| App::on(line.clone()).view::<Old>()).await;
    settle(&app).await;
    fill::<S>(&store).await;
    line.set(Line::HoldsCommitsAfter(TABLE, line.commits(TABLE).len() + 1));
    let processor = app.processor::<Old>().expect("it runs");
    let reset = answered(|| processor.reset(Reset::Start));
    let meanwhile = async {
        until_held(&line).await;
        assert!(left::<S>(&store).await >= MORE + ACCOUNTS - PORTION);
        let other = start(|| App::on(store.0.clone()).view::<Old>()).await;
        until_set_back::<S>(&store, OLD).await;
        line.set(Line::Up);
        other
    };
    let (reset, other) = tokio::join!(reset, meanwhile);
    done_by_another(reset);
    deposit::<S>(&store).await;
    settle(&other).await;
    settle(&app).await;
    assert_eq!(left::<S>(&store).await, ACCOUNTS);
    assert_eq!(sum::<Old>(&other).await, 2);
}

/// P8
pub async fn a_reset_to_a_place_that_was_cut_short_is_gone_on_with<S: Subject + 'static>(subject: S) {
    let world = World::<S>::new(&subject).await;
    let (table, to) = ("repeatable/1~1/skipped", Reset::Position(Position(6)));
    let line = Double::new(subject.again(&world.store.0).await);
    let app = start(|| App::on(line.clone()).view::<Repeatable>()).await;
    world.pay("a", 1..=10).await;
    settle(&app).await;
    skips::<S>(&world.store, table).await;
    line.set(Line::HoldsCommitsAfter(table, 1));
    let processor = app.processor::<Repeatable>().expect("it runs");
    let reset = answered(|| processor.reset(to));
    let meanwhile = async {
        until_held(&line).await;
        assert!(world.store.scan(table, 10_000).await.len() >= MORE - PORTION);
        let tally = world.tally_of("repeatable/1", "a").await.expect("a row");
        assert_eq!(tally.n, 10, "no node works on it before all of them have gone");
        let other = start(|| App::on(world.store.0.clone()).view::<Repeatable>()).await;
        until_set_back::<S>(&world.store, "repeatable/1").await;
        line.set(Line::Up);
        other
    };
    let (reset, other) = tokio::join!(reset, meanwhile);
    done_by_another(reset);
    settle(&other).await;
    settle(&app).await;
    assert_eq!(world.store.scan(table, 10_000).await, []);
    // A reset whose answer was lost is done once more.
    let tally = world.tally_of("repeatable/1", "a").await.expect("a row");
    assert!(tally.n >= 14 && (tally.n - 10).is_multiple_of(4), "{tally:?}");
}
