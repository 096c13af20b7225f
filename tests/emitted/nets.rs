//! Fixtures, emitted: on each instruction set and for any number of threads the same bits
//! as the JIT.

use crate::harness::{Emitted, bytes};
use caffec::diag::Sources;
use caffec::frontend::{self, State, weights};
use caffec::ir::{self, Tensor, Valid};
use caffec::leaf::Isa;
use caffec::runtime::exec::Executable;
use caffec::{Options, plan};
use std::fs;

/// The net of a fixture with stand-in weights.
fn load(fixture: &str, batch: Option<usize>) -> Valid {
    let bytes = fs::read(format!("fixtures/{fixture}.prototxt")).unwrap();
    let mut sources = Sources::default();
    let options = ir::build::Options {
        batch,
        ..Default::default()
    };
    let built = frontend::load_net(fixture, bytes, &mut sources, &State::default())
        .map(|net| ir::build::build(&net, &options))
        .and_then(|built| built.valid());
    match built {
        Ok((mut valid, _)) => {
            valid.edit("random weights", |graph| weights::random(graph, 1));
            valid
        }
        Err(errors) => panic!("{}", sources.render_all(&errors)),
    }
}

fn check(fixture: &str, batch: Option<usize>) {
    let graph = load(fixture, batch);
    let inputs: Vec<Tensor> = graph
        .inputs
        .iter()
        .map(|&blob| weights::random_input(&graph[blob].name, graph[blob].shape.clone(), 1))
        .collect();
    let plans = Isa::ALL.map(|isa| {
        let options = Options {
            isa,
            ..Options::default()
        };
        plan(graph.clone(), &options).unwrap()
    });
    let packed = plans[0].pack().unwrap();
    for other in &plans[1..] {
        assert!(packed[..] == other.pack().unwrap()[..], "weights differ");
    }
    let programs: Vec<_> = plans.iter().map(|plan| &plan.program).collect();
    let emitted = Emitted::new(&programs, &packed, false, true);
    emitted.rustc(&["-O", "net.rs"]);
    let mut args = vec!["net.weights".to_string(), "--output-dir=out".to_string()];
    for (i, (port, input)) in programs[0].inputs.iter().zip(&inputs).enumerate() {
        emitted.write(&format!("{i}.raw"), bytes(&input.data));
        args.push(format!("--input={}={i}.raw", port.name));
    }
    let inputs: Vec<&[f32]> = inputs.iter().map(|t| t.data.as_slice()).collect();
    for plan in plans.into_iter().filter(|p| p.program.isa.available()) {
        let weights = plan.pack().unwrap();
        let options = Options::default();
        let jit = Executable::new(plan.program, weights, options.engine).unwrap();
        let program = jit.program();
        let mut outputs: Vec<_> = program.outputs.iter().map(|p| vec![0.0; p.len()]).collect();
        let mut slices: Vec<_> = outputs.iter_mut().map(|o| &mut o[..]).collect();
        let mut context = jit.context(1).unwrap();
        jit.run(&mut context, &inputs, &mut slices).unwrap();
        for threads in [1, 2] {
            let mut args: Vec<_> = args.iter().map(String::as_str).collect();
            let setting = [
                format!("--isa={}", program.isa),
                format!("--threads={threads}"),
            ];
            args.extend(setting.iter().map(String::as_str));
            let output = emitted.run(&args);
            assert!(output.status.success(), "{output:?}");
            for (port, expected) in program.outputs.iter().zip(&outputs) {
                let file = format!("out/{}.npy", port.name.replace('/', "_"));
                let file = fs::read(emitted.path(&file)).unwrap();
                assert!(
                    file.ends_with(&bytes(expected)),
                    "{fixture}: {} {setting:?}",
                    port.name
                );
            }
        }
    }
}

macro_rules! fixtures {
    ($($test:ident: $fixture:literal, $batch:expr;)*) => {
        $(#[test] fn $test() { check($fixture, $batch); })*
    };
}

fixtures! {
    lenet: "lenet", Some(3);
    chain_borders: "chain_borders", None;
    two_in_two_out: "two_in_two_out", None;
    cifar10_full: "cifar10_full", Some(2);
    nin_cifar10: "nin_cifar10", Some(3);
    nin_imagenet: "nin_imagenet", None;
    alexnet: "alexnet", None;
    squeezenet: "squeezenet_v1.1", None;
    mobilenet: "mobilenet_v1", None;
    googlenet: "googlenet", None;
    resnet50: "resnet50", None;
}
