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
    eprintln!("bank: {}", es_core::chain(error.as_ref()));
}

/// `1,234,567`.
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let groups: Vec<&[u8]> = digits.as_bytes().rchunks(3).rev().collect();
    let text = |group| str::from_utf8(group).expect("digits");
    groups.into_iter().map(text).collect::<Vec<_>>().join(",")
}

/// `1,234.56`.
pub(crate) fn dollars(cents: i64) -> String {
    let (sign, cents) = (if cents < 0 { "-" } else { "" }, cents.unsigned_abs());
    format!("{sign}{}.{:02}", thousands(cents / 100), cents % 100)
}

#[cfg(test)]
mod tests {
    #[test]
    fn thousands_are_grouped() {
        let numbers = [0, 999, 1_000, 1_234_567];
        assert_eq!(numbers.map(super::thousands), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn cents_are_the_last_two_digits() {
        assert_eq!([5, 123_456, -150].map(super::dollars), ["0.05", "1,234.56", "-1.50"]);
    }
}
