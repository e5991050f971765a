//! Names and versions across an event enum. What is wrong is reported and left out.

use std::collections::HashMap;

use quote::ToTokens;
use syn::LitStr;

use crate::ast::{EventEnum, Variant};
use crate::ctxt::Ctxt;
use crate::names::check_stored;

pub(crate) fn check(cx: &Ctxt, events: &mut EventEnum) {
    names(cx, events);
    for variant in &mut events.variants {
        upcasts(cx, variant);
        tags(cx, variant);
    }
    payloads(cx, &mut events.variants);
}

/// Every stored name is allowed, and means one thing.
fn names(cx: &Ctxt, events: &EventEnum) {
    let mut seen: HashMap<String, String> = HashMap::new();
    let mut take = |name: &LitStr, of: String| {
        check_stored(cx, "the stored name", &name.value(), name.span());
        if let Some(first) = seen.get(&name.value()) {
            let text = format!(
                "the stored name `{}` is that of {first} already: a name means one thing",
                name.value()
            );
            cx.error_at(name.span(), text);
        } else {
            seen.insert(name.value(), of);
        }
    };
    for variant in &events.variants {
        take(&variant.name, format!("`{}`", variant.ident));
    }
    for variant in &events.variants {
        for old in &variant.was {
            take(old, format!("`{}`", variant.ident));
        }
    }
    for old in &events.retired {
        take(&old.name, format!("the retired `{}`", text(&old.shape)));
    }
}

/// The steps lead, one by one, to the version before the current one.
fn upcasts(cx: &Ctxt, variant: &mut Variant) {
    let version = variant.version;
    let mut kept: Vec<crate::ast::Upcast> = Vec::new();
    for step in std::mem::take(&mut variant.upcasts) {
        let schema = step.schema;
        if schema == 0 {
            cx.error(&step.key, "schemas count from 1");
        } else if schema >= version {
            let next = schema + 1;
            let why = format!("`{}` is at version {version}", variant.ident);
            cx.error(
                &step.key,
                format!("schema {schema} is not an older one: {why}; write `version = {next}`?"),
            );
        } else if kept.iter().any(|k| k.schema == schema) {
            cx.error(&step.key, format!("schema {schema} is upcast twice"));
        } else {
            kept.push(step);
        }
    }
    kept.sort_by_key(|step| step.schema);
    for (at, step) in kept.iter().enumerate() {
        let next = kept.get(at + 1).map_or(version, |n| n.schema);
        if next > step.schema + 1 {
            let missing = step.schema + 1;
            let why = format!("`{}` becomes the shape of schema {missing}", text(&step.shape));
            cx.error(&step.key, format!("{why}, which is missing: add `{missing} = Shape`"));
        }
    }
    variant.upcasts = kept;
}

fn tags(cx: &Ctxt, variant: &Variant) {
    for (at, tag) in variant.tags.iter().enumerate() {
        if variant.tags.iter().take(at).any(|t| t.name == tag.name && text(&t.field) == text(&tag.field)) {
            cx.error(&tag.field, format!("the tag `{}` is given twice", tag.name));
        }
    }
}

/// A payload belongs to one variant: it has one stored name.
fn payloads(cx: &Ctxt, variants: &mut Vec<Variant>) {
    let mut first: HashMap<String, String> = HashMap::new();
    variants.retain(|variant| {
        let payload = text(&variant.payload);
        if let Some(other) = first.get(&payload) {
            let why = format!("`{payload}` is the payload of the variant `{other}` already");
            cx.error(
                &variant.payload,
                format!("{why}: a payload has one stored name, so each variant has its own struct"),
            );
            return false;
        }
        first.insert(payload, variant.ident.to_string());
        true
    });
}

/// Tokens as people write them.
fn text(tokens: impl ToTokens) -> String {
    tokens.to_token_stream().to_string().replace(" :: ", "::")
}
