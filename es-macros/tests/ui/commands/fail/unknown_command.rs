#[path = "../../bank.rs"]
mod bank;

use bank::AccountId;
use es_core::App;

#[derive(Clone, serde::Serialize, serde::Deserialize)]
struct Rename {}

async fn rename(app: &App, id: &AccountId) {
    drop(app.send(id, Rename {}).await);
}

fn main() {}
