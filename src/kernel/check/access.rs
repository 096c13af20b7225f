//! Sets of elements that a statement touches, as affine forms over boxes of variables.

use super::Space;
use crate::kernel::{BufferId, Var};

/// The elements that one argument or load touches: for each value of the variables
/// in scope, `len` consecutive ones for each point of `own`.
#[derive(Clone, Debug)]
pub(super) struct Access {
    pub(super) buffer: BufferId,
    pub(super) space: Space,
    pub(super) write: bool,
    /// Position in the space when all variables are zero.
    pub(super) base: i128,
    /// Variables in scope and their coefficients.
    pub(super) terms: Vec<(Var, i64)>,
    /// Strides and extents of window variables and rows.
    pub(super) own: Vec<(i64, u64)>,
    pub(super) len: u64,
}

/// Extents of the variables in scope.
pub(super) type Scope = Vec<(Var, u32)>;

pub(super) fn extent(scope: &Scope, var: Var) -> Option<u32> {
    scope.iter().find(|(v, _)| *v == var).map(|&(_, n)| n)
}

/// Adds `coefficient · [0, extent)` to an interval.
fn widen((lo, hi): (i128, i128), coefficient: i128, extent: i128) -> (i128, i128) {
    let far = coefficient * (extent - 1);
    (lo + far.min(0), hi + far.max(0))
}

impl Access {
    /// First and one past the last element over all values of the variables.
    pub(super) fn hull(&self, scope: &Scope) -> (i128, i128) {
        let mut range = (self.base, self.base);
        for &(var, c) in &self.terms {
            let n = extent(scope, var).expect("terms were checked against the scope");
            range = widen(range, c.into(), n.into());
        }
        for &(c, n) in &self.own {
            range = widen(range, c.into(), n.into());
        }
        (range.0, range.1 + i128::from(self.len))
    }

    /// Whether the two never touch the same element for the same values of the
    /// variables in scope. May say no where rows interleave.
    pub(super) fn disjoint(&self, other: &Access, scope: &Scope) -> bool {
        if self.space != other.space {
            return true;
        }
        let mut apart = (self.base - other.base, self.base - other.base);
        for &(var, n) in scope {
            let c = self.coefficient(var) - other.coefficient(var);
            apart = widen(apart, c, n.into());
        }
        for &(c, n) in &self.own {
            apart = widen(apart, c.into(), n.into());
        }
        for &(c, n) in &other.own {
            apart = widen(apart, -i128::from(c), n.into());
        }
        apart.0 >= other.len.into() || apart.1 <= -i128::from(self.len)
    }

    pub(super) fn coefficient(&self, var: Var) -> i128 {
        let term = self.terms.iter().find(|(v, _)| *v == var);
        term.map_or(0, |&(_, c)| c.into())
    }

    /// Whether both touch the same elements in the same order.
    pub(super) fn coincides(&self, other: &Access) -> bool {
        let sorted = |a: &Access| {
            let mut terms = a.terms.clone();
            terms.sort_unstable();
            terms
        };
        (self.space, self.base, self.len, &self.own)
            == (other.space, other.base, other.len, &other.own)
            && sorted(self) == sorted(other)
    }
}
