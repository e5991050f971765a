//! The user's block, given back token by token, whatever else is wrong with it.

use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};
use quote::quote;

/// The item as it was, without the attributes on its methods that only the macro knows.
///
/// It works on tokens, not on a syntax tree: what cannot be parsed is given back too, so that an
/// editor goes on completing in it.
pub(crate) fn without_helpers(item: TokenStream, helpers: &[&str]) -> TokenStream {
    let mut kept = Vec::new();
    for token in item {
        match token {
            TokenTree::Group(group) if group.delimiter() == Delimiter::Brace => {
                let mut inner = Group::new(Delimiter::Brace, strip(group.stream(), helpers));
                inner.set_span(group.span());
                kept.push(TokenTree::Group(inner));
            }
            other => kept.push(other),
        }
    }
    kept.into_iter().collect()
}

/// The block, with the lints off that ask for another signature: the macro asks for this one.
pub(crate) fn block(item: TokenStream, helpers: &[&str]) -> TokenStream {
    let block = without_helpers(item, helpers);
    quote! {
        #[allow(
            clippy::needless_pass_by_value,
            clippy::needless_pass_by_ref_mut,
            clippy::unnecessary_wraps,
            clippy::unused_async,
            clippy::unused_self,
            clippy::trivially_copy_pass_by_ref,
            reason = "the signature is what the attribute asks for"
        )]
        #block
    }
}

fn strip(tokens: TokenStream, helpers: &[&str]) -> TokenStream {
    let mut kept: Vec<TokenTree> = Vec::new();
    for token in tokens {
        let after_hash = matches!(kept.last(), Some(TokenTree::Punct(p)) if p.as_char() == '#');
        match &token {
            TokenTree::Group(group) if after_hash && is_helper(group, helpers) => {
                kept.pop();
            }
            _ => kept.push(token),
        }
    }
    kept.into_iter().collect()
}

fn is_helper(group: &Group, helpers: &[&str]) -> bool {
    let mut inside = group.stream().into_iter();
    let named = matches!(inside.next(), Some(TokenTree::Ident(name)) if helpers.iter().any(|h| name == h));
    let path = matches!(inside.next(), Some(TokenTree::Punct(p)) if p.as_char() == ':');
    group.delimiter() == Delimiter::Bracket && named && !path
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_helpers_of_methods_are_taken_away() {
        let item = quote! {
            #[on] impl A { #[on(by = x)] #[doc = "d"] fn f() { #[on] let x = 1; } #[on::other] fn g() {} }
        };
        let left =
            quote! { #[on] impl A { #[doc = "d"] fn f() { #[on] let x = 1; } #[on::other] fn g() {} } };
        assert_eq!(without_helpers(item, &["on"]).to_string(), left.to_string());
    }

    #[test]
    fn what_cannot_be_parsed_is_given_back() {
        let item = quote! { impl A { fn f(&self) { self. } #[on] } };
        assert_eq!(
            without_helpers(item, &["on"]).to_string(),
            quote!(impl A { fn f(&self) { self. } }).to_string()
        );
    }
}
