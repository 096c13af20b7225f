//! One suite over every leaf of every ISA that this CPU has. Each run puts canaries
//! around what [`Leaf::touches`] says: a write beside it is found, a read beside it
//! turns results into NaN.

use super::*;

const CANARY: u32 = 0x7fc0_dead;
const GUARD: usize = 64;

fn isas() -> impl Iterator<Item = Isa> {
    Isa::ALL.into_iter().filter(|isa| isa.available())
}

/// A small generator: the high bits of a linear congruence.
struct Random(u64);

impl Random {
    fn bits(&mut self) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 32) as u32
    }

    /// −1 to 1.
    fn unit(&mut self) -> f32 {
        self.bits() as f32 / 2f32.powi(31) - 1.0
    }

    fn below(&mut self, n: u32) -> u32 {
        ((u64::from(self.bits()) * u64::from(n)) >> 32) as u32
    }
}

/// Values between −1 and 1.
fn units(seed: u64) -> impl Iterator<Item = f32> {
    let mut random = Random(seed);
    std::iter::repeat_with(move || random.unit())
}

/// Memory behind a pointer argument; index 0 is where the pointer points.
#[derive(Clone)]
struct Memory {
    data: Vec<f32>,
    base: usize,
}

impl Memory {
    fn get(&self, index: usize) -> f32 {
        self.data[self.base + index]
    }

    fn at(&self, index: i64) -> f32 {
        self.data[usize::try_from(self.base as i64 + index).unwrap()]
    }

    fn set_all(&mut self, indices: impl Iterator<Item = i64>, values: impl Iterator<Item = f32>) {
        indices.zip(values).for_each(|(i, v)| self.set(i, v));
    }

    fn set(&mut self, index: i64, value: f32) {
        let at = usize::try_from(self.base as i64 + index).unwrap();
        self.data[at] = value;
    }
}

/// An argument of a test run.
enum Given<'a> {
    /// Fresh memory; what is read of it holds these values, one after the other and
    /// again from the start.
    Values(&'a [f32]),
    /// The same with values between −1 and 1; the number starts the generator.
    Units(u64),
    /// Fresh memory that is only written.
    Out,
    /// The memory of an earlier argument.
    Same(usize),
    /// Fresh memory, of which exactly these elements hold values between −1 and 1.
    Exactly(&'a [i64]),
    Null,
    /// No memory.
    Nowhere,
    Table(&'a [i32]),
    Len(usize),
    F32(f32),
}
use Given::{Exactly, F32, Len, Nowhere, Null, Out, Same, Table, Units, Values};

fn info<'a>(given: &Given<'a>) -> ArgInfo<'a> {
    match *given {
        Values(_) | Units(_) | Out | Same(_) | Exactly(_) | Nowhere => ArgInfo::Ptr,
        Null => ArgInfo::Null,
        Table(t) => ArgInfo::Table(t),
        Len(n) => ArgInfo::Len(n),
        F32(v) => ArgInfo::F32(v),
    }
}

fn elements(touch: &Touch) -> impl Iterator<Item = i64> {
    let (offset, stride, len) = (touch.offset, touch.row_stride, touch.row_len as i64);
    (0..touch.rows as i64).flat_map(move |row| (0..len).map(move |i| offset + row * stride + i))
}

/// Memory for all that is touched through arguments `arg` or the same as `arg`.
fn allocate(touches: &[Touch], given: &[Given], arg: usize) -> Memory {
    let here = |t: &&Touch| t.arg == arg || matches!(given[t.arg], Same(a) if a == arg);
    let reach = |t: &Touch| (t.rows as i64 - 1) * t.row_stride + t.row_len as i64;
    let touches = || touches.iter().filter(here);
    let low = touches().map(|t| t.offset).min().unwrap_or(0).min(0);
    let high = touches().map(|t| t.offset + reach(t)).max().unwrap_or(0);
    Memory {
        data: vec![f32::from_bits(CANARY); (high.max(0) - low) as usize + 2 * GUARD],
        base: GUARD + usize::try_from(-low).unwrap(),
    }
}

/// Runs a leaf and checks what it wrote; gives the memories before and after.
fn run(leaf: Leaf, isa: Isa, given: Vec<Given>) -> (Vec<Memory>, Vec<Memory>) {
    let infos: Vec<ArgInfo> = given.iter().map(info).collect();
    let touches = leaf.touches(&infos).expect("arguments keep the contract");
    let mut memories: Vec<Memory> = (0..given.len())
        .map(|arg| allocate(&touches, &given, arg))
        .collect();
    for (arg, g) in given.iter().enumerate() {
        let read = touches.iter().filter(|t| t.arg == arg && !t.write);
        let read = read.flat_map(elements);
        match *g {
            Values(values) => memories[arg].set_all(read, values.iter().copied().cycle()),
            Units(seed) => memories[arg].set_all(read, units(seed)),
            Exactly(indices) => memories[arg].set_all(indices.iter().copied(), units(7)),
            _ => {}
        }
    }
    let before = memories.clone();
    let pointers: Vec<*mut f32> = memories
        .iter_mut()
        .map(|m| unsafe { m.data.as_mut_ptr().add(m.base) })
        .collect();
    let values: Vec<Value> = given
        .iter()
        .enumerate()
        .map(|(arg, g)| match *g {
            Values(_) | Units(_) | Out | Exactly(_) => Value::Ptr(pointers[arg]),
            Same(a) => Value::Ptr(pointers[a]),
            Null => Value::Ptr(std::ptr::null_mut()),
            Nowhere => Value::Ptr(std::ptr::without_provenance_mut(1 << 40)),
            Table(t) => Value::Table(t.as_ptr()),
            Len(n) => Value::Len(n),
            F32(v) => Value::F32(v),
        })
        .collect();
    unsafe { leaf.call(isa, &values) };
    check_writes(leaf, &touches, &given, &before, &memories);
    (before, memories)
}

fn check_writes(
    leaf: Leaf,
    touches: &[Touch],
    given: &[Given],
    before: &[Memory],
    after: &[Memory],
) {
    let mut expected = before.to_vec();
    for touch in touches.iter().filter(|t| t.write) {
        let memory = match given[touch.arg] {
            Same(a) => a,
            _ => touch.arg,
        };
        elements(touch).for_each(|i| expected[memory].set(i, after[memory].at(i)));
    }
    for (arg, (e, a)) in expected.iter().zip(after).enumerate() {
        let changed = e.data.iter().zip(&a.data);
        let wrong = changed
            .enumerate()
            .find(|(_, (x, y))| x.to_bits() != y.to_bits());
        assert!(wrong.is_none(), "{leaf:?}: argument {arg}: {wrong:?}");
    }
}

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
}

/// Every tile of an ISA.
fn tiles(isa: Isa) -> impl Iterator<Item = (u8, u8, u8, u8)> {
    let shapes = tile_blocks(isa)
        .iter()
        .flat_map(move |&nb| (1..=max_pixels(isa, nb)).map(move |mr| (mr, nb)));
    shapes.flat_map(|(mr, nb)| {
        [16u8, 0].into_iter().flat_map(move |taps| {
            let strides = tile_strides(taps).iter().chain(&[0]);
            strides.map(move |&px| (mr, nb, px, taps))
        })
    })
}

/// What comes after the sums.
#[derive(Clone, Copy, Debug)]
struct After {
    residual: bool,
    act: Activation,
    slope: f32,
}

const AFTER: [After; 4] = [
    After {
        residual: false,
        act: Activation::None,
        slope: f32::NAN,
    },
    After {
        residual: true,
        act: Activation::Relu,
        slope: 0.0,
    },
    After {
        residual: false,
        act: Activation::Relu,
        slope: 0.1,
    },
    After {
        residual: true,
        act: Activation::PRelu,
        slope: f32::NAN,
    },
];

/// `a + b · c` as the ISA rounds it.
fn add_product(isa: Isa, a: f32, b: f32, c: f32) -> f32 {
    match isa {
        Isa::Portable => a + b * c,
        Isa::Avx2 | Isa::Avx512 => b.mul_add(c, a),
    }
}

/// The activation as `Activation` writes it, with Caffe's `std::max` and `std::min`.
fn activate(after: After, v: f32, own_slope: f32) -> f32 {
    let slope = match after.act {
        Activation::None => return v,
        Activation::Relu => after.slope,
        Activation::PRelu => own_slope,
    };
    let max = if v < 0.0 { 0.0 } else { v };
    let min = if 0.0 < v { 0.0 } else { v };
    max + slope * min
}

#[test]
fn tiles_compute_their_definition() {
    for isa in isas() {
        for (mr, nb, px, taps) in tiles(isa) {
            for after in AFTER {
                check_tile(isa, (mr, nb, px, taps), after);
            }
        }
    }
}

fn check_tile(isa: Isa, (mr, nb, px, taps): (u8, u8, u8, u8), after: After) {
    let leaf = Leaf::Tile { mr, nb, px, taps };
    let (mr, nb) = (usize::from(mr), usize::from(nb));
    let taps = if taps == 0 { 5 } else { usize::from(taps) };
    let src_px = if px == 0 { 48 } else { usize::from(px) };
    let offsets = [96, -700, 1600];
    let weight_stride = offsets.len() * taps * 16 + 24;
    let (dst_px, dst_stride, residual_stride) = (20, 15 * 20 + 7, 15 * 20 + 3);
    let read: Vec<i64> = offsets
        .iter()
        .flat_map(|&o| {
            (0..mr * src_px)
                .step_by(src_px)
                .map(move |m| i64::from(o) + m as i64)
        })
        .flat_map(|x| (0..taps as i64).map(move |t| x + t))
        .collect();
    let (before, result) = run(
        leaf,
        isa,
        vec![
            Exactly(&read),
            Units(1),
            Units(2),
            if after.residual { Units(3) } else { Null },
            if after.act == Activation::PRelu {
                Units(4)
            } else {
                Null
            },
            Out,
            Table(&offsets),
            Len(offsets.len()),
            Len(taps),
            Len(weight_stride),
            Len(dst_stride),
            Len(residual_stride),
            Len(src_px),
            Len(dst_px),
            Len(after.act as usize),
            F32(after.slope),
            Nowhere,
            Len(48),
            Len(7),
        ],
    );
    for (j, m, n) in indices(nb, mr) {
        let mut sum = 0.0;
        for (s, &offset) in offsets.iter().enumerate() {
            for t in 0..taps {
                let x = before[0].at(i64::from(offset) + (m * src_px + t) as i64);
                let w = before[1].get(j * weight_stride + (s * taps + t) * 16 + n);
                sum = add_product(isa, sum, x, w);
            }
        }
        sum += before[2].get(j * 16 + n);
        if after.residual {
            sum += before[3].get(j * residual_stride + m * dst_px + n);
        }
        let slope = if after.act == Activation::PRelu {
            before[4].get(j * 16 + n)
        } else {
            0.0
        };
        let expected = activate(after, sum, slope);
        let got = result[5].get(j * dst_stride + m * dst_px + n);
        assert!(expected.is_finite());
        assert!(
            same(got, expected),
            "{leaf:?} {isa} {after:?}: {got}, not {expected}"
        );
    }
}

fn indices(nb: usize, mr: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..nb).flat_map(move |j| (0..mr).flat_map(move |m| (0..16).map(move |n| (j, m, n))))
}

#[test]
fn depthwise_computes_its_definition() {
    for isa in isas() {
        for &taps in DEPTHWISE_TAPS {
            for mr in 1..=max_depthwise_pixels(isa, taps) {
                for (px, after) in [16, 32, 0]
                    .into_iter()
                    .flat_map(|px| AFTER.map(|a| (px, a)))
                {
                    check_depthwise(isa, (mr, px, taps), after);
                }
            }
        }
    }
}

fn check_depthwise(isa: Isa, (mr, px, taps): (u8, u8, u8), after: After) {
    let leaf = Leaf::Depthwise { mr, px, taps };
    let (mr, taps) = (usize::from(mr), usize::from(taps));
    let src_px = if px == 0 { 40 } else { usize::from(px) };
    let (offsets, dst_px) = ([-64, 0, 160, 3000], 17);
    let read: Vec<i64> = offsets
        .iter()
        .flat_map(|&o| (0..mr).map(move |m| i64::from(o) + (m * src_px) as i64))
        .flat_map(|x| (0..taps as i64 * 16).map(move |n| x + n))
        .collect();
    let (before, result) = run(
        leaf,
        isa,
        vec![
            Exactly(&read),
            Units(1),
            Units(2),
            if after.residual { Units(3) } else { Null },
            if after.act == Activation::PRelu {
                Units(4)
            } else {
                Null
            },
            Out,
            Table(&offsets),
            Len(offsets.len()),
            Len(src_px),
            Len(dst_px),
            Len(after.act as usize),
            F32(after.slope),
        ],
    );
    for (_, m, n) in indices(1, mr) {
        let mut sum = 0.0;
        for (s, &offset) in offsets.iter().enumerate() {
            for t in 0..taps {
                let x = before[0].at(i64::from(offset) + (m * src_px + t * 16 + n) as i64);
                sum = add_product(isa, sum, x, before[1].get((s * taps + t) * 16 + n));
            }
        }
        sum += before[2].get(n);
        if after.residual {
            sum += before[3].get(m * dst_px + n);
        }
        let slope = if after.act == Activation::PRelu {
            before[4].get(n)
        } else {
            0.0
        };
        let expected = activate(after, sum, slope);
        let got = result[5].get(m * dst_px + n);
        assert!(
            same(got, expected),
            "{leaf:?} {isa} {after:?}: {got}, not {expected}"
        );
    }
}

#[test]
fn values_at_points_convolve() {
    for isa in isas() {
        for kernel in [3, 5] {
            for &(n, m) in winograd_tiles(kernel) {
                let most = usize::from(m);
                for height in 1..=most {
                    for width in 2 * most + 1..=3 * most {
                        let after = AFTER[(height + width) % AFTER.len()];
                        check_winograd(isa, kernel, (n, m), [height, width], after);
                    }
                }
            }
        }
    }
}

/// Values of a kernel at the points of one axis, in f64.
fn kernel_values(n: usize, kernel: &[f64]) -> Vec<f64> {
    let points = winograd_points(n);
    let at = |&p: &f64| {
        let others = points.iter().filter(|&&other| other != p);
        let distances: f64 = others.map(|other| p - other).product();
        let powers = (0..).map(|i| p.powi(i));
        kernel
            .iter()
            .zip(powers)
            .map(|(k, power)| k * power)
            .sum::<f64>()
            / distances
    };
    let infinity = kernel[kernel.len() - 1];
    points.iter().map(at).chain([infinity]).collect()
}

/// `height` × `width` outputs in a row of tiles, with a kernel for each of the 16
/// channels, against the sums of products.
fn check_winograd(
    isa: Isa,
    kernel: usize,
    (n, m): (u8, u8),
    [height, width]: [usize; 2],
    after: After,
) {
    let (points, outputs) = (usize::from(n), usize::from(m));
    let tiles = width.div_ceil(outputs);
    let src_row = (tiles * outputs + points) * 16 + 8;
    let point_stride = tiles * 16 + 24;
    let (source, values) = run(
        Leaf::ToPoints { n },
        isa,
        vec![
            Units(1),
            Out,
            Len(tiles),
            Len(src_row),
            Len(outputs * 16),
            Len(point_stride),
        ],
    );
    let weights: Vec<f32> = units(2).take(16 * kernel * kernel).collect();
    let weight = |c: usize, y: usize, x: usize| f64::from(weights[(c * kernel + y) * kernel + x]);
    let transformed: Vec<Vec<Vec<f64>>> = (0..16)
        .map(|c| {
            let line = |y| {
                (0..kernel)
                    .map(move |x| weight(c, y, x))
                    .collect::<Vec<_>>()
            };
            let rows: Vec<_> = (0..kernel)
                .map(|y| kernel_values(points, &line(y)))
                .collect();
            let column = |x: usize| rows.iter().map(|row| row[x]).collect::<Vec<_>>();
            (0..points)
                .map(|x| kernel_values(points, &column(x)))
                .collect()
        })
        .collect();
    let mut products = Vec::new();
    for (p, t, c) in box_indices(points * points, tiles, 16) {
        let weight = transformed[c][p % points][p / points] as f32;
        products.push(values[1].get(p * point_stride + t * 16 + c) * weight);
    }
    let (dst_row, residual_row) = (width * 16 + 16, width * 16 + 48);
    let (before, result) = run(
        Leaf::FromPoints { n, m },
        isa,
        vec![
            Values(&products),
            Units(3),
            if after.residual { Units(4) } else { Null },
            if after.act == Activation::PRelu {
                Units(5)
            } else {
                Null
            },
            Out,
            Len(tiles),
            Len(point_stride),
            Len(height),
            Len(width),
            Len(dst_row),
            Len(residual_row),
            Len(after.act as usize),
            F32(after.slope),
        ],
    );
    for (y, x, c) in box_indices(height, width, 16) {
        let mut sum = 0.0;
        for (ky, kx, _) in box_indices(kernel, kernel, 1) {
            let pixel = source[0].get((y + ky) * src_row + (x + kx) * 16 + c);
            sum += f64::from(pixel) * weight(c, ky, kx);
        }
        sum += f64::from(before[1].get(c));
        if after.residual {
            sum += f64::from(before[2].get(y * residual_row + x * 16 + c));
        }
        let slope = match after.act {
            Activation::PRelu => before[3].get(c),
            _ => 0.0,
        };
        let expected = activate(after, sum as f32, slope);
        let got = result[4].get(y * dst_row + x * 16 + c);
        assert!(
            (got - expected).abs() < 4e-5,
            "{n} {m} {isa} {after:?} ({y}, {x}): {got}, not {expected}"
        );
    }
}

#[test]
fn activations_treat_special_values_as_caffe() {
    let special = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        -0.0,
        0.0,
        -2.0,
        3.0,
    ];
    let relu = [f32::NAN, f32::INFINITY, f32::NAN, 0.0, 0.0, 0.0, 3.0];
    let leaky = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        0.0,
        0.0,
        -1.0,
        3.0,
    ];
    for isa in isas() {
        let leaf = Leaf::Depthwise {
            mr: 1,
            px: 16,
            taps: 1,
        };
        for (slope, expected) in [(0.0, relu), (0.5, leaky)] {
            let (_, result) = run(
                leaf,
                isa,
                vec![
                    Values(&[0.0]),
                    Values(&[0.0]),
                    Values(&special),
                    Null,
                    Null,
                    Out,
                    Table(&[0]),
                    Len(1),
                    Len(16),
                    Len(16),
                    Len(Activation::Relu as usize),
                    F32(slope),
                ],
            );
            for n in 0..16 {
                let got = result[5].get(n);
                let wanted = expected[n % 7];
                assert!(
                    got == wanted || got.is_nan() && wanted.is_nan(),
                    "{isa} {n} {got}"
                );
            }
        }
    }
}

#[test]
fn layouts_are_inverse() {
    for channels in [1, 3, 15, 16] {
        for (height, width) in [(1, 1), (3, 5), (2, 16), (4, 33)] {
            check_layouts(channels, height, width);
        }
    }
}

fn check_layouts(channels: usize, height: usize, width: usize) {
    let isa = Isa::Portable;
    let (row, plane, blocked_row) = (width + 3, (width + 3) * height + 5, width * 16 + 32);
    let (plain, blocked) = run(
        Leaf::ToBlocked,
        isa,
        vec![
            Units(3),
            Out,
            Len(channels),
            Len(height),
            Len(width),
            Len(plane),
            Len(row),
            Len(blocked_row),
        ],
    );
    let value = |c: usize, y: usize, x: usize| plain[0].get(c * plane + y * row + x);
    let mut inputs = Vec::new();
    for (y, x, c) in box_indices(height, width, 16) {
        let expected = if c < channels { value(c, y, x) } else { 0.0 };
        let got = blocked[1].get(y * blocked_row + x * 16 + c);
        assert_eq!(got.to_bits(), expected.to_bits());
        inputs.push(got);
    }
    let (_, again) = run(
        Leaf::ToPlain,
        isa,
        vec![
            Values(&inputs),
            Out,
            Len(channels),
            Len(height),
            Len(width),
            Len(blocked_row),
            Len(plane),
            Len(row),
        ],
    );
    for (y, x, c) in box_indices(height, width, channels) {
        assert_eq!(again[1].get(c * plane + y * row + x), value(c, y, x));
    }
}

fn box_indices(a: usize, b: usize, c: usize) -> impl Iterator<Item = (usize, usize, usize)> {
    (0..a).flat_map(move |i| (0..b).flat_map(move |j| (0..c).map(move |k| (i, j, k))))
}

#[test]
fn fill_and_copy_keep_to_their_rows() {
    let isa = Isa::Portable;
    let (_, filled) = run(Leaf::Fill, isa, vec![Out, Len(3), Len(5), Len(9), F32(2.5)]);
    assert!((0..15).all(|i| filled[0].get(i / 5 * 9 + i % 5) == 2.5));
    let (before, after) = run(
        Leaf::Copy,
        isa,
        vec![Units(5), Out, Len(4), Len(17), Len(20), Len(33)],
    );
    for i in 0..4 * 17 {
        assert_eq!(
            after[1].get(i / 17 * 33 + i % 17),
            before[0].get(i / 17 * 20 + i % 17)
        );
    }
}

/// Runs a function over these inputs, in place and not, on all ISAs, which must agree
/// bit for bit.
fn map(function: Function, inputs: &[f32], [a, b, c]: [f32; 3]) -> Vec<f32> {
    let mut results: Vec<Vec<f32>> = Vec::new();
    for isa in isas() {
        for in_place in [false, true] {
            let given = vec![
                Values(inputs),
                if in_place { Same(0) } else { Out },
                Len(inputs.len()),
                F32(a),
                F32(b),
                F32(c),
            ];
            let (_, after) = run(Leaf::Unary(function), isa, given);
            let memory = if in_place { &after[0] } else { &after[1] };
            results.push((0..inputs.len()).map(|i| memory.get(i)).collect());
        }
    }
    let first = results.swap_remove(0);
    for other in &results {
        assert!(
            first.iter().zip(other).all(|(x, y)| same(*x, *y)),
            "{function:?}"
        );
    }
    first
}

/// Floats of all magnitudes and signs, and the special ones.
fn sweep() -> Vec<f32> {
    let special = [
        f32::NAN,
        f32::INFINITY,
        f32::NEG_INFINITY,
        0.0,
        -0.0,
        1.0,
        -1.0,
        f32::MAX,
        f32::MIN,
        f32::MIN_POSITIVE,
        f32::from_bits(1),
        88.72283,
        88.72284,
        -87.33654,
        -103.97208,
        -103.97209,
    ];
    let dense = (0..40_000).map(|i| (i as f32 - 20_000.0) * 0.006);
    let near_one = (0..2_000).map(|i| 1.0 + (i as f32 - 1_000.0) * f32::EPSILON);
    let all = (0..=u32::MAX / 39_119).map(|i| f32::from_bits(i * 39_119));
    special
        .into_iter()
        .chain(dense)
        .chain(near_one)
        .chain(all)
        .collect()
}

/// Compares with an f64 value: at most 0.501 units in the last place away.
fn check_accuracy(what: &str, x: f32, got: f32, exact: f64) {
    let rounded = exact as f32;
    if same(got, rounded) || got == rounded {
        return;
    }
    let unit = f64::from(f32::from_bits(rounded.abs().to_bits() | 1)) * f64::from(f32::EPSILON);
    let error = (f64::from(got) - exact).abs();
    assert!(
        error <= 0.501 * unit.max(2f64.powi(-149)),
        "{what}({x:e}) = {got:e}, not {exact:e}"
    );
}

#[test]
fn functions_are_nearly_correctly_rounded() {
    type Exact = fn(f64) -> f64;
    let functions: [(Function, Exact); 4] = [
        (Function::Sigmoid, |x| 1.0 / (1.0 + (-x).exp())),
        (Function::TanH, f64::tanh),
        (Function::Exp, f64::exp),
        (Function::Log, f64::ln),
    ];
    let inputs = sweep();
    for (function, exact) in functions {
        let abc = if function == Function::Log {
            [1.0, 1.0, 0.0]
        } else {
            [1.0, 0.0, 0.0]
        };
        let results = map(function, &inputs, abc);
        for (&x, &got) in inputs.iter().zip(&results) {
            check_accuracy(&format!("{function:?}"), x, got, exact(f64::from(x)));
        }
    }
}

#[test]
fn activations_follow_their_formulas() {
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    let inputs: Vec<f32> = sweep().into_iter().step_by(3).collect();
    let elu = map(Function::Elu, &inputs, [1.75, 0.5, f32::NAN]);
    let smooth = map(Function::SoftPlus, &inputs, [f32::NAN; 3]);
    let swish = map(Function::Swish, &inputs, [0.5, f32::NAN, f32::NAN]);
    let mish = map(Function::Mish, &inputs, [f32::NAN; 3]);
    for (i, &given) in inputs.iter().enumerate() {
        let x = f64::from(given);
        let exact = if x > 0.0 { x } else { 1.75 * x.exp_m1() };
        check_accuracy("Elu", given, elu[i], 0.5 * exact);
        check_accuracy("SoftPlus", given, smooth[i], softplus(x));
        // Products of two rounded factors, of which one may be denormal.
        for (got, factor) in [
            (swish[i], 1.0 / (1.0 + (-0.5 * x).exp())),
            (mish[i], softplus(x).tanh()),
        ] {
            let want = given * factor as f32;
            let error = (got - want).abs();
            assert!(
                same(got, want) || got == want || error <= 2e-7 * want.abs() + 1e-36,
                "{given:e}: {got:e}, not {want:e}"
            );
        }
    }
}

#[test]
fn functions_scale_and_shift() {
    let inputs = [0.5f32, 1.0, 2.0];
    let exp = map(Function::Exp, &inputs, [2.0, -1.0, f32::NAN]);
    let log = map(Function::Log, &inputs, [3.0, 2.0, 4.0]);
    let power = map(Function::Power, &inputs, [3.0, 2.0, 1.0]);
    for (i, &x) in inputs.iter().enumerate() {
        let x = f64::from(x);
        check_accuracy("Exp", inputs[i], exp[i], (2.0 * x - 1.0).exp());
        assert!((f64::from(log[i]) - 3.0 * (2.0 * x + 4.0).ln()).abs() < 1e-6);
        assert_eq!(f64::from(power[i]), (1.0 + 2.0 * x).powi(3));
    }
}

#[test]
fn powers_follow_c() {
    let ys = [
        0.0,
        -0.0,
        1.0,
        -1.0,
        2.0,
        3.0,
        -3.0,
        0.5,
        -0.5,
        0.75,
        2.5,
        -1e-3,
        11.0,
        16777215.0,
        16777216.0,
        -16777217.0,
        1e30,
        -1e30,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ];
    let inputs: Vec<f32> = sweep().into_iter().step_by(7).chain(ys).collect();
    for y in ys {
        let results = map(Function::Power, &inputs, [y, 1.0, 0.0]);
        for (&x, &got) in inputs.iter().zip(&results) {
            let exact = f64::from(x).powf(f64::from(y));
            let signed_zero = got == 0.0 && exact as f32 == 0.0;
            assert!(
                !signed_zero || got.is_sign_negative() == exact.is_sign_negative(),
                "{x:e}^{y} = {got}, not {exact}"
            );
            check_accuracy(&format!("power {y}"), x, got, exact);
        }
    }
}

#[test]
fn lrn_follows_caffe() {
    for isa in isas() {
        for (channels, size) in [(1, 1), (5, 3), (16, 5), (17, 5), (40, 7), (3, 9)] {
            for (beta, k) in [(0.75, 1.0), (0.75, 0.0), (0.5, 2.0)] {
                for in_place in [false, true] {
                    check_lrn(isa, channels, size, beta, k, in_place);
                }
            }
        }
    }
}

fn check_lrn(isa: Isa, channels: usize, size: usize, beta: f32, k: f32, in_place: bool) {
    let (pixels, src_stride) = (7, 7 * 16 + 16);
    let dst_stride = if in_place { src_stride } else { 7 * 16 + 48 };
    let alpha = 0.3;
    let inputs: Vec<f32> = units(11).map(|v| 3.0 * v).take(1000).collect();
    let (before, after) = run(
        Leaf::Lrn,
        isa,
        vec![
            Values(&inputs),
            if in_place { Same(0) } else { Out },
            Out,
            Len(channels),
            Len(pixels),
            Len(src_stride),
            Len(dst_stride),
            Len(size),
            F32(alpha),
            F32(beta),
            F32(k),
            Len(usize::from(in_place)),
        ],
    );
    let x = |c: usize, p: usize| f64::from(before[0].get(c / 16 * src_stride + p * 16 + c % 16));
    let result = if in_place { &after[0] } else { &after[1] };
    for (c, p, _) in box_indices(channels.next_multiple_of(16), pixels, 1) {
        let got = f64::from(result.get(c / 16 * dst_stride + p * 16 + c % 16));
        if c >= channels {
            assert_eq!(got, 0.0);
            continue;
        }
        let window = c.saturating_sub(size / 2)..(c + size / 2 + 1).min(channels);
        let sum: f64 = window.map(|i| x(i, p) * x(i, p)).sum();
        let factor = (f64::from(k) + f64::from(alpha) * sum).powf(-f64::from(beta));
        let expected = factor * if in_place { factor } else { x(c, p) };
        assert!(
            (got - expected).abs() <= 5e-7 * expected.abs(),
            "{isa} {c}: {got}, {expected}"
        );
    }
}

#[test]
fn pooling_goes_over_windows_row_by_row() {
    // Slices, rows and columns of a window, and how far apart windows are.
    for window in [[1, 3, 3], [1, 2, 2], [2, 3, 2], [1, 1, 7], [1, 3, 0]] {
        for pixels in [1, 3, 4, 6, 9] {
            for step in [0, 1, 2, 3] {
                check_pool(window, pixels, step);
            }
        }
    }
}

fn check_pool([slices, rows, columns]: [usize; 3], pixels: usize, step: usize) {
    let (lines, area) = (3, (slices * rows * columns) as f32);
    let row = (pixels - 1) * step + columns + 1;
    let [slice_stride, row_stride, dst_stride] = [20 * row, row, pixels + 2].map(|n| n * 16);
    for (average, isa) in isas().flat_map(|isa| [(false, isa), (true, isa)]) {
        let lengths = [
            lines,
            pixels,
            2 * row_stride,
            step * 16,
            dst_stride,
            slices,
            rows,
            columns,
            slice_stride,
            row_stride,
        ];
        let mut given = vec![Units(29), Out];
        given.extend(lengths.map(Len));
        given.push(F32(area));
        let (before, after) = run(Leaf::Pool { average }, isa, given);
        for (line, pixel, lane) in box_indices(lines, pixels, 16) {
            let first = line * 2 * row_stride + pixel * step * 16 + lane;
            let elements = box_indices(slices, rows, columns)
                .map(|(s, r, c)| before[0].get(first + s * slice_stride + r * row_stride + c * 16));
            let expected = match average {
                true => elements.fold(0.0, |sum, x| sum + x) / area,
                false => elements.fold(f32::MIN, f32::max),
            };
            let got = after[1].get(line * dst_stride + pixel * 16 + lane);
            assert!(same(got, expected), "{isa} {got}, not {expected}");
        }
    }
}

#[test]
fn max_pooling_of_special_values() {
    let inf = f32::INFINITY;
    let cases = [
        ([f32::NAN, 1.0], 1.0),
        ([1.0, f32::NAN], 1.0),
        ([f32::NAN, -inf], f32::MIN),
        ([-inf, inf], inf),
        ([0.0, -0.0], 0.0),
        ([-0.0, 0.0], -0.0),
    ];
    for isa in isas() {
        for (x, expected) in cases {
            let pixels: Vec<f32> = x.iter().flat_map(|&x| [x; 16]).collect();
            let mut given = vec![Values(&pixels), Out];
            given.extend([1, 1, 0, 0, 16, 1, 1, 2, 0, 0].map(Len));
            given.push(F32(2.0));
            let (_, after) = run(Leaf::Pool { average: false }, isa, given);
            assert!(
                (0..16).all(|lane| same(after[1].get(lane), expected)),
                "{isa} {x:?}"
            );
        }
    }
}

#[test]
fn softmax_sums_to_one_and_survives_large_values() {
    for isa in isas() {
        for (channels, inner) in [(1, 1), (10, 1), (1000, 1), (3, 2), (21, 16), (5, 37)] {
            for in_place in [false, true] {
                check_softmax(isa, channels, inner, in_place);
            }
        }
    }
}

fn check_softmax(isa: Isa, channels: usize, inner: usize, in_place: bool) {
    let inputs: Vec<f32> = units(13)
        .map(|v| 1e4 + 20.0 * v)
        .take(channels * inner)
        .collect();
    let given = vec![
        Values(&inputs),
        if in_place { Same(0) } else { Out },
        Len(channels),
        Len(inner),
    ];
    let (before, after) = run(Leaf::Softmax, isa, given);
    let result = if in_place { &after[0] } else { &after[1] };
    for i in 0..inner {
        let x = |c: usize| f64::from(before[0].get(c * inner + i));
        let max = (0..channels).map(x).fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = (0..channels).map(|c| (x(c) - max).exp()).sum();
        for c in 0..channels {
            let (got, expected) = (
                f64::from(result.get(c * inner + i)),
                (x(c) - max).exp() / sum,
            );
            assert!(
                (got - expected).abs() <= 5e-6 * expected,
                "{isa}: {got}, not {expected}"
            );
        }
    }
}

#[test]
fn softmax_of_special_values() {
    for isa in isas() {
        for (x, expected) in [
            ([f32::NEG_INFINITY, 0.0, 0.0], [0.0, 0.5, 0.5]),
            ([0.0, f32::NAN, 0.0], [f32::NAN; 3]),
            ([f32::INFINITY, 0.0, 0.0], [f32::NAN; 3]),
        ] {
            let (_, after) = run(Leaf::Softmax, isa, vec![Values(&x), Out, Len(3), Len(1)]);
            assert!(
                (0..3).all(|c| same(after[1].get(c), expected[c])),
                "{isa} {x:?}"
            );
        }
    }
}

/// The values that `Out` argument number `arg` holds after a run on plain inputs.
fn plain_run(leaf: Leaf, given: Vec<Given>, arg: usize, n: usize) -> Vec<f32> {
    let (_, after) = run(leaf, Isa::Portable, given);
    (0..n).map(|i| after[arg].get(i)).collect()
}

#[test]
fn argmax_puts_the_highest_index_first() {
    let scores = [1.0, 9.0, 3.0, 9.0, 3.0, 2.0];
    let run = |top_k: usize, values: usize| {
        let given = vec![
            Values(&scores),
            Out,
            Len(6),
            Len(1),
            Len(top_k),
            Len(values),
        ];
        plain_run(Leaf::ArgMax, given, 1, top_k)
    };
    assert_eq!(run(1, 0), [3.0]);
    assert_eq!(run(4, 0), [3.0, 1.0, 4.0, 2.0]);
    assert_eq!(run(6, 1), [9.0, 9.0, 3.0, 3.0, 2.0, 1.0]);
}

#[test]
fn argmax_along_an_axis_is_a_stable_order() {
    let mut random = Random(17);
    let (dim, inner, top_k) = (9, 4, 5);
    let scores: Vec<f32> = (0..dim * inner).map(|_| random.below(4) as f32).collect();
    let given = vec![
        Values(&scores),
        Out,
        Len(dim),
        Len(inner),
        Len(top_k),
        Len(0),
    ];
    let got = plain_run(Leaf::ArgMax, given, 1, top_k * inner);
    for i in 0..inner {
        let mut pairs: Vec<(u32, usize)> = (0..dim)
            .map(|d| (scores[d * inner + i] as u32, d))
            .collect();
        pairs.sort();
        for (k, pair) in pairs.iter().rev().take(top_k).enumerate() {
            assert_eq!(got[k * inner + i], pair.1 as f32);
        }
    }
}

#[test]
fn argmax_survives_nan() {
    for top_k in [1, 3] {
        let scores = [f32::NAN, 5.0, f32::NAN, 1.0, f32::NAN];
        let given = vec![Values(&scores), Out, Len(5), Len(1), Len(top_k), Len(0)];
        let got = plain_run(Leaf::ArgMax, given, 1, top_k);
        assert!(got.iter().all(|&i| (0.0..5.0).contains(&i)), "{got:?}");
    }
}

const LOSS_PROBABILITIES: [f32; 12] = [
    0.5, 0.25, 0.125, 0.25, 0.375, 0.5, // image 0: classes 0, 1, 2 at positions 0, 1
    0.0, 0.125, 0.5, 0.375, 0.5, 0.5, // image 1
];

fn loss(labels: [f32; 4], ignore: bool, normalization: usize) -> f32 {
    let given = vec![
        Values(&LOSS_PROBABILITIES),
        Values(&labels),
        Out,
        Len(2),
        Len(3),
        Len(2),
        Len(usize::from(ignore)),
        F32(-1.0),
        Len(normalization),
    ];
    plain_run(Leaf::SoftmaxLoss, given, 2, 1)[0]
}

#[test]
fn softmax_loss_follows_caffe() {
    let close = |got: f32, expected: f64| {
        assert!(
            (f64::from(got) - expected).abs() < 1e-6 * expected.abs(),
            "{got} {expected}"
        );
    };
    let ln = |p: f32| -f64::from(p).ln();
    // Probabilities 0.5, 0.5, FLT_MIN instead of 0, 0.375.
    let sum = ln(0.5) + ln(0.5) + ln(f32::MIN_POSITIVE) + ln(0.375);
    let labels = [0.0, 2.0, 0.0, 1.0];
    for (normalization, divisor) in [(0, 4.0), (1, 4.0), (2, 2.0), (3, 1.0)] {
        close(loss(labels, false, normalization), sum / divisor);
    }
    let ignoring = [0.0, -1.0, -1.0, 1.0];
    for (normalization, divisor) in [(0, 4.0), (1, 2.0), (2, 2.0), (3, 1.0)] {
        close(
            loss(ignoring, true, normalization),
            (ln(0.5) + ln(0.375)) / divisor,
        );
    }
    assert_eq!(loss([-1.0; 4], true, 1), 0.0);
    for label in [3.0, -1.0, f32::NAN, f32::INFINITY, 1e30] {
        assert!(loss([0.0, label, 0.0, 0.0], false, 1).is_nan());
    }
}

fn accuracy(labels: [f32; 4], top_k: usize, ignore: bool) -> (f32, Vec<f32>) {
    let scores = [
        0.9, 0.1, 0.05, 0.8, 0.05, 0.8, // image 0: classes 0, 1, 2 at positions 0, 1
        0.2, 0.3, 0.3, 0.3, 0.5, 0.4, // image 1
    ];
    let given = vec![
        Values(&scores),
        Values(&labels),
        Out,
        Out,
        Len(2),
        Len(3),
        Len(2),
        Len(top_k),
        Len(usize::from(ignore)),
        F32(2.0),
    ];
    let (_, after) = run(Leaf::Accuracy, Isa::Portable, given);
    (after[2].get(0), (0..3).map(|c| after[3].get(c)).collect())
}

#[test]
fn accuracy_follows_caffe() {
    // Hit; a tie, which counts against; miss; a tie for the second place.
    let labels = [0.0, 1.0, 0.0, 1.0];
    assert_eq!(accuracy(labels, 1, false), (0.25, vec![0.5, 0.0, 0.0]));
    assert_eq!(accuracy(labels, 2, false), (0.5, vec![0.5, 0.5, 0.0]));
    assert_eq!(accuracy(labels, 3, false), (1.0, vec![1.0, 1.0, 0.0]));
    let ignoring = [0.0, 2.0, 2.0, 1.0];
    assert_eq!(accuracy(ignoring, 1, true), (0.5, vec![1.0, 0.0, 0.0]));
    assert_eq!(accuracy([2.0; 4], 1, true).0, 0.0);
    assert!(accuracy([0.0, 3.0, 0.0, 0.0], 1, false).0.is_nan());
    assert!(accuracy([0.0, -7.0, 0.0, 0.0], 1, false).0.is_nan());
}

#[test]
fn pool_mask_keeps_the_first_maximum() {
    // 3 × 3, kernel 2, stride 2, pad 1: windows at −1 and 1.
    let image = [1.0, 5.0, 5.0, f32::NAN, 2.0, 5.0, f32::NAN, 2.0, 2.0];
    let mut given = vec![Values(&image), Out, Out];
    given.extend([3, 3, 2, 2, 2, 2, 2, 2, 1, 1].map(Len));
    let (_, after) = run(Leaf::PoolMask, Isa::Portable, given);
    let get = |arg: usize| -> Vec<f32> { (0..4).map(|i| after[arg].get(i)).collect() };
    assert_eq!(get(1), [1.0, 5.0, f32::MIN, 5.0]);
    assert_eq!(get(2), [0.0, 1.0, -1.0, 5.0]);
}

#[test]
fn pool_mask_of_windows_outside_the_image() {
    // 2 × 2, kernel 1, stride 3 and no padding: the second window starts outside.
    let mut given = vec![Values(&[7.0]), Out, Out];
    given.extend([2, 2, 2, 2, 1, 1, 3, 3, 0, 0].map(Len));
    let (_, after) = run(Leaf::PoolMask, Isa::Portable, given);
    let get = |arg: usize| -> Vec<f32> { (0..4).map(|i| after[arg].get(i)).collect() };
    assert_eq!(get(1), [7.0, f32::MIN, f32::MIN, f32::MIN]);
    assert_eq!(get(2), [0.0, -1.0, -1.0, -1.0]);
}

fn every_leaf() -> Vec<Leaf> {
    let mut leaves = vec![
        Leaf::ToBlocked,
        Leaf::ToPlain,
        Leaf::Fill,
        Leaf::Copy,
        Leaf::Lrn,
        Leaf::Pool { average: false },
        Leaf::Pool { average: true },
        Leaf::Softmax,
        Leaf::ArgMax,
        Leaf::SoftmaxLoss,
        Leaf::Accuracy,
        Leaf::PoolMask,
        Leaf::Tile {
            mr: 2,
            nb: 1,
            px: 0,
            taps: 0,
        },
        Leaf::Depthwise {
            mr: 2,
            px: 0,
            taps: 3,
        },
        Leaf::ToPoints { n: 6 },
        Leaf::FromPoints { n: 6, m: 4 },
    ];
    use Function::{Elu, Exp, Log, Mish, Power, Sigmoid, SoftPlus, Swish, TanH};
    let functions = [Sigmoid, TanH, Power, Exp, Log, Elu, SoftPlus, Swish, Mish];
    leaves.extend(functions.map(Leaf::Unary));
    leaves
}

#[test]
fn contracts_are_checked_without_overflow() {
    let mut random = Random(19);
    let sizes = [
        0,
        1,
        2,
        3,
        16,
        17,
        1 << 20,
        1 << 39,
        1 << 40,
        1 << 41,
        usize::MAX,
    ];
    let table = [i32::MIN, 0, i32::MAX];
    for leaf in every_leaf() {
        assert!(leaf.touches(&[]).is_err());
        let mut accepted = 0;
        for _ in 0..5_000 {
            let args: Vec<ArgInfo> = leaf
                .params()
                .iter()
                .map(|&(_, param)| match param {
                    Param::Src | Param::Dst if random.below(16) == 0 => ArgInfo::Null,
                    Param::Src | Param::Dst | Param::Ahead => ArgInfo::Ptr,
                    Param::Table => ArgInfo::Table(&table),
                    Param::Len => {
                        ArgInfo::Len(sizes[random.below(11).min(random.below(11)) as usize])
                    }
                    Param::F32 => ArgInfo::F32(0.0),
                })
                .collect();
            accepted += usize::from(leaf.touches(&args).is_ok());
        }
        assert!(accepted > 0, "{leaf:?}");
    }
}

#[test]
fn contracts_name_what_is_wrong() {
    let [ptr, len] = [ArgInfo::Ptr, ArgInfo::Len(1)];
    let blocked = |channels| {
        let channels = ArgInfo::Len(channels);
        Leaf::ToBlocked.touches(&[ptr, ptr, channels, len, len, len, len, len])
    };
    assert!(blocked(16).is_ok());
    assert_eq!(blocked(17).unwrap_err(), "`channels` is 17, more than 16");
    assert_eq!(blocked(0).unwrap_err(), "`channels` is 0");
    let softmax = |src| Leaf::Softmax.touches(&[src, ptr, len, len]);
    assert_eq!(softmax(ArgInfo::Null).unwrap_err(), "`src` is null");
    assert_eq!(softmax(len).unwrap_err(), "`src` is Len(1), not Src");
}

#[test]
fn the_table_is_complete() {
    for isa in Isa::ALL {
        assert_eq!(isa.to_string().parse(), Ok(isa));
        if cfg!(not(target_arch = "x86_64")) && isa != Isa::Portable {
            continue;
        }
        let mut names = std::collections::HashSet::new();
        for (mr, nb, px, taps) in tiles(isa) {
            let leaf = Leaf::Tile { mr, nb, px, taps };
            assert!(leaf.exists(isa), "{leaf:?} {isa}");
            assert!(names.insert(leaf.name(isa)), "{leaf:?}");
        }
        for nb in 0..=8 {
            let mr = max_pixels(isa, nb) + 1;
            assert!(
                !Leaf::Tile {
                    mr,
                    nb,
                    px: 16,
                    taps: 16
                }
                .exists(isa)
            );
        }
        for &taps in DEPTHWISE_TAPS {
            let mr = max_depthwise_pixels(isa, taps) + 1;
            assert!(!Leaf::Depthwise { mr, px: 16, taps }.exists(isa));
        }
        for (n, m) in [3, 5].into_iter().flat_map(winograd_tiles).copied() {
            assert!(Leaf::ToPoints { n }.exists(isa), "{n} {isa}");
            assert!(Leaf::FromPoints { n, m }.exists(isa), "{n} {m} {isa}");
        }
        for leaf in every_leaf() {
            let source = leaf.source(isa);
            let mut path = source.path.split("::");
            let module = path.next().unwrap();
            let text = source.modules.iter().find(|m| m.0 == module).unwrap().1;
            assert!(text.contains(path.next().unwrap()), "{}", source.path);
            assert!(leaf.exists(isa), "{leaf:?} {isa}");
        }
    }
    assert!("sse".parse::<Isa>().is_err());
    assert!(Isa::detect().available());
}

#[test]
fn sources_stand_alone_and_call_no_libm() {
    let libm = [
        "mul_add", "floor", "ceil", "round", "trunc", "exp", "exp2", "ln", "powf", "powi", "tanh",
    ];
    for leaf in every_leaf() {
        let source = leaf.source(Isa::Portable);
        for (name, text) in source.modules {
            for line in text.lines() {
                let inner = line.trim_start();
                assert!(
                    !inner.starts_with("//!") && !inner.starts_with("#!["),
                    "{name}: {line}"
                );
                assert!(!line.contains("crate::"), "{name}: {line}");
                if let Some(path) = inner.strip_prefix("use super::") {
                    let used = path.split("::").next().unwrap();
                    assert!(source.modules.iter().any(|m| m.0 == used), "{name}: {line}");
                } else if inner.starts_with("use ") {
                    assert!(inner.starts_with("use std::"), "{name}: {line}");
                }
                let call = libm.iter().find(|f| line.contains(&format!(".{f}(")));
                assert!(call.is_none(), "{name}: {line}");
            }
        }
    }
}
