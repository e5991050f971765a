//! x
use proc_macro::TokenStream;
/// x
#[proc_macro_derive(Event)] pub fn e(_: TokenStream) -> TokenStream { TokenStream::new() }
/// x
#[proc_macro_derive(Aggregate)] pub fn a(_: TokenStream) -> TokenStream { TokenStream::new() }
/// x
#[proc_macro_derive(AggregateId)] pub fn ai(_: TokenStream) -> TokenStream { TokenStream::new() }
/// x
#[proc_macro_attribute] pub fn commands(_: TokenStream, i: TokenStream) -> TokenStream { i }
/// x
#[proc_macro_attribute] pub fn projection(_: TokenStream, i: TokenStream) -> TokenStream { i }
/// x
#[proc_macro_attribute] pub fn queries(_: TokenStream, i: TokenStream) -> TokenStream { i }
/// x
#[proc_macro_attribute] pub fn reactor(_: TokenStream, i: TokenStream) -> TokenStream { i }
/// x
#[proc_macro_attribute] pub fn view(_: TokenStream, i: TokenStream) -> TokenStream { i }
