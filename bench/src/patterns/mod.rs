//! Patterns of transactions over databases of one server, each beside what writes the same rows with less, or by hand.

mod chain;
mod commits;
mod ground;
mod half;
mod saga;
mod tcc;
mod three_phase;
mod two_phase;
mod undo_log;

use bench_kit::AT_ONCE;
use futures::future::BoxFuture;
use tokio::runtime::Runtime;

use self::ground::{Done, Ground, Load};
use crate::measure::{Side, medians};
use crate::postgres::Server;

/// Does all of its load on empty databases, and makes sure that it was done.
type Work = fn(Ground) -> BoxFuture<'static, anyhow::Result<Done>>;

/// A line of the table: two who are compared.
struct Row {
    names: [&'static str; 2],
    work: [Work; 2],
}

const ROWS: [Row; 10] = [
    Row {
        names: ["TCC of two branches", "saga of two guarded steps"],
        work: [|on| Box::pin(tcc::run(on)), |on| Box::pin(saga::run(on))],
    },
    Row {
        names: ["two-phase commit", "two-phase commit by hand"],
        work: [|on| Box::pin(two_phase::run(on)), |on| Box::pin(two_phase::by_hand(on))],
    },
    Row {
        names: ["two-phase commit", "by hand, with its markers and its list"],
        work: [|on| Box::pin(two_phase::run(on)), |on| Box::pin(two_phase::by_hand_with_markers(on))],
    },
    Row {
        names: ["half message", "two bare commits"],
        work: [|on| Box::pin(half::run(on)), |on| Box::pin(commits::with_journal(on))],
    },
    Row {
        names: ["update of 1 row, in a call with an undo log", "bare update"],
        work: [|on| Box::pin(undo_log::noted::<1>(on)), |on| Box::pin(undo_log::bare::<1>(on))],
    },
    Row {
        names: ["update of 100 rows, in a call with an undo log", "bare update"],
        work: [|on| Box::pin(undo_log::noted::<100>(on)), |on| Box::pin(undo_log::bare::<100>(on))],
    },
    Row {
        names: ["update of 1 row, in such a call that is confirmed", "bare update"],
        work: [|on| Box::pin(undo_log::confirmed::<1>(on)), |on| Box::pin(undo_log::bare::<1>(on))],
    },
    Row {
        names: ["update of 1 row, in a call without an undo log", "bare update"],
        work: [|on| Box::pin(undo_log::guarded::<1>(on)), |on| Box::pin(undo_log::bare::<1>(on))],
    },
    Row {
        names: ["chain of two databases", "two bare commits"],
        work: [|on| Box::pin(chain::run(on)), |on| Box::pin(commits::run(on))],
    },
    Row {
        names: ["three-phase commit", "two-phase commit by hand"],
        work: [|on| Box::pin(three_phase::run(on)), |on| Box::pin(two_phase::by_hand(on))],
    },
];

/// How many in a round, one at a time and many.
const LOADS: [Load; 2] = [Load { n: 100, at_once: 1 }, Load { n: 1_000, at_once: AT_ONCE }];

/// Rounds in turn, and a round of which the statements are counted.
pub fn run(runtime: &Runtime, rounds: usize) -> anyhow::Result<()> {
    let server = Server::start()?;
    println!(
        "| pattern | beside | at a time | a second | beside | ratio | statements for one | beside |\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"
    );
    for row in &ROWS {
        let once = |work: Work, load: Load, counts: bool| {
            let _in_runtime = runtime.enter(); // pools are made there
            runtime.block_on(work(Ground::make(&server, load, counts)?))
        };
        let count = |work: Work| anyhow::Ok(once(work, LOADS[0], true)?.statements);
        let statements = [count(row.work[0])?, count(row.work[1])?];
        for load in LOADS {
            let side = |work: Work| Box::new(move || Ok(once(work, load, false)?.rate)) as Side<'_>;
            let [ours, beside] = medians(rounds, row.work.map(side));
            print(row, load, [ours?, beside?], statements);
        }
    }
    Ok(())
}

fn print(row: &Row, load: Load, [ours, beside]: [f64; 2], [some, fewer]: [f64; 2]) {
    let ([name, other], at_once) = (row.names, load.at_once);
    println!(
        "| {name} | {other} | {at_once} | {ours:.0} | {beside:.0} | {:.2} | {some:.1} | {fewer:.1} |",
        ours / beside
    );
}
