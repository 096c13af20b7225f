//! What there is to say of each layer type: for `caffec layers` and `docs/LAYERS.md`.

use crate::frontend::forks;
use crate::frontend::schema::Schema;
use std::fmt::Write as _;

/// A line of the table of layer types.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Caffe's names of the type, each with where it comes from: `BVLC` or a fork.
    pub names: &'static [(&'static str, &'static str)],
    /// The messages of a layer that the type reads.
    pub messages: &'static [&'static str],
    /// What it reads of forks: see [`Layer::claims`](super::Layer::claims).
    pub claims: &'static [&'static str],
    /// Text of the file that it stands in.
    pub(super) file: &'static str,
}

impl Entry {
    /// What the type computes: what its file says on top, in Markdown.
    pub fn about(&self) -> String {
        let lines = self.file.lines().map_while(|line| line.strip_prefix("//!"));
        let lines: Vec<&str> = lines.map(|l| l.strip_prefix(' ').unwrap_or(l)).collect();
        without_links(&lines.join("\n"))
    }

    /// The fields of one of its messages that it may be given, those of forks with the
    /// fork's name.
    pub fn fields(&self, message: &str) -> Vec<(String, Option<&'static str>)> {
        let schema = Schema::caffe();
        let layer = schema.message("caffe.LayerParameter");
        let field = layer.field(message).expect("the table names messages");
        let ty = schema.message_of(field).expect("the table names messages");
        let whole = self
            .claims
            .contains(&message)
            .then(|| forks::fork_of(message));
        let mut fields = Vec::new();
        for field in ty.fields {
            let path = format!("{message}.{}", field.name);
            let fork = forks::fork_of(&path);
            let claim = format!("{path}.");
            let claimed = |c: &&str| **c == path || c.starts_with(&claim);
            let covered = fork.is_none() || whole == Some(fork);
            if covered || self.claims.iter().any(claimed) {
                let own = field.fork.is_some().then_some(fork).flatten();
                fields.push((field.name.to_string(), own));
            }
        }
        fields
    }
}

/// Links to code lead nowhere outside of its own documentation.
fn without_links(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("](super::") {
        match before.rsplit_once('[') {
            Some((text, name)) => out.extend([text, name]),
            None => out += before,
        }
        rest = after.split_once(')').map_or("", |(_, rest)| rest);
    }
    out + rest
}

/// The list of all types as one Markdown document.
pub fn markdown(entries: &[Entry]) -> String {
    let types: usize = entries.iter().map(|e| e.names.len()).sum();
    let mut out = format!(
        "# Layer types\n\nMade by `caffec layers --markdown`: change the layers' files instead. {types} types; unless it is said \
         otherwise below, all engines\nrun them. A field of a fork that a type does not list is refused, unless it has no \
         influence in phase TEST.\n\n| type | from | parameters |\n|---|---|---|\n"
    );
    let mut rows: Vec<_> = entries
        .iter()
        .flat_map(|entry| entry.names.iter().map(move |name| (name, entry)))
        .collect();
    rows.sort_by_key(|((name, _), _)| name.to_lowercase());
    for ((name, origin), entry) in &rows {
        let messages: Vec<String> = entry.messages.iter().map(|m| format!("`{m}`")).collect();
        let _ = writeln!(out, "| `{name}` | {origin} | {} |", messages.join(", "));
    }
    for entry in entries {
        let names: Vec<&str> = entry.names.iter().map(|(name, _)| *name).collect();
        let _ = write!(out, "\n## {}\n\n{}\n", names.join(", "), entry.about());
        for message in entry.messages {
            let field = |(name, fork): &(String, Option<&str>)| match fork {
                Some(fork) => format!("`{name}` ({fork})"),
                None => format!("`{name}`"),
            };
            let fields: Vec<String> = entry.fields(message).iter().map(field).collect();
            let _ = write!(out, "\n`{message}`: {}.\n", fields.join(", "));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::entries;
    use super::*;

    #[test]
    fn the_document_is_up_to_date() {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/LAYERS.md");
        let want = markdown(&entries());
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(file, &want).unwrap();
        }
        let written = std::fs::read_to_string(file).unwrap();
        assert!(
            written == want,
            "run `caffec layers --markdown > docs/LAYERS.md`"
        );
    }

    #[test]
    fn links_become_names() {
        assert_eq!(without_links("a [`B`](super::b), [c](d)"), "a `B`, [c](d)");
    }

    /// Whether the code reads a field: `p.field`, but not `message_param.field`, which is
    /// a path.
    fn reads(code: &str, field: &str) -> bool {
        let ident = |c: char| c.is_alphanumeric() || c == '_';
        code.match_indices(field).any(|(at, _)| {
            let before = code[..at].trim_end_matches("r#");
            let path = before.ends_with("_param.") || before.ends_with("}.");
            before.ends_with('.') && !path && !code[at + field.len()..].starts_with(ident)
        })
    }

    /// `numOutput` is `num_output` there.
    fn in_rust(field: &str) -> String {
        let mut name = String::new();
        let mut before = '_';
        for c in field.chars() {
            if c.is_ascii_uppercase() && before.is_ascii_lowercase() {
                name.push('_');
            }
            name.push(c.to_ascii_lowercase());
            before = c;
        }
        name
    }

    #[test]
    fn who_claims_a_message_reads_all_its_fields() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/layers");
        let code = |text: &str| {
            text.split("#[cfg(test)]\nmod tests")
                .next()
                .unwrap()
                .to_string()
        };
        // The fork's own layer does not read them.
        let ignored = |name: &str, field: &str| {
            let of_others = "share_location background_label_id nms_param code_type \
                             variance_encoded_in_target";
            name == "CenterGridOutput" && of_others.split(' ').any(|other| other == field)
        };
        let mut unread = Vec::new();
        for entry in entries() {
            let mut text = code(entry.file);
            // With what it uses of other layers.
            for used in entry
                .file
                .lines()
                .filter_map(|l| l.strip_prefix("use super::"))
            {
                let module = used.split("::").next().unwrap();
                let file = std::fs::read_to_string(format!("{folder}/{module}.rs"));
                text += &code(&file.unwrap_or_default());
            }
            let schema = Schema::caffe();
            for message in entry.claims.iter().filter(|claim| !claim.contains('.')) {
                let field = schema.message("caffe.LayerParameter").field(message);
                let Some(ty) = schema.message_of(field.unwrap()) else {
                    continue;
                };
                for (field, _) in entry.fields(message) {
                    let no_effect = ty.field(&field).unwrap().no_effect;
                    let name = entry.names[0].0;
                    if !no_effect && !ignored(name, &field) && !reads(&text, &in_rust(&field)) {
                        unread.push(format!("{name}: {message}.{field}"));
                    }
                }
            }
        }
        assert_eq!(unread, [""; 0]);
    }

    #[test]
    fn entries_say_what_their_files_say() {
        let entries = entries();
        for entry in &entries {
            let (name, _) = entry.names[0];
            assert!(entry.about().contains('`'), "{name} says nothing of itself");
            for message in entry.messages {
                assert!(!entry.fields(message).is_empty(), "{name}: {message}");
            }
        }
        let pooling = entries.iter().find(|e| e.names[0].0 == "Pooling").unwrap();
        let fields = pooling.fields("pooling_param");
        assert!(fields.contains(&("kernel_size".into(), None)));
        assert!(fields.contains(&("pad_l".into(), Some("Synopsys"))));
    }
}
