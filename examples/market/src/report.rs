//! What a person sees.

use std::io::Write as _;

/// The program's answer. Ends the program if nobody reads it any more, as after `| head`.
pub(crate) fn line(text: &str) {
    if writeln!(std::io::stdout(), "{text}").is_err() {
        std::process::exit(1);
    }
}

/// One line, with everything that led to it.
#[expect(clippy::print_stderr, reason = "this is where a person looks for it")]
pub(crate) fn error(error: &anyhow::Error) {
    eprintln!("market: {}", es_core::chain(error.as_ref()));
}
