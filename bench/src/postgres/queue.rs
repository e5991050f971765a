//! What a queue costs after much has come and gone while another session holds a snapshot: rule W5.
//!
//! Each round puts rows in and takes them out again. Nothing of that can be removed before the snapshot ends, so a scan
//! from the beginning walks over all of it; one from the low-water mark walks over what went within the margin.

use std::time::{Duration, Instant};

use es_core::clock::Timestamp;
use es_core::id::Ids;
use es_core::processor::Slices;
use es_core::store::queue::{Marks, Queue};
use es_core::store::{EventStore as _, write_rows};
use es_postgres::PgBackend;
use sqlx::Executor as _;
use tokio::runtime::Runtime;

use super::raw::connect;
use super::server::Server;

/// Rows that come and go: for how many seconds by the clock of the queue, and how many in each.
const PHASES: [(u32, u32); 2] = [(300, 5_000), (100, 1_000)];
/// What waits all the time: one in each slice.
const WAITING: u16 = 1_024;
const LIMIT: usize = 100;

struct Churn {
    backend: PgBackend,
    queue: Queue<u32>,
    ids: Ids,
}

impl Churn {
    async fn put(&self, count: u32, now: Timestamp) -> anyhow::Result<()> {
        let slice = |i: u32| u16::try_from(i * 37 % 1_024).expect("below 1,024");
        let rows: Result<Vec<_>, _> =
            (0..count).map(|i| self.queue.push(slice(i), now, now, self.ids.next(), i)).collect();
        anyhow::ensure!(write_rows(&self.backend, rows?).await?.is_yes(), "they are new");
        Ok(())
    }

    /// Takes out all that is due.
    async fn done(&self, marks: &mut Marks, now: Timestamp) -> anyhow::Result<()> {
        let due = self.queue.due(&self.backend, &[Slices::ALL], marks, now, LIMIT).await?;
        let gone: Result<Vec<_>, _> =
            due.into_iter().map(|waiting| waiting.map(|waiting| self.queue.done(&waiting.row))).collect();
        anyhow::ensure!(write_rows(&self.backend, gone?).await?.is_yes(), "nobody else takes them out");
        Ok(())
    }

    async fn turn_over(
        &self,
        (seconds, each): (u32, u32),
        marks: &mut Marks,
        now: &mut Timestamp,
    ) -> anyhow::Result<()> {
        for _ in 0..seconds {
            self.put(each, *now).await?;
            self.done(marks, *now).await?;
            *now += Duration::from_secs(1);
        }
        // One that does not read the whole queue, which happens now and then.
        self.done(marks, *now).await
    }

    /// The median of some scans of all slices, each with these marks, while one row waits in each slice.
    async fn scans(&self, rounds: usize, now: Timestamp, marks: &Marks) -> anyhow::Result<Duration> {
        self.put(WAITING.into(), now).await?;
        let mut took = Vec::new();
        for _ in 0..rounds {
            let (mut marks, started) = (marks.clone(), Instant::now());
            let due = self.queue.due(&self.backend, &[Slices::ALL], &mut marks, now, LIMIT).await?;
            took.push(started.elapsed());
            anyhow::ensure!(due.len() == usize::from(WAITING), "{} are due", due.len());
        }
        self.done(&mut Marks::default(), now).await?;
        took.sort_unstable();
        Ok(took[took.len() / 2])
    }
}

pub fn run(runtime: &Runtime, rounds: usize) -> anyhow::Result<()> {
    let server = Server::start()?;
    server.make("queue")?;
    let url = server.url("queue")?;
    runtime.block_on(async {
        let backend = PgBackend::connect(&url).await?;
        let mut now = backend.now().await?;
        let churn = Churn { backend, queue: Queue::new("bench")?, ids: Ids::default() };
        let rounds = rounds.max(3);

        let none = Marks::default();
        let mut lines = vec![("fresh table".to_owned(), churn.scans(rounds, now, &none).await?)];

        let mut holder = connect(&url).await?;
        holder.execute("begin isolation level repeatable read").await?;
        holder.execute("select 1").await?;
        let (mut marks, started) = (Marks::default(), Instant::now());
        for phase in PHASES {
            churn.turn_over(phase, &mut marks, &mut now).await?;
            let what = format!("from the mark, {} a second come and go", phase.1);
            lines.push((what, churn.scans(rounds, now, &marks).await?));
        }
        let total: u32 = PHASES.iter().map(|(seconds, each)| seconds * each).sum();
        say(&format!(
            "{total} rows put in and taken out under a held snapshot, in {:.0} s; then what is due in 1,024 slices, \
             one in each, in one statement; medians of {rounds}:",
            started.elapsed().as_secs_f64()
        ));
        lines.push(("from the beginning".to_owned(), churn.scans(rounds, now, &none).await?));
        churn.turn_over((20, 0), &mut marks, &mut now).await?;
        lines.push(("from the mark, nothing came since".to_owned(), churn.scans(rounds, now, &marks).await?));

        holder.execute("commit").await?;
        connect(&url).await?.execute("vacuum es.hot_rows").await?;
        let what = "from the beginning, after the snapshot and a vacuum";
        lines.push((what.to_owned(), churn.scans(rounds, now, &none).await?));

        let fresh = lines[0].1.as_secs_f64();
        for (what, time) in lines {
            let time = time.as_secs_f64();
            say(&format!("  {what:52} {:7.1} ms {:7.2} x", time * 1e3, time / fresh));
        }
        Ok(())
    })
}

#[expect(clippy::print_stdout, reason = "this is the program's answer")]
fn say(line: &str) {
    println!("{line}");
}
