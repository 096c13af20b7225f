//! What emitted source needs beside the leaves, memory and the pool: the weights file,
//! the choice of an instruction set, and running the steps.
//!
//! This file is compiled into caffec and pasted into the Rust source that it emits:
//! it names nothing but `std`, the arena and the pool, and is free of warnings in every
//! edition.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::ops::Deref;
use std::path::Path;
use std::slice;

use super::arena::Block;
use super::pool::{Pool, Ranges, divide};

/// All that is known of a compiled net without its weights.
pub struct Model {
    pub name: &'static str,
    /// Version of caffec that made it.
    pub version: &'static str,
    /// Tells weights files that belong to it from others.
    pub fingerprint: u64,
    /// Number of packed weights.
    pub weights_len: usize,
    pub inputs: &'static [Port],
    pub outputs: &'static [Port],
    /// The same net for several instruction sets, the best first.
    pub plans: &'static [&'static Plan],
    /// The weights file, if it is part of the program.
    pub embedded: Option<&'static Aligned<[u8]>>,
}

/// An input or output blob: row-major f32.
pub struct Port {
    pub name: &'static str,
    pub shape: &'static [usize],
    /// For an output whose extent along an axis depends on the data and is at most that of
    /// `shape`: the axis, and the output, of one element, that holds the extent.
    pub count: Option<(usize, usize)>,
}

impl Port {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.shape.iter().product()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// The net for one instruction set.
pub struct Plan {
    pub isa: Isa,
    /// Sizes in elements of a context's arena and of each thread's scratch.
    pub arena_len: usize,
    pub scratch_len: usize,
    pub steps: &'static [Step],
    /// Where steps write the number of what is wrong with the values of their inputs: place
    /// in the arena, layer, what the numbers from 1 on mean.
    pub faults: &'static [(usize, &'static str, &'static [&'static str])],
}

/// A group of layers; the next one starts when it is done.
pub struct Step {
    /// `run(memory, start, end)` does the tasks from `start` to `end`.
    pub run: unsafe fn(&Memory, u64, u64),
    /// Number of tasks and cost of each, for each region of the step.
    pub regions: &'static [(u64, u64)],
}

/// Where a thread finds the net's data.
pub struct Memory<'a> {
    pub inputs: &'a [*const f32],
    pub outputs: &'a [*mut f32],
    pub arena: *mut f32,
    pub weights: *const f32,
    /// Of this thread alone.
    pub scratch: *mut f32,
}

/// An instruction set that the net was compiled for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Isa {
    /// Any CPU.
    Portable,
    /// AVX2 and FMA.
    Avx2,
    /// AVX-512 F, VL, BW and DQ.
    Avx512,
}

impl Isa {
    /// All of them.
    pub const ALL: [Isa; 3] = [Isa::Avx512, Isa::Avx2, Isa::Portable];

    /// As it is written in options and messages.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Portable => "portable",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        }
    }

    /// Whether this CPU has it.
    #[cfg(target_arch = "x86_64")]
    pub fn available(self) -> bool {
        let avx2 = || is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        match self {
            Isa::Portable => true,
            Isa::Avx2 => avx2(),
            Isa::Avx512 => {
                avx2()
                    && is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
            }
        }
    }

    /// Whether this CPU has it.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn available(self) -> bool {
        self == Isa::Portable
    }
}

/// The larger of two values; `a` if one is NaN.
#[inline(always)]
pub fn max(a: f32, b: f32) -> f32 {
    if a < b { b } else { a }
}

/// The smaller of two values; `a` if one is NaN.
#[inline(always)]
pub fn min(a: f32, b: f32) -> f32 {
    if b < a { b } else { a }
}

/// `x` where `a` is less than `b`, else `y`.
#[inline(always)]
pub fn less(a: f32, b: f32, x: f32, y: f32) -> f32 {
    if a < b { x } else { y }
}

/// What can go wrong with a compiled net.
#[derive(Debug)]
pub enum Error {
    /// The weights cannot be read.
    Io(io::Error),
    /// These are not weights packed by caffec.
    NotWeights,
    /// The weights have another version of the format.
    Version(u32),
    /// The weights were packed for another net, or for other source of the same net.
    OtherNet { expected: u64, found: u64 },
    /// The weights are too short or too long; in bytes.
    Length { expected: u64, found: u64 },
    /// The weights are not what was written.
    Damaged,
    /// The net was not compiled for this instruction set, or the CPU lacks it.
    Isa(Isa),
    /// The CPU has none of the instruction sets that the net was compiled for.
    NoIsa,
    /// A blob given has the wrong number of elements.
    Blob {
        name: &'static str,
        expected: usize,
        found: usize,
    },
    /// The values of a layer's inputs make no sense.
    Values {
        layer: &'static str,
        message: &'static str,
    },
    /// The number of blobs given is wrong.
    BlobCount { expected: usize, found: usize },
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Error::Io(ref error) => error.fmt(f),
            Error::NotWeights => write!(f, "not a weights file made by caffec"),
            Error::Version(found) => write!(
                f,
                "weights file of version {}, this source reads version {}",
                found, VERSION
            ),
            Error::OtherNet { expected, found } => write!(
                f,
                "the weights file belongs to other source \
                 (fingerprint {:016x}, this is {:016x})",
                found, expected
            ),
            Error::Length { expected, found } if found < expected => write!(
                f,
                "the weights file is cut off: {} of {} bytes",
                found, expected
            ),
            Error::Length { expected, found } => write!(
                f,
                "the weights file is too long: {} instead of {} bytes",
                found, expected
            ),
            Error::Damaged => write!(f, "the weights file is damaged: its checksum is wrong"),
            Error::Isa(isa) => write!(
                f,
                "{}: the net was not compiled for it, or this CPU lacks it",
                isa.name()
            ),
            Error::NoIsa => write!(f, "the net was not compiled for CPUs like this one"),
            Error::Blob {
                name,
                expected,
                found,
            } => write!(
                f,
                "blob `{}` has {} elements, not {}",
                name, expected, found
            ),
            Error::Values { layer, message } => write!(f, "layer `{}`: {}", layer, message),
            Error::BlobCount { expected, found } => {
                write!(f, "{} blobs expected, {} given", expected, found)
            }
        }
    }
}

impl std::error::Error for Error {}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Error {
        Error::Io(error)
    }
}

/// # Panics
/// If the system refuses the memory.
fn zeroed(len: usize) -> Block {
    match Block::zeroed(len) {
        Some(block) => block,
        None => panic!("no memory for {} numbers", len),
    }
}

/// A value at an address that is a multiple of 64.
#[repr(C, align(64))]
pub struct Aligned<T: ?Sized>(pub T);

/// Version of the weights file's format.
const VERSION: u32 = 1;
const MAGIC: [u8; 8] = *b"caffecW\n";
/// Bytes before the first weight; a multiple of 64, so that weights stay aligned
/// where the file is.
const HEADER_LEN: usize = 64;

/// The first bytes of a weights file: magic (8 bytes), version (4), zeros (4),
/// fingerprint (8), number of weights (8), checksum (8), zeros; all little-endian. The
/// weights follow as little-endian f32.
pub fn weights_header(fingerprint: u64, weights: &[f32]) -> [u8; HEADER_LEN] {
    let mut header = [0; HEADER_LEN];
    header[..8].copy_from_slice(&MAGIC);
    header[8..12].copy_from_slice(&VERSION.to_le_bytes());
    header[16..24].copy_from_slice(&fingerprint.to_le_bytes());
    header[24..32].copy_from_slice(&(weights.len() as u64).to_le_bytes());
    header[32..40].copy_from_slice(&checksum(weights).to_le_bytes());
    header
}

/// A checksum that reads memory at full speed: four lanes of multiply and rotate.
pub fn checksum(values: &[f32]) -> u64 {
    const FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
    let step = |hash: u64, low: f32, high: f32| {
        let word = u64::from(low.to_bits()) | u64::from(high.to_bits()) << 32;
        (hash ^ word).wrapping_mul(FACTOR).rotate_left(29)
    };
    let mut lanes = [1u64, 2, 3, 4];
    let chunks = values.chunks_exact(8);
    let rest = chunks.remainder();
    for chunk in chunks {
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane = step(*lane, chunk[2 * i], chunk[2 * i + 1]);
        }
    }
    let hash = rest.iter().fold(0, |hash, &v| step(hash, v, 0.0));
    lanes.iter().fold(hash ^ values.len() as u64, |hash, lane| {
        (hash ^ lane).wrapping_mul(FACTOR).rotate_left(29)
    })
}

fn word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

/// Packed weights, ready for use.
enum Weights {
    Owned(Block),
    Embedded(&'static [f32]),
}

impl Deref for Weights {
    type Target = [f32];

    fn deref(&self) -> &[f32] {
        match *self {
            Weights::Owned(ref block) => block,
            Weights::Embedded(values) => values,
        }
    }
}

/// A net with its weights. Any number of threads may use it at once, each with a
/// context of its own.
pub struct Net {
    model: &'static Model,
    plan: &'static Plan,
    weights: Weights,
}

impl Net {
    /// Reads a weights file.
    pub fn load(model: &'static Model, path: &Path) -> Result<Net, Error> {
        let file = File::open(path)?;
        let len = file.metadata()?.len();
        Net::read(model, file, len)
    }

    /// Copies the content of a weights file.
    pub fn from_bytes(model: &'static Model, bytes: &[u8]) -> Result<Net, Error> {
        Net::read(model, bytes, bytes.len() as u64)
    }

    /// Takes the weights that are part of the program.
    pub fn embedded(model: &'static Model) -> Result<Net, Error> {
        let bytes = match model.embedded {
            Some(file) => &file.0,
            None => return Err(Error::NotWeights),
        };
        if cfg!(target_endian = "big") {
            return Net::from_bytes(model, bytes);
        }
        let expected = check_header(model, &bytes[..HEADER_LEN.min(bytes.len())])?;
        check_len(model, bytes.len() as u64)?;
        // SAFETY: aligned, long enough for so many values, and any bits are an f32.
        let weights = unsafe {
            let start = bytes.as_ptr().add(HEADER_LEN) as *const f32;
            slice::from_raw_parts(start, model.weights_len)
        };
        Net::checked(model, Weights::Embedded(weights), expected)
    }

    fn read<R: Read>(model: &'static Model, mut file: R, len: u64) -> Result<Net, Error> {
        let mut header = Vec::with_capacity(HEADER_LEN);
        file.by_ref()
            .take(HEADER_LEN as u64)
            .read_to_end(&mut header)?;
        let expected = check_header(model, &header)?;
        check_len(model, len)?;
        let mut block = zeroed(model.weights_len);
        file.read_exact(block.bytes_mut())?;
        if cfg!(target_endian = "big") {
            for value in block.bytes_mut().chunks_exact_mut(4) {
                value.reverse();
            }
        }
        Net::checked(model, Weights::Owned(block), expected)
    }

    fn checked(model: &'static Model, weights: Weights, expected: u64) -> Result<Net, Error> {
        if checksum(&weights) != expected {
            return Err(Error::Damaged);
        }
        let plan = model.plans.iter().find(|plan| plan.isa.available());
        let plan = plan.ok_or(Error::NoIsa)?;
        Ok(Net {
            model,
            plan,
            weights,
        })
    }

    /// The same net for another instruction set than the best of this CPU.
    pub fn with_isa(self, isa: Isa) -> Result<Net, Error> {
        let plan = self.model.plans.iter().find(|plan| plan.isa == isa);
        match plan {
            Some(plan) if isa.available() => Ok(Net { plan, ..self }),
            _ => Err(Error::Isa(isa)),
        }
    }

    pub fn isa(&self) -> Isa {
        self.plan.isa
    }

    pub fn model(&self) -> &'static Model {
        self.model
    }

    pub fn context(&self, threads: usize) -> Context {
        let pool = Pool::new(threads);
        let divided = |step: &Step| divide(step.regions, pool.threads());
        Context {
            plan: self.plan,
            arena: zeroed(self.plan.arena_len),
            scratch: (0..pool.threads())
                .map(|_| zeroed(self.plan.scratch_len))
                .collect(),
            ranges: self.plan.steps.iter().map(divided).collect(),
            pool,
        }
    }

    /// One inference on blobs in the order of the model's inputs and outputs.
    pub fn forward(
        &self,
        context: &mut Context,
        inputs: &[&[f32]],
        outputs: &mut [&mut [f32]],
    ) -> Result<(), Error> {
        check_blobs(self.model.inputs, inputs.iter().map(|blob| blob.len()))?;
        check_blobs(self.model.outputs, outputs.iter().map(|blob| blob.len()))?;
        assert!(
            self.model
                .plans
                .iter()
                .any(|&p| std::ptr::eq(p, context.plan)),
            "the context is of another net"
        );
        let inputs: Vec<_> = inputs.iter().map(|blob| blob.as_ptr()).collect();
        let outputs: Vec<_> = outputs.iter_mut().map(|blob| blob.as_mut_ptr()).collect();
        // SAFETY: blobs and weights have the lengths of the net, and the CPU has the
        // instructions of the plans that contexts are made for.
        unsafe { context.run(&self.weights, &inputs, &outputs) };
        for &(at, layer, messages) in context.plan.faults {
            let number = context.arena[at] as usize;
            if number > 0 && number <= messages.len() {
                let message = messages[number - 1];
                return Err(Error::Values { layer, message });
            }
        }
        Ok(())
    }
}

/// Checks all of the header but the checksum, and returns that.
fn check_header(model: &Model, header: &[u8]) -> Result<u64, Error> {
    if header.len() < MAGIC.len() || header[..MAGIC.len()] != MAGIC {
        return Err(Error::NotWeights);
    }
    if header.len() < HEADER_LEN {
        check_len(model, header.len() as u64)?;
    }
    let version = word(header, 8) as u32;
    if version != VERSION {
        return Err(Error::Version(version));
    }
    let found = word(header, 16);
    if found != model.fingerprint || word(header, 24) != model.weights_len as u64 {
        return Err(Error::OtherNet {
            expected: model.fingerprint,
            found,
        });
    }
    Ok(word(header, 32))
}

fn check_len(model: &Model, found: u64) -> Result<(), Error> {
    let expected = (HEADER_LEN + 4 * model.weights_len) as u64;
    if found == expected {
        Ok(())
    } else {
        Err(Error::Length { expected, found })
    }
}

fn check_blobs<I: ExactSizeIterator<Item = usize>>(ports: &[Port], found: I) -> Result<(), Error> {
    if ports.len() != found.len() {
        return Err(Error::BlobCount {
            expected: ports.len(),
            found: found.len(),
        });
    }
    for (port, found) in ports.iter().zip(found) {
        if port.len() != found {
            return Err(Error::Blob {
                name: port.name,
                expected: port.len(),
                found,
            });
        }
    }
    Ok(())
}

/// Memory and threads for one inference at a time.
pub struct Context {
    plan: &'static Plan,
    arena: Block,
    /// One for each thread.
    scratch: Vec<Block>,
    /// For each step, the tasks of each thread.
    ranges: Vec<Vec<Ranges>>,
    pool: Pool,
}

/// Pointers that threads share for one step.
struct Shared<'a> {
    inputs: &'a [*const f32],
    outputs: &'a [*mut f32],
    arena: *mut f32,
    weights: *const f32,
    scratch: &'a [*mut f32],
}

// SAFETY: a task of a step does not write what another one reads or writes.
unsafe impl<'a> Sync for Shared<'a> {}

impl<'a> Shared<'a> {
    fn of_thread(&self, thread: usize) -> Memory<'a> {
        Memory {
            inputs: self.inputs,
            outputs: self.outputs,
            arena: self.arena,
            weights: self.weights,
            scratch: self.scratch[thread],
        }
    }
}

impl Context {
    /// Number of threads.
    pub fn threads(&self) -> usize {
        self.pool.threads()
    }

    /// Runs all steps.
    ///
    /// # Safety
    /// Weights and blobs have the lengths of the plan's net; the CPU has the plan's
    /// instruction set.
    unsafe fn run(&mut self, weights: &[f32], inputs: &[*const f32], outputs: &[*mut f32]) {
        let scratch: Vec<_> = self.scratch.iter_mut().map(Block::as_mut_ptr).collect();
        let shared = Shared {
            inputs,
            outputs,
            arena: self.arena.as_mut_ptr(),
            weights: weights.as_ptr(),
            scratch: &scratch,
        };
        for (step, ranges) in self.plan.steps.iter().zip(&self.ranges) {
            let part = |thread: usize| {
                for &(start, end) in &ranges[thread] {
                    // SAFETY: as the caller promised; each task is run once.
                    unsafe { (step.run)(&shared.of_thread(thread), start, end) };
                }
            };
            if ranges[1..].iter().all(Vec::is_empty) {
                part(0);
            } else {
                self.pool.run(&part);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_tell_values_order_and_length() {
        let values: Vec<f32> = (0..37).map(|i| i as f32).collect();
        let mut sums = vec![checksum(&values), checksum(&values[..36]), checksum(&[])];
        for i in 0..values.len() {
            let mut changed = values.clone();
            changed[i] = -changed[i];
            sums.push(checksum(&changed));
            changed.clone_from(&values);
            changed.swap(i, (i + 8) % 37);
            sums.push(checksum(&changed));
        }
        let count = sums.len();
        sums.sort_unstable();
        sums.dedup();
        assert_eq!(sums.len(), count);
    }
}
