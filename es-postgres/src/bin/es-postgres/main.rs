//! The operator's command: see `es-postgres --help`.

mod arguments;
mod run;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

use self::arguments::Arguments;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let answer = match run::run(Arguments::parse()).await {
        Ok(answer) => answer,
        Err(error) => {
            say(&format!("error: {}\n", es_core::chain(&error)));
            return ExitCode::from(2);
        }
    };
    say(&answer.words);
    // A reader that has seen enough closes its end: `es-postgres stats | head`.
    match io::stdout().write_all(answer.data.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            say(&format!("error: the output cannot be written: {error}\n"));
            ExitCode::from(2)
        }
        _ => ExitCode::from(u8::from(!answer.good)),
    }
}

/// Words for people. If nobody can hear them, nobody can be told.
fn say(words: &str) {
    drop(io::stderr().write_all(words.as_bytes()));
}
