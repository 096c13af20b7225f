//! The functions behind the leaves: which exist, their names, addresses and sources.

use super::{Function, Isa, Leaf, Param, layout, lrn, plain, pooling, tile, vector, winograd};
use std::fmt;
use std::str::FromStr;

impl Isa {
    /// All, the best first.
    pub const ALL: [Isa; 3] = [Isa::Avx512, Isa::Avx2, Isa::Portable];

    /// The best that this CPU has.
    pub fn detect() -> Isa {
        Isa::ALL
            .into_iter()
            .find(|isa| isa.available())
            .unwrap_or(Isa::Portable)
    }

    /// Whether this CPU runs it.
    pub fn available(self) -> bool {
        match self {
            Isa::Portable => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                Isa::Avx2.available()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => false,
        }
    }

    /// Its name, as options and function names spell it.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Isa {
    type Err = String;

    fn from_str(name: &str) -> Result<Isa, String> {
        let known = Isa::ALL.into_iter().find(|isa| isa.name() == name);
        known.ok_or_else(|| format!("no instruction set `{name}`: avx512, avx2 or portable"))
    }
}

/// Where the text of a leaf is, for emitted source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafSource {
    /// Modules `(name, text)` to paste side by side, each as
    /// `#[allow(dead_code)] mod name { text }`; they name each other through `super`.
    pub modules: &'static [(&'static str, &'static str)],
    /// The function, seen from where the modules are: `tile::tile_avx512::<14, 2, 16, 16>`.
    pub path: String,
}

const TILE: &[(&str, &str)] = &[("tile", include_str!("tile.rs"))];
const WINOGRAD: &[(&str, &str)] = &[TILE[0], ("winograd", include_str!("winograd.rs"))];
const LAYOUT: &[(&str, &str)] = &[("layout", include_str!("layout.rs"))];
const MATH: (&str, &str) = ("math", include_str!("math.rs"));
const VECTOR: &[(&str, &str)] = &[MATH, ("vector", include_str!("vector.rs"))];
const LRN: &[(&str, &str)] = &[
    MATH,
    ("tile", include_str!("tile.rs")),
    ("lrn", include_str!("lrn.rs")),
];
const POOL: &[(&str, &str)] = &[TILE[0], ("pooling", include_str!("pooling.rs"))];
const PLAIN: &[(&str, &str)] = &[MATH, ("plain", include_str!("plain.rs"))];

/// Numbers of channel blocks that tiles of this ISA come in, the largest first.
pub fn tile_blocks(isa: Isa) -> &'static [u8] {
    match isa {
        Isa::Avx512 | Isa::Avx2 => &[4, 2, 1],
        Isa::Portable => &[1],
    }
}

/// Largest number of pixels of a tile of `nb` channel blocks, 0 if there is none;
/// all from 1 up to it exist.
pub fn max_pixels(isa: Isa, nb: u8) -> u8 {
    // As many sums as there are registers, less those for weights and a pixel.
    match (isa, nb) {
        (Isa::Avx512, 1 | 2) => 14,
        (Isa::Avx512, 4) => 6,
        (Isa::Avx2, 1) => 6,
        (Isa::Avx2, 2) => 2,
        (Isa::Avx2, 4) => 1,
        (Isa::Portable, 1) => 2,
        _ => 0,
    }
}

/// The same for depthwise leaves with `taps` taps.
pub fn max_depthwise_pixels(isa: Isa, taps: u8) -> u8 {
    // The weights of all taps are in registers.
    match (isa, taps) {
        (Isa::Avx2, 3) => 4,
        _ => max_pixels(isa, 1),
    }
}

/// Pixel strides that tiles know ahead, by whether the source is blocked (`taps` 16)
/// or planar (`taps` 0). 0, any stride, is always there.
pub fn tile_strides(taps: u8) -> &'static [u8] {
    if taps == 16 { &[16, 32] } else { &[1, 2, 4] }
}

/// Numbers of taps that depthwise leaves take together, the largest first.
pub const DEPTHWISE_TAPS: &[u8] = &[3, 1];

/// Sides of the Winograd tiles that there are, for kernels of `kernel` × `kernel`: of
/// points and of outputs.
pub fn winograd_tiles(kernel: usize) -> &'static [(u8, u8)] {
    match kernel {
        3 => &[(4, 2), (6, 4)],
        5 => &[(7, 3)],
        _ => &[],
    }
}

/// The finite ones of the points of tiles of `n` × `n`, in the order of their values;
/// infinity follows.
pub fn winograd_points(n: usize) -> Vec<f64> {
    fn points<const N: usize>() -> Vec<f64> {
        let pairs = &winograd::Points::<N>::PAIR[..winograd::Points::<N>::PAIRS];
        let both = pairs.iter().flat_map(|&p| [p, -p]);
        let zeros = [0.0; 1].into_iter().take(winograd::Points::<N>::ZEROS);
        both.chain(zeros).map(f64::from).collect()
    }
    match n {
        4 => points::<4>(),
        6 => points::<6>(),
        7 => points::<7>(),
        _ => panic!("there are no tiles of {n} × {n}"),
    }
}

// A tile of one block and pixel stride known as 16, from a numbered list.
macro_rules! monomorphs {
    ($key:expr, $name:ident: $($nb:literal: $($mr:literal)*;)*) => {
        match $key {
            $($(
                ($mr, $nb, 16, 16) => Some(tile::$name::<$mr, $nb, 16, 16> as *const ()),
                ($mr, $nb, 32, 16) => Some(tile::$name::<$mr, $nb, 32, 16> as *const ()),
                ($mr, $nb, 0, 16) => Some(tile::$name::<$mr, $nb, 0, 16> as *const ()),
                ($mr, $nb, 1, 0) => Some(tile::$name::<$mr, $nb, 1, 0> as *const ()),
                ($mr, $nb, 2, 0) => Some(tile::$name::<$mr, $nb, 2, 0> as *const ()),
                ($mr, $nb, 4, 0) => Some(tile::$name::<$mr, $nb, 4, 0> as *const ()),
                ($mr, $nb, 0, 0) => Some(tile::$name::<$mr, $nb, 0, 0> as *const ()),
            )*)*
            _ => None,
        }
    };
    ($key:expr, depthwise $name:ident: $($taps:literal: $($mr:literal)*;)*) => {
        match $key {
            $($(
                ($mr, 16, $taps) => Some(tile::$name::<$mr, 16, $taps> as *const ()),
                ($mr, 32, $taps) => Some(tile::$name::<$mr, 32, $taps> as *const ()),
                ($mr, 0, $taps) => Some(tile::$name::<$mr, 0, $taps> as *const ()),
            )*)*
            _ => None,
        }
    };
}

fn tile_function(key: (u8, u8, u8, u8), isa: Isa) -> Option<*const ()> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => monomorphs!(key, tile_avx512:
            1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
            2: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
            4: 1 2 3 4 5 6;
        ),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => monomorphs!(key, tile_avx2: 1: 1 2 3 4 5 6; 2: 1 2; 4: 1;),
        Isa::Portable => monomorphs!(key, tile_portable: 1: 1 2;),
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 => None,
    }
}

fn depthwise_function(key: (u8, u8, u8), isa: Isa) -> Option<*const ()> {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 => monomorphs!(key, depthwise depthwise_avx512:
            3: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
            1: 1 2 3 4 5 6 7 8 9 10 11 12 13 14;
        ),
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => monomorphs!(key, depthwise depthwise_avx2: 3: 1 2 3 4; 1: 1 2 3 4 5 6;),
        Isa::Portable => monomorphs!(key, depthwise depthwise_portable: 3: 1 2; 1: 1 2;),
        #[cfg(not(target_arch = "x86_64"))]
        Isa::Avx2 | Isa::Avx512 => None,
    }
}

macro_rules! by_isa {
    ($isa:expr, $avx512:ident, $avx2:ident, $portable:ident) => {
        by_isa!($isa, vector, $avx512, $avx2, $portable,)
    };
    ($isa:expr, $module:ident, $avx512:ident, $avx2:ident, $portable:ident, $($generic:tt)*) => {
        match $isa {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Some($module::$avx512 $($generic)* as *const ()),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Some($module::$avx2 $($generic)* as *const ()),
            Isa::Portable => Some($module::$portable $($generic)* as *const ()),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => None,
        }
    };
}

fn to_points_function(n: u8, isa: Isa) -> Option<*const ()> {
    macro_rules! of {
        ($n:literal) => {
            by_isa!(isa, winograd, to_points_avx512, to_points_avx2, to_points_portable, ::<$n>)
        };
    }
    match n {
        4 => of!(4),
        6 => of!(6),
        7 => of!(7),
        _ => None,
    }
}

fn from_points_function(tile: (u8, u8), isa: Isa) -> Option<*const ()> {
    macro_rules! of {
        ($n:literal, $m:literal) => {
            by_isa!(
                isa, winograd, from_points_avx512, from_points_avx2, from_points_portable,
                ::<$n, $m>
            )
        };
    }
    match tile {
        (4, 2) => of!(4, 2),
        (6, 4) => of!(6, 4),
        (7, 3) => of!(7, 3),
        _ => None,
    }
}

fn unary_function(function: Function, isa: Isa) -> Option<*const ()> {
    match function {
        Function::Sigmoid => by_isa!(isa, sigmoid_avx512, sigmoid_avx2, sigmoid_portable),
        Function::TanH => by_isa!(isa, tanh_avx512, tanh_avx2, tanh_portable),
        Function::Power => by_isa!(isa, power_avx512, power_avx2, power_portable),
        Function::Exp => by_isa!(isa, exp_avx512, exp_avx2, exp_portable),
        Function::Log => by_isa!(isa, log_avx512, log_avx2, log_portable),
        Function::Elu => by_isa!(isa, elu_avx512, elu_avx2, elu_portable),
        Function::SoftPlus => by_isa!(isa, softplus_avx512, softplus_avx2, softplus_portable),
        Function::Swish => by_isa!(isa, swish_avx512, swish_avx2, swish_portable),
        Function::Mish => by_isa!(isa, mish_avx512, mish_avx2, mish_portable),
    }
}

impl Function {
    fn name(self) -> &'static str {
        match self {
            Function::Sigmoid => "sigmoid",
            Function::TanH => "tanh",
            Function::Power => "power",
            Function::Exp => "exp",
            Function::Log => "log",
            Function::Elu => "elu",
            Function::SoftPlus => "softplus",
            Function::Swish => "swish",
            Function::Mish => "mish",
        }
    }
}

impl Leaf {
    /// Whether there is such a leaf, for tiles: whether the table has this shape.
    pub fn exists(self, isa: Isa) -> bool {
        self.function(isa).is_some()
    }

    /// The address of its function: `unsafe extern "C"`, arguments as in
    /// [`Leaf::params`], no result. It may run only if the ISA is [`Isa::available`].
    pub fn function(self, isa: Isa) -> Option<*const ()> {
        match self {
            Leaf::Tile { mr, nb, px, taps } => tile_function((mr, nb, px, taps), isa),
            Leaf::Depthwise { mr, px, taps } => depthwise_function((mr, px, taps), isa),
            Leaf::ToPoints { n } => to_points_function(n, isa),
            Leaf::FromPoints { n, m } => from_points_function((n, m), isa),
            Leaf::ToBlocked => Some(layout::to_blocked as *const ()),
            Leaf::ToPlain => Some(layout::to_plain as *const ()),
            Leaf::Fill => Some(layout::fill as *const ()),
            Leaf::Copy => Some(layout::copy_rows as *const ()),
            Leaf::Unary(function) => unary_function(function, isa),
            Leaf::Lrn => by_isa!(isa, lrn, lrn_avx512, lrn_avx2, lrn_portable,),
            Leaf::Pool { average: false } => {
                by_isa!(isa, pooling, pool_avx512, pool_avx2, pool_portable, ::<false>)
            }
            Leaf::Pool { average: true } => {
                by_isa!(isa, pooling, pool_avx512, pool_avx2, pool_portable, ::<true>)
            }
            Leaf::Softmax => by_isa!(isa, softmax_avx512, softmax_avx2, softmax_portable),
            Leaf::ArgMax => Some(plain::argmax as *const ()),
            Leaf::SoftmaxLoss => Some(plain::softmax_loss as *const ()),
            Leaf::Accuracy => Some(plain::accuracy as *const ()),
            Leaf::PoolMask => Some(plain::pool_mask as *const ()),
        }
    }

    /// Its name: type, operation, tile, ISA (`f32_tile_14x32_px16_avx512`); those that
    /// are the same for all ISAs have none at the end.
    pub fn name(self, isa: Isa) -> String {
        match self {
            Leaf::Tile { mr, nb, px, taps } => {
                let source = if taps == 16 { "" } else { "_planar" };
                let columns = u32::from(nb) * 16;
                format!("f32_tile{source}_{mr}x{columns}{}_{isa}", Stride(px))
            }
            Leaf::Depthwise { mr, px, taps } => {
                format!("f32_depthwise{taps}_{mr}x16{}_{isa}", Stride(px))
            }
            Leaf::Unary(function) => format!("f32_{}_{isa}", function.name()),
            Leaf::Lrn => format!("f32_lrn_{isa}"),
            Leaf::Pool { average: false } => format!("f32_max_pool_{isa}"),
            Leaf::Pool { average: true } => format!("f32_average_pool_{isa}"),
            Leaf::Softmax => format!("f32_softmax_{isa}"),
            Leaf::ToPoints { n } => format!("f32_to_points_{n}x{n}_{isa}"),
            Leaf::FromPoints { n, m } => format!("f32_from_points_{n}x{n}_{m}x{m}_{isa}"),
            Leaf::ToBlocked => "f32_to_blocked".to_string(),
            Leaf::ToPlain => "f32_to_plain".to_string(),
            Leaf::Fill => "f32_fill".to_string(),
            Leaf::Copy => "f32_copy".to_string(),
            Leaf::ArgMax => "f32_argmax".to_string(),
            Leaf::SoftmaxLoss => "f32_softmax_loss".to_string(),
            Leaf::Accuracy => "f32_accuracy".to_string(),
            Leaf::PoolMask => "f32_pool_mask".to_string(),
        }
    }

    /// Its text and its path in it.
    pub fn source(self, isa: Isa) -> LeafSource {
        let (modules, path) = match self {
            Leaf::Tile { mr, nb, px, taps } => (
                TILE,
                format!("tile::tile_{isa}::<{mr}, {nb}, {px}, {taps}>"),
            ),
            Leaf::Depthwise { mr, px, taps } => {
                (TILE, format!("tile::depthwise_{isa}::<{mr}, {px}, {taps}>"))
            }
            Leaf::ToPoints { n } => (WINOGRAD, format!("winograd::to_points_{isa}::<{n}>")),
            Leaf::FromPoints { n, m } => {
                (WINOGRAD, format!("winograd::from_points_{isa}::<{n}, {m}>"))
            }
            Leaf::ToBlocked => (LAYOUT, "layout::to_blocked".to_string()),
            Leaf::ToPlain => (LAYOUT, "layout::to_plain".to_string()),
            Leaf::Fill => (LAYOUT, "layout::fill".to_string()),
            Leaf::Copy => (LAYOUT, "layout::copy_rows".to_string()),
            Leaf::Unary(function) => (VECTOR, format!("vector::{}_{isa}", function.name())),
            Leaf::Lrn => (LRN, format!("lrn::lrn_{isa}")),
            Leaf::Pool { average } => (POOL, format!("pooling::pool_{isa}::<{average}>")),
            Leaf::Softmax => (VECTOR, format!("vector::softmax_{isa}")),
            Leaf::ArgMax => (PLAIN, "plain::argmax".to_string()),
            Leaf::SoftmaxLoss => (PLAIN, "plain::softmax_loss".to_string()),
            Leaf::Accuracy => (PLAIN, "plain::accuracy".to_string()),
            Leaf::PoolMask => (PLAIN, "plain::pool_mask".to_string()),
        };
        LeafSource { modules, path }
    }

    /// Runs it.
    ///
    /// # Panics
    /// If it does not exist for this ISA, the CPU does not have the ISA, or the
    /// arguments are not of the number and kinds of [`Leaf::params`].
    ///
    /// # Safety
    /// All that [`Leaf::touches`] says for these arguments is live memory, and no other
    /// thread touches what is written.
    pub unsafe fn call(self, isa: Isa, args: &[Value]) {
        assert!(isa.available(), "{isa} is not available");
        let Some(function) = self.function(isa) else {
            panic!("{} does not exist", self.name(isa));
        };
        assert_eq!(args.len(), self.params().len(), "{}", self.name(isa));
        // SAFETY: the function has this leaf's parameters, and the caller vouches for
        // what they point to.
        unsafe { self.dispatch(function, args) }
    }

    unsafe fn dispatch(self, function: *const (), args: &[Value]) {
        macro_rules! call {
            ($($letter:ident)*) => {{
                let mut args = args.iter().copied();
                unsafe {
                    let function: unsafe extern "C" fn($(kind!($letter)),*) =
                        std::mem::transmute(function);
                    function($(take::<kind!($letter)>(&mut args)),*)
                }
            }};
        }
        // S: source (or ahead), D: destination, T: table, L: length, F: number.
        macro_rules! kind {
            (S) => { *const f32 };
            (D) => { *mut f32 };
            (T) => { *const i32 };
            (L) => { usize };
            (F) => { f32 };
        }
        match self {
            Leaf::Tile { .. } => call!(S S S S S D T L L L L L L L L F S L L),
            Leaf::Depthwise { .. } => call!(S S S S S D T L L L L F),
            Leaf::ToPoints { .. } => call!(S D L L L L),
            Leaf::FromPoints { .. } => call!(S S S S D L L L L L L L F),
            Leaf::ToBlocked | Leaf::ToPlain => call!(S D L L L L L L),
            Leaf::Fill => call!(D L L L F),
            Leaf::Copy => call!(S D L L L L),
            Leaf::Unary(_) => call!(S D L F F F),
            Leaf::Lrn => call!(S D D L L L L L F F F L),
            Leaf::Pool { .. } => call!(S D L L L L L L L L L L F),
            Leaf::Softmax => call!(S D L L),
            Leaf::ArgMax => call!(S D L L L L),
            Leaf::SoftmaxLoss => call!(S S D L L L L F L),
            Leaf::Accuracy => call!(S S D D L L L L L F),
            Leaf::PoolMask => call!(S D D L L L L L L L L L L),
        }
    }
}

/// The part of a leaf's name that tells the pixel stride.
struct Stride(u8);

impl fmt::Display for Stride {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            0 => Ok(()),
            px => write!(f, "_px{px}"),
        }
    }
}

/// An argument of [`Leaf::call`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Value {
    /// For `Src` and `Dst`; may be null where the leaf says so.
    Ptr(*mut f32),
    Table(*const i32),
    Len(usize),
    F32(f32),
}

trait FromValue: Sized {
    const KIND: Param;
    fn from_value(value: Value) -> Option<Self>;
}

macro_rules! from_value {
    ($type:ty, $kind:ident, $variant:ident) => {
        impl FromValue for $type {
            const KIND: Param = Param::$kind;
            fn from_value(value: Value) -> Option<Self> {
                match value {
                    Value::$variant(v) => Some(v as $type),
                    _ => None,
                }
            }
        }
    };
}
from_value!(*const f32, Src, Ptr);
from_value!(*mut f32, Dst, Ptr);
from_value!(*const i32, Table, Table);
from_value!(usize, Len, Len);
from_value!(f32, F32, F32);

fn take<T: FromValue>(args: &mut impl Iterator<Item = Value>) -> T {
    let value = args.next();
    match value.and_then(T::from_value) {
        Some(v) => v,
        None => panic!("{:?} expected, got {value:?}", T::KIND),
    }
}
