//! Prints checked programs as one self-contained Rust source file.
//!
//! In: the same net, lowered for one or more instruction sets. Out: the text of a file
//! that needs nothing but `std`, and the weights file that belongs to it.
//!
//! The file has the net's constants and types on top and one private module `caffec`
//! with all else: a module of step functions for each instruction set (printed by
//! `step`, through prettyplease), and as text, as they are here, the leaves that
//! the steps use, memory blocks, the thread pool, and this folder's `support.rs` and
//! `cli.rs`. It must compile without a warning in every edition, as a crate, as a module
//! and through `include!`: so it has no inner attributes at its top, and what it names is
//! below `self`, `super` or `std`.

pub mod names;
mod step;
pub mod support;

#[cfg(test)]
pub mod cli;

use std::fmt::Write as _;
use std::io::{self, Write};

use proc_macro2::{Ident, Literal, TokenStream};
use quote::{format_ident, quote};
use sha2::{Digest, Sha256};

use self::names::{Names, comment};
use self::step::{Used, print_program, table_name};
use crate::kernel::{Checked, Count, Port};
use crate::leaf::Isa;
use crate::leaf::routine::pasted;
use crate::runtime::{arena, pool};

/// What to print.
pub struct Emit<'a> {
    /// The same net, for one or more instruction sets. Ports and weights are the same
    /// in all of them.
    pub programs: &'a [&'a Checked],
    /// For the header: the prototxt's file name and SHA-256.
    pub prototxt: &'a str,
    pub prototxt_sha256: &'a str,
    /// What the weights were made of: the caffemodel's SHA-256, or a note.
    pub weights_sha256: &'a str,
    pub weights: Weights<'a>,
    /// Whether to add a main program.
    pub main: bool,
}

/// Where emitted source finds the packed weights.
#[derive(Clone, Copy, Debug)]
pub enum Weights<'a> {
    /// In a file that is named at run time.
    File,
    /// In this file beside the source, which becomes part of the program.
    Embed(&'a str),
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Modules pasted into every file.
const ARENA: &str = include_str!("../runtime/arena.rs");
const POOL: &str = include_str!("../runtime/pool.rs");
const SUPPORT: &str = include_str!("rust/support.rs");
/// Pasted where there is a main program.
const CLI: &str = include_str!("rust/cli.rs");

impl Emit<'_> {
    /// The source file. The same input gives the same text.
    pub fn source(&self) -> String {
        let first = self.first();
        for program in self.programs {
            assert_eq!(program.inputs, first.inputs);
            assert_eq!(program.outputs, first.outputs);
            assert_eq!(program.weights_len, first.weights_len);
        }
        let mut out = self.header();
        out += &pretty(self.interface());
        out +=
            "\n/// What is behind the interface: steps and tables, and the files that they need.\n";
        out += "#[allow(dead_code, unused_variables, unused_unsafe, clippy::all)]\n";
        out += &self.parts();
        out
    }

    fn first(&self) -> &Checked {
        self.programs.first().expect("at least one program")
    }

    fn header(&self) -> String {
        let first = self.first();
        let mut out = format!(
            "// Net `{}`, compiled by caffec {VERSION}. Generated: do not edit.\n//\n\
             // {}: SHA-256 {}\n// weights: SHA-256 {}\n//\n",
            comment(&first.name),
            comment(self.prototxt),
            comment(self.prototxt_sha256),
            comment(self.weights_sha256)
        );
        for (kind, ports) in [("input", &first.inputs), ("output", &first.outputs)] {
            for port in ports {
                let _ = writeln!(out, "// {kind} {}", port_text(port));
            }
        }
        out += "//\n// Needs nothing but std; rustc 1.89 or later, any edition. ";
        out += "To use it, as module `net`:\n//\n";
        let load = match self.weights {
            Weights::File => "load(\"net.weights\")",
            Weights::Embed(_) => "embedded()",
        };
        let _ = writeln!(out, "//     let net = net::Net::{load}?;");
        out += "//     let mut context = net.context(threads);\n";
        let blobs = self.port_names();
        let args = blobs.iter().map(|(port, name)| {
            let by = if port.output { "&mut " } else { "&" };
            format!(", {by}{name}")
        });
        let args: String = args.collect();
        let _ = writeln!(out, "//     net.forward(&mut context{args});");
        out +=
            "//\n// Blobs are arrays, best on the heap; `forward_slices` takes slices instead.\n";
        if self.main {
            let weights = match self.weights {
                Weights::File => "net.weights ",
                Weights::Embed(_) => "",
            };
            out += "//\n// As a program (`--help` tells all options):\n//\n";
            let _ = writeln!(
                out,
                "//     rustc -O net.rs && ./net {weights}in.npy out.npy"
            );
        }
        out + "\n"
    }

    /// All inputs and outputs with their names as parameters.
    fn port_names(&self) -> Vec<(PortRef<'_>, Ident)> {
        let first = self.first();
        let inputs = first.inputs.iter().map(|port| (port, false));
        let outputs = first.outputs.iter().map(|port| (port, true));
        let mut names = Names::without(&["context"]);
        inputs
            .chain(outputs)
            .map(|(port, output)| {
                let name = names.unique(&port.name, "blob");
                (PortRef { port, output }, format_ident!("{name}"))
            })
            .collect()
    }

    /// Constants, `Net`, and the main program.
    fn interface(&self) -> TokenStream {
        let ports = self.port_names();
        let constants = ports.iter().map(|(port, name)| port.constants(name));
        let about = format!(
            " The net `{}`, with its weights. Any number of threads may use it at once, each \
             with a [`Context`] of its own.",
            comment(&self.first().name)
        );
        let embedded = matches!(self.weights, Weights::Embed(_)).then(|| {
            quote! {
                /// Takes the weights that are part of the program.
                pub fn embedded() -> Result<Net, Error> {
                    self::caffec::support::Net::embedded(&self::caffec::MODEL).map(Net)
                }
            }
        });
        let forward = forward(&ports, !self.first().faults.is_empty());
        let main = self.main.then(|| {
            quote! {
                #[allow(dead_code)]
                fn main() -> std::process::ExitCode {
                    self::caffec::cli::main(&self::caffec::MODEL)
                }
            }
        });
        quote! {
            #[allow(unused_imports)]
            pub use self::caffec::support::{Context, Error, Isa};

            #(#constants)*

            #[doc = #about]
            #[allow(dead_code)]
            pub struct Net(self::caffec::support::Net);

            #[allow(dead_code)]
            impl Net {
                /// Reads the weights file that belongs to this source.
                pub fn load<P: AsRef<std::path::Path>>(path: P) -> Result<Net, Error> {
                    self::caffec::support::Net::load(&self::caffec::MODEL, path.as_ref()).map(Net)
                }

                /// Takes the content of the weights file that belongs to this source.
                pub fn from_bytes(bytes: &[u8]) -> Result<Net, Error> {
                    self::caffec::support::Net::from_bytes(&self::caffec::MODEL, bytes).map(Net)
                }

                #embedded

                /// The same net with another instruction set than the best of this CPU.
                pub fn with_isa(self, isa: Isa) -> Result<Net, Error> {
                    self.0.with_isa(isa).map(Net)
                }

                /// The instruction set in use.
                pub fn isa(&self) -> Isa {
                    self.0.isa()
                }

                /// Memory and threads for one inference at a time.
                pub fn context(&self, threads: usize) -> Context {
                    self.0.context(threads)
                }

                #forward

                /// One inference on blobs of lengths known at run time only, in the order
                /// of the parameters of `forward`.
                pub fn forward_slices(
                    &self,
                    context: &mut Context,
                    inputs: &[&[f32]],
                    outputs: &mut [&mut [f32]],
                ) -> Result<(), Error> {
                    self.0.forward(context, inputs, outputs)
                }
            }

            #main
        }
    }

    /// The module `caffec`.
    fn parts(&self) -> String {
        let mut used = Used::default();
        let isas: Vec<_> = self
            .programs
            .iter()
            .map(|program| {
                let module = isa_module(program.isa);
                let cfg = isa_cfg(program.isa);
                let steps = print_program(program, &mut used);
                quote!(#cfg pub mod #module { #steps })
            })
            .collect();
        let model = self.model();
        let mut out = pretty(quote!(mod caffec { #model #(#isas)* }));
        out.truncate(out.trim_end().len() - 1);
        out += &print_tables(&used);
        out += &print_supplied(&used);
        let x86 = "#[cfg(target_arch = \"x86_64\")]\n";
        for (name, text, only_x86) in &used.modules {
            out += if *only_x86 { x86 } else { "" };
            paste(&mut out, name, text);
        }
        paste(&mut out, "arena", ARENA);
        paste(&mut out, "pool", POOL);
        paste(&mut out, "support", SUPPORT);
        if self.main {
            paste(&mut out, "cli", CLI);
        }
        out + "}\n"
    }

    fn model(&self) -> TokenStream {
        let first = self.first();
        let name = &first.name;
        let fingerprint: TokenStream = format!("{:#018x}", fingerprint(self.programs))
            .parse()
            .expect("a number");
        let weights_len = Literal::usize_unsuffixed(first.weights_len);
        let (inputs, outputs) = (ports(&first.inputs), ports(&first.outputs));
        let plans = self.programs.iter().map(|program| {
            let (cfg, module) = (isa_cfg(program.isa), isa_module(program.isa));
            quote!(#cfg &self::#module::PLAN)
        });
        let (file, embedded) = match self.weights {
            Weights::File => (None, quote!(None)),
            Weights::Embed(file) => (
                Some(quote! {
                    static WEIGHTS: &self::support::Aligned<[u8]> =
                        &self::support::Aligned(*include_bytes!(#file));
                }),
                quote!(Some(WEIGHTS)),
            ),
        };
        quote! {
            pub static MODEL: self::support::Model = self::support::Model {
                name: #name,
                version: #VERSION,
                fingerprint: #fingerprint,
                weights_len: #weights_len,
                inputs: #inputs,
                outputs: #outputs,
                plans: &[#(#plans),*],
                embedded: #embedded,
            };
            #file
        }
    }
}

/// An input or output of the net.
struct PortRef<'a> {
    port: &'a Port,
    output: bool,
}

impl PortRef<'_> {
    fn constant(&self, name: &Ident, what: &str) -> Ident {
        let kind = if self.output { "OUTPUT" } else { "INPUT" };
        format_ident!("{kind}_{}_{what}", name.to_string().to_uppercase())
    }

    fn constants(&self, name: &Ident) -> TokenStream {
        let kind = if self.output { "Output" } else { "Input" };
        let about = format!(" {kind} {}, row-major.", port_text(self.port));
        let [name_const, shape_const, len_const] =
            ["NAME", "SHAPE", "LEN"].map(|what| self.constant(name, what));
        let text = &self.port.name;
        let rank = Literal::usize_unsuffixed(self.port.shape.len());
        let shape = shape(self.port);
        let len = Literal::usize_unsuffixed(self.port.len());
        quote! {
            #[doc = #about]
            #[allow(dead_code)]
            pub const #name_const: &str = #text;
            #[allow(dead_code)]
            pub const #shape_const: [usize; #rank] = #shape;
            #[allow(dead_code)]
            pub const #len_const: usize = #len;
        }
    }
}

/// The method `forward`, with an array for each blob.
fn forward(ports: &[(PortRef<'_>, Ident)], faults: bool) -> TokenStream {
    let params = ports.iter().map(|(port, name)| {
        let len = port.constant(name, "LEN");
        match port.output {
            true => quote!(#name: &mut [f32; #len]),
            false => quote!(#name: &[f32; #len]),
        }
    });
    let names = |output| {
        let ports = ports.iter().filter(move |(port, _)| port.output == output);
        ports.map(|(_, name)| name)
    };
    let (inputs, outputs) = (names(false), names(true));
    if faults {
        return quote! {
            /// One inference. Errors: a layer finds that its inputs make no sense, or the
            /// context was made for another net.
            #[allow(clippy::too_many_arguments)]
            pub fn forward(&self, context: &mut Context, #(#params),*) -> Result<(), Error> {
                self.0.forward(context, &[#(&#inputs[..]),*], &mut [#(&mut #outputs[..]),*])
            }
        };
    }
    quote! {
        /// One inference.
        ///
        /// # Panics
        /// If the context was made for another net.
        #[allow(clippy::too_many_arguments)]
        pub fn forward(&self, context: &mut Context, #(#params),*) {
            self.0
                .forward(context, &[#(&#inputs[..]),*], &mut [#(&mut #outputs[..]),*])
                .expect("blobs have the net's shapes")
        }
    }
}

fn ports(ports: &[Port]) -> TokenStream {
    let ports = ports.iter().map(|port| {
        let (name, shape) = (&port.name, shape(port));
        let count = match port.count {
            None => quote!(None),
            Some(Count { axis, output }) => {
                let [axis, output] = [axis, output].map(Literal::usize_unsuffixed);
                quote!(Some((#axis, #output)))
            }
        };
        quote!(self::support::Port { name: #name, shape: &#shape, count: #count })
    });
    quote!(&[#(#ports),*])
}

fn shape(port: &Port) -> TokenStream {
    let dims = port.shape.iter().map(|&d| Literal::usize_unsuffixed(d));
    quote!([#(#dims),*])
}

/// `data: 1 x 3 x 224 x 224`.
fn port_text(port: &Port) -> String {
    let dims: Vec<_> = port.shape.iter().map(usize::to_string).collect();
    let shape = match dims.is_empty() {
        true => "scalar".to_string(),
        false => dims.join(" x "),
    };
    let most = match port.count {
        None => String::new(),
        Some(count) => format!(
            "; along axis {} the first so many count as output {} says",
            count.axis, count.output
        ),
    };
    format!("`{}`: f32, {shape}{most}", comment(&port.name))
}

fn isa_module(isa: Isa) -> Ident {
    match isa {
        Isa::Portable => format_ident!("portable"),
        Isa::Avx2 => format_ident!("avx2"),
        Isa::Avx512 => format_ident!("avx512"),
    }
}

fn isa_cfg(isa: Isa) -> TokenStream {
    match isa {
        Isa::Portable => quote!(),
        Isa::Avx2 | Isa::Avx512 => quote!(#[cfg(target_arch = "x86_64")]),
    }
}

/// The items as text.
fn pretty(items: TokenStream) -> String {
    let mut file: syn::File = syn::parse2(items).expect("printed items are Rust");
    let mut out = String::new();
    for item in std::mem::take(&mut file.items) {
        file.items = vec![item];
        let item = prettyplease::unparse(&file);
        // What has a comment starts a paragraph.
        if !out.is_empty() && item.starts_with("///") {
            out.push('\n');
        }
        out += &item;
    }
    out
}

/// Appends `text` as a module, without its tests.
fn paste(out: &mut String, name: &str, text: &str) {
    let text = pasted(text);
    let _ = write!(out, "\npub mod {name} {{\n{}\n}}\n", text.trim_end());
}

/// Routines that come from outside: from the module that holds the whole file's.
fn print_supplied(used: &Used) -> String {
    if used.supplied.is_empty() {
        return String::new();
    }
    let names: Vec<_> = used.supplied.iter().copied().collect();
    let names = names.join(", ");
    format!("\npub mod supplied {{\npub(super) use super::super::super::{{{names}}};\n}}\n")
}

fn print_tables(used: &Used) -> String {
    const LINE: usize = 100;
    let mut tables: Vec<_> = used.tables.iter().collect();
    tables.sort_by_key(|&(_, &number)| number);
    let mut out = String::new();
    for (table, &number) in tables {
        let _ = write!(
            out,
            "\nstatic {}: [i32; {}] = [",
            table_name(number),
            table.len()
        );
        let mut column = LINE;
        for value in table {
            let value = format!("{value},");
            column += 1 + value.len();
            if column > LINE {
                out += "\n   ";
                column = 4 + value.len();
            }
            out.push(' ');
            out += &value;
        }
        out += "\n];\n";
    }
    out
}

/// Tells the programs from all others, and so a weights file that belongs to them from
/// those that do not.
pub fn fingerprint(programs: &[&Checked]) -> u64 {
    let mut hash = Hash(Sha256::new());
    write!(hash, "{VERSION}").expect("hashing does not fail");
    for program in programs {
        write!(hash, "{:?}", ***program).expect("hashing does not fail");
    }
    let digest = hash.0.finalize();
    u64::from_be_bytes(std::array::from_fn(|i| digest[i]))
}

struct Hash(Sha256);

impl std::fmt::Write for Hash {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        self.0.update(text.as_bytes());
        Ok(())
    }
}

/// Writes the weights file for the source of `programs`.
pub fn write_weights(
    out: &mut impl Write,
    programs: &[&Checked],
    weights: &[f32],
) -> io::Result<()> {
    assert!(programs.iter().all(|p| p.weights_len == weights.len()));
    out.write_all(&support::weights_header(fingerprint(programs), weights))?;
    const CHUNK: usize = 1 << 14;
    let mut bytes = Vec::with_capacity(4 * CHUNK);
    for chunk in weights.chunks(CHUNK) {
        bytes.clear();
        bytes.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
        out.write_all(&bytes)?;
    }
    Ok(())
}
