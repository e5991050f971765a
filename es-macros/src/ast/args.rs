//! What the attributes on `impl` blocks are given.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::parse::Parser as _;
use syn::punctuated::Punctuated;
use syn::spanned::Spanned as _;
use syn::{Expr, Ident, LitInt, LitStr, Token, Type};

use crate::attr::{self, Entry, Value, krate};
use crate::ctxt::Ctxt;
use crate::names::check_stored;

pub(crate) struct Args {
    pub(crate) krate: TokenStream,
    entries: Vec<Entry>,
}

impl Args {
    pub(crate) fn parse(cx: &Ctxt, tokens: TokenStream, known: &[&str]) -> Self {
        let entries = attr::read(cx, tokens, known);
        Self { krate: krate(cx, &entries), entries }
    }

    /// The same, of an attribute of `sagas`.
    pub(crate) fn of_sagas(cx: &Ctxt, tokens: TokenStream, known: &[&str]) -> Self {
        let entries = attr::read(cx, tokens, known);
        Self { krate: attr::krate_or(cx, &entries, "sagas"), entries }
    }

    fn find(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|e| e.key() == key)
    }

    /// The stored name, which is required.
    pub(crate) fn name(&self, cx: &Ctxt, what: &str) -> LitStr {
        let Some(entry) = self.find("name") else {
            let why = "it names what is stored for it, so it is never derived from a Rust name";
            cx.error_at(Span::call_site(), format!("a {what} needs a name, `name = \"..\"`: {why}"));
            return LitStr::new("", Span::call_site());
        };
        let Some(name) = entry.text(cx) else { return LitStr::new("", entry.span()) };
        check_stored(cx, &format!("the {what}'s name"), &name.value(), name.span());
        name
    }

    /// `version = 2`; 1 if it is not given.
    pub(crate) fn version(&self, cx: &Ctxt) -> u32 {
        self.find("version").and_then(|e| e.count(cx)).map_or(1, |(version, _)| version)
    }

    /// The type of rows' keys, which is required.
    pub(crate) fn key(&self, cx: &Ctxt) -> Option<Type> {
        self.key_or(cx, "a view needs the type that names its rows, as in `key = AccountId`")
    }

    /// The same, with what to say if it is not there.
    pub(crate) fn key_or(&self, cx: &Ctxt, missing: &str) -> Option<Type> {
        let entry = self.find("key");
        if entry.is_none() {
            cx.error_at(Span::call_site(), missing);
        }
        entry?.parse(cx, "Type")
    }

    /// The types of `sends(A, b::B)`; none if it is not given.
    pub(crate) fn types(&self, cx: &Ctxt, key: &str) -> Vec<Type> {
        let Some(entry) = self.find(key) else { return Vec::new() };
        let Value::List(group) = &entry.value else {
            cx.error_at(entry.span(), format!("write `{key}(One, Another)`, with types"));
            return Vec::new();
        };
        let types = Punctuated::<Type, Token![,]>::parse_terminated.parse2(group.stream());
        cx.ok(types).into_iter().flatten().collect()
    }

    /// `after_end = again`, as a constant; nothing if it is not given.
    pub(crate) fn after_end(&self, cx: &Ctxt) -> Option<TokenStream> {
        let chosen = self.find("after_end")?.word(cx, &["once", "again"])?;
        let (sagas, variant) = (&self.krate, variant(&chosen));
        Some(quote!(const AFTER_END: #sagas::AfterEnd = #sagas::AfterEnd::#variant;))
    }

    /// `keep_ended_days = 30`, as a constant; nothing if it is not given.
    pub(crate) fn keep_ended(&self, cx: &Ctxt) -> Option<TokenStream> {
        let entry = self.find("keep_ended_days")?;
        let given: LitInt = entry.parse(cx, "a number from 1 on")?;
        let days: u32 = cx.ok(given.base10_parse())?;
        if days == 0 {
            let why = "an instance that has ended is kept for a day at least";
            cx.error(&given, format!("{why}; leave `keep_ended_days` out to keep it for ever"));
            return None;
        }
        let seconds = u64::from(days) * 86_400;
        Some(quote_spanned!(entry.span()=>
            const KEEP_ENDED: ::core::option::Option<::core::time::Duration> =
                ::core::option::Option::Some(::core::time::Duration::from_secs(#seconds));
        ))
    }

    /// `schema = "file.sql"` or `schema_sql = ".."`, as an expression.
    pub(crate) fn schema(&self, cx: &Ctxt) -> Option<TokenStream> {
        let file = self.find("schema").and_then(|e| e.text(cx));
        let text = self.find("schema_sql");
        if let (Some(_), Some(both)) = (&file, text) {
            cx.error_at(both.span(), "`schema` and `schema_sql` say the same: keep one");
        }
        match file {
            // The literal's span makes the path relative to the user's file.
            Some(file) => Some(quote_spanned!(file.span()=> ::core::include_str!(#file))),
            None => text?.text(cx).map(|text| text.to_token_stream()),
        }
    }
    /// `on_failure = park`, as a constant; nothing if it is not given.
    pub(crate) fn on_failure(&self, cx: &Ctxt) -> Option<TokenStream> {
        let chosen = self.find("on_failure")?.word(cx, &["park", "skip", "stop"])?;
        let (es, ty) = (&self.krate, quote!(OnFailure));
        let variant = variant(&chosen);
        Some(quote!(const ON_FAILURE: #es::projection::#ty = #es::projection::#ty::#variant;))
    }

    /// `partition = stream`, as a constant; nothing if it is not given.
    pub(crate) fn partition(&self, cx: &Ctxt) -> Option<TokenStream> {
        let chosen = self.find("partition")?.word(cx, &["stream", "whole"])?;
        let (es, ty) = (&self.krate, quote!(Partition));
        let variant = variant(&chosen);
        Some(quote!(const PARTITION: #es::projection::#ty = #es::projection::#ty::#variant;))
    }

    /// `in_flight = 32`, as a constant; nothing if it is not given.
    pub(crate) fn in_flight(&self, cx: &Ctxt) -> Option<TokenStream> {
        let entry = self.find("in_flight")?;
        let (n, _) = entry.count::<usize>(cx)?;
        // Any other word is a mistake of its own.
        let whole = |e: &Entry| matches!(&e.value, Value::Is(word) if word.to_string() == "whole");
        if self.find("partition").is_none_or(whole) {
            let why = "without it one call is made after the other";
            cx.error_at(entry.span(), format!("`in_flight` needs `partition = stream`: {why}"));
            return None;
        }
        Some(quote_spanned!(entry.span()=> const IN_FLIGHT: usize = #n;))
    }

    /// `was = "mails"`, as a constant; nothing if it is not given.
    pub(crate) fn was(&self, cx: &Ctxt, name: &LitStr) -> Option<TokenStream> {
        let was = self.find("was")?.text(cx)?;
        check_stored(cx, "the name that it had", &was.value(), was.span());
        if was.value() == name.value() {
            let why = "`was` is the name that it had before";
            cx.error(&was, format!("`{}` is its name now: {why}", was.value()));
        }
        Some(quote_spanned!(was.span()=>
            const WAS: ::core::option::Option<&'static str> = ::core::option::Option::Some(#was);
        ))
    }

    /// Says why there is no `partition` here.
    pub(crate) fn no_partition(&self, cx: &Ctxt) {
        if let Some(entry) = self.find("partition") {
            let why = "its rows are worked on at the same time already, key by key";
            cx.error_at(entry.span(), format!("a view has no `partition`: {why}; leave it out"));
        }
    }

    /// The method of `undo = release`; nothing if it is not given.
    pub(crate) fn method(&self, cx: &Ctxt, key: &str) -> Option<Ident> {
        self.find(key)?.parse(cx, "method")
    }

    /// The type of `place = Guarded<Stock>`; nothing if it is not given.
    pub(crate) fn place(&self, cx: &Ctxt) -> Option<TokenStream> {
        self.find("place")?.parse::<Type>(cx, "the place of a step").map(ToTokens::into_token_stream)
    }

    /// What a step says of how it is tried, as methods; nothing of what is not given.
    pub(crate) fn of_step(&self, cx: &Ctxt) -> TokenStream {
        let sagas = &self.krate;
        let given = |key: &str, returns: TokenStream| {
            let value: Expr = self.find(key)?.parse(cx, "an expression")?;
            let method = Ident::new(key, value.span());
            Some(quote_spanned!(value.span()=> fn #method(&self) -> #returns { #value }))
        };
        let (retry, limit) =
            (given("retry", quote!(#sagas::saga::Retry)), given("limit", quote!(::core::time::Duration)));
        let destination = self.find("destination").and_then(|entry| {
            let value: Expr = entry.parse(cx, "an expression")?;
            let some = quote_spanned!(value.span()=> ::core::option::Option::Some(#value));
            Some(quote_spanned!(value.span()=> fn destination(&self) -> ::core::option::Option<&str> { #some }))
        });
        let unknown = self.find("unknown").and_then(|e| e.word(cx, &["settle", "fence", "park"]));
        let unknown = unknown.map(|word| {
            let variant = variant(&word);
            quote!(fn unknown(&self) -> #sagas::saga::Unknown { #sagas::saga::Unknown::#variant })
        });
        let for_good = self.find("refuses_for_good").map(|entry| {
            entry.alone(cx);
            quote!(
                fn refuses_for_good(&self) -> bool {
                    true
                }
            )
        });
        quote!(#retry #limit #destination #unknown #for_good)
    }

    /// `idempotent`, as a constant; nothing if it is not given.
    pub(crate) fn idempotent(&self, cx: &Ctxt) -> Option<TokenStream> {
        let entry = self.find("idempotent")?;
        entry.alone(cx);
        Some(quote_spanned!(entry.span()=> const IDEMPOTENT: bool = true;))
    }
}

/// `Park` for `park`, at the same place.
pub(crate) fn variant(word: &Ident) -> Ident {
    let text = word.to_string();
    let (first, rest) = text.split_at(1);
    Ident::new(&format!("{}{rest}", first.to_uppercase()), word.span())
}
