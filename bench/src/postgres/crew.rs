//! The processes of one round: all are ready before any of them may go.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use bench_kit::{Done, Job};

/// How long anybody may take beyond what he was told.
const GRACE: Duration = Duration::from_secs(60);

pub struct Crew {
    processes: Vec<Process>,
    within: Duration,
}

impl Crew {
    /// Starts as many processes; each has its share of the aggregates.
    pub fn ready(program: &Path, side: &str, job: &Job, processes: u64) -> anyhow::Result<Self> {
        let mut crew = Vec::new();
        for process in 0..processes {
            let job = Job { first: job.first + process * job.span, ..job.clone() };
            crew.push(Process::start(program, &["worker", side, &serde_json::to_string(&job)?])?);
        }
        for process in &mut crew {
            let said = process.line(GRACE)?;
            ensure!(said == "ready", "{side} was not ready: {said:?}");
        }
        let within = GRACE + Duration::from_secs_f64(job.until.seconds);
        Ok(Self { processes: crew, within })
    }

    /// Lets them go, and waits for all.
    pub fn go(mut self) -> anyhow::Result<Vec<Done>> {
        self.processes.iter_mut().try_for_each(Process::release)?;
        self.processes
            .iter_mut()
            .map(|process| Ok(serde_json::from_str(&process.line(self.within)?)?))
            .collect()
    }
}

/// Units a second, of all processes together.
pub fn rate(done: &[Done]) -> f64 {
    done.iter().map(|done| done.units as f64 / done.seconds).sum()
}

/// A child that is spoken to in lines. It is ended with this value.
pub struct Process {
    child: Child,
    said: Receiver<std::io::Result<String>>,
}

impl Process {
    pub fn start(program: &Path, args: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        let mut child = command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let out = child.stdout.take().context("its output is piped")?;
        let (say, said) = std::sync::mpsc::channel();
        // Ends with the process, or with whoever listens.
        std::thread::spawn(move || BufReader::new(out).lines().try_for_each(|line| say.send(line)));
        Ok(Self { child, said })
    }

    pub fn line(&mut self, within: Duration) -> anyhow::Result<String> {
        match self.said.recv_timeout(within) {
            Ok(line) => Ok(line?),
            Err(RecvTimeoutError::Disconnected) => bail!("the process ended without an answer"),
            Err(RecvTimeoutError::Timeout) => bail!("no answer within {} s", within.as_secs()),
        }
    }

    /// What stands behind this word, on the first line that begins with it.
    pub fn line_after(&mut self, word: &str) -> anyhow::Result<String> {
        loop {
            if let Some(rest) = self.line(GRACE)?.strip_prefix(word) {
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
        // The end of its input tells a server to clean up and go.
        drop(self.child.stdin.take());
        for _ in 0..100 {
            if !matches!(self.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        // One that has ended by itself cannot be killed any more, and that is fine.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
