//! `#[process]`: `Process`; `On`, `OnRefused` and `OnTimer` for each handler; `Sends` for each command.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{LitStr, Type};

use super::dispatch;
use super::view::by;
use crate::ast::{Args, Block, variant};
use crate::attr::Entry;
use crate::check::{EventHandler, InputHandler, Process, ReadHandler};
use crate::ctxt::Ctxt;
use crate::fingerprint::fingerprint;
use crate::span::{respan, written_at};

pub(crate) use crate::check::PROCESS_HELPERS as HELPERS;

const KEYS: &[&str] =
    &["name", "version", "key", "sends", "after_end", "keep_ended_days", "earlier", "crate"];

pub(crate) fn expand(cx: &Ctxt, args: TokenStream, item: TokenStream) -> TokenStream {
    let text = fingerprint(&[&args, &item]);
    let args = Args::of_sagas(cx, args, KEYS);
    let (name, version, after_end) = (args.name(cx, "process"), args.version(cx), args.after_end(cx));
    let keep_ended = args.keep_ended(cx);
    let key = args.key_or(cx, "a process needs the type that names an instance, as in `key = TransferId`");
    let (sends, earlier) = (args.types(cx, "sends"), args.types(cx, "earlier"));
    let Some(block) = Block::parse(cx, "process", item) else { return TokenStream::new() };
    let Process { events, refusals, timers } = Process::read(cx, &block);
    let (sagas, this, cfgs) = (&args.krate, &block.this, &block.cfgs);
    let es = &quote!(#sagas::es_core);
    let by_key = events.iter().all(|handler| entry(handler, "via").is_none());
    let stashes = events.iter().any(|handler| entry(handler, "early").is_some());
    let each: Vec<_> = events.iter().map(|handler| on(cx, sagas, this, handler)).collect();
    // Without a key there is no process, and the mistake is reported already.
    let Some(key) = key else { return TokenStream::new() };
    let reads: Vec<ReadHandler> = events.into_iter().map(|handler| handler.read).collect();
    let filter = dispatch::filter(es, &reads, text, |_| None);
    let steps = dispatch::each(es, &reads, |handler| {
        let at = written_at(handler.payload.span());
        let sagas = respan(sagas.clone(), at);
        quote_spanned!(at=> #sagas::Step::of(payload, event, &mut steps)?;)
    });
    let refused = handed(&refusals, &quote!(refused));
    let elapsed = handed(&timers, &quote!(timer));
    let sent = sends.iter().map(|command| {
        let at = written_at(command.span());
        let sagas = respan(sagas.clone(), at);
        quote_spanned!(at=> #(#cfgs)* #[automatically_derived] impl #sagas::Sends<#command> for #this {})
    });
    let differ = differ(sagas, &timers);
    let refusals = refusals.iter().map(|handler| takes(sagas, this, handler, true));
    let timers = timers.iter().map(|handler| takes(sagas, this, handler, false));
    quote! {
        #(#cfgs)*
        #[automatically_derived]
        impl #sagas::Process for #this {
            const NAME: &'static str = #name;
            const VERSION: u32 = #version;
            const BY_KEY: bool = #by_key;
            const STASHES: bool = #stashes;
            #after_end
            #keep_ended
            type Key = #key;
            #filter
            fn earlier() -> ::std::vec::Vec<#sagas::Definition> {
                ::std::vec![#(#sagas::Definition::of::<#earlier>()),*]
            }
            fn wire<B: #es::Backend>(app: #es::AppBuilder<B>) -> #es::AppBuilder<B> {
                let app = app #(.command::<#sends>())*;
                #(let app = <#earlier as #sagas::Process>::wire(app);)*
                app
            }
            fn steps(
                event: &#es::RecordedEvent,
            ) -> ::core::result::Result<::std::vec::Vec<#sagas::Step<'_, Self>>, #es::BoxError> {
                let mut steps = ::std::vec::Vec::new();
                #steps
                ::core::result::Result::Ok(steps)
            }
            fn refused(
                &mut self,
                refused: &#sagas::RefusedCommand,
            ) -> ::core::result::Result<::core::option::Option<#sagas::Next<Self>>, #es::BoxError> {
                let _ = refused;
                #refused
            }
            fn elapsed(
                &mut self,
                timer: &#sagas::Elapsed,
            ) -> ::core::result::Result<::core::option::Option<#sagas::Next<Self>>, #es::BoxError> {
                let _ = timer;
                #elapsed
            }
        }
        #(#sent)*
        #(#each)*
        #(#refusals)*
        #(#timers)*
        #differ
    }
}

/// Shown at a timer that has the stored name of one before it: an instance could have only one of the two.
fn differ(sagas: &TokenStream, timers: &[InputHandler]) -> TokenStream {
    let name = |InputHandler { cfgs, of, .. }: &InputHandler| {
        let at = written_at(of.span());
        let sagas = respan(sagas.clone(), at);
        quote_spanned!(at=> #(#cfgs)* <#of as #sagas::Timer>::NAME)
    };
    let checks = timers.iter().enumerate().skip(1).map(|(i, handler)| {
        let (cfgs, at) = (&handler.cfgs, written_at(handler.of.span()));
        let (before, own) = (timers[..i].iter().map(name), &handler.of);
        let sagas = respan(sagas.clone(), at);
        quote_spanned!(at=> #(#cfgs)* const _: () = #sagas::timer_differs::<#own>(&[#(#before),*]);)
    });
    quote!(#(#checks)*)
}

fn entry<'h>(handler: &'h EventHandler, key: &str) -> Option<&'h Entry> {
    handler.entries.iter().find(|entry| entry.key() == key)
}

/// `On` for one handler.
fn on(cx: &Ctxt, sagas: &TokenStream, this: &Type, handler: &EventHandler) -> TokenStream {
    let ReadHandler { cfgs, payload, name, at, recorded, returns, .. } = &handler.read;
    let whom = whom(cx, sagas, handler);
    let early = entry(handler, "early").and_then(|entry| entry.word(cx, &["ignore", "stash"])).map(|word| {
        if word == "stash" && entry(handler, "via").is_some() {
            let why = "an association finds only instances that are there, so this event would never wait";
            cx.error(&word, format!("{why}: name the instance by its key, or leave `early = stash` out"));
        }
        let variant = variant(&word);
        quote!(const EARLY: #sagas::Early = #sagas::Early::#variant;)
    });
    let starts = handler.starts;
    let event = if *recorded { quote!(event) } else { quote!(&*event) };
    let call = quote_spanned!(*at=> let next = Self::#name(self, #event););
    let boxed = boxed(sagas, *returns);
    let place = written_at(payload.span());
    let sagas = &respan(sagas.clone(), place);
    quote_spanned! {place=>
        #(#cfgs)*
        #[automatically_derived]
        impl #sagas::On<#payload> for #this {
            const STARTS: bool = #starts;
            #early
            fn to(
                event: #sagas::es_core::Recorded<'_, #payload>,
            ) -> ::core::result::Result<
                ::std::vec::Vec<#sagas::To<<Self as #sagas::Process>::Key>>,
                #sagas::es_core::BoxError,
            > {
                #whom
            }
            fn on(
                &mut self,
                event: #sagas::es_core::Recorded<'_, #payload>,
            ) -> ::core::result::Result<#sagas::Next<Self>, #sagas::es_core::BoxError> {
                #call
                #boxed
            }
        }
    }
}

/// What a handler returns, boxed; shown at the return type, if it is another one.
fn boxed(sagas: &TokenStream, returns: Span) -> TokenStream {
    let sagas = respan(sagas.clone(), returns);
    quote_spanned!(returns=> #sagas::IntoNext::<Self>::boxed(next))
}

/// The aggregate's id, or what `by` names: a key, or the value of an association.
fn whom(cx: &Ctxt, sagas: &TokenStream, handler: &EventHandler) -> TokenStream {
    let via = entry(handler, "via").map(|entry| entry.text(cx));
    let Some(given) = entry(handler, "by") else {
        if let Some(entry) = entry(handler, "via") {
            cx.error_at(entry.span(), "`via` needs the value too: `by = field, via = \"name\"`");
        }
        let at = written_at(handler.read.payload.span());
        let sagas = respan(sagas.clone(), at);
        return quote_spanned! {at=>
            let key: <Self as #sagas::Process>::Key = event.aggregate_id()?;
            ::core::result::Result::Ok(::std::vec![#sagas::To::Key(key)])
        };
    };
    let Some(by) = by(cx, given) else { return quote!(::core::unreachable!()) };
    let at = written_at(by.span());
    let (sagas, by) = (respan(sagas.clone(), at), by.to_token_stream());
    match via {
        Some(Some(via)) => found(&sagas, &by, &via, at),
        Some(None) => quote!(::core::unreachable!()),
        None => quote_spanned! {at=>
            ::core::result::Result::Ok(#sagas::Names::<<Self as #sagas::Process>::Key>::keys(&event.payload().#by))
        },
    }
}

fn found(sagas: &TokenStream, by: &TokenStream, via: &LitStr, at: Span) -> TokenStream {
    quote_spanned! {at=>
        ::core::result::Result::Ok(::std::vec![
            #sagas::To::Found(#sagas::Association::new(#via, &event.payload().#by))
        ])
    }
}

/// Hands an input to each handler, until one takes it.
fn handed(handlers: &[InputHandler], input: &TokenStream) -> TokenStream {
    let each = handlers.iter().map(|InputHandler { cfgs, of, .. }| {
        quote_spanned! {written_at(of.span())=>
            #(#cfgs)*
            if let ::core::option::Option::Some(next) = #input.hand_to::<Self, #of>(self)? {
                return ::core::result::Result::Ok(::core::option::Option::Some(next));
            }
        }
    });
    quote!(#(#each)* ::core::result::Result::Ok(::core::option::Option::None))
}

/// `OnRefused` or `OnTimer` for one handler.
fn takes(sagas: &TokenStream, this: &Type, handler: &InputHandler, is_refusal: bool) -> TokenStream {
    let InputHandler { cfgs, name, of, returns } = handler;
    let at = written_at(of.span());
    let boxed = boxed(sagas, *returns);
    let sagas = respan(sagas.clone(), at);
    let (of_trait, input) = if is_refusal {
        (quote_spanned!(at=> OnRefused), quote_spanned!(at=> #sagas::Refused<#of>))
    } else {
        (quote_spanned!(at=> OnTimer), quote_spanned!(at=> #of))
    };
    quote_spanned! {at=>
        #(#cfgs)*
        #[automatically_derived]
        impl #sagas::#of_trait<#of> for #this {
            fn on(
                &mut self,
                input: #input,
            ) -> ::core::result::Result<#sagas::Next<Self>, #sagas::es_core::BoxError> {
                let next = Self::#name(self, input);
                #boxed
            }
        }
    }
}
