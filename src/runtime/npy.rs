//! NumPy's array files: one f32 tensor in, one out.
//!
//! In: a `.npy` stream of any real dtype, byte order and axis order, as numpy and
//! Caffe's users write them. Out: a row-major f32 [`Tensor`]. Memory grows with the
//! data that is really there, never with what a header claims.

use crate::diag::{Diagnostic, Result};
use crate::ir::{Shape, Tensor};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

/// First bytes of every such file.
pub const MAGIC: &[u8] = b"\x93NUMPY";

/// Longest header that is read; numpy's own are a few hundred bytes at most.
const MAX_HEADER: usize = 1 << 20;

/// Reads the array of a file. Errors: `Io`, `Invalid`, naming the file.
pub fn read_npy(path: &Path) -> Result<Tensor> {
    let file = File::open(path).map_err(|e| Diagnostic::io(path, &e))?;
    let read = read(&mut BufReader::new(file), usize::MAX);
    Ok(read.map_err(|e| Diagnostic::io(path, &e))?)
}

/// Writes a tensor as a file, in place. Errors: `Io`.
pub fn write_npy(path: &Path, tensor: &Tensor) -> Result<()> {
    let written = File::create(path).and_then(|file| {
        let mut writer = BufWriter::new(file);
        write(&mut writer, &tensor.shape, &tensor.data)?;
        writer.flush()
    });
    Ok(written.map_err(|e| Diagnostic::io(path, &e))?)
}

/// Reads an array of at most `limit` elements.
///
/// Errors: `InvalidData` says what is wrong with the file, without its name.
pub fn read(reader: &mut impl Read, limit: usize) -> io::Result<Tensor> {
    let header = Header::read(reader)?;
    let count = header.shape.count();
    if count > limit {
        return Err(bad(format!(
            "{} elements ({}), more than the {limit} expected",
            count, header.shape
        )));
    }
    let data = header.dtype.read(reader, count)?;
    Ok(Tensor {
        data: if header.fortran {
            to_row_major(&data, &header.shape)
        } else {
            data
        },
        shape: header.shape,
    })
}

/// Writes `data`, row-major, as a version 1.0 file of little-endian f32.
pub fn write(writer: &mut impl Write, shape: &[usize], data: &[f32]) -> io::Result<()> {
    let dims: String = shape.iter().map(|d| format!("{d}, ")).collect();
    let dims = match shape.len() {
        1 => dims.trim_end(),
        _ => dims.trim_end_matches(", "),
    };
    let dict = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': ({dims}), }}");
    let start = MAGIC.len() + 4;
    let total = (start + dict.len() + 1).next_multiple_of(64);
    writer.write_all(MAGIC)?;
    writer.write_all(&[1, 0])?;
    let length = u16::try_from(total - start).map_err(|_| bad("a shape too long for .npy"))?;
    writer.write_all(&length.to_le_bytes())?;
    writeln!(writer, "{dict:<width$}", width = total - start - 1)?;
    write_raw(writer, data)
}

/// Writes the bare little-endian values.
pub fn write_raw(writer: &mut impl Write, data: &[f32]) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(data.len().min(CHUNK) * 4);
    for part in data.chunks(CHUNK) {
        bytes.clear();
        bytes.extend(part.iter().flat_map(|v| v.to_le_bytes()));
        writer.write_all(&bytes)?;
    }
    Ok(())
}

/// Elements converted at a time.
const CHUNK: usize = 1 << 14;

fn bad(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

struct Header {
    dtype: Dtype,
    fortran: bool,
    shape: Shape,
}

impl Header {
    fn read(reader: &mut impl Read) -> io::Result<Header> {
        let mut start = [0; 8];
        reader.read_exact(&mut start).map_err(short)?;
        if &start[..6] != MAGIC {
            return Err(bad("not a .npy file"));
        }
        let length_bytes = match start[6] {
            1 => 2,
            2 | 3 => 4,
            other => return Err(bad(format!("format version {other} of .npy is not known"))),
        };
        let mut length = [0; 4];
        reader
            .read_exact(&mut length[..length_bytes])
            .map_err(short)?;
        let length = u32::from_le_bytes(length) as usize;
        if length > MAX_HEADER {
            return Err(bad(format!("a header of {length} bytes")));
        }
        let mut text = vec![0; length];
        reader.read_exact(&mut text).map_err(short)?;
        Header::parse(&String::from_utf8_lossy(&text))
    }

    fn parse(text: &str) -> io::Result<Header> {
        let value = |key: &str| {
            let (_, rest) = text.split_once(&format!("'{key}'"))?;
            rest.trim_start().strip_prefix(':').map(str::trim_start)
        };
        let missing = |key| bad(format!("the header has no proper `{key}`"));
        let descr = value("descr")
            .and_then(quoted)
            .ok_or_else(|| missing("descr"))?;
        let order = value("fortran_order").ok_or_else(|| missing("fortran_order"))?;
        let dims = value("shape").and_then(tuple);
        let shape = Shape::new(dims.ok_or_else(|| missing("shape"))?);
        Ok(Header {
            dtype: Dtype::parse(descr)?,
            fortran: order.starts_with("True"),
            shape: shape.map_err(|e| bad(e.to_string()))?,
        })
    }
}

fn short(e: io::Error) -> io::Error {
    match e.kind() {
        io::ErrorKind::UnexpectedEof => bad("the file ends too early"),
        _ => e,
    }
}

/// The text inside a leading pair of quotes.
fn quoted(text: &str) -> Option<&str> {
    text.strip_prefix('\'')?.split('\'').next()
}

/// The numbers of a leading tuple.
fn tuple(text: &str) -> Option<Vec<usize>> {
    let (inside, _) = text.strip_prefix('(')?.split_once(')')?;
    let numbers = inside.split(',').map(str::trim).filter(|n| !n.is_empty());
    numbers.map(|n| n.parse().ok()).collect()
}

/// An element type, as numpy writes it: byte order, kind, bytes.
#[derive(Clone, Copy)]
struct Dtype {
    big_endian: bool,
    kind: char,
    size: usize,
}

impl Dtype {
    fn parse(descr: &str) -> io::Result<Dtype> {
        let known = || {
            let mut chars = descr.chars();
            let order = chars.next()?;
            let kind = chars.next()?;
            let size: usize = chars.as_str().parse().ok()?;
            let sizes: &[usize] = match kind {
                'f' => &[2, 4, 8],
                'i' | 'u' => &[1, 2, 4, 8],
                'b' => &[1],
                _ => &[],
            };
            let dtype = Dtype {
                big_endian: order == '>',
                kind,
                size,
            };
            (matches!(order, '<' | '>' | '|' | '=') && sizes.contains(&size)).then_some(dtype)
        };
        known().ok_or_else(|| {
            bad(format!(
                "elements of type `{descr}`, not numbers that become f32"
            ))
        })
    }

    fn read(self, reader: &mut impl Read, count: usize) -> io::Result<Vec<f32>> {
        let mut data = Vec::with_capacity(count.min(CHUNK));
        let mut bytes = vec![0; CHUNK.min(count) * self.size];
        while data.len() < count {
            let part = &mut bytes[..CHUNK.min(count - data.len()) * self.size];
            reader.read_exact(part).map_err(|e| match e.kind() {
                io::ErrorKind::UnexpectedEof => bad(format!(
                    "the header announces {count} values, the file ends before"
                )),
                _ => e,
            })?;
            data.extend(part.chunks_exact_mut(self.size).map(|b| self.value(b)));
        }
        Ok(data)
    }

    /// One element; turns its bytes round where needed.
    fn value(self, bytes: &mut [u8]) -> f32 {
        if self.big_endian {
            bytes.reverse();
        }
        let mut wide = [0; 8];
        wide[..self.size].copy_from_slice(bytes);
        let bits = u64::from_le_bytes(wide);
        let unused = 64 - 8 * self.size as u32;
        match (self.kind, self.size) {
            ('f', 2) => half(bits as u16),
            ('f', 4) => f32::from_bits(bits as u32),
            ('f', _) => f64::from_bits(bits) as f32,
            ('i', _) => (((bits << unused) as i64) >> unused) as f32,
            ('b', _) => f32::from(u8::from(bits != 0)),
            _ => bits as f32,
        }
    }
}

/// The value of an IEEE half.
fn half(bits: u16) -> f32 {
    let magnitude = match (bits >> 10 & 31, f32::from(bits & 1023)) {
        (0, fraction) => fraction * 2f32.powi(-24),
        (31, 0.0) => f32::INFINITY,
        (31, _) => f32::NAN,
        (exponent, fraction) => (1.0 + fraction / 1024.0) * 2f32.powi(i32::from(exponent) - 15),
    };
    if bits >> 15 == 1 {
        -magnitude
    } else {
        magnitude
    }
}

/// From first axis fastest to last axis fastest.
fn to_row_major(data: &[f32], shape: &Shape) -> Vec<f32> {
    let mut strides = Vec::with_capacity(shape.len());
    let mut stride = 1;
    for &dim in shape.iter() {
        strides.push(stride);
        stride *= dim;
    }
    let mut index = vec![0; shape.len()];
    let mut at = 0;
    let mut out = Vec::with_capacity(data.len());
    for _ in 0..data.len() {
        out.push(data[at]);
        for axis in (0..shape.len()).rev() {
            index[axis] += 1;
            at += strides[axis];
            if index[axis] < shape[axis] {
                break;
            }
            at -= strides[axis] * shape[axis];
            index[axis] = 0;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(descr: &str, order: &str, shape: &str, data: &[u8]) -> Vec<u8> {
        let dict =
            format!("{{'descr': '{descr}', 'fortran_order': {order}, 'shape': {shape}, }}\n");
        let mut out = [MAGIC, &[1, 0], &(dict.len() as u16).to_le_bytes()].concat();
        out.extend(dict.as_bytes());
        out.extend(data);
        out
    }

    fn values(bytes: &[u8]) -> io::Result<Tensor> {
        read(&mut &bytes[..], 100)
    }

    #[test]
    fn what_is_written_is_read_again() {
        for shape in [&[][..], &[3], &[2, 3], &[1, 2, 3]] {
            let data: Vec<f32> = (0..shape.iter().product::<usize>())
                .map(|i| i as f32 - 0.5)
                .collect();
            let mut bytes = Vec::new();
            write(&mut bytes, shape, &data).unwrap();
            assert_eq!((bytes.len() - data.len() * 4) % 64, 0);
            let got = values(&bytes).unwrap();
            assert_eq!((got.shape.dims(), got.data), (shape, data));
        }
    }

    #[test]
    fn dtypes_and_orders() {
        let got = values(&file(
            "<i2",
            "True",
            "(2, 3)",
            &[1, 0, 2, 0, 3, 0, 4, 0, 5, 0, 255, 255],
        ));
        assert_eq!(got.unwrap().data, [1.0, 3.0, 5.0, 2.0, 4.0, -1.0]);
        let got = values(&file(">f8", "False", "(1,)", &(-2.5f64).to_be_bytes()));
        assert_eq!(got.unwrap().data, [-2.5]);
        let got = values(&file("<f2", "False", "(2,)", &[0x00, 0x3c, 0x01, 0x80]));
        assert_eq!(got.unwrap().data, [1.0, -(2f32.powi(-24))]);
        let got = values(&file("|b1", "False", "(2,)", &[0, 7]));
        assert_eq!(got.unwrap().data, [0.0, 1.0]);
    }

    #[test]
    fn hostile_headers_cost_nothing() {
        let message = |bytes: &[u8]| values(bytes).unwrap_err().to_string();
        assert!(message(b"PK").contains("ends too early"));
        assert!(message(b"NUMPY-hello").contains("not a .npy"));
        assert!(
            message(&file("<f4", "False", "(99999999999, 99999999999)", b"")).contains("limit")
        );
        assert!(message(&file("<f4", "False", "(2147483647,)", b"")).contains("more than"));
        assert!(message(&file("<f4", "False", "(100,)", b"")).contains("ends before"));
        assert!(message(&file("|O", "False", "(1,)", b"")).contains("`|O`"));
        assert!(message(&file("<f4", "False", "(-1,)", b"")).contains("shape"));
        let huge = [MAGIC, &[2, 0, 255, 255, 255, 255]].concat();
        assert!(message(&huge).contains("header of 4294967295 bytes"));
    }
}
