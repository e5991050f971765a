//! A branch of a TCC: what its three calls are made with, and what they return.

use proc_macro2::Span;
use syn::{Attribute, Type};

use super::params;
use super::step::{handed, receives, result};
use crate::ast::{Block, Method};
use crate::ctxt::Ctxt;

const RESERVE: &str =
    "async fn reserve(&self, cx: Cx<'_, Order>, at: &mut Tx) -> Result<Held, StepError<Refusal>>";
const CONFIRM: &str =
    "async fn confirm(&self, cx: Cx<'_, Order>, held: Held, at: &mut Tx) -> Result<(), BoxError>";
const CANCEL: &str =
    "async fn cancel(&self, cx: Cx<'_, Order>, held: Ran<Held>, at: &mut Tx) -> Result<(), BoxError>";

/// A branch, as it is written out.
pub(crate) struct BranchShape {
    pub(crate) cfgs: Vec<Attribute>,
    pub(crate) input: Type,
    pub(crate) held: Type,
    pub(crate) refusal: Type,
    /// What it is handed: a transaction, or a call.
    pub(crate) handed: Type,
    pub(crate) reserve: BranchCall,
    pub(crate) confirm: BranchCall,
    pub(crate) cancel: BranchCall,
}

/// One of its methods.
pub(crate) struct BranchCall {
    pub(crate) at: Span,
    pub(crate) is_async: bool,
}

impl BranchShape {
    pub(crate) fn read(cx: &Ctxt, block: &Block) -> Option<Self> {
        let known = ["reserve", "confirm", "cancel"];
        for other in block.methods.iter().filter(|method| known.iter().all(|name| method.name() != name)) {
            let which =
                "its methods are `reserve`, `confirm` and `cancel`: move this to a plain `impl` block";
            cx.error(other.name(), format!("a branch has no method `{}`; {which}", other.name()));
        }
        let confirm = later(cx, block, "confirm", CONFIRM);
        let cancel = later(cx, block, "cancel", CANCEL);
        let reserve = method(cx, block, "reserve", RESERVE)?;
        receives(cx, reserve, "a reservation");
        let params = params::params(&reserve.sig);
        let [first, second] = params[..] else {
            let what = "a reservation takes what it is called with, and where it is";
            cx.error(reserve.name(), format!("{what}: write `{RESERVE}`"));
            return None;
        };
        let input = input(cx, &first.ty)?;
        let handed = handed(cx, &second.ty, "a branch")?;
        let text = "a reservation returns `Result<Held, StepError<Refusal>>`, written out";
        let (held, refusal) = result(cx, reserve, text)?;
        let (cfgs, reserve, confirm, cancel) =
            (reserve.cfgs.clone(), BranchCall::of(reserve), confirm?, cancel?);
        Some(Self { cfgs, input, held, refusal, handed, reserve, confirm, cancel })
    }
}

impl BranchCall {
    fn of(method: &Method) -> Self {
        Self { at: method.span(), is_async: method.sig.asyncness.is_some() }
    }
}

fn method<'b>(cx: &Ctxt, block: &'b Block, name: &str, shape: &str) -> Option<&'b Method> {
    let found = block.methods.iter().find(|method| method.name() == name);
    if found.is_none() {
        cx.error(&block.this, format!("this branch has no `{name}`: write `{shape}`"));
    }
    found
}

/// What it is started with.
fn input(cx: &Ctxt, context: &Type) -> Option<Type> {
    match (params::last_segment(context), &params::arguments(context)[..]) {
        (Some(name), [input]) if name == "Cx" => Some(Type::clone(input)),
        _ => {
            let why = "all branches reserve at the same time, so none reads what another holds";
            cx.error(context, format!("write `Cx<'_, Input>`, with the input of its TCC; {why}"));
            None
        }
    }
}

/// A call that is made once it is decided which way it goes.
fn later(cx: &Ctxt, block: &Block, name: &str, shape: &str) -> Option<BranchCall> {
    let method = method(cx, block, name, shape)?;
    receives(cx, method, &format!("`{name}`"));
    let params = params::params(&method.sig);
    let [_, held, _] = params[..] else {
        cx.error(method.name(), format!("`{name}` is told what is held: write `{shape}`"));
        return None;
    };
    let is_maybe = params::last_segment(&held.ty).is_some_and(|of| of == "Ran");
    if is_maybe != (name == "cancel") {
        let why = "whether it has reserved is known to `confirm`, and may not be to `cancel`";
        cx.error(&held.ty, format!("{why}: write `{shape}`"));
        return None;
    }
    Some(BranchCall::of(method))
}
