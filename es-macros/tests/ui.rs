//! What the compiler says to each mistake: one file each, named for it. What compiles is in `shapes`.
//!
//! `TRYBUILD=overwrite cargo test -p es-macros --test ui` writes the texts again; read them before you keep them.

#[test]
fn mistakes_are_named_where_they_are() {
    trybuild::TestCases::new().compile_fail("tests/ui/*/fail/*.rs");
}
