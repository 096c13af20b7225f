//! Files of values: what feeds a net's inputs, what takes its outputs.
//!
//! In: npy, npz, raw f32, PNG and JPEG files, told apart by their first bytes. Out:
//! [`Tensor`]s of the shape the net wants, or a diagnostic with the file's name and
//! that shape. Outputs go to a temporary file beside their place and are renamed
//! when everything has been written ([`Staged`]).

use super::npy;
use super::picture::{self, Transform};
use crate::diag::{Diagnostic, Errors, Result};
use crate::frontend::binary::read_blob;
use crate::ir::{Shape, Tensor};
use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

/// Most elements that an input may bring when the net follows its shape (1 GiB).
pub const MAX_ELEMENTS: usize = 1 << 28;

/// Largest picture file that is read.
const MAX_PICTURE_BYTES: u64 = 1 << 28;

/// What a net's input wants from a file.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    pub blob: &'a str,
    /// The blob's shape.
    pub shape: &'a Shape,
    /// The blob takes the file's shape instead (raw files excepted, which have none).
    pub reshape: bool,
}

impl Wanted<'_> {
    fn limit(&self) -> usize {
        if self.reshape {
            MAX_ELEMENTS
        } else {
            self.shape.count().max(1)
        }
    }

    fn what(&self) -> String {
        format!("input `{}` is {}", self.blob, self.shape)
    }
}

/// The kinds of input files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    Npy,
    Npz,
    Picture,
    /// Little-endian f32 without a header.
    Raw,
}

impl Format {
    /// By the first bytes; whatever is not known is raw.
    pub fn of(start: &[u8]) -> Format {
        if start.starts_with(npy::MAGIC) {
            Format::Npy
        } else if start.starts_with(b"PK\x03\x04") || start.starts_with(b"PK\x05\x06") {
            Format::Npz
        } else if start.starts_with(b"\x89PNG") || start.starts_with(b"\xff\xd8\xff") {
            Format::Picture
        } else {
            Format::Raw
        }
    }

    /// Of a file. Errors: `Io`.
    pub fn of_file(path: &Path) -> Result<Format> {
        let mut reader = open(path)?;
        Ok(Format::of(reader.fill_buf().map_err(|e| failed(path, &e))?))
    }
}

/// Reads the files given for one input. Several files are put one after the other
/// along axis 0. Pictures go through `transform`.
///
/// Errors: `Io`, or `Invalid` naming file, blob and the shape that was expected.
pub fn read_input(paths: &[PathBuf], wanted: Wanted, transform: &Transform) -> Result<Tensor> {
    let mut parts = Vec::with_capacity(paths.len());
    for path in paths {
        parts.push(read_one(path, wanted, paths.len(), transform)?);
    }
    let tensor = concat(paths, parts)?;
    if !wanted.reshape && tensor.shape != *wanted.shape {
        let message = format!(
            "{}: the shape is {}, {}",
            display_all(paths),
            tensor.shape,
            wanted.what()
        );
        return Err(Diagnostic::invalid(message)
            .help("--reshape makes the net follow its inputs, --batch N changes axis 0")
            .into());
    }
    Ok(tensor)
}

fn read_one(path: &Path, wanted: Wanted, of: usize, transform: &Transform) -> Result<Tensor> {
    let mut reader = open(path)?;
    let start = reader.fill_buf().map_err(|e| failed(path, &e))?;
    let in_file = |e: io::Error| failed(path, &with_wanted(e, &wanted));
    match Format::of(start) {
        Format::Npy => npy::read(&mut reader, wanted.limit()).map_err(in_file),
        Format::Npz => read_member(path, wanted.blob, wanted.limit()).map_err(in_file),
        Format::Picture => read_picture(path, &mut reader, wanted, transform),
        Format::Raw => read_raw(&mut reader, wanted, of).map_err(in_file),
    }
}

fn open(path: &Path) -> Result<BufReader<File>> {
    let file = File::open(path).map_err(|e| failed(path, &e))?;
    Ok(BufReader::new(file))
}

fn failed(path: &Path, error: &io::Error) -> Errors {
    Diagnostic::io(path, error).into()
}

/// Adds what the net wants to a complaint about a file's content.
fn with_wanted(error: io::Error, wanted: &Wanted) -> io::Error {
    match error.kind() {
        io::ErrorKind::InvalidData => {
            io::Error::new(error.kind(), format!("{error}; {}", wanted.what()))
        }
        _ => error,
    }
}

fn invalid(message: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, message.into())
}

/// The member called `blob` of an npz file, or its only one.
fn read_member(path: &Path, blob: &str, limit: usize) -> io::Result<Tensor> {
    let mut zip = zip::ZipArchive::new(BufReader::new(File::open(path)?)).map_err(zip_error)?;
    let named = zip.index_for_name(&format!("{blob}.npy"));
    let index = named
        .or((zip.len() == 1).then_some(0))
        .ok_or_else(|| invalid(format!("no array called `{blob}` in the archive")))?;
    npy::read(&mut zip.by_index(index).map_err(zip_error)?, limit)
}

/// Names of the arrays in an npz file, in its order.
pub fn members(path: &Path) -> Result<Vec<String>> {
    let archive = || {
        zip::ZipArchive::new(BufReader::new(File::open(path)?))
            .map_err(zip_error)
            .map(|zip| zip.file_names().map(str::to_string).collect::<Vec<_>>())
    };
    let names = archive().map_err(|e| failed(path, &e))?;
    let arrays = names.iter().filter_map(|n| n.strip_suffix(".npy"));
    Ok(arrays.map(str::to_string).collect())
}

fn zip_error(e: zip::result::ZipError) -> io::Error {
    match e {
        zip::result::ZipError::Io(e) => e,
        other => invalid(other.to_string()),
    }
}

/// The wanted shape's values, or of several files each its share along axis 0.
fn read_raw(reader: &mut impl Read, wanted: Wanted, of: usize) -> io::Result<Tensor> {
    let mut dims = wanted.shape.dims().to_vec();
    if of > 1 {
        match dims.first_mut() {
            Some(axis) if *axis % of == 0 => *axis /= of,
            _ => return Err(invalid(format!("{of} raw files cannot share axis 0"))),
        }
    }
    let shape = Shape::new(dims).map_err(|e| invalid(e.to_string()))?;
    let expected = shape.count() * 4;
    let mut bytes = Vec::new();
    reader.take(expected as u64 + 1).read_to_end(&mut bytes)?;
    if bytes.len() != expected {
        let got = match bytes.len() {
            n if n > expected => format!("more than {expected} bytes"),
            n => format!("{n} bytes instead of {expected}"),
        };
        return Err(invalid(format!(
            "not npy, npz, PNG or JPEG, and as raw f32 it has {got}"
        )));
    }
    let data = bytes
        .as_chunks()
        .0
        .iter()
        .map(|&b| f32::from_le_bytes(b))
        .collect();
    Ok(Tensor::new(shape, data))
}

fn read_picture(
    path: &Path,
    reader: &mut impl Read,
    wanted: Wanted,
    transform: &Transform,
) -> Result<Tensor> {
    let &[_, channels, height, width] = wanted.shape.dims() else {
        let message = format!(
            "{}: a picture needs an input of 4 axes, {}",
            path.display(),
            wanted.what()
        );
        return Err(Diagnostic::invalid(message).into());
    };
    let mut bytes = Vec::new();
    let limited = reader.take(MAX_PICTURE_BYTES).read_to_end(&mut bytes);
    limited.map_err(|e| failed(path, &e))?;
    let picture = picture::decode(path, &bytes)?;
    let size = (!wanted.reshape).then_some((height, width));
    let blob = transform.apply(&picture, channels, size);
    blob.map_err(|e| e.map(|d| named(path, d)))
}

/// Puts a file's name in front of a message about its content.
fn named(path: &Path, mut d: Diagnostic) -> Diagnostic {
    d.message = format!("{}: {}", path.display(), d.message);
    d
}

fn display_all(paths: &[PathBuf]) -> String {
    let names: Vec<_> = paths.iter().map(|p| p.display().to_string()).collect();
    names.join(", ")
}

/// Joins tensors along axis 0.
fn concat(paths: &[PathBuf], mut parts: Vec<Tensor>) -> Result<Tensor> {
    if parts.len() == 1 {
        return Ok(parts.remove(0));
    }
    let mut dims = parts[0].shape.dims().to_vec();
    let fits = |t: &Tensor| !dims.is_empty() && t.shape.dims().get(1..) == dims.get(1..);
    if let Some(odd) = parts.iter().position(|t| !fits(t)) {
        let message = format!(
            "{}: the shape is {}, but {} has {}",
            paths[odd].display(),
            parts[odd].shape,
            paths[0].display(),
            parts[0].shape
        );
        return Err(Diagnostic::invalid(message).into());
    }
    dims[0] = parts.iter().map(|t| t.shape[0]).sum();
    let shape = Shape::new(dims)?;
    let data = parts.into_iter().flat_map(|t| t.data).collect();
    Ok(Tensor::new(shape, data))
}

/// A mean image: `.npy` of `C × H × W` or of one value per channel, or Caffe's
/// `.binaryproto`. A leading axis of 1 is dropped.
///
/// Errors: `Io`, or `Invalid` with the file's name.
pub fn read_mean(path: &Path) -> Result<picture::Mean> {
    let mut reader = open(path)?;
    let start = reader.fill_buf().map_err(|e| failed(path, &e))?;
    let tensor = match Format::of(start) {
        Format::Npy => npy::read(&mut reader, MAX_ELEMENTS).map_err(|e| failed(path, &e))?,
        Format::Npz => only_member(path)?,
        Format::Picture => {
            let message = format!(
                "{}: a mean is .npy or .binaryproto, not a picture",
                path.display()
            );
            return Err(Diagnostic::invalid(message).into());
        }
        Format::Raw => {
            let mut bytes = Vec::new();
            let limited = reader.take(MAX_PICTURE_BYTES).read_to_end(&mut bytes);
            limited.map_err(|e| failed(path, &e))?;
            read_binaryproto(path, bytes)?
        }
    };
    Ok(match tensor.shape.dims() {
        [_] => picture::Mean::Values(tensor.data),
        &[1, c, h, w] => picture::Mean::Image(Tensor::new(Shape::new([c, h, w])?, tensor.data)),
        _ => picture::Mean::Image(tensor),
    })
}

fn read_binaryproto(path: &Path, bytes: Vec<u8>) -> Result<Tensor> {
    let blob = read_blob(&path.display().to_string(), bytes)?;
    let shape = Shape::from_i64(&blob.shape).map_err(|e| e.map(|d| named(path, d)))?;
    if blob.data.len() != shape.count() {
        let (path, n) = (path.display(), blob.data.len());
        return Err(
            Diagnostic::invalid(format!("{path}: {n} values for a shape of {shape}")).into(),
        );
    }
    Ok(Tensor::new(shape, blob.data.floats().into_owned()))
}

fn only_member(path: &Path) -> Result<Tensor> {
    read_member(path, "mean", MAX_ELEMENTS).map_err(|e| failed(path, &e))
}

/// Output files that appear together or not at all.
#[derive(Default)]
pub struct Staged {
    files: Vec<(NamedTempFile, PathBuf)>,
}

impl Staged {
    /// Writes a file that takes its place at [`commit`](Staged::commit). What exists
    /// there and is no regular file (a pipe, `/dev/null`) is written at once.
    ///
    /// Errors: `Io`, naming `path`.
    pub fn write(
        &mut self,
        path: &Path,
        content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> Result<()> {
        self.stage(path, content)
            .map_err(|e| Diagnostic::io(path, &e).into())
    }

    fn stage(
        &mut self,
        path: &Path,
        content: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        // A link is followed: its target is replaced, not the link.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_path_buf());
        match path.metadata() {
            Ok(m) if m.is_dir() => return Err(io::ErrorKind::IsADirectory.into()),
            Ok(m) if !m.is_file() => {
                let mut file = BufWriter::new(File::options().write(true).open(&path)?);
                content(&mut file)?;
                return file.flush();
            }
            _ => {}
        }
        let mut file = temporary(&path)?;
        let mut writer = BufWriter::new(&mut file);
        content(&mut writer)?;
        writer.flush()?;
        drop(writer);
        self.files.push((file, path));
        Ok(())
    }

    /// Writes `tensor` as npy.
    pub fn npy(&mut self, path: &Path, shape: &[usize], data: &[f32]) -> Result<()> {
        self.write(path, |mut w| npy::write(&mut w, shape, data))
    }

    /// Moves all files to their places.
    pub fn commit(self) -> Result<()> {
        for (file, path) in self.files {
            file.persist(&path)
                .map_err(|e| Diagnostic::io(&path, &e.error))?;
        }
        Ok(())
    }
}

/// A temporary file beside `path`, with the permissions of a file that is just made.
fn temporary(path: &Path) -> io::Result<NamedTempFile> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let mut builder = tempfile::Builder::new();
    #[cfg(unix)]
    let mode = {
        use std::os::unix::fs::PermissionsExt;
        std::fs::Permissions::from_mode(0o666)
    };
    #[cfg(unix)]
    builder.permissions(mode);
    builder.prefix(".caffec-").tempfile_in(folder)
}

/// The file name of a blob: its name with `/` as `_`.
///
/// Errors: `Invalid` for a name that is no file's.
pub fn blob_file_name(blob: &str) -> Result<String> {
    let name = format!("{}.npy", blob.replace('/', "_"));
    if name.len() > 255 || name.contains('\0') {
        let message = format!("the blob's name `{blob}` cannot be a file's name");
        return Err(Diagnostic::invalid(message).into());
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shape(dims: &[usize]) -> Shape {
        Shape::new(dims).unwrap()
    }

    fn in_folder(name: &str, bytes: &[u8]) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        (folder, path)
    }

    fn read(path: &Path, dims: &[usize], reshape: bool) -> Result<Tensor, String> {
        let shape = shape(dims);
        let wanted = Wanted {
            blob: "data",
            shape: &shape,
            reshape,
        };
        let got = read_input(&[path.to_path_buf()], wanted, &Transform::default());
        let place = format!("{}: ", path.display());
        got.map_err(|e| e.to_string().replace(&place, ""))
    }

    #[test]
    fn a_shape_that_differs_needs_reshape() {
        let mut bytes = Vec::new();
        npy::write(&mut bytes, &[1, 2], &[1.0, 2.0]).unwrap();
        let (_folder, path) = in_folder("x.npy", &bytes);
        assert_eq!(read(&path, &[1, 2], false).unwrap().data, [1.0, 2.0]);
        assert_eq!(
            read(&path, &[2, 1], false).unwrap_err(),
            "the shape is 1×2, input `data` is 2×1"
        );
        assert_eq!(
            read(&path, &[1, 1], false).unwrap_err(),
            "2 elements (1×2), more than the 1 expected; input `data` is 1×1"
        );
        assert_eq!(read(&path, &[9, 9], true).unwrap().shape, shape(&[1, 2]));
    }

    #[test]
    fn raw_files_have_exactly_the_values() {
        let (_folder, path) = in_folder("x.bin", &[0, 0, 128, 63, 0, 0, 0, 64]);
        assert_eq!(read(&path, &[2], false).unwrap().data, [1.0, 2.0]);
        assert_eq!(
            read(&path, &[1, 3], false).unwrap_err(),
            "not npy, npz, PNG or JPEG, and as raw f32 it has 8 bytes instead of 12; input `data` is 1×3"
        );
        assert!(
            read(&path, &[1], false)
                .unwrap_err()
                .contains("more than 4 bytes")
        );
    }

    #[test]
    fn archives_by_name_or_alone() {
        let archive = |names: &[&str]| {
            let mut zip = zip::ZipWriter::new(io::Cursor::new(Vec::new()));
            for (i, name) in names.iter().enumerate() {
                let options = zip::write::SimpleFileOptions::default();
                zip.start_file(format!("{name}.npy"), options).unwrap();
                npy::write(&mut zip, &[1], &[i as f32]).unwrap();
            }
            zip.finish().unwrap().into_inner()
        };
        let (_folder, path) = in_folder("x.npz", &archive(&["other", "data"]));
        assert_eq!(members(&path).unwrap(), ["other", "data"]);
        assert_eq!(read(&path, &[1], false).unwrap().data, [1.0]);
        let (_folder, path) = in_folder("x.npz", &archive(&["a", "b"]));
        let e = read(&path, &[1], false).unwrap_err();
        assert!(e.contains("no array called `data`"), "{e}");
        let (_folder, path) = in_folder("x.npz", b"PK\x03\x04 nothing");
        assert!(read(&path, &[1], false).is_err());
    }

    #[test]
    fn files_stack_along_the_batch() {
        let (_folder, path) = in_folder("x.bin", &[0, 0, 128, 63, 0, 0, 0, 64]);
        let shape = shape(&[2, 2]);
        let wanted = Wanted {
            blob: "data",
            shape: &shape,
            reshape: false,
        };
        let got = read_input(&[path.clone(), path], wanted, &Transform::default()).unwrap();
        assert_eq!(got.data, [1.0, 2.0, 1.0, 2.0]);
    }

    #[test]
    fn nothing_appears_before_commit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("out.npy");
        let mut staged = Staged::default();
        staged.npy(&path, &[1], &[1.0]).unwrap();
        assert!(!path.exists());
        staged.commit().unwrap();
        assert!(path.exists());
        let failed = Staged::default().write(&path, |_| Err(invalid("no")));
        assert!(failed.is_err());
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn broken_pictures_are_named() {
        let (_folder, path) = in_folder("cat.jpg", b"\xff\xd8\xff\xe0garbage");
        let e = read(&path, &[1, 3, 2, 2], false).unwrap_err();
        assert!(e.starts_with("not a usable picture: "), "{e}");
        let e = read(&path, &[3], false).unwrap_err();
        assert_eq!(e, "a picture needs an input of 4 axes, input `data` is 3");
    }
}
