//! `#[derive(Event)]`: the enum, and one payload after the other.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;

use super::event_codec;
use crate::ast::{EventEnum, Variant};
use crate::span::{respan, written_at};

/// `broken` if some variants are wrong, and so left out of `events`.
pub(crate) fn expand(events: &EventEnum, broken: bool) -> TokenStream {
    let EventEnum { krate: es, ident: this, variants, retired, .. } = events;
    let types = variants
        .iter()
        .map(|Variant { name, version, .. }| quote!(#es::event::EventType { name: #name, schema: #version }));
    let sources = variants
        .iter()
        .flat_map(|v| std::iter::once(&v.name).chain(&v.was))
        .chain(retired.iter().map(|r| &r.name));
    let encode = event_codec::encode(events, broken);
    let decode = event_codec::decode(events);
    let payloads = variants.iter().map(|variant| payload(events, variant));
    quote! {
        #[automatically_derived]
        impl #es::IntoEvent for #this {
            type Event = Self;
            fn into_event(self) -> Self {
                self
            }
        }
        #[automatically_derived]
        impl #es::Event for #this {
            const TYPES: &'static [#es::event::EventType] = &[#(#types),*];
            fn sources() -> ::std::vec::Vec<&'static str> {
                ::std::vec![#(#sources),*]
            }
            #encode
            #decode
        }
        #(#payloads)*
    }
}

fn payload(events: &EventEnum, variant: &Variant) -> TokenStream {
    let EventEnum { krate: es, retired, .. } = events;
    let Variant { ident, payload, name, was, .. } = variant;
    // Shown at the payload: it may belong to another enum already, or to another crate.
    let at = written_at(payload.span());
    let es = respan(es.clone(), at);
    let mut this = events.ident.clone();
    this.set_span(at);
    let retired = retired.iter().map(|old| &old.name);
    quote_spanned! {at=>
        #[automatically_derived]
        impl #es::IntoEvent for #payload {
            type Event = #this;
            fn into_event(self) -> Self::Event {
                #this::#ident(self)
            }
        }
        #[automatically_derived]
        impl ::core::convert::From<#payload> for #this {
            fn from(payload: #payload) -> Self {
                Self::#ident(payload)
            }
        }
        #[automatically_derived]
        impl #es::Payload for #payload {
            const NAME: &'static str = #name;
            const SOURCES: &'static [&'static str] = &[#name #(, #was)* #(, #retired)*];
            #[allow(unreachable_patterns)]
            fn from_event(event: Self::Event) -> ::core::result::Result<Self, Self::Event> {
                match event {
                    #this::#ident(payload) => ::core::result::Result::Ok(payload),
                    other => ::core::result::Result::Err(other),
                }
            }
        }
    }
}
