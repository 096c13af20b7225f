//! `MultiStageMeanfield` of CRF-as-RNN: mean-field iterations of a conditional random field
//! (Zheng et al. 2015), whose Gaussian filters go through a permutohedral lattice (Adams et
//! al. 2010).
//!
//! * bottoms: unary terms `[N, C, H, W]`; where the first iteration starts, the same; the
//!   picture `[N, 3, H, W]`.
//! * top `[N, C, H, W]`: unary terms less what the last iteration takes off, no
//!   probabilities.
//! * blobs `[1, 1, C, C]`: weights of the spatial and of the bilateral filter, compatibility.
//!
//! An iteration takes the softmax over channels, filters each channel, divides by what the
//! filter makes of ones, multiplies by weights and then by the compatibility. Positions
//! count by `theta_gamma` for the spatial filter, by `theta_alpha` beside colours by
//! `theta_beta` for the bilateral one. Without weights file the weights are the
//! `…_filter_weight` on the diagonal, the compatibility −1.

use super::{Cx, Layer, legacy};
use crate::diag::Result;
use crate::frontend::proto::{FillerParameter, LayerParameter};
use crate::ir::{ParamSpec, Shape};
use crate::leaf::math;
use crate::leaf::routine::Call;
use crate::weights::DIAGONAL;

#[derive(Clone, Debug)]
pub struct MultiStageMeanfield {
    iterations: usize,
    /// Of alpha, beta and gamma.
    theta: [f32; 3],
    /// On the diagonal of the blobs.
    first: [f32; 3],
}

fn field(name: &str) -> String {
    format!("multi_stage_meanfield_param.{name}")
}

/// The number that a text names for each class, or the one that stands for all.
/// Errors: `Unsupported` unless it is one number.
fn weight(text: Option<&str>, one: f32, name: &str, cx: &Cx) -> Result<f32> {
    let Some(text) = text else { return Ok(one) };
    let numbers: Option<Vec<f32>> = text.split_whitespace().map(|n| n.parse().ok()).collect();
    match numbers.as_deref() {
        Some([first, rest @ ..]) if rest.iter().all(|n| n == first) => Ok(*first),
        _ => {
            let message = format!("`{text}`: only one number for all classes");
            Err(cx.unsupported(&field(name), message).into())
        }
    }
}

impl Layer for MultiStageMeanfield {
    fn claims() -> &'static [&'static str] {
        &["multi_stage_meanfield_param"]
    }

    /// No version of the fork reads `threshold`; `compatibility_mode` has one value.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(3..=3, 1..=1)?;
        cx.not_in_place()?;
        let p = param
            .multi_stage_meanfield_param
            .clone()
            .unwrap_or_default();
        for (given, name) in [
            (
                p.forced_spatial_filter_weight.is_some(),
                "forced_spatial_filter_weight",
            ),
            (
                p.forced_bilateral_filter_weight.is_some(),
                "forced_bilateral_filter_weight",
            ),
        ] {
            if given {
                return Err(cx.unsupported(&field(name), field(name)).into());
            }
        }
        if p.num_iterations() < 2 {
            let message = "must be greater than 1";
            return Err(cx.invalid(&field("num_iterations"), message).into());
        }
        let theta = |value: f32, name: &str| cx.above(&field(name), value, 0.0);
        let [spatial, bilateral] = ["spatial_filter_weights_str", "bilateral_filter_weights_str"];
        let texts = [
            &p.spatial_filter_weights_str,
            &p.bilateral_filter_weights_str,
        ];
        Ok(MultiStageMeanfield {
            iterations: cx.size(&field("num_iterations"), p.num_iterations())?,
            theta: [
                theta(p.theta_alpha(), "theta_alpha")?,
                theta(p.theta_beta(), "theta_beta")?,
                theta(p.theta_gamma(), "theta_gamma")?,
            ],
            first: [
                weight(texts[0].as_deref(), p.spatial_filter_weight(), spatial, cx)?,
                weight(
                    texts[1].as_deref(),
                    p.bilateral_filter_weight(),
                    bilateral,
                    cx,
                )?,
                -1.0,
            ],
        })
    }

    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
        let [n, c, h, w] = legacy(&bottoms[0], "bottom[0]", cx)?;
        for (i, channels) in [(1, c), (2, 3)] {
            if legacy(&bottoms[i], &format!("bottom[{i}]"), cx)? != [n, channels, h, w] {
                let message = format!("{} instead of {n}×{channels}×{h}×{w}", bottoms[i]);
                return Err(cx.invalid(&format!("bottom[{i}]"), message).into());
            }
        }
        Ok(vec![cx.locate("bottom", Shape::new([n, c, h, w]))?])
    }

    fn params(&self, bottoms: &[Shape]) -> Result<Vec<ParamSpec>> {
        let channels = bottoms[0].get(1).copied().unwrap_or(1);
        let blob = |value: f32| {
            Ok(ParamSpec {
                shape: Shape::new([1, 1, channels, channels])?,
                filler: FillerParameter {
                    r#type: Some(DIAGONAL.into()),
                    value: Some(value),
                    ..FillerParameter::default()
                },
            })
        };
        self.first.into_iter().map(blob).collect()
    }

    /// One call an image.
    fn routine(&self, _bottoms: &[Shape], tops: &[Shape]) -> Option<Call> {
        let [images, channels, height, width] = tops[0].nchw()?;
        let sizes = vec![channels, height, width, self.iterations];
        let routine = routine!("multi_stage_meanfield", "math");
        Some(Call::new(routine, sizes, self.theta.to_vec()).cut(images))
    }
}

/// Pasted into emitted source.
mod routine {
    use super::math::exp;
    use std::collections::HashMap;

    // Axes of the largest feature, with those of a lattice's vertex.
    const MOST: usize = 5;
    const NONE: u32 = u32::MAX;

    /// Points between the vertices of a lattice of simplices.
    pub struct Lattice {
        axes: usize,
        /// Of each point the vertices round it and what it has of each.
        round: Vec<(u32, f32)>,
        /// Along each of the lattice's directions, the neighbours of each vertex.
        neighbours: Vec<[u32; 2]>,
        vertices: usize,
    }

    impl Lattice {
        /// Of features with so many axes, one after the other.
        pub fn new(features: &[f32], axes: usize) -> Lattice {
            let sides = axes as i32 + 1;
            // The variance of what blurring does, and the diagonal of the map into the
            // plane in which the lattice lies.
            let deviation = ((2.0f64 / 3.0).sqrt() * f64::from(sides)) as f32;
            let scale = |i: usize| {
                let length = f64::from((i as f32 + 2.0) * (i as f32 + 1.0)).sqrt();
                (1.0 / length * f64::from(deviation)) as f32
            };
            let scales: Vec<f32> = (0..axes).map(scale).collect();
            let mut keys: Vec<[i32; MOST]> = Vec::new();
            let mut known: HashMap<[i32; MOST], u32> = HashMap::new();
            let mut round = Vec::new();
            for feature in features.chunks_exact(axes) {
                let (base, rank, shares) = simplex(feature, &scales);
                for corner in 0..sides {
                    let mut key = [0; MOST];
                    for i in 0..axes {
                        let beyond = rank[i] > axes as i32 - corner;
                        key[i] = base[i] + corner - if beyond { sides } else { 0 };
                    }
                    let vertex = *known.entry(key).or_insert_with(|| {
                        keys.push(key);
                        keys.len() as u32 - 1
                    });
                    round.push((vertex, shares[corner as usize]));
                }
            }
            let mut neighbours = Vec::new();
            for direction in 0..=axes {
                for key in &keys {
                    let step = |sign: i32| {
                        let mut next = *key;
                        for (i, at) in next[..axes].iter_mut().enumerate() {
                            let by = if i == direction { -(axes as i32) } else { 1 };
                            *at += sign * by;
                        }
                        known.get(&next).copied().unwrap_or(NONE)
                    };
                    neighbours.push([step(-1), step(1)]);
                }
            }
            Lattice {
                axes,
                round,
                neighbours,
                vertices: keys.len(),
            }
        }

        /// Each channel, of a value for each point, after the filter.
        pub fn filter(&self, channels: &[f32], count: usize) -> Vec<f32> {
            let corners = self.axes + 1;
            let points = self.round.len() / corners;
            let mut values = vec![0.0f32; self.vertices * count];
            for (i, &(vertex, share)) in self.round.iter().enumerate() {
                let to = &mut values[vertex as usize * count..][..count];
                for (c, to) in to.iter_mut().enumerate() {
                    *to += share * channels[c * points + i / corners];
                }
            }
            let mut blurred = values.clone();
            for direction in self.neighbours.chunks_exact(self.vertices) {
                for (vertex, &both) in direction.iter().enumerate() {
                    for c in 0..count {
                        let of = |n: u32| match n {
                            NONE => 0.0,
                            n => values[n as usize * count + c],
                        };
                        let around = f64::from(of(both[0]) + of(both[1]));
                        let at = vertex * count + c;
                        blurred[at] = (f64::from(values[at]) + 0.5 * around) as f32;
                    }
                }
                std::mem::swap(&mut values, &mut blurred);
            }
            let scale = 1.0 / (1.0 + 0.5f32.powi(self.axes as i32));
            let mut filtered = vec![0.0f32; points * count];
            for (i, &(vertex, share)) in self.round.iter().enumerate() {
                let from = &values[vertex as usize * count..][..count];
                for (c, &from) in from.iter().enumerate() {
                    filtered[c * points + i / corners] += share * from * scale;
                }
            }
            filtered
        }
    }

    // Where a feature lies: a vertex of its simplex, the order of its coordinates within,
    // and what it has of each corner.
    fn simplex(feature: &[f32], scales: &[f32]) -> ([i32; 6], [i32; 6], [f32; 7]) {
        let axes = feature.len();
        let sides = axes + 1;
        let mut high = [0.0f32; 6];
        let mut sum = 0.0;
        for j in (1..sides).rev() {
            // Beyond it floats are too coarse, and the original's short integers too small.
            let known = feature[j - 1].abs() <= 1e4;
            let part = if known {
                feature[j - 1] * scales[j - 1]
            } else {
                0.0
            };
            high[j] = sum - j as f32 * part;
            sum += part;
        }
        high[0] = sum;
        // The nearest multiples, which may lie beside the plane.
        let (mut base, mut rank) = ([0i32; 6], [0i32; 6]);
        let mut off = 0;
        for i in 0..sides {
            let turns = high[i] * (1.0 / sides as f32);
            let low = turns.floor();
            let nearest = if turns - low > 0.5 { low + 1.0 } else { low } as i32;
            base[i] = nearest * sides as i32;
            off += nearest;
        }
        let rest = |i: usize, base: &[i32; 6]| high[i] - base[i] as f32;
        for i in 0..axes {
            for j in i + 1..sides {
                let less = rest(i, &base) < rest(j, &base);
                rank[if less { i } else { j }] += 1;
            }
        }
        for i in 0..sides {
            rank[i] += off;
            let turns = rank[i].div_euclid(sides as i32) * sides as i32;
            rank[i] -= turns;
            base[i] -= turns;
        }
        let mut shares = [0.0f32; 7];
        for i in 0..sides {
            let share = rest(i, &base) * (1.0 / sides as f32);
            shares[axes - rank[i] as usize] += share;
            shares[sides - rank[i] as usize] -= share;
        }
        shares[0] += 1.0 + shares[sides];
        (base, rank, shares)
    }

    // What to multiply a filter's result with.
    fn norms(lattice: &Lattice, points: usize) -> Vec<f32> {
        let ones = lattice.filter(&vec![1.0; points], 1);
        ones.iter().map(|&sum| 1.0 / (sum + 1e-20)).collect()
    }

    fn softmax(values: &mut [f32], points: usize) {
        for i in 0..points {
            let each = || (i..values.len()).step_by(points);
            let largest = each().map(|at| values[at]).fold(f32::MIN, f32::max);
            let mut sum = 0.0;
            for at in (i..values.len()).step_by(points) {
                let power = exp(f64::from(values[at] - largest));
                values[at] = power as f32;
                sum += power;
            }
            for at in (i..values.len()).step_by(points) {
                values[at] = (f64::from(values[at]) / sum) as f32;
            }
        }
    }

    pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], theta: &[f32]) {
        let [channels, height, width, iterations] = [sizes[0], sizes[1], sizes[2], sizes[3]];
        let points = height * width;
        let [alpha, beta, gamma] = [theta[0], theta[1], theta[2]];
        let place = |i: usize, theta: f32| [(i % width) as f32 / theta, (i / width) as f32 / theta];
        let positions: Vec<f32> = (0..points).flat_map(|i| place(i, gamma)).collect();
        let colours = |i: usize| {
            let colour = |c: usize| bottoms[2][c * points + i] / beta;
            let [x, y] = place(i, alpha);
            [x, y, colour(0), colour(1), colour(2)]
        };
        let colours: Vec<f32> = (0..points).flat_map(colours).collect();
        // Compatibility times weights, for both filters.
        let compatible = |weights: &[f32]| -> Vec<f64> {
            let sum = |i: usize| {
                let (row, column) = (i / channels, i % channels);
                let term = |k: usize| {
                    f64::from(bottoms[5][row * channels + k])
                        * f64::from(weights[k * channels + column])
                };
                (0..channels).map(term).sum()
            };
            (0..channels * channels).map(sum).collect()
        };
        let filters = [
            (Lattice::new(&positions, 2), compatible(bottoms[3])),
            (Lattice::new(&colours, 5), compatible(bottoms[4])),
        ];
        let norms = filters
            .each_ref()
            .map(|(lattice, _)| norms(lattice, points));
        let mut now = bottoms[1].to_vec();
        for _ in 0..iterations {
            softmax(&mut now, points);
            let filtered = filters
                .each_ref()
                .map(|(lattice, _)| lattice.filter(&now, channels));
            for i in 0..points {
                for c in 0..channels {
                    let mut taken = 0.0;
                    for (n, (_, weights)) in filters.iter().enumerate() {
                        let term = |k: usize| {
                            let value = filtered[n][k * points + i] * norms[n][i];
                            weights[c * channels + k] * f64::from(value)
                        };
                        taken += (0..channels).map(term).sum::<f64>();
                    }
                    let at = c * points + i;
                    now[at] = (f64::from(bottoms[0][at]) - taken) as f32;
                }
            }
        }
        tops[0].copy_from_slice(&now);
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{assert_close, forward, infer, noise, refusal, shape, tensor};
    use super::*;
    use crate::frontend::proto::MultiStageMeanfieldParameter;
    use crate::ir::Tensor;

    fn param(p: MultiStageMeanfieldParameter) -> LayerParameter {
        LayerParameter {
            multi_stage_meanfield_param: Some(Box::new(p)),
            ..LayerParameter::default()
        }
    }

    fn two_iterations() -> MultiStageMeanfieldParameter {
        MultiStageMeanfieldParameter {
            num_iterations: Some(2),
            ..MultiStageMeanfieldParameter::default()
        }
    }

    fn diagonal(value: f32) -> Tensor {
        tensor(&[1, 1, 2, 2], [value, 0., 0., value])
    }

    /// Of one point, or of points that are all alike: the filters change nothing.
    fn alone(unary: [f64; 2], weight: f64) -> [f32; 2] {
        let mut now = unary;
        for _ in 0..2 {
            let first = 1.0 / (1.0 + (now[1] - now[0]).exp());
            now = [unary[0] + weight * first, unary[1] + weight * (1.0 - first)];
        }
        now.map(|value| value as f32)
    }

    #[test]
    fn points_that_are_alike_stay_so() {
        let blobs = [diagonal(3.), diagonal(5.), diagonal(-1.)];
        for (height, width) in [(1, 1), (4, 5)] {
            let points = height * width;
            let mut unary = vec![1.0; points];
            unary.extend(vec![0.5; points]);
            let unary = tensor(&[1, 2, height, width], unary);
            let mut picture = noise(&[1, 3, height, width]);
            picture.data.iter_mut().for_each(|x| *x *= 100.0);
            let bottoms = [unary.clone(), unary, picture];
            let y = forward::<MultiStageMeanfield>(&param(two_iterations()), &bottoms, &blobs);
            let want = alone([1.0, 0.5], 8.0);
            assert_close(&y[0].data[..points], &vec![want[0]; points], 1e-5);
            assert_close(&y[0].data[points..], &vec![want[1]; points], 1e-5);
        }
    }

    /// Far away, or of another colour, a point does not count.
    #[test]
    fn near_points_of_like_colours_count() {
        let p = MultiStageMeanfieldParameter {
            theta_alpha: Some(5.0),
            theta_beta: Some(3.0),
            ..two_iterations()
        };
        let unary = tensor(&[1, 2, 1, 2], [2., 0., 0., 1.]);
        let of = |other: f32| {
            let picture = tensor(&[1, 3, 1, 2], [0., other, 0., other, 0., other]);
            let blobs = [diagonal(0.), diagonal(1.), diagonal(-1.)];
            let bottoms = [unary.clone(), unary.clone(), picture];
            forward::<MultiStageMeanfield>(&param(p.clone()), &bottoms, &blobs)
                .remove(0)
                .data
        };
        let [first, second] = [alone([2., 0.], 1.), alone([0., 1.], 1.)];
        assert_close(&of(200.), &[first[0], second[0], first[1], second[1]], 1e-5);
        let like = of(0.);
        assert!(
            like[0] < first[0] - 0.1 && like[1] > second[0] + 0.1,
            "{like:?}"
        );
    }

    /// An impulse becomes nearly a Gaussian: round its place, with a variance of 1 along
    /// each axis, and small where it is far away.
    #[test]
    fn the_lattice_filters() {
        let side = 61;
        let at = |i: usize| [(i % side) as f32 / 3.0, (i / side) as f32 / 3.0];
        let features: Vec<f32> = (0..side * side).flat_map(at).collect();
        let middle = side / 2 * side + side / 2;
        let mut impulse = vec![0.0; side * side];
        impulse[middle] = 1.0;
        let y = routine::Lattice::new(&features, 2).filter(&impulse, 1);
        let sum: f32 = y.iter().sum();
        for axis in 0..2 {
            let away = |i: usize| at(i)[axis] - at(middle)[axis];
            let mean = (0..y.len()).map(|i| y[i] * away(i)).sum::<f32>() / sum;
            let square = (0..y.len()).map(|i| y[i] * away(i) * away(i)).sum::<f32>() / sum;
            assert!(
                mean.abs() < 0.05 && (square - 1.0).abs() < 0.1,
                "{mean}, {square}"
            );
        }
        assert!(y[middle + 15] < 0.01 * y[middle] && y[middle - 15] < 0.01 * y[middle]);
    }

    #[test]
    fn any_values_are_taken() {
        let unary = tensor(&[1, 2, 1, 2], [f32::NAN, 0., f32::INFINITY, 1.]);
        let picture = tensor(
            &[1, 3, 1, 2],
            [f32::NAN, 1e30, f32::INFINITY, 0., -1e30, 0.],
        );
        let blobs = [diagonal(3.), diagonal(5.), diagonal(-1.)];
        let bottoms = [unary.clone(), unary, picture];
        let y = forward::<MultiStageMeanfield>(&param(two_iterations()), &bottoms, &blobs);
        assert_eq!(y[0].data.len(), 4);
    }

    #[test]
    fn weights_start_on_the_diagonal() {
        let p = MultiStageMeanfieldParameter {
            spatial_filter_weights_str: Some("3 3".into()),
            bilateral_filter_weight: Some(5.0),
            ..two_iterations()
        };
        let dims: [&[usize]; 3] = [&[1, 2, 4, 4], &[1, 2, 4, 4], &[1, 3, 4, 4]];
        let (layer, _) = infer::<MultiStageMeanfield>(&param(p), &dims).unwrap();
        let specs = layer.params(&dims.map(shape)).unwrap();
        let values: Vec<f32> = specs.iter().map(|spec| spec.filler.value()).collect();
        assert_eq!(values, [3., 5., -1.]);
        assert_eq!(specs[0].shape.dims(), [1, 1, 2, 2]);
        let filled = crate::weights::fill(&specs[0], crate::weights::Stream::new(1)).unwrap();
        assert_eq!(filled.window(0..4).to_vec(), [3., 0., 0., 3.]);
    }

    #[test]
    fn refusals() {
        type Change = fn(&mut MultiStageMeanfieldParameter);
        let cases: [(&str, Change); 4] = [
            ("num_iterations", |p| p.num_iterations = Some(1)),
            ("theta_beta", |p| p.theta_beta = Some(0.0)),
            ("spatial_filter_weights_str", |p| {
                p.spatial_filter_weights_str = Some("3 4".into());
            }),
            ("forced_spatial_filter_weight", |p| {
                p.forced_spatial_filter_weight = Some(1.0)
            }),
        ];
        let good: [&[usize]; 3] = [&[1, 2, 4, 4], &[1, 2, 4, 4], &[1, 3, 4, 4]];
        for (name, change) in cases {
            let mut p = two_iterations();
            change(&mut p);
            let got = refusal::<MultiStageMeanfield>(&param(p), &good);
            assert!(got.starts_with(&format!("{}: ", field(name))), "{got}");
        }
        for (at, dims) in [(1, &[1, 3, 4, 4][..]), (2, &[1, 3, 4, 5])] {
            let mut shapes = good;
            shapes[at] = dims;
            let got = refusal::<MultiStageMeanfield>(&param(two_iterations()), &shapes);
            assert!(got.starts_with(&format!("bottom[{at}]: ")), "{got}");
        }
    }
}
