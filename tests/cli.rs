//! The program from outside: what is typed, what comes out, what is left behind.

use caffec::frontend::proto::{
    BlobProto, BlobShape, LayerParameter, NetParameter, V1LayerParameter,
};
use caffec::ir::{Shape, Tensor};
use caffec::runtime::npy::{read_npy, write_npy};
use prost::Message;
use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// Two inner products and an in-place ReLU, batch 2.
const NET: &str = r#"
name: "small"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [2, 3] } } }
layer { name: "first/ip" type: "InnerProduct" bottom: "data" top: "first/ip" inner_product_param { num_output: 4 } }
layer { name: "relu" type: "ReLU" bottom: "first/ip" top: "first/ip" }
layer { name: "second" type: "InnerProduct" bottom: "first/ip" top: "second" inner_product_param { num_output: 3 } }
layer { name: "prob" type: "Softmax" bottom: "second" top: "prob" }
"#;

/// A picture net: one pixel of a colour picture passes through.
const PICTURE_NET: &str = r#"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [1, 3, 2, 2] } } }
layer { name: "double" type: "Power" bottom: "data" top: "double" power_param { scale: 2 } }
"#;

/// A folder with files, in which commands are run.
struct Place(TempDir);

impl Place {
    fn new(files: &[(&str, &str)]) -> Place {
        let place = Place(tempfile::tempdir().unwrap());
        for (name, text) in files {
            fs::write(place.path(name), text).unwrap();
        }
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn caffec(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_caffec"));
        command.current_dir(&self.0).stdin(Stdio::null());
        command.args(line.split_whitespace());
        command
    }

    fn output(&self, line: &str) -> Output {
        self.caffec(line).output().unwrap()
    }

    /// Standard output of a command that must succeed.
    fn ok(&self, line: &str) -> String {
        let out = self.output(line);
        let err = text(&out.stderr);
        assert_eq!(out.status.code(), Some(0), "{line}: {err}");
        text(&out.stdout)
    }

    /// Standard error of a command that must end with `code`, having written nothing.
    fn fails(&self, code: i32, line: &str) -> String {
        let before = self.files();
        let out = self.output(line);
        let err = text(&out.stderr);
        assert_eq!(out.status.code(), Some(code), "{line}: {err}");
        assert_eq!(self.files(), before, "{line} left files behind");
        err
    }

    fn files(&self) -> Vec<PathBuf> {
        fn walk(folder: &Path, found: &mut Vec<PathBuf>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                match path.is_dir() {
                    true => walk(&path, found),
                    false => found.push(path),
                }
            }
        }
        let mut found = Vec::new();
        walk(self.0.path(), &mut found);
        found.sort();
        found
    }

    fn tensor(&self, name: &str, dims: &[usize], value: impl Fn(usize) -> f32) {
        let shape = Shape::new(dims).unwrap();
        let data = (0..shape.count()).map(value).collect();
        write_npy(&self.path(name), &Tensor::new(shape, data)).unwrap();
    }

    fn read(&self, name: &str) -> Tensor {
        read_npy(&self.path(name)).unwrap()
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn small() -> Place {
    let place = Place::new(&[("net.prototxt", NET)]);
    place.tensor("x.npy", &[2, 3], |i| i as f32 - 2.5);
    place
}

#[test]
fn wrong_usage_is_2_and_help_is_0() {
    let place = small();
    assert!(place.ok("--help").contains("caffec compile NET -o FILE"));
    assert!(place.ok("run -h").contains("--output-dir"));
    assert!(place.ok("--version").starts_with("caffec "));
    place.fails(2, "");
    assert!(place.fails(2, "sumary net.prototxt").contains("'summary'"));
    place.fails(2, "net.prototxt");
    place.fails(2, "run net.prototxt --backend gpu");
    place.fails(2, "run net.prototxt --batch 0 -i x.npy");
    place.fails(
        2,
        "run net.prototxt -i x.npy --random-weights --allow-missing-weights",
    );
    place.fails(2, "dump net.prototxt --at ir --as solver");
    let unfed = place.fails(2, "run net.prototxt");
    assert!(
        unfed.contains("the net's inputs are: `data` (2×3)"),
        "{unfed}"
    );
    let scale = place.fails(2, "run net.prototxt -i x.npy --scale 2");
    assert!(scale.contains("--scale is for pictures"), "{scale}");
    let isa = place.fails(2, "bench net.prototxt -i x.npy --threads 1,2");
    assert!(isa.contains("one setting"), "{isa}");
}

#[test]
fn unknown_fields_are_left_out_if_allowed() {
    let net = NET.replace("type: \"ReLU\"", "type: \"ReLU\" warp_param { speed: 9 }");
    let place = Place::new(&[("net.prototxt", &net)]);
    let refused = place.fails(1, "check net.prototxt");
    assert!(refused.contains("error: layer `relu`: LayerParameter has no field"));
    for line in [
        "check net.prototxt",
        "upgrade net.prototxt",
        "summary net.prototxt",
    ] {
        let out = place.output(&format!("{line} --allow-unknown"));
        assert_eq!(out.status.code(), Some(0), "{line}");
        let note = "note: layer `relu`: LayerParameter has no field `warp_param`: left out";
        assert!(text(&out.stderr).contains(note), "{line}");
    }
}

#[test]
fn dialects_are_known_by_name() {
    let place = small();
    place.ok("summary net.prototxt --dialect segnet");
    let wrong = place.fails(2, "summary net.prototxt --dialect sget");
    assert!(wrong.contains("'segnet'"), "{wrong}");
}

#[test]
fn missing_files_are_named() {
    let place = small();
    assert!(
        place
            .fails(1, "summary none.prototxt")
            .contains("none.prototxt: No such file")
    );
    assert!(
        place
            .fails(1, "run net.prototxt -i none.npy")
            .contains("none.npy: No such file")
    );
    let weights = place.fails(1, "run net.prototxt -i x.npy -w none.caffemodel");
    assert!(weights.contains("none.caffemodel"), "{weights}");
    assert!(place.fails(1, "summary .").contains(": .: "));
}

/// Each `tests/errors/*.prototxt` gives exactly the message of the `.txt` beside it.
/// With `CAFFEC_BLESS=1` the messages are written anew.
#[test]
fn error_messages() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/errors");
    let mut cases = 0;
    for entry in fs::read_dir(&folder).unwrap() {
        let file = entry.unwrap().path();
        if file.extension().is_none_or(|e| e != "prototxt") {
            continue;
        }
        let name = file.file_name().unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_caffec"));
        let out = command
            .current_dir(&folder)
            .arg("check")
            .arg(name)
            .output()
            .unwrap();
        assert_eq!(out.status.code(), Some(1), "{name:?}");
        assert!(out.stdout.is_empty());
        let golden = file.with_extension("txt");
        if std::env::var_os("CAFFEC_BLESS").is_some() {
            fs::write(&golden, &out.stderr).unwrap();
        }
        let want = fs::read_to_string(&golden).unwrap();
        assert_eq!(text(&out.stderr), want, "{name:?}");
        cases += 1;
    }
    assert!(cases >= 14, "only {cases} cases in {}", folder.display());
}

#[test]
fn compiling_writes_two_files_and_the_same_every_time() {
    let place = small();
    place.ok("net.prototxt -o a.rs --main");
    place.ok("compile net.prototxt -o b.rs --main");
    let read = |name: &str| fs::read(place.path(name)).unwrap();
    assert_eq!(read("a.weights"), read("b.weights"));
    let source = text(&read("a.rs"));
    assert_eq!(source, text(&read("b.rs")));
    assert!(source.contains("`small`") && source.contains("net.prototxt: SHA-256"));
    place.ok("net.prototxt -o c.rs --random-weights=2");
    assert_ne!(read("a.weights"), read("c.weights"));
}

#[test]
fn a_failed_compile_leaves_what_was_there() {
    let place = small();
    fs::write(place.path("out.rs"), "old").unwrap();
    fs::write(place.path("bad.prototxt"), "layer { type: 'Nothing' }").unwrap();
    place.fails(1, "bad.prototxt -o out.rs");
    place.fails(1, "net.prototxt -o missing/out.rs");
    place.fails(2, "net.prototxt -o out.weights");
    fs::copy(place.path("net.prototxt"), place.path("in.weights")).unwrap();
    place.fails(2, "net.prototxt -o net.prototxt");
    place.fails(2, "net.prototxt -w in.weights -o in.rs");
    place.fails(2, "in.weights -o in.rs");
    fs::create_dir(place.path("out.weights")).unwrap();
    place.fails(1, "net.prototxt -o out.rs");
    assert_eq!(fs::read_to_string(place.path("out.rs")).unwrap(), "old");
}

#[test]
fn every_backend_gives_the_same() {
    let place = small();
    for (backend, folder) in [("jit", "j"), ("interp", "i"), ("reference", "r")] {
        let line = format!(
            "run net.prototxt -i x.npy --backend {backend} --output-dir {folder} --blob first/ip"
        );
        place.ok(&line);
        for (name, dims) in [("prob", [2, 3]), ("first_ip", [2, 4])] {
            let got = place.read(&format!("{folder}/{name}.npy"));
            let want = place.read(&format!("j/{name}.npy"));
            assert_eq!(got.shape.dims(), dims);
            let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
            assert!(
                got.data.iter().zip(&want.data).all(near),
                "{backend} {name}"
            );
        }
    }
    // The blob is as Caffe holds it in the end: after the ReLU.
    assert!(place.read("j/first_ip.npy").data.iter().all(|&v| v >= 0.0));
    assert_eq!(place.read("j/prob.npy"), {
        place.ok(
            "run net.prototxt -i data=x.npy --no-fuse --threads 2 --output-dir u --isa portable",
        );
        place.ok("run net.prototxt -i data=x.npy --threads 3 --output-dir t");
        place.read("t/prob.npy")
    });
}

#[test]
fn shapes_of_inputs() {
    let place = small();
    place.tensor("five.npy", &[5, 3], |i| i as f32);
    let differs = place.fails(1, "run net.prototxt -i five.npy");
    assert!(
        differs.contains("five.npy") && differs.contains("input `data` is 2×3"),
        "{differs}"
    );
    place.ok("run net.prototxt -i five.npy --reshape --output-dir reshaped");
    assert_eq!(place.read("reshaped/prob.npy").shape.dims(), [5, 3]);
    place.ok("run net.prototxt -i five.npy --batch 5 --output-dir batch");
    assert_eq!(
        place.read("batch/prob.npy"),
        place.read("reshaped/prob.npy")
    );
    place.ok("run net.prototxt -i five.npy --shape data=5x3 --output-dir shape");
    assert_eq!(place.read("shape/prob.npy"), place.read("batch/prob.npy"));
    let unknown = place.fails(1, "run net.prototxt -i date=x.npy");
    assert!(unknown.contains("did you mean `data`?"), "{unknown}");
    let blob = place.fails(1, "run net.prototxt -i x.npy --blob secnd");
    assert!(blob.contains("did you mean `second`?"), "{blob}");
}

#[test]
fn inputs_with_values_of_their_own_need_no_file() {
    let net = r#"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [1, 2] } } }
layer { name: "dummy" type: "DummyData" top: "c" dummy_data_param { shape { dim: [1, 2] } data_filler { value: 3 } } }
layer { name: "sum" type: "Eltwise" bottom: "data" bottom: "c" top: "sum" }
"#;
    let place = Place::new(&[("net.prototxt", net)]);
    place.tensor("x.npy", &[1, 2], |i| i as f32);
    place.ok("run net.prototxt -i x.npy --output-dir own");
    assert_eq!(place.read("own/sum.npy").data, [3.0, 4.0]);
    place.ok("run net.prototxt -i data=x.npy -i c=x.npy --output-dir fed");
    assert_eq!(place.read("fed/sum.npy").data, [0.0, 2.0]);
}

#[test]
fn random_fillers_feed_the_same_values_in_every_run() {
    let net = r#"
layer { name: "dummy" type: "DummyData" top: "c"
  dummy_data_param { shape { dim: [100, 10] } data_filler { type: "uniform" min: 2 max: 3 } } }
layer { name: "twice" type: "Power" bottom: "c" top: "twice" power_param { scale: 2 } }
"#;
    let place = Place::new(&[("net.prototxt", net)]);
    place.ok("run net.prototxt --output-dir one");
    place.ok("run net.prototxt --output-dir two");
    let one = place.read("one/twice.npy");
    assert_eq!(one, place.read("two/twice.npy"));
    assert!(one.data.iter().all(|v| (4.0..6.0).contains(v)));
    assert!(one.data[0] != one.data[1]);
    place.ok("run net.prototxt --batch 1 --output-dir batch");
    assert_eq!(place.read("batch/twice.npy").data, one.data[..10]);
    place.tensor("x.npy", &[100, 10], |i| i as f32);
    place.ok("run net.prototxt -i x.npy --output-dir fed");
    assert_eq!(place.read("fed/twice.npy").data[..3], [0.0, 2.0, 4.0]);
    let wrong = net.replace("type: \"uniform\"", "type: \"uniform\" sparse: 3");
    let place = Place::new(&[("net.prototxt", &wrong)]);
    let message = place.fails(1, "check net.prototxt");
    assert!(message.contains("net.prototxt:3:47"), "{message}");
    assert!(
        message.contains("filler `uniform` knows no `sparse`"),
        "{message}"
    );
}

#[test]
fn two_blobs_of_one_file_name_are_refused() {
    let net = NET.replace("\"second\"", "\"first_ip\"");
    let place = Place::new(&[("net.prototxt", &net)]);
    place.tensor("x.npy", &[2, 3], |i| i as f32);
    let line = "run net.prototxt -i x.npy --output-dir out --blob first/ip --blob first_ip";
    let message = place.fails(1, line);
    assert!(
        message.contains("would both be written to first_ip.npy"),
        "{message}"
    );
    assert!(!place.path("out").exists());
}

/// A caffemodel with the given blobs of `layer`.
fn weights(layer: &str, blobs: &[(&[i64], Vec<f32>)]) -> Vec<u8> {
    let blob = |(shape, data): &(&[i64], Vec<f32>)| BlobProto {
        shape: Some(BlobShape {
            dim: shape.to_vec(),
        }),
        data: data.clone(),
        ..Default::default()
    };
    let layer = LayerParameter {
        name: Some(layer.into()),
        blobs: blobs.iter().map(blob).collect(),
        ..Default::default()
    };
    let net = NetParameter {
        layer: vec![layer],
        ..Default::default()
    };
    net.encode_to_vec()
}

#[test]
fn the_matrix_of_an_infogain_loss_comes_from_its_file() {
    let net = r#"
layer { name: "x" type: "Input" top: "x" top: "y" input_param { shape { dim: [1, 2] } shape { dim: [1, 1] } } }
layer { name: "loss" type: "InfogainLoss" bottom: "x" bottom: "y" top: "loss"
  infogain_loss_param { source: "h.binaryproto" } }
"#;
    let place = Place::new(&[("net.prototxt", net)]);
    place.tensor("x.npy", &[1, 2], |_| 0.0);
    place.tensor("y.npy", &[1, 1], |_| 1.0);
    let run = "run net.prototxt -i x=x.npy -i y=y.npy --output-dir out";
    let gone = place.fails(1, run);
    let at = "net.prototxt:4:25: error: layer `loss`: the matrix `h.binaryproto` is not there";
    assert!(gone.contains(at), "{gone}");
    fs::write(place.path("h.binaryproto"), "no array").unwrap();
    let bad = place.fails(1, run);
    assert!(
        bad.contains("net.prototxt:4:25: error: layer `loss`: "),
        "{bad}"
    );
    let matrix = BlobProto {
        data: vec![0.0, 0.0, 1.0, 2.0],
        shape: Some(BlobShape {
            dim: vec![1, 1, 2, 2],
        }),
        ..BlobProto::default()
    };
    fs::write(place.path("h.binaryproto"), matrix.encode_to_vec()).unwrap();
    let three = net.replace("[1, 2]", "[1, 3]");
    fs::write(place.path("three.prototxt"), three).unwrap();
    let small = place.fails(1, "check three.prototxt");
    assert!(small.contains("must be 3×3, it is of 4 values"), "{small}");
    place.ok(run);
    let loss = place.read("out/loss.npy").data[0];
    assert!((loss - 3.0 * 2f32.ln()).abs() < 1e-6, "{loss}");
}

#[test]
fn weights_must_fit() {
    let place = small();
    let first = weights(
        "first/ip",
        &[(&[4, 3], vec![1.0; 12]), (&[4], vec![0.5; 4])],
    );
    fs::write(place.path("first.caffemodel"), first).unwrap();
    let missing = place.fails(1, "run net.prototxt -i x.npy -w first.caffemodel");
    assert!(
        missing.contains("no weights for 1 layer: `second`"),
        "{missing}"
    );
    place.ok("run net.prototxt -i x.npy -w first.caffemodel --allow-missing-weights --output-dir out --blob first/ip");
    let got = place.read("out/first_ip.npy").data;
    // Rows sum to −4.5 and 4.5; the bias is 0.5; the filler of `second` is 0.
    assert_eq!(got, [0.0, 0.0, 0.0, 0.0, 5.0, 5.0, 5.0, 5.0]);
    assert_eq!(place.read("out/prob.npy").data, [1.0 / 3.0; 6]);
    let turned = weights("second", &[(&[4, 3], vec![1.0; 12]), (&[3], vec![0.0; 3])]);
    fs::write(place.path("bad.caffemodel"), turned).unwrap();
    let shape = place.fails(
        1,
        "run net.prototxt -i x.npy -w bad.caffemodel --allow-missing-weights",
    );
    assert!(
        shape.starts_with("net.prototxt:6:1: error: layer `second`: bad.caffemodel: weight blob 0"),
        "{shape}"
    );
    fs::write(place.path("page.caffemodel"), "<!DOCTYPE html><p>not found").unwrap();
    assert!(
        place
            .fails(1, "net.prototxt -w page.caffemodel -o a.rs")
            .contains("HTML page")
    );
}

#[test]
fn pictures_with_mean_labels_and_top() {
    let place = Place::new(&[("net.prototxt", PICTURE_NET), ("labels.txt", "a\nb\nc\n")]);
    let picture = image::RgbImage::from_fn(4, 4, |x, y| image::Rgb([x as u8, y as u8, 9]));
    picture.save(place.path("p.png")).unwrap();
    // Stretched to 2×2, blue first: 9; columns 0.5 and 2.5 in red.
    place.ok("run net.prototxt -i p.png --mean 1,2,0 --scale 10 --output-dir out");
    let got = place.read("out/double.npy").data;
    assert_eq!(got[..4], [160.0; 4]);
    assert_eq!(got[8..], [10.0, 50.0, 10.0, 50.0]);
    let shown = place.ok("run net.prototxt -i p.png --labels labels.txt --top 2");
    assert!(
        shown.starts_with("double  1×3×2×2  min 1  max 18"),
        "{shown}"
    );
    assert!(shown.contains("  18.000000      0  a\n"), "{shown}");
    let answer = json(&place.ok("run net.prototxt -i p.png --top 1 --labels labels.txt --json"));
    assert_eq!(answer["outputs"]["double"]["top"][0][0]["label"], "a");
    place.ok("run net.prototxt -i p.png --reshape --resize 3x5 --output-dir big");
    assert_eq!(place.read("big/double.npy").shape.dims(), [1, 3, 3, 5]);
    let crop = place.fails(1, "run net.prototxt -i p.png --crop 5");
    assert!(
        crop.contains("p.png: cannot cut 5×5 pixels out of a picture of 4×4"),
        "{crop}"
    );
    fs::write(
        place.path("broken.png"),
        &fs::read(place.path("p.png")).unwrap()[..40],
    )
    .unwrap();
    assert!(
        place
            .fails(1, "run net.prototxt -i broken.png")
            .contains("broken.png: not a usable picture")
    );
}

/// What a data layer says of pictures holds where options do not.
#[test]
fn pictures_are_transformed_as_the_data_layer_says() {
    let net = "layer { name: 'data' type: 'ImageData' top: 'data' top: 'label'
          image_data_param { source: 'x' batch_size: 1 new_height: 4 new_width: 4 }
          transform_param { crop_size: 2 scale: 0.5 mirror: true MEAN } }
        layer { name: 'same' type: 'Power' bottom: 'data' top: 'same' }";
    let place = Place::new(&[
        (
            "values.prototxt",
            &net.replace("MEAN", "mean_value: [1, 2, 3]"),
        ),
        (
            "lost.prototxt",
            &net.replace("MEAN", "mean_file: 'examples/mean.npy'"),
        ),
    ]);
    fs::create_dir(place.path("nets")).unwrap();
    fs::copy(
        place.path("lost.prototxt"),
        place.path("nets/file.prototxt"),
    )
    .unwrap();
    let picture = image::RgbImage::from_fn(4, 4, |x, y| image::Rgb([x as u8, y as u8, 9]));
    picture.save(place.path("p.png")).unwrap();
    // Centre: rows and columns 1 and 2; blue 9 − 1, green y − 2, red x − 3, all halved.
    place.ok("run values.prototxt -i data=p.png --output-dir out");
    let want = [
        4.0, 4.0, 4.0, 4.0, -0.5, -0.5, 0.0, 0.0, -1.0, -0.5, -1.0, -0.5,
    ];
    assert_eq!(place.read("out/same.npy").data, want);
    place.ok("run values.prototxt -i data=p.png --mirror --mean 0 --scale 1 --output-dir own");
    assert_eq!(place.read("own/same.npy").data[8..], [2.0, 1.0, 2.0, 1.0]);
    let lost = place.fails(1, "run lost.prototxt -i data=p.png");
    assert!(
        lost.starts_with("lost.prototxt:3:") && lost.contains("`examples/mean.npy` is not there"),
        "{lost}"
    );
    place.ok("run lost.prototxt -i data=p.png --mean 0 --output-dir none");
    fs::create_dir(place.path("examples")).unwrap();
    place.tensor("examples/mean.npy", &[3, 4, 4], |i| {
        if i / 16 == 2 { (i % 4) as f32 } else { 0.0 }
    });
    // The mean is cut like the picture, so that red vanishes.
    place.ok("run nets/file.prototxt -i data=p.png --output-dir mean");
    assert_eq!(place.read("mean/same.npy").data[8..], [0.0; 4]);
}

#[test]
fn summary_as_far_as_it_goes() {
    let place = small();
    let summary = json(&place.ok("summary net.prototxt --json"));
    assert_eq!(summary["version"], 1);
    assert_eq!(summary["blobs"]["first/ip"], serde_json::json!([2, 4]));
    assert_eq!(
        summary["params"]["second"],
        serde_json::json!([[3, 4], [3]])
    );
    assert_eq!(summary["totals"]["params"], 31);
    let memory = &summary["memory"]["fused"];
    assert!(memory["live_bytes"].as_u64() <= memory["activation_bytes"].as_u64());
    let unknown = NET.replace("\"Softmax\"", "\"Hardmax\"");
    fs::write(place.path("unknown.prototxt"), unknown).unwrap();
    let out = place.output("summary unknown.prototxt");
    assert_eq!(out.status.code(), Some(1));
    assert!(text(&out.stdout).contains("second") && text(&out.stdout).contains("prob  Hardmax  ?"));
    assert!(text(&out.stderr).contains("unsupported: layer type `Hardmax`"));
}

#[test]
fn every_stage_can_be_seen() {
    let place = small();
    for (stage, word) in [
        ("proto", "type: \"InnerProduct\""),
        ("ir", "n1 [relu] ReLU"),
        ("fused", "[first/ip, relu] InnerProduct"),
        ("kernel", "program `small`"),
        ("clif", "function u0:0"),
        ("rust", "pub struct Net"),
    ] {
        let shown = place.ok(&format!("dump net.prototxt --at {stage}"));
        assert!(shown.contains(word), "{stage}: {shown}");
    }
    fs::write(place.path("solver.prototxt"), "net: 'x' base_lr: 1").unwrap();
    assert_eq!(
        place.ok("dump solver.prototxt --at proto"),
        "base_lr: 1\nnet: \"x\"\n"
    );
}

#[test]
fn old_nets_are_upgraded() {
    let place = Place::new(&[(
        "old.prototxt",
        "input: 'data' input_dim: [1, 2, 3, 4] layers { name: 'r' type: RELU bottom: 'data' top: 'r' }",
    )]);
    let new = place.ok("upgrade old.prototxt");
    assert!(
        new.contains("type: \"Input\"") && new.contains("type: \"ReLU\""),
        "{new}"
    );
    place.ok("upgrade old.prototxt -o new.prototxt");
    assert_eq!(fs::read_to_string(place.path("new.prototxt")).unwrap(), new);
    place.ok("check new.prototxt");
}

/// V1 layers of a binary net become current ones, with their blobs.
#[test]
fn binary_nets_are_upgraded_with_their_blobs() {
    let place = small();
    let blob = |dim: &[i64]| BlobProto {
        shape: Some(BlobShape { dim: dim.to_vec() }),
        data: vec![0.5; dim.iter().product::<i64>() as usize],
        ..Default::default()
    };
    let layer = |name: &str, blobs| V1LayerParameter {
        name: Some(name.into()),
        r#type: Some(14), // INNER_PRODUCT
        blobs,
        ..Default::default()
    };
    let net = NetParameter {
        layers: vec![
            layer("first/ip", vec![blob(&[4, 3]), blob(&[4])]),
            layer("second", vec![blob(&[3, 4]), blob(&[3])]),
        ],
        ..Default::default()
    };
    fs::write(place.path("old.caffemodel"), net.encode_to_vec()).unwrap();
    place.ok("upgrade old.caffemodel -o new.caffemodel");
    let new = NetParameter::decode(&fs::read(place.path("new.caffemodel")).unwrap()[..]).unwrap();
    assert_eq!((new.layers.len(), new.layer.len()), (0, 2));
    assert_eq!(
        (new.layer[0].r#type(), &new.layer[0].blobs),
        ("InnerProduct", &net.layers[0].blobs)
    );
    for file in ["old", "new"] {
        place.ok(&format!(
            "run net.prototxt -i x.npy -w {file}.caffemodel --output-dir {file}"
        ));
    }
    assert_eq!(place.read("old/prob.npy"), place.read("new/prob.npy"));
    assert!(!place.ok("upgrade old.caffemodel").contains("blobs"));
    place.fails(2, "upgrade net.prototxt --as solver -o new.caffemodel");
}

#[test]
fn solvers_lead_to_their_nets() {
    let place = small();
    fs::create_dir(place.path("models")).unwrap();
    fs::create_dir(place.path("models/small")).unwrap();
    fs::copy(
        place.path("net.prototxt"),
        place.path("models/small/beside.prototxt"),
    )
    .unwrap();
    let solver = |name: &str, net: &str| {
        let text = format!("base_lr: 1\nnet: '{net}'\n");
        fs::write(place.path(name), text).unwrap();
    };
    solver("models/small/solver.prototxt", "beside.prototxt");
    solver("models/small/here.prototxt", "net.prototxt");
    solver("models/small/root.prototxt", "small/beside.prototxt");
    solver("models/small/lost.prototxt", "old/place/beside.prototxt");
    for (file, net) in [
        ("solver", "models/small/beside.prototxt"),
        ("here", "net.prototxt"),
        ("root", "models/small/beside.prototxt"),
    ] {
        let line = format!("summary models/small/{file}.prototxt");
        let out = place.output(&line);
        assert!(
            text(&out.stdout).contains("second"),
            "{}",
            text(&out.stderr)
        );
        let note =
            format!("models/small/{file}.prototxt:2:1: note: this is a solver: its net is {net}\n");
        assert_eq!(text(&out.stderr), note);
    }
    let lost = place.fails(1, "run models/small/lost.prototxt -i x.npy");
    assert!(
        lost.contains("net `old/place/beside.prototxt` is not there")
            && lost.contains("models/small/beside.prototxt is there: is it the net?"),
        "{lost}"
    );
    // The solver itself is right.
    place.ok("check models/small/lost.prototxt");
}

#[test]
fn everything_wrong_is_told() {
    let place = small();
    let two = NET
        .replace("\"Softmax\"", "\"Hardmax\"")
        .replace("num_output: 4", "num_output: 0");
    fs::write(place.path("two.prototxt"), two).unwrap();
    let told = place.fails(1, "check net.prototxt two.prototxt");
    assert!(told.starts_with("net.prototxt: right\n"), "{told}");
    assert_eq!(told.matches("two.prototxt:").count(), 2, "{told}");
    let out = place.output("check two.prototxt net.prototxt --json");
    assert_eq!(out.status.code(), Some(1));
    let answer = json(&text(&out.stdout));
    assert_eq!(
        (&answer["version"], &answer["right"]),
        (&1.into(), &false.into())
    );
    assert_eq!(answer["files"][1]["right"], true);
    let first = &answer["files"][0]["diagnostics"][0];
    assert_eq!(
        (&first["severity"], &first["layer"]),
        (&"error".into(), &"first/ip".into())
    );
    assert!(
        first["line"].is_u64() && first["column"].is_u64(),
        "{first}"
    );

    let wrong = weights("second", &[(&[4, 3], vec![1.0; 12]), (&[3], vec![0.0; 3])]);
    fs::write(place.path("wrong.caffemodel"), wrong).unwrap();
    let half = weights(
        "first/ip",
        &[(&[4, 3], vec![1.0; 12]), (&[4], vec![0.0; 4])],
    );
    fs::write(place.path("half.caffemodel"), half).unwrap();
    let other = weights("third", &[(&[1], vec![1.0])]);
    fs::write(place.path("other.caffemodel"), other).unwrap();
    let shape = place.fails(
        1,
        "check net.prototxt -w half.caffemodel -w wrong.caffemodel",
    );
    assert!(
        shape.contains("wrong.caffemodel: weight blob 0: expected shape 3×4"),
        "{shape}"
    );
    let missing = place.fails(1, "check net.prototxt -w half.caffemodel");
    assert!(
        missing.contains("no weights for 1 layer: `second`"),
        "{missing}"
    );
    let line = "check net.prototxt -w half.caffemodel -w other.caffemodel --allow-missing-weights";
    let out = place.output(line);
    assert_eq!(out.status.code(), Some(0));
    assert!(text(&out.stderr).contains("other.caffemodel: not in this net: `third`"));
    place.fails(2, "check net.prototxt two.prototxt -w half.caffemodel");
}

#[test]
fn a_shape_that_is_left_open_is_no_error() {
    let net = "layer { name: 'd' type: 'Data' top: 'd' top: 'l' data_param { source: 'x' batch_size: 4 } }
        layer { name: 'c' type: 'Convolution' bottom: 'd' top: 'c' convolution_param { kernel_size: 3 num_output: OUT } }";
    let good = net.replace("OUT", "2");
    let place = Place::new(&[
        ("good.prototxt", &good),
        ("bad.prototxt", &net.replace("OUT", "0")),
    ]);
    let out = place.output("check good.prototxt");
    let told = text(&out.stderr);
    assert_eq!(out.status.code(), Some(0), "{told}");
    assert!(
        told.contains("note: layer `d`: the file does not tell the shape of input `d`"),
        "{told}"
    );
    assert!(
        place
            .fails(1, "check bad.prototxt")
            .contains("error: layer `c`")
    );
    place.fails(1, "summary good.prototxt");
    place.ok("summary good.prototxt --shape d=4x3x9x9");
}

#[test]
fn mixed_formats_are_taken_when_asked_for() {
    let net = "input: 'd' input_dim: [1, 1, 1, 2]
        layers { name: 'p' type: POWER bottom: 'd' top: 'p' power_param { shift: 1 } }
        layer { name: 'q' type: 'Power' bottom: 'p' top: 'q' power_param { scale: 2 } }
        layers { name: 'r' type: POWER bottom: 'q' top: 'r' power_param { shift: 1 } }";
    let place = Place::new(&[("mixed.prototxt", net)]);
    place.tensor("x.npy", &[1, 1, 1, 2], |i| i as f32);
    let refused = place.fails(1, "run mixed.prototxt -i x.npy");
    assert!(refused.contains("--allow-mixed"), "{refused}");
    place.ok("run mixed.prototxt -i x.npy --allow-mixed --output-dir out");
    assert_eq!(place.read("out/r.npy").data, [3.0, 5.0]);
    place.ok("upgrade mixed.prototxt --allow-mixed -o new.prototxt");
    place.ok("run new.prototxt -i x.npy --output-dir new");
    assert_eq!(place.read("new/r.npy").data, [3.0, 5.0]);
}

#[test]
fn inner_products_become_convolutions() {
    let net = "input: 'd' input_dim: [1, 2, 3, 3]
        layer { name: 'a' type: 'InnerProduct' bottom: 'd' top: 'a' inner_product_param { num_output: 4 } }
        layer { name: 'r' type: 'ReLU' bottom: 'a' top: 'a' }
        layer { name: 'b' type: 'InnerProduct' bottom: 'a' top: 'b' inner_product_param { num_output: 3 } }";
    let place = Place::new(&[("net.prototxt", net)]);
    place.tensor("small.npy", &[1, 2, 3, 3], |i| (i % 5) as f32 - 2.0);
    place.tensor("large.npy", &[1, 2, 4, 3], |i| (i % 5) as f32 - 2.0);
    place.ok("run net.prototxt -i small.npy --random-weights --output-dir flat");
    place.ok("run net.prototxt -i small.npy --random-weights --fc-to-conv --output-dir dense");
    let (flat, dense) = (place.read("flat/b.npy"), place.read("dense/b.npy"));
    assert_eq!(dense.shape.dims(), [1, 3, 1, 1]);
    let near = |(a, b): (&f32, &f32)| (a - b).abs() < 1e-5;
    assert!(flat.data.iter().zip(&dense.data).all(near));
    place.ok(
        "run net.prototxt -i large.npy --random-weights --fc-to-conv --reshape --output-dir map",
    );
    assert_eq!(place.read("map/b.npy").shape.dims(), [1, 3, 2, 1]);
    let summary = json(&place.ok("summary net.prototxt --fc-to-conv --shape d=1x2x8x8 --json"));
    assert_eq!(summary["blobs"]["b"], serde_json::json!([1, 3, 6, 6]));
    place.ok("net.prototxt --fc-to-conv --shape d=1x2x8x8 -o net.rs");
    let trained = weights("a", &[(&[4, 18], vec![0.1; 72]), (&[4], vec![0.0; 4])]);
    fs::write(place.path("a.caffemodel"), trained).unwrap();
    let line = "run net.prototxt -i large.npy --reshape -w a.caffemodel --allow-missing-weights";
    let help = place.fails(1, line);
    assert!(help.contains("there is --fc-to-conv"), "{help}");
    place.ok(&format!("{line} --fc-to-conv"));
}

/// What is no caffemodel is said to be what it is.
#[test]
fn weights_files_of_another_kind() {
    let place = small();
    for (content, word) in [
        (&b"\x1f\x8b\x08\0"[..], "gzip"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            "git lfs pull",
        ),
        (b"<html>", "HTML page"),
        (b"layer { name: 'a' }", "-w takes the .caffemodel"),
        (b"\x89HDF\r\n\x1a\n\0", "ends too early"),
        (b"\x08\x01", "solver state"),
    ] {
        fs::write(place.path("w"), content).unwrap();
        let message = place.fails(1, "run net.prototxt -i x.npy -w w");
        assert!(message.contains(word), "{message}");
    }
    fs::write(place.path("w"), "").unwrap();
    let empty = place.fails(1, "run net.prototxt -i x.npy -w w");
    assert!(empty.contains("w: no layers, so no weights"), "{empty}");
    place.ok("run net.prototxt -i x.npy -w w --allow-missing-weights");
    let page = place.fails(1, "run w -i x.npy");
    assert!(page.contains("the net has no layers"), "{page}");
}

#[test]
fn one_setting_is_measured() {
    let place = small();
    let line = "bench net.prototxt -i data=x.npy --runs 3 --output-dir out --json";
    let answer = json(&place.ok(line));
    assert_eq!(answer["ms"].as_array().unwrap().len(), 3);
    assert_eq!(place.read("out/prob.npy").shape.dims(), [2, 3]);
}

#[test]
fn fused_against_unfused() {
    let net = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/chain_borders.prototxt");
    let place = Place::new(&[("net.prototxt", &fs::read_to_string(net).unwrap())]);
    let line = "bench net.prototxt --runs 2 --threads 1,2 --batch 1,3 --json";
    let answer = json(&place.ok(line));
    let settings = answer["settings"].as_array().unwrap();
    assert_eq!(settings.len(), 4);
    for setting in settings {
        assert!(setting["fma_peak_gflops"].as_f64().unwrap() > 0.0);
        let lines = setting["chains"].as_array().unwrap();
        assert!(!lines.is_empty());
        let parts = lines.iter().chain([&setting["other"]]);
        let macs: u64 = parts.map(|l| l["macs"].as_u64().unwrap()).sum();
        assert_eq!(macs, setting["total"]["macs"].as_u64().unwrap());
        assert_eq!(setting["total"]["fused"]["ms"].as_array().unwrap().len(), 2);
    }
    assert_eq!(settings[3]["batch"], 3);
    let table = place.ok("bench net.prototxt --runs 2");
    assert!(
        table.contains("FMA peak") && table.contains("\ntotal "),
        "{table}"
    );
}

#[test]
fn every_step_has_its_line() {
    let net = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/chain_borders.prototxt");
    let place = Place::new(&[("net.prototxt", &fs::read_to_string(net).unwrap())]);
    for setting in ["", " --no-fuse"] {
        let line = format!("bench net.prototxt --layers --runs 2 --threads 1,2 --json{setting}");
        let answer = json(&place.ok(&line));
        let settings = answer["settings"].as_array().unwrap();
        assert_eq!(settings.len(), 2);
        for setting in settings {
            assert!(setting["read_gb_per_s"].as_f64().unwrap() > 0.0);
            let (steps, total) = (setting["steps"].as_array().unwrap(), &setting["total"]);
            for figure in ["macs", "activation_bytes", "weight_bytes"] {
                let sum: u64 = steps.iter().map(|s| s[figure].as_u64().unwrap()).sum();
                assert_eq!(sum, total[figure].as_u64().unwrap(), "{figure}");
            }
            let lost =
                |s: &Value| s["median_ms"].as_f64().unwrap() - s["limit_ms"].as_f64().unwrap();
            assert!(steps.is_sorted_by(|a, b| lost(a) >= lost(b)));
        }
    }
    let table = place.ok("bench net.prototxt --layers --runs 2");
    assert!(
        table.contains("% of limit") && table.contains("convolution 3x3"),
        "{table}"
    );
    let refused = place.fails(2, "bench net.prototxt --layers --worker");
    assert!(refused.contains("cannot be used with"), "{refused}");
}

#[test]
fn the_worker_answers_line_by_line() {
    let place = small();
    let mut worker = place
        .caffec("bench net.prototxt -i x.npy --output-dir out --json --worker")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = worker.stdin.take().unwrap();
    stdin
        .write_all(b"run 2\nrun many\nhello\nrun 1\nquit\n")
        .unwrap();
    let out = worker.wait_with_output().unwrap();
    assert_eq!(out.status.code(), Some(0));
    let answers: Vec<Value> = text(&out.stdout).lines().map(json).collect();
    assert_eq!(answers[0]["ready"], true);
    assert_eq!(answers[1]["ms"].as_array().unwrap().len(), 2);
    assert!(answers[2]["error"].is_string() && answers[3]["error"].is_string());
    assert_eq!(answers[4]["ms"].as_array().unwrap().len(), 1);
    assert!(place.path("out/prob.npy").exists());
    let failed = place.output("bench none.prototxt --worker");
    assert!(
        json(&text(&failed.stdout))["error"]
            .as_str()
            .unwrap()
            .contains("none.prototxt")
    );
}

#[test]
fn a_reader_that_leaves_is_no_error() {
    let place = small();
    for line in [
        "dump net.prototxt --at rust",
        "summary net.prototxt",
        "--help",
    ] {
        let mut child = place
            .caffec(line)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let out = child.wait_with_output().unwrap();
        assert_eq!(out.status.code(), Some(0), "{line}: {}", text(&out.stderr));
    }
}

#[test]
fn nets_from_standard_input() {
    let place = small();
    let mut child = place
        .caffec("summary - --json")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(NET.as_bytes())
        .unwrap();
    let out = child.wait_with_output().unwrap();
    assert_eq!(json(&text(&out.stdout))["name"], "small");
}

/// Real files that must fail, each with one located message (where the file is text) and
/// no panic. They are in the folder that `CAFFEC_ZOO` names.
#[test]
fn wrong_files_of_the_zoo() {
    let Some(zoo) = std::env::var_os("CAFFEC_ZOO").map(PathBuf::from) else {
        eprintln!("skipped: CAFFEC_ZOO is not set");
        return;
    };
    let place = small();
    place.tensor("digit.npy", &[1, 1, 28, 28], |i| (i % 7) as f32);
    let lenet = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/lenet.prototxt");
    let mut told = 0;
    for entry in fs::read_dir(&zoo).unwrap() {
        let file = entry.unwrap().path();
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        if name.starts_with("bad.") {
            let message = place.fails(1, &format!("summary {}", file.display()));
            let first = message.lines().next().unwrap_or_default();
            let place = first.strip_prefix(&format!("{}:", file.display()));
            let place = place
                .and_then(|p| p.split_once(": error: "))
                .unwrap_or_else(|| {
                    panic!("{name} has no place: {first}");
                });
            let numbers: Vec<Result<usize, _>> = place.0.split(':').map(str::parse).collect();
            assert!(matches!(numbers[..], [Ok(_), Ok(_)]), "{first}");
            told += 1;
        }
    }
    assert!(
        told >= 12,
        "only {told} files called bad.* in {}",
        zoo.display()
    );
    for entry in fs::read_dir(zoo.join("weights/bad-weights")).unwrap() {
        let file = entry.unwrap().path();
        let line = format!(
            "run {} -i digit.npy --output-dir out -w {}",
            lenet.display(),
            file.display()
        );
        let message = place.fails(1, &line);
        assert!(message.contains(&file.display().to_string()), "{message}");
        told += 1;
    }
    eprintln!("{told} wrong files, each with its message");
}

/// `ulimit -v` is a limit on addresses that Linux keeps.
#[cfg(target_os = "linux")]
#[test]
fn refused_memory_is_a_message() {
    let huge = "layer { name: 'd' type: 'Input' top: 'd' input_param { shape { dim: [1, 1, 20000, 30000] } } }
        layer { name: 'r' type: 'ReLU' bottom: 'd' top: 'r' }";
    let place = Place::new(&[("n.prototxt", huge)]);
    for command in ["bench", "bench --runs 1", "bench --layers"] {
        let exe = env!("CARGO_BIN_EXE_caffec");
        let line = format!("ulimit -v 2000000; exec {exe} {command} n.prototxt");
        let mut shell = Command::new("sh");
        let output = shell
            .current_dir(&place.0)
            .args(["-c", &line])
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(
            told.contains("cannot get memory for 600000000 numbers"),
            "{told}"
        );
    }
}

/// A convolution for which there are several ways.
const CONVOLUTION_NET: &str = r#"
layer { name: "data" type: "Input" top: "data" input_param { shape { dim: [1, 32, 10, 10] } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" convolution_param { num_output: 32 kernel_size: 3 pad: 1 } }
"#;

#[test]
fn what_was_measured_is_kept_and_followed() {
    let place = Place::new(&[("net.prototxt", CONVOLUTION_NET)]);
    let cache = place.path("caches/t.json");
    let dump = "dump net.prototxt --at kernel";
    let tuned = format!("{dump} --tune --tune-cache caches/t.json");
    let read = || -> Value { serde_json::from_str(&fs::read_to_string(&cache).unwrap()).unwrap() };
    assert!(place.ok(dump).contains("Winograd"));
    place.ok(&tuned);
    // By hand: the direct way, which nothing is measured against any more.
    let mut kept = read();
    let machines = kept["machines"].as_object_mut().unwrap();
    for found in machines.values_mut() {
        let found = found.as_object_mut().unwrap();
        assert_eq!(found.len(), 1);
        found.values_mut().for_each(|way| *way = "direct".into());
    }
    fs::write(&cache, kept.to_string()).unwrap();
    assert!(!place.ok(&tuned).contains("Winograd"));
    assert!(place.ok(dump).contains("Winograd"));
    assert_eq!(read(), kept);
    // Something else is told about and replaced.
    fs::write(&cache, "{").unwrap();
    let out = place.output(&tuned);
    assert!(text(&out.stderr).contains("is not a tuning cache"));
    assert_eq!(out.status.code(), Some(0));
    assert_eq!(read()["version"], 1);
    assert!(
        place
            .fails(2, &format!("{dump} --tune-cache t.json"))
            .contains("--tune")
    );
}
