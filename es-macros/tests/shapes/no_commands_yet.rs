use crate::pet::Pet;
use es_core::commands;

#[commands]
impl Pet {}

#[test]
fn it_is_what_it_says() {}
