//! Prints the steps of a program as Rust functions.

use std::collections::{BTreeMap, BTreeSet};

use proc_macro2::{Literal, TokenStream};
use quote::{format_ident, quote};

use super::names::{self, Names};
use crate::kernel::{
    Addr, Affine, Arg, BinaryOp, Checked, Expr, Place, Region, RoutineCall, Step, Stmt, TableId,
    UnaryOp, Var,
};
use crate::leaf::routine::Routine;
use crate::leaf::{Isa, Leaf, Param};

/// Tables and leaf modules that the programs printed so far use.
#[derive(Default)]
pub struct Used {
    /// Tables by content, numbered in the order of their first use.
    pub tables: BTreeMap<Vec<i32>, usize>,
    /// Name, text and whether it is for x86-64 only, in the order of first use.
    pub modules: Vec<(&'static str, &'static str, bool)>,
    /// Names of the routines that the user of the source supplies.
    pub supplied: BTreeSet<&'static str>,
}

impl Used {
    fn table(&mut self, table: &[i32]) -> usize {
        let next = self.tables.len();
        *self.tables.entry(table.to_vec()).or_insert(next)
    }

    /// The leaf's path from the module that holds all modules.
    fn leaf(&mut self, leaf: Leaf, isa: Isa) -> TokenStream {
        let source = leaf.source(isa);
        self.modules(source.modules, isa != Isa::Portable);
        source.path.parse().expect("paths of leaves are Rust")
    }

    /// The routine's path from there.
    fn routine(&mut self, routine: &Routine) -> TokenStream {
        let name = format_ident!("{}", routine.name);
        if routine.modules.is_empty() {
            self.supplied.insert(routine.name);
            return quote!(supplied::#name);
        }
        self.modules(routine.modules, false);
        quote!(#name::run)
    }

    fn modules(&mut self, modules: &[(&'static str, &'static str)], x86: bool) {
        for &(name, text) in modules {
            match self.modules.iter_mut().find(|m| m.0 == name) {
                Some(module) => module.2 &= x86,
                None => self.modules.push((name, text, x86)),
            }
        }
    }
}

/// The functions of all steps of `program`, and its `PLAN`.
pub fn print_program(program: &Checked, used: &mut Used) -> TokenStream {
    let mut names = Names::default();
    let mut functions = Vec::new();
    let mut steps = Vec::new();
    for step in &program.steps {
        let name = step.layers.first().map_or("", |name| name);
        let name = format_ident!("{}", names.unique(name, "layer"));
        functions.push(Printer::new(program, used).step(step, &name));
        let regions = step.regions.iter().map(|region| {
            let tasks = Literal::u64_unsuffixed(region.task_count());
            let cost = Literal::u64_unsuffixed(region.cost);
            quote!((#tasks, #cost))
        });
        steps.push(quote!(Step { run: #name, regions: &[#(#regions),*] }));
    }
    let faults = program.faults.iter().map(|fault| {
        let place = program.buffers[fault.buffer.0 as usize].place;
        let (_, at) = place.resolve();
        let (at, layer, messages) = (Literal::usize_unsuffixed(at), &fault.layer, fault.messages);
        quote!((#at, #layer, &[#(#messages),*]))
    });
    let isa = format_ident!("{}", format!("{:?}", program.isa));
    let arena_len = Literal::usize_unsuffixed(program.arena_len);
    let scratch_len = Literal::usize_unsuffixed(program.scratch_len);
    quote! {
        // A net may have no steps.
        #[allow(unused_imports)]
        use super::support::{Isa, Memory, Plan, Step};
        pub static PLAN: Plan = Plan {
            isa: Isa::#isa,
            arena_len: #arena_len,
            scratch_len: #scratch_len,
            steps: &[#(#steps),*],
            faults: &[#(#faults),*],
        };
        #(#functions)*
    }
}

/// What the compiler may use in the functions of a program.
fn target_feature(isa: Isa) -> TokenStream {
    match isa {
        Isa::Portable => quote!(),
        Isa::Avx2 => quote!(#[target_feature(enable = "avx2,fma")]),
        Isa::Avx512 => quote! {
            #[target_feature(enable = "avx512f,avx512vl,avx512bw,avx512dq,avx2,fma")]
        },
    }
}

/// Prints one step.
struct Printer<'a> {
    program: &'a Checked,
    used: &'a mut Used,
    /// Blocks of memory that the step uses: the name of the pointer and what it is.
    blocks: BTreeMap<String, TokenStream>,
    /// Number of local variables so far.
    locals: usize,
}

impl<'a> Printer<'a> {
    fn new(program: &'a Checked, used: &'a mut Used) -> Self {
        Printer {
            program,
            used,
            blocks: BTreeMap::new(),
            locals: 0,
        }
    }

    fn step(mut self, step: &Step, name: &proc_macro2::Ident) -> TokenStream {
        let mut regions = Vec::new();
        let mut first = 0;
        for region in &step.regions {
            let last = first + region.task_count();
            if last > first {
                regions.push(self.region(region, first));
            }
            first = last;
        }
        let layers = format!(" {}", names::comment(&step.layers.join(", ")));
        let about = format!(" {}", names::comment(&step.about));
        let features = target_feature(self.program.isa);
        let blocks = self.blocks.iter().map(|(name, value)| {
            let name = format_ident!("{name}");
            quote!(let #name = #value;)
        });
        quote! {
            #[doc = #layers]
            #[doc = ""]
            #[doc = #about]
            #features
            unsafe fn #name(memory: &Memory, start: u64, end: u64) {
                #(#blocks)*
                unsafe { #(#regions)* }
            }
        }
    }

    /// The loop over those tasks of a region that are between `start` and `end`; the
    /// region's first one has the number `first`.
    fn region(&mut self, region: &Region, first: u64) -> TokenStream {
        let mut divisor = 1;
        let mut indices = Vec::new();
        for (position, &(var, extent)) in region.tasks.iter().enumerate().rev() {
            let mut index = quote!(task);
            if divisor > 1 {
                let divisor = Literal::u64_unsuffixed(divisor);
                index = quote!(#index / #divisor);
            }
            if position > 0 {
                let extent = Literal::u32_unsuffixed(extent);
                index = quote!(#index % #extent);
            }
            let index = match divisor > 1 || position > 0 {
                true => quote!((#index)),
                false => index,
            };
            let var = loop_var(var);
            indices.push(quote!(let #var = #index as isize;));
            divisor *= u64::from(extent);
        }
        let body = self.stmts(&region.body);
        let last = Literal::u64_unsuffixed(first + divisor);
        let (from, number) = match first {
            0 => (quote!(start), None),
            _ => {
                let first = Literal::u64_unsuffixed(first);
                let number = quote!(let task = task - #first;);
                (quote!(start.max(#first)), Some(number))
            }
        };
        quote! {
            for task in #from..end.min(#last) {
                #number
                #(#indices)*
                #body
            }
        }
    }

    fn stmts(&mut self, stmts: &[Stmt]) -> TokenStream {
        stmts.iter().map(|stmt| self.stmt(stmt)).collect()
    }

    fn stmt(&mut self, stmt: &Stmt) -> TokenStream {
        match stmt {
            Stmt::For { var, extent, body } => {
                let body = self.stmts(body);
                loops(&[(*var, *extent)], body)
            }
            Stmt::Map { lanes, dst, value } => self.map(*lanes, dst, value),
            Stmt::Call { leaf, args } => self.call(*leaf, args),
            Stmt::Routine(call) => self.routine(call),
        }
    }

    fn call(&mut self, leaf: Leaf, args: &[Arg]) -> TokenStream {
        let path = self.used.leaf(leaf, self.program.isa);
        let args: Vec<_> = leaf
            .params()
            .iter()
            .zip(args)
            .map(|(&(_, param), arg)| self.arg(param, arg))
            .collect();
        quote!(super::#path(#(#args),*);)
    }

    fn routine(&mut self, call: &RoutineCall) -> TokenStream {
        let path = self.used.routine(&call.routine);
        let mut piece = |(at, len): &(Addr, usize)| {
            let at = self.pointer(at);
            (at, Literal::usize_unsuffixed(*len))
        };
        let reads: Vec<_> = call.reads.iter().map(&mut piece).collect();
        let reads = reads
            .iter()
            .map(|(at, len)| quote!(std::slice::from_raw_parts(#at, #len)));
        let writes: Vec<_> = call.writes.iter().map(&mut piece).collect();
        let writes = writes
            .iter()
            .map(|(at, len)| quote!(std::slice::from_raw_parts_mut(#at, #len)));
        let sizes = call.sizes.iter().map(|&n| Literal::usize_unsuffixed(n));
        let values = call.values.iter().map(|&x| constant(x));
        quote!(super::#path(&[#(#reads),*], &mut [#(#writes),*], &[#(#sizes),*], &[#(#values),*]);)
    }

    fn arg(&mut self, param: Param, arg: &Arg) -> TokenStream {
        match arg {
            Arg::Addr(addr) => self.pointer(addr),
            Arg::Ahead(addr) => self.ahead(addr),
            Arg::Null if param == Param::Dst => quote!(std::ptr::null_mut()),
            Arg::Null => quote!(std::ptr::null()),
            Arg::Table(TableId(table)) => {
                let number = self.used.table(&self.program.tables[*table as usize]);
                let table = table_name(number);
                quote!(super::#table.as_ptr())
            }
            Arg::Len(len) => {
                let len = Literal::usize_unsuffixed(*len);
                quote!(#len)
            }
            Arg::F32(value) => constant(*value),
        }
    }

    fn map(&mut self, lanes: u32, dst: &Addr, value: &Expr) -> TokenStream {
        let mut lane = Lane::new(lanes);
        let value = self.expr(value, &mut lane);
        let dst = self.pointer(dst);
        let Lane { before, inside, .. } = lane;
        if lanes == 1 {
            return quote!({
                #(#before)*
                #(#inside)*
                *#dst = #value;
            });
        }
        let count = Literal::u32_unsuffixed(lanes);
        quote!({
            #(#before)*
            let mut lanes = [0.0f32; #count];
            for lane in 0..#count {
                #(#inside)*
                lanes[lane] = #value;
            }
            *(#dst as *mut [f32; #count]) = lanes;
        })
    }

    /// The value of `expr` in a lane.
    fn expr(&mut self, expr: &Expr, lane: &mut Lane) -> Value {
        match expr {
            Expr::Load(addr) => {
                let at = self.pointer(addr);
                let pointer = self.local("p");
                lane.before.push(quote!(let #pointer = #at;));
                Value::atom(if lane.count == 1 {
                    quote!(*#pointer)
                } else {
                    quote!(*#pointer.add(lane))
                })
            }
            Expr::Splat(addr) => {
                let at = self.pointer(addr);
                let splat = self.local("s");
                lane.before.push(quote!(let #splat = *#at;));
                Value::atom(quote!(#splat))
            }
            Expr::Const(value) => Value::atom(constant(*value)),
            Expr::Unary(op, a) => {
                let operands = [self.expr(a, lane)];
                self.node(unary(*op, &operands[0]), &operands, lane)
            }
            Expr::Binary(op, a, b) => {
                let operands = [self.expr(a, lane), self.expr(b, lane)];
                let [a, b] = &operands;
                self.node(binary(*op, a, b), &operands, lane)
            }
            Expr::Fma(a, b, c) => {
                let values = [self.expr(a, lane), self.expr(b, lane), self.expr(c, lane)];
                let [a, b, c] = &values;
                let value = fma(self.program.isa, a, b, c);
                self.node(value, &values, lane)
            }
            Expr::Less { a, b, x, y } => {
                let values = [a, b, x, y].map(|operand| self.expr(operand, lane));
                let [a, b, x, y] = &values;
                let value = Value::atom(quote!(super::support::less(#a, #b, #x, #y)));
                self.node(value, &values, lane)
            }
            Expr::Reduce {
                op,
                init,
                window,
                value,
            } => self.reduce(*op, *init, window, value, lane),
        }
    }

    /// A reduction comes before the loop over lanes: it has loops of its own.
    fn reduce(
        &mut self,
        op: BinaryOp,
        init: f32,
        window: &[(Var, u32)],
        value: &Expr,
        lane: &mut Lane,
    ) -> Value {
        let mut point = Lane::new(lane.count);
        let value = self.expr(value, &mut point);
        let Lane { before, inside, .. } = point;
        let acc = self.local("r");
        let init = constant(init);
        let count = Literal::u32_unsuffixed(lane.count);
        let (start, result, body) = if lane.count == 1 {
            let next = binary(op, &Value::atom(quote!(#acc)), &value);
            let body = quote!(#(#before)* #(#inside)* #acc = #next;);
            (quote!(#init), quote!(#acc), body)
        } else {
            let result = quote!(#acc[lane]);
            let next = binary(op, &Value::atom(result.clone()), &value);
            let body = quote! {
                #(#before)*
                for lane in 0..#count {
                    #(#inside)*
                    #result = #next;
                }
            };
            (quote!([#init; #count]), result, body)
        };
        let body = loops(window, body);
        lane.before.push(quote!(let mut #acc = #start; #body));
        Value::atom(result)
    }

    /// A value computed of `operands`; a local variable where nesting gets deep.
    fn node(&mut self, value: Value, operands: &[Value], lane: &mut Lane) -> Value {
        const MAX_DEPTH: usize = 4;
        let depth = 1 + operands.iter().map(|v| v.depth).max().unwrap_or(0);
        if depth < MAX_DEPTH {
            return Value { depth, ..value };
        }
        let local = self.local("t");
        lane.inside.push(quote!(let #local = #value;));
        Value::atom(quote!(#local))
    }

    fn local(&mut self, kind: &str) -> proc_macro2::Ident {
        let local = format_ident!("{kind}{}", self.locals);
        self.locals += 1;
        local
    }

    fn pointer(&mut self, addr: &Addr) -> TokenStream {
        let (block, offset) = self.place(addr);
        if offset == Affine::default() {
            return quote!(#block);
        }
        let offset = affine(&offset);
        quote!(#block.offset(#offset))
    }

    /// An address that may lie outside the memory.
    fn ahead(&mut self, addr: &Addr) -> TokenStream {
        let (block, offset) = self.place(addr);
        let offset = affine(&offset);
        quote!(#block.wrapping_offset(#offset))
    }

    /// The pointer to a block, and the distance from there.
    fn place(&mut self, addr: &Addr) -> (proc_macro2::Ident, Affine) {
        let place = self.program.buffers[addr.buffer.0 as usize].place;
        let (block, value, start) = match place {
            Place::Input(n) => {
                let index = Literal::usize_unsuffixed(n);
                (format!("input{n}"), quote!(memory.inputs[#index]), 0)
            }
            Place::Output(n) => {
                let index = Literal::usize_unsuffixed(n);
                (format!("output{n}"), quote!(memory.outputs[#index]), 0)
            }
            Place::Arena(at) | Place::Kept(at) => ("arena".into(), quote!(memory.arena), at),
            Place::Weights(at) => ("weights".into(), quote!(memory.weights), at),
            Place::Scratch(at) => ("scratch".into(), quote!(memory.scratch), at),
        };
        let name = format_ident!("{block}");
        self.blocks.insert(block, value);
        (name, addr.offset.clone().offset(start as i64))
    }
}

/// What is printed for the lanes of a `Map` or of a point of a window.
struct Lane {
    count: u32,
    /// Statements before the loop over lanes.
    before: Vec<TokenStream>,
    /// Statements inside, before the value.
    inside: Vec<TokenStream>,
}

impl Lane {
    fn new(count: u32) -> Self {
        Lane {
            count,
            before: Vec::new(),
            inside: Vec::new(),
        }
    }
}

/// An expression.
struct Value {
    tokens: TokenStream,
    /// Whether it needs parentheses as an operand.
    open: bool,
    /// How deeply it is nested.
    depth: usize,
}

impl Value {
    /// A literal, variable, element or call.
    fn atom(tokens: TokenStream) -> Self {
        Value {
            tokens,
            open: false,
            depth: 0,
        }
    }

    /// Something with operators.
    fn open(tokens: TokenStream) -> Self {
        Value {
            tokens,
            open: true,
            depth: 0,
        }
    }

    /// As it stands beside an operator.
    fn operand(&self) -> TokenStream {
        let tokens = &self.tokens;
        match self.open {
            false => tokens.clone(),
            true => quote!((#tokens)),
        }
    }
}

impl quote::ToTokens for Value {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        tokens.extend(self.tokens.clone());
    }
}

fn unary(op: UnaryOp, a: &Value) -> Value {
    match op {
        UnaryOp::Neg => Value::open(quote!(-(#a))),
        UnaryOp::Abs => Value::atom(quote!(f32::abs(#a))),
        UnaryOp::Sqrt => Value::atom(quote!(f32::sqrt(#a))),
    }
}

fn binary(op: BinaryOp, a: &Value, b: &Value) -> Value {
    let infix = |sign: TokenStream| {
        let (a, b) = (a.operand(), b.operand());
        Value::open(quote!(#a #sign #b))
    };
    match op {
        BinaryOp::Add => infix(quote!(+)),
        BinaryOp::Sub => infix(quote!(-)),
        BinaryOp::Mul => infix(quote!(*)),
        BinaryOp::Div => infix(quote!(/)),
        BinaryOp::Max => Value::atom(quote!(super::support::max(#a, #b))),
        BinaryOp::Min => Value::atom(quote!(super::support::min(#a, #b))),
    }
}

fn fma(isa: Isa, a: &Value, b: &Value, c: &Value) -> Value {
    match isa {
        Isa::Portable => {
            let (a, b, c) = (a.operand(), b.operand(), c.operand());
            Value::open(quote!(#a * #b + #c))
        }
        Isa::Avx2 | Isa::Avx512 => Value::atom(quote!(f32::mul_add(#a, #b, #c))),
    }
}

/// `body` in loops over `vars`, the last one innermost.
fn loops(vars: &[(Var, u32)], body: TokenStream) -> TokenStream {
    vars.iter().rev().fold(body, |body, &(var, extent)| {
        let var = loop_var(var);
        let extent = Literal::u32_unsuffixed(extent);
        quote!(for #var in 0..#extent { #body })
    })
}

fn loop_var(var: Var) -> proc_macro2::Ident {
    format_ident!("{}", var.to_string())
}

pub fn table_name(number: usize) -> proc_macro2::Ident {
    format_ident!("TABLE_{number}")
}

/// An `isize` expression.
fn affine(offset: &Affine) -> TokenStream {
    let mut sum = TokenStream::new();
    if offset.base != 0 || offset.terms.is_empty() {
        sum = integer(offset.base);
    }
    for &(var, coefficient) in &offset.terms {
        let var = loop_var(var);
        let size = integer(coefficient.abs());
        let term = match coefficient {
            1 | -1 => quote!(#var),
            _ => quote!(#size * #var),
        };
        sum = match (sum.is_empty(), coefficient < 0) {
            (true, false) => term,
            (true, true) => quote!(-(#term)),
            (false, false) => quote!(#sum + #term),
            (false, true) => quote!(#sum - #term),
        };
    }
    sum
}

fn integer(value: i64) -> TokenStream {
    let size = Literal::u64_unsuffixed(value.unsigned_abs());
    if value < 0 {
        quote!(-#size)
    } else {
        quote!(#size)
    }
}

/// An f32 constant with exactly these bits, but for those of NaN.
fn constant(value: f32) -> TokenStream {
    if value.is_nan() {
        return quote!(f32::NAN);
    }
    let size = match value.abs() {
        f32::INFINITY => quote!(f32::INFINITY),
        size => format!("{size:?}f32")
            .parse()
            .expect("a finite number is a literal"),
    };
    match value.is_sign_negative() {
        true => quote!(-#size),
        false => size,
    }
}
