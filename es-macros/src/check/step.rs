//! A step of a saga: what it is called with, and what it returns.

use proc_macro2::Span;
use quote::ToTokens;
use syn::spanned::Spanned;
use syn::{Attribute, Ident, Type, TypeReference};

use super::params::{self, Receiver};
use crate::ast::{Block, Method};
use crate::ctxt::Ctxt;

const SHAPE: &str =
    "async fn run(&self, cx: Cx<'_, Order>, at: &mut Tx) -> Result<Output, StepError<Refusal>>";
const UNDO: &str =
    "async fn undo(&self, cx: Cx<'_, Order>, ran: Ran<Output>, at: &mut Tx) -> Result<(), BoxError>";

const RESULT: &str = "a step returns `Result<Output, StepError<Refusal>>`, written out";

/// A step, as it is written out.
pub(crate) struct StepShape {
    pub(crate) cfgs: Vec<Attribute>,
    pub(crate) name: Ident,
    pub(crate) at: Span,
    pub(crate) is_async: bool,
    pub(crate) input: Type,
    /// Nothing: none.
    pub(crate) needs: Option<Type>,
    pub(crate) output: Type,
    pub(crate) refusal: Type,
    /// What it is handed: a transaction, or a call.
    pub(crate) handed: Type,
    pub(crate) undo: Option<UndoShape>,
}

/// Its undo.
pub(crate) struct UndoShape {
    pub(crate) cfgs: Vec<Attribute>,
    pub(crate) name: Ident,
    pub(crate) at: Span,
    pub(crate) is_async: bool,
}

impl StepShape {
    /// The step of a block, and its undo if the attribute names one.
    pub(crate) fn read(cx: &Ctxt, block: &Block, undo: Option<&Ident>) -> Option<Self> {
        let (undone, steps): (Vec<_>, Vec<_>) =
            block.methods.iter().partition(|method| undo.is_some_and(|undo| method.name() == undo));
        if let (Some(undo), None) = (undo, undone.first()) {
            cx.error(undo, format!("there is no method `{undo}` in this block: write `{UNDO}`"));
        }
        let Some((step, others)) = steps.split_first() else {
            cx.error(&block.this, format!("a step has a method that runs it, as in `{SHAPE}`"));
            return None;
        };
        for other in others {
            let which = "name it with `undo = ..` if it undoes the step, or move it to a plain `impl` block";
            cx.error(other.name(), format!("the step is `{}` already: {which}", step.name()));
        }
        let undo = undone.first().and_then(|method| undo_of(cx, method));
        shape(cx, step, undo)
    }
}

fn shape(cx: &Ctxt, method: &Method, undo: Option<UndoShape>) -> Option<StepShape> {
    receives(cx, method, "a step");
    let params = params::params(&method.sig);
    let [first, second] = params[..] else {
        cx.error(method.name(), format!("a step takes what it is called with, and where it is: `{SHAPE}`"));
        return None;
    };
    let context = params::arguments(&first.ty);
    let (input, needs) = match (params::last_segment(&first.ty), &context[..]) {
        (Some(name), [input]) if name == "Cx" => (Type::clone(input), None),
        (Some(name), [input, needs]) if name == "Cx" => (Type::clone(input), Some(Type::clone(needs))),
        _ => {
            let why = "with the input of its saga, and the steps whose outputs it reads";
            cx.error(&first.ty, format!("write `Cx<'_, Input>` or `Cx<'_, Input, (Earlier,)>`, {why}"));
            return None;
        }
    };
    let handed = handed(cx, &second.ty, "a step")?;
    let (output, refusal) = result(cx, method, RESULT)?;
    Some(StepShape {
        cfgs: method.cfgs.clone(),
        name: method.name().clone(),
        at: method.span(),
        is_async: method.sig.asyncness.is_some(),
        input,
        needs,
        output,
        refusal,
        handed,
        undo,
    })
}

pub(super) fn receives(cx: &Ctxt, method: &Method, what: &str) {
    params::is_plain(cx, &method.sig, what);
    if params::receiver(&method.sig) != Receiver::Shared {
        let why = "it is called for many runs at once: write `&self`";
        cx.error(method.name(), format!("{what} takes `&self`; {why}"));
    }
}

/// What is behind `&mut`.
pub(super) fn handed(cx: &Ctxt, ty: &Type, what: &str) -> Option<Type> {
    if let Type::Reference(TypeReference { mutability: Some(_), elem, .. }) = ty {
        return Some((**elem).clone());
    }
    let why = "is handed where it lives: `&mut Call` elsewhere, `&mut Tx` in the database of the journal";
    cx.error(ty, format!("{what} {why}"));
    None
}

/// The output and the refusal, which are written out.
pub(super) fn result(cx: &Ctxt, method: &Method, text: &str) -> Option<(Type, Type)> {
    let syn::ReturnType::Type(_, whole) = &method.sig.output else {
        cx.error(method.name(), text);
        return None;
    };
    let parts = params::arguments(whole);
    let error =
        parts.get(1).filter(|error| params::last_segment(error).is_some_and(|name| name == "StepError"));
    match (parts.first(), error.map(|error| params::arguments(error)).as_deref()) {
        (Some(output), Some([refusal])) => Some((Type::clone(output), Type::clone(refusal))),
        _ => {
            cx.error(whole, text);
            None
        }
    }
}

fn undo_of(cx: &Ctxt, method: &Method) -> Option<UndoShape> {
    receives(cx, method, "an undo");
    let params = params::params(&method.sig);
    let [_, ran, _] = params[..] else {
        cx.error(method.name(), format!("an undo is told whether the step has run: `{UNDO}`"));
        return None;
    };
    if params::last_segment(&ran.ty).is_none_or(|name| name != "Ran") {
        let given = ran.ty.to_token_stream();
        cx.push(syn::Error::new(
            ran.ty.span(),
            format!("write `Ran<Output>` instead of `{given}`: `{UNDO}`"),
        ));
        return None;
    }
    Some(UndoShape {
        cfgs: method.cfgs.clone(),
        name: method.name().clone(),
        at: method.span(),
        is_async: method.sig.asyncness.is_some(),
    })
}
