//! Stored names: made from Rust names, and checked as the store checks them.

use proc_macro2::Span;

use crate::ctxt::Ctxt;

/// Longest stored name of an event, projection or reactor.
const MAX_NAME: usize = 255;
/// Longest name of an aggregate: the rest of a stream id is for the id.
const MAX_AGGREGATE: usize = 100;

/// `MoneyDeposited` to `money_deposited`, `HTTPCall` to `http_call`, `WithdrawnV2` to `withdrawn_v2`.
pub(crate) fn snake_case(name: &str) -> String {
    let chars: Vec<char> = name.strip_prefix("r#").unwrap_or(name).chars().collect();
    let mut snake = String::new();
    for (at, c) in chars.iter().enumerate() {
        let before = at.checked_sub(1).and_then(|i| chars.get(i));
        let after = chars.get(at + 1);
        let word_ends = before.is_some_and(|b| b.is_lowercase() || b.is_numeric());
        let acronym_ends =
            before.is_some_and(|b| b.is_uppercase()) && after.is_some_and(|a| a.is_lowercase());
        if c.is_uppercase() && (word_ends || acronym_ends) {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
    }
    snake
}

/// A stored name: `[A-Za-z0-9_.:-]{1,255}`, and not `es.`, which is the framework's.
pub(crate) fn check_stored(cx: &Ctxt, what: &str, name: &str, at: Span) {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "_.:-".contains(c);
    if name.is_empty() {
        cx.error_at(at, format!("{what} is empty"));
    } else if let Some(wrong) = name.chars().find(|c| !allowed(*c)) {
        cx.error_at(at, format!("{what} `{name}` has {wrong:?}; allowed are A-Z a-z 0-9 _ . : -"));
    } else if name.len() > MAX_NAME {
        cx.error_at(at, format!("{what} is {} bytes; at most {MAX_NAME} are allowed", name.len()));
    } else if name.starts_with("es.") {
        cx.error_at(at, format!("{what} `{name}` starts with `es.`, which is reserved for the framework"));
    }
}

/// The name of an aggregate, the first part of its stream ids.
pub(crate) fn check_aggregate(cx: &Ctxt, name: &str, at: Span) {
    let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.".contains(c);
    if name.is_empty() {
        cx.error_at(at, "the aggregate's name is empty");
    } else if name.contains('-') {
        let why = "`-` separates the name from the id in a stream id, `name-id`";
        cx.error_at(at, format!("the aggregate's name `{name}` has '-'; {why}: write `_`"));
    } else if let Some(wrong) = name.chars().find(|c| !allowed(*c)) {
        cx.error_at(at, format!("the aggregate's name `{name}` has {wrong:?}; allowed are a-z 0-9 _ ."));
    } else if name.len() > MAX_AGGREGATE {
        cx.error_at(
            at,
            format!("the aggregate's name is {} bytes; at most {MAX_AGGREGATE} are allowed", name.len()),
        );
    } else if name.starts_with("es.") {
        cx.error_at(
            at,
            format!("the aggregate's name `{name}` starts with `es.`, which is reserved for the framework"),
        );
    }
}

/// The known word that was probably meant.
pub(crate) fn nearest<'a>(word: &str, known: &[&'a str]) -> Option<&'a str> {
    let near = known.iter().map(|k| (distance(word, k), *k)).min()?;
    (near.0 <= 2 && near.0 < word.len()).then_some(near.1)
}

/// Edit distance (Levenshtein), one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (j, to) in b.iter().enumerate() {
            let above = row[j + 1];
            let cost = (diagonal + usize::from(from != *to)).min(above + 1).min(left + 1);
            row[j] = left;
            diagonal = above;
            left = cost;
        }
        row[b.len()] = left;
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stored_name_is_made_of_the_words_of_a_rust_name() {
        let names = [("Opened", "opened"), ("MoneyDeposited", "money_deposited"), ("HTTPCall", "http_call")];
        for (rust, stored) in names {
            assert_eq!(snake_case(rust), stored);
        }
        assert_eq!(snake_case("WithdrawnV2"), "withdrawn_v2");
        assert_eq!(snake_case("r#Type"), "type");
        assert_eq!(snake_case("already_snake"), "already_snake");
    }

    #[test]
    fn a_slip_of_the_finger_finds_the_word() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(nearest("prefx", &["codec", "prefix"]), Some("prefix"));
        assert_eq!(nearest("zebra", &["codec", "prefix"]), None);
    }

    #[test]
    fn names_outside_the_alphabet_and_reserved_names_are_refused() {
        let wrong = |name: &str| {
            let cx = Ctxt::new();
            check_stored(&cx, "the name", name, Span::call_site());
            !cx.check().is_empty()
        };
        assert!(wrong("") && wrong("a b") && wrong("ü") && wrong("es.x") && wrong(&"a".repeat(256)));
        assert!(!wrong("account.opened") && !wrong("A:b-c_1") && !wrong(&"a".repeat(255)));
    }
}
