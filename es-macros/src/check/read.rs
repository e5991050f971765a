//! Handlers of the read side: an event, then what the attribute allows.

use std::collections::HashMap;

use proc_macro2::Span;
use quote::{ToTokens, quote};
use syn::spanned::Spanned;
use syn::{Attribute, Ident, PatType, Type};

use super::params::{self, Receiver};
use crate::ast::{Block, Method};
use crate::ctxt::Ctxt;
use crate::span::written_at;

/// What differs between views, projections and reactors.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReadRules {
    /// `fn opened(&mut self, e: &Opened)`
    View,
    /// `async fn opened(&self, e: &Opened, tx: &mut Tx) -> Result<(), E>`
    Projection,
    /// `async fn opened(&self, e: &Opened, mail: &Mailer) -> Result<(), E>`
    Reactor,
    /// `fn requested(&mut self, e: &Requested) -> Next<Self>`
    Process,
    /// `fn placed(&self, e: &Placed) -> Message`
    Publishes,
}

/// One handler of one event.
pub(crate) struct ReadHandler {
    pub(crate) cfgs: Vec<Attribute>,
    pub(crate) attrs: Vec<Attribute>,
    pub(crate) name: Ident,
    pub(crate) at: Span,
    pub(crate) payload: Type,
    /// Whether it takes `Recorded<'_, P>` rather than `&P`.
    pub(crate) recorded: bool,
    /// The type behind a projection's `&mut Tx`.
    pub(crate) tx: Option<Type>,
    pub(crate) services: Vec<Type>,
    pub(crate) is_async: bool,
    /// Whether it takes `self` rather than a reference.
    pub(crate) by_value: bool,
    /// Where the return type is, or the name if there is none.
    pub(crate) returns: Span,
}

impl ReadRules {
    const fn what(self) -> &'static str {
        match self {
            Self::View => "a view's handler",
            Self::Projection => "a projection's handler",
            Self::Reactor => "a reactor's handler",
            Self::Process => "a process's handler",
            Self::Publishes => "a handler of `#[publishes]`",
        }
    }

    const fn example(self) -> &'static str {
        match self {
            Self::View => "fn opened(&mut self, e: &Opened)",
            Self::Projection => "async fn opened(&self, e: &Opened, tx: &mut Tx) -> Result<(), Error>",
            Self::Reactor => "async fn opened(&self, e: &Opened, mail: &Mailer) -> Result<(), Error>",
            Self::Process => "fn requested(&mut self, e: &Requested) -> Next<Self>",
            Self::Publishes => "fn placed(&self, e: &Placed) -> Message",
        }
    }

    /// The handlers of a block. One with a wrong signature is reported and left out.
    pub(crate) fn read(self, cx: &Ctxt, block: &Block) -> Vec<ReadHandler> {
        if block.methods.is_empty() && !cx.failed() {
            let text = format!("no handlers: add one, as in `{}`", self.example());
            cx.error(&block.this, text);
        }
        block.methods.iter().filter_map(|method| self.handler(cx, method)).collect()
    }

    pub(super) fn handler(self, cx: &Ctxt, method: &Method) -> Option<ReadHandler> {
        let before = cx.count();
        let sig = &method.sig;
        params::is_plain(cx, sig, self.what());
        self.receiver(cx, method);
        let params = params::params(sig);
        let event = self.event(cx, method, params.first().copied());
        let rest = params.get(1..).unwrap_or_default();
        let tx = if self == Self::Projection { transaction(cx, method, rest) } else { None };
        let services = self.services(cx, rest);
        if let (Self::View, Some(token)) = (self, sig.asyncness) {
            cx.error(token, "a view's handler is not `async`: it only folds the event into the row");
        }
        if let (Self::Process, Some(token)) = (self, sig.asyncness) {
            cx.error(token, "a process's handler is not `async`: what it wants to happen, it returns");
        }
        if let (Self::Publishes, Some(token)) = (self, sig.asyncness) {
            let why = "the same event gives the same messages, always";
            cx.error(token, format!("{} is not `async`: {why}", self.what()));
        }
        let (payload, recorded) = event?;
        (cx.count() == before).then(|| ReadHandler {
            cfgs: method.cfgs.clone(),
            attrs: method.attrs.clone(),
            name: sig.ident.clone(),
            at: method.span(),
            payload,
            recorded,
            tx,
            services,
            is_async: sig.asyncness.is_some(),
            by_value: params::receiver(sig) == Receiver::Owned,
            returns: written_at(params::output(sig).map_or_else(|| sig.ident.span(), Spanned::span)),
        })
    }

    pub(super) fn receiver(self, cx: &Ctxt, method: &Method) {
        let (found, sig) = (params::receiver(&method.sig), &method.sig);
        let (wanted, text) = match self {
            Self::View => {
                let text = "`&mut self`: it changes the row; or `self`, and gives back the row or `None`";
                (Receiver::Exclusive, text)
            }
            Self::Projection => (Receiver::Shared, "`&self`: what it changes, it writes through `tx`"),
            Self::Reactor => (Receiver::Shared, "`&self`: what it needs, it asks for as services"),
            Self::Process => (Receiver::Exclusive, "`&mut self`: it changes the state of an instance"),
            Self::Publishes => (Receiver::Shared, "`&self`: it only says what an event becomes"),
        };
        if found == wanted || self == Self::View && found == Receiver::Owned {
            return;
        }
        let text = format!("{} takes {text}", self.what());
        match sig.receiver() {
            Some(receiver) => cx.error(receiver, text),
            None => cx.error(method.name(), format!("{text}; helpers live in a plain `impl` block")),
        }
    }

    /// The payload's type, and whether it comes as `Recorded`.
    fn event(self, cx: &Ctxt, method: &Method, param: Option<&PatType>) -> Option<(Type, bool)> {
        let Some(param) = param else {
            let text = format!("{} takes an event, as in `{}`", self.what(), self.example());
            cx.error(method.name(), format!("{text}; helpers live in a plain `impl` block"));
            return None;
        };
        match &*param.ty {
            Type::Reference(r) if r.mutability.is_none() && !is_recorded(&r.elem) => {
                Some(((*r.elem).clone(), false))
            }
            ty if is_recorded(ty) && !params::arguments(ty).is_empty() => {
                params::arguments(ty).last().map(|payload| (Type::clone(payload), true))
            }
            ty if is_recorded(ty) => {
                cx.error(ty, "say which event: write `Recorded<'_, Opened>`");
                None
            }
            ty => {
                let ways = "`e: &Opened`, or `e: Recorded<'_, Opened>` with its record";
                cx.error(ty, format!("{} takes the event as {ways}", self.what()));
                None
            }
        }
    }

    pub(super) fn services(self, cx: &Ctxt, rest: &[&PatType]) -> Vec<Type> {
        match (self, rest.first()) {
            (Self::Reactor, _) => params::services(cx, rest, self.what()),
            (Self::View, Some(more)) => {
                let why = "the same events give the same rows, always";
                cx.error(more, format!("a view's handler takes the event and nothing else: {why}"));
                Vec::new()
            }
            (Self::Process, Some(more)) => {
                let why = "what it wants to happen, it returns";
                cx.error(more, format!("a process's handler takes one input and nothing else: {why}"));
                Vec::new()
            }
            (Self::Publishes, Some(more)) => {
                let why = "the same event gives the same messages, always";
                cx.error(more, format!("{} takes the event and nothing else: {why}", self.what()));
                Vec::new()
            }
            _ => Vec::new(),
        }
    }
}

fn is_recorded(ty: &Type) -> bool {
    params::last_segment(ty).is_some_and(|name| name == "Recorded")
}

/// The type behind `&mut Tx`, the one further parameter of a projection's handler.
fn transaction(cx: &Ctxt, method: &Method, rest: &[&PatType]) -> Option<Type> {
    let example = "`tx: &mut Tx`, with the `Tx` of the backend it runs on";
    let Some(param) = rest.first() else {
        cx.error(
            method.name(),
            format!("a projection's handler writes through the transaction: add {example}"),
        );
        return None;
    };
    if let Some(more) = rest.get(1) {
        let why = "a rebuild calls it again, so it writes rows and asks nobody else";
        cx.error(more, format!("a projection's handler takes the event and `tx`, and nothing else: {why}"));
    }
    match &*param.ty {
        Type::Reference(r) if r.mutability.is_some() && r.lifetime.is_none() => Some((*r.elem).clone()),
        ty => {
            cx.error(ty, format!("the second parameter of a projection's handler is {example}"));
            None
        }
    }
}

/// One handler an event; the second is reported and left out.
pub(crate) fn one_handler_each(cx: &Ctxt, handlers: &mut Vec<ReadHandler>) {
    let mut first: HashMap<(String, String), Ident> = HashMap::new();
    handlers.retain(|handler| {
        let payload = handler.payload.to_token_stream().to_string();
        // Under different `cfg`s there may be two, and rustc compares those that are there.
        let cfgs = &handler.cfgs;
        let key = (quote!(#(#cfgs)*).to_string(), payload.clone());
        if let Some(other) = first.get(&key) {
            cx.error(
                &handler.payload,
                format!("`{payload}` is handled by `{other}` already: an event has one handler"),
            );
            return false;
        }
        first.insert(key, handler.name.clone());
        true
    });
}
