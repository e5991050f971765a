//! No two top-level modules of the crate need each other: what a module uses lies below it.
//!
//! Read from the sources, whatever features are on: each `crate::X` is an edge to the top-level module X, or to the one
//! that the crate's root re-exports X from. Tests in the sources and `testing`, which may use all of it, are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// By module, what it uses; with a file that does.
type Graph = BTreeMap<String, BTreeMap<String, PathBuf>>;

#[test]
fn top_level_modules_form_no_circle() {
    let graph = graph(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"));
    assert!(graph["command"].contains_key("store"), "the sources are read: {graph:#?}");
    if let Some(circle) = circle(&graph) {
        let next = circle.iter().skip(1).chain(&circle[..1]);
        let edges = circle.iter().zip(next);
        let edges = edges.map(|(from, to)| format!("{from} uses {to} in {}", graph[from][to].display()));
        panic!("modules need each other:\n  {}", edges.collect::<Vec<_>>().join("\n  "));
    }
}

fn graph(src: &Path) -> Graph {
    let root = code(&src.join("lib.rs"));
    let mut homes: BTreeMap<String, String> = modules(&root).map(|name| (name.clone(), name)).collect();
    for reexport in root.split("pub use self::").skip(1) {
        let (module, names) = reexport.split_once("::").expect("a module and its names");
        let (names, _) = names.split_once(';').expect("the end of a statement");
        homes.extend(first_words(names).into_iter().map(|name| (name, module.to_owned())));
    }
    let mut graph = Graph::new();
    for file in files(src) {
        let path = file.strip_prefix(src).expect("it is in there");
        let first = path.iter().next().expect("a file has a name").to_string_lossy();
        let from = first.trim_end_matches(".rs");
        if matches!(from, "lib" | "testing") {
            continue;
        }
        let uses = graph.entry(from.to_owned()).or_default();
        for used in code(&file).split("crate::").skip(1) {
            for name in first_words(used) {
                let home = homes.get(&name).unwrap_or_else(|| panic!("crate::{name} of {}", path.display()));
                if home != from {
                    uses.entry(home.clone()).or_insert_with(|| path.to_owned());
                }
            }
        }
    }
    graph
}

/// The modules that a file declares.
fn modules(code: &str) -> impl Iterator<Item = String> {
    let declared = |line: &str| {
        let line = line.trim_start_matches("pub ").strip_prefix("mod ")?;
        Some(line.strip_suffix(';')?.to_owned())
    };
    code.lines().filter_map(declared).collect::<Vec<_>>().into_iter()
}

/// The first word of a path, or of each path in braces.
fn first_words(path: &str) -> Vec<String> {
    let word = |text: &str| {
        let text = text.trim_start();
        text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>()
    };
    let Some(group) = path.strip_prefix('{') else { return vec![word(path)] };
    let (mut words, mut depth, mut begins) = (Vec::new(), 0_i32, true);
    for (at, c) in group.char_indices() {
        if begins && !c.is_whitespace() && c != '}' {
            words.push(word(&group[at..]));
            begins = false;
        }
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' => begins = depth == 0,
            _ => {}
        }
    }
    words
}

/// The text of a file without comments, and without its tests, which stand at its end.
fn code(file: &Path) -> String {
    let text = fs::read_to_string(file).expect("a file of the crate");
    let text = text.split("\nmod tests {").next().unwrap_or_default();
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    lines.map(|line| line.split(" // ").next().unwrap_or_default()).collect::<Vec<_>>().join("\n")
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder of the crate") {
        let path = entry.expect("an entry of it").path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

/// Modules each of which uses the next, and the last the first.
fn circle(graph: &Graph) -> Option<Vec<String>> {
    fn visit(graph: &Graph, at: &str, path: &mut Vec<String>, done: &mut BTreeSet<String>) -> bool {
        if let Some(begin) = path.iter().position(|seen| seen == at) {
            path.drain(..begin);
            return true;
        }
        if done.contains(at) {
            return false;
        }
        path.push(at.to_owned());
        if graph.get(at).into_iter().flat_map(BTreeMap::keys).any(|to| visit(graph, to, path, done)) {
            return true;
        }
        path.pop();
        done.insert(at.to_owned());
        false
    }
    let (mut path, mut done) = (Vec::new(), BTreeSet::new());
    graph.keys().any(|module| visit(graph, module, &mut path, &mut done)).then_some(path)
}

#[test]
fn a_circle_is_found_and_named() {
    let uses = |edges: &[(&str, &str)]| {
        let mut graph = Graph::new();
        for (from, to) in edges {
            graph.entry((*from).to_owned()).or_default().insert((*to).to_owned(), PathBuf::new());
        }
        circle(&graph)
    };
    assert_eq!(uses(&[("a", "b"), ("a", "c"), ("b", "c")]), None);
    let found = uses(&[("a", "b"), ("b", "c"), ("c", "d"), ("d", "b")]);
    assert_eq!(found.unwrap(), ["b", "c", "d"]);
}

#[test]
fn each_path_in_braces_counts() {
    assert_eq!(first_words("store::{self, wait};\nuse x;"), ["store"]);
    assert_eq!(
        first_words("{\n    app::{a, b}, BoxError as E,\n    chain,\n};"),
        ["app", "BoxError", "chain"]
    );
}
