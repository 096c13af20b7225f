//! Text tree → typed message, driven by the schema.
//!
//! In: the [`text::Tree`] of a file. Out: [`Parsed`], a message and [`Spans`] that
//! tell where in the file each of its fields stands. Binding writes the message in
//! wire format, which prost then reads: no field is named in this file. It gathers
//! what is wrong instead of stopping at the first. Start reading at [`parse_text`].

use std::num::NonZeroU32;
use std::ops::Range;

use prost::encoding::{WireType, encode_key, encode_varint};

use super::Reading;
use super::schema::{EnumType, FieldType, MessageType, Schema, ValueType};
use super::spans::Spans;
use super::text::{self, Extent, Field, Tree};
use super::wire;
use crate::diag::{Diagnostic, Errors, FileId, Result, Sources, Span, did_you_mean};

/// Most errors told about one file.
const MAX_ERRORS: usize = 20;

/// A text held against the schema.
#[derive(Debug)]
pub struct BoundText {
    /// The message in wire format, fields in the order of the text.
    pub wire: Vec<u8>,
    /// On fields that were left out.
    pub notes: Vec<Diagnostic>,
    pub spans: Spans,
}

/// A message read from text.
#[derive(Debug)]
pub struct Parsed<M> {
    pub message: M,
    /// On fields that were left out.
    pub notes: Vec<Diagnostic>,
    pub spans: Spans,
}

/// Reads the text of `file` as the message type `name` (with package), which is
/// that of `M`.
///
/// Errors: those of [`bind_text`].
pub fn parse_text<M: prost::Message + Default>(
    sources: &Sources,
    file: FileId,
    name: &str,
) -> Result<Parsed<M>> {
    read_text(sources, file, name, Reading::default())
}

/// The same, where `reading` may let pass unknown fields.
pub fn read_text<M: prost::Message + Default>(
    sources: &Sources,
    file: FileId,
    name: &str,
    reading: Reading,
) -> Result<Parsed<M>> {
    let bound = bind_text(sources, file, name, reading)?;
    Ok(Parsed {
        message: M::decode(bound.wire.as_slice()).expect("the binder writes what prost reads"),
        notes: bound.notes,
        spans: bound.spans,
    })
}

/// Parses the text of `file` and binds it to the message type `name` (with package): all
/// that can be wrong with a text is found here.
///
/// A string that is not UTF-8 keeps its bytes, see [`wire::to_utf8`].
///
/// Errors: `Invalid`, ordered as they stand in the file, at most 20. Source: what
/// BVLC/caffe `io.cpp`, `ReadProtoFromTextFile`, accepts.
pub fn bind_text(
    sources: &Sources,
    file: FileId,
    name: &str,
    reading: Reading,
) -> Result<BoundText> {
    let bytes = sources.text(file);
    let (tree, syntax_error) = text::parse(bytes);
    let schema = Schema::caffe();
    let mut binder = Binder {
        text: bytes,
        tree: &tree,
        schema,
        file,
        out: Vec::with_capacity(bytes.len() / 2),
        numbers: vec![0; tree.fields.len()],
        first: Vec::new(),
        errors: Vec::new(),
        notes: Vec::new(),
        reading,
        complete: syntax_error.is_none(),
        enclosing: Vec::new(),
    };
    let root = schema.message(name);
    binder.message(root, 0..tree.fields.len(), None);
    let Binder {
        out,
        numbers,
        mut errors,
        notes,
        ..
    } = binder;
    errors.extend(syntax_error.map(|e| syntax_diagnostic(bytes, file, e)));
    errors.sort_by_key(|d| d.at.map(|span| span.start));
    errors.truncate(MAX_ERRORS);
    Errors::none_or(errors, ())?;
    Ok(BoundText {
        wire: out,
        notes,
        spans: Spans::root(file, tree, numbers, root),
    })
}

fn syntax_diagnostic(text: &[u8], file: FileId, error: text::SyntaxError) -> Diagnostic {
    let span = |at| Span {
        file,
        start: at,
        end: at,
    };
    let mut d = Diagnostic::invalid(error.message).at(span(error.at));
    d.help = text::hint(text, error.at).map(str::to_string);
    match error.related {
        Some((at, note)) => d.related(span(at), note),
        None => d,
    }
}

struct Binder<'a> {
    text: &'a [u8],
    tree: &'a Tree,
    schema: &'static Schema,
    file: FileId,
    out: Vec<u8>,
    /// Field number of each tree field, 0 if it was refused.
    numbers: Vec<u16>,
    /// For the fields of each open message's type, 1 + the index of the first in the tree.
    first: Vec<Option<NonZeroU32>>,
    errors: Vec<Diagnostic>,
    notes: Vec<Diagnostic>,
    reading: Reading,
    /// The whole text was read, so what is missing is really missing.
    complete: bool,
    /// Types of the messages around the current one.
    enclosing: Vec<&'static MessageType>,
}

impl<'a> Binder<'a> {
    /// Writes the fields `range` of the tree, which make up one message. Goes as
    /// deep as the schema does.
    fn message(&mut self, ty: &'static MessageType, range: Range<usize>, at: Option<&Field>) {
        let firsts = self.first.len();
        self.first.resize(firsts + ty.fields.len(), None);
        let mut unknown: Vec<&[u8]> = Vec::new();
        let mut next = range.start;
        while next < range.end {
            let index = next;
            let field = self.tree.fields[index];
            next = field.end as usize;
            let Some(slot) = self.slot(ty, &field, &mut unknown) else {
                continue;
            };
            let def = &ty.fields[slot];
            let first = self.first[firsts + slot].map(|i| i.get() as usize - 1);
            let result = self
                .check_count(def, &field, first)
                .and_then(|()| self.value(ty, def, index, &field));
            if first.is_none() {
                self.first[firsts + slot] = NonZeroU32::new(index as u32 + 1);
            }
            self.numbers[index] = def.number as u16;
            if let Err(error) = result {
                self.report(|_| error);
            }
        }
        if self.complete {
            self.check_required(ty, firsts, at);
        }
        self.first.truncate(firsts);
    }

    /// The field that is meant. Of those that a message does not have, each is told
    /// once: behind a missing brace may be the rest of the file.
    fn slot(
        &mut self,
        ty: &'static MessageType,
        field: &Field,
        unknown: &mut Vec<&'a [u8]>,
    ) -> Option<usize> {
        let name = field.name.of(self.text);
        let slot = ty.slot(name);
        if slot.is_some() {
            return slot;
        }
        let text = String::from_utf8_lossy(name);
        if self.reading.allow_unknown {
            let message = format!("{} has no field `{text}`: left out", ty.short_name());
            self.notes.push(self.error_at(field.name, message));
        } else if self.errors.len() < MAX_ERRORS && !unknown.contains(&name) {
            unknown.push(name);
            self.report(|b| b.unknown_field(ty, &text, field));
        }
        None
    }

    fn unknown_field(&self, ty: &MessageType, name: &str, field: &Field) -> Diagnostic {
        let d = self.error_at(
            field.name,
            format!("{} has no field `{name}`", ty.short_name()),
        );
        let around = self
            .enclosing
            .iter()
            .rev()
            .find(|t| t.field(name).is_some());
        let before = &self.text[..field.name.start as usize];
        if name.starts_with('[') {
            d.help("Caffe has no extensions")
        } else if matches!(before.last(), Some(b'"' | b'\'')) {
            d.help("the quote before it ends the string: does it stand in the wrong place?")
        } else if let Some(near) = did_you_mean(name, ty.fields.iter().map(|f| f.name)) {
            d.help(format!("did you mean `{near}`?"))
        } else if let Some(outer) = around {
            d.help(format!(
                "it is a field of {}: is a `}}` missing before it?",
                outer.short_name()
            ))
        } else if ty.name == "caffe.NetParameter" && self.layer_has(name) {
            d.help("it is a field of LayerParameter: is `layer {` missing before it?")
        } else {
            d
        }
    }

    fn layer_has(&self, name: &str) -> bool {
        let layer = self.schema.message("caffe.LayerParameter");
        layer.field(name).is_some()
    }

    fn check_count(&self, def: &FieldType, field: &Field, first: Option<usize>) -> Result1<()> {
        if def.repeated() {
            return Ok(());
        }
        if let Some(first) = first {
            let first = self.tree.fields[first];
            let message = format!("`{}` is set twice", def.name);
            return Err(self
                .error_at(field.name, message)
                .related(self.span(first.name), "first set here"));
        }
        match field.list {
            Some(bracket) => Err(self.error(
                bracket.get(),
                format!("`{}` takes one value, not a list", def.name),
            )),
            None => Ok(()),
        }
    }

    fn check_required(&mut self, ty: &MessageType, firsts: usize, at: Option<&Field>) {
        for (slot, def) in ty.fields.iter().enumerate() {
            if def.required() && self.first[firsts + slot].is_none() {
                let message = format!("{} needs `{}`", ty.short_name(), def.name);
                self.report(|b| match at {
                    Some(field) => b.error_at(field.name, message),
                    None => b.error(0, message),
                });
            }
        }
    }

    /// Gathers an error unless there are too many to read.
    fn report(&mut self, error: impl FnOnce(&Self) -> Diagnostic) {
        if self.errors.len() < MAX_ERRORS {
            let error = error(self);
            self.errors.push(error);
        }
    }

    fn value(
        &mut self,
        ty: &'static MessageType,
        def: &'static FieldType,
        index: usize,
        field: &Field,
    ) -> Result1<()> {
        match def.kind {
            _ if matches!(field.kind, text::Kind::Missing | text::Kind::EmptyList) => Ok(()),
            ValueType::Message(inner) => self.submessage(ty, def, inner, index, field),
            _ if !field.colon => {
                let at = field.list.map_or(field.token.start, |l| l.get());
                Err(self.error(at, format!("expected `:` after `{}`", def.name)))
            }
            _ => self.scalar(def, field),
        }
    }

    fn submessage(
        &mut self,
        ty: &'static MessageType,
        def: &FieldType,
        inner: usize,
        index: usize,
        field: &Field,
    ) -> Result1<()> {
        if field.kind != text::Kind::Message {
            return Err(self.expected(def, field));
        }
        encode_key(def.number, WireType::LengthDelimited, &mut self.out);
        let start = self.out.len();
        self.out.push(0);
        let (errors, notes) = (self.errors.len(), self.notes.len());
        let range = index + 1..field.end as usize;
        self.enclosing.push(ty);
        let inner = self.schema.message_at(inner);
        self.message(inner, range.clone(), Some(field));
        self.enclosing.pop();
        let told = self.errors.len() > errors || self.notes.len() > notes;
        if told && inner.is_layer() {
            let name = self.name_in(range);
            let named = |d: &mut Diagnostic| d.layer = d.layer.take().or(name.clone());
            self.errors[errors..].iter_mut().for_each(named);
            self.notes[notes..].iter_mut().for_each(named);
        }
        self.insert_length(start);
        Ok(())
    }

    /// The string `name` among the fields `range`, to tell a layer by.
    fn name_in(&self, range: Range<usize>) -> Option<String> {
        let mut fields = self.tree.fields[range].iter();
        let is_name = |f: &&Field| f.name.of(self.text) == b"name" && f.kind == text::Kind::String;
        let field = fields.find(is_name)?;
        Some(wire::to_utf8(&text::unquote(field.token.of(self.text))).into_owned())
    }

    /// Puts the length of what was written since `start` before it. Most lengths take the
    /// one byte that is kept free for them there.
    fn insert_length(&mut self, start: usize) {
        let mut length = [0; 10];
        let end = self.out.len();
        let mut rest = &mut length[..];
        encode_varint((end - start - 1) as u64, &mut rest);
        let taken = 10 - rest.len();
        self.out.extend_from_slice(&length[1..taken]);
        self.out.copy_within(start + 1..end, start + taken);
        self.out[start..start + taken].copy_from_slice(&length[..taken]);
    }

    fn scalar(&mut self, def: &FieldType, field: &Field) -> Result1<()> {
        let start = self.out.len();
        encode_key(def.number, def.kind.wire_type(), &mut self.out);
        let result = self.scalar_value(def, field);
        if result.is_err() {
            self.out.truncate(start);
        }
        result
    }

    fn scalar_value(&mut self, def: &FieldType, field: &Field) -> Result1<()> {
        match def.kind {
            ValueType::Int32 => {
                let n = self.signed(def, field, i32::MAX as u64)?;
                encode_varint(n as u64, &mut self.out);
            }
            ValueType::Int64 => {
                let n = self.signed(def, field, i64::MAX as u64)?;
                encode_varint(n as u64, &mut self.out);
            }
            ValueType::Uint32 => {
                let n = self.unsigned(def, field, u32::MAX.into())?;
                encode_varint(n, &mut self.out);
            }
            ValueType::Bool => {
                let b = self.boolean(def, field)?;
                encode_varint(b.into(), &mut self.out);
            }
            ValueType::Enum(index) => {
                let n = self.enumeration(def, self.schema.enum_at(index), field)?;
                encode_varint(n as i64 as u64, &mut self.out);
            }
            ValueType::Float => {
                let x = self.number(def, field)? as f32;
                self.out.extend_from_slice(&x.to_le_bytes());
            }
            ValueType::Double => {
                let x = self.number(def, field)?;
                self.out.extend_from_slice(&x.to_le_bytes());
            }
            ValueType::String | ValueType::Bytes => self.string(def, field)?,
            ValueType::Message(_) => unreachable!("messages are no scalars"),
        }
        Ok(())
    }

    fn string(&mut self, def: &FieldType, field: &Field) -> Result1<()> {
        if field.kind != text::Kind::String {
            return Err(self.expected(def, field));
        }
        let bytes = text::unquote(field.token.of(self.text));
        match def.kind {
            ValueType::String => self.put(wire::to_utf8(&bytes).as_bytes()),
            _ => self.put(&bytes),
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) {
        encode_varint(bytes.len() as u64, &mut self.out);
        self.out.extend_from_slice(bytes);
    }

    fn unsigned(&self, def: &FieldType, field: &Field, max: u64) -> Result1<u64> {
        if field.minus.is_some() {
            return Err(self.expected(def, field));
        }
        self.magnitude(def, field, max)
    }

    fn signed(&self, def: &FieldType, field: &Field, max: u64) -> Result1<i64> {
        match field.minus {
            None => Ok(self.magnitude(def, field, max)? as i64),
            Some(_) => Ok((self.magnitude(def, field, max + 1)? as i64).wrapping_neg()),
        }
    }

    fn magnitude(&self, def: &FieldType, field: &Field, max: u64) -> Result1<u64> {
        if field.kind != text::Kind::Integer {
            return Err(self.expected(def, field));
        }
        match integer(field.token.of(self.text)) {
            Some(n) if n <= max => Ok(n),
            _ => Err(self.error_at(
                field.token,
                format!(
                    "`{}` is out of range: at most {max} is possible{}",
                    def.name,
                    if field.minus.is_some() {
                        " after the minus"
                    } else {
                        ""
                    }
                ),
            )),
        }
    }

    /// Caffe reads numbers in double precision and then rounds.
    fn number(&self, def: &FieldType, field: &Field) -> Result1<f64> {
        let token = field.token.of(self.text);
        let magnitude = match field.kind {
            text::Kind::Integer if token.len() > 1 && token[0] == b'0' => {
                let message = format!("`{}` takes a decimal number", def.name);
                return Err(self.error_at(field.token, message));
            }
            text::Kind::Integer | text::Kind::Float => float(token),
            text::Kind::Word => match token.to_ascii_lowercase().as_slice() {
                b"inf" | b"infinity" => f64::INFINITY,
                b"nan" => f64::NAN,
                _ => return Err(self.expected(def, field)),
            },
            _ => return Err(self.expected(def, field)),
        };
        Ok(match field.minus {
            Some(_) => -magnitude,
            None => magnitude,
        })
    }

    fn boolean(&self, def: &FieldType, field: &Field) -> Result1<bool> {
        match (field.kind, field.token.of(self.text)) {
            _ if field.minus.is_some() => Err(self.expected(def, field)),
            (text::Kind::Word, b"true" | b"True" | b"t") => Ok(true),
            (text::Kind::Word, b"false" | b"False" | b"f") => Ok(false),
            (text::Kind::Integer, _) => Ok(self.magnitude(def, field, 1)? == 1),
            _ => Err(self.expected(def, field)),
        }
    }

    fn enumeration(&self, def: &FieldType, ty: &EnumType, field: &Field) -> Result1<i32> {
        let token = String::from_utf8_lossy(field.token.of(self.text));
        let number = match field.kind {
            text::Kind::Word if field.minus.is_none() => ty.number_of(&token),
            text::Kind::Integer => {
                let n = self.signed(def, field, i32::MAX as u64)? as i32;
                ty.name_of(n).map(|_| n)
            }
            _ => return Err(self.expected(def, field)),
        };
        number.ok_or_else(|| self.unknown_value(def, ty, field, &token))
    }

    fn unknown_value(
        &self,
        def: &FieldType,
        ty: &EnumType,
        field: &Field,
        value: &str,
    ) -> Diagnostic {
        let minus = if field.minus.is_some() { "-" } else { "" };
        let d = self.error(
            field.value_start(),
            format!("`{}` has no value `{minus}{value}`", def.name),
        );
        match did_you_mean(value, ty.names()) {
            Some(near) => d.help(format!("did you mean {near}?")),
            None => {
                let names: Vec<&str> = ty.bvlc_names().collect();
                d.help(format!("one of {}", names.join(", ")))
            }
        }
    }

    fn expected(&self, def: &FieldType, field: &Field) -> Diagnostic {
        let found = match field.kind {
            text::Kind::Message => "a message".into(),
            text::Kind::String => "a string".into(),
            _ => {
                let value = Extent {
                    start: field.value_start(),
                    end: field.token.end,
                };
                format!("`{}`", String::from_utf8_lossy(value.of(self.text)))
            }
        };
        self.error(
            field.value_start(),
            format!("`{}` is {}, not {found}", def.name, def.kind.described()),
        )
    }

    fn span(&self, extent: Extent) -> Span {
        Span {
            file: self.file,
            start: extent.start,
            end: extent.end,
        }
    }

    fn error_at(&self, extent: Extent, message: String) -> Diagnostic {
        Diagnostic::invalid(message).at(self.span(extent))
    }

    fn error(&self, start: u32, message: String) -> Diagnostic {
        self.error_at(Extent { start, end: start }, message)
    }
}

/// The outcome for one field.
type Result1<T> = std::result::Result<T, Diagnostic>;

/// The value of a decimal, octal or hexadecimal token, if it fits.
fn integer(token: &[u8]) -> Option<u64> {
    let token = std::str::from_utf8(token).ok()?;
    let hex = token.strip_prefix("0x").or(token.strip_prefix("0X"));
    match (hex, token.strip_prefix('0')) {
        (Some(digits), _) => u64::from_str_radix(digits, 16).ok(),
        (None, Some("")) => Some(0),
        (None, Some(digits)) => u64::from_str_radix(digits, 8).ok(),
        (None, None) => token.parse().ok(),
    }
}

/// The value of a decimal or float token; infinite where it is too large.
fn float(token: &[u8]) -> f64 {
    let token = std::str::from_utf8(token).expect("tokens of numbers are ASCII");
    let digits = token.trim_end_matches(['f', 'F']);
    digits.parse().expect("the parser lets only numbers pass")
}

#[cfg(test)]
mod tests {
    use super::super::proto::{NetParameter, Phase};
    use super::*;

    const NET: &str = "caffe.NetParameter";

    fn net(text: &str) -> Result<Parsed<NetParameter>> {
        let mut sources = Sources::default();
        let file = sources.add("net.prototxt", text.into());
        parse_text(&sources, file, NET)
    }

    fn messages(text: &str) -> Vec<String> {
        let mut sources = Sources::default();
        let file = sources.add("net.prototxt", text.into());
        let errors = parse_text::<NetParameter>(&sources, file, NET).unwrap_err();
        errors.0.iter().map(|d| sources.render(d)).collect()
    }

    #[test]
    fn fields_reach_their_place() {
        let parsed = net("name: 'n' state { phase: TEST } layer { name: 'c'
            convolution_param { num_output: 0x10 stride: [2, 1] weight_filler { std: .5f } } }")
        .unwrap();
        let net = parsed.message;
        assert_eq!(net.state.unwrap().phase(), Phase::Test);
        let conv = net.layer[0].convolution_param.as_ref().unwrap();
        assert_eq!((conv.num_output(), &conv.stride[..]), (16, &[2, 1][..]));
        assert_eq!(conv.weight_filler.as_ref().unwrap().std(), 0.5);
        assert!(conv.bias_term(), "a default");
    }

    #[test]
    fn what_the_schema_refuses_is_gathered_in_order() {
        assert_eq!(
            messages("name: 'n'\nnmae: 'x'\nname: 'y'\nlayer { phase: TSET\n top: ]"),
            [
                "net.prototxt:2:1: error: NetParameter has no field `nmae`\n  help: did you mean `name`?",
                "net.prototxt:3:1: error: `name` is set twice\nnet.prototxt:1:1: note: first set here",
                "net.prototxt:4:16: error: `phase` has no value `TSET`\n  help: did you mean TEST?",
                "net.prototxt:5:7: error: expected a value, found `]`",
            ]
        );
        assert_eq!(
            messages("layer { clip_param { min: 1 } name: 'c' }"),
            ["net.prototxt:1:9: error: layer `c`: ClipParameter needs `max`"]
        );
        assert_eq!(
            messages("layer { lrn_param { k: 1 layer { } } }"),
            [
                "net.prototxt:1:26: error: LRNParameter has no field `layer`\n  help: it is a field of NetParameter: is a `}` missing before it?"
            ]
        );
    }

    #[test]
    fn unknown_fields_may_be_left_out() {
        let text = "layer { name: 'c' warp_param { speed: [9, 10] layer { type: 7 } } type: 'ReLU' }\nwarps: 1";
        let mut sources = Sources::default();
        let file = sources.add("net", text.into());
        let read = |allow_unknown| {
            let reading = Reading {
                allow_unknown,
                ..Reading::default()
            };
            read_text::<NetParameter>(&sources, file, "caffe.NetParameter", reading)
        };
        let parsed = read(true).unwrap();
        let notes = parsed.notes.iter().map(|n| sources.render_note(n));
        assert_eq!(
            notes.collect::<Vec<_>>(),
            [
                "net:1:19: note: layer `c`: LayerParameter has no field `warp_param`: left out",
                "net:2:1: note: NetParameter has no field `warps`: left out",
            ]
        );
        let layer = &parsed.message.layer[0];
        assert_eq!((layer.name(), layer.r#type()), ("c", "ReLU"));
        assert_eq!(read(false).unwrap_err().0.len(), 2);
    }

    #[test]
    fn values_out_of_range_are_refused() {
        for (value, ok) in [("-2147483648", true), ("2147483648", false), ("1.", false)] {
            assert_eq!(net(&format!("input_dim: {value}")).is_ok(), ok, "{value}");
        }
        for (value, ok) in [("true", true), ("2", false), ("TRUE", false), ("01", true)] {
            assert_eq!(net(&format!("debug_info: {value}")).is_ok(), ok, "{value}");
        }
    }
}
