//! GFLOP/s and share of the FMA peak of the register tiles on layers of the classic nets.
//!
//! `cargo bench --bench leaf [avx512|avx2|portable …] [--json]`: one thread; peak and layer are
//! measured in turn; the peak is the best of its rounds and a layer's time the sum of the
//! best times of its channel blocks, so that other work on the machine disturbs both
//! least. The loops around a tile are plain: channel blocks, rows, pixels.

mod common;

use caffec::leaf::{Isa, Leaf, max_pixels, tile_blocks, tile_strides};
use caffec::runtime::peak::fma_peak;
use common::{Report, named_or};
use std::time::{Duration, Instant};

const ROUNDS: usize = 4;
const ROUND_TIME: Duration = Duration::from_millis(40);

type TileFn = unsafe extern "C" fn(
    *const f32,
    *const f32,
    *const f32,
    *const f32,
    *const f32,
    *mut f32,
    *const i32,
    usize,
    usize,
    usize,
    usize,
    usize,
    usize,
    usize,
    usize,
    f32,
    *const f32,
    usize,
    usize,
);

type DepthwiseFn = unsafe extern "C" fn(
    *const f32,
    *const f32,
    *const f32,
    *const f32,
    *const f32,
    *mut f32,
    *const i32,
    usize,
    usize,
    usize,
    usize,
    f32,
);

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    /// Blocked source with a halo.
    Blocked,
    /// Three planes, `kernel` taps in a row.
    Planar,
    Depthwise,
}

/// A convolution; `height × width` are those of the output.
struct Layer {
    name: &'static str,
    kind: Kind,
    input: usize,
    output: usize,
    kernel: usize,
    stride: usize,
    height: usize,
    width: usize,
}

const fn conv(name: &'static str, io: [usize; 2], kernel: usize, image: [usize; 2]) -> Layer {
    Layer {
        name,
        kind: Kind::Blocked,
        input: io[0],
        output: io[1],
        kernel,
        stride: 1,
        height: image[0],
        width: image[1],
    }
}

const LAYERS: [Layer; 12] = [
    Layer {
        kind: Kind::Planar,
        stride: 4,
        ..conv("NIN conv1 11x11/4 (planar)", [3, 96], 11, [54, 54])
    },
    conv("NIN conv2 5x5", [96, 256], 5, [27, 27]),
    conv("NIN cccp3 1x1", [256, 256], 1, [1, 729]),
    conv("NIN conv3 3x3", [256, 384], 3, [13, 13]),
    conv("NIN conv4 3x3", [384, 1024], 3, [6, 6]),
    conv("NIN cccp7 1x1", [1024, 1024], 1, [1, 36]),
    conv("VGG conv3 3x3", [256, 256], 3, [56, 56]),
    conv("ResNet res5 1x1", [512, 2048], 1, [1, 49]),
    Layer {
        stride: 2,
        ..conv("ResNet 3x3/2", [128, 128], 3, [28, 28])
    },
    Layer {
        stride: 3,
        ..conv("any stride 3x3/3", [128, 128], 3, [28, 28])
    },
    conv("fully connected", [4096, 1024], 1, [1, 1]),
    Layer {
        kind: Kind::Depthwise,
        ..conv("MobileNet dw 3x3", [512, 512], 3, [14, 14])
    },
];

impl Layer {
    fn flops(&self) -> f64 {
        let input = if self.kind == Kind::Depthwise {
            1
        } else {
            self.input
        };
        let taps = input * self.kernel * self.kernel;
        2.0 * (self.output * taps * self.height * self.width) as f64
    }

    /// Height and width of the source, halo included.
    fn source(&self) -> (usize, usize) {
        let reach = |out: usize| (out - 1) * self.stride + self.kernel;
        (reach(self.height), reach(self.width))
    }

    /// Elements from a pixel to its neighbour.
    fn px(&self) -> usize {
        if self.kind == Kind::Planar {
            self.stride
        } else {
            self.stride * 16
        }
    }

    fn taps(&self) -> usize {
        match self.kind {
            Kind::Blocked => 16,
            Kind::Planar | Kind::Depthwise => self.kernel,
        }
    }

    /// Where the segments of a pixel start.
    fn offsets(&self) -> Vec<i32> {
        let (h, w) = self.source();
        let (planes, columns, lanes) = match self.kind {
            Kind::Blocked => (self.input / 16, self.kernel, 16),
            Kind::Planar => (self.input, 1, 1),
            Kind::Depthwise => (1, 1, 16),
        };
        let mut offsets = Vec::new();
        for plane in 0..planes {
            for y in 0..self.kernel {
                for x in 0..columns {
                    offsets.push((((plane * h + y) * w + x) * lanes) as i32);
                }
            }
        }
        offsets
    }
}

/// Memory that starts at a cache line, as that of a program does.
struct Aligned {
    data: Vec<f32>,
    start: usize,
}

impl Aligned {
    fn new(len: usize, value: f32) -> Aligned {
        let data = vec![value; len + 16];
        let start = data.as_ptr().align_offset(64);
        Aligned { data, start }
    }

    fn at(&mut self, index: usize) -> *mut f32 {
        self.data[self.start + index..].as_mut_ptr()
    }
}

struct Data {
    src: Aligned,
    weights: Aligned,
    bias: Aligned,
    dst: Aligned,
    offsets: Vec<i32>,
}

impl Data {
    fn new(layer: &Layer) -> Data {
        let (h, w) = layer.source();
        let offsets = layer.offsets();
        Data {
            src: Aligned::new(layer.input * h * w, 0.5),
            weights: Aligned::new(layer.output * offsets.len() * layer.taps(), 0.01),
            bias: Aligned::new(layer.output, 0.1),
            dst: Aligned::new(layer.output * layer.height * layer.width, 0.0),
            offsets,
        }
    }
}

/// A row of pixels in tiles as equal as can be: first pixel and length.
fn split(width: usize, max: usize) -> Vec<(usize, usize)> {
    let tiles = width.div_ceil(max);
    let at = |i: usize| i * width / tiles;
    (0..tiles).map(|i| (at(i), at(i + 1) - at(i))).collect()
}

/// A layer in tiles of one number of channel blocks.
struct Plan<'a> {
    layer: &'a Layer,
    nb: usize,
    /// First pixel and leaf.
    tiles: Vec<(usize, *const ())>,
    data: Data,
}

impl<'a> Plan<'a> {
    /// None if the channels do not divide into such tiles.
    fn new(layer: &'a Layer, isa: Isa, nb: u8) -> Option<Plan<'a>> {
        let taps = if layer.kind == Kind::Planar { 0 } else { 16 };
        let known = tile_strides(taps).iter().copied();
        let px = known.filter(|&k| usize::from(k) == layer.px()).max();
        let px = px.unwrap_or(0);
        let mut tiles = Vec::new();
        for (x, mr) in split(layer.width, usize::from(max_pixels(isa, nb))) {
            let mr = mr as u8;
            let leaf = match layer.kind {
                Kind::Depthwise => Leaf::Depthwise {
                    mr,
                    px,
                    taps: layer.kernel as u8,
                },
                _ => Leaf::Tile { mr, nb, px, taps },
            };
            tiles.push((x, leaf.function(isa)?));
        }
        let nb = usize::from(nb);
        (layer.output / 16).is_multiple_of(nb).then(|| Plan {
            layer,
            nb,
            tiles,
            data: Data::new(layer),
        })
    }

    /// All pixels of `nb` blocks of channels.
    fn run(&mut self, block: usize) {
        let (layer, d) = (self.layer, &mut self.data);
        let (h, w) = layer.source();
        let (step, segments, taps) = (layer.px(), d.offsets.len(), layer.taps());
        let offsets = d.offsets.as_ptr();
        for y in 0..layer.height {
            for &(x, function) in &self.tiles {
                let bias = d.bias.at(block * 16);
                let at = ((block * layer.height + y) * layer.width + x) * 16;
                let dst = d.dst.at(at);
                let row = y * layer.stride * w;
                if layer.kind == Kind::Depthwise {
                    let src = d.src.at((block * h * w + row) * 16 + x * step);
                    let weights = d.weights.at(block * segments * taps * 16);
                    // SAFETY: a leaf of this type; the buffers hold the whole layer.
                    unsafe {
                        let run: DepthwiseFn = std::mem::transmute(function);
                        run(
                            src, weights, bias, NULL, NULL, dst, offsets, segments, step, 16, 1,
                            0.0,
                        );
                    }
                } else {
                    let lanes = if layer.kind == Kind::Planar { 1 } else { 16 };
                    let src = d.src.at(row * lanes + x * step);
                    let weight_stride = segments * taps * 16;
                    let weights = d.weights.at(block * weight_stride);
                    let dst_stride = layer.height * layer.width * 16;
                    // SAFETY: as above.
                    unsafe {
                        let run: TileFn = std::mem::transmute(function);
                        run(
                            src,
                            weights,
                            bias,
                            NULL,
                            NULL,
                            dst,
                            offsets,
                            segments,
                            taps,
                            weight_stride,
                            dst_stride,
                            0,
                            step,
                            16,
                            1,
                            0.0,
                            NULL,
                            0,
                            0,
                        );
                    }
                }
            }
        }
    }

    fn blocks(&self) -> impl Iterator<Item = usize> + use<> {
        (0..self.layer.output / 16).step_by(self.nb)
    }
}

const NULL: *const f32 = std::ptr::null();

fn measure(report: &mut Report, layer: &Layer, isa: Isa, nb: u8) {
    let Some(mut plan) = Plan::new(layer, isa, nb) else {
        return;
    };
    let (mut peak, mut best) = (0.0, vec![f64::INFINITY; layer.output / 16]);
    for _ in 0..ROUNDS {
        peak = fma_peak(isa, 1).max(peak);
        let start = Instant::now();
        while start.elapsed() < ROUND_TIME {
            for block in plan.blocks() {
                let before = Instant::now();
                plan.run(block);
                best[block] = before.elapsed().as_secs_f64().min(best[block]);
            }
        }
    }
    let rate = layer.flops() / plan.blocks().map(|b| best[b]).sum::<f64>() / 1e9;
    let tiles = split(layer.width, usize::from(max_pixels(isa, nb)));
    let width = tiles.iter().map(|t| t.1).max().unwrap_or(0);
    let name = format!(
        "{} {} {width}x{}",
        layer.name,
        isa.name(),
        u32::from(nb) * 16
    );
    report.row(&name, &[rate, peak, rate / peak]);
}

fn main() {
    let wanted: Vec<Isa> = named_or(&[])
        .iter()
        .filter_map(|a| a.parse().ok())
        .collect();
    let columns = &["layer and tile", "GFLOP/s", "peak", "share of peak"];
    let mut report = Report::new("leaf", columns);
    let chosen = |isa: &Isa| isa.available() && (wanted.is_empty() || wanted.contains(isa));
    for isa in Isa::ALL.into_iter().filter(chosen) {
        for layer in &LAYERS {
            for &nb in tile_blocks(isa) {
                if layer.kind != Kind::Depthwise || nb == 1 {
                    measure(&mut report, layer, isa, nb);
                }
            }
        }
    }
}
