//! Binary files: caffemodels, nets in binary form, mean images.
//!
//! Weights are walked in the mapped file: a blob's numbers stay where they are, as a
//! byte range that [`BlobData`] refers to, and are never part of a message. Layers of
//! all three formats (V2 `layer`, V1 `layers`, V0 inside it) come out alike, in file
//! order. Every length is checked; a broken file gives a message with layer, blob and
//! byte. Start reading at [`WeightsFile::open`].

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read as _};
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use prost::Message as _;
use prost::encoding::{WireType, encode_key, encode_varint};

use super::Reading;
use super::hdf5;
use super::numbers::Encoding;
use super::proto::{NetParameter, v1_layer_parameter::LayerType};
use super::schema::{FieldType, MessageType, Schema, ValueType};
use super::text::foreign;
use super::upgrade::v1_type_name;
use super::wire::{self, Payload, WireError};
use crate::diag::{Diagnostic, Errors, Result};

/// The trained parameters of a caffemodel.
#[derive(Clone, Debug)]
pub struct WeightsFile {
    /// In file order; names may repeat or be empty.
    pub layers: Vec<WeightLayer>,
    /// What several layers share is there once, at its owner, as Caffe writes HDF5.
    pub owners_only: bool,
}

#[derive(Clone, Debug)]
pub struct WeightLayer {
    pub name: String,
    /// As in the current format, whatever the file's; empty if it does not say.
    pub kind: String,
    /// By index; none where the file leaves one out, which only `owners_only` may.
    pub blobs: Vec<Option<WeightBlob>>,
}

/// One array of parameters. Whether the extents agree with the count of numbers is
/// not checked here.
#[derive(Clone, Debug)]
pub struct WeightBlob {
    pub shape: Vec<i64>,
    /// The shape was given as num, channels, height and width, or, in a file of C3D, with
    /// length before height, so ones may lead it.
    pub legacy: bool,
    pub data: BlobData,
}

/// Numbers of a blob; cheap to clone.
#[derive(Clone)]
pub struct BlobData(Data);

#[derive(Clone)]
enum Data {
    /// Somewhere in the file.
    InFile {
        file: Arc<Contents>,
        range: Range<usize>,
        encoding: Encoding,
    },
    Owned(Arc<[f32]>),
}

impl BlobData {
    pub(super) fn owned(values: Vec<f32>) -> Self {
        BlobData(Data::Owned(values.into()))
    }

    /// The bytes `range` of the file.
    pub(super) fn in_file(file: &Arc<Contents>, range: Range<usize>, encoding: Encoding) -> Self {
        BlobData(Data::InFile {
            file: file.clone(),
            range,
            encoding,
        })
    }

    /// How many numbers there are.
    pub fn len(&self) -> usize {
        match &self.0 {
            Data::InFile {
                range, encoding, ..
            } => range.len() / encoding.size(),
            Data::Owned(values) => values.len(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The numbers: in place where the file has them as aligned f32, otherwise
    /// converted.
    pub fn floats(&self) -> Cow<'_, [f32]> {
        self.window(0..self.len())
    }

    /// Some of the numbers, likewise.
    pub fn window(&self, wanted: Range<usize>) -> Cow<'_, [f32]> {
        match &self.0 {
            Data::Owned(values) => Cow::Borrowed(&values[wanted]),
            Data::InFile {
                file,
                range,
                encoding,
            } => {
                let size = encoding.size();
                let bytes = &file.bytes()[range.clone()];
                let bytes = &bytes[wanted.start * size..wanted.end * size];
                let in_place = encoding.in_place(bytes);
                in_place.map_or_else(|| Cow::Owned(encoding.convert(bytes)), Cow::Borrowed)
            }
        }
    }

    /// Lets the system take back the memory of these numbers, if they are in a mapped file.
    pub fn release(&self, numbers: Range<usize>) {
        if let Data::InFile {
            file,
            range,
            encoding,
        } = &self.0
        {
            let size = encoding.size();
            file.release(range.start + numbers.start * size..range.start + numbers.end * size);
        }
    }
}

impl std::fmt::Debug for BlobData {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlobData({} numbers)", self.len())
    }
}

// ---------------------------------------------------------------- files

/// Most bytes of weights from a pipe or device, which may never end.
const MAX_PIPED: u64 = 1 << 31;

/// What a file holds, mapped if it can be.
pub(super) enum Contents {
    Mapped(memmap2::Mmap),
    Read(Vec<u8>),
}

impl Contents {
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let about = file.metadata()?;
        if !about.is_file() || about.len() == 0 {
            let mut bytes = Vec::new();
            file.take(MAX_PIPED + 1).read_to_end(&mut bytes)?;
            if bytes.len() as u64 > MAX_PIPED {
                let message = "more than 2 GiB from what is not a file";
                return Err(io::Error::new(io::ErrorKind::InvalidData, message));
            }
            return Ok(Contents::Read(bytes));
        }
        // SAFETY: the map is only read. Another process that cuts the file short
        // while it is mapped ends ours with SIGBUS; no way of mapping avoids that.
        let map = unsafe { memmap2::Mmap::map(&file)? };
        Ok(Contents::Mapped(map))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        match self {
            Contents::Mapped(map) => map,
            Contents::Read(bytes) => bytes,
        }
    }

    /// Forgets bytes of a mapped file until somebody asks for them again.
    fn release(&self, range: Range<usize>) {
        #[cfg(unix)]
        if let Contents::Mapped(map) = self {
            let advice = memmap2::UncheckedAdvice::DontNeed;
            // Refused, they stay.
            // SAFETY: the map is only read: pages that are dropped are those of the file,
            // and come back from it.
            let _ = unsafe { map.unchecked_advise_range(advice, range.start, range.len()) };
        }
    }
}

impl WeightsFile {
    /// Maps the caffemodel at `path` and finds its layers and blobs. An empty file
    /// has none, as in Caffe. `layer` and `layers` may stand in one file only if
    /// `allow_mixed`.
    ///
    /// Errors: `Io`; `Invalid` if it is not a caffemodel or a broken one;
    /// `Unsupported` for what Caffe never writes into HDF5.
    pub fn open(path: &Path, allow_mixed: bool) -> Result<Self> {
        let contents = Contents::open(path).map_err(|e| Diagnostic::io(path, &e))?;
        Self::read(&path.display().to_string(), contents, allow_mixed)
    }

    /// The same from memory; `name` is for messages.
    pub fn from_bytes(name: &str, bytes: Vec<u8>) -> Result<Self> {
        Self::read(name, Contents::Read(bytes), false)
    }

    fn read(name: &str, contents: Contents, allow_mixed: bool) -> Result<Self> {
        let file = Arc::new(contents);
        if file.bytes().starts_with(hdf5::SIGNATURE) {
            let layers = hdf5::read_weights(name, &file)?;
            return Ok(WeightsFile {
                layers,
                owners_only: true,
            });
        }
        let walk = Walk { name, file };
        walk.check_is_binary("weights")?;
        walk.net(allow_mixed)
    }
}

/// Reads one array, such as a mean image (`mean.binaryproto`). `name` is for
/// messages.
pub fn read_blob(name: &str, bytes: Vec<u8>) -> Result<WeightBlob> {
    let walk = Walk {
        name,
        file: Arc::new(Contents::Read(bytes)),
    };
    walk.check_is_binary("an array")?;
    let blob = walk.blob(walk.file.bytes(), None, 0)?;
    match blob.data.is_empty() {
        true => Err(walk.error("the array holds no numbers", 0).into()),
        false => Ok(blob),
    }
}

/// Whether the bytes are text rather than binary protobuf; that of an empty file is.
/// No binary message of Caffe starts with the key of a small letter or of `#`.
pub fn is_text(bytes: &[u8]) -> bool {
    let control = |b: &u8| b.is_ascii_control() && !b.is_ascii_whitespace() && *b != 0x0b;
    match bytes {
        [b'a'..=b'z' | b'#' | 0xff | 0xfe, ..] => true,
        _ => !bytes.iter().take(4096).any(control),
    }
}

// ---------------------------------------------------------------- walking weights

struct Walk<'a> {
    name: &'a str,
    file: Arc<Contents>,
}

impl Walk<'_> {
    fn check_is_binary(&self, wanted: &str) -> Result<()> {
        let bytes = self.file.bytes();
        let name = self.name;
        if let Some(what) = foreign(bytes) {
            return Err(Diagnostic::invalid(format!("{name}: {what}")).into());
        }
        if !bytes.is_empty() && is_text(bytes) {
            let message = format!("{name}: this is text, not {wanted} in binary form");
            let error = Diagnostic::invalid(message);
            return Err(match wanted {
                "weights" => error.help("a prototxt is the net; -w takes the .caffemodel"),
                _ => error,
            }
            .into());
        }
        Ok(())
    }

    fn net(&self, allow_mixed: bool) -> Result<WeightsFile> {
        let ty = Schema::caffe().message("caffe.NetParameter");
        let bytes = self.file.bytes();
        let mut layers = Vec::new();
        let mut formats = [false; 2];
        for record in wire::records(bytes) {
            let record = record.map_err(|e| self.broken_net(ty, e))?;
            let field = ty.numbered(record.number);
            if let (Some("name"), Payload::Varint(_)) = (field.map(|f| f.name), record.payload) {
                let why = "this is no net: a solver state or an array starts like this";
                return Err(self.error(why, 0).into());
            }
            let layer_type = field.and_then(layer_type);
            if let (Some(layer_type), Payload::Bytes(inside)) = (layer_type, record.payload) {
                let old = usize::from(layer_type.name == "caffe.V1LayerParameter");
                formats[old] = true;
                layers.push(self.layer(inside, layer_type)?);
            }
        }
        if formats == [true; 2] && !allow_mixed {
            let why = "the file has layers of the current and of an older format";
            let help = "with --allow-mixed all are taken";
            return Err(self.error(why, 0).help(help).into());
        }
        Ok(WeightsFile {
            layers,
            owners_only: false,
        })
    }

    /// A file that ends inside a layer: says in which, if its name is there.
    fn broken_net(&self, ty: &MessageType, error: WireError) -> crate::diag::Errors {
        let cut = error
            .record
            .and_then(|n| ty.numbered(n))
            .and_then(layer_type);
        let inside = &self.file.bytes()[error.offset..];
        match cut.map(|layer_type| self.layer(inside, layer_type)) {
            Some(Err(inner)) => inner,
            Some(Ok(layer)) => self
                .error("the file ends inside this layer", self.file.bytes().len())
                .layer(layer.name)
                .into(),
            None => self.error(error.why, error.offset).into(),
        }
    }

    fn layer(&self, bytes: &[u8], ty: &MessageType) -> Result<WeightLayer> {
        let mut layer = WeightLayer {
            name: String::new(),
            kind: String::new(),
            blobs: Vec::new(),
        };
        for record in wire::records(bytes) {
            let record = record.map_err(|e| {
                let blob = e.record.and_then(|n| ty.numbered(n));
                let why = match blob.is_some_and(|f| f.name == "blobs") {
                    true => format!("blob {}: {}", layer.blobs.len(), e.why),
                    false => e.why.to_string(),
                };
                self.named(&why, &bytes[e.offset..], &layer.name)
            })?;
            let field = ty.numbered(record.number).map(|f| f.name);
            match (field, record.payload) {
                (Some("name"), Payload::Bytes(name)) => {
                    layer.name = wire::to_utf8(name).into_owned()
                }
                (Some("type"), Payload::Bytes(kind)) => {
                    layer.kind = wire::to_utf8(kind).into_owned()
                }
                (Some("type"), Payload::Varint(number)) => {
                    let known = LayerType::try_from(number as i32);
                    layer.kind = known.map_or("", v1_type_name).to_string();
                }
                (Some("blobs"), Payload::Bytes(blob)) => {
                    let index = layer.blobs.len();
                    let blob = self.blob(blob, Some(&layer.name), index)?;
                    layer.blobs.push(Some(blob));
                }
                (Some("layer"), Payload::Bytes(v0)) => {
                    return self.layer(v0, Schema::caffe().message("caffe.V0LayerParameter"));
                }
                _ => {}
            }
        }
        Ok(layer)
    }

    fn blob(&self, bytes: &[u8], layer: Option<&str>, index: usize) -> Result<WeightBlob> {
        let ty = Schema::caffe().message("caffe.BlobProto");
        let wrong = |why: &str, at: &[u8]| {
            let why = match layer {
                Some(_) => format!("blob {index}: {why}"),
                None => why.to_string(),
            };
            self.named(&why, at, layer.unwrap_or_default())
        };
        let c3d = is_c3d(bytes);
        let mut shape = Vec::new();
        let mut legacy = [None; 5];
        let mut single = Gather::new(Encoding::SINGLE);
        let mut double = Gather::new(Encoding::DOUBLE);
        let mut raw_data: &[u8] = &[];
        let mut raw_type = 0;
        for record in wire::records(bytes) {
            let record = record.map_err(|e| wrong(e.why, &bytes[e.offset..]))?;
            let field = match c3d {
                true => c3d_field(record.number),
                false => ty.numbered(record.number).map(|f| f.name),
            };
            let result = match (field, record.payload) {
                (Some("shape"), Payload::Bytes(dims)) => read_dims(dims, &mut shape),
                (Some("num"), Payload::Varint(n)) => set(&mut legacy[0], n),
                (Some("channels"), Payload::Varint(n)) => set(&mut legacy[1], n),
                (Some("length"), Payload::Varint(n)) => set(&mut legacy[2], n),
                (Some("height"), Payload::Varint(n)) => set(&mut legacy[3], n),
                (Some("width"), Payload::Varint(n)) => set(&mut legacy[4], n),
                (Some("data"), payload) => single.add(self.file.bytes(), payload),
                (Some("double_data"), payload) => double.add(self.file.bytes(), payload),
                (_, Payload::Varint(n)) if record.number == RAW_DATA_TYPE => {
                    raw_type = n;
                    Ok(())
                }
                (_, Payload::Bytes(bytes)) if record.number == RAW_DATA => {
                    raw_data = bytes;
                    Ok(())
                }
                _ => Ok(()),
            };
            result.map_err(|why| wrong(why, &bytes[record.end..]))?;
        }
        let is_legacy = legacy.iter().any(Option::is_some);
        if is_legacy {
            shape = legacy.iter().map(|n| n.unwrap_or(0)).collect();
            if !c3d {
                shape.remove(2);
            }
        }
        let data = if !raw_data.is_empty() {
            let encoding = raw_encoding(raw_type).ok_or("raw_data of an unknown type");
            let mut raw = Gather::new(encoding.map_err(|why| wrong(why, raw_data))?);
            let payload = Payload::Bytes(raw_data);
            raw.add(self.file.bytes(), payload)
                .map_err(|why| wrong(why, raw_data))?;
            raw
        } else if double.is_empty() {
            single
        } else {
            double
        };
        Ok(WeightBlob {
            shape,
            legacy: is_legacy,
            data: data.finish(&self.file),
        })
    }

    /// `at` is a part of the file.
    fn named(&self, why: &str, at: &[u8], layer: &str) -> Diagnostic {
        let error = self.error(why, offset(self.file.bytes(), at));
        match layer {
            "" => error,
            name => error.layer(name),
        }
    }

    fn error(&self, why: &str, offset: usize) -> Diagnostic {
        Diagnostic::invalid(format!("{}: at byte {offset}: {why}", self.name))
    }
}

/// Whether a BlobProto has C3D's numbers: its width is a number where BVLC's Caffe has
/// the data.
fn is_c3d(blob: &[u8]) -> bool {
    let mut records = wire::records(blob).map_while(|r| r.ok());
    let fifth = records.find(|r| r.number == 5);
    fifth.is_some_and(|r| matches!(r.payload, Payload::Varint(_)))
}

/// The fields of C3D's BlobProto (facebook/C3D, C3D-v1.0, `caffe.proto`).
fn c3d_field(number: u32) -> Option<&'static str> {
    let names = ["num", "channels", "length", "height", "width", "data"];
    names.get(number.checked_sub(1)? as usize).copied()
}

/// Fields of BlobProto that NVCaffe and OpenCV have: numbers of a type of their own,
/// mostly half precision. They count before `data`.
const RAW_DATA_TYPE: u32 = 10;
const RAW_DATA: u32 = 12;

/// How `raw_data` is written (NVCaffe `caffe.proto`, `Type`).
fn raw_encoding(raw_type: u64) -> Option<Encoding> {
    Some(match raw_type {
        0 => Encoding::DOUBLE,
        1 => Encoding::SINGLE,
        2 => Encoding::HALF,
        3 => Encoding::INT,
        4 => Encoding::UINT,
        _ => return None,
    })
}

/// The message type of a net's field that holds layers.
fn layer_type(field: &FieldType) -> Option<&'static MessageType> {
    match field.name {
        "layer" | "layers" => Schema::caffe().message_of(field),
        _ => None,
    }
}

type Why = std::result::Result<(), &'static str>;

fn set(slot: &mut Option<i64>, value: u64) -> Why {
    *slot = Some(i64::from(value as i32));
    Ok(())
}

fn read_dims(bytes: &[u8], shape: &mut Vec<i64>) -> Why {
    let dim = |shape: &mut Vec<i64>, value| {
        if let Payload::Varint(n) = value {
            shape.push(n as i64);
        }
    };
    for record in wire::records(bytes) {
        match record.map_err(|e| e.why)?.payload {
            Payload::Bytes(packed) => {
                for value in wire::unpack(packed, WireType::Varint) {
                    dim(shape, value.map_err(|e| e.why)?);
                }
            }
            value => dim(shape, value),
        }
    }
    Ok(())
}

/// Where `part`, a slice of `whole`, begins in it.
fn offset(whole: &[u8], part: &[u8]) -> usize {
    part.as_ptr().addr() - whole.as_ptr().addr()
}

/// Collects a repeated number field: one packed run stays in the file, anything else
/// is copied.
struct Gather {
    encoding: Encoding,
    run: Option<Range<usize>>,
    copied: Vec<f32>,
}

impl Gather {
    fn new(encoding: Encoding) -> Self {
        Gather {
            encoding,
            run: None,
            copied: Vec::new(),
        }
    }

    fn is_empty(&self) -> bool {
        self.run.is_none() && self.copied.is_empty()
    }

    fn add(&mut self, file: &[u8], payload: Payload) -> Why {
        match payload {
            Payload::Bytes([]) => {}
            Payload::Bytes(run) if run.len() % self.encoding.size() != 0 => {
                return Err("the numbers do not fill their length");
            }
            Payload::Bytes(run) if self.is_empty() => {
                let start = offset(file, run);
                self.run = Some(start..start + run.len());
            }
            Payload::Bytes(run) => {
                self.copy_run(file);
                self.copied.extend(self.encoding.convert(run));
            }
            Payload::Fixed32(bits) if self.encoding == Encoding::SINGLE => {
                self.copy_run(file);
                self.copied.push(f32::from_bits(bits));
            }
            Payload::Fixed64(bits) if self.encoding == Encoding::DOUBLE => {
                self.copy_run(file);
                self.copied.push(f64::from_bits(bits) as f32);
            }
            // Another wire type than the field's makes it an unknown field.
            _ => {}
        }
        Ok(())
    }

    fn copy_run(&mut self, file: &[u8]) {
        if let Some(run) = self.run.take() {
            self.copied.extend(self.encoding.convert(&file[run]));
        }
    }

    fn finish(self, file: &Arc<Contents>) -> BlobData {
        match self.run {
            Some(range) => BlobData::in_file(file, range, self.encoding),
            None => BlobData::owned(self.copied),
        }
    }
}

// ---------------------------------------------------------------- nets in binary form

/// Reads a net in binary form; blobs of weights are left out. Also returns notes on
/// fields that the schema does not have. `name` is for messages.
///
/// Errors: `Invalid`, also for fields that the schema does not have, unless `reading`
/// allows them: they are mostly a fork's, whose numbers tell nothing.
pub fn read_net_binary(
    name: &str,
    bytes: &[u8],
    reading: Reading,
) -> Result<(NetParameter, Vec<Diagnostic>)> {
    read_net(name, bytes, reading, false)
}

/// The same with the blobs.
///
/// Errors: also `Unsupported`, for blobs that would lose `raw_data`.
pub fn read_net_with_blobs(
    name: &str,
    bytes: &[u8],
    reading: Reading,
) -> Result<(NetParameter, Vec<Diagnostic>)> {
    read_net(name, bytes, reading, true)
}

fn read_net(
    name: &str,
    bytes: &[u8],
    reading: Reading,
    blobs: bool,
) -> Result<(NetParameter, Vec<Diagnostic>)> {
    if let Some(what) = foreign(bytes) {
        return Err(Diagnostic::invalid(format!("{name}: {what}")).into());
    }
    let mut strip = Strip {
        name,
        whole: bytes,
        blobs,
        unknown: BTreeSet::new(),
    };
    let mut out = Vec::new();
    strip.message(
        bytes,
        Schema::caffe().message("caffe.NetParameter"),
        &mut out,
    )?;
    let raw_data = |(ty, number): &(&str, u32)| *ty == "caffe.BlobProto" && *number == RAW_DATA;
    if strip.unknown.iter().any(raw_data) {
        let message = format!("{name}: writing blobs with `raw_data` anew");
        return Err(Diagnostic::unsupported(message).into());
    }
    let net = NetParameter::decode(out.as_slice())
        .map_err(|e| Diagnostic::invalid(format!("{name}: {e}")))?;
    let unknown = strip.unknown.iter().map(|(ty, number)| {
        let message = format!("{name}: {ty} has no field {number}");
        Diagnostic::invalid(message).help("fields of forks are known by their names, in text")
    });
    match reading.allow_unknown {
        true => Ok((net, unknown.collect())),
        false => Errors::none_or(unknown.collect(), (net, Vec::new())),
    }
}

/// Copies a message, without blobs if they are not wanted, and so that prost can read
/// its strings.
struct Strip<'a> {
    name: &'a str,
    whole: &'a [u8],
    blobs: bool,
    unknown: BTreeSet<(&'static str, u32)>,
}

impl<'a> Strip<'a> {
    fn message(
        &mut self,
        bytes: &'a [u8],
        ty: &'static MessageType,
        out: &mut Vec<u8>,
    ) -> Result<()> {
        let mut missing: Vec<&FieldType> = ty.fields.iter().filter(|f| f.required()).collect();
        for record in wire::records(bytes) {
            let record = record.map_err(|e| self.error(e.why, &bytes[e.offset..]))?;
            missing.retain(|f| f.number != record.number);
            match ty
                .numbered(record.number)
                .filter(|f| f.fits(record.payload))
            {
                Some(field) => self.field(field, record.payload, out)?,
                None => {
                    self.unknown.insert((ty.name, record.number));
                }
            }
        }
        match missing.first() {
            Some(field) => {
                let why = format!("{} needs `{}`", ty.name, field.name);
                Err(self.error(&why, bytes).into())
            }
            None => Ok(()),
        }
    }

    fn field(&mut self, field: &FieldType, payload: Payload<'a>, out: &mut Vec<u8>) -> Result<()> {
        let mut put = |wire_type, value: &[u8]| {
            encode_key(field.number, wire_type, out);
            if wire_type == WireType::LengthDelimited {
                encode_varint(value.len() as u64, out);
            }
            out.extend_from_slice(value);
        };
        match (Schema::caffe().message_of(field), payload) {
            (Some(ty), Payload::Bytes(_)) if ty.name == "caffe.BlobProto" && !self.blobs => {}
            (Some(ty), Payload::Bytes(inside)) => {
                let mut inner = Vec::new();
                self.message(inside, ty, &mut inner)?;
                put(WireType::LengthDelimited, &inner);
            }
            (_, Payload::Bytes(bytes)) if field.kind == ValueType::String => {
                put(WireType::LengthDelimited, wire::to_utf8(bytes).as_bytes());
            }
            (_, Payload::Bytes(bytes)) => put(WireType::LengthDelimited, bytes),
            (_, Payload::Fixed32(bits)) => put(WireType::ThirtyTwoBit, &bits.to_le_bytes()),
            (_, Payload::Fixed64(bits)) => put(WireType::SixtyFourBit, &bits.to_le_bytes()),
            (_, Payload::Varint(value)) => {
                encode_key(field.number, WireType::Varint, out);
                encode_varint(value, out);
            }
        }
        Ok(())
    }

    fn error(&self, why: &str, at: &[u8]) -> Diagnostic {
        let offset = offset(self.whole, at);
        Diagnostic::invalid(format!("{}: at byte {offset}: {why}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::super::proto::{
        BlobProto, BlobShape, ClipParameter, LayerParameter, V0LayerParameter, V1LayerParameter,
    };
    use super::*;

    fn blob(data: &[f32]) -> BlobProto {
        BlobProto {
            shape: Some(BlobShape {
                dim: vec![data.len() as i64],
            }),
            data: data.to_vec(),
            ..Default::default()
        }
    }

    fn net() -> NetParameter {
        NetParameter {
            name: Some("n".into()),
            layer: vec![LayerParameter {
                name: Some("conv".into()),
                r#type: Some("Convolution".into()),
                blobs: vec![blob(&[1.0, 2.0, 3.0]), blob(&[4.0])],
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn released_numbers_come_back_from_the_file() {
        let values: Vec<f32> = (0..10_000).map(|i| i as f32).collect();
        let mut net = net();
        net.layer[0].blobs = vec![blob(&values)];
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), net.encode_to_vec()).unwrap();
        let weights = WeightsFile::open(file.path(), false).unwrap();
        let data = &weights.layers[0].blobs[0].as_ref().unwrap().data;
        for range in [0..values.len(), 3..5000, 7..7] {
            data.release(range);
            assert_eq!(*data.floats(), values);
        }
    }

    fn read(net: &NetParameter) -> WeightsFile {
        WeightsFile::from_bytes("w", net.encode_to_vec()).unwrap()
    }

    fn blobs(layer: &WeightLayer) -> Vec<&WeightBlob> {
        layer.blobs.iter().flatten().collect()
    }

    fn error(bytes: &[u8]) -> String {
        let errors = WeightsFile::from_bytes("w", bytes.to_vec()).unwrap_err();
        errors.to_string()
    }

    #[test]
    fn numbers_stay_in_the_file() {
        let weights = read(&net());
        let blobs = blobs(&weights.layers[0]);
        assert_eq!(weights.layers[0].kind, "Convolution");
        assert_eq!(
            (blobs[0].shape.as_slice(), blobs[0].legacy),
            (&[3][..], false)
        );
        assert_eq!(*blobs[0].data.floats(), [1.0, 2.0, 3.0]);
        assert!(matches!(blobs[1].data.0, Data::InFile { .. }));
        assert_eq!(*blobs[1].data.clone().floats(), [4.0]);
    }

    #[test]
    fn blobs_of_c3d_have_five_axes() {
        // num 2, channels 1, length 1, height 1, width 1, data, diff.
        let mut bytes = vec![8, 2, 16, 1, 24, 1, 32, 1, 40, 1, 0x32, 8];
        bytes.extend([3f32, 4f32].iter().flat_map(|x| x.to_le_bytes()));
        bytes.extend([0x3a, 4, 0, 0, 0, 0]);
        let blob = read_blob("b", bytes).unwrap();
        assert_eq!((blob.shape, blob.legacy), (vec![2, 1, 1, 1, 1], true));
        assert_eq!(*blob.data.floats(), [3.0, 4.0]);
    }

    #[test]
    fn every_alignment_reads_alike() {
        for shift in 0..4 {
            let mut net = net();
            net.name = Some("n".repeat(shift));
            assert_eq!(
                *blobs(&read(&net).layers[0])[0].data.floats(),
                [1.0, 2.0, 3.0]
            );
        }
    }

    #[test]
    fn older_forms_and_encodings() {
        let v0 = V0LayerParameter {
            name: Some("old".into()),
            r#type: Some("conv".into()),
            blobs: vec![BlobProto {
                num: Some(1),
                width: Some(2),
                double_data: vec![0.5, 0.25],
                ..Default::default()
            }],
            ..Default::default()
        };
        let v1 = V1LayerParameter {
            name: Some("v1".into()),
            r#type: Some(LayerType::InnerProduct.into()),
            blobs: vec![blob(&[7.0])],
            ..Default::default()
        };
        let wrapper = V1LayerParameter {
            layer: Some(v0),
            ..Default::default()
        };
        let weights = read(&NetParameter {
            layers: vec![wrapper, v1],
            ..Default::default()
        });
        let [old, v1] = weights.layers.as_slice() else {
            panic!("two layers");
        };
        assert_eq!(
            (old.name.as_str(), v1.kind.as_str()),
            ("old", "InnerProduct")
        );
        assert_eq!(
            (blobs(old)[0].shape.as_slice(), blobs(old)[0].legacy),
            (&[1, 0, 0, 2][..], true)
        );
        assert_eq!(*blobs(old)[0].data.floats(), [0.5, 0.25]);
    }

    #[test]
    fn numbers_one_by_one_and_in_several_runs() {
        let one = 1f32.to_le_bytes();
        let mut bytes = vec![0x2a, 4]; // a run of one
        bytes.extend(one);
        bytes.push(0x2d); // one by itself
        bytes.extend(2f32.to_le_bytes());
        assert_eq!(*read_blob("b", bytes).unwrap().data.floats(), [1.0, 2.0]);
    }

    #[test]
    fn raw_data_is_of_its_own_type() {
        let read = |raw_type: &[u8], raw: &[u8]| {
            let data = [0x2d, 0, 0, 0, 0]; // a `data` that does not count
            let head = [0x62, raw.len() as u8];
            read_blob("b", [&data[..], raw_type, &head, raw].concat())
        };
        let floats =
            |raw_type: &[u8], raw: &[u8]| read(raw_type, raw).unwrap().data.floats().into_owned();
        assert_eq!(floats(&[0x50, 2], &[0, 0x3c, 0, 0xc0]), [1.0, -2.0]);
        assert_eq!(floats(&[0x50, 1], &1.5f32.to_le_bytes()), [1.5]);
        assert_eq!(floats(&[0x50, 3], &(-3i32).to_le_bytes()), [-3.0]);
        assert_eq!(floats(&[], &0.5f64.to_le_bytes()), [0.5]);
        assert!(read(&[0x50, 9], &[0]).is_err());
        assert!(read(&[0x50, 2], &[0]).is_err());
    }

    #[test]
    fn files_cut_short_say_where() {
        let whole = net().encode_to_vec();
        for end in 1..whole.len() {
            // Whatever is left is refused or read, never a panic.
            let _ = WeightsFile::from_bytes("w", whole[..end].to_vec());
        }
        let message = error(&whole[..whole.len() - 2]);
        assert!(
            message.starts_with("layer `conv`: w: at byte "),
            "{message}"
        );
        assert!(
            message.contains("blob 1: the file ends too early"),
            "{message}"
        );
    }

    #[test]
    fn other_files_are_recognised() {
        assert_eq!(
            error(b"\x1f\x8b\x08"),
            "w: this is a gzip file: unpack it first"
        );
        assert_eq!(
            error(b"layer { name: 'a' }"),
            "w: this is text, not weights in binary form"
        );
        assert!(error(b"\x89HDF\r\n\x1a\n\0").contains("ends too early"));
        assert!(error(&[8, 1]).contains("solver state"));
        assert!(read_blob("b", vec![8, 1]).is_err());
        assert!(error(b"<html>").contains("HTML"));
        assert!(error(b"version https://git-lfs.github.com/spec/v1\n").contains("git-lfs"));
        assert!(
            WeightsFile::from_bytes("w", vec![])
                .unwrap()
                .layers
                .is_empty()
        );
    }

    #[test]
    fn a_binary_net_loses_its_blobs_only() {
        let mut net = net();
        let (read, notes) = read_net_binary("n", &net.encode_to_vec(), Reading::default()).unwrap();
        net.layer[0].blobs.clear();
        assert_eq!((read, notes.len()), (net, 0));
    }

    #[test]
    fn a_binary_net_has_no_unknown_fields() {
        let layer = [0xa2, 6, 3, 0xc2, 12, 0]; // layer { 200 { } }
        let errors = read_net_binary("n", &layer, Reading::default()).unwrap_err();
        let message = errors.to_string();
        assert_eq!(message, "n: caffe.LayerParameter has no field 200");
        let reading = Reading {
            allow_unknown: true,
            ..Reading::default()
        };
        let (_, notes) = read_net_binary("n", &layer, reading).unwrap();
        assert_eq!(notes.len(), 1);
    }

    #[test]
    fn a_binary_net_needs_what_is_required() {
        let mut net = net();
        net.layer[0].clip_param = Some(ClipParameter::default().into());
        assert!(read_net_binary("n", &net.encode_to_vec(), Reading::default()).is_ok());
        let incomplete = [0xa2, 6, 3, 0xa2, 9, 0]; // layer { clip_param { } }
        let errors = read_net_binary("n", &incomplete, Reading::default()).unwrap_err();
        assert!(errors.to_string().contains("needs `min`"), "{errors}");
    }
}
