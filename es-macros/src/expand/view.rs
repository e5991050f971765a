//! `#[view]`: `Projection`, `View`, and `Fold` for each handler.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Expr, Member, Type};

use super::dispatch;
use crate::ast::{Args, Block};
use crate::attr::{self, Entry};
use crate::check::{ReadHandler, ReadRules, one_handler_each};
use crate::ctxt::Ctxt;
use crate::fingerprint::fingerprint;
use crate::span::{respan, written_at};

/// The attributes on methods that this macro takes away.
pub(crate) const HELPERS: &[&str] = &["on"];

pub(crate) fn expand(cx: &Ctxt, args: TokenStream, item: TokenStream) -> TokenStream {
    let text = fingerprint(&[&args, &item]);
    let args =
        Args::parse(cx, args, &["name", "version", "key", "on_failure", "idempotent", "partition", "crate"]);
    let (name, version, key) = (args.name(cx, "view"), args.version(cx), args.key(cx));
    let (on_failure, idempotent) = (args.on_failure(cx), args.idempotent(cx));
    args.no_partition(cx);
    let Some(block) = Block::parse(cx, "view", item) else { return TokenStream::new() };
    let mut handlers = ReadRules::View.read(cx, &block);
    one_handler_each(cx, &mut handlers);
    let (es, this, cfgs) = (&args.krate, &block.this, &block.cfgs);
    let folds: Vec<_> = handlers.iter().map(|h| fold(cx, es, this, h)).collect();
    // Without a key there is no view, and the mistake is reported already.
    let Some(key) = key else { return TokenStream::new() };
    let filter = dispatch::filter(es, &handlers, text, |handler| Some(key_rule(&key, handler)));
    let each = dispatch::each(es, &handlers, |handler| {
        let at = written_at(handler.payload.span());
        let es = respan(es.clone(), at);
        quote_spanned!(at=> #es::projection::Change::of(payload, event, &mut to)?;)
    });
    quote! {
        #(#cfgs)*
        #[automatically_derived]
        impl #es::Projection for #this {
            const NAME: &'static str = #name;
            const VERSION: u32 = #version;
            #on_failure
            #idempotent
            #filter
        }
        #(#cfgs)*
        #[automatically_derived]
        impl #es::View for #this {
            type Key = #key;
            fn changes(
                event: &#es::RecordedEvent,
            ) -> ::core::result::Result<::std::vec::Vec<#es::projection::Change<'_, Self>>, #es::BoxError> {
                let mut to = ::std::vec::Vec::new();
                #each
                ::core::result::Result::Ok(to)
            }
        }
        #(#folds)*
    }
}

fn fold(cx: &Ctxt, es: &TokenStream, this: &Type, handler: &ReadHandler) -> TokenStream {
    let ReadHandler { cfgs, payload, .. } = handler;
    let at = written_at(payload.span());
    let es = &respan(es.clone(), at);
    let (keys, row) = (keys(cx, es, handler), row(es, handler));
    quote_spanned! {at=>
        #(#cfgs)*
        #[automatically_derived]
        impl #es::projection::Fold<#payload> for #this {
            fn keys(
                event: #es::Recorded<'_, #payload>,
            ) -> ::core::result::Result<::std::vec::Vec<<Self as #es::View>::Key>, #es::BoxError> {
                #keys
            }
            fn fold(
                self,
                event: #es::Recorded<'_, #payload>,
            ) -> ::core::result::Result<::core::option::Option<Self>, #es::BoxError> {
                #row
            }
        }
    }
}

/// The row after the call: what the handler gives back, or what it changed.
fn row(es: &TokenStream, handler: &ReadHandler) -> TokenStream {
    let none = TokenStream::new();
    if handler.by_value {
        return dispatch::call_on(es, handler, &quote!(self), &none, &quote!(RowResult));
    }
    let call = dispatch::call_on(es, handler, &quote!(&mut row), &none, &quote!(HandlerResult));
    quote! {
        let mut row = self;
        let done: ::core::result::Result<(), #es::BoxError> = { #call };
        done.map(|()| ::core::option::Option::Some(row))
    }
}

/// A number for the rule by which the keys of an event are found: its rows are elsewhere if it changes.
fn key_rule(key: &Type, handler: &ReadHandler) -> u64 {
    let by = handler.attrs.iter().filter(|attr| attr.path().is_ident("on"));
    let by = by.map(ToTokens::to_token_stream).collect();
    fingerprint(&[&key.to_token_stream(), &handler.payload.to_token_stream(), &by])
}

/// The aggregate's id, or what `#[on(by = ..)]` names.
fn keys(cx: &Ctxt, es: &TokenStream, handler: &ReadHandler) -> TokenStream {
    let entries = attr::read_all(cx, &handler.attrs, "on", &["by"]);
    let Some(entry) = entries.first() else {
        let at = written_at(handler.payload.span());
        return quote_spanned! {at=>
            let key: <Self as #es::View>::Key = event.aggregate_id()?;
            ::core::result::Result::Ok(::std::vec![key])
        };
    };
    let Some(by) = by(cx, entry) else { return quote!(::core::unreachable!()) };
    let at = written_at(by.span());
    let es = respan(es.clone(), at);
    let by = by.to_token_stream();
    quote_spanned! {at=>
        ::core::result::Result::Ok(
            #es::projection::IntoKeys::<<Self as #es::View>::Key>::to_keys(&event.payload().#by)
        )
    }
}

/// What stands after `event.payload().` to find a key, from `by = ..`.
pub(super) fn by(cx: &Ctxt, entry: &Entry) -> Option<Expr> {
    let by = entry.parse::<Expr>(cx, "field")?;
    if !starts_at_the_payload(&by) {
        cx.error(&by, "`by` names what the event has: `by = field`, `by = field.sub` or `by = method()`");
        return None;
    }
    Some(by)
}

fn starts_at_the_payload(by: &Expr) -> bool {
    match by {
        Expr::Path(path) => path.path.get_ident().is_some(),
        Expr::Lit(literal) => matches!(&literal.lit, syn::Lit::Int(_)),
        Expr::Field(field) => {
            matches!(&field.member, Member::Named(_) | Member::Unnamed(_))
                && starts_at_the_payload(&field.base)
        }
        Expr::Call(call) => starts_at_the_payload(&call.func),
        Expr::MethodCall(call) => starts_at_the_payload(&call.receiver),
        _ => false,
    }
}
