use es_core::{Gather, queries};

#[derive(Clone)]
struct Quote;

impl Gather for Quote {
    type Answer = u64;
}

struct Post;

#[queries]
impl Post {
    #[gather(first)]
    async fn quote(&self, _: Quote) -> Result<u64, std::fmt::Error> {
        Ok(1)
    }
}

fn main() {}
