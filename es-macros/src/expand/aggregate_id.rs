//! `#[derive(AggregateId)]`: the text form of a newtype is that of what it holds.

use proc_macro2::TokenStream;
use quote::quote;
use syn::{Data, DeriveInput, Fields, Type};

use crate::ctxt::Ctxt;

pub(crate) fn expand(cx: &Ctxt, input: &DeriveInput) -> TokenStream {
    let Some(inner) = inner(cx, input) else { return TokenStream::new() };
    let this = &input.ident;
    let from_text = is_string(inner).then(|| {
        quote! {
            #[automatically_derived]
            impl ::core::convert::From<&str> for #this {
                fn from(id: &str) -> Self {
                    Self(::std::borrow::ToOwned::to_owned(id))
                }
            }
        }
    });
    quote! {
        #[automatically_derived]
        impl ::core::fmt::Display for #this {
            fn fmt(&self, f: &mut ::core::fmt::Formatter<'_>) -> ::core::fmt::Result {
                <#inner as ::core::fmt::Display>::fmt(&self.0, f)
            }
        }
        #[automatically_derived]
        impl ::core::str::FromStr for #this {
            type Err = <#inner as ::core::str::FromStr>::Err;
            fn from_str(text: &str) -> ::core::result::Result<Self, Self::Err> {
                <#inner as ::core::str::FromStr>::from_str(text).map(Self)
            }
        }
        #[automatically_derived]
        impl ::core::convert::From<#inner> for #this {
            fn from(id: #inner) -> Self {
                Self(id)
            }
        }
        #from_text
    }
}

fn inner<'i>(cx: &Ctxt, input: &'i DeriveInput) -> Option<&'i Type> {
    if let Some(param) = input.generics.params.first() {
        cx.error(param, "an aggregate id has no type parameters and no lifetimes: it is one owned type");
        return None;
    }
    if let Data::Struct(data) = &input.data
        && let Fields::Unnamed(fields) = &data.fields
        && fields.unnamed.len() == 1
    {
        return fields.unnamed.first().map(|field| &field.ty);
    }
    let why = "write `Display` and `FromStr` by hand for any other shape";
    let name = &input.ident;
    cx.error(
        name,
        format!("`#[derive(AggregateId)]` goes on a newtype, as in `struct {name}(String);`; {why}"),
    );
    None
}

fn is_string(ty: &Type) -> bool {
    let Type::Path(path) = ty else { return false };
    path.path.segments.last().is_some_and(|segment| segment.ident == "String")
}
