//! The code map of `ARCHITECTURE.md` names files that exist.

use std::path::{Path, PathBuf};

#[test]
fn files_of_the_code_map_exist() {
    let text = include_str!("../../../ARCHITECTURE.md");
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let map = text.split("\n## ").find_map(|section| section.strip_prefix("Code map\n")).expect("a code map");
    let (mut named, mut missing) = (0, Vec::new());
    for part in map.split("\n### ").skip(1) {
        let (name, table) = part.split_once('\n').expect("a heading has a line");
        for row in table.lines().filter(|line| line.starts_with("| `")) {
            // What is named after a folder may lie in it.
            let mut folders = vec![root.join(name).join("src"), root.join(name)];
            for file in row.split('`').skip(1).step_by(2).filter(|name| is_file(name)) {
                named += 1;
                let paths: Vec<PathBuf> = folders.iter().map(|folder| folder.join(file)).collect();
                match paths.into_iter().find(|path| path.exists()) {
                    Some(path) if path.is_dir() => folders.push(path),
                    Some(path) => folders.extend(path.parent().map(Path::to_owned)),
                    None => missing.push(format!("{name}: {file}")),
                }
            }
        }
    }
    assert!(named > 100, "the map is read: {named} names");
    assert!(missing.is_empty(), "ARCHITECTURE.md names files that do not exist: {missing:#?}");
}

fn is_file(name: &str) -> bool {
    name.ends_with('/') || name.contains('.') && !name.contains([' ', ':'])
}
