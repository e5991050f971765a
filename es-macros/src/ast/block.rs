//! The `impl` block under an attribute: its signatures. Bodies are not looked at.

use proc_macro2::{Group, Span, TokenStream, TokenTree};
use quote::{ToTokens, format_ident};
use syn::parse::{Parse, ParseStream};
use syn::{Attribute, Generics, Ident, ImplItem, Signature, Token, Type, Visibility, WhereClause, braced};

use crate::attr::cfgs;
use crate::ctxt::Ctxt;
use crate::span::{respan, written_at};

pub(crate) struct Block {
    pub(crate) this: Type,
    /// Of the block itself.
    pub(crate) cfgs: Vec<Attribute>,
    pub(crate) methods: Vec<Method>,
}

pub(crate) struct Method {
    pub(crate) attrs: Vec<Attribute>,
    /// Of the block and of the method: what is written for the method carries them.
    pub(crate) cfgs: Vec<Attribute>,
    /// `Self` in it is replaced by the type: it goes into impls of other types.
    pub(crate) sig: Signature,
}

impl Method {
    pub(crate) fn name(&self) -> &Ident {
        &self.sig.ident
    }

    /// Where errors about what is written for this method show: at its name, but marked as written by
    /// a macro, so that lints leave it alone.
    pub(crate) fn span(&self) -> Span {
        written_at(self.sig.ident.span())
    }
}

impl Block {
    /// `None`, and the reason noted, if it is no block that the attribute can be on.
    pub(crate) fn parse(cx: &Ctxt, attribute: &str, item: TokenStream) -> Option<Self> {
        let raw: Raw = cx.ok(syn::parse2(item).map_err(|e| explain(attribute, &e)))?;
        if let Some(for_token) = raw.for_token {
            cx.error(
                for_token,
                format!("`#[{attribute}]` goes on an `impl Type {{ .. }}` block without a trait"),
            );
            return None;
        }
        if let Some(generic) = raw.generics.params.first() {
            let why = "what it stores is one type: write the block for a type without parameters";
            cx.error(generic, format!("`#[{attribute}]` does not take `impl<..>` blocks; {why}"));
            return None;
        }
        for other in &raw.others {
            cx.error(
                other,
                format!(
                    "every item in a `#[{attribute}]` block is a method: move this to a plain `impl` block"
                ),
            );
        }
        let block_cfgs = cfgs(&raw.attrs);
        let methods = raw.methods.into_iter().map(|(attrs, sig)| Method {
            cfgs: block_cfgs.iter().cloned().chain(cfgs(&attrs)).collect(),
            attrs,
            sig: named(&sig, &raw.this),
        });
        Some(Self { methods: methods.collect(), this: raw.this, cfgs: block_cfgs })
    }
}

fn explain(attribute: &str, error: &syn::Error) -> syn::Error {
    if error.to_string() == "expected `impl`" {
        return syn::Error::new(
            error.span(),
            format!("`#[{attribute}]` goes on an `impl Type {{ .. }}` block"),
        );
    }
    error.clone()
}

struct Raw {
    attrs: Vec<Attribute>,
    generics: Generics,
    this: Type,
    for_token: Option<Token![for]>,
    methods: Vec<(Vec<Attribute>, Signature)>,
    others: Vec<TokenStream>,
}

impl Parse for Raw {
    fn parse(input: ParseStream<'_>) -> syn::Result<Self> {
        let attrs = input.call(Attribute::parse_outer)?;
        input.parse::<Option<Token![unsafe]>>()?;
        input.parse::<Token![impl]>()?;
        let generics = input.parse()?;
        input.parse::<Option<Token![!]>>()?;
        let mut this: Type = input.parse()?;
        let for_token = input.parse::<Option<Token![for]>>()?;
        if for_token.is_some() {
            this = input.parse()?;
        }
        input.parse::<Option<WhereClause>>()?;
        let content;
        braced!(content in input);
        content.call(Attribute::parse_inner)?;
        let (mut methods, mut others) = (Vec::new(), Vec::new());
        while !content.is_empty() {
            let attrs = content.call(Attribute::parse_outer)?;
            content.parse::<Visibility>()?;
            if is_method(&content) {
                let sig = content.parse()?;
                content.parse::<Group>()?;
                methods.push((attrs, sig));
            } else {
                others.push(content.parse::<ImplItem>()?.into_token_stream());
            }
        }
        Ok(Self { attrs, generics, this, for_token, methods, others })
    }
}

fn is_method(input: ParseStream<'_>) -> bool {
    let constant = input.peek(Token![const]) && !input.peek2(Token![fn]) && !input.peek2(Token![async]);
    let starts = input.peek(Token![fn]) || input.peek(Token![async]) || input.peek(Token![unsafe]);
    starts || input.peek(Token![extern]) || (input.peek(Token![const]) && !constant)
}

/// The signature with the type's name for `Self`.
fn named(sig: &Signature, this: &Type) -> Signature {
    let tokens = replace(sig.to_token_stream(), &this.to_token_stream());
    syn::parse2(tokens).unwrap_or_else(|_| sig.clone())
}

fn replace(tokens: TokenStream, this: &TokenStream) -> TokenStream {
    let self_type = format_ident!("Self");
    let mut replaced = TokenStream::new();
    for token in tokens {
        match token {
            TokenTree::Ident(ident) if ident == self_type => {
                replaced.extend(respan(this.clone(), ident.span()));
            }
            TokenTree::Group(group) => {
                let mut inner = Group::new(group.delimiter(), replace(group.stream(), this));
                inner.set_span(group.span());
                replaced.extend([TokenTree::Group(inner)]);
            }
            other => replaced.extend([other]),
        }
    }
    replaced
}
