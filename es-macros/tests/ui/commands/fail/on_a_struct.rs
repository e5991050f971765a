use es_core::commands;

#[commands]
struct Pet {
    name: String,
}

fn main() {}
