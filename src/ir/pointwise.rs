//! Element-wise meaning of layers, as an expression that passes can compose.

use super::Shape;
use crate::kernel::{BinaryOp, UnaryOp};
use crate::leaf::Function;
use std::sync::Arc;

/// The value of one element of a node's first top, in terms of the same element
/// of its bottoms. Operators are those of the kernel IR.
#[derive(Clone, Debug, PartialEq)]
pub enum Pointwise {
    /// The element of bottom n, which has the top's shape.
    Bottom(usize),
    /// Bottom n covers only some axes of the top, from `axis` on (Scale and Bias
    /// with two bottoms): its value for the element's place on these axes. Ones at the
    /// end of its shape cover whatever the top has there.
    BottomAt {
        bottom: usize,
        axis: usize,
    },
    Const(f32),
    /// A constant that depends on the place on some axes, usually the channel.
    Broadcast(Broadcast),
    Unary(UnaryOp, Box<Pointwise>),
    Binary(BinaryOp, Box<Pointwise>, Box<Pointwise>),
    /// `a·b + c`, fused where the ISA can.
    Fma(Box<Pointwise>, Box<Pointwise>, Box<Pointwise>),
    /// `if a < b { x } else { y }`.
    Less {
        a: Box<Pointwise>,
        b: Box<Pointwise>,
        x: Box<Pointwise>,
        y: Box<Pointwise>,
    },
    /// A function that is a leaf, with its constants.
    Function {
        function: Function,
        a: f32,
        b: f32,
        c: f32,
        x: Box<Pointwise>,
    },
}

/// `values` laid out over the axes `axis .. axis + axes` of the top.
#[derive(Clone, Debug, PartialEq)]
pub struct Broadcast {
    pub values: Arc<[f32]>,
    pub axis: usize,
    pub axes: usize,
}

impl Broadcast {
    /// One value per channel (axis 1).
    pub fn channels(values: Vec<f32>) -> Broadcast {
        Broadcast {
            values: values.into(),
            axis: 1,
            axes: 1,
        }
    }

    /// Index into `values` for the element `flat` (row-major) of a blob of `shape`.
    pub fn index(&self, shape: &Shape, flat: usize) -> usize {
        let end = self.axis + self.axes;
        flat / shape.count_of(end..shape.len()) % shape.count_of(self.axis..end).max(1)
    }
}

impl Pointwise {
    pub fn unary(op: UnaryOp, x: Pointwise) -> Pointwise {
        Pointwise::Unary(op, Box::new(x))
    }

    pub fn binary(op: BinaryOp, a: Pointwise, b: Pointwise) -> Pointwise {
        Pointwise::Binary(op, Box::new(a), Box::new(b))
    }

    /// `function` of x with its three constants.
    pub fn function(function: Function, [a, b, c]: [f32; 3], x: Pointwise) -> Pointwise {
        let x = Box::new(x);
        Pointwise::Function {
            function,
            a,
            b,
            c,
            x,
        }
    }

    /// `max(x, 0) + slope·min(x, 0)`, Caffe's ReLU and PReLU.
    pub fn relu(x: Pointwise, slope: Pointwise) -> Pointwise {
        let zero = || Pointwise::Const(0.0);
        let positive = Self::binary(BinaryOp::Max, x.clone(), zero());
        let negative = Self::binary(BinaryOp::Min, x, zero());
        let scaled = Self::binary(BinaryOp::Mul, slope, negative);
        Self::binary(BinaryOp::Add, positive, scaled)
    }

    /// The expressions that this one is made of directly.
    pub fn parts(&self) -> Vec<&Pointwise> {
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

    pub fn is_function(&self) -> bool {
        matches!(self, Pointwise::Function { .. })
    }

    /// Whether a function occurs anywhere.
    pub fn has_function(&self) -> bool {
        self.is_function() || self.parts().iter().any(|p| p.has_function())
    }
}

impl Pointwise {
    /// Evaluates the expression for every element, naively: the meaning.
    pub fn reference(&self, bottoms: &[&super::Tensor], top: &mut super::Tensor) {
        for i in 0..top.data.len() {
            top.data[i] = self.at(bottoms, &top.shape, i);
        }
    }

    fn at(&self, bottoms: &[&super::Tensor], shape: &Shape, i: usize) -> f32 {
        let value = |e: &Pointwise| e.at(bottoms, shape, i);
        match self {
            Pointwise::Bottom(n) => bottoms[*n].data[i],
            Pointwise::BottomAt { bottom, axis } => {
                let small = bottoms[*bottom];
                let end = axis + small.shape.covering();
                small.data[i / shape.count_of(end..shape.len()) % small.data.len()]
            }
            Pointwise::Const(c) => *c,
            Pointwise::Broadcast(b) => b.values[b.index(shape, i)],
            Pointwise::Unary(op, x) => op.apply(value(x)),
            Pointwise::Binary(op, a, b) => op.apply(value(a), value(b)),
            Pointwise::Fma(a, b, c) => value(a).mul_add(value(b), value(c)),
            Pointwise::Less { a, b, x, y } => {
                if value(a) < value(b) {
                    value(x)
                } else {
                    value(y)
                }
            }
            Pointwise::Function {
                function,
                a,
                b,
                c,
                x,
            } => function.reference(value(x), *a, *b, *c),
        }
    }
}
