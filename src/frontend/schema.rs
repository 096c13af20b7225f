//! The message types of `proto/caffe.proto`, as data: what the binding of text, the
//! printing and the walks over binary files are driven by.

use prost::encoding::WireType;

use super::wire::Payload;

/// Message and enum types, by index; messages by name, too.
pub struct Schema {
    messages: &'static [MessageType],
    enums: &'static [EnumType],
}

pub struct MessageType {
    /// With package, such as `caffe.NetParameter`.
    pub name: &'static str,
    /// In the order of their numbers.
    pub fields: &'static [FieldType],
    /// Indices of the fields in the order of their names' lengths, and of the names among
    /// those of one length: most comparisons are then of numbers.
    by_name: &'static [usize],
}

pub struct FieldType {
    pub name: &'static str,
    pub number: u32,
    cardinality: Cardinality,
    pub kind: ValueType,
    /// The fork of Caffe that has the field, if BVLC's has not.
    pub fork: Option<&'static str>,
    /// Has no influence on what is computed in phase TEST.
    pub no_effect: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Cardinality {
    Optional,
    Required,
    Repeated,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ValueType {
    Int32,
    Int64,
    Uint32,
    Float,
    Double,
    Bool,
    String,
    Bytes,
    /// Index of the [`EnumType`].
    Enum(usize),
    /// Index of the [`MessageType`].
    Message(usize),
}

pub struct EnumType {
    values: &'static [EnumValue],
}

pub struct EnumValue {
    pub name: &'static str,
    pub number: i32,
    /// As [`FieldType::fork`].
    pub fork: Option<&'static str>,
}

/// What `build.rs` makes of `proto/caffe.proto`: messages and enums in the order of their
/// names.
mod tables {
    use super::{Cardinality, EnumType, EnumValue, FieldType, MessageType, ValueType};

    include!(concat!(env!("OUT_DIR"), "/schema.rs"));
}

static SCHEMA: Schema = Schema {
    messages: tables::MESSAGES,
    enums: tables::ENUMS,
};

impl Schema {
    /// That of `proto/caffe.proto`.
    pub fn caffe() -> &'static Schema {
        &SCHEMA
    }

    /// The message type called `name` with its package, which must exist.
    pub fn message(&self, name: &str) -> &MessageType {
        &self.messages[self.index(name)]
    }

    /// Its index.
    pub fn index(&self, name: &str) -> usize {
        let found = self.messages.binary_search_by_key(&name, |m| m.name);
        found.expect("a message type of caffe.proto")
    }

    /// The message type that [`ValueType::Message`] names.
    pub fn message_at(&self, index: usize) -> &MessageType {
        &self.messages[index]
    }

    /// The enum type that [`ValueType::Enum`] names.
    pub fn enum_at(&self, index: usize) -> &EnumType {
        &self.enums[index]
    }

    /// The type of a field's value, if that is a message.
    pub fn message_of(&self, field: &FieldType) -> Option<&MessageType> {
        match field.kind {
            ValueType::Message(index) => Some(&self.messages[index]),
            _ => None,
        }
    }
}

impl MessageType {
    pub fn field(&self, name: &str) -> Option<&FieldType> {
        self.slot(name.as_bytes()).map(|i| &self.fields[i])
    }

    /// Index in `fields` of the field called `name`.
    pub fn slot(&self, name: &[u8]) -> Option<usize> {
        let of = |&slot: &usize| self.fields[slot].name.as_bytes();
        let order = |slot: &usize| {
            of(slot)
                .len()
                .cmp(&name.len())
                .then_with(|| of(slot).cmp(name))
        };
        let found = self.by_name.binary_search_by(order).ok()?;
        Some(self.by_name[found])
    }

    pub fn numbered(&self, number: u32) -> Option<&FieldType> {
        self.index_of(number).map(|i| &self.fields[i])
    }

    /// Index in `fields` of the field with this number.
    pub fn index_of(&self, number: u32) -> Option<usize> {
        self.fields.binary_search_by_key(&number, |f| f.number).ok()
    }

    /// Whether errors are told with the `name` in it.
    pub fn is_layer(&self) -> bool {
        matches!(
            self.short_name(),
            "LayerParameter" | "V1LayerParameter" | "V0LayerParameter"
        )
    }

    /// Without the package.
    pub fn short_name(&self) -> &str {
        self.name.rsplit('.').next().unwrap_or(self.name)
    }
}

impl FieldType {
    pub fn repeated(&self) -> bool {
        self.cardinality == Cardinality::Repeated
    }

    pub fn required(&self) -> bool {
        self.cardinality == Cardinality::Required
    }

    /// Whether the payload is one that the field may have, packed or not.
    pub fn fits(&self, payload: Payload) -> bool {
        let own = match self.kind.wire_type() {
            WireType::Varint => matches!(payload, Payload::Varint(_)),
            WireType::ThirtyTwoBit => matches!(payload, Payload::Fixed32(_)),
            WireType::SixtyFourBit => matches!(payload, Payload::Fixed64(_)),
            _ => matches!(payload, Payload::Bytes(_)),
        };
        own || self.repeated() && matches!(payload, Payload::Bytes(_))
    }
}

impl ValueType {
    pub fn wire_type(self) -> WireType {
        match self {
            ValueType::Float => WireType::ThirtyTwoBit,
            ValueType::Double => WireType::SixtyFourBit,
            ValueType::String | ValueType::Bytes | ValueType::Message(_) => {
                WireType::LengthDelimited
            }
            _ => WireType::Varint,
        }
    }

    pub fn described(self) -> &'static str {
        match self {
            ValueType::Int32 | ValueType::Int64 => "an integer",
            ValueType::Uint32 => "an integer, zero or more",
            ValueType::Float | ValueType::Double => "a number",
            ValueType::Bool => "true or false",
            ValueType::String | ValueType::Bytes => "a string in quotes",
            ValueType::Enum(_) => "one of its names",
            ValueType::Message(_) => "a message in braces",
        }
    }
}

impl EnumType {
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.values.iter().map(|value| value.name)
    }

    /// Names that BVLC's Caffe knows.
    pub fn bvlc_names(&self) -> impl Iterator<Item = &str> {
        let bvlc = self.values.iter().filter(|value| value.fork.is_none());
        bvlc.map(|value| value.name)
    }

    pub fn name_of(&self, number: i32) -> Option<&str> {
        self.numbered(number).map(|value| value.name)
    }

    pub fn number_of(&self, name: &str) -> Option<i32> {
        self.named(name).map(|value| value.number)
    }

    pub fn numbered(&self, number: i32) -> Option<&EnumValue> {
        self.values.iter().find(|value| value.number == number)
    }

    pub fn named(&self, name: &str) -> Option<&EnumValue> {
        self.values.iter().find(|value| value.name == name)
    }
}
