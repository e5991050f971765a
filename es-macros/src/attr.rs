//! The arguments of attributes: `key`, `key = value`, `key(..)`.

use proc_macro2::{Delimiter, Group, Ident, Span, TokenStream, TokenTree};
use quote::ToTokens;
use syn::parse::Parse;
use syn::{Attribute, LitInt, LitStr, Path};

use crate::ctxt::Ctxt;
use crate::names::nearest;

/// One argument.
pub(crate) struct Entry {
    /// The key as written: an identifier, or a literal in `upcast(1 = ..)` and `was("..")`.
    pub(crate) key: TokenTree,
    pub(crate) value: Value,
}

pub(crate) enum Value {
    /// `key`
    None,
    /// `key = value`
    Is(TokenStream),
    /// `key(..)`
    List(Group),
}

impl Entry {
    pub(crate) fn key(&self) -> String {
        self.key.to_string()
    }

    pub(crate) fn span(&self) -> Span {
        self.key.span()
    }

    /// The value of `key = value`.
    pub(crate) fn parse<T: Parse>(&self, cx: &Ctxt, expected: &str) -> Option<T> {
        match &self.value {
            Value::Is(tokens) if !tokens.is_empty() => {
                let wrong = |_| cx.error(tokens, format!("expected {expected}"));
                syn::parse2(tokens.clone()).map_err(wrong).ok()
            }
            _ => {
                cx.error_at(self.span(), format!("write `{} = {expected}`", self.key));
                None
            }
        }
    }

    /// The text of `key = "text"`.
    pub(crate) fn text(&self, cx: &Ctxt) -> Option<LitStr> {
        self.parse(cx, "\"..\"")
    }

    /// The word of `key = word`, one of those that are known.
    pub(crate) fn word(&self, cx: &Ctxt, known: &[&str]) -> Option<Ident> {
        let expected = any_of(known);
        let text: Option<LitStr> = match &self.value {
            Value::Is(tokens) => syn::parse2(tokens.clone()).ok(),
            _ => None,
        };
        if let Some(text) = text {
            cx.error(&text, format!("expected {expected}, without quotes"));
            return None;
        }
        let word: Ident = match &self.value {
            Value::Is(_) => self.parse(cx, &expected)?,
            _ => {
                cx.error_at(self.span(), format!("write `{} = ..` with {expected}", self.key));
                return None;
            }
        };
        let given = word.to_string();
        if known.contains(&&*given) {
            return Some(word);
        }
        let instead = match nearest(&given, known) {
            Some(near) => format!("did you mean `{near}`?"),
            None => format!("write {expected}"),
        };
        cx.error(&word, format!("unknown `{} = {given}`: {instead}", self.key));
        None
    }

    /// `key`, which stands alone.
    pub(crate) fn alone(&self, cx: &Ctxt) {
        if !matches!(self.value, Value::None) {
            cx.error_at(self.span(), format!("`{0}` stands alone: write `{0}`, or leave it out", self.key));
        }
    }

    /// The number of `key = 2`, from 1 on.
    pub(crate) fn count<N: std::str::FromStr + Default + PartialEq>(&self, cx: &Ctxt) -> Option<(N, Span)>
    where
        N::Err: std::fmt::Display,
    {
        let literal: LitInt = self.parse(cx, "a number from 1 on")?;
        let number: N = cx.ok(literal.base10_parse())?;
        if number == N::default() {
            cx.error(&literal, format!("`{}` counts from 1", self.key));
            return None;
        }
        Some((number, literal.span()))
    }

    /// The arguments of `key(..)`.
    pub(crate) fn list(&self, cx: &Ctxt, example: &str) -> Vec<Self> {
        match &self.value {
            Value::List(group) if !group.stream().is_empty() => split(cx, group.stream()),
            _ => {
                cx.error_at(self.span(), format!("write `{}({example})`", self.key));
                Vec::new()
            }
        }
    }
}

/// The arguments of an attribute. Unknown keys and keys given twice are mistakes.
pub(crate) fn read(cx: &Ctxt, tokens: TokenStream, known: &[&str]) -> Vec<Entry> {
    let mut read: Vec<Entry> = Vec::new();
    for entry in split(cx, tokens) {
        let key = entry.key();
        if !known.contains(&&*key) {
            cx.error_at(entry.span(), unknown(&key, known));
            // Read as what was probably meant, so that the same slip is not reported as missing too.
            if let Some(near) = nearest(&key, known).filter(|near| read.iter().all(|e| e.key() != *near)) {
                let key = TokenTree::Ident(Ident::new(near, entry.span()));
                read.push(Entry { key, ..entry });
            }
        } else if read.iter().any(|e| e.key() == key) {
            cx.error_at(entry.span(), format!("`{key}` is given twice"));
        } else {
            read.push(entry);
        }
    }
    read
}

/// The arguments of an attribute that may stand alone: `#[name]` or `#[name(..)]`.
pub(crate) fn read_one(cx: &Ctxt, attr: &Attribute, known: &[&str]) -> Vec<Entry> {
    match &attr.meta {
        syn::Meta::Path(_) => Vec::new(),
        syn::Meta::List(list) => read(cx, list.tokens.clone(), known),
        syn::Meta::NameValue(value) => {
            cx.error(value, format!("write it alone, or with {} in brackets", listed(known)));
            Vec::new()
        }
    }
}

/// The arguments of every attribute `#[name(..)]` among `attrs`.
pub(crate) fn read_all(cx: &Ctxt, attrs: &[Attribute], name: &str, known: &[&str]) -> Vec<Entry> {
    let mut tokens = TokenStream::new();
    for attr in attrs.iter().filter(|a| a.path().is_ident(name)) {
        match &attr.meta {
            syn::Meta::List(list) => {
                let list = &list.tokens;
                tokens.extend(quote::quote!(#list,));
            }
            other => cx.error(other, format!("write `#[{name}(..)]` with {}", listed(known))),
        }
    }
    read(cx, tokens, known)
}

fn unknown(key: &str, known: &[&str]) -> String {
    match nearest(key, known) {
        Some(near) => format!("unknown key `{key}`: did you mean `{near}`?"),
        None => format!("unknown key `{key}`; known are {}", listed(known)),
    }
}

/// "`a`, `b` or `c`"
fn any_of(known: &[&str]) -> String {
    match known.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or `{last}`", listed(rest)),
        _ => listed(known),
    }
}

fn listed(known: &[&str]) -> String {
    let quoted: Vec<String> = known.iter().map(|k| format!("`{k}`")).collect();
    quoted.join(", ")
}

/// Splits at commas outside of brackets and of `<..>`.
fn split(cx: &Ctxt, tokens: TokenStream) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut part = Vec::new();
    let (mut depth, mut minus) = (0_u32, false);
    for token in tokens {
        if let TokenTree::Punct(punct) = &token {
            match punct.as_char() {
                '<' => depth += 1,
                '>' if !minus => depth = depth.saturating_sub(1),
                ',' if depth == 0 => {
                    entries.extend(entry(cx, std::mem::take(&mut part)));
                    continue;
                }
                _ => {}
            }
        }
        minus = matches!(&token, TokenTree::Punct(p) if p.as_char() == '-');
        part.push(token);
    }
    entries.extend(entry(cx, part));
    entries
}

fn entry(cx: &Ctxt, tokens: Vec<TokenTree>) -> Option<Entry> {
    let mut tokens = tokens.into_iter();
    let key = tokens.next()?;
    if !matches!(key, TokenTree::Ident(_) | TokenTree::Literal(_)) {
        cx.error(&key, "expected a key, as in `key = value`");
        return None;
    }
    let value = match tokens.next() {
        None => Value::None,
        Some(TokenTree::Punct(p)) if p.as_char() == '=' => Value::Is(tokens.by_ref().collect()),
        Some(TokenTree::Group(g)) if g.delimiter() == Delimiter::Parenthesis => Value::List(g),
        Some(other) => {
            cx.error(&other, format!("expected `=`, `(` or `,` after `{key}`"));
            return None;
        }
    };
    if let Some(more) = tokens.next() {
        cx.error(&more, "expected `,`");
    }
    Some(Entry { key, value })
}

/// The crate that generated code names: `::es_core`, or what `crate = path` says.
pub(crate) fn krate(cx: &Ctxt, entries: &[Entry]) -> TokenStream {
    krate_or(cx, entries, "es_core")
}

/// The same of another crate.
pub(crate) fn krate_or(cx: &Ctxt, entries: &[Entry], default: &str) -> TokenStream {
    let given = entries.iter().find(|e| e.key() == "crate");
    let path = given.and_then(|e| e.parse::<Path>(cx, &format!("path::to::{default}")));
    let default = Ident::new(default, Span::call_site());
    path.map_or_else(|| quote::quote!(::#default), ToTokens::into_token_stream)
}

/// The `#[cfg(..)]` attributes, which what is written for an item must carry too.
pub(crate) fn cfgs(attrs: &[Attribute]) -> Vec<Attribute> {
    attrs.iter().filter(|a| a.path().is_ident("cfg")).cloned().collect()
}

#[cfg(test)]
mod tests {
    use quote::quote;

    use super::*;

    #[test]
    fn a_comma_inside_a_type_does_not_end_an_argument() {
        let cx = Ctxt::new();
        let entries = read(&cx, quote!(id = Pair<A, fn(B) -> C>, event = E), &["id", "event"]);
        assert_eq!(entries.len(), 2);
        assert!(entries[0].parse::<syn::Type>(&cx, "a type").is_some());
        assert!(cx.check().is_empty());
    }

    #[test]
    fn every_wrong_key_is_named() {
        let cx = Ctxt::new();
        assert_eq!(read(&cx, quote!(prefx = "a", zebra), &["prefix"]).len(), 1);
        let text = cx.check().to_string();
        assert!(
            text.contains("did you mean `prefix`?")
                && text.contains("unknown key `zebra`; known are `prefix`")
        );
    }
}
