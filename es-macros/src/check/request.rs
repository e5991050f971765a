//! Commands and queries: a message by value, services by reference, a `Result`.

use std::collections::HashMap;

use proc_macro2::Span;
use quote::{ToTokens, quote};
use syn::spanned::Spanned;
use syn::{Attribute, Ident, PatType, Type};

use super::params::{self, Receiver};
use crate::ast::{Block, Method};
use crate::ctxt::Ctxt;

/// What differs between commands and queries.
pub(crate) struct RequestRules {
    /// `command` or `query`
    pub(crate) what: &'static str,
    /// A parameter, as an example.
    pub(crate) example: &'static str,
    /// What the method returns, as an example.
    pub(crate) returns: &'static str,
    /// Whether a function without `self` is one too.
    pub(crate) without_self: bool,
}

/// One method that answers one message.
pub(crate) struct Request {
    pub(crate) cfgs: Vec<Attribute>,
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) name: Ident,
    pub(crate) at: Span,
    pub(crate) message: Type,
    pub(crate) services: Vec<Type>,
    pub(crate) has_self: bool,
    pub(crate) is_async: bool,
    /// What is inside the `Result`: the good and the bad, as far as they are written out.
    pub(crate) output: Option<Output>,
    /// Whether its signature is wrong: then its impls are written without a body, so that the
    /// callers of the message get no errors of their own.
    pub(crate) broken: bool,
}

pub(crate) struct Output {
    pub(crate) whole: Type,
    pub(crate) good: Option<Type>,
    pub(crate) bad: Option<Type>,
    /// Whether it is `Rows<..>`, without a `Result` around it.
    pub(crate) is_rows: bool,
}

impl Output {
    pub(crate) fn good_span(&self) -> Span {
        self.good.as_ref().unwrap_or(&self.whole).span()
    }

    pub(crate) fn bad_span(&self) -> Span {
        self.bad.as_ref().unwrap_or(&self.whole).span()
    }
}

impl RequestRules {
    /// The requests of a block. A method without a message is reported and left out.
    pub(crate) fn read(&self, cx: &Ctxt, block: &Block) -> Vec<Request> {
        block.methods.iter().filter_map(|method| self.request(cx, method)).collect()
    }

    fn request(&self, cx: &Ctxt, method: &Method) -> Option<Request> {
        let before = cx.count();
        let what = format!("a {} method", self.what);
        let sig = &method.sig;
        params::is_plain(cx, sig, &what);
        self.receiver(cx, method);
        let params = params::params(sig);
        let message = self.message(cx, method, params.first().copied());
        let services = params::services(cx, params.get(1..).unwrap_or_default(), &what);
        let output = self.output(cx, method);
        let broken = cx.count() > before;
        Some(Request {
            cfgs: method.cfgs.clone(),
            attrs: method.attrs.clone(),
            name: sig.ident.clone(),
            at: method.span(),
            message: message?,
            services: if broken { Vec::new() } else { services },
            has_self: sig.receiver().is_some(),
            is_async: sig.asyncness.is_some(),
            output,
            broken,
        })
    }

    fn receiver(&self, cx: &Ctxt, method: &Method) {
        let (sig, what) = (&method.sig, self.what);
        let because = if self.without_self {
            "it decides, and events change the state: write `&self`, or leave it out in a command that creates"
        } else {
            "it is called from many places at once: write `&self`"
        };
        match params::receiver(sig) {
            Receiver::Shared => {}
            Receiver::None if self.without_self => {}
            Receiver::None => cx.error(&sig.ident, format!("a {what} method takes `&self`")),
            Receiver::Exclusive => {
                cx.error(sig.receiver(), format!("a {what} method does not take `&mut self`; {because}"));
            }
            Receiver::Owned => {
                cx.error(sig.receiver(), format!("a {what} method does not take `self`; {because}"));
            }
        }
    }

    fn message(&self, cx: &Ctxt, method: &Method, param: Option<&PatType>) -> Option<Type> {
        let (what, example) = (self.what, self.example);
        let Some(param) = param else {
            let else_ = "helpers live in a plain `impl` block";
            cx.error(method.name(), format!("a {what} method takes its {what}, as in `{example}`; {else_}"));
            return None;
        };
        match &*param.ty {
            Type::Reference(reference) => {
                let ty = reference.elem.to_token_stream();
                cx.error(
                    &param.ty,
                    format!("a {what} method takes its {what} by value, before any service: write `{ty}`"),
                );
                Some((*reference.elem).clone()).filter(|ty| matches!(ty, Type::Path(_)))
            }
            Type::Path(_) => Some((*param.ty).clone()),
            other => {
                cx.error(other, format!("a {what} is a type of its own, as in `{example}`"));
                None
            }
        }
    }

    fn output(&self, cx: &Ctxt, method: &Method) -> Option<Output> {
        let text = || format!("a {} method returns `{}`", self.what, self.returns);
        let Some(whole) = params::output(&method.sig) else {
            match &method.sig.output {
                syn::ReturnType::Default => cx.error(method.name(), text()),
                syn::ReturnType::Type(_, ty) => cx.error(ty, text()),
            }
            return None;
        };
        let name = params::last_segment(whole).map(ToString::to_string).unwrap_or_default();
        let (is_result, arguments) = (name.ends_with("Result"), params::arguments(whole));
        if !self.without_self && name == "Rows" && !arguments.is_empty() {
            let (whole, good) = (whole.clone(), Some(whole.clone()));
            return Some(Output { whole, good, bad: None, is_rows: true });
        }
        // A command may return an alias; of a query, the answer has to be written out.
        if !matches!(whole, Type::Path(_)) || (!self.without_self && (!is_result || arguments.is_empty())) {
            cx.error(whole, text());
            return None;
        }
        let at = |n: usize| arguments.get(n).filter(|_| is_result).map(|ty| Type::clone(ty));
        Some(Output { whole: whole.clone(), good: at(0), bad: at(1), is_rows: false })
    }
}

/// One method a message; the second is reported and left out.
pub(crate) fn one_method_each(cx: &Ctxt, what: &str, requests: &mut Vec<Request>) {
    let mut first: HashMap<(String, String), Ident> = HashMap::new();
    requests.retain(|request| {
        let message = request.message.to_token_stream().to_string();
        // Under different `cfg`s there may be two, and rustc compares those that are there.
        let cfgs = &request.cfgs;
        let key = (quote!(#(#cfgs)*).to_string(), message.clone());
        if let Some(other) = first.get(&key) {
            cx.error(
                &request.message,
                format!("`{message}` is taken by `{other}` already: a {what} has one method"),
            );
            return false;
        }
        first.insert(key, request.name.clone());
        true
    });
}
