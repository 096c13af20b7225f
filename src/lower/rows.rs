//! Layers that are one leaf call for each row or slice of a blob: LRN, Softmax,
//! ArgMax, Accuracy, SoftmaxWithLoss, and MAX pooling with its mask.

use super::Builder;
use super::view::Plain;
use crate::diag::Result;
use crate::frontend::proto::loss_parameter::NormalizationMode;
use crate::ir::{BlobId, Node};
use crate::kernel::{Addr, Affine, Arg, Region, Stmt};
use crate::layers::accuracy::Accuracy;
use crate::layers::argmax::ArgMax;
use crate::layers::lrn::Lrn;
use crate::layers::pooling::{Axis, Geometry};
use crate::layers::softmax_loss::SoftmaxWithLoss;
use crate::leaf::{BLOCK, Leaf};

/// Across channels: one call for each row of pixels.
pub fn lrn_across(b: &mut Builder, node: &Node, lrn: &Lrn) -> Result<()> {
    let src = b.blocked(node.bottoms[0])?;
    let dst = b.alloc_blocked(node.tops[0])?;
    // A window wider than all channels on both sides sums the same.
    let size = lrn.size.min(2 * src.c + 1);
    let padded = src.c.next_multiple_of(BLOCK) + 2 * (size / 2).next_multiple_of(BLOCK);
    let scratch = b.scratch("squares", 0, 4 * padded);
    let (image, row) = (b.var(), b.var());
    let line = |base: i64, image_stride: i64, row_stride: i64| {
        Affine::constant(base)
            .plus(image, image_stride)
            .plus(row, row_stride)
    };
    let call = Stmt::Call {
        leaf: Leaf::Lrn,
        args: vec![
            b.at(src.buffer, line(src.base, src.image, src.row)),
            b.at(dst.buffer, line(dst.base, dst.image, dst.row)),
            b.at(scratch, Affine::constant(0)),
            Arg::Len(src.c),
            Arg::Len(src.w),
            Arg::Len(src.block as usize),
            Arg::Len(dst.block as usize),
            Arg::Len(size),
            Arg::F32((f64::from(lrn.alpha) / lrn.size as f64) as f32),
            Arg::F32(lrn.beta),
            Arg::F32(lrn.k),
            Arg::Len(usize::from(lrn.in_place)),
        ],
    };
    let region = Region {
        tasks: vec![(image, src.n as u32), (row, src.h as u32)],
        body: vec![call],
        cost: (src.w * src.blocks() * BLOCK) as u64 + 1,
    };
    b.step(
        node.layers.clone(),
        "LRN across channels",
        vec![region],
        0,
        b.traffic(node),
    );
    Ok(())
}

/// A leaf call on dense blobs, once for each of `count` slices; `addresses` are first
/// elements and strides from one slice to the next, in the leaf's order.
fn slices(
    b: &mut Builder,
    leaf: Leaf,
    count: usize,
    addresses: &[Option<(Plain, usize)>],
    rest: Vec<Arg>,
    cost: usize,
) -> Region {
    let slice = b.var();
    let address = |a: &Option<(Plain, usize)>| match a {
        None => Arg::Null,
        Some((view, stride)) => Arg::Addr(Addr {
            buffer: view.buffer,
            offset: Affine::constant(view.base).plus(slice, *stride as i64),
        }),
    };
    let mut args: Vec<Arg> = addresses.iter().map(address).collect();
    args.extend(rest);
    Region {
        tasks: vec![(slice, count as u32)],
        body: vec![Stmt::Call { leaf, args }],
        cost: cost as u64 + 1,
    }
}

/// Sizes before, of, and after an axis of a blob.
fn around(b: &Builder, blob: BlobId, axis: usize) -> [usize; 3] {
    let shape = b.graph.shape(blob);
    [
        shape.count_of(0..axis),
        shape[axis],
        shape.count_of(axis + 1..shape.len()),
    ]
}

pub fn softmax(b: &mut Builder, node: &Node, axis: usize) -> Result<()> {
    let sizes = around(b, node.bottoms[0], axis);
    let src = b.plain(node.bottoms[0])?;
    let dst = b.alloc_plain(node.tops[0])?;
    softmax_step(b, node, sizes, src, dst);
    Ok(())
}

fn softmax_step(
    b: &mut Builder,
    node: &Node,
    [outer, channels, inner]: [usize; 3],
    src: Plain,
    dst: Plain,
) {
    let slice = channels * inner;
    let addresses = [Some((src, slice)), Some((dst, slice))];
    let sizes = vec![Arg::Len(channels), Arg::Len(inner)];
    let region = slices(b, Leaf::Softmax, outer, &addresses, sizes, slice);
    let traffic = 8 * (outer * slice) as u64;
    b.step(node.layers.clone(), "softmax", vec![region], 0, traffic);
}

/// `axis`: none for Caffe's form over all but the first axis.
pub fn argmax(b: &mut Builder, node: &Node, layer: &ArgMax, axis: Option<usize>) -> Result<()> {
    let shape = b.graph.shape(node.bottoms[0]).clone();
    let [outer, dim, inner] = match axis {
        Some(axis) => around(b, node.bottoms[0], axis),
        None => [shape[0], shape.count_of(1..shape.len()), 1],
    };
    let src = b.plain(node.bottoms[0])?;
    let dst = b.alloc_plain(node.tops[0])?;
    let pairs = axis.is_none() && layer.out_max_val;
    let slice = layer.top_k * inner * if pairs { 2 } else { 1 };
    let mut regions = Vec::new();
    // Caffe's pairs are all places, then all values.
    let parts: &[(bool, usize)] = match (pairs, layer.out_max_val) {
        (true, _) => &[(false, 0), (true, 1)],
        (false, values) => &[(values, 0)],
    };
    for &(values, part) in parts {
        let base = dst.base + (part * layer.top_k) as i64;
        let to = Plain { base, ..dst };
        let addresses = [Some((src, dim * inner)), Some((to, slice))];
        let sizes = [dim, inner, layer.top_k, usize::from(values)].map(Arg::Len);
        regions.push(slices(
            b,
            Leaf::ArgMax,
            outer,
            &addresses,
            sizes.to_vec(),
            dim * inner,
        ));
    }
    b.step(
        node.layers.clone(),
        "places of the largest",
        regions,
        0,
        b.traffic(node),
    );
    Ok(())
}

fn ignore(label: Option<i32>) -> [Arg; 2] {
    [
        Arg::Len(usize::from(label.is_some())),
        Arg::F32(label.unwrap_or(0) as f32),
    ]
}

pub fn softmax_loss(
    b: &mut Builder,
    node: &Node,
    layer: &SoftmaxWithLoss,
    axis: usize,
) -> Result<()> {
    let Some(&top) = node.tops.first() else {
        return Ok(());
    };
    let [outer, channels, inner] = around(b, node.bottoms[0], axis);
    let src = b.plain(node.bottoms[0])?;
    let label = b.plain(node.bottoms[1])?;
    let len = outer * channels * inner;
    let name = format!("{} probabilities", node.name);
    let buffer = b.arena(&name, Some(len))?;
    let prob = Plain { buffer, base: 0 };
    softmax_step(b, node, [outer, channels, inner], src, prob);
    let dst = b.alloc_plain(top)?;
    let mut rest = [outer, channels, inner].map(Arg::Len).to_vec();
    rest.extend(ignore(layer.ignore_label));
    rest.push(Arg::Len(match layer.normalization {
        NormalizationMode::Full => 0,
        NormalizationMode::Valid => 1,
        NormalizationMode::BatchSize => 2,
        NormalizationMode::None => 3,
    }));
    let addresses = [Some((prob, 0)), Some((label, 0)), Some((dst, 0))];
    let region = slices(b, Leaf::SoftmaxLoss, 1, &addresses, rest, outer * inner);
    b.step(node.layers.clone(), "loss", vec![region], 0, 4 * len as u64);
    Ok(())
}

pub fn accuracy(b: &mut Builder, node: &Node, layer: &Accuracy, axis: usize) -> Result<()> {
    let [outer, channels, inner] = around(b, node.bottoms[0], axis);
    let src = b.plain(node.bottoms[0])?;
    let label = b.plain(node.bottoms[1])?;
    let dst = b.alloc_plain(node.tops[0])?;
    let per_class = match node.tops.get(1) {
        Some(&top) => Some((b.alloc_plain(top)?, 0)),
        None => None,
    };
    let mut rest = [outer, channels, inner, layer.top_k as usize]
        .map(Arg::Len)
        .to_vec();
    rest.extend(ignore(layer.ignore_label));
    let addresses = [Some((src, 0)), Some((label, 0)), Some((dst, 0)), per_class];
    let region = slices(
        b,
        Leaf::Accuracy,
        1,
        &addresses,
        rest,
        outer * channels * inner,
    );
    b.step(
        node.layers.clone(),
        "accuracy",
        vec![region],
        0,
        b.traffic(node),
    );
    Ok(())
}

/// MAX pooling that also tells where each maximum was.
pub fn pool_with_mask(b: &mut Builder, node: &Node, g: &Geometry) -> Result<()> {
    let src = b.plain(node.bottoms[0])?;
    let dst = b.alloc_plain(node.tops[0])?;
    let mask = b.alloc_plain(node.tops[1])?;
    let planes = b.graph.shape(node.bottoms[0]).count_of(0..2);
    let pair = |of: fn(&Axis) -> usize| [of(&g.axes[0]), of(&g.axes[1])];
    let (input, output) = (pair(|axis| axis.input), pair(|axis| axis.output));
    let (inputs, outputs) = (input[0] * input[1], output[0] * output[1]);
    let kernel = pair(|axis| axis.kernel);
    let pairs = [
        input,
        output,
        kernel,
        pair(|axis| axis.stride),
        pair(|axis| axis.pad[0]),
    ];
    let sizes = pairs.iter().flatten().map(|&v| Arg::Len(v)).collect();
    let addresses = [
        Some((src, inputs)),
        Some((dst, outputs)),
        Some((mask, outputs)),
    ];
    let cost = outputs * kernel[0].min(input[0]) * kernel[1].min(input[1]);
    let region = slices(b, Leaf::PoolMask, planes, &addresses, sizes, cost);
    b.step(
        node.layers.clone(),
        "max pooling with mask",
        vec![region],
        0,
        b.traffic(node),
    );
    Ok(())
}
