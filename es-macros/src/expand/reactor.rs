//! `#[reactor]`: `Reactor`, and `React` for each handler.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::Type;
use syn::spanned::Spanned;

use super::{dispatch, services};
use crate::ast::{Args, Block};
use crate::check::{ReadHandler, ReadRules, one_handler_each};
use crate::ctxt::Ctxt;
use crate::fingerprint::fingerprint;
use crate::span::{respan, written_at};

const KEYS: &[&str] = &["name", "was", "on_failure", "partition", "in_flight", "crate"];

pub(crate) fn expand(cx: &Ctxt, args: TokenStream, item: TokenStream) -> TokenStream {
    let text = fingerprint(&[&args, &item]);
    let args = Args::parse(cx, args, KEYS);
    let (name, on_failure) = (args.name(cx, "reactor"), args.on_failure(cx));
    let (was, partition, in_flight) = (args.was(cx, &name), args.partition(cx), args.in_flight(cx));
    let Some(block) = Block::parse(cx, "reactor", item) else { return TokenStream::new() };
    let mut handlers = ReadRules::Reactor.read(cx, &block);
    one_handler_each(cx, &mut handlers);
    let (es, this, cfgs) = (&args.krate, &block.this, &block.cfgs);
    let filter = dispatch::filter(es, &handlers, text, |_| None);
    let react = react(es, &handlers);
    let missing = handlers.iter().map(|ReadHandler { cfgs, payload, .. }| {
        quote!(#(#cfgs)* #es::projection::missing_for_reactor::<Self, #payload>(services))
    });
    let each = handlers.iter().map(|handler| on(es, this, handler));
    quote! {
        #(#cfgs)*
        #[automatically_derived]
        impl #es::Reactor for #this {
            const NAME: &'static str = #name;
            #was
            #on_failure
            #partition
            #in_flight
            #filter
            #react
            fn missing(services: &#es::services::Services) -> ::std::vec::Vec<::std::string::String> {
                let _ = services;
                let each: &[::std::vec::Vec<::std::string::String>] = &[#(#missing),*];
                each.concat()
            }
        }
        #(#each)*
    }
}

fn react(es: &TokenStream, handlers: &[ReadHandler]) -> TokenStream {
    let each = dispatch::each(es, handlers, |ReadHandler { payload, .. }| {
        let at = written_at(payload.span());
        let es = respan(es.clone(), at);
        quote_spanned! {at=>
            let event = #es::Recorded::new(&payload, event);
            let env = #es::services::FromServices::from_services(scope)?;
            <Self as #es::projection::React<#payload>>::on(self, event, env).await?;
        }
    });
    quote! {
        async fn react(
            &self,
            event: &#es::RecordedEvent,
            scope: #es::services::Scope<'_>,
        ) -> ::core::result::Result<(), #es::BoxError> {
            let _ = scope;
            #each
            ::core::result::Result::Ok(())
        }
    }
}

fn on(es: &TokenStream, this: &Type, handler: &ReadHandler) -> TokenStream {
    let ReadHandler { cfgs, payload, services: asked, at, .. } = handler;
    let es = &respan(es.clone(), *at);
    let env = services::env(asked, *at);
    let call = dispatch::call(es, handler, &services::arguments(asked));
    quote_spanned! {*at=>
        #(#cfgs)*
        #[automatically_derived]
        impl #es::projection::React<#payload> for #this {
            type Env<'e> = #env;
            async fn on<'a>(
                &'a self,
                event: #es::Recorded<'a, #payload>,
                env: Self::Env<'a>,
            ) -> ::core::result::Result<(), #es::BoxError> {
                let _ = &env;
                #call
            }
        }
    }
}
