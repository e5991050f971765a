//! `#[queries]`: `Query` and `Answer` for each method, or `Gathers` if it has `#[gather]`; `Queries` for all of them.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::Type;
use syn::spanned::Spanned;

use super::services;
use crate::ast::{Args, Block};
use crate::check::{Output, Request, RequestRules, one_method_each};
use crate::ctxt::Ctxt;
use crate::span::{respan, written_at};

/// The attributes on methods that this macro takes away.
pub(crate) const HELPERS: &[&str] = &["gather"];

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
    let requests: Vec<Asked<'_>> = requests.iter().filter_map(|request| Asked::new(cx, request)).collect();
    let (es, this, cfgs) = (&args.krate, &block.this, &block.cfgs);
    let each = requests.iter().map(|asked| asked.impls(es, this));
    let missing = requests.iter().map(|asked| asked.missing(es));
    let gathered: Vec<_> = requests.iter().filter(|asked| asked.gathers).map(|asked| asked.add()).collect();
    let gather = (!gathered.is_empty()).then(|| {
        quote! {
            fn gather(to: &mut #es::query::Gathering) {
                let _ = &to;
                #(#gathered)*
            }
        }
    });
    quote! {
        #(#each)*
        #(#cfgs)*
        #[automatically_derived]
        impl #es::Queries for #this {
            fn missing(services: &#es::services::Services) -> ::std::vec::Vec<::std::string::String> {
                let _ = services;
                let each: &[::std::vec::Vec<::std::string::String>] = &[#(#missing),*];
                each.concat()
            }
            #gather
        }
    }
}

/// A method, with what it returns.
struct Asked<'r> {
    request: &'r Request,
    output: &'r Output,
    /// The type of the answer.
    answer: &'r Type,
    /// Whether others answer the same question.
    gathers: bool,
}

impl<'r> Asked<'r> {
    fn new(cx: &Ctxt, request: &'r Request) -> Option<Self> {
        let mark = request.attrs.iter().find(|attr| attr.path().is_ident("gather"));
        if let Some(mark) = mark.filter(|mark| mark.meta.require_path_only().is_err()) {
            cx.error(mark, "`#[gather]` takes nothing");
        }
        let output = request.output.as_ref()?;
        Some(Self { request, output, answer: output.good.as_ref()?, gathers: mark.is_some() })
    }

    fn impls(&self, es: &TokenStream, this: &Type) -> TokenStream {
        let Request { cfgs, message, services: asked, at, .. } = self.request;
        let (answer, es) = (self.answer, &respan(es.clone(), *at));
        let (env, body) = (services::env(asked, *at), self.body(es));
        if self.gathers {
            let is_gather = written_at(message.span());
            let question = quote_spanned!(is_gather=> <#message as #es::query::Gather>::Answer);
            return quote_spanned! {*at=>
                #(#cfgs)*
                #[automatically_derived]
                impl #es::query::Gathers<#message> for #this {
                    type Env<'e> = #env;
                    async fn answer<'a>(
                        &'a self,
                        query: #message,
                        env: Self::Env<'a>,
                    ) -> ::core::result::Result<#question, #es::BoxError> {
                        #body
                    }
                }
            };
        }
        quote_spanned! {*at=>
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
        }
    }

    fn missing(&self, es: &TokenStream) -> TokenStream {
        let Request { cfgs, message, .. } = self.request;
        if self.gathers {
            quote!(#(#cfgs)* #es::query::missing_for_gather::<#message, Self>(services))
        } else {
            quote!(#(#cfgs)* #es::query::missing_for::<#message>(services))
        }
    }

    fn add(&self) -> TokenStream {
        let Request { cfgs, message, .. } = self.request;
        quote!(#(#cfgs)* to.add::<#message, Self>();)
    }

    fn body(&self, es: &TokenStream) -> TokenStream {
        let Request { name, at, services: asked, is_async, broken, .. } = self.request;
        if *broken {
            return quote!(let _ = (query, env); ::core::unreachable!());
        }
        let asked = services::arguments(asked);
        let wait = is_async.then(|| quote_spanned!(*at=> .await));
        let call = quote_spanned!(*at=> Self::#name(self, query, #asked)#wait);
        // Shown at the type that is wrong: an answer has to be that of its question, an error one that can be boxed.
        let (good, bad) = (written_at(self.output.good_span()), written_at(self.output.bad_span()));
        let message = &self.request.message;
        let same = self.gathers.then(|| {
            let answer = quote!(<#message as #es::query::Gather>::Answer);
            let answer =
                if self.output.is_rows { answer } else { quote!(::core::result::Result<#answer, _>) };
            let answer = respan(answer, good);
            quote_spanned!(good=> let answered: #answer = answered;)
        });
        let answer = if self.output.is_rows {
            quote_spanned!(good=> ::core::result::Result::Ok(answered))
        } else {
            quote_spanned!(bad=> answered.map_err(::core::convert::Into::into))
        };
        quote! {
            let _ = &env;
            let answered = #call;
            #same
            #answer
        }
    }
}
