//! Random weights with which every blob keeps a usable size.
//!
//! Weights are He-normal: mean 0 and a variance that makes the layer's output have
//! mean square 1, given the mean square of its input. Those are estimated for each
//! blob, layer by layer, without running the net: exactly (as an expectation over
//! weights) through products, by sampling the expression of element-wise layers, and
//! by rules of thumb through pooling and normalisation. Net inputs are assumed to
//! have mean 0 and mean square 1. Products that lead to a softmax get logits with a
//! standard deviation of 1.5, so that its result is neither flat nor one-hot.

use super::stream::{Stream, generated};
use crate::ir::{BlobId, FloatData, Graph, Node, ParamId, Pointwise, Shape, Tensor};
use crate::layers::Op;
use crate::layers::convolution::Geometry;
use crate::layers::lrn::{Lrn, Region};
use crate::layers::pooling::{Method, Pooling};

/// Mean and mean square over a blob's elements.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Moments {
    mean: f64,
    square: f64,
}

impl Moments {
    const NORMAL: Moments = Moments {
        mean: 0.0,
        square: 1.0,
    };

    fn deviation(self) -> f64 {
        (self.square - self.mean * self.mean).max(1e-12).sqrt()
    }

    fn of(mean: f64, variance: f64) -> Moments {
        let square = mean * mean + variance;
        Moments { mean, square }
    }

    fn times(self, factor: f64) -> Moments {
        Moments {
            mean: self.mean * factor,
            square: self.square * factor * factor,
        }
    }
}

/// Mean square that products aim at, and at logits.
const SQUARE: f64 = 1.0;
const LOGIT_SQUARE: f64 = 2.25;
/// Standard deviation of biases, relative to that of what they are added to.
const BIAS: f64 = 0.1;
/// Trained BatchNorm layers carry this as their third blob: Σ 0.999^i.
const SCALE_FACTOR: f32 = 999.982_36;

/// Gives random values to all parameters that have no data. Deterministic in `seed`,
/// the net and the layers' names; values are made only when somebody reads them.
pub fn random(graph: &mut Graph, seed: u64) {
    let mut weights = Weights {
        stream: Stream::new(seed),
        variance: vec![None; graph.params.len()],
        moments: vec![Moments::NORMAL; graph.blobs.len()],
        graph,
    };
    for i in 0..weights.graph.nodes.len() {
        let node = weights.graph.nodes[i].clone();
        let after = weights.node(&node);
        for top in &node.tops {
            weights.moments[top.0 as usize] = after;
        }
    }
}

struct Weights<'g> {
    graph: &'g mut Graph,
    stream: Stream,
    /// Variance of the weights that were made here, for layers that share them.
    variance: Vec<Option<f64>>,
    moments: Vec<Moments>,
}

impl Weights<'_> {
    /// Fills the node's parameters. Returns the moments of its tops.
    fn node(&mut self, node: &Node) -> Moments {
        let moments: Vec<Moments> = node.bottoms.iter().map(|&b| self.of(b)).collect();
        let x = moments.first().copied().unwrap_or(Moments::NORMAL);
        match &node.op {
            Op::Convolution(_) | Op::Deconvolution(_) | Op::InnerProduct(_) => {
                self.product(node, x)
            }
            Op::BatchNorm(norm) => {
                let factor = if norm.divides() { SCALE_FACTOR } else { 1.0 };
                self.batch_norm(node, x, factor)
            }
            Op::Bn(_) => self.bn(node, x),
            Op::DenseBlock(block) => self.dense_block(node, x, block.transitions),
            Op::Normalize(_) => self.normalize(node),
            Op::Scale(_) => self.scale(node, x),
            Op::Bias(_) => self.bias(node, x),
            Op::PRelu(_) => self.prelu(node, x),
            Op::Pooling(p) => pool(x, p, self.graph.shape(node.bottoms[0])),
            Op::Lrn(lrn) => x.times(lrn_factor(lrn, x.square)),
            Op::Concat(_) => self.concat(node),
            Op::Embed(_) | Op::Parameter(_) => self.values(node),
            Op::Softmax(_) => softmax(self.graph.shape(node.bottoms[0])),
            _ if node.params.is_empty() => {
                let expr = node.pointwise(self.graph, &[]);
                expr.map_or(x, |e| sample(&e, &moments))
            }
            // A layer with parameters but without rules of its own.
            _ => self.product(node, x),
        }
    }

    fn of(&self, blob: BlobId) -> Moments {
        self.moments[blob.0 as usize]
    }

    /// Sets parameter n of the node, unless it has data, to `value` of a stream and
    /// an index.
    fn set(
        &mut self,
        node: &Node,
        n: usize,
        value: impl Fn(Stream, u64) -> f32 + Send + Sync + 'static,
    ) {
        let Some(&ParamId(id)) = node.params.get(n) else {
            return;
        };
        let param = &mut self.graph.params[id as usize];
        let stream = self.stream.derive(&param.layer, param.index);
        let len = param.spec.shape.count();
        let make = || -> FloatData { generated(len, move |i| value(stream, i)) };
        param.data.get_or_insert_with(make);
    }

    fn set_normal(&mut self, node: &Node, n: usize, mean: f64, deviation: f64) {
        let (mean, deviation) = (mean as f32, deviation as f32);
        self.set(node, n, move |s, i| mean + deviation * s.normal(i));
    }

    fn product(&mut self, node: &Node, x: Moments) -> Moments {
        let target = logits(self.graph, node).unwrap_or(SQUARE);
        let Some(&id) = node.params.first() else {
            return Moments::of(0.0, target);
        };
        let fan_in = fan_in(self.graph, node).max(1e-3);
        let variance =
            *self.variance[id.0 as usize].get_or_insert(target / (fan_in * x.square.max(1e-12)));
        self.set_normal(node, 0, 0.0, variance.sqrt());
        let square = variance * fan_in * x.square;
        for n in 1..node.params.len() {
            self.set_normal(node, n, 0.0, BIAS * square.sqrt());
        }
        let bias = if node.params.len() > 1 { BIAS } else { 0.0 };
        Moments::of(0.0, square * (1.0 + bias * bias))
    }

    fn batch_norm(&mut self, node: &Node, x: Moments, factor: f32) -> Moments {
        let deviation = x.deviation();
        let spread = BIAS * deviation;
        let scaled = move |v: f64| (f64::from(factor) * v) as f32;
        let mean = move |s: Stream, i| scaled(x.mean + spread * f64::from(s.normal(i)));
        let variance = move |s: Stream, i| {
            scaled(deviation * deviation * (0.8 + 0.4 * f64::from(s.uniform(i))))
        };
        self.set(node, 0, mean);
        self.set(node, 1, variance);
        self.set(node, 2, move |_, _| factor);
        self.set(node, 3, |s, i| 0.8 + 0.4 * s.uniform(i));
        self.set_normal(node, 4, 0.0, BIAS);
        Moments::NORMAL
    }

    /// Scale and shift, then mean and variance if the layer stores them.
    fn bn(&mut self, node: &Node, x: Moments) -> Moments {
        let variance = x.deviation().powi(2);
        self.set(node, 0, |s, i| 0.8 + 0.4 * s.uniform(i));
        self.set_normal(node, 1, 0.0, BIAS);
        self.set_normal(node, 2, x.mean, BIAS * x.deviation());
        let value = move |s: Stream, i| (variance * (0.8 + 0.4 * f64::from(s.uniform(i)))) as f32;
        self.set(node, 3, value);
        Moments::NORMAL
    }

    /// Each transition normalises what it sees; its maps have a deviation of about 1.
    fn dense_block(&mut self, node: &Node, x: Moments, transitions: usize) -> Moments {
        let channels = |blob: BlobId, g: &Graph| g.shape(blob).get(1).copied().unwrap_or(1);
        let own = channels(node.bottoms[0], self.graph) as u64;
        let all = channels(node.tops[0], self.graph) as f64;
        let of = move |i: u64| if i < own { x } else { Moments::NORMAL };
        let specs = self.graph.param_specs(node).expect("a valid graph");
        for (t, filter) in specs.iter().take(transitions).enumerate() {
            let fan_in = filter.shape.count() / filter.shape[0].max(1);
            // A rectified normal distribution has half of its square.
            self.set_normal(node, t, 0.0, (2.0 / fan_in as f64).sqrt());
            self.set(node, transitions + t, |s, i| 0.8 + 0.4 * s.uniform(i));
            self.set_normal(node, 2 * transitions + t, 0.0, BIAS);
            self.set(node, 3 * transitions + t, move |_, i| of(i).mean as f32);
            self.set(node, 4 * transitions + t, move |s, i| {
                let variance = of(i).deviation().powi(2);
                (variance * (0.8 + 0.4 * f64::from(s.uniform(i)))) as f32
            });
        }
        self.set(node, 5 * transitions, |_, _| 1.0);
        let share = own as f64 / all;
        Moments {
            mean: share * x.mean,
            square: share * x.square + 1.0 - share,
        }
    }

    /// Items of norm 1, times a scale that brings elements to a size of about 1.
    fn normalize(&mut self, node: &Node) -> Moments {
        let shape = self.graph.shape(node.bottoms[0]);
        let root = (shape.count() as f32 / shape.first().map_or(1.0, |&n| n as f32)).sqrt();
        self.set(node, 0, move |s, i| root * (0.8 + 0.4 * s.uniform(i)));
        Moments::NORMAL
    }

    fn scale(&mut self, node: &Node, x: Moments) -> Moments {
        let deviation = BIAS * x.square.max(1e-12).sqrt();
        let second = node.bottoms.get(1).map(|&b| self.of(b));
        let bias = match second {
            None => 1,
            Some(_) => 0,
        };
        if second.is_none() {
            self.set(node, 0, |s, i| 0.8 + 0.4 * s.uniform(i));
        }
        self.set_normal(node, bias, 0.0, deviation);
        second.map_or(x, |s| Moments {
            mean: x.mean * s.mean,
            square: x.square * s.square,
        })
    }

    fn bias(&mut self, node: &Node, x: Moments) -> Moments {
        self.set_normal(node, 0, 0.0, BIAS * x.square.max(1e-12).sqrt());
        let second = node.bottoms.get(1).map(|&b| self.of(b));
        second.map_or(x, |s| Moments {
            mean: x.mean + s.mean,
            square: x.square + s.square + 2.0 * x.mean * s.mean,
        })
    }

    fn prelu(&mut self, node: &Node, x: Moments) -> Moments {
        self.set(node, 0, |s, i| 0.1 + 0.2 * s.uniform(i));
        let middle = Pointwise::relu(Pointwise::Bottom(0), Pointwise::Const(0.2));
        sample(&middle, &[x])
    }

    /// A layer whose first parameter holds what its top is made of.
    fn values(&mut self, node: &Node) -> Moments {
        self.set_normal(node, 0, 0.0, 1.0);
        self.set_normal(node, 1, 0.0, BIAS);
        Moments::NORMAL
    }

    fn concat(&self, node: &Node) -> Moments {
        let count = |b: BlobId| self.graph.shape(b).count() as f64;
        let total: f64 = node.bottoms.iter().map(|&b| count(b)).sum();
        let weighted = |f: fn(Moments) -> f64| {
            let sum: f64 = node.bottoms.iter().map(|&b| f(self.of(b)) * count(b)).sum();
            sum / total.max(1.0)
        };
        Moments {
            mean: weighted(|m| m.mean),
            square: weighted(|m| m.square),
        }
    }
}

/// How many inputs an output element sums, on average over the top: taps in the
/// padding do not count.
fn fan_in(graph: &Graph, node: &Node) -> f64 {
    let specs = graph.param_specs(node).expect("a valid graph");
    let weights = &specs[0].shape;
    let per_output = weights.count() as f64 / weights.first().map_or(1.0, |&n| n as f64);
    let bottom = graph.shape(node.bottoms[0]);
    match &node.op {
        Op::Convolution(c) => {
            let g = c.geometry(bottom);
            per_output
                * (0..g.kernel.len())
                    .map(|axis| coverage(&g, axis))
                    .product::<f64>()
        }
        // Each input element reaches all outputs of its group through every tap.
        Op::Deconvolution(d) => {
            let g = d.geometry(bottom);
            let per_input = weights.count() as f64 / g.channels.max(1) as f64;
            per_input * bottom.count() as f64 / graph.shape(node.tops[0]).count().max(1) as f64
        }
        Op::InnerProduct(p) => p.geometry(bottom).k as f64,
        _ => per_output,
    }
}

/// The share of taps along an axis that lie inside the bottom, over all windows.
fn coverage(g: &Geometry, axis: usize) -> f64 {
    let (stride, pad) = (g.stride[axis], g.pad[axis]);
    let windows_before = |end: usize, tap: usize| {
        let offset = tap * g.dilation[axis];
        end.saturating_sub(offset)
            .div_ceil(stride)
            .min(g.output[axis])
    };
    let inside = |tap| windows_before(pad + g.input[axis], tap) - windows_before(pad, tap);
    let inside: usize = (0..g.kernel[axis]).map(inside).sum();
    inside as f64 / (g.output[axis] * g.kernel[axis]).max(1) as f64
}

/// The mean square for a product whose result reaches a softmax through layers that
/// at most rectify or average it.
fn logits(graph: &Graph, node: &Node) -> Option<f64> {
    let (mut blob, mut target) = (*node.tops.first()?, LOGIT_SQUARE);
    for _ in 0..8 {
        let mut readers = graph
            .nodes
            .iter()
            .filter(|n| n.bottoms.first() == Some(&blob));
        let mut next = None;
        for reader in readers.by_ref() {
            match &reader.op {
                Op::Softmax(_) | Op::SoftmaxWithLoss(_) => return Some(target),
                // Half of a normal distribution has 0.34 of its variance.
                Op::Relu(_) => next = Some((reader, 1.0 / 0.34)),
                Op::Pooling(p) if p.method == Method::Ave => next = Some((reader, 1.0)),
                op if op.is_view() => next = Some((reader, 1.0)),
                _ => {}
            }
        }
        let (reader, factor) = next?;
        (blob, target) = (reader.tops[0], target * factor);
    }
    None
}

/// Neighbours are alike in their sum (most of it is the channel's mean), and half so
/// in their largest.
fn pool(x: Moments, pooling: &Pooling, bottom: &Shape) -> Moments {
    let axes = pooling.geometry(bottom).axes;
    let taps: usize = axes.iter().map(|axis| axis.kernel).product();
    let (taps, variance) = (taps.max(1) as f64, x.deviation().powi(2));
    match pooling.method {
        Method::Ave => Moments::of(x.mean, variance * (0.8 + 0.2 / taps)),
        Method::Max => {
            let rise = 0.65 * taps.ln().sqrt() * variance.sqrt();
            let left = if taps > 1.0 { 0.7 } else { 1.0 };
            Moments::of(x.mean + rise, variance * left)
        }
    }
}

/// What LRN multiplies by where the squares are all like their mean.
fn lrn_factor(lrn: &Lrn, square: f64) -> f64 {
    let k = match lrn.region {
        Region::AcrossChannels => f64::from(lrn.k),
        Region::WithinChannel => 1.0,
    };
    (k + f64::from(lrn.alpha) * square).powf(-f64::from(lrn.beta))
}

fn softmax(shape: &Shape) -> Moments {
    let classes = shape.get(1).map_or(1.0, |&c| c.max(1) as f64);
    Moments::of(1.0 / classes, 4.0 / (classes * classes))
}

/// Moments of an element-wise expression whose bottoms are independent and normal.
///
/// 512 points: 64 magnitudes, each under 8 sign patterns, which are orthogonal for up
/// to 7 bottoms, so that a rectifier halves and a sum adds mean squares exactly.
fn sample(expr: &Pointwise, bottoms: &[Moments]) -> Moments {
    let shape = Shape::new([512]).expect("a small shape");
    let tensors: Vec<Tensor> = bottoms
        .iter()
        .enumerate()
        .map(|(n, m)| {
            let stream = Stream::new(n as u64);
            let magnitudes: Vec<f64> = (0..64).map(|i| f64::from(stream.normal(i))).collect();
            let unit = (magnitudes.iter().map(|z| z * z).sum::<f64>() / 64.0).sqrt();
            let value = |i: usize| {
                let negative = ((i % 8) & (n % 7 + 1)).count_ones() % 2 == 1;
                let z = magnitudes[i / 8] / unit * if negative { -1.0 } else { 1.0 };
                (m.mean + m.deviation() * z) as f32
            };
            Tensor::new(shape.clone(), (0..512).map(value).collect())
        })
        .collect();
    let mut top = Tensor::zeros(shape);
    expr.reference(&tensors.iter().collect::<Vec<_>>(), &mut top);
    let values = top
        .data
        .iter()
        .map(|&v| f64::from(v))
        .filter(|v| v.is_finite());
    let (sum, square) = values.fold((0.0, 0.0), |(s, q), v| (s + v, q + v * v));
    Moments {
        mean: sum / 512.0,
        square: square / 512.0,
    }
}
