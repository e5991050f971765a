//! What the compiler says to each mistake: one file each, named for it.
//!
//! `TRYBUILD=overwrite cargo test -p es-macros --test ui` writes the texts again; read them before you keep them.

// Apart from the passing files, so that one cargo call checks all of them.
#[test]
fn mistakes_are_named_where_they_are() {
    trybuild::TestCases::new().compile_fail("tests/ui/*/fail/*.rs");
}

#[test]
fn every_shape_and_key_compiles_and_runs() {
    trybuild::TestCases::new().pass("tests/ui/*/pass/*.rs");
}
