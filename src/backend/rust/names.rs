//! Identifiers and comments from names that can be anything.

use std::collections::HashSet;

use crate::diag;

/// Strict and reserved words of all editions, and the names that Rust does not let
/// one define.
const KEYWORDS: &str = " abstract as async await become box break const continue crate do dyn \
    else enum extern false final fn for gen if impl in let loop macro match mod move mut \
    override priv pub ref return self static struct super trait true try type typeof unsafe \
    unsized use virtual where while yield ";

/// Longest identifier made, before it is made unique.
const MAX_LEN: usize = 48;

/// Hands out identifiers, each once.
#[derive(Default)]
pub struct Names {
    taken: HashSet<String>,
}

impl Names {
    /// Names that are not to be handed out.
    pub fn without(taken: &[&str]) -> Self {
        Names {
            taken: taken.iter().map(|&name| name.into()).collect(),
        }
    }

    /// A snake-case identifier that reminds of `name`, with a number if another name
    /// took the plain one. `kind` stands in front of what would be no identifier.
    pub fn unique(&mut self, name: &str, kind: &str) -> String {
        let stem = identifier(name, kind);
        let numbered = (2..).map(|n| format!("{stem}_{n}"));
        let free = std::iter::once(stem.clone())
            .chain(numbered)
            .find(|candidate| !self.taken.contains(candidate));
        let name = free.expect("the numbers do not end");
        self.taken.insert(name.clone());
        name
    }
}

fn identifier(name: &str, kind: &str) -> String {
    let mut out = String::new();
    for c in name.chars() {
        if out.len() == MAX_LEN {
            break;
        }
        match c {
            c if c.is_ascii_alphanumeric() => out.push(c.to_ascii_lowercase()),
            _ if out.is_empty() || out.ends_with('_') => {}
            _ => out.push('_'),
        }
    }
    let out = out.trim_end_matches('_');
    if out.is_empty() {
        kind.to_string()
    } else if out.starts_with(|c: char| c.is_ascii_digit()) || is_keyword(out) {
        format!("{kind}_{out}")
    } else {
        out.to_string()
    }
}

fn is_keyword(word: &str) -> bool {
    KEYWORDS.split_whitespace().any(|keyword| keyword == word)
}

/// `text` as one line of a comment, also between backticks: no control or
/// direction-changing characters, and no backticks.
pub fn comment(text: &str) -> String {
    let line = diag::clean(text).replace('\t', " ");
    line.replace('`', "'").trim().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_legal_and_unique() {
        let mut names = Names::without(&["context"]);
        let cases = [
            ("conv1_7x7_s2", "conv1_7x7_s2"),
            ("conv1/7x7_s2", "conv1_7x7_s2_2"),
            ("Conv1-7x7__s2_", "conv1_7x7_s2_3"),
            ("1x1", "layer_1x1"),
            ("loop", "layer_loop"),
            ("gen", "layer_gen"),
            ("", "layer"),
            ("*/ \n\u{202e}", "layer_2"),
            ("context", "context_2"),
            ("Schicht Größe", "schicht_gr_e"),
        ];
        for (name, expected) in cases {
            assert_eq!(names.unique(name, "layer"), expected, "{name:?}");
        }
        assert_eq!(names.unique(&"x".repeat(900), "layer"), "x".repeat(MAX_LEN));
    }

    #[test]
    fn comments_are_one_harmless_line() {
        assert_eq!(
            comment("a\nb\r\u{202e}<x> `y`\t"),
            "a\\nb\\r\\u{202e}<x> 'y'"
        );
    }
}
