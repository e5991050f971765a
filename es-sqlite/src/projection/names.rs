//! What the objects of a generation are called.
//!
//! A table that is not of the current generation has the number behind its name. An index or a trigger has no meaning by
//! its name and only must not have that of another, so it keeps the number (none for the first generation) for good.

use es_core::store::Generation;

use crate::schema::quoted;

/// A table or another object beside the one that has the plain name.
pub(super) fn beside(name: &str, generation: Generation) -> String {
    format!("{name}~{generation}")
}

/// SQL that gives the plain names of tables to another generation. SQLite rewrites what refers to a table, so foreign
/// keys and triggers go on meaning the tables of their own generation.
pub(super) fn swap(
    tables: impl Iterator<Item: AsRef<str>> + Clone,
    away: Option<Generation>,
    into: Option<Generation>,
) -> String {
    let rename = |from: &str, to: &str| format!("alter table {} rename to {};", quoted(from), quoted(to));
    let away = away.map(|generation| {
        tables.clone().map(move |name| rename(name.as_ref(), &beside(name.as_ref(), generation)))
    });
    let into = into
        .map(|generation| tables.map(move |name| rename(&beside(name.as_ref(), generation), name.as_ref())));
    away.into_iter().flatten().chain(into.into_iter().flatten()).collect()
}

/// A `CREATE INDEX` or `CREATE TRIGGER`, as SQLite stores it, under another name. SQLite writes the words before the
/// name itself, and keeps the text from the name on.
pub(super) fn create_as(stored: &str, name: &str) -> Option<String> {
    let words = ["CREATE INDEX ", "CREATE UNIQUE INDEX ", "CREATE TRIGGER "];
    let words = words.into_iter().find(|words| stored.starts_with(words))?;
    let rest = &stored[words.len()..];
    Some(format!("{words}{}{}", quoted(name), &rest[token(rest)?..]))
}

/// The length of the name that a text begins with: quoted in one of SQLite's ways, or plain.
fn token(text: &str) -> Option<usize> {
    let close = match text.chars().next()? {
        '[' => return text.find(']').map(|end| end + 1),
        quote @ ('"' | '`' | '\'') => quote,
        _ => {
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '$' || !c.is_ascii();
            return text.find(|c| !plain(c));
        }
    };
    let mut at = 1;
    loop {
        at += text[at..].find(close)? + 1;
        if !text[at..].starts_with(close) {
            return Some(at);
        }
        at += 1; // a doubled quote is one of the name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_gets_another_name_however_its_own_is_quoted() {
        for name in ["i", "[i \"x]", "\"i \"\" x\"", "`i``x`", "'i '' x'", "größe_1$"] {
            let stored = format!("CREATE UNIQUE INDEX {name} ON \"t\" (\"a\")");
            let expected = Some("CREATE UNIQUE INDEX \"i~2\" ON \"t\" (\"a\")".to_owned());
            assert_eq!(create_as(&stored, "i~2"), expected, "{name}");
        }
        let trigger = "CREATE TRIGGER up/**/after insert on t begin select 1; end";
        let expected = "CREATE TRIGGER \"a\"\"b\"/**/after insert on t begin select 1; end";
        assert_eq!(create_as(trigger, "a\"b").as_deref(), Some(expected));
        assert_eq!(create_as("CREATE TABLE t (a)", "u"), None);
    }

    #[test]
    fn one_generation_steps_aside_before_the_other_comes_in() {
        let swapped = swap(["a", "b"].into_iter(), Some(1), Some(2));
        let expected = r#"alter table "a" rename to "a~1";alter table "b" rename to "b~1";alter table "a~2" rename to "a";alter table "b~2" rename to "b";"#;
        assert_eq!(swapped, expected);
    }
}
