//! Reading files, also those that a net names.

use super::Net;
use super::binary::read_blob;
use super::proto::LayerParameter;
use crate::diag::{Diagnostic, Errors, Result};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

/// Largest file that is read whole, in bytes; weights have no limit.
const MOST: u64 = 1 << 31;

/// The file's name, as messages give it, and its content. Errors: `Io`; `Invalid` above
/// 2 GiB.
pub fn read(path: &Path) -> Result<(String, Vec<u8>)> {
    let name = path.display().to_string();
    let file = File::open(path).map_err(|e| Diagnostic::io(path, &e))?;
    let bytes = read_from(&name, file)?;
    Ok((name, bytes))
}

/// What can be read of something called `name`. Errors as those of [`read`].
pub fn read_from(name: &str, from: impl Read) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = from.take(MOST + 1).read_to_end(&mut bytes);
    read.map_err(|e| Diagnostic::io(name.as_ref(), &e))?;
    if bytes.len() as u64 > MOST {
        let message = format!("{name}: more than 2 GiB, too large for a net");
        return Err(Diagnostic::invalid(message).into());
    }
    Ok(bytes)
}

/// The file that the file `from` calls `name`: seen from its folder, from here, or from
/// a folder above it, since such names are written to be used from Caffe's root.
pub fn named(from: &Path, name: &str) -> Option<PathBuf> {
    let mut folders = from.ancestors().skip(1);
    let beside = folders.next().unwrap_or(Path::new(""));
    let places = [beside, Path::new("")].into_iter().chain(folders);
    places
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

/// Reads the arrays in files that layers of the file `from` name. One that is not there is
/// the layer's to tell, if it stays in the net.
pub(super) fn read_arrays(net: &mut Net, from: &Path) -> Result<()> {
    for (i, (layer, source)) in net.param.layer.iter().zip(&net.layers).enumerate() {
        let Some((field, name, numbers)) = array_of(layer) else {
            continue;
        };
        let Some(file) = named(from, name) else {
            continue;
        };
        let at = source.span_of(field);
        let located = |e: Errors| e.map(|d| d.at(at).layer(layer.name()));
        let (file, bytes) = read(&file).map_err(located)?;
        net.files.insert(i, numbers(&file, bytes).map_err(located)?);
    }
    Ok(())
}

type Numbers = fn(&str, Vec<u8>) -> Result<Vec<f32>>;

/// The field of the layer that names a file, the file, and how its numbers are read.
fn array_of(layer: &LayerParameter) -> Option<(&'static str, &str, Numbers)> {
    match layer.r#type() {
        "InfogainLoss" if layer.bottom.len() == 2 => {
            let name = layer.infogain_loss_param.as_ref()?.source();
            Some(("infogain_loss_param.source", name, blob))
        }
        "DetectionEvaluate" => {
            let name = layer.detection_evaluate_param.as_ref()?.name_size_file();
            Some(("detection_evaluate_param.name_size_file", name, sizes))
        }
        _ => None,
    }
}

fn blob(name: &str, bytes: Vec<u8>) -> Result<Vec<f32>> {
    Ok(read_blob(name, bytes)?.data.floats().into_owned())
}

/// Height and width of each line `name height width`. Errors: `Invalid`; SSD's reader
/// would leave out the rest of the file.
fn sizes(name: &str, bytes: Vec<u8>) -> Result<Vec<f32>> {
    let text = String::from_utf8_lossy(&bytes);
    let words: Vec<&str> = text.split_ascii_whitespace().collect();
    let (images, rest) = words.as_chunks::<3>();
    let mut sizes = Vec::new();
    for (i, [image, height, width]) in images.iter().enumerate() {
        match (height.parse::<u32>(), width.parse::<u32>()) {
            (Ok(height), Ok(width)) => sizes.extend([height as f32, width as f32]),
            _ => {
                let message = format!(
                    "{name}: image {}: `{image} {height} {width}` is no name, height and width",
                    i + 1
                );
                return Err(Diagnostic::invalid(message).into());
            }
        }
    }
    if !rest.is_empty() || sizes.is_empty() {
        let message = format!("{name}: not a name, a height and a width for each image");
        return Err(Diagnostic::invalid(message).into());
    }
    Ok(sizes)
}

#[cfg(test)]
mod tests {
    use super::super::proto::BlobProto;
    use super::super::{State, load_net};
    use crate::diag::Sources;
    use prost::Message as _;

    #[test]
    fn the_matrix_that_a_net_names_is_looked_for_from_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let net = folder.path().join("net.prototxt").display().to_string();
        let text = "layer { name: 'in' type: 'Input' top: 'x' top: 'y' }
layer { name: 'loss' type: 'InfogainLoss' bottom: 'x' bottom: 'y' top: 'loss'
  infogain_loss_param { source: 'h.binaryproto' } }";
        let mut sources = Sources::default();
        let mut load = || {
            let loaded = load_net(&net, text.into(), &mut sources, &State::default());
            loaded.map_err(|e| sources.render_all(&e))
        };
        assert!(load().unwrap().files.is_empty());
        let matrix = BlobProto {
            data: vec![1.0, 2.0],
            ..BlobProto::default()
        };
        let file = folder.path().join("h.binaryproto");
        std::fs::write(&file, matrix.encode_to_vec()).unwrap();
        assert_eq!(load().unwrap().files[&1], [1.0, 2.0]);
        std::fs::write(&file, "no array").unwrap();
        let at = format!("{net}:3:25: error: layer `loss`: ");
        assert!(load().unwrap_err().starts_with(&at));
    }

    #[test]
    fn sizes_of_images() {
        let read = |text: &str| super::sizes("s", text.into()).map_err(|e| e.to_string());
        assert_eq!(read("a 3 4\nb 5 6\n").unwrap(), [3.0, 4.0, 5.0, 6.0]);
        let wrong = "s: image 2: `b c 6` is no name, height and width";
        assert_eq!(read("a 3 4\nb c 6 d").unwrap_err(), wrong);
        assert!(read("a 3").is_err() && read("").is_err());
    }
}
