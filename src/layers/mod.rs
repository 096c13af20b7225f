//! The layer types: one file each, and the table, the one place that lists them.
//!
//! A layer's file holds all that is particular to it: which parameters it takes and
//! what is legal ([`Layer::from_param`]), its shapes ([`Layer::infer`]), its parameter
//! blobs ([`Layer::params`]), its meaning as naive loops ([`Layer::reference`]) and how
//! it becomes kernels ([`Layer::lower`]). Adding a type is adding a file and a line.

use crate::diag::{Diagnostic, Errors, Result, Span, did_you_mean};
use crate::frontend::proto::{FillerParameter, LayerParameter, Phase};
use crate::frontend::{Dialect, forks};
use crate::ir::{BlobId, Node, ParamSpec, Pointwise, Shape, Tensor};
use crate::leaf::routine::Call;
use crate::lower::{self, Builder, Halo};
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::Arc;

mod boxes;
mod broadcast;
pub mod catalog;
mod loss;
mod moves;
mod recurrent;
mod registry;
#[cfg(test)]
mod testing;
mod yolo;

pub use moves::Moves;
pub use registry::{Custom, Registry};

/// What a layer may ask while it is made or shapes are inferred.
pub struct Cx<'a> {
    /// The layer's name.
    pub name: &'a str,
    pub phase: Phase,
    pub bottoms: usize,
    pub tops: usize,
    /// Top 0 is bottom 0 (Caffe's in-place computation).
    pub in_place: bool,
    /// Whose meaning counts where forks disagree; `None` where nothing was said. For
    /// `from_param`: a layer keeps what it decides by it.
    pub dialect: Option<Dialect>,
    /// The types beside those of the table.
    pub registry: &'a Registry,
    /// The array in the file that the layer names, if it was read.
    pub file: Option<&'a [f32]>,
    /// Finds the place of a field of the layer, for example
    /// `convolution_param.stride`; the layer's own place where the field is absent.
    pub span: &'a dyn Fn(&str) -> Option<Span>,
}

impl Cx<'_> {
    /// An `Invalid` diagnostic at a field of this layer.
    pub fn invalid(&self, field: &str, message: impl Into<String>) -> Diagnostic {
        Diagnostic::invalid(message)
            .layer(self.name)
            .at((self.span)(field))
    }

    /// As `invalid`, of what a field must be: its name comes before the message.
    pub fn wrong(&self, field: &str, must: &str) -> Diagnostic {
        let name = field.rsplit('.').next().unwrap_or(field);
        self.invalid(field, format!("`{name}` {must}"))
    }

    /// An `Unsupported` diagnostic at a field of this layer.
    pub fn unsupported(&self, field: &str, message: impl Into<String>) -> Diagnostic {
        Diagnostic::unsupported(message)
            .layer(self.name)
            .at((self.span)(field))
    }

    /// Adds layer and place to errors of code that knows neither, such as [`Shape`]'s.
    pub fn locate<T>(&self, field: &str, result: Result<T>) -> Result<T> {
        result.map_err(|e| e.map(|d| d.layer(self.name).at((self.span)(field))))
    }

    /// A size that Caffe keeps in an `int`. Errors: `Invalid` above `i32::MAX`, where
    /// Caffe goes on with a negative number.
    pub fn size(&self, field: &str, value: u32) -> Result<usize> {
        if value > i32::MAX as u32 {
            let message = format!("{value} is larger than Caffe's limit of {}", i32::MAX);
            return Err(self.invalid(field, message).into());
        }
        Ok(value as usize)
    }

    /// As [`Cx::size`]; 0 is an error too.
    pub fn positive(&self, field: &str, value: u32) -> Result<usize> {
        if value == 0 {
            return Err(self.wrong(field, "must not be 0").into());
        }
        self.size(field, value)
    }

    /// Errors: `Invalid` unless `value` is above `floor`, as if it is no number.
    pub fn above(&self, field: &str, value: f32, floor: f32) -> Result<f32> {
        if value > floor {
            return Ok(value);
        }
        Err(self
            .invalid(field, format!("{value} must be above {floor}"))
            .into())
    }

    /// Errors: `Invalid` if the layer works in place, for types that still read their
    /// bottom after they have begun to write their top.
    pub fn not_in_place(&self) -> Result<()> {
        if self.in_place {
            let message = "this type cannot work in place: top and bottom must differ";
            return Err(self.invalid("top", message).into());
        }
        Ok(())
    }

    /// Errors: `Invalid` unless the layer has that many bottoms and tops
    /// (Caffe `ExactNumBottomBlobs` and its kin).
    pub fn counts(
        &self,
        bottoms: impl RangeBounds<usize>,
        tops: impl RangeBounds<usize>,
    ) -> Result<()> {
        self.count("bottom", self.bottoms, &bottoms)?;
        self.count("top", self.tops, &tops)
    }

    fn count(&self, what: &str, n: usize, range: &impl RangeBounds<usize>) -> Result<()> {
        if range.contains(&n) {
            return Ok(());
        }
        let message = format!("this type takes {} {what} blobs, not {n}", told(range));
        Err(self.invalid(what, message).into())
    }
}

/// A range of numbers of blobs in words.
fn told(range: &impl RangeBounds<usize>) -> String {
    match (range.start_bound(), range.end_bound()) {
        (Bound::Included(&0), Bound::Included(0)) => "no".to_string(),
        (Bound::Included(from), Bound::Included(to)) if from == to => from.to_string(),
        (Bound::Included(0), Bound::Included(to)) => format!("at most {to}"),
        (Bound::Included(from), Bound::Included(to)) => format!("{from} to {to}"),
        (Bound::Included(from), _) => format!("at least {from}"),
        _ => "other".to_string(),
    }
}

/// A filler that gives every value of a blob the same number.
fn constant_filler(value: f32) -> FillerParameter {
    FillerParameter {
        r#type: Some("constant".into()),
        value: Some(value),
        ..FillerParameter::default()
    }
}

/// The usual parameter blobs of a product: weights of shape `dims` and, if there is one,
/// a bias with a value for each of so many outputs.
fn weights_and_bias(
    dims: Vec<usize>,
    weight_filler: &FillerParameter,
    bias: Option<(usize, &FillerParameter)>,
) -> Result<Vec<ParamSpec>> {
    let spec = |dims: Vec<usize>, filler: &FillerParameter| -> Result<ParamSpec> {
        Ok(ParamSpec {
            shape: Shape::new(dims)?,
            filler: filler.clone(),
        })
    };
    let mut specs = vec![spec(dims, weight_filler)?];
    if let Some((outputs, filler)) = bias {
        specs.push(spec(vec![outputs], filler)?);
    }
    Ok(specs)
}

/// The routine that stands in a layer's file as `mod routine` with a function `run`:
/// `routine!("interp")` in `interp.rs`, with the names of the files whose `mod routine`
/// it uses after it.
macro_rules! routine {
    ($name:literal $(, $also:tt)*) => {
        $crate::leaf::routine::Routine {
            name: $name,
            run: routine::run,
            modules: &[
                ($name, include_str!(concat!($name, ".rs"))),
                $(($also, text!($also)),)*
            ],
        }
    };
}

/// The text of a module that a routine uses: a layer's file, or the leaves' `math`.
macro_rules! text {
    ("math") => {
        include_str!("../leaf/math.rs")
    };
    ($name:literal) => {
        include_str!(concat!($name, ".rs"))
    };
}

// Here because it uses the macros.
mod mnc;
mod text_proposal;

/// The legacy view of a bottom as N × C × H × W. Errors: `Invalid` with more axes.
fn legacy(bottom: &Shape, field: &str, cx: &Cx) -> Result<[usize; 4]> {
    let message = || format!("a blob of {bottom}: this type takes at most 4 axes");
    let view = bottom.nchw();
    Ok(view.ok_or_else(|| cx.invalid(field, message()))?)
}

/// `top[i] = f(bottom[i])` in f64, rounded once.
fn map(bottom: &Tensor, top: &mut Tensor, f: impl Fn(f64) -> f64) {
    for (y, &x) in top.data.iter_mut().zip(&bottom.data) {
        *y = f(f64::from(x)) as f32;
    }
}

/// The positions of a bottom that one position of a top depends on, along one axis:
/// taps `dilation` apart.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Taps {
    pub kernel: usize,
    pub stride: usize,
    pub pad: usize,
    pub dilation: usize,
    /// Turned round, as in a deconvolution: tops are `stride` times finer.
    pub transposed: bool,
}

/// What a layer that feeds the net tells of one of its tops.
#[derive(Clone, Debug, PartialEq)]
pub struct Feed {
    /// Missing where only the data has it.
    pub shape: Option<Shape>,
    /// What fills it where the caller feeds nothing.
    pub default: Option<FillerParameter>,
}

/// What each layer type provides: those of the table and those that a library's user
/// [registers](Registry::register).
pub trait Layer: Debug + Send + Sync {
    /// What the type reads beyond BVLC's Caffe, as [`forks`] says it: a field
    /// (`pooling_param.pad_l`), a whole message (`permute_param`) or a value
    /// (`pooling_param.pool.AVE_EXC_PAD`). Whatever else a layer has of a fork is
    /// `Unsupported`.
    fn claims() -> &'static [&'static str]
    where
        Self: Sized,
    {
        &[]
    }

    /// Reads the typed parameters; all checks that need no shapes.
    fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Self>
    where
        Self: Sized;

    /// Shapes of the tops, by Caffe's rounding; all checks that need shapes.
    fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>>;

    /// Parameter blobs for these bottoms; `infer` has passed.
    fn params(&self, _bottoms: &[Shape]) -> Result<Vec<ParamSpec>> {
        Ok(Vec::new())
    }

    /// The meaning: naive loops, sums in f64, rounded once per output. `tops` come
    /// zeroed, with their shapes, then the layer's state as the last forward pass left
    /// it. The given form does what `moves` or `routine` say.
    fn reference(&self, bottoms: &[&Tensor], params: &[&Tensor], tops: &mut [Tensor]) {
        let shapes: Vec<Shape> = bottoms.iter().map(|b| b.shape.clone()).collect();
        if let Some(moves) = self.moves(&shapes) {
            return moves.apply(bottoms[0], &mut tops[0]);
        }
        let call = self.routine(&shapes, &shapes_of(tops));
        let call = call.expect("a layer has a reference, moves or a routine");
        // Who wants to know of faults asks `checked_reference`.
        let _ = run(&call, bottoms, params, tops);
    }

    /// As `reference`. Errors: a fault of the layer's routine
    /// ([`Call::faults`](crate::leaf::routine::Call::faults)).
    fn checked_reference(
        &self,
        bottoms: &[&Tensor],
        params: &[&Tensor],
        tops: &mut [Tensor],
    ) -> std::result::Result<(), &'static str> {
        let shapes: Vec<Shape> = bottoms.iter().map(|b| b.shape.clone()).collect();
        match self.routine(&shapes, &shapes_of(tops)) {
            Some(call) if !call.faults.is_empty() => run(&call, bottoms, params, tops),
            _ => {
                self.reference(bottoms, params, tops);
                Ok(())
            }
        }
    }

    /// The top as elements of bottom 0 in some order, if that is what the layer is.
    fn moves(&self, _bottoms: &[Shape]) -> Option<Moves> {
        None
    }

    /// The layer as one self-contained function that all engines run, for types whose
    /// work is neither dense arithmetic nor element-wise. The shapes are of all that
    /// [`Run`](crate::leaf::routine::Run) gets but for parameters and state.
    fn routine(&self, _bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        None
    }

    /// Blobs that the layer keeps from one forward pass to the next, zero at first.
    fn state(&self, _bottoms: &[Shape]) -> Vec<Shape> {
        Vec::new()
    }

    /// The axis of the tops along which only the data tells how many elements there are.
    /// `infer` gives the most there can be; a hidden last top of shape `[1]` gets the
    /// number that counts.
    fn counted(&self) -> Option<usize> {
        None
    }

    /// Along which axis of `top` the elements are that the layer makes, one by one, of
    /// those along `axis` of a bottom, none of them depending on another. Asked where the
    /// bottom has a data-dependent number of them.
    fn carries(
        &self,
        _bottom: usize,
        _axis: usize,
        _bottoms: &[Shape],
        _top: &Shape,
    ) -> Option<usize> {
        None
    }

    /// Of a counted layer that hands on some elements along axis 0 of bottom 0: which, as a
    /// range from a number to below another. Layers whose ranges are apart hand on no
    /// element twice, but where a range has none, one of another.
    fn selects(&self) -> Option<[f32; 2]> {
        None
    }

    /// Tells the layer, before `infer`, along which axes its bottoms have data-dependent
    /// extents, and the most elements that they have together, if that is known to be less
    /// than what each can have. Whether it joins them: its count is then the sum of theirs
    /// and of the extents of its other bottoms.
    fn join(&mut self, _axes: &[Option<usize>], _bottoms: &[Shape], _most: Option<usize>) -> bool {
        false
    }

    /// Whether the layer gets the counts of bottoms with data-dependent extents, after
    /// its bottoms, in their order.
    fn takes_counts(&self) -> bool {
        false
    }

    /// The first top as an element-wise expression of bottoms and parameters, if that
    /// is what the layer is.
    fn pointwise(&self, _bottoms: &[Shape], _params: &[&Tensor]) -> Option<Pointwise> {
        None
    }

    /// The window along height and width, if tops of the bottoms' height and width are
    /// not made position by position (for receptive fields).
    fn taps(&self, _bottoms: &[Shape]) -> Option<[Taps; 2]> {
        None
    }

    /// Multiply-adds for these bottoms and tops, as papers count them: convolutions
    /// and inner products only.
    fn macs(&self, _bottoms: &[Shape], _tops: &[Shape]) -> u64 {
        0
    }

    /// For each parameter the number of its blob among those of a weights file, which have
    /// these sizes, where a fork stores them in another order.
    fn order_in_file(&self, _sizes: &[usize]) -> Option<Vec<usize>> {
        None
    }

    /// Zeros that the lowered form reads around a bottom of this shape (all bottoms
    /// have the same rule).
    fn halo(&self, _bottom: &Shape, _top: &Shape) -> Halo {
        Halo::default()
    }

    /// Emits the kernels. Not asked of layers that are element-wise (passes turn them
    /// into expressions), views or inputs. The given form does what `moves` or
    /// `routine` say.
    fn lower(&self, node: &Node, b: &mut Builder) -> Result<()> {
        let shapes = |blobs: &[BlobId]| -> Vec<Shape> {
            blobs
                .iter()
                .map(|&blob| b.graph.shape(blob).clone())
                .collect()
        };
        if let Some(moves) = self.moves(&shapes(&node.bottoms)) {
            return lower::moves(b, node, &moves);
        }
        if let Some(call) = self.routine(&shapes(&node.bottoms), &shapes(&node.tops)) {
            let state = self.state(&shapes(&node.bottoms));
            return lower::routine(b, node, call, &state);
        }
        let message = "this layer runs on the reference engine only";
        let help = "`caffec run --backend reference` runs it, layer by layer";
        Err(Diagnostic::unsupported(message).help(help).into())
    }

    /// For a layer that feeds the net instead of computing: what its parameters tell of
    /// each top.
    fn inputs(&self) -> Option<Vec<Feed>> {
        None
    }

    /// Whether every top holds the elements of bottom 0 in the same order.
    fn is_view(&self) -> bool {
        self.shares_storage()
    }

    /// Whether Caffe gives every top the memory of bottom 0, so that a later in-place
    /// layer on one of them changes all (`ShareData`).
    fn shares_storage(&self) -> bool {
        false
    }

    /// What the user should know about how the layer is taken.
    fn note(&self) -> Option<String> {
        None
    }
}

fn shapes_of(tensors: &[Tensor]) -> Vec<Shape> {
    tensors.iter().map(|t| t.shape.clone()).collect()
}

/// Runs a routine on tensors. Errors: its fault.
fn run(
    call: &Call,
    bottoms: &[&Tensor],
    params: &[&Tensor],
    tops: &mut [Tensor],
) -> std::result::Result<(), &'static str> {
    let bottoms: Vec<&[f32]> = bottoms.iter().map(|t| &t.data[..]).collect();
    let params: Vec<&[f32]> = params.iter().map(|t| &t.data[..]).collect();
    let mut tops: Vec<&mut [f32]> = tops.iter_mut().map(|t| &mut t.data[..]).collect();
    call.run(&bottoms, &params, &mut tops)
}

/// Makes `enum Op` and its dispatch from the table below.
macro_rules! layers {
    ($($module:ident :: $layer:ident =
        $($name:literal ($origin:literal))|+ : [$($message:ident),*];)*) => {
        $(pub mod $module;)*

        /// A layer of a known type with its parameters, or a fused element-wise node.
        #[derive(Clone, Debug)]
        pub enum Op {
            $($layer($module::$layer),)*
            /// Of a registered type.
            Custom(Custom),
            /// Made by passes only: any mix of element-wise layers.
            Pointwise(Pointwise),
        }

        /// What there is to say of each type, in the order of the table.
        pub fn entries() -> Vec<catalog::Entry> {
            vec![$(catalog::Entry {
                names: &[$(($name, $origin)),+],
                messages: &[$(stringify!($message)),*],
                claims: $module::$layer::claims(),
                file: include_str!(concat!(stringify!($module), ".rs")),
            }),*]
        }

        /// Caffe's names of the layer types that caffec knows.
        pub const TYPES: &[&str] = &[$($($name),+),*];

        /// What they claim.
        #[cfg(test)]
        fn all_claims() -> Vec<&'static str> {
            [$($module::$layer::claims()),*].concat()
        }

        impl Op {
            /// Errors: `Unsupported` for an unknown type and for fields of forks that the
            /// type does not claim, else what the layer says.
            pub fn from_param(param: &LayerParameter, cx: &Cx) -> Result<Op> {
                if let Some(other) = python::stand_in(param, cx)? {
                    return Op::from_param(&other, cx);
                }
                match param.r#type() {
                    $($($name)|+ => {
                        check_claims(param, $module::$layer::claims(), cx)?;
                        Ok(Op::$layer($module::$layer::from_param(param, cx)?))
                    })*
                    other => match cx.registry.make(other, param, cx) {
                        Some(made) => Ok(Op::Custom(made?)),
                        None => Err(unknown_type(other, cx).into()),
                    },
                }
            }

            pub fn infer(&self, bottoms: &[Shape], cx: &Cx) -> Result<Vec<Shape>> {
                match self {
                    $(Op::$layer(layer) => layer.infer(bottoms, cx),)*
                    Op::Custom(custom) => custom.layer.infer(bottoms, cx),
                    Op::Pointwise(_) => Ok(vec![bottoms[0].clone()]),
                }
            }

            pub fn params(&self, bottoms: &[Shape]) -> Result<Vec<ParamSpec>> {
                match self {
                    $(Op::$layer(layer) => layer.params(bottoms),)*
                    Op::Custom(custom) => custom.layer.params(bottoms),
                    Op::Pointwise(_) => Ok(Vec::new()),
                }
            }

            /// See [`Layer::checked_reference`].
            pub fn reference(
                &self,
                bottoms: &[&Tensor],
                params: &[&Tensor],
                tops: &mut [Tensor],
            ) -> std::result::Result<(), &'static str> {
                match self {
                    $(Op::$layer(layer) => layer.checked_reference(bottoms, params, tops),)*
                    Op::Custom(custom) => custom.layer.checked_reference(bottoms, params, tops),
                    Op::Pointwise(expr) => {
                        expr.reference(bottoms, &mut tops[0]);
                        Ok(())
                    }
                }
            }

            pub fn pointwise(&self, bottoms: &[Shape], params: &[&Tensor]) -> Option<Pointwise> {
                match self {
                    $(Op::$layer(layer) => layer.pointwise(bottoms, params),)*
                    Op::Custom(custom) => custom.layer.pointwise(bottoms, params),
                    Op::Pointwise(expr) => Some(expr.clone()),
                }
            }

            pub fn macs(&self, bottoms: &[Shape], tops: &[Shape]) -> u64 {
                match self {
                    $(Op::$layer(layer) => layer.macs(bottoms, tops),)*
                    Op::Custom(custom) => custom.layer.macs(bottoms, tops),
                    Op::Pointwise(_) => 0,
                }
            }

            /// See [`Layer::taps`].
            pub fn taps(&self, bottoms: &[Shape]) -> Option<[Taps; 2]> {
                match self {
                    $(Op::$layer(layer) => layer.taps(bottoms),)*
                    Op::Custom(custom) => custom.layer.taps(bottoms),
                    Op::Pointwise(_) => None,
                }
            }

            /// See [`Layer::inputs`].
            pub fn inputs(&self) -> Option<Vec<Feed>> {
                match self {
                    $(Op::$layer(layer) => layer.inputs(),)*
                    Op::Custom(custom) => custom.layer.inputs(),
                    Op::Pointwise(_) => None,
                }
            }

            /// See [`Layer::is_view`].
            pub fn is_view(&self) -> bool {
                match self {
                    $(Op::$layer(layer) => layer.is_view(),)*
                    Op::Custom(custom) => custom.layer.is_view(),
                    Op::Pointwise(_) => false,
                }
            }

            /// See [`Layer::shares_storage`].
            pub fn shares_storage(&self) -> bool {
                match self {
                    $(Op::$layer(layer) => layer.shares_storage(),)*
                    Op::Custom(custom) => custom.layer.shares_storage(),
                    Op::Pointwise(_) => false,
                }
            }

            /// See [`Layer::note`].
            pub fn note(&self) -> Option<String> {
                match self {
                    $(Op::$layer(layer) => layer.note(),)*
                    Op::Custom(custom) => custom.layer.note(),
                    Op::Pointwise(_) => None,
                }
            }

            /// See [`Layer::state`].
            pub fn state(&self, bottoms: &[Shape]) -> Vec<Shape> {
                match self {
                    $(Op::$layer(layer) => layer.state(bottoms),)*
                    Op::Custom(custom) => custom.layer.state(bottoms),
                    Op::Pointwise(_) => Vec::new(),
                }
            }

            /// See [`Layer::counted`].
            pub fn counted(&self) -> Option<usize> {
                match self {
                    $(Op::$layer(layer) => layer.counted(),)*
                    Op::Custom(custom) => custom.layer.counted(),
                    Op::Pointwise(_) => None,
                }
            }

            /// See [`Layer::selects`].
            pub fn selects(&self) -> Option<[f32; 2]> {
                match self {
                    $(Op::$layer(layer) => layer.selects(),)*
                    Op::Custom(custom) => custom.layer.selects(),
                    Op::Pointwise(_) => None,
                }
            }

            /// See [`Layer::join`].
            pub fn join(
                &mut self,
                axes: &[Option<usize>],
                bottoms: &[Shape],
                most: Option<usize>,
            ) -> bool {
                match self {
                    $(Op::$layer(layer) => layer.join(axes, bottoms, most),)*
                    // While the graph is built nobody shares it.
                    Op::Custom(custom) => Arc::get_mut(&mut custom.layer)
                        .is_some_and(|layer| layer.join(axes, bottoms, most)),
                    Op::Pointwise(_) => false,
                }
            }

            /// See [`Layer::order_in_file`].
            pub fn order_in_file(&self, sizes: &[usize]) -> Option<Vec<usize>> {
                match self {
                    $(Op::$layer(layer) => layer.order_in_file(sizes),)*
                    Op::Custom(custom) => custom.layer.order_in_file(sizes),
                    Op::Pointwise(_) => None,
                }
            }

            /// See [`Layer::takes_counts`].
            pub fn takes_counts(&self) -> bool {
                match self {
                    $(Op::$layer(layer) => layer.takes_counts(),)*
                    Op::Custom(custom) => custom.layer.takes_counts(),
                    Op::Pointwise(_) => false,
                }
            }

            /// See [`Layer::carries`]. Element-wise layers go element by element, views
            /// keep the axes that they keep.
            pub fn carries(
                &self,
                bottom: usize,
                axis: usize,
                bottoms: &[Shape],
                top: &Shape,
            ) -> Option<usize> {
                let own = match self {
                    $(Op::$layer(layer) => layer.carries(bottom, axis, bottoms, top),)*
                    Op::Custom(custom) => custom.layer.carries(bottom, axis, bottoms, top),
                    Op::Pointwise(_) => None,
                };
                let alike = self.pointwise(bottoms, &[]).is_some() && bottoms[bottom] == *top;
                let view = self.is_view() && top[..(axis + 1).min(top.len())] == bottoms[bottom][..axis + 1];
                own.or((alike || view).then_some(axis))
            }

            pub fn halo(&self, bottom: &Shape, top: &Shape) -> Halo {
                match self {
                    $(Op::$layer(layer) => layer.halo(bottom, top),)*
                    Op::Custom(custom) => custom.layer.halo(bottom, top),
                    Op::Pointwise(_) => Halo::default(),
                }
            }

            pub fn lower(&self, node: &Node, b: &mut Builder) -> Result<()> {
                match self {
                    $(Op::$layer(layer) => layer.lower(node, b),)*
                    Op::Custom(custom) => custom.layer.lower(node, b),
                    Op::Pointwise(expr) => crate::lower::pointwise(b, node, expr),
                }
            }

            /// Caffe's name of the type (the first, where there are several).
            pub fn type_name(&self) -> &'static str {
                match self {
                    $(Op::$layer(_) => [$($name),+][0],)*
                    Op::Custom(custom) => custom.name,
                    Op::Pointwise(_) => "Pointwise",
                }
            }
        }
    };
}

// Each type: its file, Caffe's names with where they come from, the messages of
// `LayerParameter` that it reads.
layers! {
    abs_val::AbsVal = "AbsVal" ("BVLC"): [];
    accuracy::Accuracy = "Accuracy" ("BVLC"): [accuracy_param];
    add::Add = "Add" ("Synopsys"): [];
    annotated_data::AnnotatedData = "AnnotatedData" ("SSD"):
        [annotated_data_param, data_param, transform_param];
    argmax::ArgMax = "ArgMax" ("BVLC"): [argmax_param];
    atan::Atan = "Atan" ("Synopsys"): [];
    axpy::Axpy = "Axpy" ("SENet"): [];
    batch_norm::BatchNorm = "BatchNorm" ("BVLC")
        | "BatchNormScale" ("yuqj1991"):
        [batch_norm_param, scale_param];
    batch_reindex::BatchReindex = "BatchReindex" ("BVLC"): [];
    bias::Bias = "Bias" ("BVLC"): [bias_param];
    bn::Bn = "BN" ("SegNet"): [bn_param];
    bnll::Bnll = "BNLL" ("BVLC"): [];
    box_group_output::BoxGroupOutput = "BoxGroupOutput" ("Cascade R-CNN"):
        [box_group_output_param, bbox_reg_param];
    box_output::BoxOutput = "BoxOutput" ("MS-CNN"): [box_output_param, bbox_reg_param];
    broadcast_mul::BroadcastMul = "BroadcastMul" ("jolibrain"): [];
    center_grid_output::CenterGridOutput = "CenterGridOutput" ("yuqj1991"):
        [detection_output_param];
    channel_scale::ChannelScale = "ChannelScale" ("happynear") | "MaskPooling" ("MNC"): [];
    clip::Clip = "Clip" ("BVLC"): [clip_param];
    color_conv::ColorConv = "ColorConv" ("colorization"): [color_conv_param];
    compact_probabilistic_average_prob::CompactProbabilisticAverageProb =
        "CompactProbabilisticAverageProb" ("HD-CNN"):
        [compact_probabilistic_average_prob_layer_param];
    concat::Concat = "Concat" ("BVLC"): [concat_param];
    continuation_indicator::ContinuationIndicator = "ContinuationIndicator" ("jolibrain"):
        [continuation_indicator_param];
    contrastive_loss::ContrastiveLoss = "ContrastiveLoss" ("BVLC"): [contrastive_loss_param];
    convolution::Convolution = "Convolution" ("BVLC")
        | "DepthwiseConvolution" ("MobileNet-YOLO")
        | "ConvolutionDepthwise" ("farmingyard")
        | "Convolution3D" ("C3D")
        | "NdConvolution" ("video-caffe")
        | "HoleConvolution" ("PSPNet"):
        [convolution_param, convolution3d_param];
    crop::Crop = "Crop" ("BVLC"): [crop_param];
    ctc_greedy_decoder::CtcGreedyDecoder = "CTCGreedyDecoder" ("yuqj1991"): [ctc_decoder_param];
    ctpn_lstm::CtpnLstm = "Lstm" ("CTPN"): [lstm_param];
    data::Data = "Data" ("BVLC"): [data_param, transform_param];
    decode_bbox::DecodeBBox = "DecodeBBox" ("Cascade R-CNN"): [bbox_reg_param];
    deconvolution::Deconvolution = "Deconvolution" ("BVLC"): [convolution_param];
    dense_block::DenseBlock = "DenseBlock" ("caffe_ocr"): [denseblock_param];
    depth_to_space::DepthToSpace = "DepthToSpace" ("Synopsys"): [depth_to_space_param];
    detection_ccpd_output::DetectionCcpdOutput = "DetectionCcpdOutput" ("yuqj1991"):
        [lp_det_param];
    detection_evaluate::DetectionEvaluate = "DetectionEvaluate" ("SSD"):
        [detection_evaluate_param];
    detection_output::DetectionOutput = "DetectionOutput" ("SSD"): [detection_output_param];
    dropout::Dropout = "Dropout" ("BVLC"): [dropout_param];
    dummy_data::DummyData = "DummyData" ("BVLC"): [dummy_data_param];
    eltwise::Eltwise = "Eltwise" ("BVLC"): [eltwise_param];
    elu::Elu = "ELU" ("BVLC"): [elu_param];
    embed::Embed = "Embed" ("BVLC"): [embed_param];
    euclidean_loss::EuclideanLoss = "EuclideanLoss" ("BVLC"): [];
    exp::Exp = "Exp" ("BVLC"): [exp_param];
    expand_dims_nd::ExpandDimsNd = "ExpandDimsND" ("Synopsys"): [expand_dims_nd_param];
    filter::Filter = "Filter" ("BVLC"): [];
    fine2multi_coarse_prob::Fine2MultiCoarseProb = "Fine2MultiCoarseProb" ("HD-CNN"):
        [fine2multicoarse_prob_layer_param];
    flatten::Flatten = "Flatten" ("BVLC"): [flatten_param];
    gs_tiling::GsTiling = "GSTiling" ("Xilinx"): [gs_tiling_param];
    hard_sigmoid::HardSigmoid = "HardSigmoid" ("Synopsys"): [hard_sigmoid_param];
    hard_swish::HardSwish = "HardSwish" ("Synopsys"): [];
    hdf5_data::Hdf5Data = "HDF5Data" ("BVLC"): [transform_param, hdf5_data_param];
    hdf5_output::Hdf5Output = "HDF5Output" ("BVLC"): [hdf5_output_param];
    hinge_loss::HingeLoss = "HingeLoss" ("BVLC"): [hinge_loss_param];
    im2col::Im2col = "Im2col" ("BVLC"): [convolution_param];
    im_resize::ImResize = "ImResize" ("rtpose"): [imresize_param];
    image_data::ImageData = "ImageData" ("BVLC"): [image_data_param, transform_param];
    infogain_loss::InfogainLoss = "InfogainLoss" ("BVLC"): [loss_param, infogain_loss_param];
    inner_distance::InnerDistance = "InnerDistance" ("happynear"): [inner_distance_param];
    inner_product::InnerProduct = "InnerProduct" ("BVLC"): [inner_product_param];
    input::Input = "Input" ("BVLC"): [input_param];
    insanity::Insanity = "Insanity" ("happynear"): [insanity_param];
    interp::Interp = "Interp" ("DeepLab"): [interp_param];
    local::Local = "Local" ("happynear"): [local_param];
    log::Log = "Log" ("BVLC"): [log_param];
    lrn::Lrn = "LRN" ("BVLC"): [lrn_param];
    lstm::Lstm = "LSTM" ("BVLC"): [recurrent_param];
    lstm_unit::LstmUnit = "LSTMUnit" ("BVLC"): [];
    mask_resize::MaskResize = "MaskResize" ("MNC"): [mask_resize_param];
    maximum::Maximum = "Maximum" ("rtpose"): [];
    memory_data::MemoryData = "MemoryData" ("BVLC"): [memory_data_param];
    mil::Mil = "MIL" ("Microsoft"): [mil_param];
    mish::Mish = "Mish" ("Synopsys"): [];
    mul::Mul = "Mul" ("Synopsys"): [];
    multi_stage_meanfield::MultiStageMeanfield = "MultiStageMeanfield" ("CRF-as-RNN"):
        [multi_stage_meanfield_param];
    multinomial_logistic_loss::MultinomialLogisticLoss = "MultinomialLogisticLoss" ("BVLC"): [];
    mvn::Mvn = "MVN" ("BVLC"): [mvn_param];
    nms::Nms = "Nms" ("rtpose"): [nms_param];
    normalize::Normalize = "Normalize" ("SSD")
        | "NormalizeBBox" ("OpenCV")
        | "ChannelNormalize" ("yuqj1991")
        | "SimpleNormalize" ("yuqj1991"):
        [norm_param, normalize_bbox_param, normalize_param];
    pad::Pad = "Pad" ("Synopsys"): [pad_param];
    parameter::Parameter = "Parameter" ("BVLC"): [parameter_param];
    permute::Permute = "Permute" ("SSD") | "Transpose" ("CTPN"): [transpose_param, permute_param];
    pooling::Pooling = "Pooling" ("BVLC") | "Pooling3D" ("C3D") | "NdPooling" ("video-caffe"):
        [pooling_param, pooling3d_param];
    power::Power = "Power" ("BVLC"): [power_param];
    prelu::PRelu = "PReLU" ("BVLC"): [prelu_param];
    prior_box::PriorBox = "PriorBox" ("SSD"): [prior_box_param];
    proposal::Proposal = "Proposal" ("mini-caffe"): [proposal_param];
    psroi_pooling::PsRoiPooling = "PSROIPooling" ("R-FCN"): [psroi_pooling_param];
    python::Python = "Python" ("BVLC"): [python_param];
    reduction::Reduction = "Reduction" ("BVLC"): [reduction_param];
    relu6::Relu6 = "ReLU6" ("MobileNet-YOLO"): [relu6_param];
    relu::Relu = "ReLU" ("BVLC"): [relu_param];
    render::Render = "Render" ("rtpose"): [render_param];
    reorg::Reorg = "Reorg" ("MobileNet-YOLO"): [reorg_param];
    reshape::Reshape = "Reshape" ("BVLC"): [reshape_param];
    resize_bilinear::ResizeBilinear = "ResizeBilinear" ("Synopsys"): [resize_bilinear_param];
    resize_nearest_neighbor::ResizeNearestNeighbor = "ResizeNearestNeighbor" ("Synopsys"):
        [resize_nearest_neighbor_param];
    reverse::Reverse = "Reverse" ("CTPN") | "Flip" ("happynear"): [reverse_param, flip_param];
    rnn::Rnn = "RNN" ("BVLC"): [recurrent_param];
    roi_align::RoiAlign = "ROIAlign" ("MS-CNN"): [roi_pooling_param];
    roi_pooling::RoiPooling = "ROIPooling" ("Fast R-CNN"): [roi_pooling_param];
    roi_warping::RoiWarping = "ROIWarping" ("MNC"): [roi_warping_param];
    scale::Scale = "Scale" ("BVLC"): [scale_param];
    scale_route::ScaleRoute = "ScaleRoute" ("Cascade R-CNN"): [scale_route_param];
    selu::Selu = "SeLu" ("jolibrain"): [selu_param];
    shuffle_channel::ShuffleChannel = "ShuffleChannel" ("ShuffleNet"): [shuffle_channel_param];
    sigmoid::Sigmoid = "Sigmoid" ("BVLC"): [];
    sigmoid_cross_entropy_loss::SigmoidCrossEntropyLoss = "SigmoidCrossEntropyLoss" ("BVLC"):
        [loss_param];
    silence::Silence = "Silence" ("BVLC"): [];
    slice::Slice = "Slice" ("BVLC"): [slice_param];
    smooth_l1_loss::SmoothL1Loss = "SmoothL1Loss" ("SSD"): [smooth_l1_loss_param];
    softmax::Softmax = "Softmax" ("BVLC"): [softmax_param];
    softmax_loss::SoftmaxWithLoss = "SoftmaxWithLoss" ("BVLC"): [loss_param, softmax_param];
    split::Split = "Split" ("BVLC"): [];
    spp::Spp = "SPP" ("BVLC"): [spp_param];
    squeeze::Squeeze = "Squeeze" ("Synopsys"): [squeeze_param];
    switch::Switch = "Switch" ("rtpose"): [];
    ssd_decoder::SsdDecoder = "SSDDecoder" ("Synopsys"): [detection_output_param];
    ssd_sort::SsdSort = "SSDSort" ("Synopsys"): [detection_output_param];
    swish::Swish = "Swish" ("BVLC"): [swish_param];
    tanh::TanH = "TanH" ("BVLC"): [];
    threshold::Threshold = "Threshold" ("BVLC"): [threshold_param];
    tile::Tile = "Tile" ("BVLC"): [tile_param];
    unpooling::Unpooling = "Unpooling" ("mariolew"): [pooling_param];
    unstack::Unstack = "Unstack" ("Synopsys"): [unstack_param];
    upsample::Upsample = "Upsample" ("SegNet")
        | "UpsampleDarknet" ("Synopsys"):
        [upsample_param, upsample_darknet_param];
    video_data::VideoData = "VideoData" ("C3D"):
        [video_data_param, image_data_param, data_param, transform_param];
    window_data::WindowData = "WindowData" ("BVLC"): [window_data_param, transform_param];
    yolo_detection_output::YoloDetectionOutput = "YoloDetectionOutput" ("MobileNet-YOLO"):
        [yolo_detection_output_param];
    yolov3_detection_output::Yolov3DetectionOutput = "Yolov3DetectionOutput" ("MobileNet-YOLO")
        | "Yolov3Detection" ("yuqj1991"):
        [yolov3_detection_output_param];
}

/// See [`Layer::claims`].
fn check_claims(param: &LayerParameter, claims: &[&str], cx: &Cx) -> Result<()> {
    let told = |field: forks::OfFork| {
        let value = field.value.map_or(String::new(), |v| format!(": {v}"));
        let message = format!("`{}{value}` of the fork {}", field.path, field.fork);
        cx.unsupported(&field.path, message)
    };
    let unclaimed = forks::unclaimed(param, claims).into_iter();
    Errors::none_or(unclaimed.map(told).collect(), ())
}

fn unknown_type(name: &str, cx: &Cx) -> Diagnostic {
    let d = cx.unsupported("type", format!("layer type `{name}`"));
    let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
    match did_you_mean(name, TYPES.iter().copied()) {
        Some(known) => d.help(format!("did you mean `{known}`?")),
        None if ends(&["Loss", "Accuracy", "Evaluate"]) => d.help(
            "by its name it trains or judges: without this layer, the rest of the net may do",
        ),
        None if ends(&["Data"]) => {
            d.help("by its name it reads data: an Input layer with its tops can take its place")
        }
        None => d,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_claimed_is_a_forks() {
        for claim in all_claims() {
            assert!(forks::fork_of(claim).is_some(), "{claim}");
        }
    }
}
