//! Arguments of a function: bound to a statement, or written into a message of several statements.

use std::borrow::Cow;

use bytes::Bytes;
use serde::Serialize;
use sqlx::Postgres;
use sqlx::postgres::PgArguments;
use sqlx::query::Query;
use uuid::Uuid;

use crate::batch::hex;

#[derive(Debug)]
pub(crate) enum Arg {
    Uuid(Option<Uuid>),
    Int(i32),
    Long(Option<i64>),
    Uuids(Vec<Uuid>),
    MaybeUuids(Option<Vec<Option<Uuid>>>),
    Ints(Vec<i32>),
    Longs(Vec<i64>),
    MaybeLongs(Option<Vec<Option<i64>>>),
    Texts(Option<Vec<String>>),
    Bytes(Vec<Bytes>),
    MaybeBytes(Vec<Option<Bytes>>),
    /// An array of objects.
    Json(Option<String>),
}

impl Arg {
    pub(crate) fn json<T: Serialize>(rows: &[T]) -> Self {
        Self::Json((!rows.is_empty()).then(|| serde_json::to_string(rows).expect("rows serialize")))
    }

    pub(crate) fn is_nothing(&self) -> bool {
        match self {
            Self::Uuid(value) => value.is_none(),
            Self::Int(value) => *value == 0,
            Self::Long(value) => value.is_none(),
            Self::Uuids(all) => all.is_empty(),
            Self::MaybeUuids(all) => all.is_none(),
            Self::Ints(all) => all.is_empty(),
            Self::Longs(all) => all.is_empty(),
            Self::MaybeLongs(all) => all.is_none(),
            Self::Texts(all) => all.as_ref().is_none_or(Vec::is_empty),
            Self::Bytes(all) => all.is_empty(),
            Self::MaybeBytes(all) => all.is_empty(),
            Self::Json(text) => text.is_none(),
        }
    }

    pub(crate) fn bind(self, query: Query<'_, Postgres, PgArguments>) -> Query<'_, Postgres, PgArguments> {
        match self {
            Self::Uuid(value) => query.bind(value),
            Self::Int(value) => query.bind(value),
            Self::Long(value) => query.bind(value),
            // An empty array is not null, and would be walked through.
            Self::Uuids(all) => query.bind((!all.is_empty()).then_some(all)),
            Self::MaybeUuids(all) => query.bind(all),
            Self::Ints(all) => query.bind(all),
            Self::Longs(all) => query.bind(all),
            Self::MaybeLongs(all) => query.bind(all),
            Self::Texts(all) => query.bind(all),
            Self::Bytes(all) => query.bind(all.iter().map(|b| &b[..]).collect::<Vec<_>>()),
            Self::MaybeBytes(all) => query.bind(all.iter().map(|b| b.as_deref()).collect::<Vec<_>>()),
            Self::Json(text) => query.bind(text),
        }
    }

    /// As SQL, where no argument can be bound.
    pub(crate) fn literal(&self) -> String {
        match self {
            Self::Uuid(value) => {
                value.map_or_else(|| "null::uuid".to_owned(), |value| format!("'{value}'::uuid"))
            }
            Self::Int(value) => value.to_string(),
            Self::Long(value) => value.map_or_else(|| "null::bigint".to_owned(), |v| format!("{v}::bigint")),
            Self::Uuids(all) if all.is_empty() => "null::uuid[]".to_owned(),
            Self::Uuids(all) => array("uuid", all.iter().map(|v| v.to_string().into())),
            Self::MaybeUuids(None) => "null::uuid[]".to_owned(),
            Self::MaybeUuids(Some(all)) => {
                array("uuid", all.iter().map(|v| v.map_or(Cow::Borrowed("null"), |v| v.to_string().into())))
            }
            Self::Ints(all) => array("integer", all.iter().map(|v| v.to_string().into())),
            Self::Longs(all) => array("bigint", all.iter().map(|v| v.to_string().into())),
            Self::MaybeLongs(None) => "null::bigint[]".to_owned(),
            Self::MaybeLongs(Some(all)) => {
                array("bigint", all.iter().map(|v| v.map_or(Cow::Borrowed("null"), |v| v.to_string().into())))
            }
            Self::Texts(None) => "null::text[]".to_owned(),
            Self::Texts(Some(all)) => array("text", all.iter().map(|text| element(text).into())),
            Self::Bytes(all) => array("bytea", all.iter().map(|bytes| bytea(bytes).into())),
            Self::MaybeBytes(all) => array(
                "bytea",
                all.iter()
                    .map(|bytes| bytes.as_ref().map_or(Cow::Borrowed("null"), |bytes| bytea(bytes).into())),
            ),
            Self::Json(None) => "null::jsonb".to_owned(),
            Self::Json(Some(text)) => format!("{}::jsonb", quote(text)),
        }
    }
}

fn array(kind: &str, elements: impl Iterator<Item = Cow<'static, str>>) -> String {
    let all: Vec<_> = elements.collect();
    format!("{}::{kind}[]", quote(&format!("{{{}}}", all.join(","))))
}

/// An element of an array in its text form.
fn element(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn bytea(bytes: &[u8]) -> String {
    format!("\"\\\\x{}\"", hex(bytes))
}

/// A literal that means the same whatever `standard_conforming_strings` is: the transaction is the user's.
pub(crate) fn quote(text: &str) -> String {
    format!("E'{}'", text.replace('\\', "\\\\").replace('\'', "''"))
}
