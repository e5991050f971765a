//! The program, and three databases for it.

use std::io::{BufRead as _, BufReader, Lines, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use es_postgres::testing::{self, Database};
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Row as _};

pub(crate) const METHODS: [&str; 5] = ["saga", "process", "tcc", "two-phase", "undo-log"];

pub(crate) fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bank"));
    command.args(args).env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// Runs it to its end.
pub(crate) fn run(args: &[&str]) -> Ran {
    Ran::of(program(args).output().expect("the program starts"))
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
        assert!(self.err.starts_with("bank: "), "{self:?}");
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in {self:?}");
        }
    }

    pub(crate) fn last(&self) -> &str {
        self.out.lines().last().unwrap_or_default()
    }
}

/// The journal and two banks, for one test.
pub(crate) struct Town {
    databases: Vec<Database>,
    urls: String,
}

impl Town {
    /// With tables and accounts.
    pub(crate) async fn new() -> Self {
        let mut databases = Vec::new();
        for _ in 0..3 {
            databases.push(testing::database().await);
        }
        let urls: Vec<&str> = databases.iter().map(Database::url).collect();
        let town = Self { urls: urls.join(","), databases };
        let first =
            town.run(&["transfer", "--by", "two-phase", "--from", "a-1", "--to", "b-1", "--cents", "1"]);
        assert!(first.well().out.contains("settled"));
        town
    }

    pub(crate) fn run(&self, args: &[&str]) -> Ran {
        run(&[args, &["--databases", &self.urls]].concat())
    }

    /// A program that transfers what it is told.
    pub(crate) fn worker(&self, method: &str) -> Worker {
        let args = ["work", "--by", method, "--databases", &self.urls];
        let mut child =
            program(&args).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("the program starts");
        let (input, output) = (child.stdin.take(), child.stdout.take().expect("it is a pipe"));
        let mut worker = Worker { child, input, lines: BufReader::new(output).lines() };
        assert_eq!(worker.hear(), "ready");
        worker
    }

    /// Of a bank.
    pub(crate) async fn execute(&self, bank: &str, statement: &'static str) -> u64 {
        let done = sqlx::query(statement).execute(&mut self.connect(bank).await).await;
        done.expect("the statement is good").rows_affected()
    }

    async fn connect(&self, bank: &str) -> PgConnection {
        let at = if bank == "a" { 1 } else { 2 };
        PgConnection::connect(self.databases[at].url()).await.expect("the server is ours")
    }

    /// The balance of an account such as `a-17`, and what is set aside there.
    pub(crate) async fn account(&self, id: &str) -> (i64, i64) {
        let (bank, number) = id.split_once('-').expect("it is an account");
        let number: i32 = number.parse().expect("it is an account");
        let find = "select balance, reserved + expected from accounts where number = $1";
        let row = sqlx::query(find).bind(number).fetch_one(&mut self.connect(bank).await).await;
        let row = row.expect("the account is there");
        (row.get(0), row.get(1))
    }

    /// All money of both banks.
    pub(crate) async fn total(&self) -> i64 {
        let (sum, mut total) = ("select sum(balance)::bigint from accounts", 0);
        for bank in ["a", "b"] {
            let sum = sqlx::query_scalar::<_, i64>(sum).fetch_one(&mut self.connect(bank).await).await;
            total += sum.expect("the table is there");
        }
        total
    }
}

/// A program that transfers what it is told. It is killed with the test at the latest.
pub(crate) struct Worker {
    child: Child,
    input: Option<ChildStdin>,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Worker {
    /// Key, from, to, cents.
    pub(crate) fn ask(&mut self, line: &str) {
        writeln!(self.input.as_mut().expect("it listens"), "{line}").expect("it listens");
    }

    pub(crate) fn hear(&mut self) -> String {
        self.lines.next().expect("it says something").expect("it writes text")
    }

    /// What came of it.
    pub(crate) fn transfer(&mut self, line: &str) -> String {
        self.ask(line);
        let (said, key) = (self.hear(), line.split(' ').next().expect("a key"));
        said.strip_prefix(&format!("{key} ")).expect("it is about that one").to_owned()
    }

    /// Lets it end what it has begun.
    pub(crate) fn end(mut self) {
        self.input = None;
        assert!(self.child.wait().expect("it is our child").success());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            self.child.kill().expect("it runs, and is our child");
            self.child.wait().expect("it was killed");
        }
    }
}
