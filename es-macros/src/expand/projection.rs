//! `#[projection]`: `Projection`, `Project`, and `On` for each handler.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::Type;

use super::dispatch;
use crate::ast::{Args, Block};
use crate::check::{ReadHandler, ReadRules, one_handler_each};
use crate::ctxt::Ctxt;

pub(crate) fn expand(cx: &Ctxt, args: TokenStream, item: TokenStream) -> TokenStream {
    let args = Args::parse(cx, args, &["name", "version", "schema", "schema_sql", "crate"]);
    let (name, version, schema) = (args.name(cx, "projection"), args.version(cx), args.schema(cx));
    let Some(block) = Block::parse(cx, "projection", item) else { return TokenStream::new() };
    let mut handlers = ReadRules::Projection.read(cx, &block);
    one_handler_each(cx, &mut handlers);
    let (es, this, cfgs) = (&args.krate, &block.this, &block.cfgs);
    let schema = schema.map(|sql| quote!(const SCHEMA: &'static str = #sql;));
    let filter = dispatch::filter(es, &handlers);
    let project = one_transaction(cx, &handlers).map(|tx| project(es, &block, tx, &handlers));
    let each = handlers.iter().map(|handler| on(es, this, handler));
    quote! {
        #(#cfgs)*
        #[automatically_derived]
        impl #es::Projection for #this {
            const NAME: &'static str = #name;
            const VERSION: u32 = #version;
            #schema
            #filter
        }
        #project
        #(#each)*
    }
}

/// The transaction of all handlers.
fn one_transaction<'h>(cx: &Ctxt, handlers: &'h [ReadHandler]) -> Option<&'h Type> {
    let mut all = handlers.iter().filter_map(|handler| handler.tx.as_ref());
    let first = all.next()?;
    let text = first.to_token_stream().to_string();
    for other in all.filter(|other| other.to_token_stream().to_string() != text) {
        cx.error(
            other,
            format!("the handlers of a projection share one transaction: write `&mut {text}` here too"),
        );
    }
    Some(first)
}

fn project(es: &TokenStream, block: &Block, tx: &Type, handlers: &[ReadHandler]) -> TokenStream {
    let (this, cfgs) = (&block.this, &block.cfgs);
    let each = dispatch::each(es, handlers, |ReadHandler { payload, at, .. }| {
        quote_spanned! {*at=>
            let event = #es::Recorded::new(&payload, event);
            <Self as #es::projection::On<#payload, #tx>>::on(self, event, tx).await?;
        }
    });
    quote! {
        #(#cfgs)*
        #[automatically_derived]
        impl #es::Project<#tx> for #this {
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
