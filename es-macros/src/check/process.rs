//! Handlers of a process: each method has one attribute, which says what its input is.

use std::collections::HashMap;

use proc_macro2::Span;
use quote::{ToTokens, quote};
use syn::spanned::Spanned;
use syn::{Attribute, Ident, Type};

use super::params;
use super::read::{ReadHandler, ReadRules, one_handler_each};
use crate::ast::{Block, Method};
use crate::attr::{self, Entry};
use crate::ctxt::Ctxt;
use crate::span::written_at;

/// The attributes of its methods.
pub(crate) const HELPERS: &[&str] = &["starts", "on", "refused", "timer"];

/// The handlers of a process.
pub(crate) struct Process {
    pub(crate) events: Vec<EventHandler>,
    pub(crate) refusals: Vec<InputHandler>,
    pub(crate) timers: Vec<InputHandler>,
}

/// A handler of an event.
pub(crate) struct EventHandler {
    pub(crate) read: ReadHandler,
    pub(crate) starts: bool,
    /// `by`, `via`, `early`.
    pub(crate) entries: Vec<Entry>,
}

/// A handler of a refusal or a timer: its command, or the timer.
pub(crate) struct InputHandler {
    pub(crate) cfgs: Vec<Attribute>,
    pub(crate) name: Ident,
    pub(crate) of: Type,
    /// Where the return type is, or the name if there is none.
    pub(crate) returns: Span,
}

impl Process {
    /// The handlers of a block. One with a wrong signature is reported and left out.
    pub(crate) fn read(cx: &Ctxt, block: &Block) -> Self {
        let mut process = Self { events: Vec::new(), refusals: Vec::new(), timers: Vec::new() };
        if block.methods.is_empty() && !cx.failed() {
            let example = "#[starts(by = id)] fn requested(&mut self, e: &Requested) -> Next<Self>";
            cx.error(&block.this, format!("no handlers: add one, as in `{example}`"));
        }
        is_started(cx, block);
        for method in &block.methods {
            process.add(cx, method);
        }
        let mut seen: Vec<ReadHandler> = Vec::new();
        let mut rest = Vec::new();
        for EventHandler { read, starts, entries } in process.events {
            seen.push(read);
            let before = seen.len();
            one_handler_each(cx, &mut seen);
            if seen.len() == before {
                rest.push((starts, entries));
            }
        }
        let with = |(read, (starts, entries))| EventHandler { read, starts, entries };
        process.events = seen.into_iter().zip(rest).map(with).collect();
        one_input_each(cx, &mut process.refusals, "the refusal of");
        one_input_each(cx, &mut process.timers, "the timer");
        process
    }

    fn add(&mut self, cx: &Ctxt, method: &Method) {
        let is_helper = |attr: &&Attribute| HELPERS.iter().any(|helper| attr.path().is_ident(helper));
        let helpers: Vec<&Attribute> = method.attrs.iter().filter(is_helper).collect();
        let [attr] = helpers[..] else {
            let text = "a handler has one of `#[starts(..)]`, `#[on(..)]`, `#[refused]` and `#[timer]`";
            match helpers.get(1) {
                Some(second) => {
                    cx.error(second, format!("{text}: split it in two"));
                }
                None => {
                    cx.error(method.name(), format!("{text}; helpers live in a plain `impl` block"));
                }
            }
            return;
        };
        if attr.path().is_ident("refused") || attr.path().is_ident("timer") {
            attr::read_one(cx, attr, &[]);
            let is_refusal = attr.path().is_ident("refused");
            let Some(handler) = input(cx, method, is_refusal) else { return };
            let handlers = if is_refusal { &mut self.refusals } else { &mut self.timers };
            handlers.push(handler);
            return;
        }
        let starts = attr.path().is_ident("starts");
        let known: &[&str] = if starts { &["by"] } else { &["by", "via", "early"] };
        let entries = attr::read_one(cx, attr, known);
        if let Some(read) = ReadRules::Process.handler(cx, method) {
            self.events.push(EventHandler { read, starts, entries });
        }
    }
}

/// A process in which nothing starts an instance would never have one, and would say nothing of it.
fn is_started(cx: &Ctxt, block: &Block) {
    let starts = |method: &Method| method.attrs.iter().any(|attr| attr.path().is_ident("starts"));
    if block.methods.is_empty() || block.methods.iter().any(starts) {
        return;
    }
    cx.error(
        &block.this,
        "no handler starts an instance, so there would never be one: write `#[starts]` in place of `#[on]` on the \
         event that begins it",
    );
}

/// The command of a `Refused<C>`, or a timer by value.
fn input(cx: &Ctxt, method: &Method, is_refusal: bool) -> Option<InputHandler> {
    let before = cx.count();
    let (sig, rules) = (&method.sig, ReadRules::Process);
    params::is_plain(cx, sig, "a process's handler");
    rules.receiver(cx, method);
    if let Some(token) = sig.asyncness {
        cx.error(token, "a process's handler is not `async`: what it wants to happen, it returns");
    }
    let params = params::params(sig);
    rules.services(cx, params.get(1..).unwrap_or_default());
    let example = if is_refusal { "r: Refused<Withdraw>" } else { "t: Expired" };
    let Some(param) = params.first() else {
        cx.error(method.name(), format!("this handler takes its input, as in `{example}`"));
        return None;
    };
    let of = if is_refusal {
        let is = params::last_segment(&param.ty).is_some_and(|name| name == "Refused");
        params::arguments(&param.ty).first().filter(|_| is).map(|of| Type::clone(of))
    } else {
        Some((*param.ty).clone()).filter(|ty| !matches!(ty, Type::Reference(_)))
    };
    if of.is_none() {
        let text = if is_refusal {
            format!("a `#[refused]` handler takes `Refused<C>` by value, as in `{example}`")
        } else {
            format!("this handler takes its input by value, as in `{example}`")
        };
        cx.error(&param.ty, text);
    }
    let returns = written_at(params::output(sig).map_or_else(|| sig.ident.span(), Spanned::span));
    let (cfgs, name) = (method.cfgs.clone(), sig.ident.clone());
    of.filter(|_| cx.count() == before).map(|of| InputHandler { cfgs, name, of, returns })
}

/// One handler an input; the second is reported and left out.
fn one_input_each(cx: &Ctxt, handlers: &mut Vec<InputHandler>, what: &str) {
    let mut first: HashMap<(String, String), Ident> = HashMap::new();
    handlers.retain(|InputHandler { cfgs, name, of, .. }| {
        let text = of.to_token_stream().to_string();
        if let Some(other) = first.insert((quote!(#(#cfgs)*).to_string(), text.clone()), name.clone()) {
            cx.error(of, format!("{what} `{text}` is handled by `{other}` already: it has one handler"));
            return false;
        }
        true
    });
}
