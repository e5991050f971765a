//! What views, projections and reactors share: the filter, and the way from an event to its handlers.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};

use crate::check::ReadHandler;
use crate::span::{respan, written_at};
use syn::spanned::Spanned;

/// `fn filter()` over every name that decodes to a payload of the handlers, and `fn code()`, which tells this code from
/// another by its text, by the shapes of those payloads, and by the rule for the keys of each, if it has one.
pub(super) fn filter(
    es: &TokenStream,
    handlers: &[ReadHandler],
    text: u64,
    key_rule: impl Fn(&ReadHandler) -> Option<u64>,
) -> TokenStream {
    let handled = handlers.iter().map(|handler| {
        let ReadHandler { cfgs, payload, .. } = handler;
        let at = written_at(payload.span());
        let es = respan(es.clone(), at);
        let keyed = key_rule(handler).map(|rule| quote_spanned!(at=> .keyed::<#payload>(#rule)));
        quote_spanned!(at=> #(#cfgs)* let code = #es::projection::Code::handling::<#payload>(code)#keyed;)
    });
    let sources = handlers.iter().map(|ReadHandler { cfgs, payload, .. }| {
        let at = written_at(payload.span());
        let es = respan(es.clone(), at);
        quote_spanned!(at=> #(#cfgs)* <#payload as #es::Payload>::SOURCES)
    });
    quote! {
        fn filter() -> #es::store::EventFilter {
            let sources: &[&[&'static str]] = &[#(#sources),*];
            #es::store::EventFilter::types(sources.concat())
        }
        fn code() -> #es::projection::Code {
            let code = #es::projection::Code::new(#text);
            #(#handled)*
            code
        }
    }
}

/// Calls `handle` with each payload of `event`.
///
/// An event that was split is several; all handlers see the first, then all see the second.
pub(super) fn each(
    es: &TokenStream,
    handlers: &[ReadHandler],
    handle: impl Fn(&ReadHandler) -> TokenStream,
) -> TokenStream {
    let tries = handlers.iter().map(|handler| {
        let ReadHandler { cfgs, payload, .. } = handler;
        let (handle, at) = (handle(handler), written_at(payload.span()));
        let es = respan(es.clone(), at);
        let found = quote_spanned!(at=> #es::projection::nth::<#payload>(event, at, &mut more)?);
        quote! {
            #(#cfgs)*
            if let ::core::option::Option::Some(payload) = #found {
                #handle
            }
        }
    });
    quote! {
        let mut at = 0_usize;
        let mut more = true;
        while more {
            more = false;
            #(#tries)*
            at += 1;
        }
    }
}

/// The call of the user's method, boxed: `Self::opened(self, &*event, ..)`.
pub(super) fn call(es: &TokenStream, handler: &ReadHandler, rest: &TokenStream) -> TokenStream {
    call_on(es, handler, &quote!(self), rest, &quote!(HandlerResult))
}

/// The same on another receiver, with what its result has to be.
pub(super) fn call_on(
    es: &TokenStream,
    handler: &ReadHandler,
    receiver: &TokenStream,
    rest: &TokenStream,
    result: &TokenStream,
) -> TokenStream {
    let ReadHandler { name, at, recorded, is_async, returns, .. } = handler;
    let event = if *recorded { quote!(event) } else { quote!(&*event) };
    let wait = is_async.then(|| quote_spanned!(*at=> .await));
    let call = quote_spanned!(*at=> let done = Self::#name(#receiver, #event, #rest)#wait;);
    // Shown at the return type, if it is another one.
    let es = respan(es.clone(), *returns);
    let boxed = quote_spanned!(*returns=> #es::projection::#result::boxed(done));
    quote!(#call #boxed)
}
