//! What the framework costs, beside what the machine can do at all. `README.md` says how to read it.

mod domain;
mod import;
mod measure;
mod memory;
mod sqlite;

use measure::{print, print_header};

fn main() -> anyhow::Result<()> {
    let filter = std::env::args().nth(1).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let wanted = |name: &str| name.contains(&filter);
    print_header();
    for tasks in [1, 2] {
        if wanted("memory") {
            print(&memory::commands(&runtime, tasks)?);
        }
    }
    for tasks in [1, 32, 256] {
        if wanted("sqlite") {
            print(&sqlite::commands(&runtime, tasks)?);
        }
    }
    if wanted("load") {
        print(&sqlite::load(&runtime)?);
    }
    if wanted("import") {
        import::measure()?.iter().for_each(print);
    }
    Ok(())
}
