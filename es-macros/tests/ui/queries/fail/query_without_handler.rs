use es_core::App;

struct HistoryOf;

async fn ask(app: &App) {
    drop(app.query(HistoryOf).await);
}

fn main() {}
