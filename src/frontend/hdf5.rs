//! HDF5 files of Caffe (`.caffemodel.h5`) → layers with blobs.
//!
//! Read is what Caffe's files hold, and the same written anew by other programs:
//! groups as symbol tables or compact links, arrays of floats or integers, compact,
//! contiguous or in chunks (B-tree of version 1; deflate, shuffle, checksums).
//! Contiguous arrays stay in the file. What else HDF5 can do is `Unsupported`.
//!
//! Nothing in a file is trusted: every read is checked, nesting has a limit, and the
//! whole reading has a budget of work in proportion to the file, so that
//! cycles and structures that share their parts end. Start at [`read_weights`]; the
//! layout is that of the HDF5 File Format Specification 3.0.

mod chunks;
mod messages;

use std::cell::Cell;
use std::ops::Range;
use std::sync::Arc;

use chunks::{place_chunk, unfilter};
use messages::{dataspace, datatype, filters, layout, link};

use super::binary::{BlobData, Contents, WeightBlob, WeightLayer};
use super::numbers::Encoding;
use super::wire;
use crate::diag::{Diagnostic, Kind, Result};

/// The first bytes of a file.
pub const SIGNATURE: &[u8] = b"\x89HDF\r\n\x1a\n";

/// Deepest nesting of groups: a layer's name may have as many slashes.
const MAX_DEPTH: usize = 32;
/// Longest name of a group or array, in bytes.
const MAX_NAME: usize = 1 << 12;
/// Most parameters of a layer.
const MAX_PARAMS: usize = 1 << 10;
/// Most filters that pack an array: all that HDF5 itself has.
const MAX_FILTERS: u64 = 6;
/// Every header is read at most twice, and a name counts again in longer ones.
const WORK_PER_BYTE: u64 = 8;
/// What deflate makes of one byte at most, rounded up.
const MAX_INFLATION: u64 = 1100;

/// The layers of `/data`, in the order of their names; blobs have the indices that
/// their arrays are called by. Groups in groups are layers whose names have slashes.
/// Source: BVLC/caffe `net.cpp`, `CopyTrainedLayersFromHDF5` and `ToHDF5`.
///
/// Errors: `Invalid` for a broken file or one that Caffe does not write, `Unsupported`
/// for other parts of HDF5, both with the path in the file; `name` is the file's.
pub fn read_weights(name: &str, file: &Arc<Contents>) -> Result<Vec<WeightLayer>> {
    let mut walk = Walk {
        reader: Reader::new(file.bytes()),
        file,
        layers: Vec::new(),
    };
    let read = walk.weights();
    read.map_err(|(path, fail)| {
        let at = fail
            .at
            .map_or(String::new(), |at| format!("at byte {at}: "));
        Diagnostic::new(fail.kind, format!("{name}: {path}: {at}{}", fail.why))
    })?;
    Ok(walk.layers)
}

/// Why something cannot be read.
struct Fail {
    kind: Kind,
    /// Offset into the file.
    at: Option<usize>,
    why: String,
}

type Got<T> = std::result::Result<T, Fail>;
/// With the path of the group or array concerned.
type Located<T> = std::result::Result<T, (String, Fail)>;

fn broken(at: usize, why: impl Into<String>) -> Fail {
    Fail {
        kind: Kind::Invalid,
        at: Some(at),
        why: why.into(),
    }
}

fn invalid(why: impl Into<String>) -> Fail {
    Fail {
        kind: Kind::Invalid,
        at: None,
        why: why.into(),
    }
}

fn unsupported(why: impl Into<String>) -> Fail {
    Fail {
        kind: Kind::Unsupported,
        at: None,
        why: why.into(),
    }
}

// ---------------------------------------------------------------- Caffe's layout

struct Walk<'a> {
    reader: Reader<'a>,
    file: &'a Arc<Contents>,
    layers: Vec<WeightLayer>,
}

impl Walk<'_> {
    fn weights(&mut self) -> Located<()> {
        let at = |path: &str| {
            let path = path.to_string();
            move |fail| (path, fail)
        };
        let root = self.reader.root().map_err(at("/"))?;
        let root = self.reader.object(root).map_err(at("/"))?;
        let links = self.reader.links(&root).map_err(at("/"))?;
        let Some(link) = links.iter().find(|link| link.name == "data") else {
            let has = |name: &str| links.iter().any(|link| link.name == name);
            let what = match has("iter") && has("history") {
                true => "this is a solver state".to_string(),
                false => format!("no group `data`; there is {}", listed(&links)),
            };
            return Err(at("/")(invalid(format!("these are no weights: {what}"))));
        };
        let data = self.reader.follow(link).map_err(at("/data"))?;
        let links = self.reader.links(&data).map_err(at("/data"))?;
        for link in links {
            self.layer(link.name.clone(), &link, 1)?;
        }
        Ok(())
    }

    /// A group in `/data`: a layer, part of a layer's name, or both.
    fn layer(&mut self, name: String, link: &Link, depth: usize) -> Located<()> {
        let at = |fail| (format!("/data/{name}"), fail);
        if depth > MAX_DEPTH {
            return Err(at(invalid("groups are nested too deep")));
        }
        let group = self.reader.follow(link).map_err(at)?;
        let links = self.reader.links(&group).map_err(at)?;
        let empty = links.is_empty();
        let mut blobs = Vec::new();
        let mut inner = Vec::new();
        for link in &links {
            let path = format!("{name}/{}", link.name);
            let object = self.reader.work(path.len(), None);
            let object = object.and_then(|()| self.reader.follow(link));
            let object = object.map_err(|fail| (format!("/data/{path}"), fail))?;
            match object.is_group {
                true => inner.push((path, link)),
                false => {
                    let blob = self.blob(&link.name, &object, &mut blobs);
                    blob.map_err(|fail| (format!("/data/{path}"), fail))?;
                }
            }
        }
        if empty || !blobs.is_empty() {
            self.layers.push(WeightLayer {
                name,
                kind: String::new(),
                blobs,
            });
        }
        inner
            .into_iter()
            .try_for_each(|(path, link)| self.layer(path, link, depth + 1))
    }

    fn blob(&self, name: &str, array: &Object, blobs: &mut Vec<Option<WeightBlob>>) -> Got<()> {
        let index = name.parse::<usize>().ok();
        let index = index.filter(|i| *i < MAX_PARAMS && i.to_string() == name);
        let index =
            index.ok_or_else(|| invalid("arrays are named by the indices of parameters"))?;
        let (shape, data) = self.reader.array(array, self.file)?;
        if blobs.len() <= index {
            blobs.resize_with(index + 1, || None);
        }
        blobs[index] = Some(WeightBlob {
            shape: shape.iter().map(|&d| d as i64).collect(),
            legacy: false,
            data,
        });
        Ok(())
    }
}

fn listed(links: &[Link]) -> String {
    let names: Vec<String> = links
        .iter()
        .take(8)
        .map(|l| format!("`{}`", l.name))
        .collect();
    match names.is_empty() {
        true => "nothing".to_string(),
        false => names.join(", "),
    }
}

// ---------------------------------------------------------------- the file

/// A file and how much may still be done with it.
struct Reader<'a> {
    bytes: &'a [u8],
    /// Bytes of an address and of a length.
    sizes: Cell<(usize, usize)>,
    /// What addresses are relative to.
    base: Cell<u64>,
    /// What may still be done, in records and in bytes of names. Both take more of the
    /// file than they cost here, so that only files read in circles run out of it.
    work: Cell<u64>,
    /// Bytes that may still be unpacked.
    unpacked: Cell<u64>,
}

/// A named object of a group.
#[derive(Clone)]
struct Link {
    name: String,
    target: Target,
}

#[derive(Clone)]
enum Target {
    /// Address of its header.
    Object(u64),
    /// What a path names, here or in another file.
    Soft,
}

/// What an object's header says.
#[derive(Default)]
struct Object<'a> {
    /// Addresses of the B-tree and of the heap of names.
    symbol_table: Option<(u64, u64)>,
    links: Vec<Link>,
    /// There are more links, in a form of their own.
    dense_links: bool,
    shape: Option<Vec<u64>>,
    numbers: Option<Numbers>,
    layout: Option<Layout<'a>>,
    filters: Vec<u16>,
    is_group: bool,
}

#[derive(Clone, Copy)]
enum Numbers {
    Known(Encoding),
    Other,
}

enum Layout<'a> {
    Compact(&'a [u8]),
    Contiguous { address: u64, size: u64 },
    Chunked { tree: u64, chunk: Vec<u64> },
    Other,
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        let length = bytes.len() as u64;
        Reader {
            bytes,
            sizes: Cell::new((8, 8)),
            base: Cell::new(0),
            work: Cell::new(length.saturating_mul(WORK_PER_BYTE)),
            unpacked: Cell::new(length.saturating_mul(MAX_INFLATION)),
        }
    }

    /// Takes `cost` off the work that may be done, for a record or a name at `at`.
    fn work(&self, cost: usize, at: impl Into<Option<usize>>) -> Got<()> {
        let left = self.work.get().checked_sub(cost as u64);
        let endless = || Fail {
            at: at.into(),
            ..invalid("the file refers to itself in circles")
        };
        self.work.set(left.ok_or_else(endless)?);
        Ok(())
    }

    /// Reads on at an address.
    fn at(&self, address: u64) -> Got<Cursor<'a>> {
        let offset = address
            .checked_add(self.base.get())
            .and_then(|a| usize::try_from(a).ok());
        match offset.filter(|&offset| offset < self.bytes.len()) {
            Some(at) => {
                self.work(1, at)?;
                Ok(self.cursor(at..self.bytes.len()))
            }
            None if address == self.cursor(0..0).undefined() => {
                Err(unsupported("what was declared and never written"))
            }
            None => Err(invalid(format!(
                "it lies at byte {address}, behind the file's end"
            ))),
        }
    }

    fn cursor(&self, range: Range<usize>) -> Cursor<'a> {
        let (address, length) = self.sizes.get();
        Cursor {
            bytes: self.bytes,
            at: range.start,
            end: range.end,
            address,
            length,
        }
    }

    /// The superblock; gives the address of the root group's header.
    fn root(&self) -> Got<u64> {
        let mut c = self.cursor(SIGNATURE.len()..self.bytes.len());
        let version = c.uint(1)?;
        match version {
            0 | 1 => {
                c.skip(4)?;
                self.set_sizes(&mut c)?;
                c.skip(1 + 2 + 2 + 4 + if version == 1 { 4 } else { 0 })?;
            }
            2 | 3 => {
                self.set_sizes(&mut c)?;
                c.skip(1)?;
            }
            _ => return Err(unsupported(format!("HDF5 superblock of version {version}"))),
        }
        (c.address, c.length) = self.sizes.get();
        self.base.set(c.address()?);
        c.address()?;
        c.address()?;
        if version < 2 {
            c.address()?;
            c.address()?; // the root group's own name
        }
        c.address()
    }

    fn set_sizes(&self, c: &mut Cursor) -> Got<()> {
        let at = c.at;
        let sizes = (c.uint(1)? as usize, c.uint(1)? as usize);
        let known = |size| matches!(size, 2 | 4 | 8);
        if !known(sizes.0) || !known(sizes.1) {
            return Err(broken(at, "addresses and lengths have 2, 4 or 8 bytes"));
        }
        self.sizes.set(sizes);
        Ok(())
    }

    fn follow(&self, link: &Link) -> Got<Object<'a>> {
        match link.target {
            Target::Object(address) => self.object(address),
            Target::Soft => Err(unsupported("a link by name")),
        }
    }

    // ------------------------------------------------------------ object headers

    fn object(&self, address: u64) -> Got<Object<'a>> {
        let mut c = self.at(address)?;
        let mut object = Object::default();
        let version = c.clone().take(4)?;
        let (format, first) = match version {
            b"OHDR" => self.header_2(&mut c)?,
            [1, ..] => {
                c.skip(8)?;
                let size = c.uint(4)?;
                c.skip(4)?;
                (Format::Old, c.block(size)?)
            }
            _ => return Err(broken(c.at, "no object header")),
        };
        let mut blocks = vec![first];
        while let Some(mut block) = blocks.pop() {
            while block.left() >= format.least() {
                self.work(1, block.at)?;
                let (kind, flags, message) = block.message(format)?;
                match kind {
                    0x10 => blocks.push(self.continuation(format, message)?),
                    // The message is kept elsewhere, for several objects.
                    _ if flags & 2 != 0 => match kind {
                        0x03 => object.numbers = Some(Numbers::Other),
                        0x01 | 0x08 | 0x0b => return Err(unsupported("shared header messages")),
                        _ => {}
                    },
                    _ => self.read_message(kind, message, &mut object)?,
                }
            }
        }
        Ok(object)
    }

    fn header_2(&self, c: &mut Cursor<'a>) -> Got<(Format, Cursor<'a>)> {
        c.skip(5)?;
        let flags = c.uint(1)?;
        c.skip(if flags & 0x20 != 0 { 16 } else { 0 })?;
        c.skip(if flags & 0x10 != 0 { 4 } else { 0 })?;
        let size = c.uint(1 << (flags & 3))?;
        let order = flags & 4 != 0;
        Ok((Format::New { order }, c.block(size)?))
    }

    fn continuation(&self, format: Format, mut message: Cursor<'a>) -> Got<Cursor<'a>> {
        let (address, length) = (message.address()?, message.length()?);
        let mut c = self.at(address)?;
        match format {
            Format::Old => c.block(length),
            Format::New { .. } => {
                c.expect(b"OCHK")?;
                // The signature before and the checksum behind count.
                let inside = length.checked_sub(8);
                c.block(inside.ok_or_else(|| broken(c.at, "a block of less than nothing"))?)
            }
        }
    }

    fn read_message(&self, kind: u64, mut m: Cursor<'a>, object: &mut Object<'a>) -> Got<()> {
        match kind {
            0x01 => object.shape = dataspace(&mut m)?,
            0x02 => {
                object.is_group = true;
                m.skip(1)?;
                let flags = m.uint(1)?;
                m.skip(if flags & 1 != 0 { 8 } else { 0 })?;
                object.dense_links = m.clone().address()? != m.undefined();
            }
            0x03 => object.numbers = Some(datatype(&mut m)?.map_or(Numbers::Other, Numbers::Known)),
            0x06 => {
                object.is_group = true;
                self.work(m.left(), m.at)?;
                object.links.push(link(&mut m)?);
            }
            0x08 => object.layout = Some(layout(&mut m)?),
            0x0b => object.filters = filters(&mut m)?,
            0x11 => {
                object.is_group = true;
                object.symbol_table = Some((m.address()?, m.address()?));
            }
            _ => {}
        }
        Ok(())
    }

    // ------------------------------------------------------------ groups

    fn links(&self, group: &Object<'a>) -> Got<Vec<Link>> {
        if !group.is_group {
            return Err(invalid("this should be a group"));
        }
        if group.dense_links {
            return Err(unsupported("a group with links in a fractal heap"));
        }
        let mut links = group.links.clone();
        if let Some((tree, heap)) = group.symbol_table {
            let names = self.heap(heap)?;
            let mut leaves = Vec::new();
            self.tree(tree, TreeKind::Group, None, &mut leaves)?;
            for (_, leaf) in leaves {
                self.symbols(leaf, &names, &mut links)?;
            }
        }
        links.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(links)
    }

    /// The names of a group's members.
    fn heap(&self, address: u64) -> Got<Cursor<'a>> {
        let mut c = self.at(address)?;
        c.expect(b"HEAP")?;
        c.skip(4)?;
        let size = c.length()?;
        c.length()?;
        let data = c.address()?;
        self.at(data)?.block(size)
    }

    fn symbols(&self, address: u64, names: &Cursor<'a>, links: &mut Vec<Link>) -> Got<()> {
        let mut c = self.at(address)?;
        c.expect(b"SNOD")?;
        c.skip(2)?;
        for _ in 0..c.uint(2)? {
            self.work(1, c.at)?;
            let name = c.address()?;
            let header = c.address()?;
            let soft = c.uint(4)? == 2;
            c.skip(20)?;
            let name = names.from(name)?.until_zero()?;
            self.work(name.len(), c.at)?;
            links.push(Link {
                name: wire::to_utf8(name).into_owned(),
                target: if soft {
                    Target::Soft
                } else {
                    Target::Object(header)
                },
            });
        }
        Ok(())
    }

    /// The leaves of a B-tree of version 1, each with the key before it.
    fn tree(
        &self,
        address: u64,
        kind: TreeKind,
        above: Option<u64>,
        leaves: &mut Vec<(Cursor<'a>, u64)>,
    ) -> Got<()> {
        let mut c = self.at(address)?;
        let start = c.at;
        c.expect(b"TREE")?;
        let (found, level) = (c.uint(1)?, c.uint(1)?);
        if found != kind.number() || above.is_some_and(|above| level + 1 != above) {
            return Err(broken(start, "a B-tree of the wrong kind or height"));
        }
        let entries = c.uint(2)?;
        c.address()?;
        c.address()?;
        for _ in 0..entries {
            self.work(1, c.at)?;
            let key = c.block(kind.key_size(c.length))?;
            let child = c.address()?;
            match level {
                0 => leaves.push((key, child)),
                _ => self.tree(child, kind, Some(level), leaves)?,
            }
        }
        Ok(())
    }

    // ------------------------------------------------------------ arrays

    /// Shape and numbers.
    fn array(&self, array: &Object<'a>, file: &Arc<Contents>) -> Got<(Vec<u64>, BlobData)> {
        let (Some(shape), Some(numbers), Some(layout)) =
            (&array.shape, array.numbers, &array.layout)
        else {
            return Err(invalid("this should be an array"));
        };
        let Numbers::Known(encoding) = numbers else {
            return Err(unsupported("an array of something else than plain numbers"));
        };
        let count = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        let size = count.and_then(|n| n.checked_mul(encoding.size() as u64));
        let size = size.ok_or_else(|| invalid("an array larger than any memory"))?;
        let wrong_size = |found: u64| match found == size {
            true => Ok(()),
            false => Err(invalid(format!("{found} bytes for an array of {size}"))),
        };
        let owned = |bytes: &[u8]| BlobData::owned(encoding.convert(bytes));
        let data = match layout {
            _ if size == 0 => BlobData::owned(Vec::new()),
            Layout::Compact(bytes) => {
                wrong_size(bytes.len() as u64)?;
                owned(bytes)
            }
            Layout::Contiguous { address, size } => {
                wrong_size(*size)?;
                let block = self.at(*address)?.block(*size)?;
                BlobData::in_file(file, block.at..block.end, encoding)
            }
            Layout::Chunked { tree, chunk } => {
                owned(&self.chunks(*tree, chunk, shape, encoding.size(), size, &array.filters)?)
            }
            Layout::Other => return Err(unsupported("an array in a layout of newer HDF5")),
        };
        Ok((shape.clone(), data))
    }

    /// Puts the chunks of an array together. `chunk` ends with the size of a number.
    fn chunks(
        &self,
        tree: u64,
        chunk: &[u64],
        shape: &[u64],
        number: usize,
        size: u64,
        filters: &[u16],
    ) -> Got<Vec<u8>> {
        let bytes = chunk.iter().try_fold(1u64, |n, &d| n.checked_mul(d));
        let (Some(bytes), true) = (
            bytes.filter(|&b| b > 0),
            chunk.len() > 1
                && chunk.len() == shape.len() + 1
                && chunk.last() == Some(&(number as u64)),
        ) else {
            return Err(invalid("the chunks do not suit the array"));
        };
        self.unpack(size)?;
        let mut whole = vec![0; size as usize];
        let mut chunks = Vec::new();
        self.tree(tree, TreeKind::Chunks(chunk.len()), None, &mut chunks)?;
        let mut written = 0u64;
        for (mut key, address) in chunks {
            let (stored, mask) = (key.uint(4)?, key.uint(4)?);
            let place: Got<Vec<u64>> = shape.iter().map(|_| key.uint(8)).collect();
            let packed = self.at(address)?.block(stored)?;
            self.unpack(stored.saturating_add(bytes))?;
            let unpacked = unfilter(packed, filters, mask, number, bytes as usize)?;
            written += place_chunk(&unpacked, chunk, &place?, shape, &mut whole)?;
        }
        // Chunks do not overlap: less was written if one is missing.
        match written == size {
            true => Ok(whole),
            false => Err(unsupported("an array with chunks that were never written")),
        }
    }

    /// Takes memory for so many bytes.
    fn unpack(&self, bytes: u64) -> Got<()> {
        let left = self.unpacked.get().checked_sub(bytes);
        self.unpacked
            .set(left.ok_or_else(|| invalid("the file is too small for this array"))?);
        Ok(())
    }
}

/// How header messages are written.
#[derive(Clone, Copy)]
enum Format {
    Old,
    New { order: bool },
}

impl Format {
    /// Bytes of a message's head.
    fn least(self) -> usize {
        match self {
            Format::Old => 8,
            Format::New { order: false } => 4,
            Format::New { order: true } => 6,
        }
    }
}

#[derive(Clone, Copy)]
enum TreeKind {
    Group,
    /// With as many extents.
    Chunks(usize),
}

impl TreeKind {
    fn number(self) -> u64 {
        match self {
            TreeKind::Group => 0,
            TreeKind::Chunks(_) => 1,
        }
    }

    fn key_size(self, length: usize) -> u64 {
        match self {
            TreeKind::Group => length as u64,
            TreeKind::Chunks(extents) => 8 + 8 * extents as u64,
        }
    }
}

// ---------------------------------------------------------------- bytes

/// A part of the file that is read from its start on.
#[derive(Clone)]
struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
    end: usize,
    /// Bytes of an address.
    address: usize,
    /// Bytes of a length.
    length: usize,
}

impl<'a> Cursor<'a> {
    fn left(&self) -> usize {
        self.end - self.at
    }

    fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at..self.end]
    }

    fn take(&mut self, count: usize) -> Got<&'a [u8]> {
        if count > self.left() {
            return Err(broken(
                self.at,
                "the file or one of its parts ends too early",
            ));
        }
        let taken = &self.bytes[self.at..self.at + count];
        self.at += count;
        Ok(taken)
    }

    fn skip(&mut self, count: usize) -> Got<()> {
        self.take(count).map(|_| ())
    }

    fn expect(&mut self, signature: &[u8]) -> Got<()> {
        let at = self.at;
        match self.take(signature.len())? == signature {
            true => Ok(()),
            false => {
                let name = String::from_utf8_lossy(signature);
                Err(broken(at, format!("expected the signature {name}")))
            }
        }
    }

    /// A little-endian number of up to 8 bytes.
    fn uint(&mut self, size: usize) -> Got<u64> {
        let bytes = self.take(size)?;
        Ok(bytes.iter().rev().fold(0, |n, &b| n << 8 | u64::from(b)))
    }

    fn address(&mut self) -> Got<u64> {
        self.uint(self.address)
    }

    fn length(&mut self) -> Got<u64> {
        self.uint(self.length)
    }

    /// The address that stands for none.
    fn undefined(&self) -> u64 {
        u64::MAX >> (64 - 8 * self.address)
    }

    /// The next `size` bytes, to be read by themselves.
    fn block(&mut self, size: u64) -> Got<Cursor<'a>> {
        let start = self.at;
        self.take(usize::try_from(size).unwrap_or(usize::MAX))?;
        Ok(Cursor {
            at: start,
            end: self.at,
            ..*self
        })
    }

    /// Reads on at an offset.
    fn from(&self, offset: u64) -> Got<Cursor<'a>> {
        let mut c = self.clone();
        c.skip(usize::try_from(offset).unwrap_or(usize::MAX))?;
        Ok(c)
    }

    fn until_zero(&mut self) -> Got<&'a [u8]> {
        let mut name = self.rest().iter().take(MAX_NAME);
        let length = name.position(|&b| b == 0);
        self.take(length.unwrap_or(usize::MAX))
    }

    /// Type, flags and content of a header message.
    fn message(&mut self, format: Format) -> Got<(u64, u64, Cursor<'a>)> {
        let kind = self.uint(if matches!(format, Format::Old) { 2 } else { 1 })?;
        let size = self.uint(2)?;
        let flags = self.uint(1)?;
        self.skip(match format {
            Format::Old => 3,
            Format::New { order } => 2 * usize::from(order),
        })?;
        Ok((kind, flags, self.block(size)?))
    }
}

#[cfg(test)]
mod tests {
    use super::super::binary::WeightsFile;
    use super::*;

    const CLASSIC: &[u8] = include_bytes!("../../tests/hdf5/classic.h5");
    const LATEST: &[u8] = include_bytes!("../../tests/hdf5/latest.h5");
    const PACKED: &[u8] = include_bytes!("../../tests/hdf5/packed.h5");
    const CHUNKED: &[u8] = include_bytes!("../../tests/hdf5/chunked.h5");
    const INTEGERS: &[u8] = include_bytes!("../../tests/hdf5/integers.h5");

    fn read(bytes: &[u8]) -> Result<Vec<WeightLayer>> {
        WeightsFile::from_bytes("w.h5", bytes.to_vec()).map(|file| file.layers)
    }

    fn error(bytes: &[u8]) -> String {
        read(bytes).unwrap_err().to_string()
    }

    #[test]
    fn every_way_of_writing_gives_the_same() {
        let kernel: Vec<f32> = (0..70).map(|i| i as f32).collect();
        for (what, bytes) in [
            ("classic", CLASSIC),
            ("latest", LATEST),
            ("packed", PACKED),
            ("chunked", CHUNKED),
            ("integers", INTEGERS),
        ] {
            let layers = read(bytes).unwrap();
            let names: Vec<&str> = layers.iter().map(|l| l.name.as_str()).collect();
            assert_eq!(names, ["block/conv", "ip", "relu"], "{what}");
            let [conv, ip, relu] = &layers[..] else {
                panic!("three layers");
            };
            assert!(relu.blobs.is_empty() && conv.blobs[1].is_none());
            let blob = |layer: &WeightLayer, i: usize| {
                let blob = layer.blobs[i].as_ref().unwrap();
                (blob.shape.clone(), blob.data.floats().into_owned())
            };
            assert_eq!(blob(conv, 0), (vec![2, 5, 7], kernel.clone()), "{what}");
            assert_eq!(blob(conv, 2), (vec![2], vec![0.5, -1.0]));
            let weights = vec![-2.5, -1.5, -0.5, 0.5, 1.5, 2.5];
            assert_eq!(blob(ip, 0), (vec![2, 3], weights), "{what}");
            assert_eq!(blob(ip, 1), (vec![2], vec![0.5, -1.0]));
        }
    }

    #[test]
    fn errors_name_the_path() {
        let at = |needle: &[u8]| {
            CLASSIC
                .windows(needle.len())
                .position(|w| w == needle)
                .unwrap()
        };
        let changed = |needle: &[u8], to: &[u8]| {
            let mut bytes = CLASSIC.to_vec();
            let start = at(needle);
            bytes[start..start + to.len()].copy_from_slice(to);
            error(&bytes)
        };
        let names = changed(b"data\0", b"tata");
        assert_eq!(
            names,
            "w.h5: /: these are no weights: no group `data`; there is `tata`"
        );
        let cut = error(&CLASSIC[..CLASSIC.len() - 1]);
        assert!(cut.starts_with("w.h5: /data/block/conv"), "{cut}");
        let version = changed(b"\r\n\x1a\n\0", b"\r\n\x1a\n\x09");
        assert_eq!(version, "w.h5: /: HDF5 superblock of version 9");
        let index = changed(b"\x30\0\0\0\0\0\0\0\x31", b"x");
        assert!(
            index.contains("/x: arrays are named by the indices of parameters"),
            "{index}"
        );
    }

    /// Whatever is done to a file, reading it ends without a panic.
    #[test]
    fn broken_files_are_refused_or_read() {
        for whole in [CLASSIC, LATEST, PACKED, CHUNKED] {
            for end in (0..whole.len()).step_by(7) {
                let _ = read(&[SIGNATURE, whole[..end].get(8..).unwrap_or_default()].concat());
            }
            for at in 8..whole.len() {
                let mut bytes = whole.to_vec();
                for value in [0, 1, 0x7f, 0xff, bytes[at] ^ 0x10] {
                    bytes[at] = value;
                    let _ = read(&bytes);
                }
            }
        }
    }

    #[test]
    fn circles_end() {
        // The only child of `/data` in LATEST that is a group of groups: its link to
        // `conv` is turned to the group itself.
        let link = b"\x04conv";
        let at = LATEST.windows(link.len()).position(|w| w == link).unwrap();
        let data = LATEST.windows(6).position(|w| w == b"\x05block").unwrap();
        let mut bytes = LATEST.to_vec();
        let own: Vec<u8> = LATEST[data + 6..data + 14].to_vec();
        bytes[at + 5..at + 13].copy_from_slice(&own);
        assert!(
            error(&bytes).ends_with("groups are nested too deep"),
            "{}",
            error(&bytes)
        );
    }
}
