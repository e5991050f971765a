//! Conflicts are retried by whoever sends a command, where the library leaves it to him.

use std::future::Future;

const ATTEMPTS: usize = 100;

pub async fn retry<T, E, F>(mut attempt: impl FnMut() -> F) -> anyhow::Result<T>
where
    F: Future<Output = Result<T, E>>,
    E: Into<anyhow::Error>,
{
    let mut tried = 1;
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if tried == ATTEMPTS => return Err(error.into()),
            Err(_) => tried += 1,
        }
    }
}
