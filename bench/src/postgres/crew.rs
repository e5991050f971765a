//! The processes of one round: all are ready before any of them may go.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context as _, ensure};
use bench_kit::{Done, Job};

pub struct Crew(Vec<Process>);

impl Crew {
    /// Starts as many processes; each has its share of the aggregates.
    pub fn ready(program: &Path, side: &str, job: &Job, processes: u64) -> anyhow::Result<Self> {
        let mut crew = Vec::new();
        for process in 0..processes {
            let job = Job { first: job.first + process * job.span, ..job.clone() };
            crew.push(Process::start(program, &["worker", side, &serde_json::to_string(&job)?])?);
        }
        for process in &mut crew {
            let said = process.line()?;
            ensure!(said == "ready", "{side} was not ready: {said:?}");
        }
        Ok(Self(crew))
    }

    /// Lets them go, and waits for all.
    pub fn go(mut self) -> anyhow::Result<Vec<Done>> {
        self.0.iter_mut().try_for_each(Process::release)?;
        self.0.iter_mut().map(|process| Ok(serde_json::from_str(&process.line()?)?)).collect()
    }
}

/// Units a second, of all processes together.
pub fn rate(done: &[Done]) -> f64 {
    done.iter().map(|done| done.units as f64 / done.seconds).sum()
}

/// A child that is spoken to in lines. It is ended with this value.
pub struct Process {
    child: Child,
    out: BufReader<ChildStdout>,
}

impl Process {
    pub fn start(program: &Path, args: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        let mut child = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().context("its output is piped")?;
        Ok(Self { child, out: BufReader::new(out) })
    }

    pub fn line(&mut self) -> anyhow::Result<String> {
        let mut line = String::new();
        self.out.read_line(&mut line)?;
        ensure!(!line.is_empty(), "the process ended without an answer");
        Ok(line.trim_end().to_owned())
    }

    /// What stands behind this word, on the first line that begins with it.
    pub fn line_after(&mut self, word: &str) -> anyhow::Result<String> {
        loop {
            if let Some(rest) = self.line()?.strip_prefix(word) {
                return Ok(rest.to_owned());
            }
        }
    }

    fn release(&mut self) -> anyhow::Result<()> {
        Ok(self.child.stdin.as_mut().context("its input is piped")?.write_all(b"go\n")?)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // One that has ended by itself cannot be killed any more, and that is fine.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
