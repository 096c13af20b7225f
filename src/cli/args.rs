//! The command line as types.

use caffec::frontend::proto::Phase;
use caffec::frontend::{Dialect, FileKind, Reading};
use caffec::ir::Shape;
use caffec::leaf::Isa;
use caffec::lower::Convolutions;
use caffec::runtime::picture::{ChannelOrder, Size};
use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

/// Compile legacy Caffe models to machine code or to one self-contained Rust file.
///
/// `caffec NET -o FILE` is short for `caffec compile NET -o FILE`.
#[derive(Parser)]
#[command(
    name = "caffec",
    version,
    max_term_width = 100,
    subcommand_required = true
)]
#[command(arg_required_else_help = true, infer_long_args = false)]
#[command(after_help = "Exit codes: 0 done, 1 the model or an input is at fault, 2 wrong usage.")]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Subcommand)]
pub enum Command {
    /// Write the net as one Rust source file (NET alone means this)
    Compile(CompileArgs),
    /// Run the net once on the given inputs
    Run(RunArgs),
    /// Time the net: fused against unfused, per chain and in total
    #[command(
        after_help = "With -i, --output-dir, --no-fuse or --backend one setting is timed by itself."
    )]
    Bench(BenchArgs),
    /// Show layers, shapes, parameters, multiply-adds, memory and receptive fields
    Summary(SummaryArgs),
    /// Show the net at a stage of the compiler
    Dump(DumpArgs),
    /// Print a net or solver of any age in Caffe's current format
    Upgrade(UpgradeArgs),
    /// Tell whether files are right, and if not where they are wrong
    Check(CheckArgs),
    /// List the layer types: where they come from and which parameters they take
    Layers(LayersArgs),
}

#[derive(Args)]
pub struct LayersArgs {
    /// With what each computes and all fields that it reads, as one Markdown document
    #[arg(long, conflicts_with = "json")]
    pub markdown: bool,
    /// As JSON
    #[arg(long)]
    pub json: bool,
}

/// Which net, and which of its layers.
#[derive(Args)]
pub struct NetArgs {
    /// The net (or its solver): prototxt or binary, of any Caffe format; `-` reads stdin
    #[arg(value_name = "NET")]
    pub net: PathBuf,
    #[command(flatten)]
    pub state: StateArgs,
    /// Shape of an input, for example data=1x3x227x227 (repeatable)
    #[arg(long = "shape", value_name = "BLOB=DIMS", value_parser = shape)]
    pub shapes: Vec<(String, Shape)>,
    /// Fork whose meaning counts where forks disagree [default: what the net shows]
    #[arg(long, value_name = "NAME", value_parser = dialect())]
    pub dialect: Option<Dialect>,
    /// Make InnerProduct layers convolutions, so that larger inputs give a map of scores
    #[arg(long)]
    pub fc_to_conv: bool,
}

/// How a net's file is read, and the state that its layers are chosen by.
#[derive(Args, Default)]
pub struct StateArgs {
    /// Phase that layers are chosen by
    #[arg(
        long,
        value_name = "TEST|TRAIN",
        default_value = "TEST",
        value_enum,
        ignore_case = true
    )]
    pub phase: PhaseArg,
    /// Level that layers are chosen by
    #[arg(
        long,
        value_name = "N",
        default_value_t = 0,
        allow_negative_numbers = true
    )]
    pub level: i32,
    /// Stage that layers are chosen by (repeatable)
    #[arg(long = "stage", value_name = "NAME")]
    pub stages: Vec<String>,
    #[command(flatten)]
    pub reading: ReadingArgs,
}

/// What is let pass in a net's file.
#[derive(Args, Default)]
pub struct ReadingArgs {
    /// Take a file that has records of both `layer` and `layers`
    #[arg(long)]
    pub allow_mixed: bool,
    /// Leave out fields that neither Caffe nor a known fork has
    #[arg(long)]
    pub allow_unknown: bool,
}

impl From<&ReadingArgs> for Reading {
    fn from(args: &ReadingArgs) -> Reading {
        Reading {
            allow_mixed: args.allow_mixed,
            allow_unknown: args.allow_unknown,
        }
    }
}

#[derive(Clone, Copy, Default, ValueEnum)]
#[value(rename_all = "UPPER")]
pub enum PhaseArg {
    #[default]
    Test,
    Train,
}

impl From<PhaseArg> for Phase {
    fn from(phase: PhaseArg) -> Phase {
        match phase {
            PhaseArg::Test => Phase::Test,
            PhaseArg::Train => Phase::Train,
        }
    }
}

#[derive(Clone, Copy, ValueEnum)]
pub enum KindArg {
    Net,
    Solver,
}

impl From<KindArg> for FileKind {
    fn from(kind: KindArg) -> FileKind {
        match kind {
            KindArg::Net => FileKind::Net,
            KindArg::Solver => FileKind::Solver,
        }
    }
}

/// Where the parameters come from.
#[derive(Args)]
pub struct WeightArgs {
    /// Trained weights, .caffemodel or .caffemodel.h5 (repeatable: later ones replace)
    #[arg(short, long = "weights", value_name = "FILE")]
    pub weights: Vec<PathBuf>,
    /// Seeded stand-ins that keep every blob alive [default without -w: seed 1]
    #[arg(long, value_name = "SEED", num_args = 0..=1, require_equals = true)]
    #[arg(default_missing_value = "1", conflicts_with_all = ["weights", "allow_missing_weights"])]
    pub random_weights: Option<u64>,
    /// Parameters without weights keep what Caffe's filler gives them
    #[arg(long)]
    pub allow_missing_weights: bool,
}

/// Measuring instead of estimating.
#[derive(Args)]
pub struct TuneArgs {
    /// Measure which way of computing a convolution is the fastest here, and keep the answers
    #[arg(long)]
    pub tune: bool,
    /// Where they are kept [default: caffec/tuning.json in the user's cache folder]
    #[arg(long, value_name = "FILE", requires = "tune")]
    pub tune_cache: Option<PathBuf>,
}

/// How the net is lowered and run.
#[derive(Args)]
pub struct EngineArgs {
    /// One layer at a time: no epilogues, no chains
    #[arg(long)]
    pub no_fuse: bool,
    /// How convolutions are computed
    #[arg(long, value_enum, default_value = "auto")]
    pub conv: ConvArg,
    #[command(flatten)]
    pub tune: TuneArgs,
    /// Instruction set
    #[arg(long, value_enum, default_value = "native")]
    pub isa: IsaArg,
    /// What runs the net
    #[arg(long, value_enum, default_value = "jit")]
    pub backend: Backend,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum ConvArg {
    /// Winograd's algorithm where it is faster
    Auto,
    /// Sums of products as they are defined
    Direct,
    /// Winograd's algorithm where it is possible
    Winograd,
}

impl From<ConvArg> for Convolutions {
    fn from(conv: ConvArg) -> Convolutions {
        match conv {
            ConvArg::Auto => Convolutions::WhereItPays,
            ConvArg::Direct => Convolutions::Direct,
            ConvArg::Winograd => Convolutions::Winograd,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum IsaArg {
    /// The best that this machine has
    Native,
    Avx512,
    Avx2,
    Portable,
}

impl IsaArg {
    /// `None` for [`IsaArg::Native`].
    pub fn named(self) -> Option<Isa> {
        match self {
            IsaArg::Native => None,
            IsaArg::Avx512 => Some(Isa::Avx512),
            IsaArg::Avx2 => Some(Isa::Avx2),
            IsaArg::Portable => Some(Isa::Portable),
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Backend {
    /// Machine code, made by Cranelift
    Jit,
    /// The kernel program, step by step
    Interp,
    /// Caffe's layers as naive loops, summed in f64
    Reference,
}

/// What feeds the net.
#[derive(Args)]
pub struct InputArgs {
    /// Feed an input: npy, npz, raw f32, PNG or JPEG (repeatable; files of one input stack)
    #[arg(short, long = "input", value_name = "[BLOB=]FILE", value_parser = input)]
    pub inputs: Vec<Input>,
    /// Each input takes the shape of its file
    #[arg(long)]
    pub reshape: bool,
    /// Pictures: stretch to N or HxW, then take the centre
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub resize: Option<Size>,
    /// Pictures: cut the centre out, N or HxW
    #[arg(long, value_name = "SIZE", value_parser = size)]
    pub crop: Option<Size>,
    /// Pictures: subtract a value, one per channel (104,117,123), or a .npy or .binaryproto.
    /// This, --resize, --crop and --scale are else as the data layer's transform_param says
    #[arg(long, value_name = "VALUES|FILE", allow_hyphen_values = true)]
    pub mean: Option<String>,
    /// Pictures: multiply by this after the mean [default: 1]
    #[arg(long, value_name = "FACTOR", allow_negative_numbers = true)]
    pub scale: Option<f32>,
    /// Pictures: exchange left and right
    #[arg(long)]
    pub mirror: bool,
    /// Pictures: order of the channels [default: bgr, as Caffe]
    #[arg(long, value_enum, value_name = "ORDER")]
    pub channel_order: Option<OrderArg>,
}

#[derive(Clone, Copy, ValueEnum)]
pub enum OrderArg {
    Bgr,
    Rgb,
}

impl From<OrderArg> for ChannelOrder {
    fn from(order: OrderArg) -> ChannelOrder {
        match order {
            OrderArg::Bgr => ChannelOrder::Bgr,
            OrderArg::Rgb => ChannelOrder::Rgb,
        }
    }
}

/// `-i blob=file` or `-i file`.
#[derive(Clone, Debug, PartialEq)]
pub struct Input {
    pub blob: Option<String>,
    pub file: PathBuf,
}

/// What is compiled, for `compile` and `dump`.
#[derive(Args)]
pub struct PlanArgs {
    /// Batch size: replaces axis 0 of every input
    #[arg(long, value_name = "N", value_parser = positive)]
    pub batch: Option<usize>,
    /// Give this interior blob as an output as well (repeatable)
    #[arg(long = "blob", value_name = "NAME")]
    pub blobs: Vec<String>,
    /// One layer at a time: no epilogues, no chains
    #[arg(long)]
    pub no_fuse: bool,
    /// How convolutions are computed
    #[arg(long, value_enum, default_value = "auto")]
    pub conv: ConvArg,
    #[command(flatten)]
    pub tune: TuneArgs,
    /// Instruction set; native stands for all in Rust source, chosen where it runs
    #[arg(long, value_enum, default_value = "native")]
    pub isa: IsaArg,
}

#[derive(Args)]
pub struct CompileArgs {
    #[command(flatten)]
    pub net: NetArgs,
    #[command(flatten)]
    pub weights: WeightArgs,
    #[command(flatten)]
    pub plan: PlanArgs,
    /// The Rust file to write; beside it the weights, with .weights for .rs
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Put the weights into the binary (include_bytes! of the weights file)
    #[arg(long)]
    pub embed: bool,
    /// Add a main program that runs the net on files
    #[arg(long)]
    pub main: bool,
}

#[derive(Args)]
pub struct RunArgs {
    #[command(flatten)]
    pub net: NetArgs,
    #[command(flatten)]
    pub weights: WeightArgs,
    #[command(flatten)]
    pub inputs: InputArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Batch size: replaces axis 0 of every input
    #[arg(long, value_name = "N", value_parser = positive)]
    pub batch: Option<usize>,
    /// Number of threads [default: all of the machine]
    #[arg(long, value_name = "N", value_parser = threads)]
    pub threads: Option<usize>,
    /// Write outputs and --blob to DIR/<blob>.npy ('/' becomes '_')
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Also give this interior blob, as Caffe would hold it (repeatable)
    #[arg(long = "blob", value_name = "NAME")]
    pub blobs: Vec<String>,
    /// Names of the classes, one a line
    #[arg(long, value_name = "FILE")]
    pub labels: Option<PathBuf>,
    /// Show the K largest values of each output [default with --labels: 5]
    #[arg(long, value_name = "K", value_parser = positive)]
    pub top: Option<usize>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct BenchArgs {
    #[command(flatten)]
    pub net: NetArgs,
    #[command(flatten)]
    pub weights: WeightArgs,
    #[command(flatten)]
    pub inputs: InputArgs,
    #[command(flatten)]
    pub engine: EngineArgs,
    /// Batch sizes, for example 1,16 [default: the net's]
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = positive)]
    pub batch: Vec<usize>,
    /// Numbers of threads, for example 1,2
    #[arg(long, value_name = "N,…", value_delimiter = ',', value_parser = threads)]
    #[arg(default_value = "1")]
    pub threads: Vec<usize>,
    /// Timed runs of each contestant [default: as many as fit into 3 seconds]
    #[arg(long, value_name = "N", value_parser = positive)]
    pub runs: Option<usize>,
    /// Measure one setting and write its outputs to DIR
    #[arg(long, value_name = "DIR")]
    pub output_dir: Option<PathBuf>,
    /// Measure every step by itself: the one that loses most against what the machine could
    /// do first
    #[arg(long, conflicts_with_all = ["inputs", "output_dir", "backend", "worker"])]
    pub layers: bool,
    /// Stay up and serve timed runs over stdin and stdout, one JSON object a line
    #[arg(long)]
    pub worker: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct SummaryArgs {
    #[command(flatten)]
    pub net: NetArgs,
    /// Batch size: replaces axis 0 of every input
    #[arg(long, value_name = "N", value_parser = positive)]
    pub batch: Option<usize>,
    /// Print one JSON object (docs/JSON.md)
    #[arg(long)]
    pub json: bool,
}

#[derive(Args)]
pub struct DumpArgs {
    #[command(flatten)]
    pub net: NetArgs,
    #[command(flatten)]
    pub weights: WeightArgs,
    /// Where to look
    #[arg(long, value_enum)]
    pub at: Stage,
    /// What the file is, where it could be either (only --at proto)
    #[arg(long = "as", value_enum, value_name = "KIND")]
    pub kind: Option<KindArg>,
    #[command(flatten)]
    pub plan: PlanArgs,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Stage {
    /// The file as read, in canonical text format, before any upgrade
    Proto,
    /// The graph of layers with all shapes
    Ir,
    /// The graph after the passes
    Fused,
    /// The kernel program: loops, fused expressions, leaf calls
    Kernel,
    /// What Cranelift is given
    Clif,
    /// The Rust source
    Rust,
}

#[derive(Args)]
pub struct UpgradeArgs {
    /// The net or solver; `-` reads standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// What the file is, where it could be either
    #[arg(long = "as", value_enum, value_name = "KIND")]
    pub kind: Option<KindArg>,
    #[command(flatten)]
    pub reading: ReadingArgs,
    /// Write to this file instead of standard output; binary, with the blobs that a binary
    /// net has, if its name ends in .caffemodel or .binaryproto
    #[arg(short, long, value_name = "FILE")]
    pub output: Option<PathBuf>,
}

#[derive(Args)]
pub struct CheckArgs {
    /// Nets or solvers; `-` reads standard input
    #[arg(value_name = "FILE", required = true)]
    pub files: Vec<PathBuf>,
    /// Weights that are to suit the net (repeatable: later ones replace)
    #[arg(
        short,
        long = "weights",
        value_name = "FILE",
        conflicts_with = "syntax"
    )]
    pub weights: Vec<PathBuf>,
    /// With -w: layers may go without
    #[arg(long, requires = "weights")]
    pub allow_missing_weights: bool,
    /// What the files are, where they could be either
    #[arg(long = "as", value_enum, value_name = "KIND")]
    pub kind: Option<KindArg>,
    /// Only whether they can be read: no upgrade, no layers, no shapes
    #[arg(long)]
    pub syntax: bool,
    #[command(flatten)]
    pub state: StateArgs,
    /// Shape of an input, for example data=1x3x227x227 (repeatable)
    #[arg(long = "shape", value_name = "BLOB=DIMS", value_parser = shape)]
    pub shapes: Vec<(String, Shape)>,
    /// Fork whose meaning counts where forks disagree [default: what the net shows]
    #[arg(long, value_name = "NAME", value_parser = dialect())]
    pub dialect: Option<Dialect>,
    /// Print one JSON object (docs/JSON.md)
    #[arg(long)]
    pub json: bool,
}

/// The names of the dialects, and what they stand for.
fn dialect() -> impl TypedValueParser<Value = Dialect> {
    let names = Dialect::ALL.iter().map(|(name, _)| *name);
    let named = |name: String| Dialect::named(&name).expect("one of the names");
    PossibleValuesParser::new(names).map(named)
}

fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected a number from 1 on".into()),
        Ok(n) => Ok(n),
    }
}

fn threads(text: &str) -> Result<usize, String> {
    const MOST: usize = 1024;
    match positive(text) {
        Ok(n) if n <= MOST => Ok(n),
        _ => Err(format!("expected a number from 1 to {MOST}")),
    }
}

/// `data=1x3x227x227`.
fn shape(text: &str) -> Result<(String, Shape), String> {
    let expected = || "expected BLOB=DIMS, for example data=1x3x227x227".to_string();
    let (blob, dims) = text.rsplit_once('=').ok_or_else(expected)?;
    let dims: Result<Vec<usize>, _> = dims.split(['x', '×', ',']).map(str::parse).collect();
    let shape = Shape::new(dims.map_err(|_| expected())?).map_err(|e| e.to_string())?;
    Ok((blob.to_string(), shape))
}

/// `256` or `240x320`, height first.
fn size(text: &str) -> Result<Size, String> {
    let (height, width) = text.split_once(['x', '×']).unwrap_or((text, text));
    let number = |t: &str| positive(t).map_err(|_| "expected N or HEIGHTxWIDTH".to_string());
    Ok((number(height)?, number(width)?))
}

fn input(text: &str) -> Result<Input, String> {
    let (blob, file) = match text.split_once('=') {
        Some((blob, file)) => (Some(blob.to_string()), file),
        None => (None, text),
    };
    match file {
        "" => Err("expected BLOB=FILE".into()),
        file => Ok(Input {
            blob,
            file: file.into(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_of_options() {
        let (blob, dims) = shape("data=1x3x2").unwrap();
        assert_eq!((blob.as_str(), dims.dims()), ("data", &[1, 3, 2][..]));
        assert!(shape("1x3x2").is_err());
        assert!(shape("data=1x-3").is_err());
        assert!(shape("data=99999x99999x9").is_err());
        assert_eq!(size("256"), Ok((256, 256)));
        assert_eq!(size("2x3"), Ok((2, 3)));
        assert!(size("0").is_err());
        assert_eq!(input("x.npy").unwrap().blob, None);
        assert_eq!(input("a=b=c").unwrap().file, PathBuf::from("b=c"));
        assert!(input("a=").is_err());
    }
}
