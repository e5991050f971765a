//! Where what is written shows in errors.

use proc_macro2::{Group, Span, TokenStream, TokenTree};

/// The place of `span`, marked as written by a macro, so that lints leave it alone.
pub(crate) fn written_at(span: Span) -> Span {
    span.resolved_at(Span::call_site())
}

/// `tokens`, all shown at one place: an expression with tokens of two places is shown as all that lies
/// between them.
pub(crate) fn respan(tokens: TokenStream, span: Span) -> TokenStream {
    let at = |token| match token {
        TokenTree::Group(group) => {
            let mut moved = Group::new(group.delimiter(), respan(group.stream(), span));
            moved.set_span(span);
            TokenTree::Group(moved)
        }
        mut token => {
            token.set_span(span);
            token
        }
    };
    tokens.into_iter().map(at).collect()
}
