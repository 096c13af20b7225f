//! Small nets that were difficult once, on all engines. The first comment of each says
//! what is special about it.

mod common;

use common::{compare, graph, inputs, isas, parse, reference};
use std::fs;

#[test]
fn corpus_agrees_on_all_engines() {
    let files = fs::read_dir("tests/corpus").unwrap();
    let mut files: Vec<_> = files.map(|f| f.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "prototxt"));
    files.sort();
    assert!(!files.is_empty());
    for file in files {
        let name = file.to_string_lossy();
        let text = fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("# "), "{name} does not say what it is for");
        let graph = graph(&parse(&name, text), &Default::default());
        let inputs = inputs(&graph);
        let want = reference(&graph, &inputs);
        compare(&name, &graph, &inputs, &want, &isas(), true);
    }
}
