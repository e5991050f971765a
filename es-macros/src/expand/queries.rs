//! `#[queries]`: `Query` and `Answer` for each method, `Queries` for all of them.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::Type;

use super::services;
use crate::ast::{Args, Block};
use crate::check::{Output, Request, RequestRules, one_method_each};
use crate::ctxt::Ctxt;
use crate::span::{respan, written_at};

const RULES: RequestRules = RequestRules {
    what: "query",
    example: "async fn balance(&self, q: BalanceOf, db: &Db)",
    returns: "Result<Answer, Error>",
    without_self: false,
};

pub(crate) fn expand(cx: &Ctxt, args: TokenStream, item: TokenStream) -> TokenStream {
    let args = Args::parse(cx, args, &["crate"]);
    let Some(block) = Block::parse(cx, "queries", item) else { return TokenStream::new() };
    let mut requests = RULES.read(cx, &block);
    one_method_each(cx, "query", &mut requests);
    let (es, this, cfgs) = (&args.krate, &block.this, &block.cfgs);
    let each = requests.iter().map(|request| impls(es, this, request));
    let missing = requests
        .iter()
        .filter(|r| answer(r).is_some())
        .map(|Request { cfgs, message, .. }| quote!(#(#cfgs)* #es::query::missing_for::<#message>(services)));
    quote! {
        #(#each)*
        #(#cfgs)*
        #[automatically_derived]
        impl #es::Queries for #this {
            fn missing(services: &#es::command::Services) -> ::std::vec::Vec<::std::string::String> {
                let _ = services;
                let each: &[::std::vec::Vec<::std::string::String>] = &[#(#missing),*];
                each.concat()
            }
        }
    }
}

/// The type of the answer, and the return type around it.
fn answer(request: &Request) -> Option<(&Type, &Output)> {
    let output = request.output.as_ref()?;
    Some((output.good.as_ref()?, output))
}

fn impls(es: &TokenStream, this: &Type, request: &Request) -> Option<TokenStream> {
    let Request { cfgs, message, services: asked, at, .. } = request;
    let (answer, output) = answer(request)?;
    let es = &respan(es.clone(), *at);
    let (env, body) = (services::env(asked, *at), body(request, output));
    Some(quote_spanned! {*at=>
        #(#cfgs)*
        #[automatically_derived]
        impl #es::Query for #message {
            type Answer = #answer;
            type Handler = #this;
        }
        #(#cfgs)*
        #[automatically_derived]
        impl #es::query::Answer<#message> for #this {
            type Env<'e> = #env;
            async fn answer<'a>(
                &'a self,
                query: #message,
                env: Self::Env<'a>,
            ) -> ::core::result::Result<<#message as #es::Query>::Answer, #es::BoxError> {
                #body
            }
        }
    })
}

fn body(request: &Request, output: &Output) -> TokenStream {
    let Request { name, at, services: asked, is_async, broken, .. } = request;
    if *broken {
        return quote!(let _ = (query, env); ::core::unreachable!());
    }
    let asked = services::arguments(asked);
    let wait = is_async.then(|| quote_spanned!(*at=> .await));
    let call = quote_spanned!(*at=> Self::#name(self, query, #asked)#wait);
    // Shown at the error type: it has to be one that can be boxed.
    let bad = written_at(output.bad_span());
    let boxed = quote_spanned!(bad=> answered.map_err(::core::convert::Into::into));
    quote! {
        let _ = &env;
        let answered = #call;
        #boxed
    }
}
