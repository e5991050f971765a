//! `#[derive(Aggregate)]`: any type of the user's, and what its attribute says about it.

use proc_macro2::{Span, TokenStream};
use quote::ToTokens;
use syn::{Data, DeriveInput, Generics, Ident, LitStr, Path, Type};

use crate::attr::{self, Entry};
use crate::ctxt::Ctxt;
use crate::names::{check_aggregate, snake_case};

const KEYS: &[&str] = &["id", "event", "error", "name", "snapshot", "snapshots", "crate"];

pub(crate) struct AggregateType {
    pub(crate) krate: TokenStream,
    pub(crate) ident: Ident,
    pub(crate) name: LitStr,
    pub(crate) id: Option<Type>,
    pub(crate) event: Option<Type>,
    pub(crate) error: Option<Type>,
    pub(crate) snapshots: Option<Snapshots>,
}

pub(crate) enum Snapshots {
    /// `snapshot(every = 200, version = 2)`
    Every { n: u64, schema: u32, span: Span },
    /// `snapshots = path::to::policy`
    Policy(Path),
}

impl AggregateType {
    pub(crate) fn parse(cx: &Ctxt, input: &DeriveInput) -> Option<Self> {
        if let Data::Union(union) = &input.data {
            cx.error(union.union_token, "`#[derive(Aggregate)]` goes on a struct or an enum");
            return None;
        }
        if is_generic(cx, &input.generics, "an aggregate", "its state is kept and stored") {
            return None;
        }
        let entries = attr::read_all(cx, &input.attrs, "aggregate", KEYS);
        let find = |key: &str| entries.iter().find(|e| e.key() == key);
        let ty = |key: &str| find(key).and_then(|e| e.parse(cx, "Type"));
        missing(cx, input, &entries);
        let name = find("name")
            .and_then(|e| e.text(cx))
            .unwrap_or_else(|| LitStr::new(&snake_case(&input.ident.to_string()), input.ident.span()));
        check_aggregate(cx, &name.value(), name.span());
        let krate = attr::krate(cx, &entries);
        let snapshots = snapshots(cx, find("snapshot"), find("snapshots"));
        let (id, event, error) = (ty("id"), ty("event"), ty("error"));
        Some(Self { krate, ident: input.ident.clone(), name, id, event, error, snapshots })
    }
}

/// Everything that is required and not there, in one line.
fn missing(cx: &Ctxt, input: &DeriveInput, entries: &[Entry]) {
    let required = [("id", "AccountId"), ("event", "AccountEvent"), ("error", "AccountError")];
    let lacks = |key: &str| !entries.iter().any(|e| e.key() == key);
    let lacking: Vec<_> = required.iter().filter(|(key, _)| lacks(key)).collect();
    if lacking.is_empty() {
        return;
    }
    let names: Vec<_> = lacking.iter().map(|(key, _)| format!("`{key}`")).collect();
    let example: Vec<_> = lacking.iter().map(|(key, ty)| format!("{key} = {ty}")).collect();
    let text = format!("an aggregate needs {}: add `#[aggregate({})]`", names.join(", "), example.join(", "));
    match input.attrs.iter().find(|a| a.path().is_ident("aggregate")) {
        Some(attr) => cx.error(&attr.meta, text),
        None => cx.error(&input.ident, text),
    }
}

fn snapshots(cx: &Ctxt, every: Option<&Entry>, policy: Option<&Entry>) -> Option<Snapshots> {
    if let (Some(_), Some(both)) = (every, policy) {
        cx.error_at(both.span(), "`snapshot(..)` and `snapshots = ..` say the same: keep one");
        return None;
    }
    if let Some(entry) = policy {
        return entry.parse(cx, "path::to::policy").map(Snapshots::Policy);
    }
    let entry = every?;
    let entries = entry.list(cx, "every = 200").into_iter().map(|e| (e.key(), e)).collect::<Vec<_>>();
    let known = ["every", "version"];
    for (key, unknown) in entries.iter().filter(|(key, _)| !known.contains(&&**key)) {
        cx.error_at(unknown.span(), format!("unknown key `{key}`; known are `every`, `version`"));
    }
    let find = |key: &str| entries.iter().find(|(k, _)| k == key).map(|(_, e)| e);
    let Some(n) = find("every") else {
        if !entries.is_empty() {
            cx.error_at(entry.span(), "write `snapshot(every = 200)`: a snapshot each 200 events");
        }
        return None;
    };
    let schema = find("version").and_then(|e| e.count(cx)).map_or(1, |(schema, _)| schema);
    n.count(cx).map(|(n, _)| Snapshots::Every { n, schema, span: entry.span() })
}

/// Whether there are type parameters or lifetimes, which is then reported.
pub(super) fn is_generic(cx: &Ctxt, generics: &Generics, what: &str, why: &str) -> bool {
    let wrong = generics.params.first().map(ToTokens::to_token_stream);
    if let Some(wrong) = &wrong {
        cx.error(
            wrong,
            format!("{what} has no type parameters and no lifetimes: {why}, so it is one owned type"),
        );
    }
    wrong.is_some()
}
