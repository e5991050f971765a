use es_core::App;
use sagas::saga::Sagas as _;

async fn start(app: &App) {
    drop(app.start_saga("order-7", &7_u64).await);
}

fn main() {
    drop(start);
}
