//! A net with a layer type that caffec does not know: `cargo run --example custom_layer`.
//!
//! The type is added to a registry with its shape rule and a routine. Compiled nets call
//! the routine; emitted source would contain the text in `modules`, or, were there none,
//! call a function of the routine's name beside the emitted module.

use caffec::diag::{Result, Sources};
use caffec::frontend::proto::LayerParameter;
use caffec::frontend::{State, load_net};
use caffec::ir::{self, Shape};
use caffec::layers::{Cx, Layer, Registry};
use caffec::leaf::routine::{Call, Routine};

const NET: &str = r#"
    name: "custom"
    layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 2 dim: 3 } } }
    layer { name: "sum" type: "PrefixSum" bottom: "data" top: "sum" }
    layer { name: "relu" type: "ReLU" bottom: "sum" top: "relu" }
"#;

/// Along the last axis, each element plus all before it.
#[derive(Debug)]
struct PrefixSum;

const CODE: &str = "
pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
    for (from, to) in bottoms[0].chunks(sizes[0]).zip(tops[0].chunks_mut(sizes[0])) {
        let mut sum = 0.0;
        for (y, x) in to.iter_mut().zip(from) {
            sum += x;
            *y = sum;
        }
    }
}
";

fn prefix_sum(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _values: &[f32]) {
    for (from, to) in bottoms[0]
        .chunks(sizes[0])
        .zip(tops[0].chunks_mut(sizes[0]))
    {
        let mut sum = 0.0;
        for (y, x) in to.iter_mut().zip(from) {
            sum += x;
            *y = sum;
        }
    }
}

impl Layer for PrefixSum {
    fn from_param(_param: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        Ok(PrefixSum)
    }

    fn infer(&self, bottoms: &[Shape], _cx: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn routine(&self, bottoms: &[Shape], _tops: &[Shape]) -> Option<Call> {
        let routine = Routine {
            name: "prefix_sum",
            run: prefix_sum,
            modules: &[("prefix_sum", CODE)],
        };
        let last = bottoms[0].last().copied().unwrap_or(1);
        Some(Call::new(routine, vec![last], vec![]))
    }
}

fn main() -> Result<()> {
    let mut registry = Registry::default();
    registry.register::<PrefixSum>("PrefixSum");
    let options = ir::Options {
        registry,
        ..ir::Options::default()
    };
    let mut sources = Sources::default();
    let net = load_net(
        "custom.prototxt",
        NET.into(),
        &mut sources,
        &State::default(),
    )?;
    let (graph, _notes) = ir::build(&net, &options).valid()?;

    let executable = caffec::compile(graph, &caffec::Options::default())?;
    let mut context = executable.context(1)?;
    let mut relu = [0.0; 6];
    let data = [1.0, 2.0, 3.0, -1.0, -2.0, 4.0];
    executable.run(&mut context, &[&data], &mut [&mut relu])?;
    assert_eq!(relu, [1.0, 3.0, 6.0, 0.0, 0.0, 1.0]);
    println!("{data:?} -> {relu:?}");
    Ok(())
}
