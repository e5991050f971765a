//! Programs that transfer, fed a line at a time. Whoever is killed is replaced, and told again what it had not answered.

use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::mpsc;

use crate::banks::{Banks, Urls};
use crate::by::Method;
use crate::transfer::Bank;
use crate::work::{Asked, FAILED, READY};
use crate::{DATABASES, orders};

/// How long nothing may be heard.
const PATIENCE: Duration = Duration::from_secs(180);
/// A program is killed for so many transfers.
pub(crate) const TRANSFERS_A_KILL: u32 = 100;

/// What is transferred, and how.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) count: u32,
    /// Transfers that are under way at the same time.
    pub(crate) at_once: u32,
    pub(crate) workers: usize,
    pub(crate) kill: bool,
    pub(crate) seed: u64,
    /// What keys begin with, so that they are those of no other run.
    pub(crate) run: String,
}

impl Plan {
    fn asked(&self, method: Method, number: u32) -> Asked {
        let key = format!("{}-{method}-{number}", self.run);
        Asked { key, order: orders::order(self.seed, number) }
    }

    /// While so many have ended, bank b takes no transfers.
    fn closed(&self) -> std::ops::Range<u32> {
        self.count / 20 * 9..self.count / 2
    }
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Played {
    /// From the moment at which it was first asked for, whoever was killed in between.
    pub(crate) latencies: Vec<Duration>,
    pub(crate) took: Duration,
    pub(crate) settled: u64,
    pub(crate) declined: u64,
    pub(crate) kills: u32,
}

/// What a program says, and that it has ended. `life`: which of those that were started as this one.
#[derive(Debug)]
enum Heard {
    Said(String),
    Ended { worker: usize, life: u32 },
}

struct Worker {
    child: Child,
    input: ChildStdin,
    life: u32,
    waits_for: BTreeSet<u32>,
}

pub(crate) struct Crew {
    method: Method,
    urls: Urls,
    workers: Vec<Worker>,
    tell: mpsc::UnboundedSender<Heard>,
    heard: mpsc::UnboundedReceiver<Heard>,
}

impl Crew {
    /// Starts them, and waits until all are ready.
    pub(crate) async fn start(method: Method, urls: Urls, workers: usize) -> anyhow::Result<Self> {
        let (tell, heard) = mpsc::unbounded_channel();
        let mut crew = Self { method, urls, workers: Vec::new(), tell, heard };
        for worker in 0..workers {
            let started = crew.spawn(worker, 0)?;
            crew.workers.push(started);
        }
        for _ in 0..workers {
            let said = crew.hear().await?;
            anyhow::ensure!(matches!(&said, Heard::Said(said) if said == READY), "a worker does not start");
        }
        Ok(crew)
    }

    fn spawn(&self, worker: usize, life: u32) -> anyhow::Result<Worker> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["work", "--by", &self.method.to_string()]).env(DATABASES, self.urls.argument());
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .context("a worker does not start")?;
        let input = child.stdin.take().context("its input is a pipe")?;
        let output = child.stdout.take().context("its output is a pipe")?;
        tokio::spawn(listen(output, worker, life, self.tell.clone()));
        Ok(Worker { child, input, life, waits_for: BTreeSet::new() })
    }

    async fn hear(&mut self) -> anyhow::Result<Heard> {
        let heard = tokio::time::timeout(PATIENCE, self.heard.recv()).await;
        heard.context("nothing has ended for long")?.context("the crew holds a sender itself")
    }

    /// Transfers all of it.
    pub(crate) async fn play(&mut self, plan: &Plan, banks: &Banks) -> anyhow::Result<Played> {
        let mut run = Run::new(plan);
        while run.ended < plan.count {
            while run.asked < plan.count && run.asked - run.ended < plan.at_once {
                let least = (0..self.workers.len()).min_by_key(|at| self.workers[*at].waits_for.len());
                self.ask(plan, least.context("there is a worker")?, run.asked).await?;
                run.begun.push(Instant::now());
                run.asked += 1;
            }
            let said = match self.hear().await? {
                Heard::Said(said) if said == READY => continue,
                Heard::Said(said) => said,
                Heard::Ended { worker, life } => {
                    anyhow::ensure!(self.workers[worker].life != life, "a worker has ended by itself");
                    continue;
                }
            };
            let Some(number) = run.takes(&said)? else { continue };
            for worker in &mut self.workers {
                worker.waits_for.remove(&number);
            }
            match run.ended {
                ended if ended == plan.closed().start => banks.set_open(Bank::B, false).await?,
                ended if ended == plan.closed().end => banks.set_open(Bank::B, true).await?,
                _ => {}
            }
            if let Some(victim) = run.strikes(self.workers.len()) {
                self.strike(plan, victim).await?;
            }
        }
        Ok(run.over())
    }

    async fn ask(&mut self, plan: &Plan, worker: usize, number: u32) -> anyhow::Result<()> {
        let (line, worker) = (format!("{}\n", plan.asked(self.method, number)), &mut self.workers[worker]);
        worker.waits_for.insert(number);
        worker.input.write_all(line.as_bytes()).await.context("a worker does not listen")
    }

    /// Kills one without a goodbye, starts another in its place, and asks that for what is not answered: under the same keys.
    async fn strike(&mut self, plan: &Plan, victim: usize) -> anyhow::Result<()> {
        let life = self.workers[victim].life + 1;
        // It is another one from now on: that this one ends is no surprise.
        self.workers[victim].life = life;
        self.workers[victim].child.kill().await?;
        let waits_for = std::mem::take(&mut self.workers[victim].waits_for);
        self.workers[victim] = self.spawn(victim, life)?;
        for number in waits_for {
            self.ask(plan, victim, number).await?;
        }
        Ok(())
    }

    /// Ends all of them.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        for Worker { mut child, input, .. } in self.workers {
            drop(input);
            let ended =
                tokio::time::timeout(PATIENCE, child.wait()).await.context("a worker does not end")??;
            anyhow::ensure!(ended.success(), "a worker has ended with {ended}");
        }
        Ok(())
    }
}

async fn listen(output: ChildStdout, worker: usize, life: u32, tell: mpsc::UnboundedSender<Heard>) {
    let mut lines = BufReader::new(output).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        drop(tell.send(Heard::Said(line)));
    }
    drop(tell.send(Heard::Ended { worker, life }));
}

/// How far a run is.
struct Run {
    began: Instant,
    asked: u32,
    ended: u32,
    begun: Vec<Instant>,
    /// What was said of each, the first time.
    outcomes: Vec<Option<bool>>,
    /// Until so many have ended, nobody is killed.
    spared: u32,
    rng: Option<StdRng>,
    played: Played,
}

impl Run {
    fn new(plan: &Plan) -> Self {
        let rng = plan.kill.then(|| StdRng::seed_from_u64(plan.seed));
        let outcomes = vec![None; plan.count as usize];
        let mut run = Self {
            began: Instant::now(),
            asked: 0,
            ended: 0,
            begun: Vec::new(),
            outcomes,
            spared: 0,
            rng,
            played: Played::default(),
        };
        run.spare();
        run
    }

    /// At random within the next hundred.
    fn spare(&mut self) {
        if let Some(rng) = &mut self.rng {
            self.spared = self.played.kills * TRANSFERS_A_KILL + rng.random_range(1..=TRANSFERS_A_KILL);
        }
    }

    /// The number of a transfer that has ended. Of one that two programs were asked for, both have to say the same.
    fn takes(&mut self, said: &str) -> anyhow::Result<Option<u32>> {
        let (key, what) = said.split_once(' ').with_context(|| format!("a worker said {said:?}"))?;
        anyhow::ensure!(!what.starts_with(FAILED), "transfer {key} {what}");
        let number = key.rsplit('-').next().and_then(|number| number.parse::<u32>().ok());
        let number = number.with_context(|| format!("a worker said {said:?}"))?;
        let is_settled = what == "settled";
        let at = number as usize;
        if let Some(before) = self.outcomes[at].replace(is_settled) {
            anyhow::ensure!(before == is_settled, "transfer {key} has two outcomes");
            return Ok(None);
        }
        self.ended += 1;
        self.played.latencies.push(self.begun[at].elapsed());
        *(if is_settled { &mut self.played.settled } else { &mut self.played.declined }) += 1;
        Ok(Some(number))
    }

    /// Who is killed now.
    fn strikes(&mut self, workers: usize) -> Option<usize> {
        if self.ended < self.spared {
            return None;
        }
        let victim = self.rng.as_mut()?.random_range(0..workers);
        self.played.kills += 1;
        self.spare();
        Some(victim)
    }

    fn over(mut self) -> Played {
        self.played.took = self.began.elapsed();
        self.played
    }
}
