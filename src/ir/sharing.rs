//! Parameter blobs of the net, and which layers share them by name (Caffe `net.cpp`,
//! `AppendParam`).

use super::wiring::Layer;
use super::{FloatData, Graph, Param, ParamId, ParamSpec};
use crate::diag::{Diagnostic, Result};
use crate::frontend::proto::{BlobProto, ParamSpec as Declared, param_spec::DimCheckMode};
use crate::weights::{DIAGONAL, FILLERS};
use std::collections::HashMap;

/// The parameters that have a name.
#[derive(Default)]
pub struct Sharing {
    owners: HashMap<String, Owner>,
}

struct Owner {
    param: ParamId,
    /// Set by the first layer that gives them.
    lr_mult: Option<f32>,
    decay_mult: Option<f32>,
}

impl Sharing {
    /// The parameter blobs of a layer: new ones of these `specs`, or those that an
    /// earlier layer has under the same name.
    ///
    /// Errors: `Invalid` for more `param`s than blobs, unknown fillers, sharing with
    /// another shape (PERMISSIVE: another size) or other multipliers, and `blobs` in
    /// the file that do not fit.
    pub fn params(
        &mut self,
        graph: &mut Graph,
        layer: &Layer,
        specs: Vec<ParamSpec>,
    ) -> Result<Vec<ParamId>> {
        let declared = &layer.param.param;
        let given = &layer.param.blobs;
        if declared.len() > specs.len() {
            let message = format!(
                "{} `param`s for {} parameter blobs",
                declared.len(),
                specs.len()
            );
            return Err(layer
                .invalid(&format!("param[{}]", specs.len()), message)
                .into());
        }
        if !given.is_empty() && given.len() != specs.len() {
            let message = format!(
                "{} `blobs` for {} parameter blobs",
                given.len(),
                specs.len()
            );
            return Err(layer.invalid("blobs", message).into());
        }
        let unnamed = Declared::default();
        let mut params = Vec::new();
        for (index, spec) in specs.into_iter().enumerate() {
            check_filler(layer, &spec)?;
            let declared = declared.get(index).unwrap_or(&unnamed);
            params.push(match self.owners.get_mut(declared.name()) {
                Some(owner) => owner.share(graph, layer, index, &spec, declared)?,
                None => {
                    let param = own(graph, layer, index, spec)?;
                    self.name(declared, param);
                    param
                }
            });
        }
        Ok(params)
    }

    fn name(&mut self, declared: &Declared, param: ParamId) {
        if !declared.name().is_empty() {
            let owner = Owner {
                param,
                lr_mult: declared.lr_mult,
                decay_mult: declared.decay_mult,
            };
            self.owners.insert(declared.name().to_string(), owner);
        }
    }
}

impl Owner {
    fn share(
        &mut self,
        graph: &Graph,
        layer: &Layer,
        index: usize,
        spec: &ParamSpec,
        declared: &Declared,
    ) -> Result<ParamId> {
        let owned = &graph[self.param];
        let (has, wants) = (&owned.spec.shape, &spec.shape);
        let fits = match declared.share_mode() {
            DimCheckMode::Permissive => has.count() == wants.count(),
            DimCheckMode::Strict => has == wants,
        };
        let refuse = |field: &str, what: String| -> Diagnostic {
            let message = format!(
                "cannot share `{}` with layer `{}`: {what}",
                declared.name(),
                owned.layer
            );
            layer.invalid(&format!("param[{index}].{field}"), message)
        };
        if !fits {
            return Err(refuse("name", format!("it is {has} there and {wants} here")).into());
        }
        for (field, here, there) in [
            ("lr_mult", declared.lr_mult, &mut self.lr_mult),
            ("decay_mult", declared.decay_mult, &mut self.decay_mult),
        ] {
            if let Some(here) = here
                && here != *there.get_or_insert(here)
            {
                let there = there.unwrap_or(here);
                return Err(
                    refuse(field, format!("{field} is {there} there and {here} here")).into(),
                );
            }
        }
        Ok(self.param)
    }
}

fn own(graph: &mut Graph, layer: &Layer, index: usize, spec: ParamSpec) -> Result<ParamId> {
    let data = match layer.param.blobs.get(index) {
        Some(blob) => Some(values(layer, index, blob, spec.shape.count())?),
        None => None,
    };
    graph.params.push(Param {
        layer: layer.name().to_string(),
        index,
        spec,
        flat: layer.flat && index == 0,
        data,
    });
    Ok(ParamId(graph.params.len() as u32 - 1))
}

/// Values that stand in the net's own file.
fn values(layer: &Layer, index: usize, blob: &BlobProto, count: usize) -> Result<FloatData> {
    let floats: Vec<f32> = match blob.double_data.is_empty() {
        true => blob.data.clone(),
        false => blob.double_data.iter().map(|&d| d as f32).collect(),
    };
    if floats.len() != count {
        let message = format!("{} values for a parameter blob of {count}", floats.len());
        return Err(layer.invalid(&format!("blobs[{index}]"), message).into());
    }
    Ok(FloatData::new(floats))
}

fn check_filler(layer: &Layer, spec: &ParamSpec) -> Result<()> {
    let name = spec.filler.r#type();
    if FILLERS.contains(&name) || name == DIAGONAL {
        return Ok(());
    }
    let d = layer.invalid("", format!("there is no filler `{name}`"));
    Err(d
        .help(format!("fillers are: {}", FILLERS.join(", ")))
        .into())
}
