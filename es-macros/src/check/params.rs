//! What the methods of all blocks have in common: receiver, services, return type.

use quote::ToTokens;
use syn::{
    FnArg, GenericArgument, PatType, PathArguments, ReceiverKind, ReturnType, Signature, Type, TypeReference,
};

use crate::ctxt::Ctxt;

/// The most services that `FromServices` has a tuple for.
const MAX_SERVICES: usize = 8;

/// How a method takes the value it is called on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Receiver {
    None,
    Shared,
    Exclusive,
    Owned,
}

pub(super) fn receiver(sig: &Signature) -> Receiver {
    match sig.receiver().map(|receiver| &receiver.kind) {
        None => Receiver::None,
        Some(ReceiverKind::Reference(_, _, None)) => Receiver::Shared,
        Some(ReceiverKind::Reference(_, _, Some(_))) => Receiver::Exclusive,
        Some(_) => Receiver::Owned,
    }
}

/// The parameters without the receiver.
pub(super) fn params(sig: &Signature) -> Vec<&PatType> {
    let mut typed = Vec::new();
    for arg in &sig.inputs {
        if let FnArg::Typed(param) = arg {
            typed.push(param);
        }
    }
    typed
}

/// Handlers are plain functions: the macro has to be able to call them.
pub(super) fn is_plain(cx: &Ctxt, sig: &Signature, what: &str) -> bool {
    let found = cx.count();
    if let Some(generic) = sig.generics.params.first() {
        cx.error(generic, format!("{what} has no type parameters and no lifetimes: name the types it takes"));
    }
    if let syn::Safety::Unsafe(token) = &sig.safety {
        cx.error(token, format!("{what} is not `unsafe`: the framework calls it"));
    }
    if let Some(abi) = &sig.abi {
        cx.error(abi, format!("{what} is a Rust function"));
    }
    for param in params(sig) {
        if let Some(impl_trait) = impl_trait(&param.ty) {
            cx.error(impl_trait, format!("{what} has no `impl Trait` parameters: name the type"));
        }
    }
    cx.count() == found
}

fn impl_trait(ty: &Type) -> Option<&Type> {
    match ty {
        Type::ImplTrait(_) => Some(ty),
        Type::Reference(reference) => impl_trait(&reference.elem),
        _ => None,
    }
}

/// The types behind the references of further parameters.
pub(super) fn services(cx: &Ctxt, params: &[&PatType], what: &str) -> Vec<Type> {
    if let Some(over) = params.get(MAX_SERVICES) {
        cx.error(
            over,
            format!("{what} asks for at most {MAX_SERVICES} services: gather some in a struct of yours"),
        );
    }
    params.iter().filter_map(|param| service(cx, param, what)).collect()
}

fn service(cx: &Ctxt, param: &PatType, what: &str) -> Option<Type> {
    match &*param.ty {
        Type::Reference(TypeReference { lifetime: Some(lifetime), .. }) => {
            cx.error(
                lifetime,
                format!("{what} borrows services only for the call: write `&` without a lifetime"),
            );
            None
        }
        Type::Reference(TypeReference { mutability: Some(_), .. }) => {
            let why =
                "services are shared: take a shared reference, and lock inside the service if it changes";
            cx.error(&param.ty, why);
            None
        }
        Type::Reference(reference) => Some((*reference.elem).clone()),
        other => {
            let ty = other.to_token_stream();
            cx.error(
                other,
                format!("the further parameters of {what} are services, by shared reference: write `&{ty}`"),
            );
            None
        }
    }
}

/// `None` for no return type and for `()`.
pub(super) fn output(sig: &Signature) -> Option<&Type> {
    match &sig.output {
        ReturnType::Type(_, ty) if !matches!(&**ty, Type::Tuple(tuple) if tuple.elems.is_empty()) => Some(ty),
        _ => None,
    }
}

/// The types in the `<..>` of the last segment.
pub(super) fn arguments(ty: &Type) -> Vec<&Type> {
    let Type::Path(path) = ty else { return Vec::new() };
    let Some(PathArguments::AngleBracketed(list)) = path.path.segments.last().map(|s| &s.arguments) else {
        return Vec::new();
    };
    let mut types = Vec::new();
    for argument in &list.args {
        if let GenericArgument::Type(ty) = argument {
            types.push(ty);
        }
    }
    types
}

/// The last segment of a path.
pub(super) fn last_segment(ty: &Type) -> Option<&syn::Ident> {
    match ty {
        Type::Path(path) => path.path.segments.last().map(|segment| &segment.ident),
        _ => None,
    }
}
