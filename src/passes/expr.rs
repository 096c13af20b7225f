//! Questions that passes ask of element-wise expressions, and the edits they make.

use crate::ir::{Activation, BlobId, Broadcast, Pointwise};
use crate::kernel::{BinaryOp, UnaryOp};
use std::sync::Arc;

impl Pointwise {
    pub fn parts_mut(&mut self) -> Vec<&mut Pointwise> {
        match self {
            Pointwise::Bottom(_)
            | Pointwise::BottomAt { .. }
            | Pointwise::Const(_)
            | Pointwise::Broadcast(_) => vec![],
            Pointwise::Unary(_, x) | Pointwise::Function { x, .. } => vec![x],
            Pointwise::Binary(_, a, b) => vec![a, b],
            Pointwise::Fma(a, b, c) => vec![a, b, c],
            Pointwise::Less { a, b, x, y } => vec![a, b, x, y],
        }
    }

    /// Number of operations, constants and reads.
    pub fn size(&self) -> usize {
        1 + self.parts().iter().map(|p| p.size()).sum::<usize>()
    }

    /// How often bottom n is read at the element itself; `None` if it is (also) read
    /// by place on some axes.
    pub fn reads_of(&self, n: usize) -> Option<usize> {
        match self {
            Pointwise::Bottom(m) => Some(usize::from(*m == n)),
            Pointwise::BottomAt { bottom, .. } if *bottom == n => None,
            _ => self.parts().iter().map(|p| p.reads_of(n)).sum(),
        }
    }

    /// Replaces reads of bottoms: `f` gets their numbers.
    pub fn renumber(&mut self, f: &mut impl FnMut(usize) -> usize) {
        match self {
            Pointwise::Bottom(n) | Pointwise::BottomAt { bottom: n, .. } => *n = f(*n),
            _ => {
                for part in self.parts_mut() {
                    part.renumber(f);
                }
            }
        }
    }

    /// Puts `value` where bottom n is read.
    pub fn substitute(&mut self, n: usize, value: &Pointwise) {
        if *self == Pointwise::Bottom(n) {
            *self = value.clone();
            return;
        }
        for part in self.parts_mut() {
            part.substitute(n, value);
        }
    }
}

/// Renumbers `expr`'s bottoms so that each blob is listed once. Returns the new list:
/// first what is read element by element, since the first bottom has the top's shape.
/// `like` stands there if nothing is.
pub fn compact(expr: &mut Pointwise, bottoms: &[BlobId], like: BlobId) -> Vec<BlobId> {
    let mut used: Vec<BlobId> = Vec::new();
    list(expr, true, &mut |n| used.push(bottoms[n]));
    if used.is_empty() {
        used.push(like);
    }
    list(expr, false, &mut |n| used.push(bottoms[n]));
    let mut once: Vec<BlobId> = Vec::new();
    for blob in used {
        if !once.contains(&blob) {
            once.push(blob);
        }
    }
    let place = |blob| once.iter().position(|&b| b == blob);
    expr.renumber(&mut |n| place(bottoms[n]).expect("listed above"));
    once
}

/// Gives `f` the bottoms that are read at the element itself, or those that are not.
fn list(expr: &Pointwise, whole: bool, f: &mut impl FnMut(usize)) {
    match expr {
        Pointwise::Bottom(n) if whole => f(*n),
        Pointwise::BottomAt { bottom, .. } if !whole => f(*bottom),
        _ => expr.parts().iter().for_each(|part| list(part, whole, f)),
    }
}

/// `scale·x + shift` per channel, in f64 so that a run of them is rounded once.
#[derive(Clone, Debug, PartialEq)]
pub struct Affine {
    pub scale: Vec<f64>,
    pub shift: Vec<f64>,
}

impl Affine {
    fn constant(value: impl Fn(usize) -> f64, channels: usize) -> Affine {
        Affine {
            scale: vec![0.0; channels],
            shift: (0..channels).map(value).collect(),
        }
    }

    /// `x` itself.
    pub fn identity(channels: usize) -> Affine {
        Affine {
            scale: vec![1.0; channels],
            shift: vec![0.0; channels],
        }
    }

    fn is_constant(&self) -> bool {
        self.scale.iter().all(|&s| s == 0.0)
    }

    fn zip(self, other: &Affine, f: impl Fn(f64, f64) -> f64) -> Affine {
        let pairs = |a: Vec<f64>, b: &[f64]| a.iter().zip(b).map(|(&a, &b)| f(a, b)).collect();
        Affine {
            scale: pairs(self.scale, &other.scale),
            shift: pairs(self.shift, &other.shift),
        }
    }

    /// Each channel multiplied by `factor`'s constant.
    fn times(self, factor: &[f64], f: impl Fn(f64, f64) -> f64) -> Affine {
        let each = |a: Vec<f64>| a.iter().zip(factor).map(|(&a, &k)| f(a, k)).collect();
        Affine {
            scale: each(self.scale),
            shift: each(self.shift),
        }
    }

    fn product(a: Affine, b: Affine) -> Option<Affine> {
        if b.is_constant() {
            Some(a.times(&b.shift, |x, k| x * k))
        } else if a.is_constant() {
            Some(b.times(&a.shift, |x, k| x * k))
        } else {
            None
        }
    }

    /// `expr` as a function of bottom 0, if it is affine for each channel.
    pub fn of(expr: &Pointwise, channels: usize) -> Option<Affine> {
        let of = |e: &Pointwise| Affine::of(e, channels);
        Some(match expr {
            Pointwise::Bottom(0) => Affine::identity(channels),
            Pointwise::Const(c) => Affine::constant(|_| f64::from(*c), channels),
            Pointwise::Broadcast(b) => {
                let values = per_channel(b, channels)?;
                Affine::constant(|i| f64::from(values[i]), channels)
            }
            Pointwise::Unary(UnaryOp::Neg, x) => of(x)?.times(&vec![-1.0; channels], |x, k| x * k),
            Pointwise::Binary(BinaryOp::Add, a, b) => of(a)?.zip(&of(b)?, |a, b| a + b),
            Pointwise::Binary(BinaryOp::Sub, a, b) => of(a)?.zip(&of(b)?, |a, b| a - b),
            Pointwise::Binary(BinaryOp::Mul, a, b) => Affine::product(of(a)?, of(b)?)?,
            Pointwise::Binary(BinaryOp::Div, a, b) => {
                let divisor = of(b).filter(Affine::is_constant)?;
                of(a)?.times(&divisor.shift, |x, k| x / k)
            }
            Pointwise::Fma(a, b, c) => Affine::product(of(a)?, of(b)?)?.zip(&of(c)?, |a, b| a + b),
            _ => return None,
        })
    }

    /// This one applied to the result of `first`.
    #[must_use]
    pub fn after(self, first: &Affine) -> Affine {
        let scale = self.scale.iter().zip(&first.scale).map(|(a, b)| a * b);
        let shift = self.scale.iter().zip(&first.shift).zip(&self.shift);
        Affine {
            scale: scale.collect(),
            shift: shift.map(|((a, x), b)| a * x + b).collect(),
        }
    }

    /// Rounded to f32; `None` if that leaves the finite numbers.
    pub fn round(&self) -> Option<(Vec<f32>, Vec<f32>)> {
        let round = |values: &[f64]| values.iter().map(|&v| v as f32).collect::<Vec<f32>>();
        let (scale, shift) = (round(&self.scale), round(&self.shift));
        let finite = scale.iter().chain(&shift).all(|v| v.is_finite());
        finite.then_some((scale, shift))
    }
}

/// The values of a constant that goes by channel, axis 1.
fn per_channel(constant: &Broadcast, channels: usize) -> Option<Arc<[f32]>> {
    match constant.values.len() {
        1 => Some(vec![constant.values[0]; channels].into()),
        n => (constant.axis == 1 && n == channels).then(|| constant.values.clone()),
    }
}

/// `expr` as an activation of bottom 0.
pub fn activation(expr: &Pointwise, channels: usize) -> Option<Activation> {
    let Pointwise::Binary(BinaryOp::Add, _, scaled) = expr else {
        return None;
    };
    let Pointwise::Binary(BinaryOp::Mul, slope, _) = &**scaled else {
        return None;
    };
    if *expr != Pointwise::relu(Pointwise::Bottom(0), (**slope).clone()) {
        return None;
    }
    match &**slope {
        Pointwise::Const(slope) => Some(Activation::Relu { slope: *slope }),
        Pointwise::Broadcast(slopes) => Some(Activation::PRelu {
            slopes: per_channel(slopes, channels)?,
        }),
        _ => None,
    }
}

/// Whether `expr` is bottom 0 plus bottom 1, each with coefficient 1.
pub fn is_sum_of_two(expr: &Pointwise) -> bool {
    let mut terms = terms(expr).unwrap_or_default();
    terms.sort_unstable();
    terms == [0, 1]
}

/// The bottoms that `expr` adds up, if it does nothing else.
fn terms(expr: &Pointwise) -> Option<Vec<usize>> {
    match expr {
        Pointwise::Bottom(n) => Some(vec![*n]),
        Pointwise::Const(c) if *c == 0.0 => Some(vec![]),
        Pointwise::Binary(BinaryOp::Add, a, b) => Some([terms(a)?, terms(b)?].concat()),
        Pointwise::Binary(BinaryOp::Mul, a, b) if **a == Pointwise::Const(1.0) => terms(b),
        Pointwise::Binary(BinaryOp::Mul, a, b) if **b == Pointwise::Const(1.0) => terms(a),
        Pointwise::Fma(a, b, c) if **a == Pointwise::Const(1.0) => {
            Some([terms(b)?, terms(c)?].concat())
        }
        Pointwise::Fma(a, b, c) if **b == Pointwise::Const(1.0) => {
            Some([terms(a)?, terms(c)?].concat())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHANNELS: usize = 2;

    fn x() -> Pointwise {
        Pointwise::Bottom(0)
    }

    fn channels(values: [f32; 2]) -> Pointwise {
        Pointwise::Broadcast(Broadcast::channels(values.to_vec()))
    }

    #[test]
    fn affine_in_all_its_forms() {
        use BinaryOp::{Add, Div, Max, Mul, Sub};
        let b = Pointwise::binary;
        // ((x − 3) / 2)·[1, 4] + 5
        let normal = b(
            Div,
            b(Sub, x(), Pointwise::Const(3.0)),
            Pointwise::Const(2.0),
        );
        let e = b(
            Add,
            b(Mul, channels([1.0, 4.0]), normal),
            Pointwise::Const(5.0),
        );
        let affine = Affine::of(&e, CHANNELS).unwrap();
        assert_eq!(affine.scale, [0.5, 2.0]);
        assert_eq!(affine.shift, [3.5, -1.0]);
        assert_eq!(affine.clone().after(&affine).scale, [0.25, 4.0]);
        assert_eq!(affine.clone().after(&affine).shift, [5.25, -3.0]);
        assert_eq!(Affine::of(&b(Mul, x(), x()), CHANNELS), None);
        assert_eq!(
            Affine::of(&b(Div, Pointwise::Const(1.0), x()), CHANNELS),
            None
        );
        assert_eq!(Affine::of(&b(Max, x(), x()), CHANNELS), None);
        assert_eq!(Affine::of(&Pointwise::Bottom(1), CHANNELS), None);
        let mut columns = Broadcast::channels(vec![1.0, 2.0]);
        columns.axis = 2;
        let by_column = b(Mul, x(), Pointwise::Broadcast(columns));
        assert_eq!(Affine::of(&by_column, CHANNELS), None);
    }

    #[test]
    fn activations_and_sums() {
        let relu = Pointwise::relu(x(), Pointwise::Const(0.1));
        assert_eq!(
            activation(&relu, CHANNELS),
            Some(Activation::Relu { slope: 0.1 })
        );
        let prelu = Pointwise::relu(x(), channels([0.1, 0.2]));
        assert!(matches!(
            activation(&prelu, CHANNELS),
            Some(Activation::PRelu { .. })
        ));
        let by_blob = Pointwise::relu(x(), Pointwise::Bottom(1));
        assert_eq!(activation(&by_blob, CHANNELS), None);
        let sum = |c: f32| {
            Pointwise::Fma(
                Box::new(Pointwise::Const(c)),
                Box::new(Pointwise::Bottom(1)),
                Box::new(x()),
            )
        };
        assert!(is_sum_of_two(&sum(1.0)));
        assert!(!is_sum_of_two(&sum(2.0)));
        assert!(!is_sum_of_two(&Pointwise::binary(BinaryOp::Add, x(), x())));
    }

    #[test]
    fn compacting_lists_each_blob_once() {
        let mut e = Pointwise::binary(BinaryOp::Add, Pointwise::Bottom(2), Pointwise::Bottom(0));
        let bottoms = compact(&mut e, &[BlobId(7), BlobId(8), BlobId(7)], BlobId(9));
        assert_eq!(bottoms, [BlobId(7)]);
        assert_eq!(e, Pointwise::binary(BinaryOp::Add, x(), x()));
        let small = Pointwise::BottomAt { bottom: 0, axis: 1 };
        let mut e = Pointwise::binary(BinaryOp::Mul, small.clone(), Pointwise::Bottom(1));
        let bottoms = compact(&mut e, &[BlobId(7), BlobId(8)], BlobId(9));
        assert_eq!(bottoms, [BlobId(8), BlobId(7)]);
        assert_eq!(
            compact(&mut small.clone(), &[BlobId(7)], BlobId(9)),
            [BlobId(9), BlobId(7)]
        );
    }
}
