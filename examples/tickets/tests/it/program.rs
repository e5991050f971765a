//! The program in a folder of its own.

use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use tempfile::TempDir;

/// A folder to run the program in, and to keep temporary files in.
pub(crate) struct BoxOffice {
    folder: TempDir,
}

impl BoxOffice {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder for temporary files") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// How many files and folders there are.
    pub(crate) fn entries(&self) -> usize {
        std::fs::read_dir(self.folder.path()).expect("the folder is ours").count()
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_tickets"));
        command.args(args).current_dir(self.folder.path()).env_remove("RUST_LOG").stdin(Stdio::null());
        command.env("TMPDIR", self.folder.path());
        command
    }

    /// Runs it to its end.
    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args).output().expect("the program starts"))
    }

    /// Starts it.
    pub(crate) fn start(&self, args: &[&str]) -> Running {
        let mut command = self.command(args);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        Running(Some(command.spawn().expect("the program starts")))
    }
}

/// A program that is killed with the test at the latest.
pub(crate) struct Running(Option<Child>);

impl Running {
    fn child(&mut self) -> &mut Child {
        self.0.as_mut().expect("taken only at the end")
    }

    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child().try_wait().expect("it is our child")
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) -> Ran {
        self.child().kill().expect("it is our child");
        self.wait()
    }

    /// Ctrl-C.
    pub(crate) fn interrupt(mut self) -> Ran {
        let signal = Command::new("kill").args(["-INT", &self.child().id().to_string()]).status();
        assert!(signal.expect("there is a `kill`").success());
        self.wait()
    }

    pub(crate) fn wait(mut self) -> Ran {
        let child = self.0.take().expect("taken only here");
        Ran::of(child.wait_with_output().expect("it is our child"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take()
            && matches!(child.try_wait(), Ok(None))
        {
            child.kill().expect("it runs, and is our child");
            child.wait().expect("it was killed");
        }
    }
}

/// What a person sees of a run.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Ran {
    fn of(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).expect("it writes text");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }

    /// It did what it was asked, without a word of complaint.
    #[track_caller]
    pub(crate) fn well(self) -> Self {
        assert_eq!((self.code, self.err.as_str()), (Some(0), ""), "{self:?}");
        self
    }

    /// It ended with this code, and said why in one line with all of these in it.
    #[track_caller]
    pub(crate) fn complains(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        assert!(self.err.starts_with("tickets: "), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in {self:?}");
        }
    }

    pub(crate) fn last(&self) -> &str {
        self.out.lines().last().unwrap_or_default()
    }

    /// The numbers of the last line: flows, sold, released, open, charged without a ticket.
    #[track_caller]
    pub(crate) fn totals(&self) -> [u64; 5] {
        let line = self.last();
        let words = line.split_whitespace().map(|word| word.replace(',', ""));
        let numbers: Vec<u64> = words.filter_map(|word| word.parse().ok()).collect();
        numbers.try_into().unwrap_or_else(|_| panic!("no five numbers in {line:?}"))
    }
}
