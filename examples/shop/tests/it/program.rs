//! The program in a folder of its own.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};

use es_core::store::EventStore as _;
use es_sqlite::SqliteBackend;
use tempfile::TempDir;

/// Real purchases of a year and a half.
pub(crate) const WHOLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/data/CDNOW_master.txt");
pub(crate) const HEADER: &str = "customer_id date number_of_cds dollar_value";

/// A folder to run the program in; `shop.db` in it is the default database.
pub(crate) struct Shop {
    folder: TempDir,
}

impl Shop {
    pub(crate) fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a folder for temporary files") }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) {
        std::fs::write(self.path(name), content).expect("the folder is ours");
    }

    /// A file of purchases with these lines after the header.
    pub(crate) fn write_lines(&self, name: &str, lines: &[&str]) {
        self.write(name, format!("{HEADER}\n{}\n", lines.join("\n")));
    }

    /// The names of what is in the folder.
    pub(crate) fn files(&self) -> Vec<String> {
        let files = std::fs::read_dir(self.folder.path()).expect("the folder is ours");
        let name = |file: std::io::Result<std::fs::DirEntry>| file.expect("listed").file_name();
        let mut names: Vec<_> = files.map(|file| name(file).to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shop"));
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

    /// Waits until at least so many events are stored while the program runs.
    pub(crate) async fn stored(&self, events: u64, running: &mut Running) {
        self.stored_in("shop.db", events, running).await;
    }

    /// The same of another database.
    pub(crate) async fn stored_in(&self, database: &str, events: u64, running: &mut Running) {
        let database = SqliteBackend::open(self.path(database)).await.expect("it is open to others");
        while database.head().await.expect("it is readable beside a writer").0 < events {
            assert_eq!(running.ended(), None, "it ended before {events} events were stored");
            tokio::task::yield_now().await;
        }
    }

    /// How many events are stored; what the store promises holds.
    pub(crate) async fn verified(&self) -> u64 {
        let database = SqliteBackend::open(self.path("shop.db")).await.expect("whatever ended the writer");
        assert_eq!(database.verify().await.expect("readable"), Vec::<String>::new());
        database.head().await.expect("readable").0
    }
}

/// A program that is killed with the test at the latest.
pub(crate) struct Running(Option<Child>);

impl Running {
    fn child(&mut self) -> &mut Child {
        self.0.as_mut().expect("taken only at the end")
    }

    /// The next line that it prints; empty if it has ended.
    pub(crate) fn line(&mut self) -> String {
        let mut line = Vec::new();
        let out = self.child().stdout.as_mut().expect("it is piped");
        // Byte by byte: what follows is for whoever reads next.
        while !line.ends_with(b"\n") {
            let mut byte = [0];
            match out.read(&mut byte).expect("it is open") {
                0 => break,
                _ => line.extend(byte),
            }
        }
        String::from_utf8(line).expect("it writes text")
    }

    /// Ctrl-C.
    pub(crate) fn interrupt(mut self) -> Ran {
        let signal = Command::new("kill").args(["-INT", &self.child().id().to_string()]).status();
        assert!(signal.expect("there is a `kill`").success());
        self.wait()
    }

    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child().try_wait().expect("it is our child")
    }

    /// `kill -9`.
    pub(crate) fn kill(mut self) -> ExitStatus {
        self.child().kill().expect("it is our child");
        self.child().wait().expect("it is our child")
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
        assert!(self.err.starts_with("shop: ") && self.err.ends_with('\n'), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in {self:?}");
        }
    }

    /// Imported now, imported before, skipped.
    #[track_caller]
    pub(crate) fn counts(&self) -> [u64; 3] {
        let line = self.out.lines().next().expect("an import says what it did").replace(',', "");
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        numbers.try_into().unwrap_or_else(|_| panic!("no three numbers in {line:?}"))
    }

    /// The numbers of the last line: orders, confirmed, undone, open.
    #[track_caller]
    pub(crate) fn orders(&self) -> [u64; 4] {
        let line = self.last().replace(',', "");
        let numbers: Vec<u64> = line.split_whitespace().filter_map(|word| word.parse().ok()).collect();
        numbers.try_into().unwrap_or_else(|_| panic!("no four numbers in {line:?}"))
    }

    /// Everything from the first table on.
    #[track_caller]
    pub(crate) fn figures(&self) -> &str {
        &self.out[self.out.find('┌').expect("a table")..]
    }

    pub(crate) fn last(&self) -> &str {
        self.out.lines().last().unwrap_or_default()
    }

    /// How many lines of a table begin with `name`.
    pub(crate) fn rows(&self, name: &str) -> usize {
        let begins = |line: &&str| line.trim_start_matches(['│', ' ']).starts_with(name);
        self.out.lines().filter(begins).count()
    }

    /// The cells of the row that begins with `name`.
    #[track_caller]
    pub(crate) fn row(&self, name: &str) -> Vec<&str> {
        let cells = |line| str::split(line, ['│', '┆']).map(str::trim).filter(|cell| !cell.is_empty());
        let mut rows = self.out.lines().map(|line| cells(line).collect::<Vec<_>>());
        rows.find(|row| row.first() == Some(&name)).unwrap_or_else(|| panic!("no {name} in {}", self.out))
    }
}

/// The first purchases of the real file, with its line ends.
pub(crate) fn first(purchases: usize) -> String {
    let whole = std::fs::read_to_string(Path::new(WHOLE)).expect("it comes with the example");
    whole.split_inclusive('\n').take(purchases + 1).collect()
}
