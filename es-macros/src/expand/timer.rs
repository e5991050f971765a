//! `#[derive(Timer)]`: the stored name.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{DeriveInput, LitStr};

use crate::attr;
use crate::ctxt::Ctxt;
use crate::names::{check_stored, snake_case};

pub(crate) fn expand(cx: &Ctxt, input: &DeriveInput) -> TokenStream {
    if let Some(param) = input.generics.params.first() {
        cx.error(param, "a timer has no type parameters and no lifetimes: it is stored, as one type");
        return TokenStream::new();
    }
    let entries = attr::read_all(cx, &input.attrs, "timer", &["name", "crate"]);
    let given = entries.iter().find(|entry| entry.key() == "name").and_then(|entry| entry.text(cx));
    let name =
        given.unwrap_or_else(|| LitStr::new(&snake_case(&input.ident.to_string()), input.ident.span()));
    check_stored(cx, "the timer's name", &name.value(), name.span());
    let (sagas, this) = (attr::krate_or(cx, &entries, "sagas"), &input.ident);
    quote! {
        #[automatically_derived]
        impl #sagas::Timer for #this {
            const NAME: &'static str = #name;
        }
    }
}
