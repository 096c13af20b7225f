//! Random legal nets on all engines.
//!
//! A net grows layer by layer: a proposed layer that the front end and the builder
//! refuse, or that computes too much, is taken back. `CAFFEC_RANDOM_NETS=first..end`
//! tries those seeds instead; whoever finds a failure puts it into `tests/corpus`.

mod common;

use caffec::ir::{self, Graph};
use caffec::weights::Stream;
use common::{compare, graph, inputs, isas, reference};
use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// How many elements a blob, and how many multiply-adds a layer, may have.
const MOST_ELEMENTS: usize = 20_000;
const MOST_MACS: u64 = 2_000_000;

struct Generator {
    stream: Stream,
    drawn: u64,
    text: String,
    /// Blobs with their shapes, latest last.
    blobs: Vec<(String, Vec<usize>)>,
    layers: usize,
    /// For each type how many were proposed and how many were legal.
    tried: BTreeMap<&'static str, (usize, usize)>,
}

/// A proposed layer.
struct Layer {
    kind: &'static str,
    bottoms: Vec<String>,
    tops: usize,
    in_place: bool,
    param: String,
}

impl Generator {
    fn new(seed: u64) -> Generator {
        Generator {
            stream: Stream::new(seed).derive("net", 0),
            drawn: 0,
            text: String::new(),
            blobs: Vec::new(),
            layers: 0,
            tried: BTreeMap::new(),
        }
    }

    /// 0 … n − 1.
    fn draw(&mut self, n: usize) -> usize {
        self.drawn += 1;
        (self.stream.bits(self.drawn) % n as u64) as usize
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> T {
        from[self.draw(from.len())].clone()
    }

    /// One time in `n`.
    fn rarely(&mut self, n: usize) -> bool {
        self.draw(n) == 0
    }

    fn net(mut self) -> Generator {
        let batch = 1 + self.draw(3);
        let inputs = 1 + self.draw(4) / 3;
        for i in 0..inputs {
            let channels = self.pick(&[1, 2, 3, 4, 5, 8, 13, 16, 17, 24, 32, 33]);
            let mut shape = vec![batch, channels, 1 + self.draw(15), 1 + self.draw(15)];
            match self.draw(8) {
                0 => shape.truncate(1 + self.draw(3)),
                1 => shape.push(1 + self.draw(3)),
                _ => {}
            }
            let name = ["data", "guide"][i];
            self.text += &format!(
                "layer {{ name: '{name}' type: 'Input' top: '{name}' \
                 input_param {{ shape {{ dim: {shape:?} }} }} }}\n"
            );
            self.blobs.push((name.into(), shape));
        }
        let layers = 2 + self.draw(10);
        for _ in 0..6 * layers {
            if self.layers < layers {
                let layer = self.propose();
                self.add(layer);
            }
        }
        self
    }

    /// A late blob most of the time.
    fn bottom(&mut self) -> (String, Vec<usize>) {
        let back = self.pick(&[0, 0, 0, 0, 0, 1, 1, 2, 3, 5]);
        let last = self.blobs.len() - 1;
        self.blobs[last.saturating_sub(back)].clone()
    }

    /// Another blob, one with the same shape if `like` says so and there is one.
    fn other(&mut self, like: Option<&[usize]>) -> String {
        let same = |(_, shape): &&(String, Vec<usize>)| like.is_none_or(|s| s == &shape[..]);
        let fitting: Vec<String> = self
            .blobs
            .iter()
            .filter(same)
            .map(|b| b.0.clone())
            .collect();
        match fitting.is_empty() {
            true => self.bottom().0,
            false => self.pick(&fitting),
        }
    }

    fn propose(&mut self) -> Layer {
        let (bottom, shape) = self.bottom();
        let kind = match shape.len() {
            4 => self.pick(&[
                "Convolution",
                "Convolution",
                "Convolution",
                "Convolution",
                "ConvolutionDepthwise",
                "Pooling",
                "Pooling",
                "Deconvolution",
                "LRN",
                "ReLU",
                "ReLU",
                "BatchNorm",
                "Concat",
                "Slice",
                "Im2col",
                "Upsample",
                "Interp",
                "Local",
                "Any",
                "Any",
                "Any",
                "Any",
                "Any",
                "Any",
            ]),
            2 | 3 => self.pick(&["Convolution", "Deconvolution", "Any", "Any", "Any"]),
            5 => self.pick(&[
                "Convolution",
                "Convolution",
                "Deconvolution",
                "Pooling3D",
                "Convolution3D",
                "Any",
                "Any",
                "Any",
                "Any",
                "Any",
            ]),
            _ => "Any",
        };
        let kind = match kind {
            "Any" => self.pick(&[
                "InnerProduct",
                "ReLU",
                "PReLU",
                "Scale",
                "Bias",
                "Eltwise",
                "Eltwise",
                "Concat",
                "Slice",
                "Split",
                "Reshape",
                "Flatten",
                "Sigmoid",
                "TanH",
                "Power",
                "Exp",
                "AbsVal",
                "Clip",
                "Softmax",
                "Dropout",
                "BatchNorm",
                "ArgMax",
                "Silence",
                "Tile",
                "Crop",
            ]),
            kind => kind,
        };
        let mut layer = Layer {
            kind,
            bottoms: vec![bottom],
            tops: 1,
            in_place: false,
            param: String::new(),
        };
        self.parameters(&mut layer, &shape);
        layer
    }

    /// Parameters, further bottoms and tops for a layer on a blob of this shape.
    fn parameters(&mut self, layer: &mut Layer, shape: &[usize]) {
        let channels = shape.get(1).copied().unwrap_or(1);
        let axis = self.draw(shape.len().max(1)) as i64;
        let axis = if self.rarely(4) {
            axis - shape.len() as i64
        } else {
            axis
        };
        layer.param = match layer.kind {
            "Convolution" | "Deconvolution" if shape.len() != 4 || self.rarely(8) => {
                self.many_axes(shape)
            }
            "Convolution" | "Deconvolution" => self.convolution(channels),
            "ConvolutionDepthwise" => self.convolution(1),
            "Convolution3D" => {
                let (out, depth, pad) = (1 + self.draw(40), 1 + self.draw(2), self.draw(2));
                format!(
                    "convolution_param {{ num_output: {out} kernel_size: 1 kernel_depth: {depth} \
                     pad: {pad} temporal_pad: {pad} temporal_stride: {} }}",
                    1 + self.draw(2)
                )
            }
            "Pooling3D" => {
                let method = self.pick(&["MAX", "AVE"]);
                let (size, depth) = (1 + self.draw(2), 1 + self.draw(2));
                let (stride, step) = (1 + self.draw(size), 1 + self.draw(depth));
                let pad = if method == "AVE" { self.draw(size) } else { 0 };
                format!(
                    "pooling_param {{ pool: {method} kernel_size: {size} stride: {stride} \
                     pad: {pad} kernel_depth: {depth} temporal_stride: {step} }}"
                )
            }
            "Pooling" => self.pooling(layer),
            "Im2col" => {
                let (size, stride, pad) = (1 + self.draw(3), 1 + self.draw(2), self.draw(2));
                format!("convolution_param {{ kernel_size: {size} stride: {stride} pad: {pad} }}")
            }
            "Upsample" => format!("upsample_param {{ scale: {} }}", 1 + self.draw(3)),
            "Interp" => self
                .pick(&[
                    "interp_param { zoom_factor: 2 }",
                    "interp_param { shrink_factor: 2 }",
                    "interp_param { height: 5 width: 3 }",
                ])
                .into(),
            "Local" => {
                let (out, size, pad) = (1 + self.draw(3), 1 + self.draw(2), self.draw(2));
                format!("local_param {{ num_output: {out} kernel_size: {size} pad: {pad} }}")
            }
            "Tile" => format!("tile_param {{ axis: {axis} tiles: {} }}", 1 + self.draw(2)),
            "Crop" => {
                let like = self.other(Some(shape));
                layer.bottoms.push(like);
                format!("crop_param {{ axis: {axis} }}")
            }
            "LRN" => self.normalisation(),
            "InnerProduct" => {
                let out = self.pick(&[1, 3, 10, 16, 17, 40]);
                let rest = self.pick(&["", "bias_term: false", "transpose: true"]);
                format!("inner_product_param {{ num_output: {out} axis: {axis} {rest} }}")
            }
            "ReLU" => {
                layer.in_place = self.rarely(2);
                let slope = self.pick(&["", "", "relu_param { negative_slope: 0.1 }"]);
                slope.into()
            }
            "PReLU" => {
                layer.in_place = self.rarely(2);
                self.pick(&["", "prelu_param { channel_shared: true }"])
                    .into()
            }
            "Sigmoid" | "TanH" | "AbsVal" | "Dropout" | "BatchNorm" => {
                layer.in_place = self.rarely(3);
                String::new()
            }
            "Power" => {
                layer.in_place = self.rarely(3);
                let power = self.pick(&["", "power: 2", "power: 0", "power: 3"]);
                format!("power_param {{ {power} scale: -0.5 shift: 0.25 }}")
            }
            "Exp" => self
                .pick(&[
                    "exp_param { scale: 0.25 }",
                    "exp_param { base: 2 scale: -0.5 }",
                ])
                .into(),
            "Clip" => "clip_param { min: -0.75 max: 1.5 }".into(),
            "Scale" | "Bias" => self.scale(layer, axis),
            "Eltwise" => self.eltwise(layer, shape),
            "Concat" => {
                for _ in 0..self.draw(3) {
                    let other = self.other(None);
                    layer.bottoms.push(other);
                }
                let axis = self.pick(&[1, 1, 1, axis]);
                format!("concat_param {{ axis: {axis} }}")
            }
            "Slice" => self.slice(layer, shape, axis),
            "Split" => {
                layer.tops = 2;
                String::new()
            }
            "Reshape" => {
                let dims = self.pick(&["0, -1", "0, 0, -1", "-1", "0, 1, -1, 1", "0, -1, 1, 2"]);
                format!("reshape_param {{ shape {{ dim: [{dims}] }} }}")
            }
            "Flatten" => format!("flatten_param {{ axis: {axis} }}"),
            "Softmax" => format!("softmax_param {{ axis: {axis} }}"),
            // Of a blob that all engines have exactly.
            "ArgMax" => {
                layer.bottoms = vec!["data".into()];
                self.pick(&[
                    "argmax_param { axis: 1 }",
                    "argmax_param { top_k: 2 out_max_val: true }",
                ])
                .into()
            }
            "Silence" => {
                layer.tops = 0;
                String::new()
            }
            other => unreachable!("{other}"),
        };
    }

    fn convolution(&mut self, channels: usize) -> String {
        let divisors: Vec<usize> = (1..=channels)
            .filter(|g| channels.is_multiple_of(*g))
            .collect();
        let group = match self.draw(5) {
            0 => channels,
            1 => self.pick(&divisors),
            _ => 1,
        };
        let out = match group {
            1 => self.pick(&[1, 3, 8, 15, 16, 17, 24, 32, 33, 48, 64]),
            _ => group * self.pick(&[1, 1, 2, 3]),
        };
        let (kh, kw) = match self.draw(3) {
            0 => (1, 1),
            1 => (3, 3),
            _ => (1 + self.draw(5), 1 + self.draw(5)),
        };
        let mut rest = String::new();
        if self.rarely(3) {
            rest += &format!(
                " stride_h: {} stride_w: {}",
                1 + self.draw(3),
                1 + self.draw(3)
            );
        }
        if (kh, kw) != (1, 1) || self.rarely(4) {
            rest += &match self.draw(6) {
                0 => " pad_type: 1".into(),
                1 | 2 => {
                    let sides = ["l", "r", "t", "b"].map(|side| (side, self.draw(3)));
                    let side = |(side, pad): (&str, usize)| format!(" pad_{side}: {pad}");
                    sides.map(side).concat()
                }
                _ => format!(" pad_h: {} pad_w: {}", self.draw(3), self.draw(3)),
            };
        }
        if self.rarely(5) {
            let field = self.pick(&["dilation", "hole"]);
            rest += &format!(" {field}: {}", 2 + self.draw(2));
        }
        if self.rarely(4) {
            rest += " bias_term: false";
        }
        let shared = if self.rarely(6) {
            "param { name: 'shared' } "
        } else {
            ""
        };
        format!(
            "{shared}convolution_param {{ num_output: {out} group: {group} \
             kernel_h: {kh} kernel_w: {kw}{rest} }}"
        )
    }

    /// A convolution over any number of spatial axes.
    fn many_axes(&mut self, shape: &[usize]) -> String {
        let axis = self.pick(&[1, 1, 1, 1, 0, 2]).min(shape.len() - 1);
        let channels = shape[axis];
        let group = match self.draw(4) {
            0 => channels,
            1 if channels.is_multiple_of(2) => 2,
            _ => 1,
        };
        let out = group * self.pick(&[1, 2, 3, 16, 20]);
        let axes = shape.len() - axis - 1;
        let mut fields = String::new();
        for (field, least, most) in [
            ("kernel_size", 1, 3),
            ("stride", 1, 2),
            ("pad", 0, 2),
            ("dilation", 1, 2),
        ] {
            for _ in 0..axes {
                let value = least + self.draw(most - least + 1);
                fields += &format!(" {field}: {value}");
            }
        }
        let bias = self.pick(&["", "bias_term: false"]);
        format!(
            "convolution_param {{ num_output: {out} group: {group} axis: {axis}{fields} {bias} }}"
        )
    }

    fn pooling(&mut self, layer: &mut Layer) -> String {
        let method = self.pick(&["MAX", "AVE", "MAX", "AVE", "AVE_EXC_PAD"]);
        if self.rarely(5) {
            return format!("pooling_param {{ pool: {method} global_pooling: true }}");
        }
        let (kh, kw) = (1 + self.draw(4), 1 + self.draw(4));
        // Larger strides leave windows without elements, whose maximum is -FLT_MAX.
        let (sh, sw) = (1 + self.draw(kh), 1 + self.draw(kw));
        let (ph, pw) = (self.draw(kh), self.draw(kw));
        // The places of maxima are exact only where the values are.
        if method == "MAX" && layer.bottoms[0] == "data" && self.rarely(2) {
            layer.tops = 2;
        }
        let round = self.pick(&["", "", "round_mode: FLOOR", "ceil_mode: false"]);
        let pad = match self.draw(6) {
            0 => "pad_type: 1".into(),
            1 => format!("pad_t: {ph} pad_r: {pw}"),
            2 => format!("pad_l: {pw} pad_b: {ph}"),
            _ => format!("pad_h: {ph} pad_w: {pw}"),
        };
        format!(
            "pooling_param {{ pool: {method} kernel_h: {kh} kernel_w: {kw} stride_h: {sh} \
             stride_w: {sw} {pad} {round} }}"
        )
    }

    fn normalisation(&mut self) -> String {
        let size = self.pick(&[1, 3, 5]);
        let region = self.pick(&["ACROSS_CHANNELS", "WITHIN_CHANNEL"]);
        let beta = self.pick(&[0.75, 0.5, 1.0, 0.6]);
        format!("lrn_param {{ local_size: {size} alpha: 0.5 beta: {beta} norm_region: {region} }}")
    }

    fn scale(&mut self, layer: &mut Layer, axis: i64) -> String {
        if self.rarely(4) {
            let other = self.other(None);
            layer.bottoms.push(other);
            let axis = self.pick(&[0, axis]);
            return match layer.kind {
                "Scale" => format!("scale_param {{ axis: {axis} }}"),
                _ => format!("bias_param {{ axis: {axis} }}"),
            };
        }
        layer.in_place = self.rarely(3);
        let axes = self.pick(&["", "", "num_axes: -1", "num_axes: 2", "num_axes: 0"]);
        let axis = self.pick(&[1, 1, axis]);
        match layer.kind {
            "Scale" => {
                let bias = self.pick(&["", "bias_term: true"]);
                format!("scale_param {{ axis: {axis} {axes} {bias} }}")
            }
            _ => format!("bias_param {{ axis: {axis} {axes} }}"),
        }
    }

    fn eltwise(&mut self, layer: &mut Layer, shape: &[usize]) -> String {
        for _ in 0..1 + self.draw(2) {
            let other = self.other(Some(shape));
            layer.bottoms.push(other);
        }
        let operation = self.pick(&["SUM", "SUM", "PROD", "MAX", "coeff"]);
        if operation == "coeff" {
            let coeffs = ["0.5", "-1", "2"][..layer.bottoms.len()].join(", ");
            return format!("eltwise_param {{ coeff: [{coeffs}] }}");
        }
        format!("eltwise_param {{ operation: {operation} }}")
    }

    fn slice(&mut self, layer: &mut Layer, shape: &[usize], axis: i64) -> String {
        let axis = self.pick(&[1, 1, axis]);
        layer.tops = 2 + self.draw(2);
        let place = axis.rem_euclid(shape.len().max(1) as i64) as usize;
        let dim = shape.get(place).copied().unwrap_or(1);
        let mut points: Vec<usize> = (1..layer.tops).map(|_| 1 + self.draw(dim)).collect();
        points.sort_unstable();
        let points: String = points
            .iter()
            .map(|p| format!(" slice_point: {p}"))
            .collect();
        format!("slice_param {{ axis: {axis}{points} }}")
    }

    /// Adds the layer if the net stays legal and small.
    fn add(&mut self, layer: Layer) {
        let name = format!("l{}", self.layers);
        let tops: Vec<String> = match (layer.in_place, layer.tops) {
            (true, _) => vec![layer.bottoms[0].clone()],
            (false, 1) => vec![name.clone()],
            (false, n) => (0..n).map(|i| format!("{name}_{i}")).collect(),
        };
        let list = |field: &str, names: &[String]| -> String {
            names.iter().map(|n| format!(" {field}: '{n}'")).collect()
        };
        let text = format!(
            "layer {{ name: '{name}' type: '{}'{}{} {} }}\n",
            layer.kind,
            list("bottom", &layer.bottoms),
            list("top", &tops),
            layer.param
        );
        let tried = self.tried.entry(layer.kind).or_default();
        tried.0 += 1;
        let Some(graph) = legal(&format!("{}{text}", self.text)) else {
            return;
        };
        tried.1 += 1;
        self.text += &text;
        self.layers += 1;
        self.blobs.retain(|(name, _)| !tops.contains(name));
        for top in tops {
            let shape = graph.shape(graph.names[&top]).to_vec();
            self.blobs.push((top, shape));
        }
    }
}

/// The graph of a net that is legal and small.
fn legal(text: &str) -> Option<Graph> {
    let built = ir::build(&common::parse("random", text), &ir::Options::default());
    let graph = &built.graph;
    let small = graph.blobs.iter().all(|b| b.shape.count() <= MOST_ELEMENTS);
    let quick = graph.nodes.iter().all(|n| {
        let tops: Vec<_> = n.tops.iter().map(|&t| graph.shape(t).clone()).collect();
        n.op.macs(&graph.bottom_shapes(n), &tops) <= MOST_MACS
    });
    (built.errors.is_empty() && small && quick).then_some(built.graph)
}

/// Runs the net of a seed, with some inner blobs wanted.
fn check(seed: u64, generator: &mut Generator) {
    let net = common::parse("random", &*generator.text);
    let outputs = graph(&net, &ir::Options::default());
    let is_inner = |name: &str| !outputs.outputs.contains(&outputs.names[name]);
    let names: Vec<String> = generator.blobs.iter().map(|b| b.0.clone()).collect();
    let wanted = names
        .into_iter()
        .filter(|n| is_inner(n) && generator.rarely(5));
    let options = ir::Options {
        blobs: wanted.collect(),
        ..Default::default()
    };
    println!("seed {seed}, also {:?}:\n{}", options.blobs, generator.text);
    let graph = graph(&net, &options);
    let inputs = inputs(&graph);
    let want = reference(&graph, &inputs);
    compare(
        "random net",
        &graph,
        &inputs,
        &want,
        &isas(),
        seed.is_multiple_of(16),
    );
}

fn seeds() -> std::ops::Range<u64> {
    let Ok(range) = std::env::var("CAFFEC_RANDOM_NETS") else {
        return 0..80;
    };
    let ends = range.split_once("..").expect("first..end");
    ends.0.parse().unwrap()..ends.1.parse().unwrap()
}

#[test]
fn random_nets_agree_on_all_engines() {
    let mut tried: BTreeMap<&str, (usize, usize)> = BTreeMap::new();
    let mut failed = Vec::new();
    for seed in seeds() {
        let mut generator = Generator::new(seed).net();
        let checked = catch_unwind(AssertUnwindSafe(|| check(seed, &mut generator)));
        failed.extend(checked.is_err().then_some(seed));
        for (kind, (proposed, legal)) in generator.tried {
            let sum = tried.entry(kind).or_default();
            *sum = (sum.0 + proposed, sum.1 + legal);
        }
    }
    println!("proposed and legal: {tried:?}");
    assert!(failed.is_empty(), "seeds {failed:?}");
    let rare: Vec<_> = tried.iter().filter(|(_, n)| 5 * n.1 < n.0).collect();
    assert!(rare.is_empty(), "hardly ever legal: {rare:?}");
}
