//! The import of the example `shop`: how long, and how much memory at its peak (Linux).

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use crate::measure::{Line, alone};

pub fn measure() -> anyhow::Result<Vec<Line>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("bench stands in the repository")?;
    let built =
        Command::new("cargo").args(["build", "--release", "-p", "shop"]).current_dir(root).status()?;
    ensure!(built.success(), "shop does not build");
    let folder = tempfile::tempdir_in(root.join("bench/target"))?;
    let started = Instant::now();
    let mut shop = Command::new(root.join("target/release/shop"))
        .arg("import")
        .arg(root.join("examples/shop/data/CDNOW_master.txt"))
        .arg("--database")
        .arg(folder.path().join("shop.db"))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    let mut peak = 0.0_f64;
    let status = loop {
        // The high-water mark of the kernel: what is read last is the peak so far.
        if let Some(kib) = high_water(shop.id()) {
            peak = peak.max(kib / 1_024.0);
        }
        if let Some(status) = shop.try_wait()? {
            break status;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let took = started.elapsed().as_secs_f64();
    ensure!(status.success(), "the import failed");
    Ok(vec![
        alone("import of 69,659 purchases, with three projections", "s", took),
        alone("import, peak memory", "MiB", peak),
    ])
}

fn high_water(pid: u32) -> Option<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    line.split_whitespace().nth(1)?.parse().ok()
}
