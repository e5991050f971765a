//! What a URL of PostgreSQL is made of, as far as it is needed here.

/// Text within a URL: all but letters, digits and `-._~` as `%XX`.
pub(super) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(byte.into()),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// The same URL with another database; none if it is no URL of PostgreSQL.
pub(super) fn with_database(url: &str, database: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    if !matches!(scheme, "postgres" | "postgresql") {
        return None;
    }
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest.split('/').next()?;
    // This parameter would win over the path.
    let others: Vec<&str> =
        query.split('&').filter(|pair| !pair.is_empty() && !pair.starts_with("dbname=")).collect();
    let query = if others.is_empty() { String::new() } else { format!("?{}", others.join("&")) };
    Some(format!("{scheme}://{authority}/{}{query}", encode(database)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_database_keeps_the_rest() {
        let url = "postgres://me:p%40ss@host:5433/old?sslmode=require&dbname=older&application_name=x";
        let expected = "postgres://me:p%40ss@host:5433/new?sslmode=require&application_name=x";
        assert_eq!(with_database(url, "new").as_deref(), Some(expected));
    }

    #[test]
    fn a_url_without_a_database_gets_one() {
        assert_eq!(with_database("postgresql://host", "new").as_deref(), Some("postgresql://host/new"));
        assert_eq!(
            with_database("postgres:///old?host=%2Ftmp", "new").as_deref(),
            Some("postgres:///new?host=%2Ftmp")
        );
    }

    #[test]
    fn another_url_is_refused() {
        assert_eq!(with_database("sqlite://file", "new"), None);
        assert_eq!(with_database("host=localhost", "new"), None);
    }

    #[test]
    fn what_a_url_reads_otherwise_is_encoded() {
        assert_eq!(encode("/tmp/a b"), "%2Ftmp%2Fa%20b");
    }
}
