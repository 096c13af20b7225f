//! The leaves: register-tiled micro-kernels and the small kernels around them.
//!
//! A leaf is an ordinary Rust function in one of this folder's files, written
//! once and used twice: compiled into caffec, where the JIT calls it by address
//! and the interpreter by table, and pasted as text into emitted source. This file
//! is their table: what leaves there are, what their arguments mean, which memory
//! they touch.
//!
//! Layouts: *blocked* is NCHW16c, `[C/16][H][W][16]` with strides between channel
//! blocks and rows, so that a halo of zeros or a place inside a larger blob costs
//! nothing; lanes beyond the last channel are zero. *plain* is Caffe's own
//! row-major NCHW. All strides and offsets are in elements (f32).

// Their argument lists are the leaves' contract, however long; their safety is that of
// the table: what `touches` says.
#[allow(clippy::too_many_arguments, clippy::missing_safety_doc)]
mod layout;
#[allow(clippy::too_many_arguments, clippy::missing_safety_doc)]
mod lrn;
#[allow(clippy::too_many_arguments, clippy::missing_safety_doc)]
mod plain;
#[allow(clippy::too_many_arguments, clippy::missing_safety_doc)]
mod pooling;
#[allow(clippy::too_many_arguments, clippy::missing_safety_doc)]
mod tile;
#[allow(clippy::too_many_arguments, clippy::missing_safety_doc)]
mod vector;
#[allow(clippy::too_many_arguments, clippy::missing_safety_doc)]
mod winograd;

pub mod math;
pub mod routine;
mod table;
mod touches;

#[cfg(test)]
mod tests;

pub use table::{
    DEPTHWISE_TAPS, LeafSource, Value, max_depthwise_pixels, max_pixels, tile_blocks, tile_strides,
    winograd_points, winograd_tiles,
};
pub use touches::{ArgInfo, Touch};

/// The instruction set that a program is lowered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isa {
    /// Anything: the compiler vectorises as it can; multiply and add are not fused.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, VL, BW and DQ.
    Avx512,
}

/// Channels in a block of the blocked layout, on every ISA.
pub const BLOCK: usize = 16;

/// Element-wise functions that are too heavy for a `Map` (own expansions, no libm): the
/// same bits on every ISA, with C's results for special values, rounded nearly correctly.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Function {
    /// Caffe's `0.5·tanh(0.5·x) + 0.5`, computed as `1 / (1 + e^−x)` without its
    /// cancellation.
    Sigmoid,
    TanH,
    /// `(shift + scale·x)^power`, arguments `a` = power, `b` = scale, `c` = shift. As in
    /// `Exp` and `Log`, the inner product and sum are rounded to f32, as in Caffe.
    Power,
    /// `e^(a·x + b)`.
    Exp,
    /// `a · ln(b·x + c)`.
    Log,
    /// `b · x` if x > 0, else `b · a · (e^x − 1)`.
    Elu,
    /// `ln(1 + e^x)`, Caffe's BNLL.
    SoftPlus,
    /// `x / (1 + e^(−a·x))`, the quotient's second factor rounded to f32 as in Caffe: it
    /// is 0 at −∞, which gives NaN.
    Swish,
    /// `x · tanh(ln(1 + e^x))`.
    Mish,
}

impl Function {
    /// The meaning, in f64, rounded once.
    pub fn reference(self, x: f32, a: f32, b: f32, c: f32) -> f32 {
        let [x, a, b, c] = [x, a, b, c].map(f64::from);
        let y = match self {
            Function::Sigmoid => 0.5 * (0.5 * x).tanh() + 0.5,
            Function::TanH => x.tanh(),
            Function::Power => (c + b * x).powf(a),
            Function::Exp => (a * x + b).exp(),
            Function::Log => a * (b * x + c).ln(),
            Function::Elu if x > 0.0 => b * x,
            Function::Elu => b * a * x.exp_m1(),
            Function::SoftPlus => softplus(x),
            Function::Swish => x * (0.5 * (0.5 * a * x).tanh() + 0.5),
            Function::Mish => x * softplus(x).tanh(),
        };
        y as f32
    }
}

fn softplus(x: f64) -> f64 {
    if x > 0.0 {
        x + (-x).exp().ln_1p()
    } else {
        x.exp().ln_1p()
    }
}

/// What a call runs. The arguments of each are listed by [`Leaf::params`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Leaf {
    /// Batch-reduce GEMM: `mr` pixels × `nb` blocks of 16 output channels,
    /// accumulated over segments of `taps` consecutive source elements, then the
    /// epilogue, then stored. For pixel m, channel n of block j:
    ///
    /// `acc = Σ_s Σ_t src[offsets[s] + m·src_px + t] · weights[j·weight_stride + (s·taps + t)·16 + n]`,
    /// sums in that order (s outer, t inner), one accumulator, fused multiply-add
    /// where the ISA has it; then `acc + bias[j·16 + n]`;
    /// then, if `residual` is not null, `+ residual[j·residual_stride + m·dst_px + n]`;
    /// then the activation ([`Activation`]); stored to `dst[j·dst_stride + m·dst_px + n]`.
    ///
    /// `px` is the pixel stride of the source when known ahead (0: read from the
    /// argument `src_px`); `taps` is 16 for a blocked source or 0: read from the
    /// argument `taps` (rows of kernel taps in a planar source). What is known ahead is
    /// not read from the argument. `residual` may be `dst`; at least one segment. With
    /// each segment of a blocked source, the next `ahead_step` elements from `ahead` on are
    /// fetched into the second-level cache, where a later tile will look for its weights;
    /// if `ahead_stride` is not 0, from `ahead + j·ahead_stride` on for each block j.
    /// Which shapes there are: [`tile_blocks`], [`max_pixels`], [`tile_strides`].
    Tile { mr: u8, nb: u8, px: u8, taps: u8 },
    /// Depthwise convolution of one channel block: `mr` pixels, segments of `taps` pixels,
    /// `acc[n] = Σ_s Σ_t src[offsets[s] + m·src_px + t·16 + n] · weights[(s·taps + t)·16 + n]`,
    /// then as `Tile`. `taps` is one of [`DEPTHWISE_TAPS`], `mr` at most [`max_depthwise_pixels`].
    Depthwise { mr: u8, px: u8, taps: u8 },
    /// A row of `tiles` Winograd tiles of a channel block: `n` × `n` pixels each, the
    /// next tile's `src_step` elements further on, to their values at `n`² points:
    /// value (y, x) of tile t goes to `dst[(y·n + x)·point_stride + t·16]`. Points and
    /// order are those of `winograd.rs`; `n` is 4, 6 or 7.
    ToPoints { n: u8 },
    /// Back: `n`² values (sums of products with weights at the same points) of each of
    /// `tiles` tiles, laid out likewise, to `m` × `m` output pixels a tile, then as
    /// `Tile`. Of the outputs, `height` rows (up to `m`) of `width` pixels (that end in
    /// the last tile) are stored.
    /// Which there are: [`winograd_tiles`].
    FromPoints { n: u8, m: u8 },
    /// One channel block of a plain image to the blocked layout; missing channels
    /// become zero lanes.
    ToBlocked,
    /// One channel block of the blocked layout to a plain image.
    ToPlain,
    /// `rows` rows of `len` elements set to `value`.
    Fill,
    /// `rows` rows of `len` elements copied; source and destination do not overlap.
    Copy,
    /// `dst[i] = f(src[i])` for `len` elements; `dst` may be `src`.
    Unary(Function),
    /// Caffe's across-channel LRN on `pixels` neighbouring pixels of a blocked blob:
    /// `x · (k + alpha/size · Σ x²)^−beta` over `size` channels around each, clipped
    /// at the ends. `scratch` holds `4·(ceil16(channels) + 2·ceil16(size / 2))` elements, of
    /// one thread.
    Lrn,
    /// Pooling of one channel block: `lines` lines of `pixels` outputs, those of a line next
    /// to each other. The window of output (l, m) is `slices` × `rows` × `columns` pixels
    /// from `src[l·src_line_stride + m·src_px]` on; a window of no pixels is allowed. MAX
    /// starts from −FLT_MAX and takes what is larger; AVE divides the sum, taken row by row,
    /// by `area`.
    Pool { average: bool },
    /// Max-subtracted softmax over `channels` elements `inner` apart, for each of
    /// `inner` neighbouring positions.
    Softmax,
    /// Caffe's ArgMax along one axis of a plain blob: the `top_k` largest of `dim`
    /// values that lie `inner` apart, for each of `inner` positions; ties give the
    /// highest index first. `dst[k·inner + i]`: indices or, if `values` is 1, values.
    ArgMax,
    /// Caffe's SoftmaxWithLoss on plain blobs; one scalar.
    SoftmaxLoss,
    /// Caffe's Accuracy on plain blobs; one scalar, or one per class.
    Accuracy,
    /// Caffe's MAX pooling of one plain plane with the mask of flat indices.
    PoolMask,
}

/// Values of the argument `act` of [`Leaf::Tile`] and [`Leaf::Depthwise`].
/// `max(v, 0) + slope·min(v, 0)` is computed as written, so −∞ with slope 0 gives
/// NaN as in Caffe, and NaN stays NaN.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum Activation {
    None = 0,
    /// `max(v, 0) + slope·min(v, 0)`, one slope.
    Relu = 1,
    /// The same with `slopes[j·16 + n]`.
    PRelu = 2,
}

/// What an argument is and, in Rust, its type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Param {
    /// `*const f32`, may be null where the leaf says so.
    Src,
    /// `*mut f32`.
    Dst,
    /// `*const f32`, may be null: what will be read later. Nothing is read there, and it
    /// may lie outside its buffer.
    Ahead,
    /// `*const i32`: a constant table of the program.
    Table,
    /// `usize`.
    Len,
    /// `f32`.
    F32,
}

impl Leaf {
    /// Names and kinds of the arguments, in order. The leaf's Rust function is
    /// `unsafe extern "C"` with exactly these.
    pub fn params(self) -> &'static [(&'static str, Param)] {
        use Param::{Ahead, Dst, F32, Len, Src, Table};
        match self {
            Leaf::Tile { .. } => &[
                ("src", Src),
                ("weights", Src),
                ("bias", Src),
                ("residual", Src), // may be null
                ("slopes", Src),   // may be null unless PRelu
                ("dst", Dst),
                ("offsets", Table),
                ("segments", Len),
                ("taps", Len),
                ("weight_stride", Len),
                ("dst_stride", Len),
                ("residual_stride", Len),
                ("src_px", Len),
                ("dst_px", Len),
                ("act", Len),
                ("slope", F32),
                ("ahead", Ahead),
                ("ahead_step", Len),
                ("ahead_stride", Len),
            ],
            Leaf::Depthwise { .. } => &[
                ("src", Src),
                ("weights", Src),
                ("bias", Src),
                ("residual", Src),
                ("slopes", Src),
                ("dst", Dst),
                ("offsets", Table),
                ("segments", Len),
                ("src_px", Len),
                ("dst_px", Len),
                ("act", Len),
                ("slope", F32),
            ],
            Leaf::ToPoints { .. } => &[
                ("src", Src),
                ("dst", Dst),
                ("tiles", Len),
                ("src_row_stride", Len),
                ("src_step", Len),
                ("point_stride", Len),
            ],
            Leaf::FromPoints { .. } => &[
                ("src", Src),
                ("bias", Src),
                ("residual", Src), // may be null
                ("slopes", Src),   // may be null unless PRelu
                ("dst", Dst),
                ("tiles", Len),
                ("point_stride", Len),
                ("height", Len),
                ("width", Len),
                ("dst_row_stride", Len),
                ("residual_row_stride", Len),
                ("act", Len),
                ("slope", F32),
            ],
            Leaf::ToBlocked => &[
                ("src", Src),
                ("dst", Dst),
                ("channels", Len), // 1 to 16
                ("height", Len),
                ("width", Len),
                ("src_channel_stride", Len),
                ("src_row_stride", Len),
                ("dst_row_stride", Len),
            ],
            Leaf::ToPlain => &[
                ("src", Src),
                ("dst", Dst),
                ("channels", Len), // 1 to 16
                ("height", Len),
                ("width", Len),
                ("src_row_stride", Len),
                ("dst_channel_stride", Len),
                ("dst_row_stride", Len),
            ],
            Leaf::Fill => &[
                ("dst", Dst),
                ("rows", Len),
                ("len", Len),
                ("stride", Len),
                ("value", F32),
            ],
            Leaf::Copy => &[
                ("src", Src),
                ("dst", Dst),
                ("rows", Len),
                ("len", Len),
                ("src_stride", Len),
                ("dst_stride", Len),
            ],
            Leaf::Unary(_) => &[
                ("src", Src),
                ("dst", Dst),
                ("len", Len),
                ("a", F32),
                ("b", F32),
                ("c", F32),
            ],
            Leaf::Lrn => &[
                ("src", Src),
                ("dst", Dst),
                ("scratch", Dst),
                ("channels", Len),
                ("pixels", Len),
                ("src_block_stride", Len),
                ("dst_block_stride", Len),
                ("size", Len),
                ("alpha", F32), // already divided by size
                ("beta", F32),
                ("k", F32),
                ("in_place", Len), // 1: Caffe's LRN onto its own bottom, scale^(−2·beta)
            ],
            Leaf::Pool { .. } => &[
                ("src", Src),
                ("dst", Dst),
                ("lines", Len),
                ("pixels", Len),
                ("src_line_stride", Len),
                ("src_px", Len),
                ("dst_line_stride", Len),
                ("slices", Len),
                ("rows", Len),
                ("columns", Len),
                ("slice_stride", Len),
                ("row_stride", Len),
                ("area", F32), // of AVE
            ],
            Leaf::Softmax => &[
                ("src", Src),
                ("dst", Dst),
                ("channels", Len),
                ("inner", Len),
            ],
            Leaf::ArgMax => &[
                ("src", Src),
                ("dst", Dst),
                ("dim", Len),
                ("inner", Len),
                ("top_k", Len),
                ("values", Len),
            ],
            Leaf::SoftmaxLoss => &[
                ("prob", Src), // softmax already taken: [outer][channels][inner]
                ("label", Src),
                ("dst", Dst),
                ("outer", Len),
                ("channels", Len),
                ("inner", Len),
                ("ignore", Len),        // 1 if ignore_label counts
                ("ignore_label", F32),  // an integer
                ("normalization", Len), // 0 FULL, 1 VALID, 2 BATCH_SIZE, 3 NONE
            ],
            Leaf::Accuracy => &[
                ("scores", Src),
                ("label", Src),
                ("dst", Dst),
                ("per_class", Dst), // [channels], may be null
                ("outer", Len),
                ("channels", Len),
                ("inner", Len),
                ("top_k", Len),
                ("ignore", Len),
                ("ignore_label", F32),
            ],
            Leaf::PoolMask => &[
                ("src", Src),
                ("dst", Dst),
                ("mask", Dst),
                ("height", Len),
                ("width", Len),
                ("out_height", Len),
                ("out_width", Len),
                ("kernel_h", Len),
                ("kernel_w", Len),
                ("stride_h", Len),
                ("stride_w", Len),
                ("pad_h", Len),
                ("pad_w", Len),
            ],
        }
    }
}
