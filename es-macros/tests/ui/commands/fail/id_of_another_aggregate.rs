#[path = "../../bank.rs"]
mod bank;

use bank::Deposit;
use es_core::App;

async fn deposit(app: &App, id: &String) {
    drop(app.send(id, Deposit { amount: 1 }).await);
}

fn main() {}
