//! The net, its weights and its program, as the arguments ask for them.

use super::args::{Backend, EngineArgs, NetArgs, StateArgs, WeightArgs};
use super::talk::{self, Progress};
use super::tuning::tuned;
use super::{Failure, IsaArg};
use caffec::diag::{Diagnostic, Kind, Result, Sources, clean};
use caffec::frontend::binary::WeightsFile;
use caffec::frontend::{self, FileKind, Loaded, Net, SolverNet, State, files, load_net};
use caffec::ir::{self, Built, Shape, Tensor, Valid, room};
use caffec::leaf::Isa;
use caffec::lower::{Chains, Convolutions};
use caffec::passes::Fuse;
use caffec::runtime::exec::{Context, Engine, Executable};
use caffec::weights::{self, Missing, Named};
use caffec::{Options, Plan, plan};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A net that has been read.
pub struct Model {
    /// The file, as messages name it.
    pub name: String,
    pub sha256: String,
    pub net: Net,
}

/// The name and content of a file; `-` is standard input.
pub fn read_file(path: &Path) -> Result<(String, Vec<u8>)> {
    if path.as_os_str() != "-" {
        return files::read(path);
    }
    let name = "<stdin>".to_string();
    let bytes = files::read_from(&name, io::stdin().lock())?;
    Ok((name, bytes))
}

impl From<&StateArgs> for State {
    fn from(args: &StateArgs) -> State {
        State {
            phase: args.phase.into(),
            level: args.level,
            stages: args.stages.clone(),
            reading: (&args.reading).into(),
        }
    }
}

/// Reads the net; says what was lost on the way.
pub fn load(args: &NetArgs, sources: &mut Sources) -> Result<Model> {
    let mut model = read(&args.net, &args.state, None, sources)?;
    talk::notes(sources, &model.net.notes);
    if args.fc_to_conv {
        let layers = ir::fc_to_conv(&mut model.net)?;
        talk::say(&match layers.is_empty() {
            true => "note: --fc-to-conv: no InnerProduct layer over height and width".to_string(),
            false => format!("note: convolutions now: {}", clean(&layers.join(", "))),
        });
    }
    Ok(model)
}

/// Reads the net of a file, or that of the solver in it.
pub fn read(
    path: &Path,
    state: &StateArgs,
    kind: Option<FileKind>,
    sources: &mut Sources,
) -> Result<Model> {
    let (name, bytes) = read_file(path)?;
    let sha256 = hex(&Sha256::digest(&bytes));
    Ok(
        match frontend::load(&name, bytes, sources, &state.into(), kind)? {
            Loaded::Net(net) => Model {
                name,
                sha256,
                net: *net,
            },
            Loaded::Solver(solver) => read_net_of(path, solver, sources)?,
        },
    )
}

fn read_net_of(path: &Path, solver: SolverNet, sources: &mut Sources) -> Result<Model> {
    let (name, bytes) = read_file(&net_file(path, &solver)?)?;
    let sha256 = hex(&Sha256::digest(&bytes));
    let mut net = load_net(&name, bytes, sources, &solver.state)?;
    let which = format!("this is a solver: its net is {name}");
    let notes = solver.notes.into_iter();
    let notes = notes.chain([Diagnostic::invalid(which).at(solver.at)]);
    net.notes.splice(..0, notes);
    Ok(Model { name, sha256, net })
}

/// Where the net of a solver is. Errors: `Open`.
fn net_file(path: &Path, solver: &SolverNet) -> Result<PathBuf> {
    if let Some(file) = files::named(path, &solver.file) {
        return Ok(file);
    }
    let message = format!("the solver's net `{}` is not there", solver.file);
    let error = Diagnostic::new(Kind::Open, message).at(solver.at);
    let name = Path::new(&solver.file).file_name();
    let near = name.map(|name| path.with_file_name(name));
    Err(match near.filter(|file| file.is_file()) {
        Some(near) => error.help(format!("{} is there: is it the net?", near.display())),
        None => error.help("it is looked for from the solver's folder, from here and from the folders above the solver"),
    }
    .into())
}

/// What to build, before any input is looked at.
pub fn wishes(args: &NetArgs, batch: Option<usize>, blobs: &[String]) -> ir::Options {
    ir::Options {
        shapes: args.shapes.iter().cloned().collect(),
        batch,
        blobs: blobs.to_vec(),
        fed: None,
        dialect: args.dialect,
        ..ir::Options::default()
    }
}

impl Model {
    pub fn build(&self, options: &ir::Options) -> Built {
        ir::build(&self.net, options)
    }

    /// The graph, with the notes said. A net without a name takes its file's.
    pub fn graph(&self, options: &ir::Options, sources: &Sources) -> Result<Valid> {
        let (mut graph, notes) = self.build(options).valid()?;
        talk::notes(sources, &notes);
        if graph.name.is_empty() {
            let stem = Path::new(&self.name).file_stem().unwrap_or_default();
            let stem = stem.to_string_lossy().into_owned();
            graph.edit("naming", |g| g.name = stem);
        }
        Ok(graph)
    }
}

/// Says that there are no weights, once for a command.
pub fn note_stand_ins(args: &WeightArgs) {
    if args.weights.is_empty() && args.random_weights.is_none() && !args.allow_missing_weights {
        talk::say("note: no weights given: using seeded stand-ins (--random-weights=1)");
    }
}

/// Gives the graph its parameters; tells what they come from, in one line.
pub fn fill_weights(args: &WeightArgs, net: &NetArgs, graph: &mut Valid) -> Result<String> {
    let allow_mixed = net.state.reading.allow_mixed;
    let progress = Progress::new("reading weights");
    let open = |path: &PathBuf| {
        let file = WeightsFile::open(path, allow_mixed)?;
        Ok((path.display().to_string(), file))
    };
    let files: Result<Vec<(String, WeightsFile)>> = args.weights.iter().map(open).collect();
    let files = files?;
    let named: Vec<Named> = files
        .iter()
        .map(|(name, file)| (name.as_str(), file))
        .collect();
    let empty = named.iter().filter(|(_, file)| file.layers.is_empty());
    empty.for_each(|(name, _)| talk::say(&format!("note: {name}: no layers, so no weights")));
    let seed = args.random_weights.unwrap_or(1);
    let missing = match (args.allow_missing_weights, files.is_empty()) {
        (true, _) => Missing::Fill(seed),
        (false, true) => Missing::Random(seed),
        (false, false) => Missing::Refuse,
    };
    graph.edit("weights", |g| weights::load(g, &named, missing))?;
    drop(progress);
    Ok(match missing {
        Missing::Random(seed) => format!("none (seeded stand-ins, seed {seed})"),
        _ if files.is_empty() => "none (the values of Caffe's fillers)".to_string(),
        _ => "read".to_string(),
    })
}

/// SHA-256 of files, in their order.
pub fn sha256_of(paths: &[PathBuf]) -> Result<String> {
    let digest = |path: &PathBuf| {
        let mut hasher = Sha256::new();
        File::open(path)
            .and_then(|mut file| {
                let mut buffer = vec![0; 1 << 16];
                loop {
                    match file.read(&mut buffer)? {
                        0 => return Ok(()),
                        n => hasher.update(&buffer[..n]),
                    }
                }
            })
            .map_err(|e| Diagnostic::io(path, &e))?;
        Ok(hex(&hasher.finalize()))
    };
    let all: Result<Vec<String>> = paths.iter().map(digest).collect();
    Ok(all?.join(" "))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// The instruction set that a net is to run on here. Errors: the CPU lacks it.
pub fn isa(arg: IsaArg) -> Result<Isa, Failure> {
    let isa = arg.named().unwrap_or_else(Isa::detect);
    match isa.available() {
        true => Ok(isa),
        false => Err(Diagnostic::invalid(format!(
            "--isa {isa}: this CPU does not have it (its best is {})",
            Isa::detect()
        ))
        .into()),
    }
}

/// Everything that helps, or one layer at a time.
pub fn options(no_fuse: bool, convolutions: Convolutions, isa: Isa, engine: Engine) -> Options {
    Options {
        isa,
        fuse: if no_fuse { Fuse::None } else { Fuse::All },
        chains: Chains::WhereItPays,
        convolutions,
        tuning: Arc::default(),
        engine,
    }
}

/// A net that can be run.
pub enum Machine {
    Reference {
        graph: Valid,
        state: ir::reference::State,
    },
    Program {
        exe: Box<Executable>,
        context: Context,
    },
}

impl Machine {
    /// Compiles `graph`, whose parameters have data, for the backend asked for.
    pub fn new(graph: Valid, args: &EngineArgs, isa: Isa, threads: usize) -> Result<Self> {
        let engine = match args.backend {
            Backend::Jit => Engine::Jit,
            Backend::Interp => Engine::Interpreter,
            Backend::Reference => {
                let state = ir::reference::State::default();
                return Ok(Machine::Reference { graph, state });
            }
        };
        let options = options(args.no_fuse, args.conv.into(), isa, engine);
        let options = tuned(&args.tune, &graph, options)?;
        let exe = Box::new(executable(graph, &options)?.0);
        let context = exe.context(threads)?;
        Ok(Machine::Program { exe, context })
    }

    /// The next forward pass; `outputs` have the shapes of the graph's outputs.
    pub fn run(&mut self, inputs: &[Tensor], outputs: &mut [Tensor]) -> Result<()> {
        match self {
            Machine::Reference { graph, state } => {
                let made = ir::reference::run_on(graph, state, inputs, &graph.outputs)?;
                for (to, from) in outputs.iter_mut().zip(made) {
                    *to = from;
                }
                Ok(())
            }
            Machine::Program { exe, context } => {
                let inputs: Vec<&[f32]> = inputs.iter().map(|t| t.data.as_slice()).collect();
                let mut outputs: Vec<&mut [f32]> =
                    outputs.iter_mut().map(|t| t.data.as_mut_slice()).collect();
                exe.run(context, &inputs, &mut outputs)
            }
        }
    }
}

/// Compiles and packs, telling how far it is; also gives the graph after the passes and
/// how its chains were cut.
pub fn executable(graph: Valid, options: &Options) -> Result<(Executable, Valid, Vec<String>)> {
    let progress = Progress::new("compiling");
    let plan = plan(graph, options)?;
    progress.now("packing weights");
    let weights = plan.pack()?;
    progress.now("making code");
    let Plan {
        graph,
        program,
        chains,
        ..
    } = plan;
    let exe = Executable::new(program, weights, options.engine)?;
    Ok((exe, graph, chains))
}

/// Zeros for all outputs, counts of others included. Errors: `Io` without memory for them
/// and for the copies that are shown.
pub fn output_tensors(graph: &Valid) -> Result<Vec<Tensor>> {
    let shapes = graph.outputs.iter().map(|&b| graph.shape(b));
    room(shapes.clone().map(|shape| 2 * shape.count()))?;
    Ok(shapes.cloned().map(Tensor::zeros).collect())
}

/// Name and largest shape of each output that the user sees.
pub fn outputs(graph: &Valid) -> Vec<(String, Shape)> {
    let named = graph.shown_outputs().iter().map(|&b| &graph[b]);
    named.map(|b| (b.name.clone(), b.shape.clone())).collect()
}
