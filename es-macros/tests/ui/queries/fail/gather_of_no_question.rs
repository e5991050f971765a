use es_core::queries;

#[derive(Clone)]
struct Quote;
struct Post;

#[queries]
impl Post {
    #[gather]
    async fn quote(&self, _: Quote) -> Result<u64, std::fmt::Error> {
        Ok(1)
    }
}

fn main() {}
