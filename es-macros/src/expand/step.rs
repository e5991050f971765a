//! `#[step]`: `Step`, and `Undo` if there is one, from the methods of a block.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::{Ident, Type};

use crate::ast::{Args, Block};
use crate::check::{StepShape, UndoShape};
use crate::ctxt::Ctxt;
use crate::span::respan;

const KEYS: &[&str] =
    &["name", "undo", "place", "retry", "limit", "destination", "unknown", "refuses_for_good", "crate"];

pub(crate) fn expand(cx: &Ctxt, args: TokenStream, item: TokenStream) -> TokenStream {
    let args = Args::of_sagas(cx, args, KEYS);
    let (name, undo, says) = (args.name(cx, "step"), args.method(cx, "undo"), args.of_step(cx));
    let Some(block) = Block::parse(cx, "step", item) else { return TokenStream::new() };
    let Some(step) = StepShape::read(cx, &block, undo.as_ref()) else { return TokenStream::new() };
    let (sagas, this) = (&args.krate, &block.this);
    let StepShape { cfgs, input, output, refusal, at, .. } = &step;
    let needs = step.needs.as_ref().map_or_else(|| quote!(()), ToTokens::to_token_stream);
    let place = args.place(cx).unwrap_or_else(|| place(sagas, &step.handed));
    let call = call(&step.name, *at, step.is_async, &quote!(cx, at));
    let of_step = respan(quote!(#sagas::saga::Step<#input>), *at);
    let undo = step.undo.as_ref().map(|undo| undo_impl(sagas, this, &step, undo));
    quote! {
        #(#cfgs)*
        #[automatically_derived]
        impl #of_step for #this {
            const NAME: &'static str = #name;
            type Needs = #needs;
            type Output = #output;
            type Refusal = #refusal;
            type Place = #place;
            async fn run(
                &self,
                cx: #sagas::saga::Cx<'_, #input, Self::Needs>,
                at: &mut <Self::Place as #sagas::saga::Place>::At,
            ) -> ::core::result::Result<Self::Output, #sagas::saga::StepError<Self::Refusal>> {
                #call
            }
            #says
        }
        #undo
    }
}

fn undo_impl(sagas: &TokenStream, this: &Type, step: &StepShape, undo: &UndoShape) -> TokenStream {
    let (input, UndoShape { cfgs, name, at, is_async }) = (&step.input, undo);
    let call = call(name, *at, *is_async, &quote!(cx, ran, at));
    quote! {
        #(#cfgs)*
        #[automatically_derived]
        impl #sagas::saga::Undo<#input> for #this {
            async fn undo(
                &self,
                cx: #sagas::saga::Cx<'_, #input, <Self as #sagas::saga::Step<#input>>::Needs>,
                ran: #sagas::saga::Ran<<Self as #sagas::saga::Step<#input>>::Output>,
                at: &mut <<Self as #sagas::saga::Step<#input>>::Place as #sagas::saga::Place>::At,
            ) -> ::core::result::Result<(), #sagas::es_core::BoxError> {
                #call
            }
        }
    }
}

/// Elsewhere, if it is handed a call; in the database of the journal, if it is handed a transaction, or what is staged.
pub(super) fn place(sagas: &TokenStream, handed: &Type) -> TokenStream {
    let is = |name: &str| matches!(handed, Type::Path(path) if path.path.segments.last().is_some_and(|s| s.ident == name));
    match () {
        () if is("Call") => quote!(#sagas::saga::Remote),
        () if is("Staging") => quote!(#sagas::saga::Staged),
        () => quote!(#sagas::saga::Journal<#handed>),
    }
}

pub(super) fn call(name: &Ident, at: Span, is_async: bool, with: &TokenStream) -> TokenStream {
    let wait = is_async.then(|| quote_spanned!(at=> .await));
    let with = respan(with.clone(), at);
    quote_spanned!(at=> Self::#name(self, #with) #wait)
}
