// Small leaves on plain blobs, scalar, as Caffe writes them.

use super::math::ln;
use std::cmp::Ordering;

// Caffe's ArgMax along one axis (argmax_layer.cpp): the pairs (value, index) in falling
// order, so that ties give the highest index first.
//
// Safety: `src` has dim·inner elements, `dst` top_k·inner, and top_k ≤ dim.
pub unsafe extern "C" fn argmax(
    src: *const f32,
    dst: *mut f32,
    dim: usize,
    inner: usize,
    top_k: usize,
    values: usize,
) {
    let mut order: Vec<usize> = Vec::new();
    for i in 0..inner {
        let value = |index: usize| unsafe { *src.add(index * inner + i) };
        order.clear();
        if top_k == 1 {
            order.push(largest(dim, value));
        } else {
            order.extend(0..dim);
            order.sort_unstable_by(|&a, &b| falling(value(a), value(b)).then(b.cmp(&a)));
        }
        for (k, &index) in order.iter().take(top_k).enumerate() {
            let result = if values == 1 {
                value(index)
            } else {
                index as f32
            };
            unsafe { *dst.add(k * inner + i) = result };
        }
    }
}

// Each later one that is not smaller takes the place, and a NaN gives way to what
// follows it, as in `std::partial_sort` with `std::greater`.
fn largest<F: Fn(usize) -> f32>(dim: usize, value: F) -> usize {
    let mut best = 0;
    for index in 1..dim {
        best = if value(index) < value(best) {
            best
        } else {
            index
        };
    }
    best
}

// Larger values first, NaN last.
fn falling(a: f32, b: f32) -> Ordering {
    match b.partial_cmp(&a) {
        Some(order) => order,
        None => a.is_nan().cmp(&b.is_nan()),
    }
}

// What a label says.
enum Label {
    Ignored,
    Class(usize),
    // Caffe reads out of bounds here.
    Outside,
}

fn read_label(label: f32, channels: usize, ignore: usize, ignore_label: f32) -> Label {
    let class = to_integer(label);
    if ignore == 1 && class == to_integer(ignore_label) {
        Label::Ignored
    } else if class >= 0 && (class as u64) < channels as u64 {
        Label::Class(class as usize)
    } else {
        Label::Outside
    }
}

// C's cast to int; NaN is no class.
fn to_integer(label: f32) -> i64 {
    if label.is_nan() {
        i64::MIN
    } else {
        label as i64
    }
}

// Caffe's SoftmaxWithLoss after its softmax (softmax_loss_layer.cpp); NaN if a label is
// no class.
//
// Safety: `prob` has outer·channels·inner elements, `label` outer·inner, `dst` one.
pub unsafe extern "C" fn softmax_loss(
    prob: *const f32,
    label: *const f32,
    dst: *mut f32,
    outer: usize,
    channels: usize,
    inner: usize,
    ignore: usize,
    ignore_label: f32,
    normalization: usize,
) {
    let mut loss = 0.0f64;
    let mut count = 0usize;
    for position in 0..outer * inner {
        let class = match read_label(
            unsafe { *label.add(position) },
            channels,
            ignore,
            ignore_label,
        ) {
            Label::Ignored => continue,
            Label::Class(class) => class,
            Label::Outside => {
                unsafe { *dst = f32::NAN };
                return;
            }
        };
        let (o, i) = (position / inner, position % inner);
        let p = unsafe { *prob.add((o * channels + class) * inner + i) };
        // std::max(p, FLT_MIN)
        let p = if p < f32::MIN_POSITIVE {
            f32::MIN_POSITIVE
        } else {
            p
        };
        loss -= ln(f64::from(p));
        count += 1;
    }
    let normalizer = match normalization {
        0 => outer * inner,
        1 => count,
        2 => outer,
        _ => 1,
    };
    // Some users have all labels ignored: then the loss is 0, not 0/0.
    let normalizer = if normalizer == 0 { 1 } else { normalizer };
    unsafe { *dst = (loss / normalizer as f64) as f32 };
}

// Caffe's Accuracy (accuracy_layer.cpp): a prediction counts as better if its score is
// at least the true one's, so ties count against. NaN if a label is no class.
//
// Safety: `scores` has outer·channels·inner elements, `label` outer·inner, `dst` one,
// `per_class` channels or is null.
pub unsafe extern "C" fn accuracy(
    scores: *const f32,
    label: *const f32,
    dst: *mut f32,
    per_class: *mut f32,
    outer: usize,
    channels: usize,
    inner: usize,
    top_k: usize,
    ignore: usize,
    ignore_label: f32,
) {
    // Seen and hit, per class.
    let mut classes = vec![(0u64, 0u64); channels];
    let mut outside = false;
    for position in 0..outer * inner {
        let class = match read_label(
            unsafe { *label.add(position) },
            channels,
            ignore,
            ignore_label,
        ) {
            Label::Ignored => continue,
            Label::Class(class) => class,
            Label::Outside => {
                outside = true;
                continue;
            }
        };
        let (o, i) = (position / inner, position % inner);
        let score = |c: usize| unsafe { *scores.add((o * channels + c) * inner + i) };
        classes[class].0 += 1;
        if is_hit(score, channels, class, top_k) {
            classes[class].1 += 1;
        }
    }
    let ratio = |hit: u64, seen: u64| {
        if seen == 0 {
            0.0
        } else {
            hit as f32 / seen as f32
        }
    };
    let seen = classes.iter().map(|c| c.0).sum();
    let hit = classes.iter().map(|c| c.1).sum();
    unsafe {
        *dst = if outside { f32::NAN } else { ratio(hit, seen) };
        if !per_class.is_null() {
            for (c, &(seen, hit)) in classes.iter().enumerate() {
                *per_class.add(c) = ratio(hit, seen);
            }
        }
    }
}

// Fewer than `top_k` others score at least as high; a NaN score has none, as in Caffe.
fn is_hit<F: Fn(usize) -> f32>(score: F, channels: usize, class: usize, top_k: usize) -> bool {
    let truth = score(class);
    let better = (0..channels).filter(|&c| score(c) >= truth).take(top_k + 1);
    better.count() <= top_k
}

// Caffe's MAX pooling of one plane with the mask of flat indices (pooling_layer.cpp):
// the first of equal maxima; −FLT_MAX and −1 where nothing was larger.
//
// Safety: `src` has height·width elements, `dst` and `mask` out_height·out_width.
pub unsafe extern "C" fn pool_mask(
    src: *const f32,
    dst: *mut f32,
    mask: *mut f32,
    height: usize,
    width: usize,
    out_height: usize,
    out_width: usize,
    kernel_h: usize,
    kernel_w: usize,
    stride_h: usize,
    stride_w: usize,
    pad_h: usize,
    pad_w: usize,
) {
    for oy in 0..out_height {
        let rows = window(oy, height, kernel_h, stride_h, pad_h);
        for ox in 0..out_width {
            let columns = window(ox, width, kernel_w, stride_w, pad_w);
            let (mut best, mut at) = (f32::MIN, -1.0);
            for y in rows.0..rows.1 {
                for x in columns.0..columns.1 {
                    let v = unsafe { *src.add(y * width + x) };
                    if v > best {
                        best = v;
                        at = (y * width + x) as f32;
                    }
                }
            }
            unsafe {
                *dst.add(oy * out_width + ox) = best;
                *mask.add(oy * out_width + ox) = at;
            }
        }
    }
}

// First and end of a window, clipped to the image.
fn window(out: usize, len: usize, kernel: usize, stride: usize, pad: usize) -> (usize, usize) {
    let start = out * stride;
    let end = (start + kernel).saturating_sub(pad);
    (start.saturating_sub(pad), if end < len { end } else { len })
}
