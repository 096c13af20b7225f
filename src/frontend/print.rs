//! Messages → canonical text format, driven by the schema.

use super::schema::{FieldType, MessageType, Schema, ValueType};
use super::wire::{self, Payload};

/// The canonical text of a message of the type `name` (with package), byte for byte
/// as protobuf's `TextFormat::Print`.
pub fn print_text<M: prost::Message>(message: &M, name: &str) -> String {
    print_wire(&message.encode_to_vec(), name)
}

/// The same from wire format, up to where it is well formed; fields that the schema
/// does not have are left out.
pub fn print_wire(wire: &[u8], name: &str) -> String {
    let mut out = String::with_capacity(wire.len() * 3);
    print_message(wire, Schema::caffe().message(name), 0, &mut out);
    out
}

fn print_message(bytes: &[u8], ty: &MessageType, depth: usize, out: &mut String) {
    let mut fields: Vec<(usize, Payload)> = Vec::new();
    for record in wire::records(bytes).map_while(|r| r.ok()) {
        let known = ty.index_of(record.number);
        if let Some(index) = known.filter(|&i| ty.fields[i].fits(record.payload)) {
            fields.push((index, record.payload));
        }
    }
    fields.sort_by_key(|(index, _)| *index);
    for (index, payload) in fields {
        print_field(&ty.fields[index], payload, depth, out);
    }
}

fn print_field(def: &FieldType, payload: Payload, depth: usize, out: &mut String) {
    let line = |value: &str, out: &mut String| {
        let indent = 2 * depth;
        *out += &format!("{:indent$}{}{value}\n", "", def.name);
    };
    match (def.kind, payload) {
        (ValueType::Message(index), Payload::Bytes(bytes)) => {
            line(" {", out);
            let ty = Schema::caffe().message_at(index);
            print_message(bytes, ty, depth + 1, out);
            *out += &format!("{:indent$}}}\n", "", indent = 2 * depth);
        }
        (ValueType::String, Payload::Bytes(bytes)) => {
            line(&format!(": \"{}\"", quoted(&wire::from_utf8(bytes))), out);
        }
        (ValueType::Bytes, Payload::Bytes(bytes)) => {
            line(&format!(": \"{}\"", quoted(bytes)), out);
        }
        (kind, Payload::Bytes(packed)) => {
            for value in wire::unpack(packed, kind.wire_type()).map_while(|r| r.ok()) {
                line(&format!(": {}", scalar_text(kind, value)), out);
            }
        }
        (kind, value) => line(&format!(": {}", scalar_text(kind, value)), out),
    }
}

fn scalar_text(kind: ValueType, value: Payload) -> String {
    match (kind, value) {
        (ValueType::Float, Payload::Fixed32(bits)) => {
            let x = f32::from_bits(bits);
            // protobuf trusts no short form of a denormal.
            let exact = |text: &str| !x.is_subnormal() && text.parse() == Ok(x);
            shortest(x.into(), 6, 9, exact)
        }
        (ValueType::Double, Payload::Fixed64(bits)) => {
            let x = f64::from_bits(bits);
            shortest(x, 15, 17, |text| text.parse() == Ok(x))
        }
        (ValueType::Bool, Payload::Varint(n)) => (n != 0).to_string(),
        (ValueType::Uint32, Payload::Varint(n)) => (n as u32).to_string(),
        (ValueType::Int32, Payload::Varint(n)) => (n as i32).to_string(),
        (ValueType::Enum(index), Payload::Varint(n)) => {
            let n = n as i32;
            let name = Schema::caffe().enum_at(index).name_of(n);
            name.map_or_else(|| n.to_string(), str::to_string)
        }
        (_, Payload::Varint(n)) => (n as i64).to_string(),
        (kind, other) => unreachable!("{kind:?} never fits {other:?}"),
    }
}

/// `x` with `few` digits if `same` says they tell it exactly, otherwise with `many`.
fn shortest(x: f64, few: usize, many: usize, same: impl Fn(&str) -> bool) -> String {
    if x.is_nan() {
        return "nan".into();
    }
    if x.is_infinite() {
        return if x > 0.0 { "inf" } else { "-inf" }.into();
    }
    let text = general(x, few);
    if same(&text) { text } else { general(x, many) }
}

/// C's `%.{digits}g`.
fn general(x: f64, digits: usize) -> String {
    let scientific = format!("{x:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').expect("the e of {:e}");
    let exponent: i32 = exponent.parse().expect("the exponent of {:e}");
    let trim = |text: &str| match text.contains('.') {
        true => text.trim_end_matches('0').trim_end_matches('.').to_string(),
        false => text.to_string(),
    };
    if exponent < -4 || exponent >= digits as i32 {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trim(mantissa), exponent.abs());
    }
    trim(&format!("{x:.*}", (digits as i32 - 1 - exponent) as usize))
}

/// A string's bytes with C escapes; what is not ASCII in octal.
fn quoted(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len());
    for &byte in bytes {
        match byte {
            b'\n' => out += "\\n",
            b'\r' => out += "\\r",
            b'\t' => out += "\\t",
            b'"' | b'\'' | b'\\' => out.extend(['\\', byte as char]),
            b' '..=b'~' => out.push(byte as char),
            _ => out += &format!("\\{byte:03o}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::Reading;
    use super::super::bind::bind_text;
    use super::super::proto::NetParameter;
    use super::*;
    use crate::diag::Sources;
    use prost::Message as _;

    const NET: &str = "caffe.NetParameter";

    fn net(text: &str) -> Vec<u8> {
        let mut sources = Sources::default();
        let file = sources.add("net", text.into());
        let bound = bind_text(&sources, file, NET, Reading::default());
        bound.unwrap().wire
    }

    fn printed(wire: &[u8]) -> String {
        print_text(&NetParameter::decode(wire).unwrap(), NET)
    }

    #[test]
    fn printing_is_canonical() {
        let text = "layer { loss_weight: [1e-7, .1, 123456.789, 1e10, -0., nan] name: \"it's\\001é\" } name: 'n'";
        let printed = printed(&net(text));
        assert_eq!(
            printed,
            "name: \"n\"\nlayer {\n  name: \"it\\'s\\001\\303\\251\"\n  loss_weight: 1e-07\n  loss_weight: 0.1\n  \
             loss_weight: 123456.789\n  loss_weight: 1e+10\n  loss_weight: -0\n  loss_weight: nan\n}\n"
        );
        assert_eq!(print_wire(&net(&printed), NET), printed);
    }

    #[test]
    fn bytes_that_are_no_text_survive() {
        let wire = net("name: '\\377a\\303'");
        assert_eq!(printed(&wire), "name: \"\\377a\\303\"\n");
    }
}
