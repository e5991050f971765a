//! Derives and attributes of `es-core`; use them through its re-exports.
//!
//! Derives add, attributes never replace: a block comes back as it was written, with impls beside it.
//! Everything written here can be written by hand instead.

mod ast;
mod attr;
mod check;
mod ctxt;
mod expand;
mod fallback;
mod names;
mod span;

use proc_macro::TokenStream;
use proc_macro2::TokenStream as Tokens;
use syn::{DeriveInput, parse_macro_input};

use crate::ctxt::Ctxt;

/// Todo.
#[proc_macro_derive(Event, attributes(event))]
pub fn event(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let cx = Ctxt::new();
    let written = ast::EventEnum::parse(&cx, &input).map(|mut events| {
        check::event_enum(&cx, &mut events);
        expand::event(&events, cx.failed())
    });
    finish(cx, written.unwrap_or_default())
}

/// Todo.
#[proc_macro_derive(Aggregate, attributes(aggregate))]
pub fn aggregate(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let cx = Ctxt::new();
    let written = ast::AggregateType::parse(&cx, &input).map(|aggregate| expand::aggregate(&aggregate));
    finish(cx, written.unwrap_or_default())
}

/// Todo.
#[proc_macro_derive(AggregateId)]
pub fn aggregate_id(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let cx = Ctxt::new();
    let written = expand::aggregate_id(&cx, &input);
    finish(cx, written)
}

/// Todo.
#[proc_macro_attribute]
pub fn commands(args: TokenStream, item: TokenStream) -> TokenStream {
    attribute(expand::commands, expand::COMMANDS_HELPERS, args, item)
}

/// Todo.
#[proc_macro_attribute]
pub fn queries(args: TokenStream, item: TokenStream) -> TokenStream {
    attribute(expand::queries, &[], args, item)
}

/// Todo.
#[proc_macro_attribute]
pub fn view(args: TokenStream, item: TokenStream) -> TokenStream {
    attribute(expand::view, expand::VIEW_HELPERS, args, item)
}

/// Todo.
#[proc_macro_attribute]
pub fn projection(args: TokenStream, item: TokenStream) -> TokenStream {
    attribute(expand::projection, &[], args, item)
}

/// Todo.
#[proc_macro_attribute]
pub fn reactor(args: TokenStream, item: TokenStream) -> TokenStream {
    attribute(expand::reactor, &[], args, item)
}

/// The user's block, then what the macro adds to it, then every mistake.
fn attribute(
    expand: fn(&Ctxt, Tokens, Tokens) -> Tokens,
    helpers: &[&str],
    args: TokenStream,
    item: TokenStream,
) -> TokenStream {
    let item = Tokens::from(item);
    let cx = Ctxt::new();
    let written = expand(&cx, args.into(), item.clone());
    let mut all = fallback::block(item, helpers);
    all.extend(written);
    finish(cx, all)
}

fn finish(cx: Ctxt, mut written: Tokens) -> TokenStream {
    written.extend(cx.check());
    written.into()
}
