//! What errors have in common: their text without what differs from one to the next.

/// Bytes of a fingerprint.
const MAX: usize = 200;

/// An error of a step without its numbers, ids and quoted parts: those that failed for one reason have one fingerprint.
pub(crate) fn of_step(step: &str, error: &str) -> String {
    let (mut all, room) = (format!("{step}: "), MAX.saturating_sub(step.len() + 2));
    let error = of(error);
    all.push_str(error[..error.floor_char_boundary(room)].trim_end());
    all
}

/// A text without its numbers, ids and quoted parts.
pub(crate) fn of(text: &str) -> String {
    let (mut all, mut rest) = (String::new(), text.trim());
    while let Some(first) = rest.chars().next() {
        let in_word = all.ends_with(|c: char| c.is_alphanumeric() || c == '#');
        let (part, behind) = rest.split_at(match first {
            '"' | '`' => quoted(rest, first),
            '\'' if !in_word => quoted(rest, first),
            _ if first.is_alphanumeric() => rest.find(|c: char| !c.is_alphanumeric()).unwrap_or(rest.len()),
            _ => first.len_utf8(),
        });
        if is_number(part, &all) {
            number(&mut all);
        } else if part.len() > 1 && part.starts_with(['"', '`', '\'']) {
            all.push_str("\"..\"");
        } else {
            all.push_str(part);
        }
        rest = behind;
    }
    all.truncate(all[..all.floor_char_boundary(MAX)].trim_end().len());
    all
}

/// Whether a word is a number, or a part of an id.
fn is_number(word: &str, before: &str) -> bool {
    let is_word = word.chars().all(char::is_alphanumeric);
    let is_hex = || word.chars().all(|c| c.is_ascii_hexdigit());
    is_word && (word.contains(|c: char| c.is_ascii_digit()) || before.ends_with("#-") && is_hex())
}

/// How long a quoted part is; 1 if it does not end, or is an apostrophe.
fn quoted(text: &str, quote: char) -> usize {
    text[1..].find(quote).map_or(1, |end| end + 2)
}

/// One sign for a number, and for several that belong together: an address, a time, an id.
fn number(all: &mut String) {
    let before = all.trim_end_matches(['.', ':', '-']);
    match before.ends_with('#') {
        true => all.truncate(before.len()),
        false => all.push('#'),
    }
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn what_differs_from_one_error_to_the_next_is_left_out() {
        let same = [
            ("charge: 503 after 12ms", "charge: # after #"),
            ("connect to 10.0.0.7:5432", "connect to #"),
            ("order 0190a4f2-77aa-7000-beef-00000000000b is gone", "order # is gone"),
            ("no \"tea\" in `stock`, said 'ada b'", "no \"..\" in \"..\", said \"..\""),
            ("it can't be", "it can't be"),
            ("it said \"no", "it said \"no"),
            ("  größer als 7 €  ", "größer als # €"),
        ];
        for (text, expected) in same {
            assert_eq!(of(text), expected);
        }
        assert!(of(&"ä".repeat(500)).len() <= 200);
    }

    #[test]
    fn a_fingerprint_is_its_own() {
        for text in ["charge: 503 \"x\" - 7", "a.1:2-3 b", "can't 'do' it"] {
            assert_eq!(of(&of(text)), of(text));
        }
    }
}
