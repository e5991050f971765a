//! Who is compared: the program that does its work, and the database it has to itself.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use bench_kit::{Done, Job, Listed, Until, Work};

use super::crew::{Crew, Process};
use super::server::{Server, ask};

pub struct Contender {
    pub name: String,
    pub crates: Vec<String>,
    can: Vec<Work>,
    program: PathBuf,
    pub url: String,
    pub database: String,
    /// Then the database server has nothing to do with it.
    pub brings_server: bool,
    /// Where nothing is stored yet.
    fresh: Cell<u64>,
    /// The highest peak of memory of each kind of work, in KiB.
    pub peaks: RefCell<HashMap<String, u64>>,
    _server: Option<Process>,
}

impl Contender {
    /// Everybody: the raw limit first, then the framework, then the peers.
    ///
    /// Whoever cannot start is left out, and said so.
    pub fn all(server: &Server, only: &[String]) -> anyhow::Result<(Vec<Self>, Vec<String>)> {
        let (mut all, mut left_out) = (Vec::new(), Vec::new());
        for program in [std::env::current_exe().map_err(Into::into), super::peers::program()] {
            let program = match program {
                Ok(program) => program,
                Err(why) => {
                    left_out.push(format!("all peers: {why:#}"));
                    continue;
                }
            };
            for listed in list(&program)? {
                if only.is_empty() || only.contains(&listed.name) {
                    let name = listed.name.clone();
                    match Self::new(listed, &program, server) {
                        Ok(contender) => all.push(contender),
                        Err(why) => left_out.push(format!("{name}: {why:#}")),
                    }
                }
            }
        }
        Ok((all, left_out))
    }

    fn new(listed: Listed, program: &Path, server: &Server) -> anyhow::Result<Self> {
        let database = format!("bench_{}", listed.name.replace('-', "_"));
        Self::on(listed, program, server, database)
    }

    fn on(listed: Listed, program: &Path, server: &Server, database: String) -> anyhow::Result<Self> {
        let Listed { name, crates, can, server: brings } = listed;
        let (url, brought) = if brings {
            let mut brought = Process::start(program, &["serve", &name])?;
            (brought.line_after("url ")?, Some(brought))
        } else {
            server.make(&database)?;
            (server.url(&database)?, None)
        };
        let contender = Self {
            name,
            crates,
            can,
            program: program.to_owned(),
            url,
            database,
            brings_server: brings,
            fresh: Cell::new(10_000_000),
            peaks: RefCell::default(),
            _server: brought,
        };
        contender.run(&contender.job(Work::Create, 1), 1)?;
        Ok(contender)
    }

    /// The same side on another database, with nothing in it.
    pub fn again(&self, server: &Server, database: &str) -> anyhow::Result<Self> {
        let listed = Listed {
            name: self.name.clone(),
            crates: self.crates.clone(),
            can: self.can.clone(),
            server: self.brings_server,
        };
        Self::on(listed, &self.program, server, format!("{}_{database}", self.database))
    }

    /// What the server would do by itself before long.
    pub fn settle(&self) -> anyhow::Result<()> {
        if self.brings_server {
            return Ok(());
        }
        ask(&self.url, async |conn| sqlx::raw_sql("vacuum analyze").execute(conn).await.map(drop))
    }

    pub fn can(&self, work: Work) -> bool {
        self.can.contains(&work)
    }

    /// Aggregates that nobody has written to.
    pub fn fresh(&self, span: u64) -> u64 {
        self.fresh.replace(self.fresh.get() + span)
    }

    /// A short time of work, each caller with an aggregate of its own.
    pub fn job(&self, work: Work, callers: u64) -> Job {
        let until = Until { seconds: 0.8, calls: None };
        Job {
            url: self.url.clone(),
            work,
            callers,
            first: 0,
            span: callers,
            until,
            warm: true,
            arrivals: None,
        }
    }

    pub fn ready(&self, job: &Job, processes: u64) -> anyhow::Result<Crew> {
        Crew::ready(&self.program, &self.name, job, processes)
    }

    pub fn run(&self, job: &Job, processes: u64) -> anyhow::Result<Vec<Done>> {
        self.ready(job, processes)?.go()
    }

    pub fn run_one(&self, job: &Job) -> anyhow::Result<Done> {
        self.run(job, 1)?.pop().context("one process, one answer")
    }

    pub fn remember_peak(&self, row: &str, done: &[Done]) {
        let peak = done.iter().filter_map(|done| done.peak.0).max();
        if let Some(peak) = peak {
            let mut peaks = self.peaks.borrow_mut();
            let highest = peaks.entry(row.to_owned()).or_default();
            *highest = peak.max(*highest);
        }
    }
}

fn list(program: &Path) -> anyhow::Result<Vec<Listed>> {
    let told = Command::new(program).arg("list").output()?;
    ensure!(told.status.success(), "{} does not list its sides", program.display());
    Ok(serde_json::from_slice(&told.stdout)?)
}
