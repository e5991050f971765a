//! Further parameters: what a handler asks for, by type.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Index, Type};

/// `()`, or `(&'e A, &'e B,)`.
pub(super) fn env(services: &[Type]) -> TokenStream {
    quote!((#(&'e #services,)*))
}

/// `env.0, env.1`
pub(super) fn arguments(services: &[Type]) -> TokenStream {
    let at = (0..services.len()).map(Index::from);
    quote!(#(env.#at),*)
}
