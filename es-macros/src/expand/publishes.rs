//! `#[publishes]`: `Publishes`, from a method for each event.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;

use super::dispatch;
use super::view::by;
use crate::ast::{Args, Block};
use crate::attr;
use crate::check::{ReadHandler, ReadRules, one_handler_each};
use crate::ctxt::Ctxt;
use crate::fingerprint::fingerprint;
use crate::span::{respan, written_at};

/// The attributes on methods that this macro takes away.
pub(crate) const HELPERS: &[&str] = &["on"];

pub(crate) fn expand(cx: &Ctxt, args: TokenStream, item: TokenStream) -> TokenStream {
    let text = fingerprint(&[&args, &item]);
    let args = Args::of_sagas(cx, args, &["name", "crate"]);
    let name = args.name(cx, "relay");
    let Some(block) = Block::parse(cx, "publishes", item) else { return TokenStream::new() };
    let mut handlers = ReadRules::Publishes.read(cx, &block);
    one_handler_each(cx, &mut handlers);
    let (sagas, this, cfgs) = (&args.krate, &block.this, &block.cfgs);
    let es = &quote!(#sagas::es_core);
    let filter = dispatch::filter(es, &handlers, text, |handler| Some(key_rule(handler)));
    let messages = dispatch::each(es, &handlers, |handler| messages(sagas, handler));
    let keys = keys(cx, sagas, &handlers);
    quote! {
        #(#cfgs)*
        #[automatically_derived]
        impl #sagas::relay::Publishes for #this {
            fn name(&self) -> ::std::string::String {
                ::std::string::String::from(#name)
            }
            #filter
            #keys
            fn messages(
                &self,
                event: &#es::RecordedEvent,
            ) -> ::core::result::Result<::std::vec::Vec<#sagas::relay::Message>, #es::BoxError> {
                let mut messages = ::std::vec::Vec::new();
                #messages
                ::core::result::Result::Ok(messages)
            }
        }
    }
}

/// `relay::BY_STREAM`: what stands for the keys of an event that goes by its stream.
const BY_STREAM: u64 = 1;

/// What stands for the rule by which the key of a handler's event is found.
fn key_rule(handler: &ReadHandler) -> u64 {
    let by = handler.attrs.iter().filter(|attr| attr.path().is_ident("on"));
    let by: TokenStream = by.map(ToTokens::to_token_stream).collect();
    if by.is_empty() { BY_STREAM } else { fingerprint(&[&by]) }
}

/// Adds what a method returns; shown at the return type, if that is of no use.
fn messages(sagas: &TokenStream, handler: &ReadHandler) -> TokenStream {
    let ReadHandler { payload, name, at, recorded, returns, .. } = handler;
    let payload_at = written_at(payload.span());
    let of_payload = respan(sagas.clone(), payload_at);
    let event = if *recorded { quote!(event) } else { quote!(&*event) };
    let call = quote_spanned!(*at=> let found = Self::#name(self, #event););
    let of_return = respan(sagas.clone(), *returns);
    let boxed = quote_spanned!(*returns=> #of_return::relay::IntoMessages::boxed(found)?);
    quote_spanned! {payload_at=>
        let event = #of_payload::es_core::Recorded::new(&payload, event);
        #call
        #of_payload::relay::add(&mut messages, #boxed, <#payload as #of_payload::es_core::Payload>::NAME);
    }
}

/// The key of an event, if a method says another one than the stream.
fn keys(cx: &Ctxt, sagas: &TokenStream, handlers: &[ReadHandler]) -> Option<TokenStream> {
    let entries = |handler: &ReadHandler| attr::read_all(cx, &handler.attrs, "on", &["by"]);
    let keyed: Vec<_> = handlers.iter().map(|handler| (&handler.name, entries(handler))).collect();
    if keyed.iter().all(|(_, entries)| entries.is_empty()) {
        return None;
    }
    let es = &quote!(#sagas::es_core);
    let each = dispatch::each(es, handlers, |handler| {
        let own = keyed.iter().find(|(name, _)| **name == handler.name);
        let Some(given) = own.and_then(|(_, entries)| entries.first()) else {
            let of = &handler.payload;
            return quote! {
                let _: &#of = &payload;
                keys.insert(::std::string::String::from(event.stream.as_str()));
            };
        };
        let Some(by) = by(cx, given) else { return quote!(::core::unreachable!()) };
        let at = written_at(by.span());
        let by = by.to_token_stream();
        quote_spanned!(at=> keys.insert(::std::string::ToString::to_string(&payload.#by));)
    });
    Some(quote! {
        fn key(
            &self,
            event: &#es::RecordedEvent,
        ) -> ::core::result::Result<::std::string::String, #es::BoxError> {
            let mut keys = ::std::collections::BTreeSet::new();
            #each
            #sagas::relay::one_key(event, &keys)
        }
        fn stream(&self, _: &str) -> ::core::option::Option<#es::StreamId> {
            ::core::option::Option::None
        }
    })
}
