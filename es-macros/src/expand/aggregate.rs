//! `#[derive(Aggregate)]`: names and types, and when snapshots are taken.

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};

use crate::ast::{AggregateType, Snapshots};
use crate::span::{respan, written_at};

pub(crate) fn expand(aggregate: &AggregateType) -> TokenStream {
    let AggregateType { krate: es, ident: this, name, id, event, error, snapshots } = aggregate;
    // Without one of them there is nothing to say, and the mistake is reported already.
    let (Some(id), Some(event), Some(error)) = (id, event, error) else { return TokenStream::new() };
    let snapshots = snapshots.as_ref().map(|s| policy(es, s));
    quote! {
        #[automatically_derived]
        impl #es::Aggregate for #this {
            const NAME: &'static str = #name;
            type Id = #id;
            type Event = #event;
            type Error = #error;
            #snapshots
        }
        #[automatically_derived]
        impl #es::EventOf for #event {
            type Aggregate = #this;
        }
    }
}

fn policy(es: &TokenStream, snapshots: &Snapshots) -> TokenStream {
    let policy = match snapshots {
        Snapshots::Policy(path) => quote!(#path()),
        Snapshots::Every { n, schema, span } => {
            let at = written_at(*span);
            let es = respan(es.clone(), at);
            quote_spanned!(at=> #es::snapshot::SnapshotPolicy::<Self>::every(#n).with_schema(#schema))
        }
    };
    quote! {
        fn snapshots() -> #es::snapshot::SnapshotPolicy<Self> {
            #policy
        }
    }
}
