//! The two directions of an event enum. Every arm is a call, so that an enum of hundreds of variants
//! does not need hundreds of payloads' worth of stack.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;

use crate::ast::{EventEnum, Retired, Upcast, Variant};
use crate::span::{respan, written_at};

pub(super) fn encode(events: &EventEnum, broken: bool) -> TokenStream {
    let EventEnum { krate: es, codec, variants, .. } = events;
    let arms = variants.iter().map(|variant| {
        let Variant { ident, payload, name, version, .. } = variant;
        let tags = tags(es, variant);
        quote! {
            Self::#ident(payload) => #es::upcast::encode::<#codec, #payload>(#name, #version, payload, #tags),
        }
    });
    let rest = broken.then(|| quote!(_ => ::core::unreachable!(),));
    quote! {
        #[allow(unreachable_patterns)]
        fn encode(&self) -> ::core::result::Result<#es::event::EventData, #es::codec::EncodeError> {
            match self {
                #(#arms)*
                #rest
            }
        }
    }
}

fn tags(es: &TokenStream, variant: &Variant) -> TokenStream {
    if variant.tags.is_empty() {
        return quote!(::std::vec::Vec::new());
    }
    let tags = variant.tags.iter().map(|tag| {
        let (name, field) = (&tag.name, &tag.field);
        let at = written_at(field.span());
        let es = respan(es.clone(), at);
        quote_spanned!(at=> #es::event::Tag::new(#name, &payload.#field)?)
    });
    quote!(::std::vec![#(#tags),*])
}

pub(super) fn decode(events: &EventEnum) -> TokenStream {
    let EventEnum { krate: es, variants, retired, .. } = events;
    let helpers = helpers(events);
    let current = variants.iter().map(|variant| {
        let (names, version, payload) = (names(variant), variant.version, &variant.payload);
        quote!((#names, #version) => one::<#payload>(stored),)
    });
    let older = variants.iter().flat_map(older);
    let retired_arms =
        retired.iter().map(|Retired { name, shape }| quote!((#name, _) => many::<#shape>(stored),));
    let newest = newest(variants);
    quote! {
        #[allow(unreachable_patterns)]
        fn decode(
            stored: &#es::RecordedEvent,
        ) -> ::core::result::Result<#es::event::Decoded<Self>, #es::codec::DecodeError> {
            #helpers
            match (&*stored.name, stored.schema) {
                #(#current)*
                #(#older)*
                #(#retired_arms)*
                (name, _) => {
                    let newest = match name { #newest };
                    ::core::result::Result::Err(#es::upcast::unreadable(stored, newest))
                }
            }
        }
    }
}

/// The functions that the arms call: one for payloads, old shapes and retired events each.
fn helpers(events: &EventEnum) -> TokenStream {
    let EventEnum { krate: es, ident, codec, variants, retired } = events;
    let mut this = ident.clone();
    this.set_span(written_at(ident.span()));
    let stored = quote!(stored: &#es::RecordedEvent);
    let decoded = quote!(::core::result::Result<#es::event::Decoded<#this>, #es::codec::DecodeError>);
    let shape = quote!(#es::__private::serde::de::DeserializeOwned);
    let from = quote!(::core::convert::From);
    let one = (!variants.is_empty()).then(|| {
        quote! {
            fn one<P: #shape>(#stored) -> #decoded where #this: #from<P> {
                let payload = #es::upcast::decode::<#codec, P>(stored)?;
                ::core::result::Result::Ok(#es::event::Decoded::One(#from::from(payload)))
            }
        }
    });
    let old = variants.iter().any(|v| !v.upcasts.is_empty()).then(|| {
        quote! {
            fn old<O: #shape, P>(#stored, upcaster: fn(O) -> P) -> #decoded where #this: #from<P> {
                let old = #es::upcast::decode::<#codec, O>(stored)?;
                let payload = #es::upcast::upcast(stored, move || upcaster(old))?;
                ::core::result::Result::Ok(#es::event::Decoded::One(#from::from(payload)))
            }
        }
    });
    let many = (!retired.is_empty()).then(|| {
        quote! {
            fn many<O: #shape>(#stored) -> #decoded where ::std::vec::Vec<#this>: #from<O> {
                let old = #es::upcast::decode::<#codec, O>(stored)?;
                let events = #es::upcast::upcast(stored, move || #from::from(old))?;
                ::core::result::Result::Ok(#es::event::Decoded::Many(events))
            }
        }
    });
    quote!(#one #old #many)
}

/// Its own name and those it had.
fn names(variant: &Variant) -> TokenStream {
    let Variant { name, was, .. } = variant;
    quote!(#name #(| #was)*)
}

/// An arm for each old shape: the rest of the chain leads to the payload.
fn older(variant: &Variant) -> Vec<TokenStream> {
    let names = names(variant);
    let arm = |(at, first): (usize, &Upcast)| {
        let (schema, shape) = (first.schema, &first.shape);
        let steps = variant.upcasts.iter().skip(at);
        let later = variant.upcasts.iter().skip(at + 1).map(|step| &step.shape).chain([&variant.payload]);
        let chain = steps.zip(later).map(|(Upcast { shape: from, .. }, to)| {
            // Shown at the old shape: that is where the missing `From` belongs.
            let span = written_at(from.span());
            let to = respan(to.to_token_stream(), span);
            quote_spanned!(span=> let it = <#to as ::core::convert::From<#from>>::from(it);)
        });
        quote!((#names, #schema) => old::<#shape, _>(stored, |it| { #(#chain)* it }),)
    };
    variant.upcasts.iter().enumerate().map(arm).collect()
}

/// Arms from a name to its newest schema. Most are at version 1, and share an arm.
fn newest(variants: &[Variant]) -> TokenStream {
    let mut versions: Vec<u32> = variants.iter().map(|v| v.version).collect();
    versions.sort_unstable();
    versions.dedup();
    let arms = versions.iter().map(|version| {
        let names = variants.iter().filter(|v| v.version == *version).map(names);
        quote!(#(#names)|* => #version,)
    });
    quote!(#(#arms)* _ => 0)
}
