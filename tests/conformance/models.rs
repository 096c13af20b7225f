//! `models/`: trained nets of the zoo on real pictures, with outputs and inner blobs.

use crate::engines::Engine;
use crate::net::{Run, difference, dims, members, shapes, state};
use crate::{Outcome, Verdict};
use caffec::diag::Sources;
use caffec::ir::{Options, Shape, Tensor};
use caffec::runtime::npy::read_npy;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A folder with `model.json` and arrays; net and weights may lie in the zoo.
pub struct Model {
    folder: PathBuf,
    zoo: PathBuf,
    json: Value,
}

impl Model {
    pub fn read(folder: &Path, zoo: &Path) -> Model {
        let text = std::fs::read(folder.join("model.json")).unwrap();
        Model {
            folder: folder.to_path_buf(),
            zoo: zoo.to_path_buf(),
            json: serde_json::from_slice(&text).unwrap(),
        }
    }

    pub fn outcome(&self, engine: &Engine) -> Outcome {
        let name = self.json["name"].as_str().unwrap().to_string();
        Outcome::of(name.clone(), name, engine.name, || self.verdict(engine))
    }

    fn verdict(&self, engine: &Engine) -> Verdict {
        if self.json.get("edit").is_some() {
            return Verdict::Skipped("a net that the case changes");
        }
        let mut sources = Sources::default();
        let got = match self.run().run(engine, &mut sources) {
            Ok(got) => got,
            Err(errors) => return Verdict::of(&errors, &sources),
        };
        for (name, entry) in self.blobs() {
            let Some((_, blob)) = got.iter().find(|(n, _)| n == name) else {
                return Verdict::Fail(format!("no blob `{name}`"));
            };
            if blob.shape.dims() != dims(&entry["shape"]) {
                return Verdict::Fail(format!("blob `{name}` is {}", blob.shape));
            }
            let part = stored(blob, entry);
            let want = self.array(entry);
            let want = Tensor::new(part.shape.clone(), want.data);
            if let Some(why) = difference(&part, &want, false, 1e-4) {
                return Verdict::Fail(format!("blob `{name}`: {why}"));
            }
        }
        Verdict::Pass
    }

    fn run(&self) -> Run {
        let inputs: BTreeMap<String, Tensor> = members(&self.json["inputs"])
            .map(|(name, entry)| (name.clone(), self.input(entry)))
            .collect();
        Run {
            prototxt: self.find("prototxt"),
            weights: Some(self.find("caffemodel")),
            state: state(&self.json),
            options: Options {
                blobs: self.blobs().map(|(name, _)| name.clone()).collect(),
                fed: Some(inputs.keys().cloned().collect()),
                shapes: match self.json["reshape"].as_bool() {
                    Some(true) => shapes(&inputs),
                    _ => BTreeMap::new(),
                },
                ..Options::default()
            },
            forwards: 1,
            inputs,
        }
    }

    fn find(&self, key: &str) -> PathBuf {
        let path = self.json[key].as_str().unwrap();
        let beside = self.folder.join(path);
        match beside.exists() {
            true => beside,
            false => self.zoo.join(path),
        }
    }

    /// Outputs and inner blobs that have a file.
    fn blobs(&self) -> impl Iterator<Item = (&String, &Value)> {
        let all = members(&self.json["outputs"]).chain(members(&self.json["interior"]));
        all.filter(|(_, entry)| entry.get("file").is_some())
    }

    fn array(&self, entry: &Value) -> Tensor {
        read_npy(&self.folder.join(entry["file"].as_str().unwrap())).unwrap()
    }

    fn input(&self, entry: &Value) -> Tensor {
        if entry["formula"].as_bool() == Some(true) {
            return formula(Shape::new(dims(&entry["shape"])).unwrap());
        }
        let mut tensor = self.array(entry);
        let channel = tensor
            .shape
            .count_of(2.min(tensor.shape.len())..tensor.shape.len());
        let minus: Vec<f32> = floats(&entry["minus"]);
        let over = entry["over"].as_f64().unwrap_or(1.0) as f32;
        for (i, x) in tensor.data.iter_mut().enumerate() {
            let mean = minus.get(i / channel % minus.len().max(1)).unwrap_or(&0.0);
            *x = (*x - mean) / over;
        }
        tensor
    }
}

/// The zoo's reference input.
fn formula(shape: Shape) -> Tensor {
    let value =
        |i: usize| (f64::from((i as u32).wrapping_mul(2_654_435_761)) / 4_294_967_296.0) as f32;
    let data = (0..shape.count()).map(value).collect();
    Tensor::new(shape, data)
}

fn floats(list: &Value) -> Vec<f32> {
    let list = list.as_array().into_iter().flatten();
    list.map(|v| v.as_f64().unwrap() as f32).collect()
}

/// What of a blob is stored: its first items, some elements, or all.
fn stored(blob: &Tensor, entry: &Value) -> Tensor {
    if let Some(first) = entry["first"].as_u64() {
        let mut shape = blob.shape.to_vec();
        shape[0] = first as usize;
        let shape = Shape::new(shape).unwrap();
        let data = blob.data[..shape.count()].to_vec();
        return Tensor::new(shape, data);
    }
    if let Some(step) = entry["flat_step"].as_u64() {
        let data: Vec<f32> = blob.data.iter().copied().step_by(step as usize).collect();
        return Tensor::new(Shape::new([data.len()]).unwrap(), data);
    }
    blob.clone()
}
