//! A number for a piece of code: another one if its tokens change, the same one on every compiler.

use proc_macro2::{Delimiter, TokenStream, TokenTree};

/// Of what an attribute and its item say. Comments and the layout do not count.
pub(crate) fn fingerprint(parts: &[&TokenStream]) -> u64 {
    let mut hash = Fnv(0xcbf2_9ce4_8422_2325);
    for part in parts {
        hash.tokens((*part).clone());
        hash.text("\u{0}");
    }
    hash.0
}

/// FNV-1a, 64 bits (Fowler, Noll, Vo): a few lines, and the same everywhere.
struct Fnv(u64);

impl Fnv {
    fn text(&mut self, text: &str) {
        // The end of a token is a byte that no token has.
        for byte in text.bytes().chain([0xff]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    fn tokens(&mut self, tokens: TokenStream) {
        let mut tokens = tokens.into_iter().peekable();
        while let Some(token) = tokens.next() {
            match token {
                TokenTree::Punct(punct) if punct.as_char() == '#' && tokens.peek().is_some_and(is_doc) => {
                    tokens.next();
                }
                TokenTree::Punct(punct) => self.text(&punct.as_char().to_string()),
                TokenTree::Ident(ident) => self.text(&ident.to_string()),
                TokenTree::Literal(literal) => self.text(&literal.to_string()),
                TokenTree::Group(group) => {
                    self.text(match group.delimiter() {
                        Delimiter::Parenthesis => "(",
                        Delimiter::Brace => "{",
                        Delimiter::Bracket => "[",
                        Delimiter::None => "",
                    });
                    self.tokens(group.stream());
                    self.text(")");
                }
            }
        }
    }
}

fn is_doc(token: &TokenTree) -> bool {
    let TokenTree::Group(group) = token else { return false };
    matches!(group.stream().into_iter().next(), Some(TokenTree::Ident(ident)) if ident == "doc")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(code: &str) -> u64 {
        fingerprint(&[&code.parse().expect("tokens")])
    }

    #[test]
    fn only_what_the_code_says_counts() {
        let code = of("fn paid(&mut self, e: &Paid) { self.0 += e.amount; }");
        assert_eq!(code, of("/// Counts.\nfn paid(&mut self,e:&Paid){\n // more\n self.0 += e.amount;\n}"));
        assert_ne!(code, of("fn paid(&mut self, e: &Paid) { self.0 += e.amount / 100; }"));
        assert_ne!(of("a b"), of("ab"));
        assert_ne!(of("(a) b"), of("(a b)"));
        assert_eq!(format!("{code:016x}"), "f2791d00f058f849", "it is stored: it never changes");
    }
}
