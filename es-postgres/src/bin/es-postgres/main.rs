//! The operator's command: see `es-postgres --help`.

mod arguments;
mod processor;
mod rebuild;
mod run;

use std::io::{self, Write as _};
use std::process::ExitCode;

use clap::Parser as _;

use self::arguments::Arguments;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let json = arguments.json;
    let (data, words, code) = match run::run(arguments).await {
        Ok(answer) if json => (answer.json(), String::new(), u8::from(!answer.good)),
        Ok(answer) => (answer.data, answer.words, u8::from(!answer.good)),
        Err(failed) if json => (failed.json(), String::new(), 2),
        Err(failed) => (String::new(), format!("error: {}\n", failed.words), 2),
    };
    say(&words);
    // A reader that has seen enough closes its end: `es-postgres stats | head`.
    match io::stdout().write_all(data.as_bytes()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            say(&format!("error: the output cannot be written: {error}\n"));
            ExitCode::from(2)
        }
        _ => ExitCode::from(code),
    }
}

/// Words for people. If nobody can hear them, nobody can be told.
fn say(words: &str) {
    drop(io::stderr().write_all(words.as_bytes()));
}
