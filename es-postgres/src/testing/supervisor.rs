//! The shell that keeps a server, and that outlives this process by as long as it takes to clean up.

use std::env;
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use super::{ServerError, ServerOptions, user};

/// A running `supervisor.sh`.
#[derive(Debug)]
pub(super) struct Supervisor {
    shell: Child,
    /// Taken before the shell is waited for: its end is what the shell cleans up at.
    words: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    folder: PathBuf,
}

impl Supervisor {
    /// Starts the shell, as a user that may run a server; it makes the folder of the server.
    pub(super) fn spawn(bin: &Path, options: &ServerOptions) -> Result<Self, ServerError> {
        let user = user::unprivileged()?;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", include_str!("supervisor.sh"), "es-postgres"]);
        // Who names a folder for temporary files means it.
        let memory = !options.is_durable() && env::var_os("TMPDIR").is_none();
        command.arg(bin).arg(env::temp_dir()).arg(if memory { "memory" } else { "disk" });
        command.args(options.arguments());
        // Not in our group of processes: Ctrl-C is for us, and the shell cleans up after us.
        command.process_group(0).current_dir("/");
        // Nobody who reads our output waits for the server to end.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        if let Some(user) = &user {
            command.uid(user.uid).gid(user.gid);
        }
        let mut shell = command.spawn().map_err(|source| failed("start", Some(source)))?;
        let words = shell.stdin.take();
        let answers = BufReader::new(shell.stdout.take().expect("its output is a pipe"));
        let mut supervisor = Self { shell, words, answers, folder: PathBuf::new() };
        let answer = supervisor.answer("make a temporary folder")?;
        if answer == "unreachable" {
            let user = user.map_or_else(|| "of this process".to_owned(), |user| user.name);
            return Err(ServerError::Unreachable { bin: bin.to_owned(), user });
        }
        supervisor.folder = answer.into();
        Ok(supervisor)
    }

    /// The folder with the data, the log and the socket.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Says one word, and waits for the answer.
    pub(super) fn ask(&mut self, word: &str) -> Result<String, ServerError> {
        let words = self.words.as_mut().expect("it is taken at the end only");
        writeln!(words, "{word}").map_err(|source| failed(word, Some(source)))?;
        self.answer(word)
    }

    fn answer(&mut self, what: &str) -> Result<String, ServerError> {
        let mut line = String::new();
        self.answers.read_line(&mut line).map_err(|source| failed(what, Some(source)))?;
        line.pop().map(|_newline| line).ok_or_else(|| failed(what, None))
    }
}

impl Drop for Supervisor {
    fn drop(&mut self) {
        drop(self.words.take());
        // It ends by itself: it gives the server some seconds, and then kills it.
        let _ended = self.shell.wait();
    }
}

fn failed(what: &str, source: Option<io::Error>) -> ServerError {
    ServerError::Supervisor { what: what.to_owned(), source }
}
