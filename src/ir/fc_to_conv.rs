//! InnerProduct layers → convolutions with the same weights, as in "net surgery".

use super::{Options, Shape, build};
use crate::diag::{Diagnostic, Errors, Result};
use crate::frontend::Net;
use crate::frontend::proto::{ConvolutionParameter, LayerParameter};
use crate::layers::Op;
use std::collections::{HashMap, HashSet};

/// Makes each InnerProduct layer over channels, height and width a Convolution whose
/// kernel is its whole bottom as the file declares the inputs, and those that read
/// nothing else 1×1 convolutions. At the declared shapes the results stay the same
/// (`N × C` becomes `N × C × 1 × 1`); larger inputs give a map of them. Returns the
/// names of these layers.
///
/// Errors: those of [`build()`] at the declared shapes; `Unsupported` for transposed
/// weights.
pub fn fc_to_conv(net: &mut Net) -> Result<Vec<String>> {
    let built = build(net, &Options::default());
    let graph = Errors::none_or(built.errors, built.graph)?;
    let products = graph.nodes.iter();
    let products = products.filter(|node| matches!(node.op, Op::InnerProduct(_)));
    // Shapes of their bottoms, by the names of layer and top.
    let mut bottoms: HashMap<(&str, &str), &Shape> = HashMap::new();
    for node in products {
        let key = (node.name.as_str(), graph[node.tops[0]].name.as_str());
        bottoms.entry(key).or_insert(graph.shape(node.bottoms[0]));
    }
    let bottom = |layer: &LayerParameter| -> Option<&Shape> {
        let top = layer.top.first()?;
        bottoms.get(&(layer.name(), top.as_str())).copied()
    };
    // Blobs that have height and width now and had none.
    let mut maps: HashSet<String> = HashSet::new();
    let mut done = Vec::new();
    for (i, layer) in net.param.layer.iter_mut().enumerate() {
        let reads_map = layer.bottom.iter().any(|b| maps.contains(b));
        let kernel = match (layer.r#type(), bottom(layer).map(Shape::dims)) {
            ("InnerProduct", Some(&[_, _, h, w])) => Some((h, w)),
            ("InnerProduct", Some(&[_, _])) if reads_map => Some((1, 1)),
            _ => None,
        };
        let axis = layer.inner_product_param.as_ref().map_or(1, |p| p.axis());
        match kernel.filter(|_| matches!(axis, 1 | -3)) {
            Some(kernel) => {
                if layer
                    .inner_product_param
                    .as_ref()
                    .is_some_and(|p| p.transpose())
                {
                    let message = "making a convolution of transposed weights";
                    let at = net.layers[i].span_of("inner_product_param.transpose");
                    return Err(Diagnostic::unsupported(message)
                        .at(at)
                        .layer(layer.name())
                        .into());
                }
                convert(layer, kernel);
                net.flat.insert(i);
                done.push(layer.name().to_string());
                maps.extend(layer.top.iter().cloned());
            }
            None if reads_map
                && !matches!(layer.r#type(), "InnerProduct" | "Flatten" | "Reshape") =>
            {
                maps.extend(layer.top.iter().cloned());
            }
            None => {}
        }
    }
    Ok(done)
}

fn convert(layer: &mut LayerParameter, (height, width): (usize, usize)) {
    let param = layer.inner_product_param.take().unwrap_or_default();
    layer.r#type = Some("Convolution".into());
    layer.convolution_param = Some(Box::new(ConvolutionParameter {
        num_output: param.num_output,
        bias_term: param.bias_term,
        kernel_h: Some(height as u32),
        kernel_w: Some(width as u32),
        weight_filler: param.weight_filler,
        bias_filler: param.bias_filler,
        ..ConvolutionParameter::default()
    }));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diag::Sources;
    use crate::frontend::binary::WeightsFile;
    use crate::frontend::{State, load_net};
    use crate::ir::{Tensor, Valid, reference};
    use crate::weights::{self, Missing};

    /// 2 × 3 × 3 → 4 → 3, with a ReLU in place between.
    const NET: &str = "layer { name: 'd' type: 'Input' top: 'd' input_param { shape { dim: [1, 2, 3, 3] } } }
        layer { name: 'a' type: 'InnerProduct' bottom: 'd' top: 'a' inner_product_param { num_output: 4 } }
        layer { name: 'r' type: 'ReLU' bottom: 'a' top: 'a' }
        layer { name: 'b' type: 'InnerProduct' bottom: 'a' top: 'b'
            inner_product_param { num_output: 3 bias_term: false } }";

    fn net(text: &str) -> Net {
        load_net("n", text.into(), &mut Sources::default(), &State::default()).unwrap()
    }

    fn graph(net: &Net, input: [usize; 4]) -> Valid {
        let options = Options {
            shapes: [("d".to_string(), Shape::new(input).unwrap())].into(),
            ..Options::default()
        };
        let mut graph = build(net, &options).valid().unwrap().0;
        graph
            .edit("weights", |g| weights::load(g, &[], Missing::Random(1)))
            .unwrap();
        graph
    }

    fn run(graph: &Valid, input: &Tensor) -> Tensor {
        let mut outputs = reference::run(graph, std::slice::from_ref(input), &graph.outputs);
        outputs.as_mut().unwrap().remove(0)
    }

    #[test]
    fn a_larger_input_gives_a_map_of_the_same_results() {
        let small = graph(&net(NET), [1, 2, 3, 3]);
        let mut dense = net(NET);
        assert_eq!(fc_to_conv(&mut dense).unwrap(), ["a", "b"]);
        let mut large = graph(&dense, [1, 2, 4, 5]);
        for (to, from) in large.clone().into_graph().params.iter().zip(&small.params) {
            assert_eq!(to.spec.shape.count(), from.spec.shape.count());
        }
        large.edit("weights", |g| {
            for (to, from) in g.params.iter_mut().zip(&small.params) {
                to.data = from.data.clone();
            }
        });
        let data: Vec<f32> = (0..40).map(|i| (i * 7 % 11) as f32 - 5.0).collect();
        let map = run(
            &large,
            &Tensor::new(Shape::new([1, 2, 4, 5]).unwrap(), data.clone()),
        );
        assert_eq!(map.shape.dims(), [1, 3, 2, 3]);
        // The window that begins at row 1, column 2.
        let window = (0..18).map(|i| data[i / 9 * 20 + (i / 3 % 3 + 1) * 5 + i % 3 + 2]);
        let want = run(
            &small,
            &Tensor::new(Shape::new([1, 2, 3, 3]).unwrap(), window.collect()),
        );
        for (c, want) in want.data.iter().enumerate() {
            let got = map.data[c * 6 + 5];
            assert!((got - want).abs() < 1e-5, "{got} for {want}");
        }
    }

    #[test]
    fn weights_come_as_they_were() {
        use prost::Message as _;
        let mut dense = net(NET);
        fc_to_conv(&mut dense).unwrap();
        let mut graph = build(&dense, &Options::default()).valid().unwrap().0;
        let blob = |dims: &[i64]| crate::frontend::proto::BlobProto {
            shape: Some(crate::frontend::proto::BlobShape { dim: dims.to_vec() }),
            data: vec![0.5; dims.iter().product::<i64>() as usize],
            ..Default::default()
        };
        let layer = |name: &str, blobs| LayerParameter {
            name: Some(name.into()),
            blobs,
            ..LayerParameter::default()
        };
        let mut load = |a: &[i64]| {
            let param = crate::frontend::proto::NetParameter {
                layer: vec![
                    layer("a", vec![blob(a), blob(&[4])]),
                    layer("b", vec![blob(&[3, 4])]),
                ],
                ..Default::default()
            };
            let file = WeightsFile::from_bytes("w", param.encode_to_vec()).unwrap();
            graph.edit("weights", |g| {
                weights::load(g, &[("w", &file)], Missing::Refuse)
            })
        };
        assert_eq!(load(&[4, 18]), Ok(()));
        assert_eq!(load(&[4, 2, 3, 3]), Ok(()));
        assert!(load(&[18, 4]).is_err());
    }

    #[test]
    fn what_is_no_window_stays() {
        let flat = NET.replace("[1, 2, 3, 3]", "[1, 18]");
        assert!(fc_to_conv(&mut net(&flat)).unwrap().is_empty());
        let transposed = NET.replace("num_output: 4", "num_output: 4 transpose: true");
        let error = fc_to_conv(&mut net(&transposed)).unwrap_err();
        assert!(error.0[0].at.is_some(), "{error}");
    }
}
