//! `#[commands]`: `Command` and `Handle` for each method, `Commands` for all of them.

use proc_macro2::{Span, TokenStream};
use quote::{quote, quote_spanned};
use syn::spanned::Spanned;
use syn::{LitStr, Type};

use super::services;
use crate::ast::{Args, Block};
use crate::attr;
use crate::check::{Request, RequestRules, one_method_each};
use crate::ctxt::Ctxt;
use crate::names::{check_stored, snake_case};
use crate::span::{respan, written_at};

/// The attributes on methods that this macro takes away.
pub(crate) const HELPERS: &[&str] = &["create_if_missing", "command"];

const RULES: RequestRules = RequestRules {
    what: "command",
    example: "fn open(cmd: Open)",
    returns: "Result<Events, Error>",
    without_self: true,
};

pub(crate) fn expand(cx: &Ctxt, args: TokenStream, item: TokenStream) -> TokenStream {
    let args = Args::parse(cx, args, &["crate"]);
    let Some(block) = Block::parse(cx, "commands", item) else { return TokenStream::new() };
    let mut requests = RULES.read(cx, &block);
    one_method_each(cx, "command", &mut requests);
    let commands: Vec<Command> = requests.into_iter().map(|request| Command::new(cx, request)).collect();
    one_name_each(cx, &commands);
    let (es, this, cfgs) = (&args.krate, &block.this, &block.cfgs);
    let each = commands.iter().map(|command| command.impls(es, this));
    let missing = commands.iter().map(|Command { request: Request { cfgs, message, .. }, .. }| {
        quote!(#(#cfgs)* #es::command::missing_for::<#message>(services))
    });
    let register = commands.iter().map(|Command { request: Request { cfgs, message, .. }, .. }| {
        quote!(#(#cfgs)* registry.add::<#message>();)
    });
    quote! {
        #(#each)*
        #(#cfgs)*
        #[automatically_derived]
        impl #es::Commands for #this {
            fn missing(services: &#es::services::Services) -> ::std::vec::Vec<::std::string::String> {
                let _ = services;
                let each: &[::std::vec::Vec<::std::string::String>] = &[#(#missing),*];
                each.concat()
            }
            fn register(registry: &mut #es::command::Registry) {
                let _ = &registry;
                #(#register)*
            }
        }
    }
}

struct Command {
    request: Request,
    name: LitStr,
    creates_if_missing: bool,
}

impl Command {
    fn new(cx: &Ctxt, request: Request) -> Self {
        let entries = attr::read_all(cx, &request.attrs, "command", &["name"]);
        let given = entries.first().and_then(|entry| entry.text(cx));
        let name = given.unwrap_or_else(|| LitStr::new(&derived(&request.message), request.message.span()));
        check_stored(cx, "the command's name", &name.value(), name.span());
        let either = request.attrs.iter().find(|a| a.path().is_ident("create_if_missing"));
        if let Some(attr) = either {
            if attr.meta.require_path_only().is_err() {
                cx.error(attr, "`#[create_if_missing]` takes nothing");
            }
            if !request.has_self {
                cx.error(
                    attr,
                    "a command without `self` creates: `#[create_if_missing]` is for methods with `&self`",
                );
            }
        }
        let creates_if_missing = either.is_some();
        Self { request, name, creates_if_missing }
    }

    fn impls(&self, es: &TokenStream, this: &Type) -> TokenStream {
        let Self { request: Request { cfgs, message, services: asked, at, .. }, name, .. } = self;
        let es = &respan(es.clone(), *at);
        let (target, env, body) = (self.target(), services::env(asked, *at), self.body(es));
        quote_spanned! {*at=>
            #(#cfgs)*
            #[automatically_derived]
            impl #es::Command for #message {
                const NAME: &'static str = #name;
                type Aggregate = #this;
            }
            #(#cfgs)*
            #[automatically_derived]
            impl #es::Handle<#message> for #this {
                const TARGET: #es::Target = #es::Target::#target;
                type Env<'e> = #env;
                async fn handle<'a>(
                    &'a self,
                    cmd: #message,
                    env: Self::Env<'a>,
                ) -> ::core::result::Result<
                    ::std::vec::Vec<<Self as #es::Aggregate>::Event>,
                    #es::Failure<<Self as #es::Aggregate>::Error>,
                > {
                    #body
                }
            }
        }
    }

    fn target(&self) -> TokenStream {
        match (self.request.has_self, self.creates_if_missing) {
            (false, _) => quote!(New),
            (true, false) => quote!(Existing),
            (true, true) => quote!(Either),
        }
    }

    fn body(&self, es: &TokenStream) -> TokenStream {
        let Request { name, at, services: asked, has_self, is_async, output, broken, .. } = &self.request;
        let Some(output) = output.as_ref().filter(|_| !broken) else {
            return quote!(let _ = (cmd, env); ::core::unreachable!());
        };
        let this = has_self.then(|| quote!(self,));
        let asked = services::arguments(asked);
        let wait = is_async.then(|| quote_spanned!(*at=> .await));
        // Each part is shown where the user wrote what it can be wrong about.
        let call = quote_spanned!(*at=> Self::#name(#this cmd, #asked)#wait);
        let whole = written_at(output.whole.span());
        let result = quote_spanned!(whole=> let decided: ::core::result::Result<_, _> = #call;);
        let (good, bad) = (written_at(output.good_span()), written_at(output.bad_span()));
        let es = &respan(es.clone(), good);
        let events =
            quote_spanned!(good=> #es::IntoEvents::<<Self as #es::Aggregate>::Event>::into_events(decided));
        let decided = quote_spanned!(bad=> decided?);
        quote! {
            let _ = &env;
            #result
            let decided = #decided;
            ::core::result::Result::Ok(#events)
        }
    }
}

fn derived(message: &Type) -> String {
    match message {
        Type::Path(path) => {
            path.path.segments.last().map(|s| snake_case(&s.ident.to_string())).unwrap_or_default()
        }
        _ => String::new(),
    }
}

/// Stored names are unique in the block; two types in different modules may share a Rust name.
fn one_name_each(cx: &Ctxt, commands: &[Command]) {
    for (at, command) in commands.iter().enumerate() {
        let same = |other: &&Command| {
            other.name.value() == command.name.value() && other.request.cfgs == command.request.cfgs
        };
        if let Some(other) = commands.iter().take(at).find(same) {
            let (name, first): (_, Span) = (command.name.value(), command.name.span());
            let text = format!("`{}` is stored as `{name}` already", other.request.name);
            cx.error_at(first, format!("{text}: give this one `#[command(name = \"..\")]`"));
        }
    }
}
