//! Routines: whole layers as self-contained functions on plain blobs, for what is
//! neither dense arithmetic nor element-wise.
//!
//! A routine is safe Rust that names nothing but `std`, [`math`](super::math) and the
//! modules that it lists. It stands in its layer's file as `mod routine`; every engine
//! runs it, and its text is pasted into emitted source.

use std::fmt;

/// `run(bottoms, tops, sizes, values)`.
///
/// `bottoms` are the layer's bottoms, the counts of those with data-dependent extents if
/// the layer asks for them, then its parameter blobs; `tops` its tops, then the count of
/// tops with data-dependent extents, then its state, then, if it has [`Call::faults`], one
/// element for the number of a fault, 0 for none; all plain row-major. Tops come
/// with any content and are to be fully written. `sizes` and `values` are constants that
/// the layer has worked out: extents, options.
///
/// It must not panic whatever the values of the blobs are.
pub type Run = fn(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]);

/// A function and its text.
#[derive(Clone, Copy)]
pub struct Routine {
    /// The module's name in emitted source; one routine a name.
    pub name: &'static str,
    pub run: Run,
    /// Texts of the modules to paste side by side: the routine's own and those that it
    /// names through `super`. None: emitted source asks its user for the function.
    pub modules: &'static [(&'static str, &'static str)],
}

/// The name, which tells it from all others.
impl fmt::Debug for Routine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)
    }
}

impl Routine {
    /// Runs it on operands of these first elements and lengths, of which the first
    /// `reads` are read and the others written.
    ///
    /// # Safety
    /// All operands are live memory of their lengths; what is written overlaps no other
    /// operand, and no other thread touches it.
    pub unsafe fn call(
        &self,
        pointers: &[*mut f32],
        lens: &[usize],
        reads: usize,
        sizes: &[usize],
        values: &[f32],
    ) {
        let operands = || pointers.iter().zip(lens);
        let bottoms: Vec<&[f32]> = operands()
            .take(reads)
            // SAFETY: the caller vouches for it.
            .map(|(&at, &len)| unsafe { std::slice::from_raw_parts(at, len) })
            .collect();
        let mut tops: Vec<&mut [f32]> = operands()
            .skip(reads)
            // SAFETY: as above.
            .map(|(&at, &len)| unsafe { std::slice::from_raw_parts_mut(at, len) })
            .collect();
        (self.run)(&bottoms, &mut tops, sizes, values);
    }
}

/// A routine with its constants, on the blobs of one layer.
#[derive(Clone, Debug)]
pub struct Call {
    pub routine: Routine,
    pub sizes: Vec<usize>,
    pub values: Vec<f32>,
    /// Into how many equal, independent pieces bottoms, tops and state are cut, each a
    /// call of its own that may run on a thread of its own: a divisor of all their
    /// lengths. Parameters are not cut.
    pub pieces: usize,
    /// Bottoms that are not cut either.
    pub whole: &'static [usize],
    /// What can be wrong with the values of the bottoms: a run whose routine gives fault
    /// n ends with text number n − 1. Only for a routine that is not cut.
    pub faults: &'static [&'static str],
}

impl Call {
    /// On all blobs at once.
    pub fn new(routine: Routine, sizes: Vec<usize>, values: Vec<f32>) -> Call {
        Call {
            routine,
            sizes,
            values,
            pieces: 1,
            whole: &[],
            faults: &[],
        }
    }

    /// With these faults.
    #[must_use]
    pub fn faults(mut self, faults: &'static [&'static str]) -> Call {
        self.faults = faults;
        self
    }

    /// Cut into `pieces`, for each of which `sizes` are.
    #[must_use]
    pub fn cut(mut self, pieces: usize) -> Call {
        self.pieces = pieces;
        self
    }

    /// Keeps these bottoms whole.
    #[must_use]
    pub fn whole(mut self, bottoms: &'static [usize]) -> Call {
        self.whole = bottoms;
        self
    }

    /// Runs all pieces, one after the other. Errors: the text of the fault.
    ///
    /// # Panics
    /// If the number of pieces does not divide the length of what is cut.
    pub fn run(
        &self,
        bottoms: &[&[f32]],
        params: &[&[f32]],
        tops: &mut [&mut [f32]],
    ) -> Result<(), &'static str> {
        let mut fault = [0.0];
        for piece in 0..self.pieces {
            let mut read: Vec<&[f32]> = Vec::new();
            for (i, bottom) in bottoms.iter().enumerate() {
                let whole = self.whole.contains(&i);
                read.push(if whole {
                    bottom
                } else {
                    self.piece(piece, bottom)
                });
            }
            read.extend(params);
            let mut written: Vec<&mut [f32]> = Vec::new();
            for top in tops.iter_mut() {
                let len = self.piece_len(top.len());
                written.push(&mut top[piece * len..(piece + 1) * len]);
            }
            if !self.faults.is_empty() {
                written.push(&mut fault);
            }
            (self.routine.run)(&read, &mut written, &self.sizes, &self.values);
        }
        match self.faults.get((fault[0] as usize).wrapping_sub(1)) {
            Some(fault) => Err(fault),
            None => Ok(()),
        }
    }

    fn piece<'a>(&self, piece: usize, blob: &'a [f32]) -> &'a [f32] {
        let len = self.piece_len(blob.len());
        &blob[piece * len..(piece + 1) * len]
    }

    /// Length of a piece of a blob of `len` elements.
    pub fn piece_len(&self, len: usize) -> usize {
        assert!(
            len.is_multiple_of(self.pieces),
            "{len} in {} pieces",
            self.pieces
        );
        len / self.pieces
    }
}

/// What of a module's text is pasted: the body of its `mod routine` if it has one, else
/// all but the tests.
pub fn pasted(text: &str) -> String {
    let mut lines = text.lines();
    let opens = |line: &str| line.ends_with("mod routine {") && !line.starts_with([' ', '/']);
    if lines.any(opens) {
        let body = lines.take_while(|line| *line != "}");
        let body = body.map(|line| line.strip_prefix("    ").unwrap_or(line));
        return body.flat_map(|line| [line, "\n"]).collect();
    }
    let code = text.split("\n#[cfg(test)]").next().unwrap_or(text);
    code.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(bottoms: &[&[f32]], tops: &mut [&mut [f32]], sizes: &[usize], values: &[f32]) {
        assert_eq!(bottoms[0].len(), sizes[0]);
        for (y, x) in tops[0].iter_mut().zip(bottoms[0]) {
            *y = x + values[0] + bottoms[1][0] + bottoms[2][0];
        }
    }

    const ADD: Routine = Routine {
        name: "add",
        run: add,
        modules: &[],
    };

    #[test]
    fn pieces_of_bottoms_and_tops_but_not_of_parameters() {
        let call = Call::new(ADD, vec![2], vec![0.5]).cut(2).whole(&[1]);
        let mut top = [0.0; 4];
        let bottoms: [&[f32]; 2] = [&[1., 2., 3., 4.], &[10., 20.]];
        call.run(&bottoms, &[&[100., 200.]], &mut [&mut top])
            .unwrap();
        assert_eq!(top, [111.5, 112.5, 113.5, 114.5]);
    }

    #[test]
    fn the_module_is_cut_out() {
        let text = "use x;\n\npub mod routine {\n    pub fn f() {\n    }\n}\n\nfn g() {}\n";
        assert_eq!(pasted(text), "pub fn f() {\n}\n");
        let plain = "pub fn f() {}\n\n#[cfg(test)]\nmod tests {}\n";
        assert_eq!(pasted(plain), "pub fn f() {}\n");
    }
}
