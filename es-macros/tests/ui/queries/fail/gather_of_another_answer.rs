use es_core::{Gather, queries};

#[derive(Clone)]
struct Quote;

impl Gather for Quote {
    type Answer = u64;
}

struct Post;

#[queries]
impl Post {
    #[gather]
    async fn quote(&self, _: Quote) -> Result<String, std::fmt::Error> {
        Ok(String::new())
    }
}

fn main() {}
