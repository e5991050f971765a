//! `#[projection]`: `Projection`, `Project`, and `On` for each handler.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::Type;
use syn::spanned::Spanned;

use super::dispatch;
use crate::ast::{Args, Block};
use crate::check::{ReadHandler, ReadRules, one_handler_each};
use crate::ctxt::Ctxt;
use crate::fingerprint::fingerprint;
use crate::span::{respan, written_at};

const KEYS: &[&str] =
    &["name", "version", "schema", "schema_sql", "on_failure", "partition", "idempotent", "crate"];

pub(crate) fn expand(cx: &Ctxt, args: TokenStream, item: TokenStream) -> TokenStream {
    let text = fingerprint(&[&args, &item]);
    let args = Args::parse(cx, args, KEYS);
    let (name, version, schema) = (args.name(cx, "projection"), args.version(cx), args.schema(cx));
    let (on_failure, partition, idempotent) = (args.on_failure(cx), args.partition(cx), args.idempotent(cx));
    let Some(block) = Block::parse(cx, "projection", item) else { return TokenStream::new() };
    let mut handlers = ReadRules::Projection.read(cx, &block);
    one_handler_each(cx, &mut handlers);
    let (es, this, cfgs) = (&args.krate, &block.this, &block.cfgs);
    let schema = schema.map(|sql| quote!(const SCHEMA: &'static str = #sql;));
    let tx = one_transaction(cx, &mut handlers);
    let filter = dispatch::filter(es, &handlers, text, |_| None);
    let project = tx.map(|tx| project(es, &block, &tx, &handlers));
    let each = handlers.iter().map(|handler| on(es, this, handler));
    quote! {
        #(#cfgs)*
        #[automatically_derived]
        impl #es::Projection for #this {
            const NAME: &'static str = #name;
            const VERSION: u32 = #version;
            #schema
            #on_failure
            #partition
            #idempotent
            #filter
        }
        #project
        #(#each)*
    }
}

/// The transaction of all handlers; one with another is reported and left out.
fn one_transaction(cx: &Ctxt, handlers: &mut Vec<ReadHandler>) -> Option<Type> {
    let first = handlers.iter().find_map(|handler| handler.tx.clone())?;
    let text = first.to_token_stream().to_string();
    handlers.retain(|handler| {
        let same = handler.tx.to_token_stream().to_string() == text;
        if !same {
            let why = "the handlers of a projection share one transaction";
            cx.error(&handler.tx, format!("{why}: write `&mut {text}` here too"));
        }
        same
    });
    Some(first)
}

fn project(es: &TokenStream, block: &Block, tx: &Type, handlers: &[ReadHandler]) -> TokenStream {
    let (this, cfgs) = (&block.this, &block.cfgs);
    let each = dispatch::each(es, handlers, |ReadHandler { payload, .. }| {
        let at = written_at(payload.span());
        let es = respan(es.clone(), at);
        quote_spanned! {at=>
            let event = #es::Recorded::new(&payload, event);
            <Self as #es::projection::On<#payload, #tx>>::on(self, event, tx).await?;
        }
    });
    quote! {
        #(#cfgs)*
        #[automatically_derived]
        impl #es::Project<#tx> for #this {
            const ANSWERS: #es::query::Answers = {
                // Not used if the type has a `#[queries]` block.
                #[allow(unused_imports, reason = "the type may answer queries by itself")]
                use #es::query::AnswersNothing as _;
                #es::query::Answering::<Self>::ANSWERS
            };
            async fn project(
                &self,
                event: &#es::RecordedEvent,
                tx: &mut #tx,
            ) -> ::core::result::Result<(), #es::BoxError> {
                #each
                ::core::result::Result::Ok(())
            }
        }
    }
}

fn on(es: &TokenStream, this: &Type, handler: &ReadHandler) -> TokenStream {
    let ReadHandler { cfgs, payload, tx, at, .. } = handler;
    let es = &respan(es.clone(), *at);
    let call = dispatch::call(es, handler, &quote!(tx));
    quote_spanned! {*at=>
        #(#cfgs)*
        #[automatically_derived]
        impl #es::projection::On<#payload, #tx> for #this {
            async fn on(
                &self,
                event: #es::Recorded<'_, #payload>,
                tx: &mut #tx,
            ) -> ::core::result::Result<(), #es::BoxError> {
                #call
            }
        }
    }
}
