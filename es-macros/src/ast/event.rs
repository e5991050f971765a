//! `#[derive(Event)]`: an enum of newtype variants.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Data, DeriveInput, Fields, Ident, LitInt, LitStr, Path, Type};

use crate::attr::{self, Entry, Value};
use crate::ctxt::Ctxt;
use crate::names::{check_stored, snake_case};

const ENUM_KEYS: &[&str] = &["prefix", "codec", "retired", "crate"];
const VARIANT_KEYS: &[&str] = &["name", "version", "upcast", "was", "tags"];

pub(crate) struct EventEnum {
    pub(crate) krate: TokenStream,
    pub(crate) ident: Ident,
    pub(crate) codec: TokenStream,
    pub(crate) variants: Vec<Variant>,
    pub(crate) retired: Vec<Retired>,
}

pub(crate) struct Variant {
    pub(crate) ident: Ident,
    pub(crate) payload: Type,
    pub(crate) name: LitStr,
    pub(crate) version: u32,
    pub(crate) upcasts: Vec<Upcast>,
    pub(crate) was: Vec<LitStr>,
    pub(crate) tags: Vec<TagOf>,
}

/// `1 = WithdrawnV1`
pub(crate) struct Upcast {
    pub(crate) key: LitInt,
    pub(crate) schema: u32,
    pub(crate) shape: Type,
}

/// `student = pupil.id`
pub(crate) struct TagOf {
    pub(crate) name: String,
    pub(crate) field: TokenStream,
}

/// `"account.moved" = Moved`
pub(crate) struct Retired {
    pub(crate) name: LitStr,
    pub(crate) shape: Type,
}

impl EventEnum {
    pub(crate) fn parse(cx: &Ctxt, input: &DeriveInput) -> Option<Self> {
        let Data::Enum(data) = &input.data else {
            let why = "with one variant for each payload struct, as in `Opened(Opened)`";
            cx.error(&input.ident, format!("`#[derive(Event)]` goes on an enum {why}"));
            return None;
        };
        if super::aggregate::is_generic(cx, &input.generics, "an event enum", "its payloads are stored") {
            return None;
        }
        let entries = attr::read_all(cx, &input.attrs, "event", ENUM_KEYS);
        let find = |key: &str| entries.iter().find(|e| e.key() == key);
        let krate = attr::krate(cx, &entries);
        let codec = find("codec").and_then(|e| e.parse::<Path>(cx, "path::to::Codec"));
        let codec = codec.map_or_else(|| quote!(#krate::codec::Json), ToTokens::into_token_stream);
        let prefix = find("prefix").and_then(|e| e.text(cx)).filter(|text| is_prefix(cx, text));
        let retired = find("retired").map(|e| retired(cx, e)).unwrap_or_default();
        if data.variants.is_empty() {
            cx.error(&input.ident, "an event enum without variants: add one, as in `Opened(Opened)`");
        }
        let parsed = data.variants.iter().map(|v| Variant::parse(cx, v, prefix.as_ref()));
        let variants: Vec<_> = parsed.collect();
        if find("prefix").is_none() && variants.iter().any(|(_, named)| !named) {
            let why = "the names of its events start with it, as in `#[event(prefix = \"account\")]`";
            cx.error(&input.ident, format!("an event enum needs a `prefix`: {why}"));
        }
        let variants = variants.into_iter().filter_map(|(variant, _)| variant).collect();
        Some(Self { krate, ident: input.ident.clone(), codec, variants, retired })
    }
}

impl Variant {
    /// The variant, if it can be used; and whether it has a name without the prefix.
    fn parse(cx: &Ctxt, input: &syn::Variant, prefix: Option<&LitStr>) -> (Option<Self>, bool) {
        let entries = attr::read_all(cx, &input.attrs, "event", VARIANT_KEYS);
        let find = |key: &str| entries.iter().find(|e| e.key() == key);
        let named = find("name").is_some();
        let name = find("name").and_then(|e| e.text(cx)).unwrap_or_else(|| {
            let own = snake_case(&input.ident.to_string());
            let prefixed = prefix.map(|prefix| format!("{}.{own}", prefix.value()));
            LitStr::new(&prefixed.unwrap_or(own), input.ident.span())
        });
        let version = find("version").and_then(|e| e.count(cx)).map_or(1, |(version, _)| version);
        let upcasts = find("upcast").map(|e| upcasts(cx, e)).unwrap_or_default();
        let was = find("was").map(|e| was(cx, e)).unwrap_or_default();
        let tags = find("tags").map(|e| tags(cx, e)).unwrap_or_default();
        let variant = payload(cx, input).map(|payload| {
            let ident = input.ident.clone();
            Self { ident, payload, name, version, upcasts, was, tags }
        });
        (variant, named)
    }
}

/// Whether stored names can start with it.
fn is_prefix(cx: &Ctxt, prefix: &LitStr) -> bool {
    let before = cx.count();
    let text = prefix.value();
    let text = if text.is_empty() { text } else { format!("{text}.") };
    check_stored(cx, "the prefix", &text, prefix.span());
    cx.count() == before
}

fn payload(cx: &Ctxt, input: &syn::Variant) -> Option<Type> {
    let name = &input.ident;
    match &input.fields {
        Fields::Unnamed(fields) if fields.unnamed.len() == 1 => fields.unnamed.first().map(|f| f.ty.clone()),
        Fields::Unit => {
            cx.error(
                name,
                format!("a variant holds its payload: write `{name}({name})`, with `struct {name} {{}}`"),
            );
            None
        }
        Fields::Named(_) | Fields::Unnamed(_) => {
            let why = format!("move its fields to a struct and write `{name}({name})`");
            cx.error(name, format!("a variant holds one payload struct: {why}"));
            None
        }
    }
}

fn upcasts(cx: &Ctxt, entry: &Entry) -> Vec<Upcast> {
    let mut upcasts = Vec::new();
    for step in entry.list(cx, "1 = OldShape") {
        let Ok(key) = syn::parse2::<LitInt>(step.key.to_token_stream()) else {
            cx.error(&step.key, "expected the schema that is upcast, as in `1 = OldShape`");
            continue;
        };
        let Some(schema) = cx.ok(key.base10_parse()) else { continue };
        if let Some(shape) = step.parse(cx, "OldShape") {
            upcasts.push(Upcast { key, schema, shape });
        }
    }
    upcasts
}

fn was(cx: &Ctxt, entry: &Entry) -> Vec<LitStr> {
    let names = entry.list(cx, "\"old.name\"");
    names.iter().filter_map(|name| literal(cx, name)).collect()
}

fn tags(cx: &Ctxt, entry: &Entry) -> Vec<TagOf> {
    let mut tags = Vec::new();
    for tag in entry.list(cx, "field, name = field.path") {
        let name = tag.key();
        let field = match &tag.value {
            Value::None => Some(tag.key.to_token_stream()),
            Value::Is(_) => tag.parse::<syn::Expr>(cx, "field").map(|e| e.to_token_stream()),
            Value::List(_) => {
                cx.error_at(tag.span(), format!("write `{name}`, or `{name} = field.path`"));
                None
            }
        };
        tags.extend(field.map(|field| TagOf { name, field }));
    }
    tags
}

fn retired(cx: &Ctxt, entry: &Entry) -> Vec<Retired> {
    let mut retired = Vec::new();
    for old in entry.list(cx, "\"old.name\" = OldShape") {
        let Ok(name) = syn::parse2::<LitStr>(old.key.to_token_stream()) else {
            cx.error(&old.key, "expected the stored name, as in `\"account.moved\" = Moved`");
            continue;
        };
        retired.extend(old.parse(cx, "OldShape").map(|shape| Retired { name, shape }));
    }
    retired
}

fn literal(cx: &Ctxt, entry: &Entry) -> Option<LitStr> {
    match (&entry.value, syn::parse2(entry.key.to_token_stream())) {
        (Value::None, Ok(text)) => Some(text),
        _ => {
            cx.error(&entry.key, "expected a stored name in quotes, as in `\"account.moved\"`");
            None
        }
    }
}
