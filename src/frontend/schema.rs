//! The message types of `proto/caffe.proto`, as data: what the binding of text, the
//! printing and the walks over binary files are driven by.

use std::collections::HashMap;
use std::sync::LazyLock;

use prost::encoding::WireType;
use prost_reflect::{
    Cardinality, DescriptorPool, DynamicMessage, Kind as ProtoKind, MessageDescriptor, Value,
};

use super::wire::Payload;

/// Message and enum types, by index and by name.
pub struct Schema {
    messages: Vec<MessageType>,
    enums: Vec<EnumType>,
    by_name: HashMap<String, usize>,
}

pub struct MessageType {
    /// With package, such as `caffe.NetParameter`.
    pub name: String,
    /// In the order of their numbers.
    pub fields: Vec<FieldType>,
    by_name: HashMap<String, usize>,
}

pub struct FieldType {
    pub name: String,
    pub number: u32,
    pub cardinality: Cardinality,
    pub kind: ValueType,
    /// The fork of Caffe that has the field, if BVLC's has not.
    pub fork: Option<String>,
    /// Has no influence on what is computed in phase TEST.
    pub no_effect: bool,
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
    values: Vec<EnumValue>,
}

pub struct EnumValue {
    pub name: String,
    pub number: i32,
    /// As [`FieldType::fork`].
    pub fork: Option<String>,
}

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let bytes = include_bytes!(concat!(env!("OUT_DIR"), "/caffe.descriptor"));
    Schema::new(&DescriptorPool::decode(bytes.as_slice()).expect("build.rs wrote the descriptor"))
});

impl Schema {
    /// That of `proto/caffe.proto`.
    pub fn caffe() -> &'static Schema {
        &SCHEMA
    }

    fn new(pool: &DescriptorPool) -> Self {
        let indices = |names: Vec<&str>| -> HashMap<String, usize> {
            let named = names.into_iter().enumerate();
            named.map(|(i, name)| (name.to_string(), i)).collect()
        };
        let ours = |package: &str| package == "caffe";
        let messages: Vec<_> = pool
            .all_messages()
            .filter(|m| ours(m.package_name()))
            .collect();
        let enums: Vec<_> = pool
            .all_enums()
            .filter(|e| ours(e.package_name()))
            .collect();
        let by_name = indices(messages.iter().map(MessageDescriptor::full_name).collect());
        let enum_by_name = indices(enums.iter().map(|e| e.full_name()).collect());
        let message = |m: &MessageDescriptor| {
            let mut fields: Vec<_> = m.fields().collect();
            fields.sort_by_key(|f| f.number());
            let field = |f: &prost_reflect::FieldDescriptor| FieldType {
                name: f.name().to_string(),
                number: f.number(),
                cardinality: f.cardinality(),
                kind: value_type(&f.kind(), &by_name, &enum_by_name),
                fork: text_option(pool, "caffe.fork", &f.options()),
                no_effect: option(pool, "caffe.no_effect", &f.options())
                    .is_some_and(|value| value.as_bool() == Some(true)),
            };
            MessageType {
                name: m.full_name().to_string(),
                by_name: indices(fields.iter().map(|f| f.name()).collect()),
                fields: fields.iter().map(field).collect(),
            }
        };
        Schema {
            messages: messages.iter().map(message).collect(),
            enums: enums
                .iter()
                .map(|e| EnumType {
                    values: e
                        .values()
                        .map(|v| EnumValue {
                            name: v.name().to_string(),
                            number: v.number(),
                            fork: text_option(pool, "caffe.fork_value", &v.options()),
                        })
                        .collect(),
                })
                .collect(),
            by_name,
        }
    }

    /// The message type called `name` with its package, which must exist.
    pub fn message(&self, name: &str) -> &MessageType {
        &self.messages[self.index(name)]
    }

    /// Its index.
    pub fn index(&self, name: &str) -> usize {
        self.by_name[name]
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

/// What the option called `name` says of a field or value, if it says anything.
fn option(pool: &DescriptorPool, name: &str, options: &DynamicMessage) -> Option<Value> {
    let option = pool.get_extension_by_name(name)?;
    let given = options.has_extension(&option);
    given.then(|| options.get_extension(&option).into_owned())
}

fn text_option(pool: &DescriptorPool, name: &str, options: &DynamicMessage) -> Option<String> {
    let value = option(pool, name, options)?;
    value.as_str().map(str::to_string)
}

fn value_type(
    kind: &ProtoKind,
    messages: &HashMap<String, usize>,
    enums: &HashMap<String, usize>,
) -> ValueType {
    match kind {
        ProtoKind::Int32 => ValueType::Int32,
        ProtoKind::Int64 => ValueType::Int64,
        ProtoKind::Uint32 => ValueType::Uint32,
        ProtoKind::Float => ValueType::Float,
        ProtoKind::Double => ValueType::Double,
        ProtoKind::Bool => ValueType::Bool,
        ProtoKind::String => ValueType::String,
        ProtoKind::Bytes => ValueType::Bytes,
        ProtoKind::Enum(e) => ValueType::Enum(enums[e.full_name()]),
        ProtoKind::Message(m) => ValueType::Message(messages[m.full_name()]),
        other => unreachable!("caffe.proto has no {other:?}"),
    }
}

impl MessageType {
    pub fn field(&self, name: &str) -> Option<&FieldType> {
        self.slot(name).map(|i| &self.fields[i])
    }

    /// Index in `fields` of the field called `name`.
    pub fn slot(&self, name: &str) -> Option<usize> {
        self.by_name.get(name).copied()
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
        self.name.rsplit('.').next().unwrap_or(&self.name)
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
        self.values.iter().map(|value| value.name.as_str())
    }

    /// Names that BVLC's Caffe knows.
    pub fn bvlc_names(&self) -> impl Iterator<Item = &str> {
        let bvlc = self.values.iter().filter(|value| value.fork.is_none());
        bvlc.map(|value| value.name.as_str())
    }

    pub fn name_of(&self, number: i32) -> Option<&str> {
        self.numbered(number).map(|value| value.name.as_str())
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
