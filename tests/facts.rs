//! What readers of the papers know about the fixtures: sizes of maps, parameters,
//! multiply-adds, receptive fields.

mod common;

use caffec::frontend::Net;
use caffec::ir::{self, Options, Shape};
use caffec::leaf::Isa;
use caffec::lower::Chains;
use caffec::passes::Fuse;
use caffec::summary::{Row, Summary};
use std::collections::BTreeMap;
use std::path::Path;

/// A fixture's figures, for one image.
struct Facts {
    file: &'static str,
    /// Learned parameters, and the statistics that BatchNorm layers keep beside them.
    params: u64,
    statistics: u64,
    macs: u64,
    /// Blobs and their shapes without the batch.
    maps: &'static [(&'static str, &'static [usize])],
}

const FACTS: &[Facts] = &[
    Facts {
        file: "lenet",
        params: 431_080,
        statistics: 0,
        macs: 2_293_000,
        maps: &[
            ("conv1", &[20, 24, 24]),
            ("pool1", &[20, 12, 12]),
            ("conv2", &[50, 8, 8]),
            ("pool2", &[50, 4, 4]),
            ("ip1", &[500]),
            ("ip2", &[10]),
        ],
    },
    Facts {
        file: "cifar10_quick",
        params: 145_578,
        statistics: 0,
        macs: 12_354_176,
        maps: &[
            ("pool1", &[32, 16, 16]),
            ("pool2", &[32, 8, 8]),
            ("pool3", &[64, 4, 4]),
            ("ip1", &[64]),
        ],
    },
    Facts {
        file: "cifar10_full",
        params: 89_578,
        statistics: 0,
        macs: 12_298_240,
        maps: &[
            ("pool1", &[32, 16, 16]),
            ("pool2", &[32, 8, 8]),
            ("pool3", &[64, 4, 4]),
            ("ip1", &[10]),
        ],
    },
    Facts {
        file: "alexnet",
        params: 60_965_224,
        statistics: 0,
        macs: 724_406_816,
        maps: &[
            ("conv1", &[96, 55, 55]),
            ("pool1", &[96, 27, 27]),
            ("conv2", &[256, 27, 27]),
            ("pool2", &[256, 13, 13]),
            ("conv3", &[384, 13, 13]),
            ("conv5", &[256, 13, 13]),
            ("pool5", &[256, 6, 6]),
            ("fc6", &[4096]),
        ],
    },
    Facts {
        file: "caffenet",
        params: 60_965_224,
        statistics: 0,
        macs: 724_406_816,
        maps: &[
            ("conv1", &[96, 55, 55]),
            ("pool1", &[96, 27, 27]),
            ("pool5", &[256, 6, 6]),
            ("fc7", &[4096]),
        ],
    },
    Facts {
        file: "zfnet",
        params: 62_357_608,
        statistics: 0,
        macs: 1_168_032_896,
        maps: &[
            ("conv1", &[96, 110, 110]),
            ("pool1", &[96, 55, 55]),
            ("conv2", &[256, 26, 26]),
            ("pool2", &[256, 13, 13]),
            ("pool5", &[256, 6, 6]),
        ],
    },
    Facts {
        file: "vgg16",
        params: 138_357_544,
        statistics: 0,
        macs: 15_470_264_320,
        maps: &[
            ("conv1_2", &[64, 224, 224]),
            ("pool1", &[64, 112, 112]),
            ("pool3", &[256, 28, 28]),
            ("conv5_3", &[512, 14, 14]),
            ("pool5", &[512, 7, 7]),
            ("fc6", &[4096]),
        ],
    },
    Facts {
        file: "vgg19",
        params: 143_667_240,
        statistics: 0,
        macs: 19_632_062_464,
        maps: &[
            ("conv3_4", &[256, 56, 56]),
            ("conv5_4", &[512, 14, 14]),
            ("pool5", &[512, 7, 7]),
        ],
    },
    Facts {
        file: "googlenet",
        params: 6_998_552,
        statistics: 0,
        macs: 1_582_671_872,
        maps: &[
            ("conv1/7x7_s2", &[64, 112, 112]),
            ("pool1/3x3_s2", &[64, 56, 56]),
            ("conv2/3x3", &[192, 56, 56]),
            ("pool2/3x3_s2", &[192, 28, 28]),
            ("inception_3a/output", &[256, 28, 28]),
            ("inception_3b/output", &[480, 28, 28]),
            ("inception_4a/output", &[512, 14, 14]),
            ("inception_4e/output", &[832, 14, 14]),
            ("inception_5b/output", &[1024, 7, 7]),
            ("pool5/7x7_s1", &[1024, 1, 1]),
        ],
    },
    Facts {
        file: "resnet50",
        params: 25_557_096,
        statistics: 53_173,
        macs: 3_857_973_248,
        maps: &[
            ("conv1", &[64, 112, 112]),
            ("pool1", &[64, 56, 56]),
            ("res2c", &[256, 56, 56]),
            ("res3d", &[512, 28, 28]),
            ("res4f", &[1024, 14, 14]),
            ("res5c", &[2048, 7, 7]),
            ("pool5", &[2048, 1, 1]),
        ],
    },
    Facts {
        file: "resnet101",
        params: 44_549_160,
        statistics: 105_448,
        macs: 7_570_194_432,
        maps: &[("res4b22", &[1024, 14, 14]), ("res5c", &[2048, 7, 7])],
    },
    Facts {
        file: "resnet152",
        params: 60_192_808,
        statistics: 151_579,
        macs: 11_282_415_616,
        maps: &[
            ("res3b7", &[512, 28, 28]),
            ("res4b35", &[1024, 14, 14]),
            ("res5c", &[2048, 7, 7]),
        ],
    },
    Facts {
        file: "squeezenet_v1.0",
        params: 1_248_424,
        statistics: 0,
        macs: 861_339_936,
        maps: &[
            ("conv1", &[96, 111, 111]),
            ("fire2/concat", &[128, 55, 55]),
            ("fire4/concat", &[256, 55, 55]),
            ("fire8/concat", &[512, 27, 27]),
            ("conv10", &[1000, 15, 15]),
            ("pool10", &[1000, 1, 1]),
        ],
    },
    Facts {
        file: "squeezenet_v1.1",
        params: 1_235_496,
        statistics: 0,
        macs: 387_747_520,
        maps: &[
            ("conv1", &[64, 113, 113]),
            ("fire2/concat", &[128, 56, 56]),
            ("fire9/concat", &[512, 14, 14]),
            ("conv10", &[1000, 14, 14]),
        ],
    },
    Facts {
        file: "mobilenet_v1",
        params: 4_231_976,
        statistics: 21_915,
        macs: 568_740_352,
        maps: &[
            ("conv1", &[32, 112, 112]),
            ("conv2_1/dw", &[32, 112, 112]),
            ("conv4_2/sep", &[512, 14, 14]),
            ("conv5_6/sep", &[1024, 7, 7]),
            ("pool6", &[1024, 1, 1]),
        ],
    },
    Facts {
        file: "nin_imagenet",
        params: 7_595_176,
        statistics: 0,
        macs: 1_100_188_800,
        maps: &[
            ("conv1", &[96, 54, 54]),
            ("pool0", &[96, 27, 27]),
            ("cccp4", &[256, 27, 27]),
            ("pool2", &[256, 13, 13]),
            ("cccp6", &[384, 13, 13]),
            ("pool3", &[384, 6, 6]),
            ("cccp8", &[1000, 6, 6]),
            ("pool4", &[1000, 1, 1]),
        ],
    },
    Facts {
        file: "nin_imagenet_227",
        params: 7_595_176,
        statistics: 0,
        macs: 1_105_996_320,
        maps: &[
            ("conv1", &[96, 55, 55]),
            ("pool0", &[96, 27, 27]),
            ("pool2", &[256, 13, 13]),
            ("pool3", &[384, 6, 6]),
        ],
    },
    Facts {
        file: "nin_cifar10",
        params: 966_986,
        statistics: 0,
        macs: 222_486_528,
        maps: &[
            ("cccp2", &[96, 32, 32]),
            ("conv2", &[192, 16, 16]),
            ("conv3", &[192, 8, 8]),
            ("cccp6", &[10, 8, 8]),
        ],
    },
    Facts {
        file: "nin_cifar100",
        params: 984_356,
        statistics: 0,
        macs: 145_181_952,
        maps: &[
            ("cccp2", &[96, 26, 26]),
            ("cccp6", &[100, 6, 6]),
            ("poolg", &[100, 1, 1]),
        ],
    },
];

fn statistics(row: &Row) -> u64 {
    let shapes = row.params.iter().filter(|_| row.kind == "BatchNorm");
    shapes.map(|shape| shape.count() as u64).sum()
}

fn summarised(net: &Net, look: impl FnOnce(&Summary)) {
    let built = ir::build(net, &Options::default());
    assert!(built.errors.is_empty(), "{:?}", built.errors);
    look(&Summary::new(&built));
}

fn row<'a>(summary: &'a Summary, name: &str) -> &'a Row<'a> {
    let found = summary.layers.iter().find(|row| row.name == name);
    found.unwrap_or_else(|| panic!("no layer {name}"))
}

fn learned(summary: &Summary) -> u64 {
    summary.totals.params - summary.layers.iter().map(statistics).sum::<u64>()
}

#[test]
fn fixtures_have_the_figures_of_their_papers() {
    for facts in FACTS {
        let file = facts.file;
        summarised(&common::fixture(&format!("{file}.prototxt")), |summary| {
            assert_eq!(learned(summary), facts.params, "{file}");
            let kept = summary.totals.params - facts.params;
            assert_eq!(kept, facts.statistics, "{file}");
            assert_eq!(
                summary.totals.unique_params, summary.totals.params,
                "{file}"
            );
            assert_eq!(summary.totals.macs, facts.macs, "{file}");
            let tops = || summary.layers.iter().flat_map(|row| &row.tops);
            for (blob, shape) in facts.maps {
                let (_, made) = tops().find(|(name, _)| name == blob).expect(blob);
                assert_eq!((made[0], &made[1..]), (1, *shape), "{file}: {blob}");
            }
        });
    }
}

/// The plan of memory comes near to what no plan could do without.
#[test]
fn arenas_are_hardly_larger_than_what_lives_at_once() {
    for facts in FACTS {
        let net = common::fixture(&format!("{}.prototxt", facts.file));
        let graph = common::graph(&net, &Options::default());
        for fuse in [Fuse::None, Fuse::All] {
            let setting = (fuse, Chains::WhereItPays);
            let program = common::plan(&graph, Isa::Portable, setting).program;
            let (arena, live) = (program.arena_len, program.most_live());
            assert!(
                live > 0 && arena <= live + live / 50,
                "{}: {arena} elements for {live}, {fuse:?}",
                facts.file
            );
        }
    }
}

/// A train_val file is the same net: only the auxiliary classifiers of GoogLeNet, which
/// its deploy file leaves out, are further parameters.
#[test]
fn train_val_nets_have_the_parameters_of_the_deployed() {
    let labelled = |file: &str| Options {
        shapes: match file {
            "lenet" => shapes([1, 28, 28]),
            "cifar10_quick" | "cifar10_full" | "nin_cifar10" => shapes([3, 32, 32]),
            _ => BTreeMap::new(),
        },
        ..Default::default()
    };
    let mut count = 0;
    for facts in FACTS {
        let file = format!("{}_train_val.prototxt", facts.file);
        if !Path::new("fixtures").join(&file).exists() {
            continue;
        }
        count += 1;
        let built = ir::build(&common::fixture(&file), &labelled(facts.file));
        assert!(built.errors.is_empty(), "{file}: {:?}", built.errors);
        let auxiliary = if facts.file == "googlenet" {
            6_379_728
        } else {
            0
        };
        assert_eq!(
            learned(&Summary::new(&built)),
            facts.params + auxiliary,
            "{file}"
        );
    }
    assert_eq!(count, 11);
}

/// Two images of these channels, height and width, with labels.
fn shapes([c, h, w]: [usize; 3]) -> BTreeMap<String, Shape> {
    let shape = |dims: &[usize]| Shape::new(dims).unwrap();
    let data = ("data".to_string(), shape(&[2, c, h, w]));
    BTreeMap::from([data, ("label".to_string(), shape(&[2]))])
}

/// Inception 3a on 192 maps of 28 × 28: what the reductions save.
#[test]
fn inception_3a_with_and_without_reductions() {
    let params = |prefix: &str, summary: &Summary| -> u64 {
        let rows = summary
            .layers
            .iter()
            .filter(|row| row.name.starts_with(prefix));
        rows.flat_map(|row| &row.params)
            .map(|shape| shape.count() as u64)
            .sum()
    };
    summarised(&common::fixture("googlenet.prototxt"), |summary| {
        assert_eq!(params("inception_3a/", summary), 163_696);
        assert_eq!(
            row(summary, "inception_3a/3x3").params[0].dims(),
            [128, 96, 3, 3]
        );
        assert_eq!(
            row(summary, "inception_3a/5x5").params[0].dims(),
            [32, 16, 5, 5]
        );
    });
    let branch = |out: usize, kernel: usize| {
        format!(
            "layer {{ name: 'naive/{kernel}' type: 'Convolution' bottom: 'data' top: '{kernel}' \
             convolution_param {{ num_output: {out} kernel_size: {kernel} pad: {} }} }}\n",
            kernel / 2
        )
    };
    let mut text = "layer { name: 'data' type: 'Input' top: 'data' input_param { shape { \
                    dim: [1, 192, 28, 28] } } }\n"
        .to_string();
    text += &[(64, 1), (128, 3), (32, 5)]
        .map(|(out, kernel)| branch(out, kernel))
        .concat();
    text += "layer { name: 'pool' type: 'Pooling' bottom: 'data' top: 'pool' \
             pooling_param { kernel_size: 3 stride: 1 pad: 1 } }\n\
             layer { name: 'output' type: 'Concat' bottom: '1' bottom: '3' bottom: '5' \
             bottom: 'pool' top: 'output' }";
    summarised(&common::parse("naive", text), |summary| {
        assert_eq!(params("naive/", summary), 387_296);
        assert_eq!(row(summary, "output").tops[0].1.dims(), [1, 416, 28, 28]);
    });
}

#[test]
fn receptive_fields() {
    for (file, layer, size, stride) in [
        ("alexnet", "pool5", 195.0, 32.0),
        ("vgg16", "pool5", 212.0, 32.0),
        ("lenet", "pool2", 16.0, 4.0),
        ("mobilenet_v1", "conv6/sep", 315.0, 32.0),
    ] {
        summarised(&common::fixture(&format!("{file}.prototxt")), |summary| {
            let field = row(summary, layer).field.expect(layer);
            let got = field.0.map(|axis| (axis.size, axis.stride));
            assert_eq!(got, [(size, stride); 2], "{file}: {layer}");
        });
    }
}
