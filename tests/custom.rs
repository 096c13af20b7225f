//! Layer types of a library's user, on all engines: shape rule and routine, state,
//! data-dependent extents, pieces.

mod common;

use caffec::diag::Result;
use caffec::frontend::proto::LayerParameter;
use caffec::ir::{self, ParamSpec, Shape, Tensor};
use caffec::kernel::Count;
use caffec::layers::{Cx, Layer, Registry};
use caffec::leaf::routine::{Call, Routine};
use caffec::runtime::exec::{Engine, Executable};
use common::{isas, parse, plan, run, shown_of};

/// Per image, the rows of the bottom whose first element is above 0.
#[derive(Debug)]
struct Positive;

const POSITIVE: Routine = Routine {
    name: "positive",
    run: |bottoms, tops, sizes, _| {
        let mut count = 0;
        tops[0].fill(0.0);
        for row in bottoms[0].chunks(sizes[0]).filter(|row| row[0] > 0.0) {
            tops[0][count * sizes[0]..][..sizes[0]].copy_from_slice(row);
            count += 1;
        }
        tops[1][0] = count as f32;
    },
    modules: &[(
        "positive",
        "pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], _: &[f32]) {
            let mut count = 0;
            tops[0].fill(0.0);
            for row in bottoms[0].chunks(sizes[0]).filter(|row| row[0] > 0.0) {
                tops[0][count * sizes[0]..][..sizes[0]].copy_from_slice(row);
                count += 1;
            }
            tops[1][0] = count as f32;
        }",
    )],
};

impl Layer for Positive {
    fn from_param(_: &LayerParameter, cx: &Cx) -> Result<Self> {
        cx.counts(1..=1, 1..=1)?;
        Ok(Positive)
    }

    fn infer(&self, bottoms: &[Shape], _: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn counted(&self) -> Option<usize> {
        Some(0)
    }

    fn routine(&self, bottoms: &[Shape], _: &[Shape]) -> Option<Call> {
        let row = bottoms[0].count_of(1..bottoms[0].len());
        Some(Call::new(POSITIVE, vec![row], vec![]))
    }
}

/// Adds a weight per channel, and all that it has seen before.
#[derive(Debug)]
struct RunningSum;

fn running_sum(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
    let [top, sum] = tops else { unreachable!() };
    for (i, &x) in bottoms[0].iter().enumerate() {
        sum[i] += x * values[0];
        top[i] = sum[i] + bottoms[1][i / sizes[0] % bottoms[1].len()];
    }
}

impl Layer for RunningSum {
    fn from_param(_: &LayerParameter, _: &Cx) -> Result<Self> {
        Ok(RunningSum)
    }

    fn infer(&self, bottoms: &[Shape], _: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn params(&self, bottoms: &[Shape]) -> Result<Vec<ParamSpec>> {
        Ok(vec![ParamSpec {
            shape: Shape::new([bottoms[0][1]])?,
            filler: Default::default(),
        }])
    }

    fn state(&self, bottoms: &[Shape]) -> Vec<Shape> {
        vec![bottoms[0].clone()]
    }

    fn routine(&self, bottoms: &[Shape], _: &[Shape]) -> Option<Call> {
        let routine = Routine {
            name: "running_sum",
            run: running_sum,
            modules: &[],
        };
        let inner = bottoms[0].count_of(2..bottoms[0].len());
        let call = Call::new(routine, vec![inner], vec![2.0]);
        Some(call.cut(bottoms[0][0]))
    }
}

const NET: &str = r#"
    layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 dim: 2 dim: 2 } } }
    layer { name: "sum" type: "RunningSum" bottom: "x" top: "sum" }
    layer { name: "relu" type: "ReLU" bottom: "sum" top: "relu" relu_param { negative_slope: 0.5 } }
    layer { name: "conv" type: "Convolution" bottom: "relu" top: "conv"
        convolution_param { num_output: 5 kernel_size: 2 weight_filler { type: "constant" value: 1 } } }
    layer { name: "positive" type: "Positive" bottom: "conv" top: "rows" }
    layer { name: "double" type: "Power" bottom: "rows" top: "double" power_param { scale: 2 } }
"#;

fn options() -> ir::Options {
    let mut registry = Registry::default();
    registry.register::<Positive>("Positive");
    registry.register::<RunningSum>("RunningSum");
    ir::Options {
        registry,
        blobs: vec!["sum".into()],
        ..ir::Options::default()
    }
}

fn input() -> Tensor {
    let sign = |i: usize| [1.0, -1.0][i / 12 % 2];
    let data = (0..48).map(|i| sign(i) * (i % 12) as f32).collect();
    Tensor::new(Shape::new([4, 3, 2, 2]).unwrap(), data)
}

#[test]
fn runs_on_all_engines_and_keeps_its_state() {
    let graph = common::graph(&parse("net", NET), &options());
    let input = [input()];
    let mut state = ir::reference::State::default();
    let mut forward = || ir::reference::run_on(&graph, &mut state, &input, &graph.outputs).unwrap();
    let want = [forward(), forward()];
    let shown = graph.shown().of(&want[0]);
    assert_eq!(
        shown[0].shape.to_vec(),
        [2, 5, 1, 1],
        "two of four images are positive"
    );
    // The second time there is twice as much of it.
    let sum = |turn: usize| want[turn][1].data[1];
    assert_eq!(sum(1) - sum(0), 2.0);
    for isa in isas() {
        for setting in common::SETTINGS {
            let plan = plan(&graph, isa, setting);
            let count = Some(Count { axis: 0, output: 2 });
            assert_eq!(plan.program.outputs[0].count, count);
            for engine in [Engine::Jit, Engine::Interpreter] {
                let weights = plan.pack().unwrap();
                let exe = Executable::new(plan.program.clone(), weights, engine).unwrap();
                for threads in [1, 2] {
                    let mut context = exe.context(threads).unwrap();
                    for want in &want {
                        let mut got: Vec<_> =
                            want.iter().map(|t| vec![7.0; t.data.len()]).collect();
                        let mut slices: Vec<&mut [f32]> =
                            got.iter_mut().map(|v| &mut v[..]).collect();
                        exe.run(&mut context, &[&input[0].data], &mut slices)
                            .unwrap();
                        for (got, want) in got.iter().zip(want) {
                            common::assert_close("custom", got, &want.data);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn emitted_source_has_the_text_or_asks_for_the_function() {
    let graph = common::graph(&parse("net", NET), &options());
    let (isa, setting) = (isas()[0], common::SETTINGS[2]);
    let plan = plan(&graph, isa, setting);
    let weights = plan.pack().unwrap();
    let emitted = common::harness::Emitted::new(&[&plan.program], &weights, true, false);
    emitted.write(
        "main.rs",
        "mod net;
        fn running_sum(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
            for (i, &x) in bottoms[0].iter().enumerate() {
                tops[1][i] += x * values[0];
                tops[0][i] = tops[1][i] + bottoms[1][i / sizes[0] % bottoms[1].len()];
            }
        }
        fn main() {
            let net = net::Net::embedded().unwrap();
            let mut context = net.context(2);
            let x: Vec<f32> = (0..48)
                .map(|i| (i % 12) as f32 * if i / 12 % 2 == 0 { 1.0 } else { -1.0 })
                .collect();
            let (mut rows, mut sum, mut count) = ([0.0; 20], [0.0; 48], [0.0]);
            for _ in 0..2 {
                net.forward(&mut context, x[..].try_into().unwrap(), &mut rows, &mut sum, &mut count);
                println!(\"{} {} {}\", count[0], sum[1], rows[0]);
            }
        }",
    );
    emitted.rustc(&["-O", "--edition=2021", "-o", "net", "main.rs"]);
    let output = emitted.run(&[]);
    let got = String::from_utf8(output.stdout).unwrap();
    let exe = Executable::new(plan.program, weights, Engine::Jit).unwrap();
    let want = run(&exe, 1, &[input()]);
    let shown = shown_of(&graph, &want);
    let (first, sum) = (shown[0][0], shown[1][1]);
    let start = format!("2 {sum} {first}\n2 {} ", sum + 2.0);
    assert!(got.starts_with(&start), "{got}");
}

/// Refuses what is above its limit.
#[derive(Debug)]
struct Limit;

impl Layer for Limit {
    fn from_param(_: &LayerParameter, _: &Cx) -> Result<Self> {
        Ok(Limit)
    }

    fn infer(&self, bottoms: &[Shape], _: &Cx) -> Result<Vec<Shape>> {
        Ok(vec![bottoms[0].clone()])
    }

    fn routine(&self, _: &[Shape], _: &[Shape]) -> Option<Call> {
        let routine = Routine {
            name: "limit",
            run: |bottoms, tops, _, values| {
                tops[0].copy_from_slice(bottoms[0]);
                tops[1][0] = f32::from(u8::from(bottoms[0].iter().any(|&x| x > values[0])));
            },
            modules: &[(
                "limit",
                "pub fn run(bottoms: &[&[f32]], tops: &mut [&mut [f32]], _: &[usize], v: &[f32]) {
                    tops[0].copy_from_slice(bottoms[0]);
                    tops[1][0] = f32::from(u8::from(bottoms[0].iter().any(|&x| x > v[0])));
                }",
            )],
        };
        Some(Call::new(routine, vec![], vec![1.0]).faults(&["too much"]))
    }
}

#[test]
fn values_without_sense_end_the_run() {
    let text = r#"
        layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 1 dim: 2 } } }
        layer { name: "limit" type: "Limit" bottom: "x" top: "y" }
    "#;
    let mut registry = Registry::default();
    registry.register::<Limit>("Limit");
    let options = ir::Options {
        registry,
        ..ir::Options::default()
    };
    let graph = common::graph(&parse("net", text), &options);
    let shape = Shape::new([1, 2]).unwrap();
    let plan = plan(&graph, isas()[0], common::SETTINGS[2]);
    let emitted =
        common::harness::Emitted::new(&[&plan.program], &plan.pack().unwrap(), true, true);
    emitted.rustc(&["-O", "net.rs"]);
    for (value, fine) in [(1.0, true), (2.0, false), (0.0, true)] {
        let x = Tensor::new(shape.clone(), vec![0.5, value]);
        let reference = ir::reference::run(&graph, std::slice::from_ref(&x), &graph.outputs);
        assert_eq!(reference.is_ok(), fine);
        for engine in [Engine::Jit, Engine::Interpreter] {
            let weights = plan.pack().unwrap();
            let exe = Executable::new(plan.program.clone(), weights, engine).unwrap();
            let mut y = [0.0; 2];
            let mut context = exe.context(1).unwrap();
            let done = exe.run(&mut context, &[&x.data], &mut [&mut y]);
            let message = done.err().map(|e| e.to_string());
            assert_eq!(message.is_none(), fine, "{message:?}");
            assert!(message.is_none_or(|m| m.contains("limit") && m.contains("too much")));
        }
        emitted.write("x.raw", common::harness::bytes(&x.data));
        let output = emitted.run(&["x.raw", "y.npy"]);
        assert_eq!(output.status.success(), fine);
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(fine || error.contains("layer `limit`: too much"), "{error}");
    }
}

#[test]
fn what_needs_all_elements_is_refused_after_a_count() {
    let text = NET.replace("type: \"Power\"", "type: \"Softmax\"");
    let text = text.replace("power_param { scale: 2 }", "softmax_param { axis: 0 }");
    let built = ir::build(&parse("net", text), &options());
    let message = built.valid().expect_err("a refusal").to_string();
    assert!(
        message.contains("type Softmax after `rows`, whose number"),
        "{message}"
    );
}
