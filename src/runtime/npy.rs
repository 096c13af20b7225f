//! NumPy's `.npy` files ↔ [`Tensor`]s.

use crate::diag::{Diagnostic, Result};
use crate::ir::{Shape, Tensor};
use npyz::{DType, NpyFile, Order, TypeChar, WriterBuilder};
use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;

/// Reads an array of floats, integers or booleans as f32; arrays in Fortran's order are
/// turned around.
///
/// Errors: `Io` if the file cannot be read, `Invalid` if it is no such array or holds
/// fewer values than it says.
pub fn read_npy(path: &Path) -> Result<Tensor> {
    let file = File::open(path).map_err(|e| Diagnostic::io(path, &e))?;
    let length = file.metadata().map_err(|e| Diagnostic::io(path, &e))?.len();
    parse(BufReader::new(file), length).map_err(|why| {
        let message = format!("{}: {why}", path.display());
        Diagnostic::invalid(message).into()
    })
}

/// Reads the array from `bytes`, of which there are at most `length`: no more memory is
/// taken than they can fill.
fn parse(bytes: impl Read, length: u64) -> std::result::Result<Tensor, String> {
    let npy = NpyFile::new(bytes).map_err(|e| format!("not an npy file: {e}"))?;
    let dims: Vec<i64> = npy
        .shape()
        .iter()
        .map(|&d| d.try_into().unwrap_or(-1))
        .collect();
    let shape = Shape::from_i64(&dims).map_err(|e| e.to_string())?;
    let DType::Plain(dtype) = npy.dtype() else {
        return Err("an array of records, not of numbers".into());
    };
    let size = dtype.size_field();
    if (shape.count() as u64).saturating_mul(size) > length {
        return Err(format!("too short for an array of {shape}"));
    }
    let order = npy.order();
    let data = match (dtype.type_char(), size) {
        (TypeChar::Float, 4) => convert(npy, |v: f32| v),
        (TypeChar::Float, 8) => convert(npy, |v: f64| v as f32),
        (TypeChar::Int, 1) => convert(npy, |v: i8| f32::from(v)),
        (TypeChar::Int, 2) => convert(npy, |v: i16| f32::from(v)),
        (TypeChar::Int, 4) => convert(npy, |v: i32| v as f32),
        (TypeChar::Int, 8) => convert(npy, |v: i64| v as f32),
        (TypeChar::Uint, 1) => convert(npy, |v: u8| f32::from(v)),
        (TypeChar::Uint, 2) => convert(npy, |v: u16| f32::from(v)),
        (TypeChar::Uint, 4) => convert(npy, |v: u32| v as f32),
        (TypeChar::Uint, 8) => convert(npy, |v: u64| v as f32),
        (TypeChar::Bool, _) => convert(npy, |v: bool| f32::from(u8::from(v))),
        _ => return Err(format!("values of type `{dtype}`; use float32")),
    };
    let data = data.map_err(|e| format!("cannot read its values: {e}"))?;
    Ok(match order {
        Order::C => Tensor::new(shape, data),
        Order::Fortran => from_fortran(shape, &data),
    })
}

fn convert<T: npyz::Deserialize>(
    npy: NpyFile<impl Read>,
    f: impl Fn(T) -> f32,
) -> io::Result<Vec<f32>> {
    let values = npy.data::<T>().map_err(io::Error::other)?;
    values.map(|v| v.map(&f)).collect()
}

/// Reorders values whose first axis runs fastest.
fn from_fortran(shape: Shape, data: &[f32]) -> Tensor {
    let mut tensor = Tensor::zeros(shape);
    let dims = tensor.shape.to_vec();
    for (i, value) in tensor.data.iter_mut().enumerate() {
        let (mut rest, mut from, mut stride) = (i, 0, data.len());
        for &dim in dims.iter().rev() {
            stride /= dim;
            from += rest % dim * stride;
            rest /= dim;
        }
        *value = data[from];
    }
    tensor
}

/// Writes float32 in C order. The file appears whole or not at all.
///
/// Errors: `Io`.
pub fn write_npy(path: &Path, tensor: &Tensor) -> Result<()> {
    Ok(write(path, tensor).map_err(|e| Diagnostic::io(path, &e))?)
}

fn write(path: &Path, tensor: &Tensor) -> io::Result<()> {
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty());
    let mut file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")))?;
    let mut out = BufWriter::new(file.as_file_mut());
    let shape: Vec<u64> = tensor.shape.iter().map(|&d| d as u64).collect();
    let options = npyz::WriteOptions::new().default_dtype().shape(&shape);
    let mut writer = options.writer(&mut out).begin_nd()?;
    writer.extend(&tensor.data)?;
    writer.finish()?;
    out.flush()?;
    drop(out);
    file.persist(path)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tensor() -> Tensor {
        let shape = Shape::new([2, 3]).unwrap();
        Tensor::new(shape, vec![0.0, 1.5, -2.0, f32::INFINITY, 4.0, 5.0])
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.npy");
        write_npy(&path, &tensor()).unwrap();
        assert_eq!(read_npy(&path).unwrap(), tensor());
        let files = std::fs::read_dir(folder.path()).unwrap().count();
        assert_eq!(files, 1);
    }

    fn npy(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\0".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn read(bytes: &[u8]) -> std::result::Result<Tensor, String> {
        parse(bytes, bytes.len() as u64)
    }

    #[test]
    fn other_types_and_orders() {
        let header = "{'descr': '|u1', 'fortran_order': True, 'shape': (2, 3), }";
        let read = read(&npy(header, &[0, 3, 1, 4, 2, 5])).unwrap();
        assert_eq!(read.data, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]);
    }

    #[test]
    fn lying_headers_take_no_memory() {
        for shape in ["(2000000000,)", "(65536, 65536)", "(18446744073709551615,)"] {
            let header = format!("{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}");
            assert!(read(&npy(&header, &[0; 8])).is_err());
        }
        assert!(read(b"\x93NUMPY").is_err());
        assert!(read(b"").is_err());
    }
}
