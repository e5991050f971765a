//! What the objects of a generation are called.
//!
//! A table that does not have its plain name has the build's suffix behind it: `~2.1` for generation 1 of version 2. An
//! index or a trigger has no meaning by its name and only must not have that of another: it has the plain name if that is
//! free when it is made, else one with the suffix, for good.

use super::builds::Build;
use crate::schema::quoted;

/// SQL that takes the plain names from one build and gives them to another. SQLite rewrites what refers to a table, so
/// foreign keys and triggers still mean the tables of their own build.
pub(super) fn swap(from: Option<&Build>, to: Option<&Build>) -> String {
    let away = from.into_iter().flat_map(|build| build.tables().map(|name| rename(name, &build.own(name))));
    let into = to.into_iter().flat_map(|build| build.tables().map(|name| rename(&build.own(name), name)));
    away.chain(into).collect()
}

/// SQL that renames a table.
pub(super) fn rename(from: &str, to: &str) -> String {
    format!("alter table {} rename to {};", quoted(from), quoted(to))
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
        let build = |suffix: &str, tables: &[&str]| Build {
            version: 1,
            generation: 1,
            current: true,
            plain: false,
            schema: String::new(),
            objects: tables.iter().map(|name| ("table".to_owned(), (*name).to_owned())).collect(),
            suffix: suffix.to_owned(),
        };
        let swapped = swap(Some(&build("~1.1", &["a", "b"])), Some(&build("~2.1", &["b", "c"])));
        let expected = r#"alter table "a" rename to "a~1.1";alter table "b" rename to "b~1.1";alter table "b~2.1" rename to "b";alter table "c~2.1" rename to "c";"#;
        assert_eq!(swapped, expected);
    }
}
