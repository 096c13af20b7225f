//! Nets and solvers of older formats → the current one, as Caffe does it.
//!
//! In: a bound [`NetParameter`] of any age, with its spans. Out: the same net with
//! `layer` records only, [`LayerSource`]s beside them, and notes on what Caffe drops
//! on the way. The steps and their order are those of BVLC/caffe
//! `upgrade_proto.cpp`, `UpgradeNetAsNeeded`: V0 to V1, data transformation, V1 to
//! V2, inputs, BatchNorm. Start reading at [`upgrade_net`].

use std::collections::HashMap;

use super::dialect::of_clips;
use super::proto::v1_layer_parameter::LayerType;
use super::proto::{
    BlobShape, InputParameter, LayerParameter, NetParameter, ParamSpec, SolverParameter,
    TransformationParameter, V0LayerParameter, V1LayerParameter, solver_parameter::SolverType,
};
use super::source::LayerSource;
use super::spans::Spans;
use crate::diag::{Diagnostic, Result};

/// A net in the current format.
#[derive(Debug)]
pub struct Upgraded {
    pub param: NetParameter,
    /// One for each `param.layer`.
    pub sources: Vec<LayerSource>,
    /// What was lost, as Caffe loses it.
    pub notes: Vec<Diagnostic>,
}

/// Brings a net to the current format; one that is current stays as it is.
///
/// `layer` and `layers` in one file are taken in the order of the file if
/// `allow_mixed`, those of `layers` first where it is binary.
///
/// Errors: `Invalid` where Caffe refuses, and where it reads past the end of
/// `input_dim` or `input_shape`.
pub fn upgrade_net(
    mut net: NetParameter,
    spans: Option<&Spans>,
    allow_mixed: bool,
) -> Result<Upgraded> {
    let mut notes = Vec::new();
    let beside = match allow_mixed {
        true => std::mem::take(&mut net.layer),
        false => Vec::new(),
    };
    let old_layers = std::mem::take(&mut net.layers);
    let mut old: Vec<Old> = old_layers
        .into_iter()
        .zip(sources(spans, "layers"))
        .map(|(layer, spans)| Old {
            layer,
            source: LayerSource::old(spans),
        })
        .collect();
    if old.iter().any(|o| o.layer.layer.is_some()) {
        old = v0_to_v1(&mut net, old, spans, &mut notes)?;
    }
    move_transformation(&mut old);
    let current = beside.into_iter().chain(std::mem::take(&mut net.layer));
    let mut layers: Vec<Sourced> = current
        .zip(sources(spans, "layer"))
        .map(|(layer, spans)| (layer, LayerSource::current(spans)))
        .collect();
    notes.extend(layers.iter().filter_map(without_effect));
    if let (Some(first), false) = (old.first(), layers.is_empty()) {
        if !allow_mixed {
            return Err(mixed_formats(first, &layers[0].1).into());
        }
        let message = "`layer` and `layers` are taken in the order of the file";
        notes.push(Diagnostic::invalid(message).at(first.source.span()));
    }
    let old = old.into_iter().map(|o| (v1_to_v2(o.layer), o.source));
    layers = old.chain(layers).collect();
    layers.sort_by_key(|(_, source)| source.span().map(|span| span.start));
    if !net.input.is_empty() {
        inputs_to_layer(&mut net, &mut layers, spans, &mut notes)?;
    }
    for (layer, _) in &mut layers {
        freeze_batch_norm(layer);
    }
    let (layer, sources) = layers.into_iter().unzip();
    net.layer = layer;
    Ok(Upgraded {
        param: net,
        sources,
        notes,
    })
}

type Sourced = (LayerParameter, LayerSource);

/// A record of `layers`, in the V0 or V1 form.
struct Old {
    layer: V1LayerParameter,
    source: LayerSource,
}

impl Old {
    fn v0_type(&self) -> &str {
        self.layer.layer.as_ref().map_or("", |v0| v0.r#type())
    }

    fn name(&self) -> &str {
        match &self.layer.layer {
            Some(v0) => v0.name(),
            None => self.layer.name(),
        }
    }

    fn error(&self, message: String) -> Diagnostic {
        let error = Diagnostic::invalid(message).at(self.source.span());
        match self.name() {
            "" => error,
            name => error.layer(name),
        }
    }
}

/// The spans of a repeated field's values, or as many nothings as are asked for.
fn sources<'a>(
    spans: Option<&'a Spans>,
    field: &'a str,
) -> impl Iterator<Item = Option<Spans>> + 'a {
    let known = spans.into_iter().flat_map(move |s| s.children(field));
    known.map(Some).chain(std::iter::repeat(None))
}

fn mixed_formats(old: &Old, current: &LayerSource) -> Diagnostic {
    let error = Diagnostic::invalid(
        "the net has both `layer` records (current format) and `layers` records (older format)",
    )
    .at(old.source.span())
    .help("write all of them as `layer { type: \"…\" … }`, or give --allow-mixed");
    match current.span() {
        Some(span) => error.related(span, "a `layer` record"),
        None => error,
    }
}

// ---------------------------------------------------------------- V0 to V1

/// Source: `UpgradeV0Net`. Of the net, only name, inputs and force_backward stay.
fn v0_to_v1(
    net: &mut NetParameter,
    old: Vec<Old>,
    spans: Option<&Spans>,
    notes: &mut Vec<Diagnostic>,
) -> Result<Vec<Old>> {
    for (set, field) in [
        (!net.input_shape.is_empty(), "input_shape"),
        (net.state.is_some(), "state"),
        (net.debug_info.is_some(), "debug_info"),
        (!net.layer.is_empty(), "layer"),
    ] {
        if set {
            let message = format!("`{field}` is ignored in a net with V0 layers, as Caffe does");
            notes.push(Diagnostic::invalid(message).at(spans.map(|s| s.span_of(field))));
        }
    }
    *net = NetParameter {
        name: net.name.take(),
        input: std::mem::take(&mut net.input),
        input_dim: std::mem::take(&mut net.input_dim),
        force_backward: net.force_backward,
        ..Default::default()
    };
    let old = merge_padding(&net.input, old)?;
    old.into_iter().map(|o| v0_layer_to_v1(o, notes)).collect()
}

/// Padding layers vanish into the convolutions and poolings that they feed.
/// Source: `UpgradeV0PaddingLayers`.
fn merge_padding(inputs: &[String], old: Vec<Old>) -> Result<Vec<Old>> {
    let mut made_by: HashMap<String, Option<usize>> =
        inputs.iter().map(|name| (name.clone(), None)).collect();
    let mut padding: HashMap<usize, Old> = HashMap::new();
    let mut out: Vec<Old> = Vec::new();
    for (index, mut layer) in old.into_iter().enumerate() {
        for j in 0..layer.layer.bottom.len() {
            let name = layer.layer.bottom[j].clone();
            let Some(maker) = made_by.get(&name) else {
                let message = format!("no layer before this one makes bottom `{name}`");
                let at = layer.source.span_of(&format!("bottom[{j}]"));
                return Err(layer.error(message).at(at).into());
            };
            if let Some(source) = maker.and_then(|i| padding.get(&i)) {
                take_padding(&mut layer, source)?;
            }
        }
        for top in &layer.layer.top {
            made_by.insert(top.clone(), Some(index));
        }
        match layer.v0_type() {
            "padding" => {
                padding.insert(index, layer);
            }
            _ => out.push(layer),
        }
    }
    Ok(out)
}

/// `layer` reads what `padding` makes: it takes over its bottom and amount.
fn take_padding(layer: &mut Old, padding: &Old) -> Result<()> {
    if !matches!(layer.v0_type(), "conv" | "pool") {
        let kind = layer.v0_type();
        let message =
            format!("a padding layer feeds a layer of type `{kind}`, but only conv and pool pad");
        return Err(layer.error(message).into());
    }
    let (Some(amount), [_], [bottom], [_]) = (
        padding.layer.layer.as_ref().map(V0LayerParameter::pad),
        layer.layer.bottom.as_slice(),
        padding.layer.bottom.as_slice(),
        padding.layer.top.as_slice(),
    ) else {
        let message = "a padding layer and the layer that it feeds have one bottom each, and the padding layer one top";
        return Err(layer.error(message.into()).into());
    };
    layer.layer.bottom[0] = bottom.clone();
    layer.layer.layer.get_or_insert_default().pad = Some(amount);
    layer.source.set_padding(&padding.source);
    Ok(())
}

/// Takes a value where there is one place or a list.
trait Slot<T> {
    fn put(&mut self, value: T);
}

impl<T> Slot<T> for Option<T> {
    fn put(&mut self, value: T) {
        *self = Some(value);
    }
}

impl<T> Slot<T> for Vec<T> {
    fn put(&mut self, value: T) {
        self.push(value);
    }
}

/// Moves a V0 field to where a layer of type `$kind` has it, or notes it as lost.
macro_rules! place {
    ($v0:ident.$field:ident, $kind:ident, $lost:ident, $v1:ident:
     $($name:literal => $param:ident.$target:ident),+) => {
        if let Some(value) = $v0.$field.take() {
            match $kind {
                $($name => $v1.$param.get_or_insert_default().$target.put(value),)+
                _ => $lost.push(stringify!($field)),
            }
        }
    };
}

/// Source: `UpgradeV0LayerParameter`. A record without a nested layer keeps its
/// bottoms and tops only.
fn v0_layer_to_v1(old: Old, notes: &mut Vec<Diagnostic>) -> Result<Old> {
    let kind = old.v0_type().to_string();
    let Old { mut layer, source } = old;
    let nested = layer.layer.take();
    let mut v1 = V1LayerParameter {
        bottom: std::mem::take(&mut layer.bottom),
        top: std::mem::take(&mut layer.top),
        ..Default::default()
    };
    if layer != V1LayerParameter::default() {
        let message = "beside V0 layers, only bottom and top of a record count, as in Caffe";
        notes.push(Diagnostic::invalid(message).at(source.span()));
    }
    let Some(mut v0) = nested else {
        return Ok(Old { layer: v1, source });
    };
    if v0.r#type.is_some() {
        let Some(ty) = v0_type(&kind) else {
            let error = Diagnostic::invalid(format!("unknown V0 layer type `{kind}`"));
            let error = error.at(source.span_of("type")).layer(v0.name());
            return Err(error.into());
        };
        v1.r#type = Some(ty.into());
    }
    let name = v0.name().to_string();
    for field in place_v0_fields(&mut v0, &kind, &mut v1) {
        let message = format!("`{field}` has no meaning for type `{kind}` and is dropped");
        let at = source.span_of(&format!("x_param.{field}"));
        notes.push(Diagnostic::invalid(message).at(at).layer(&name));
    }
    Ok(Old { layer: v1, source })
}

/// Returns the fields that a layer of this type does not have.
fn place_v0_fields(
    v0: &mut V0LayerParameter,
    kind: &str,
    v1: &mut V1LayerParameter,
) -> Vec<&'static str> {
    let mut lost = Vec::new();
    v1.name = v0.name.take();
    v1.blobs = std::mem::take(&mut v0.blobs);
    v1.blobs_lr = std::mem::take(&mut v0.blobs_lr);
    v1.weight_decay = std::mem::take(&mut v0.weight_decay);
    place!(v0.num_output, kind, lost, v1: "conv" => convolution_param.num_output, "innerproduct" => inner_product_param.num_output);
    place!(v0.biasterm, kind, lost, v1: "conv" => convolution_param.bias_term, "innerproduct" => inner_product_param.bias_term);
    place!(v0.weight_filler, kind, lost, v1: "conv" => convolution_param.weight_filler, "innerproduct" => inner_product_param.weight_filler);
    place!(v0.bias_filler, kind, lost, v1: "conv" => convolution_param.bias_filler, "innerproduct" => inner_product_param.bias_filler);
    place!(v0.pad, kind, lost, v1: "conv" => convolution_param.pad, "pool" => pooling_param.pad);
    place!(v0.kernelsize, kind, lost, v1: "conv" => convolution_param.kernel_size, "pool" => pooling_param.kernel_size);
    place!(v0.group, kind, lost, v1: "conv" => convolution_param.group);
    place!(v0.stride, kind, lost, v1: "conv" => convolution_param.stride, "pool" => pooling_param.stride);
    place!(v0.pool, kind, lost, v1: "pool" => pooling_param.pool);
    place!(v0.dropout_ratio, kind, lost, v1: "dropout" => dropout_param.dropout_ratio);
    place!(v0.local_size, kind, lost, v1: "lrn" => lrn_param.local_size);
    place!(v0.alpha, kind, lost, v1: "lrn" => lrn_param.alpha);
    place!(v0.beta, kind, lost, v1: "lrn" => lrn_param.beta);
    place!(v0.k, kind, lost, v1: "lrn" => lrn_param.k);
    place!(v0.source, kind, lost, v1:
        "data" => data_param.source, "hdf5_data" => hdf5_data_param.source,
        "images" => image_data_param.source, "window_data" => window_data_param.source,
        "infogain_loss" => infogain_loss_param.source);
    place_transformation(v0, v1);
    place!(v0.batchsize, kind, lost, v1:
        "data" => data_param.batch_size, "hdf5_data" => hdf5_data_param.batch_size,
        "images" => image_data_param.batch_size, "window_data" => window_data_param.batch_size);
    place!(v0.rand_skip, kind, lost, v1: "data" => data_param.rand_skip, "images" => image_data_param.rand_skip);
    place!(v0.shuffle_images, kind, lost, v1: "images" => image_data_param.shuffle);
    let mut unsigned = UnsignedSize::of(v0);
    place!(unsigned.new_height, kind, lost, v1: "images" => image_data_param.new_height);
    place!(unsigned.new_width, kind, lost, v1: "images" => image_data_param.new_width);
    place!(v0.concat_dim, kind, lost, v1: "concat" => concat_param.concat_dim);
    place!(v0.det_fg_threshold, kind, lost, v1: "window_data" => window_data_param.fg_threshold);
    place!(v0.det_bg_threshold, kind, lost, v1: "window_data" => window_data_param.bg_threshold);
    place!(v0.det_fg_fraction, kind, lost, v1: "window_data" => window_data_param.fg_fraction);
    place!(v0.det_context_pad, kind, lost, v1: "window_data" => window_data_param.context_pad);
    place!(v0.det_crop_mode, kind, lost, v1: "window_data" => window_data_param.crop_mode);
    match (v0.hdf5_output_param.take(), kind) {
        (None, _) => {}
        (param, "hdf5_output") => v1.hdf5_output_param = param,
        _ => lost.push("hdf5_output_param"),
    }
    lost
}

/// The picture size of V0, which is signed there and unsigned later.
struct UnsignedSize {
    new_height: Option<u32>,
    new_width: Option<u32>,
}

impl UnsignedSize {
    fn of(v0: &V0LayerParameter) -> Self {
        UnsignedSize {
            new_height: v0.new_height.map(|n| n as u32),
            new_width: v0.new_width.map(|n| n as u32),
        }
    }
}

fn place_transformation(v0: &mut V0LayerParameter, v1: &mut V1LayerParameter) {
    if v0.scale.is_none() && v0.meanfile.is_none() && v0.cropsize.is_none() && v0.mirror.is_none() {
        return;
    }
    v1.transform_param = Some(Box::new(TransformationParameter {
        scale: v0.scale,
        mean_file: v0.meanfile.take(),
        crop_size: v0.cropsize,
        mirror: v0.mirror,
        ..Default::default()
    }));
}

/// Source: `UpgradeV0LayerType`.
fn v0_type(name: &str) -> Option<LayerType> {
    Some(match name {
        "accuracy" => LayerType::Accuracy,
        "bnll" => LayerType::Bnll,
        "concat" => LayerType::Concat,
        "conv" => LayerType::Convolution,
        "data" => LayerType::Data,
        "dropout" => LayerType::Dropout,
        "euclidean_loss" => LayerType::EuclideanLoss,
        "flatten" => LayerType::Flatten,
        "hdf5_data" => LayerType::Hdf5Data,
        "hdf5_output" => LayerType::Hdf5Output,
        "im2col" => LayerType::Im2col,
        "images" => LayerType::ImageData,
        "infogain_loss" => LayerType::InfogainLoss,
        "innerproduct" => LayerType::InnerProduct,
        "lrn" => LayerType::Lrn,
        "multinomial_logistic_loss" => LayerType::MultinomialLogisticLoss,
        "pool" => LayerType::Pooling,
        "relu" => LayerType::Relu,
        "sigmoid" => LayerType::Sigmoid,
        "softmax" => LayerType::Softmax,
        "softmax_loss" => LayerType::SoftmaxLoss,
        "split" => LayerType::Split,
        "tanh" => LayerType::Tanh,
        "window_data" => LayerType::WindowData,
        _ => return None,
    })
}

// ---------------------------------------------------------------- transformation

/// The four deprecated fields of a data layer's own parameters.
macro_rules! move_fields {
    ($layer:ident.$param:ident) => {{
        let param = $layer.$param.get_or_insert_default();
        let transform = $layer.transform_param.get_or_insert_default();
        transform.scale = param.scale.take().or(transform.scale);
        transform.crop_size = param.crop_size.take().or(transform.crop_size);
        transform.mirror = param.mirror.take().or(transform.mirror);
        if let Some(file) = param.mean_file.take() {
            transform.mean_file = Some(file);
        }
    }};
}

macro_rules! has_fields {
    ($layer:ident.$param:ident) => {
        $layer.$param.as_ref().is_some_and(|p| {
            p.scale.is_some()
                || p.mean_file.is_some()
                || p.crop_size.is_some()
                || p.mirror.is_some()
        })
    };
}

/// If one data layer needs it, all of them get the two messages. Source:
/// `UpgradeNetDataTransformation`.
fn move_transformation(old: &mut [Old]) {
    let needed = |layer: &V1LayerParameter| match layer.r#type() {
        LayerType::Data => has_fields!(layer.data_param),
        LayerType::ImageData => has_fields!(layer.image_data_param),
        LayerType::WindowData => has_fields!(layer.window_data_param),
        _ => false,
    };
    if !old.iter().any(|o| needed(&o.layer)) {
        return;
    }
    for Old { layer, .. } in old {
        match layer.r#type() {
            LayerType::Data => move_fields!(layer.data_param),
            LayerType::ImageData => move_fields!(layer.image_data_param),
            LayerType::WindowData => move_fields!(layer.window_data_param),
            _ => {}
        }
    }
}

/// In the current format, Caffe leaves the deprecated fields where they are and
/// never looks at them.
fn without_effect((layer, source): &Sourced) -> Option<Diagnostic> {
    let param = match layer.r#type() {
        "Data" if has_fields!(layer.data_param) => "data_param",
        "ImageData" if has_fields!(layer.image_data_param) => "image_data_param",
        "WindowData" if has_fields!(layer.window_data_param) => "window_data_param",
        _ => return None,
    };
    let message = format!(
        "scale, mean_file, crop_size and mirror have no effect in `{param}`: write them in `transform_param`"
    );
    let note = Diagnostic::invalid(message).at(source.span_of(param));
    Some(note.layer(layer.name()))
}

// ---------------------------------------------------------------- V1 to V2

/// Source: `UpgradeV1LayerParameter`.
fn v1_to_v2(v1: V1LayerParameter) -> LayerParameter {
    let known_type = v1.r#type.and_then(|n| LayerType::try_from(n).ok());
    LayerParameter {
        param: param_specs(&v1),
        name: v1.name,
        r#type: known_type.map(|ty| v1_type_name(ty).to_string()),
        bottom: v1.bottom,
        top: v1.top,
        include: v1.include,
        exclude: v1.exclude,
        blobs: v1.blobs,
        loss_weight: v1.loss_weight,
        accuracy_param: v1.accuracy_param,
        argmax_param: v1.argmax_param,
        concat_param: v1.concat_param,
        contrastive_loss_param: v1.contrastive_loss_param,
        convolution_param: v1.convolution_param,
        data_param: v1.data_param,
        dropout_param: v1.dropout_param,
        dummy_data_param: v1.dummy_data_param,
        eltwise_param: v1.eltwise_param,
        exp_param: v1.exp_param,
        hdf5_data_param: v1.hdf5_data_param,
        hdf5_output_param: v1.hdf5_output_param,
        hinge_loss_param: v1.hinge_loss_param,
        image_data_param: v1.image_data_param,
        infogain_loss_param: v1.infogain_loss_param,
        inner_product_param: v1.inner_product_param,
        lrn_param: v1.lrn_param,
        memory_data_param: v1.memory_data_param,
        mvn_param: v1.mvn_param,
        pooling_param: v1.pooling_param,
        power_param: v1.power_param,
        relu_param: v1.relu_param,
        sigmoid_param: v1.sigmoid_param,
        softmax_param: v1.softmax_param,
        slice_param: v1.slice_param,
        tanh_param: v1.tanh_param,
        threshold_param: v1.threshold_param,
        window_data_param: v1.window_data_param,
        transform_param: v1.transform_param,
        loss_param: v1.loss_param,
        strict_dim: v1.strict_dim,
        interp_param: v1.interp_param,
        padding_param: v1.padding_param,
        dense_crf_param: v1.dense_crf_param,
        seg_accuracy_param: v1.seg_accuracy_param,
        softmaxloss_param: v1.softmaxloss_param,
        mat_write_param: v1.mat_write_param,
        multi_stage_meanfield_param: v1.multi_stage_meanfield_param,
        bn_param: v1.bn_param,
        roi_pooling_param: v1.roi_pooling_param,
        smooth_l1_loss_param: v1.smooth_l1_loss_param,
        mil_data_param: v1.mil_data_param,
        mil_param: v1.mil_param,
        local_param: v1.local_param,
        insanity_param: v1.insanity_param,
        normalize_param: v1.normalize_param,
        upsample_param: v1.upsample_param,
        video_data_param: v1.video_data_param,
        crop_param: v1.crop_param,
        ..Default::default()
    }
}

/// The four lists of V1, item by item in one.
fn param_specs(v1: &V1LayerParameter) -> Vec<ParamSpec> {
    let lists = [
        v1.param.len(),
        v1.blob_share_mode.len(),
        v1.blobs_lr.len(),
        v1.weight_decay.len(),
    ];
    let spec = |i: usize| ParamSpec {
        name: v1.param.get(i).cloned(),
        // STRICT and PERMISSIVE have the same numbers in both forms.
        share_mode: v1.blob_share_mode.get(i).copied(),
        lr_mult: v1.blobs_lr.get(i).copied(),
        decay_mult: v1.weight_decay.get(i).copied(),
    };
    (0..lists.into_iter().max().unwrap_or(0))
        .map(spec)
        .collect()
}

/// Source: `UpgradeV1LayerType`.
pub(super) fn v1_type_name(ty: LayerType) -> &'static str {
    match ty {
        LayerType::None => "",
        LayerType::Absval => "AbsVal",
        LayerType::Accuracy => "Accuracy",
        LayerType::Argmax => "ArgMax",
        LayerType::Bnll => "BNLL",
        LayerType::Concat => "Concat",
        LayerType::ContrastiveLoss => "ContrastiveLoss",
        LayerType::Convolution => "Convolution",
        LayerType::Deconvolution => "Deconvolution",
        LayerType::Data => "Data",
        LayerType::Dropout => "Dropout",
        LayerType::DummyData => "DummyData",
        LayerType::EuclideanLoss => "EuclideanLoss",
        LayerType::Eltwise => "Eltwise",
        LayerType::Exp => "Exp",
        LayerType::Flatten => "Flatten",
        LayerType::Hdf5Data => "HDF5Data",
        LayerType::Hdf5Output => "HDF5Output",
        LayerType::HingeLoss => "HingeLoss",
        LayerType::Im2col => "Im2col",
        LayerType::ImageData => "ImageData",
        LayerType::InfogainLoss => "InfogainLoss",
        LayerType::InnerProduct => "InnerProduct",
        LayerType::Lrn => "LRN",
        LayerType::MemoryData => "MemoryData",
        LayerType::MultinomialLogisticLoss => "MultinomialLogisticLoss",
        LayerType::Mvn => "MVN",
        LayerType::Pooling => "Pooling",
        LayerType::Power => "Power",
        LayerType::Relu => "ReLU",
        LayerType::Sigmoid => "Sigmoid",
        LayerType::SigmoidCrossEntropyLoss => "SigmoidCrossEntropyLoss",
        LayerType::Silence => "Silence",
        LayerType::Softmax => "Softmax",
        LayerType::SoftmaxLoss => "SoftmaxWithLoss",
        LayerType::Split => "Split",
        LayerType::Slice => "Slice",
        LayerType::Tanh => "TanH",
        LayerType::WindowData => "WindowData",
        LayerType::Threshold => "Threshold",
        // Types of forks: the names that later versions of them have.
        LayerType::BatchNorm => "BatchNorm",
        LayerType::Bn => "BN",
        LayerType::Clip => "Clip",
        LayerType::Convolution3d => "Convolution3D",
        LayerType::Crop => "Crop",
        LayerType::Deconvolution3d => "Deconvolution3D",
        LayerType::DenseCrf => "DenseCRF",
        LayerType::ImageSegData => "ImageSegData",
        LayerType::Insanity => "Insanity",
        LayerType::Interp => "Interp",
        LayerType::Local => "Local",
        LayerType::MatRead => "MatRead",
        LayerType::MatWrite => "MatWrite",
        LayerType::Mil => "MIL",
        LayerType::MilData => "MILData",
        LayerType::MultiStageMeanfield => "MultiStageMeanfield",
        LayerType::Normalize => "Normalize",
        LayerType::Padding => "Padding",
        LayerType::Pooling3d => "Pooling3D",
        LayerType::Relu6 => "ReLU6",
        LayerType::RoiPooling => "ROIPooling",
        LayerType::SegAccuracy => "SegAccuracy",
        LayerType::Selu => "SeLu",
        LayerType::SeluDropout => "SeLuDropout",
        LayerType::SmoothL1Loss => "SmoothL1Loss",
        LayerType::TripletLoss => "TripletLoss",
        LayerType::Upsample => "Upsample",
        LayerType::VideoData => "VideoData",
        LayerType::VideoSegmentationData => "VideoSegmentationData",
        LayerType::VideoWithVoxelTruthData => "VideoWithVoxelTruthData",
        LayerType::VoxelSoftmax => "VoxelSoftmax",
        LayerType::VoxelSoftmaxLoss => "VoxelSoftmaxWithLoss",
    }
}

// ---------------------------------------------------------------- inputs, BatchNorm

/// Legacy inputs become one Input layer, first of all; without any shape they are
/// dropped. Source: `UpgradeNetInput`.
fn inputs_to_layer(
    net: &mut NetParameter,
    layers: &mut Vec<Sourced>,
    spans: Option<&Spans>,
    notes: &mut Vec<Diagnostic>,
) -> Result<()> {
    let mut note = |field: &str, message: &str| {
        let at = spans.map(|s| s.span_of(field));
        notes.push(Diagnostic::invalid(message).at(at));
    };
    let names = std::mem::take(&mut net.input);
    let shapes = std::mem::take(&mut net.input_shape);
    let dims = std::mem::take(&mut net.input_dim);
    if shapes.is_empty() && dims.is_empty() {
        note(
            "input",
            "an input without any shape is dropped, as in Caffe",
        );
        return Ok(());
    }
    if !shapes.is_empty() && !dims.is_empty() {
        note("input_dim", "input_dim has no effect beside input_shape");
    }
    // The inputs of C3D are clips: a length stands before height and width.
    let axes = match layers.iter().any(|(layer, _)| of_clips(layer)) {
        true if dims.len() == 5 * names.len() => 5,
        _ => 4,
    };
    let shapes_ragged = shapes.is_empty() && !dims.len().is_multiple_of(axes);
    let dims_shape = |dims: &[i32]| BlobShape {
        dim: dims.iter().map(|&d| d.into()).collect(),
    };
    let mut shape: Vec<BlobShape> = match shapes.is_empty() {
        true => dims.chunks_exact(axes).map(dims_shape).collect(),
        false => shapes,
    };
    if shape.len() < names.len() {
        let message = format!(
            "{} inputs but shapes for {} of them: each needs an input_shape or four input_dim",
            names.len(),
            shape.len()
        );
        let at = spans.map(|s| s.span_of(&format!("input[{}]", shape.len())));
        return Err(Diagnostic::invalid(message).at(at).into());
    }
    if shape.len() > names.len() || shapes_ragged {
        note("input", "shapes beyond those of the inputs have no effect");
    }
    shape.truncate(names.len());
    let layer = LayerParameter {
        name: Some("input".into()),
        r#type: Some("Input".into()),
        top: names,
        input_param: Some(Box::new(InputParameter { shape })),
        ..Default::default()
    };
    layers.insert(0, (layer, LayerSource::inputs(spans.cloned(), axes)));
    Ok(())
}

/// Three param records belong to the days when the solver had to be told not to
/// touch the statistics. Source: `UpgradeNetBatchNorm`.
fn freeze_batch_norm(layer: &mut LayerParameter) {
    if layer.r#type() == "BatchNorm" && layer.param.len() == 3 {
        for spec in &mut layer.param {
            spec.lr_mult = Some(0.0);
            spec.decay_mult = Some(0.0);
        }
    }
}

// ---------------------------------------------------------------- solvers

/// Writes the solver's type as a string. Source: `UpgradeSolverType`.
pub fn upgrade_solver(solver: &mut SolverParameter, spans: Option<&Spans>) -> Result<()> {
    let Some(old) = solver.solver_type else {
        return Ok(());
    };
    if solver.r#type.is_some() {
        let error = Diagnostic::invalid("`solver_type` and `type` cannot both be given")
            .at(spans.map(|s| s.span_of("solver_type")));
        return Err(error.into());
    }
    let name = match SolverType::try_from(old) {
        Ok(SolverType::Sgd) => "SGD",
        Ok(SolverType::Nesterov) => "Nesterov",
        Ok(SolverType::Adagrad) => "AdaGrad",
        Ok(SolverType::Rmsprop) => "RMSProp",
        Ok(SolverType::Adadelta) => "AdaDelta",
        Ok(SolverType::Adam) => "Adam",
        Err(_) => {
            let message = format!("`solver_type` has no value {old}");
            return Err(Diagnostic::invalid(message).into());
        }
    };
    solver.r#type = Some(name.into());
    solver.solver_type = None;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::{parse_text, print_text};
    use super::*;
    use crate::diag::Sources;

    /// The upgraded net's text and the notes, or the errors, as the user reads them.
    fn upgrade(text: &str) -> std::result::Result<(String, Vec<String>), String> {
        let mut sources = Sources::default();
        let file = sources.add("net", text.into());
        let parsed = parse_text(&sources, file, "caffe.NetParameter").unwrap();
        let upgraded = upgrade_net(parsed.message, Some(&parsed.spans), false)
            .map_err(|errors| sources.render_all(&errors))?;
        let notes = upgraded.notes.iter().map(|d| sources.render(d));
        let text = print_text(&upgraded.param, "caffe.NetParameter");
        let words: Vec<&str> = text.split_whitespace().collect();
        Ok((words.join(" "), notes.collect()))
    }

    fn quietly(text: &str) -> String {
        let (text, notes) = upgrade(text).unwrap();
        assert_eq!(notes, Vec::<String>::new());
        text
    }

    #[test]
    fn padding_layers_vanish() {
        let text = "input: 'x' input_dim: [1, 1, 4, 4]
            layers { layer { name: 'p' type: 'padding' pad: 2 } bottom: 'x' top: 'p' }
            layers { layer { name: 'c' type: 'conv' num_output: 3 kernelsize: 3 pad: 1 } bottom: 'p' top: 'c' }";
        let net = quietly(text);
        assert!(net.ends_with(
            r#"layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 3 pad: 2 kernel_size: 3 } }"#
        ), "{net}");
        let message = upgrade(&text.replace("'conv' num_output: 3 kernelsize: 3 pad: 1", "'relu'"));
        assert!(
            message
                .unwrap_err()
                .contains("feeds a layer of type `relu`")
        );
        let message = upgrade(&text.replace("bottom: 'x'", "bottom: 'y'")).unwrap_err();
        assert!(message.starts_with("net:2:"), "{message}");
    }

    #[test]
    fn fields_of_other_types_are_lost_with_a_note() {
        let (_, notes) =
            upgrade("layers { layer { name: 'r' type: 'relu'\n group: 2 } name: 'v1' }").unwrap();
        assert_eq!(
            notes,
            [
                "net:1:1: error: beside V0 layers, only bottom and top of a record count, as in Caffe",
                "net:2:2: error: layer `r`: `group` has no meaning for type `relu` and is dropped",
            ]
        );
        let message = upgrade("layers { layer { type: 'konv' } }").unwrap_err();
        assert!(
            message.contains("unknown V0 layer type `konv`"),
            "{message}"
        );
    }

    #[test]
    fn types_of_forks_have_names() {
        let net = quietly("layers { type: INTERP interp_param { zoom_factor: 8 } }");
        assert_eq!(
            net,
            r#"layer { type: "Interp" interp_param { zoom_factor: 8 } }"#
        );
    }

    #[test]
    fn v1_lists_become_param_records() {
        let net = quietly(
            "layers { type: INNER_PRODUCT param: 'w' blobs_lr: [1, 2] weight_decay: 0.5 blob_share_mode: PERMISSIVE }",
        );
        assert_eq!(
            net,
            r#"layer { type: "InnerProduct" param { name: "w" share_mode: PERMISSIVE lr_mult: 1 decay_mult: 0.5 } param { lr_mult: 2 } }"#
        );
        let message = upgrade("layer { }\nlayers { name: 'o' }").unwrap_err();
        assert!(message.starts_with("net:2:1: error: the net has both"));
    }

    #[test]
    fn transformation_moves_in_older_layers_only() {
        let net = quietly(
            "layers { type: DATA data_param { scale: 2 source: 's' } } layers { type: IMAGE_DATA }",
        );
        assert_eq!(
            net,
            r#"layer { type: "Data" transform_param { scale: 2 } data_param { source: "s" } } layer { type: "ImageData" transform_param { } image_data_param { } }"#
        );
        let (net, notes) = upgrade("layer { type: 'Data' data_param { mirror: true } }").unwrap();
        assert!(net.contains("data_param { mirror: true }"));
        assert!(notes[0].starts_with("net:1:22: "), "{notes:?}");
    }

    #[test]
    fn inputs_become_a_layer() {
        let net = quietly(
            "layer { name: 'a' } input: 'x' input: 'y' input_shape { dim: 1 } input_shape { dim: 2 }",
        );
        assert_eq!(
            net,
            r#"layer { name: "input" type: "Input" top: "x" top: "y" input_param { shape { dim: 1 } shape { dim: 2 } } } layer { name: "a" }"#
        );
        let message =
            upgrade("input: 'x' input: 'y' input_dim: [1, 2, 3, 4, 5, 6, 7]").unwrap_err();
        assert!(message.contains("2 inputs but shapes for 1"), "{message}");
        let clips = "input: 'x' input_dim: [1, 2, 3, 4, 5] layers { type: POOLING3D }";
        assert!(quietly(clips).contains("shape { dim: 1 dim: 2 dim: 3 dim: 4 dim: 5 }"));
        for text in ["input: 'x'", "input: 'x' input_dim: [1, 2, 3, 4, 5]"] {
            assert_eq!(upgrade(text).unwrap().1.len(), 1, "{text}");
        }
    }

    #[test]
    fn three_params_of_batch_norm_are_frozen() {
        let frozen = "param { lr_mult: 0 decay_mult: 0 } ".repeat(3);
        let net = quietly("layer { type: 'BatchNorm' param { } param { } param { lr_mult: 1 } }");
        assert_eq!(net, format!("layer {{ type: \"BatchNorm\" {frozen}}}"));
        let two = "layer { type: 'BatchNorm' param { } param { } }";
        assert!(!quietly(two).contains("lr_mult"));
    }

    #[test]
    fn solver_types_become_strings() {
        let mut solver = SolverParameter {
            solver_type: Some(SolverType::Adagrad.into()),
            ..Default::default()
        };
        upgrade_solver(&mut solver, None).unwrap();
        assert_eq!((solver.r#type(), solver.solver_type), ("AdaGrad", None));
        solver.solver_type = Some(0);
        assert!(upgrade_solver(&mut solver, None).is_err());
    }
}
