//! `#[tcc]`: `Tcc` from the three methods of a block.

use proc_macro2::{Span, TokenStream};
use quote::quote;
use syn::Ident;

use super::step::{call, place};
use crate::ast::{Args, Block};
use crate::check::{BranchCall, BranchShape};
use crate::ctxt::Ctxt;
use crate::span::respan;

const KEYS: &[&str] = &["name", "place", "retry", "limit", "destination", "refuses_for_good", "crate"];

pub(crate) fn expand(cx: &Ctxt, args: TokenStream, item: TokenStream) -> TokenStream {
    let args = Args::of_sagas(cx, args, KEYS);
    let (name, says) = (args.name(cx, "branch"), args.of_step(cx));
    let Some(block) = Block::parse(cx, "tcc", item) else { return TokenStream::new() };
    let Some(branch) = BranchShape::read(cx, &block) else { return TokenStream::new() };
    let (sagas, this) = (&args.krate, &block.this);
    let BranchShape { cfgs, input, held, refusal, .. } = &branch;
    let place = args.place(cx).unwrap_or_else(|| place(sagas, &branch.handed));
    let reserve = made("reserve", &branch.reserve, &quote!(cx, at));
    let confirm = made("confirm", &branch.confirm, &quote!(cx, held, at));
    let cancel = made("cancel", &branch.cancel, &quote!(cx, held, at));
    let of_branch = respan(quote!(#sagas::tcc::Tcc<#input>), branch.reserve.at);
    let context = quote!(#sagas::saga::Cx<'_, #input>);
    let handed = quote!(&mut <Self::Place as #sagas::saga::Place>::At);
    let done = quote!(::core::result::Result<(), #sagas::es_core::BoxError>);
    quote! {
        #(#cfgs)*
        #[automatically_derived]
        impl #of_branch for #this {
            const NAME: &'static str = #name;
            type Held = #held;
            type Refusal = #refusal;
            type Place = #place;
            async fn reserve(
                &self,
                cx: #context,
                at: #handed,
            ) -> ::core::result::Result<Self::Held, #sagas::saga::StepError<Self::Refusal>> {
                #reserve
            }
            async fn confirm(&self, cx: #context, held: Self::Held, at: #handed) -> #done {
                #confirm
            }
            async fn cancel(&self, cx: #context, held: #sagas::saga::Ran<Self::Held>, at: #handed) -> #done {
                #cancel
            }
            #says
        }
    }
}

fn made(name: &str, BranchCall { at, is_async }: &BranchCall, with: &TokenStream) -> TokenStream {
    call(&Ident::new(name, Span::call_site().located_at(*at)), *at, *is_async, with)
}
