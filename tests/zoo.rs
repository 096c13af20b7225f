//! Every deploy net of a collection of real ones, with stand-in weights.
//!
//! The nets are no part of the project: `CAFFEC_ZOO` names their folder, whose
//! `MANIFEST.tsv` has a line for each. Without it the tests say so and pass. That they
//! run takes long:
//!
//!     CAFFEC_ZOO=DIR cargo test --release --test zoo -- --ignored --nocapture
//!
//! `CAFFEC_ZOO_ONLY=TEXT,…` takes only the nets whose names hold one of the texts.

mod common;

use caffec::diag::Sources;
use caffec::frontend::{self, Dialect, Reading, State};
use caffec::ir::{self, Graph, Tensor, Valid};
use caffec::lower::Chains;
use caffec::passes::Fuse;
use caffec::runtime::exec::{Engine, Executable};
use caffec::weights;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Files that no Caffe loads either: templates, parts of nets, wrong sizes.
const BROKEN: &[(&str, &str)] = &[
    (
        "MobileNet-Caffe.mobilenet_deploy@bfdd67",
        "the file starts with a byte order mark, which Caffe refuses: save it without",
    ),
    (
        "autocolorize.autocolorize-res-autocolorize",
        "cannot join 1×1×129×129 and 1×512×130×130 along axis 1: the other axes must be equal",
    ),
    ("bvlc.data-simple_conv", "no layer makes bottom `data`"),
    (
        "bvlc.siamese-lfw_siamese",
        "a blob of 10000×20×146×76 elements is larger than Caffe's limit of 2147483647",
    ),
    (
        "caffe-segnet.cifar10-cifar10_full",
        "PoolingParameter has no field `norm_region`",
    ),
    (
        "caffe-windows.inner_distance_layer",
        "2 `param`s for 1 parameter blobs",
    ),
    (
        "caffe-yolov3.yolov3-tiny",
        "cannot join 1×128×24×24 and 1×256×26×26 along axis 1: the other axes must be equal",
    ),
    (
        "opencv_contrib.dnn-layers-reshape_and_slice_routines",
        "no layer makes bottom `input`",
    ),
    (
        "opencv_contrib.samples-build-linemod_triplet",
        "a blob of 10000×20×146×126 elements is larger than Caffe's limit of 2147483647",
    ),
    (
        "rcnn-depth.nyud2_finetuning-imagenet_deploy",
        "`num_output` is an integer, zero or more, not `N_CLASSES`",
    ),
    (
        "ssd-models.MobileNetSSD-template-shufflenet_ssd_deploy_template",
        "`num_output` is an integer, zero or more, not `cls3x`",
    ),
    (
        "stephenyan1231-caffe-public.9clusters-9clusters_v0.0-cluster00_deploy",
        "no layer makes bottom `poolg`",
    ),
];

/// Nets that are refused though their own fork loads them, and what is missing.
const REFUSED: &[(&str, &str)] = &[
    (
        "NormFace.draw-figure6-normalize_layer",
        "layer type `GeneralContrastiveLoss`",
    ),
    (
        "VNet.Prototxt-train_noPooling_ResNet_cinque",
        "class `DiceLoss` of the Python module `pyLayer`",
    ),
    // The code behind the type is not to be found: how it lays out its weights is unknown.
    (
        "bvlc.deepface-deepface",
        "unknown V0 layer type `locally_connected`",
    ),
    // Its layer of two bottoms is older than any that the repository still has.
    (
        "caffe_train.detector-Full_640x640-Centerface_v2_deploy",
        "layer type `CenternetDetectionOutput`",
    ),
    // x / (sqrt(Σx²) + eps) over the item, but nobody says what eps is by default.
    (
        "forward-caffe.res-l2norm_layer-deploy",
        "layer type `L2Norm`",
    ),
    (
        "intel-caffe.VGG16-faster_rcnn_end2end-faster_rcnn_int8_single_1st",
        "`quantization_param` of the fork Ristretto",
    ),
    (
        "snps.icnet-icnet_cityscapes_merge_subgraph",
        "layer type `ICNetSubgraph`",
    ),
];

fn is_refused(name: &str) -> bool {
    let listed = BROKEN.iter().chain(REFUSED);
    listed.into_iter().any(|(refused, _)| *refused == name)
}

/// Nets that `--allow-mixed` is for.
const MIXED: &[&str] = &["AbhimanyuKulkarni-caffe.nin_imagenet-deploy"];

/// Forks that their nets do not tell, by the start of the nets' names.
const DIALECTS: &[(&str, Dialect)] = &[
    ("TextBoxes.", Dialect::TextBoxes),
    ("VNet.", Dialect::Caffe3d),
    ("fast-rcnn.", Dialect::FastRcnn),
    ("intel-caffe.", Dialect::Intel),
    ("snps.", Dialect::Synopsys),
    ("ssd-models.faceboxes", Dialect::FaceBoxes),
];

const FUSED: (Fuse, Chains) = (Fuse::All, Chains::WhereItPays);
const UNFUSED: (Fuse, Chains) = (Fuse::None, Chains::WhereItPays);

/// Detectors whose scores round to 1 with stand-in weights: which of them come first, and
/// suppress others, is a matter of the last bit. The reference's are others.
const TIED: &[&str] = &[
    "Deeptrust-Project.deploy",
    "libfacedetection.yufacedetectnet-open-v1",
];

/// The naive reference takes long on nets with more multiply-adds.
const REFERENCE_MACS: u64 = 3_000_000_000;

/// Bytes of blobs and parameters that a net may have to be run here.
const MEMORY: u64 = 6 << 30;

#[test]
fn deploy_nets_compile() {
    let Some(zoo) = folder() else { return };
    let outcomes = each(&deploy_nets(&zoo), |file| {
        let graph = build(file)?;
        for setting in [FUSED, UNFUSED] {
            plan(&graph, setting)?;
        }
        Ok(())
    });
    let mut wrong = Vec::new();
    for (name, result) in &outcomes {
        match (result, is_refused(name)) {
            (Err(why), false) => wrong.push(format!("{name}: {why}")),
            (Ok(()), true) => wrong.push(format!("{name} compiles, but is listed as refused")),
            _ => {}
        }
    }
    let compiled = outcomes.iter().filter(|(_, result)| result.is_ok()).count();
    println!("{compiled} of {} deploy nets compile", outcomes.len());
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

#[test]
#[ignore = "takes an hour"]
fn deploy_nets_agree_on_all_engines() {
    let Some(zoo) = folder() else { return };
    let outcomes = each(&deploy_nets(&zoo), |file| {
        let graph = build(file)?;
        let name = file.file_stem().unwrap().to_string_lossy();
        let result = agree(&name, &graph);
        match &result {
            Ok(note) => println!("{name}: {note}"),
            Err(why) => println!("{name}: WRONG: {why}"),
        }
        result.map(|_| ())
    });
    let wrong = outcomes
        .iter()
        .filter(|(name, r)| r.is_err() && !is_refused(name));
    let wrong: Vec<_> = wrong
        .map(|(name, why)| format!("{name}: {why:?}"))
        .collect();
    let run = outcomes.iter().filter(|(_, result)| result.is_ok()).count();
    println!("{run} of {} deploy nets run", outcomes.len());
    assert!(
        wrong.is_empty(),
        "{} wrong:\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

fn folder() -> Option<PathBuf> {
    let folder = std::env::var_os("CAFFEC_ZOO").map(PathBuf::from);
    if folder.is_none() {
        println!("skipped: CAFFEC_ZOO does not name a folder");
    }
    folder
}

fn deploy_nets(zoo: &Path) -> Vec<PathBuf> {
    let manifest = std::fs::read_to_string(zoo.join("MANIFEST.tsv")).unwrap();
    let lines = manifest
        .lines()
        .map(|line| line.split('\t').collect::<Vec<_>>());
    let only = std::env::var("CAFFEC_ZOO_ONLY").unwrap_or_default();
    let wanted = |name: &str| only.split(',').any(|text| name.contains(text));
    let deploy = lines.filter(|fields| fields[1] == "deploy" && wanted(fields[0]));
    let nets: Vec<_> = deploy
        .map(|f| zoo.join(format!("{}.prototxt", f[0])))
        .collect();
    assert!(!nets.is_empty(), "no deploy nets in {}", zoo.display());
    nets
}

type Outcomes = Vec<(String, Result<(), String>)>;

/// Runs `check` on each file, on two threads; a panic is an error.
fn each(files: &[PathBuf], check: impl Fn(&Path) -> Result<(), String> + Sync) -> Outcomes {
    let next = AtomicUsize::new(0);
    let outcomes = Mutex::new(Vec::new());
    let work = || {
        while let Some(file) = files.get(next.fetch_add(1, Ordering::Relaxed)) {
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(file)));
            let result = caught.unwrap_or_else(|_| Err("panic".into()));
            let name = file.file_stem().unwrap().to_string_lossy().into_owned();
            outcomes.lock().unwrap().push((name, result));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(work);
        }
    });
    let mut outcomes = outcomes.into_inner().unwrap();
    outcomes.sort();
    outcomes
}

fn build(file: &Path) -> Result<Valid, String> {
    let mut sources = Sources::default();
    let name = file.file_name().unwrap().to_string_lossy();
    let text = std::fs::read(file).unwrap();
    let slug = name.trim_end_matches(".prototxt");
    let state = State {
        reading: Reading {
            allow_mixed: MIXED.contains(&slug),
            ..Reading::default()
        },
        ..State::default()
    };
    let net = frontend::load_net(&name, text, &mut sources, &state)
        .map_err(|e| sources.render_all(&e))?;
    let dialect = DIALECTS.iter().find(|(prefix, _)| slug.starts_with(prefix));
    let options = ir::Options {
        dialect: dialect.map(|(_, dialect)| *dialect),
        ..ir::Options::default()
    };
    let built = ir::build(&net, &options).valid();
    let (mut graph, _) = built.map_err(|e| sources.render_all(&e))?;
    graph.edit("random weights", |graph| weights::random(graph, 1));
    Ok(graph)
}

fn plan(graph: &Valid, (fuse, chains): (Fuse, Chains)) -> Result<caffec::Plan, String> {
    let options = caffec::Options {
        fuse,
        chains,
        ..caffec::Options::default()
    };
    caffec::plan(graph.clone(), &options).map_err(|e| e.to_string())
}

/// Fused against unfused, and both against the reference where that does not take too
/// long; tells what was done.
fn agree(name: &str, graph: &Valid) -> Result<String, String> {
    let blobs = graph.blobs.iter().map(|b| 4 * b.shape.count() as u64);
    let params = graph.params.iter().map(|p| 8 * p.spec.shape.count() as u64);
    let bytes: u64 = blobs.sum::<u64>() + params.sum::<u64>();
    if bytes > MEMORY {
        return Ok(format!("not run: {} GiB", bytes >> 30));
    }
    let inputs: Vec<Tensor> = graph.inputs.iter().map(|&b| input(graph, b)).collect();
    let (fused, unfused) = (run(graph, FUSED, &inputs)?, run(graph, UNFUSED, &inputs)?);
    let mut pairs = vec![("unfused", unfused.clone())];
    let macs: u64 = graph.nodes.iter().map(|n| macs(graph, n)).sum();
    if macs <= REFERENCE_MACS && !TIED.contains(&name) {
        let want = ir::reference::run(graph, &inputs, &graph.outputs).map_err(|e| e.to_string())?;
        pairs.push(("reference", graph.shown().of(&want)));
    }
    let mut note = String::new();
    for (other, want) in &pairs {
        let far = far(graph, &fused, want);
        let Some(first) = far.first() else {
            note += &format!("fused and {other} agree; ");
            continue;
        };
        // A maximum's place, a threshold or a rank can hang on a hair: then small changes
        // of the inputs move as many values.
        let mut wobble = 0;
        for seed in 1..=4 {
            let nudged: Vec<Tensor> = inputs.iter().map(|input| nudge(input, seed)).collect();
            wobble += total(&self::far(graph, &run(graph, UNFUSED, &nudged)?, &unfused));
        }
        let count = total(&far);
        let counts = format!("{count} values differ, {wobble} when the inputs are nudged");
        if count > wobble {
            return Err(format!("fused and {other}: `{}`, {counts}", first.0));
        }
        note += &format!("fused and {other}: {counts}; ");
    }
    let varied = fused
        .iter()
        .filter(|t| t.data.windows(2).any(|w| w[0] != w[1]));
    let (varied, outputs) = (varied.count(), fused.len());
    Ok(format!("{note}{varied} of {outputs} outputs vary"))
}

/// What a user sees of a forward pass.
fn run(graph: &Valid, setting: (Fuse, Chains), inputs: &[Tensor]) -> Result<Vec<Tensor>, String> {
    let plan = plan(graph, setting)?;
    let weights = plan.pack().map_err(|e| e.to_string())?;
    let exe = Executable::new(plan.program, weights, Engine::Jit).map_err(|e| e.to_string())?;
    let got = common::run(&exe, 2, inputs);
    let pairs = graph.outputs.iter().zip(got.iter());
    let tensors = pairs.map(|(&b, v)| Tensor::new(graph.shape(b).clone(), v.clone()));
    Ok(graph.shown().of(&tensors.collect::<Vec<_>>()))
}

/// The input, each value changed by about as much as the sums of a deep net lose.
fn nudge(input: &Tensor, seed: usize) -> Tensor {
    let mut tensor = input.clone();
    for (i, x) in tensor.data.iter_mut().enumerate() {
        // Numbers of images and sizes stay what they are.
        if x.fract() != 0.0 {
            *x *= [1.0 - 3e-6, 1.0, 1.0 + 3e-6][(i + 1) * seed * 2_654_435_761 % 1009 % 3];
        }
    }
    tensor
}

fn macs(graph: &Graph, node: &ir::Node) -> u64 {
    let tops: Vec<_> = node.tops.iter().map(|&t| graph.shape(t).clone()).collect();
    node.op.macs(&graph.bottom_shapes(node), &tops)
}

/// Something that suits what the input usually is.
fn input(graph: &Graph, blob: ir::BlobId) -> Tensor {
    let ir::Blob { name, shape, .. } = &graph[blob];
    let picture = graph
        .inputs
        .iter()
        .map(|&b| graph.shape(b))
        .find(|s| s.len() == 4);
    let size = picture.map_or([224, 224], |s| [s[2], s[3]]);
    let mut tensor = weights::random_input(name, shape.clone(), 1);
    if name.contains("im_info") {
        let info = [size[0] as f32, size[1] as f32, 1.0];
        let last = shape.last().copied().unwrap_or(1);
        for (i, x) in tensor.data.iter_mut().enumerate() {
            *x = *info.get(i % last).unwrap_or(&1.0);
        }
    } else if name.contains("rois") && shape.len() >= 2 && shape[1] == 5 {
        let unit = |i: usize| (i * 2_654_435_761 % 1009) as f32 / 1009.0;
        for (i, roi) in tensor.data.chunks_mut(5).enumerate() {
            let [x, y] = [
                unit(i) * size[1] as f32 / 2.0,
                unit(i + 77) * size[0] as f32 / 2.0,
            ];
            let extent = unit(i + 5) * size[0].min(size[1]) as f32 / 2.0;
            roi.copy_from_slice(&[0.0, x, y, x + extent, y + extent]);
        }
    }
    tensor
}

/// Names of outputs that differ, and in how many values; in all if the shapes differ.
fn far<'g>(graph: &'g Graph, got: &[Tensor], want: &[Tensor]) -> Vec<(&'g str, usize)> {
    let mut far = Vec::new();
    for ((&blob, got), want) in graph.shown_outputs().iter().zip(got).zip(want) {
        let finite = want.data.iter().filter(|w| w.is_finite());
        let largest = finite.fold(1.0f32, |m, v| m.max(v.abs()));
        let near = |(&g, &w): (&f32, &f32)| {
            g == w || g.is_nan() && w.is_nan() || (g - w).abs() <= common::TOLERANCE * largest
        };
        let same = |(a, b): (&[f32], &[f32])| a.iter().zip(b).all(near);
        let values = if got.shape != want.shape {
            got.data.len().max(want.data.len())
        } else if is_ranked(&got.shape) {
            // Rows whose scores are nearly equal may change places.
            let row = got.shape[got.shape.len() - 1];
            let mut left: Vec<&[f32]> = want.data.chunks(row).collect();
            let mut missing = 0;
            for got in got.data.chunks(row) {
                match left.iter().position(|want| same((got, want))) {
                    Some(found) => drop(left.remove(found)),
                    None => missing += row,
                }
            }
            missing
        } else {
            let pairs = got.data.iter().zip(&want.data);
            pairs.filter(|&pair| !near(pair)).count()
        };
        if values > 0 {
            far.push((graph[blob].name.as_str(), values));
        }
    }
    far
}

/// Whether a blob holds a row for each of what was found, the best first.
fn is_ranked(shape: &ir::Shape) -> bool {
    shape.len() >= 2 && (5..=8).contains(&shape[shape.len() - 1])
}

fn total(far: &[(&str, usize)]) -> usize {
    far.iter().map(|(_, values)| values).sum()
}
