//! Where a bound message and its fields stand in the text.

use std::sync::Arc;

use super::schema::{MessageType, Schema};
use super::text::{self, Extent, Tree};
use crate::diag::{FileId, Span};

/// Where a message and what is in it stand in the text. Cheap to clone.
#[derive(Clone)]
pub struct Spans {
    bound: Arc<Bound>,
    /// The field that holds the message or value; none for the whole file.
    field: Option<u32>,
    ty: Option<&'static MessageType>,
}

struct Bound {
    file: FileId,
    tree: Tree,
    numbers: Vec<u16>,
}

impl std::fmt::Debug for Spans {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Spans({:?})", self.span())
    }
}

impl Spans {
    pub(super) fn root(
        file: FileId,
        tree: Tree,
        numbers: Vec<u16>,
        ty: &'static MessageType,
    ) -> Self {
        Spans {
            bound: Arc::new(Bound {
                file,
                tree,
                numbers,
            }),
            field: None,
            ty: Some(ty),
        }
    }

    /// The field from its name to the end of its value; for the whole file its
    /// first field.
    pub fn span(&self) -> Span {
        let fields = &self.bound.tree.fields;
        let extent = match self.field {
            Some(index) => fields[index as usize].extent(),
            None => fields
                .first()
                .map_or(Extent { start: 0, end: 0 }, |f| f.name),
        };
        Span {
            file: self.bound.file,
            start: extent.start,
            end: extent.end,
        }
    }

    /// All values of the field `name`, in order. Errors of ours (a name that the
    /// type does not have) give none.
    pub fn children(&self, name: &str) -> impl Iterator<Item = Spans> + '_ {
        let def = self.ty.and_then(|ty| ty.field(name));
        let ty = def.and_then(|def| Schema::caffe().message_of(def));
        let number = def.map(|def| def.number as u16);
        let child = move |index: usize| Spans {
            bound: self.bound.clone(),
            field: Some(index as u32),
            ty,
        };
        let is_value = move |i: &usize| {
            let kind = self.bound.tree.fields[*i].kind;
            number == Some(self.bound.numbers[*i]) && kind != text::Kind::EmptyList
        };
        self.direct().filter(is_value).map(child)
    }

    /// Value `index` of the field `name`.
    pub fn child(&self, name: &str, index: usize) -> Option<Spans> {
        self.children(name).nth(index)
    }

    /// Follows a path such as `convolution_param.stride[0]`; an index left out is 0.
    pub fn find(&self, path: &str) -> Option<Spans> {
        let step = |at: Spans, part: &str| {
            let (name, index) = split_index(part)?;
            at.child(name, index)
        };
        path.split('.').try_fold(self.clone(), step)
    }

    /// The span of `path`, or that of the innermost message around it.
    pub fn span_of(&self, path: &str) -> Span {
        let mut at = self.clone();
        for part in path.split('.') {
            match at.find(part) {
                Some(inner) => at = inner,
                None => break,
            }
        }
        at.span()
    }

    fn direct(&self) -> impl Iterator<Item = usize> + '_ {
        let fields = &self.bound.tree.fields;
        let range = match self.field {
            Some(index) => index as usize + 1..fields[index as usize].end as usize,
            None => 0..fields.len(),
        };
        let first = Some(range.start).filter(|_| !range.is_empty());
        std::iter::successors(first, move |&i| {
            Some(fields[i].end as usize).filter(|&next| next < range.end)
        })
    }
}

/// `stride[1]` → (`stride`, 1).
pub(super) fn split_index(part: &str) -> Option<(&str, usize)> {
    match part.split_once('[') {
        None => Some((part, 0)),
        Some((name, rest)) => Some((name, rest.strip_suffix(']')?.parse().ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::bind::parse_text;
    use super::super::proto::NetParameter;
    use super::*;
    use crate::diag::Sources;

    fn net_spans(text: &str) -> Spans {
        let mut sources = Sources::default();
        let file = sources.add("net", text.into());
        let parsed = parse_text::<NetParameter>(&sources, file, "caffe.NetParameter");
        parsed.unwrap().spans
    }

    #[test]
    fn spans_follow_paths() {
        let text = "layer { name: 'a' } layer { convolution_param { stride: [2, 13] } }";
        let spans = net_spans(text);
        let words = |span: Span| &text[span.start as usize..span.end as usize];
        let layers: Vec<Spans> = spans.children("layer").collect();
        assert_eq!(words(layers[0].span()), "layer { name: 'a' }");
        let stride = spans.find("layer[1].convolution_param.stride[1]").unwrap();
        assert_eq!(words(stride.span()), "stride: [2, 13");
        assert!(layers[1].find("convolution_param.pad").is_none());
        let around = layers[1].span_of("convolution_param.pad[3]");
        assert_eq!(words(around), "convolution_param { stride: [2, 13] }");
    }
}
