//! The invariants of the code map in `src/lib.rs`, as far as text can tell.

use std::fs;
use std::path::{Path, PathBuf};

/// Source files below `room`, with their text up to the first test module.
fn sources(room: &str) -> Vec<(PathBuf, String)> {
    fn walk(path: &Path, found: &mut Vec<PathBuf>) {
        match path.is_dir() {
            true => {
                for entry in fs::read_dir(path).unwrap() {
                    walk(&entry.unwrap().path(), found);
                }
            }
            false => found.push(path.to_path_buf()),
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    for path in [root.join(room), root.join(format!("{room}.rs"))] {
        if path.exists() {
            walk(&path, &mut files);
        }
    }
    assert!(!files.is_empty(), "no room called {room}");
    let code = |path: PathBuf| {
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let lines = code.lines().filter(|l| !l.trim_start().starts_with("//"));
        (path.clone(), lines.collect::<Vec<_>>().join("\n"))
    };
    files
        .into_iter()
        .filter(|p| p.extension().is_some_and(|e| e == "rs"))
        .filter(|p| !p.ends_with("tests.rs") && !p.ends_with("testing.rs"))
        .map(code)
        .collect()
}

/// None of the rooms has one of the words, but in files whose path ends as listed.
fn forbid(rooms: &[&str], words: &[&str], but: &[&str]) {
    for room in rooms {
        for (path, text) in sources(room) {
            if but.iter().any(|end| path.ends_with(end)) {
                continue;
            }
            for word in words {
                assert!(!text.contains(word), "{} has {word}", path.display());
            }
        }
    }
}

#[test]
fn back_ends_see_programs_only() {
    let words = [
        "crate::ir",
        "crate::layers",
        "crate::passes",
        "crate::lower",
    ];
    forbid(&["backend", "kernel", "leaf"], &words, &[]);
}

#[test]
fn what_is_pasted_uses_std_alone() {
    forbid(
        &["leaf", "runtime/arena", "runtime/pool"],
        &["crate::runtime", "crate::kernel"],
        &[],
    );
    forbid(&["runtime/arena", "runtime/pool"], &["crate::"], &[]);
}

#[test]
fn protobuf_stays_in_the_front_end() {
    let rooms = [
        "ir", "weights", "layers", "passes", "lower", "kernel", "leaf", "backend", "runtime",
        "summary", "cli",
    ];
    forbid(&rooms, &["prost"], &[]);
}

#[test]
fn files_and_printing_stay_outside() {
    let rooms = [
        "ir", "weights", "layers", "passes", "lower", "kernel", "leaf", "backend", "summary",
    ];
    // What these two hold is pasted into emitted source.
    let pasted = ["backend/rust/support.rs", "backend/rust/cli.rs"];
    let printing = ["stdout()", "stderr()", "print!", "println!"];
    forbid(&rooms, &["std::fs", "File::"], &pasted);
    forbid(&rooms, &printing, &pasted);
    forbid(&["frontend", "runtime"], &printing, &[]);
}
