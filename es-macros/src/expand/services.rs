//! Further parameters: what a handler asks for, by type.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{Index, Type};

use crate::span::written_at;

/// `()`, or `(&'e A, &'e B,)`; shown at the service, if there is but one, or else at the method.
pub(super) fn env(services: &[Type], method: Span) -> TokenStream {
    let at = if let [only] = services { written_at(only.span()) } else { method };
    quote_spanned!(at=> (#(&'e #services,)*))
}

/// `env.0, env.1`
pub(super) fn arguments(services: &[Type]) -> TokenStream {
    let at = (0..services.len()).map(Index::from);
    quote!(#(env.#at),*)
}
