//! Numbers as weights files write them → f32.

/// What the bits of a number mean.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NumberKind {
    /// IEEE 754 binary16, binary32 or binary64.
    Float,
    Signed,
    Unsigned,
}

/// How an array's numbers are written, one after the other.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Encoding {
    kind: NumberKind,
    size: usize,
    big_endian: bool,
}

impl Encoding {
    pub const HALF: Encoding = Encoding::little(NumberKind::Float, 2);
    pub const SINGLE: Encoding = Encoding::little(NumberKind::Float, 4);
    pub const DOUBLE: Encoding = Encoding::little(NumberKind::Float, 8);
    pub const INT: Encoding = Encoding::little(NumberKind::Signed, 4);
    pub const UINT: Encoding = Encoding::little(NumberKind::Unsigned, 4);

    const fn little(kind: NumberKind, size: usize) -> Encoding {
        Encoding {
            kind,
            size,
            big_endian: false,
        }
    }

    /// Numbers of `size` bytes; none if there are no such numbers.
    pub fn new(kind: NumberKind, size: usize, big_endian: bool) -> Option<Encoding> {
        let sizes: &[usize] = match kind {
            NumberKind::Float => &[2, 4, 8],
            NumberKind::Signed | NumberKind::Unsigned => &[1, 2, 4, 8],
        };
        sizes.contains(&size).then_some(Encoding {
            kind,
            size,
            big_endian,
        })
    }

    /// Bytes of one number.
    pub fn size(self) -> usize {
        self.size
    }

    /// The numbers where they stand, if they are f32 as this machine has them.
    pub fn in_place(self, bytes: &[u8]) -> Option<&[f32]> {
        let native = self.kind == NumberKind::Float
            && self.size == size_of::<f32>()
            && self.big_endian == cfg!(target_endian = "big");
        if !native {
            return None;
        }
        // SAFETY: every bit pattern is an f32.
        let (before, floats, after) = unsafe { bytes.align_to::<f32>() };
        (before.is_empty() && after.is_empty()).then_some(floats)
    }

    /// The nearest f32 of each number; a rest that fills none is left out.
    pub fn convert(self, bytes: &[u8]) -> Vec<f32> {
        use NumberKind::{Float, Signed, Unsigned};
        match (self.kind, self.size) {
            (Float, 2) => self.each(bytes, |b| half(u16::from_le_bytes(b))),
            (Float, 4) => self.each(bytes, f32::from_le_bytes),
            (Float, _) => self.each(bytes, |b| f64::from_le_bytes(b) as f32),
            (Signed, 1) => self.each(bytes, |b| i8::from_le_bytes(b).into()),
            (Signed, 2) => self.each(bytes, |b| i16::from_le_bytes(b).into()),
            (Signed, 4) => self.each(bytes, |b| i32::from_le_bytes(b) as f32),
            (Signed, _) => self.each(bytes, |b| i64::from_le_bytes(b) as f32),
            (Unsigned, 1) => self.each(bytes, |b| u8::from_le_bytes(b).into()),
            (Unsigned, 2) => self.each(bytes, |b| u16::from_le_bytes(b).into()),
            (Unsigned, 4) => self.each(bytes, |b| u32::from_le_bytes(b) as f32),
            (Unsigned, _) => self.each(bytes, |b| u64::from_le_bytes(b) as f32),
        }
    }

    fn each<const N: usize>(self, bytes: &[u8], number: impl Fn([u8; N]) -> f32) -> Vec<f32> {
        let chunks = bytes.as_chunks::<N>().0.iter();
        let turned = |mut chunk: [u8; N]| {
            chunk.reverse();
            number(chunk)
        };
        // One loop each, so that both become vector code.
        match self.big_endian {
            true => chunks.map(|&chunk| turned(chunk)).collect(),
            false => chunks.map(|&chunk| number(chunk)).collect(),
        }
    }
}

/// binary16: sign, 5 bits of exponent, 10 of fraction. Every value is an f32 exactly.
fn half(bits: u16) -> f32 {
    let sign = if bits >> 15 == 0 { 1.0 } else { -1.0 };
    let fraction = f32::from(bits & 0x3ff);
    sign * match bits >> 10 & 0x1f {
        0 => fraction * 2f32.powi(-24),
        0x1f if fraction == 0.0 => f32::INFINITY,
        0x1f => f32::NAN,
        exponent => (1.0 + fraction / 1024.0) * 2f32.powi(i32::from(exponent) - 15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halves() {
        for (bits, want) in [
            (0x0000, 0.0),
            (0x3c00, 1.0),
            (0xc000, -2.0),
            (0x3555, 0.333_251_95),
            (0x7bff, 65504.0),
            (0x0001, 5.960_464_5e-8),
            (0x03ff, 6.097_555e-5),
            (0x0400, 6.103_515_6e-5),
            (0x7c00, f32::INFINITY),
            (0xfc00, f32::NEG_INFINITY),
        ] {
            assert_eq!(half(bits), want, "{bits:#06x}");
        }
        assert!(half(0x8000).is_sign_negative() && half(0x7e00).is_nan());
    }

    #[test]
    fn numbers_of_every_kind() {
        let big = |kind, size| Encoding::new(kind, size, true).unwrap();
        assert_eq!(Encoding::SINGLE.convert(&1.5f32.to_le_bytes()), [1.5]);
        assert_eq!(Encoding::DOUBLE.convert(&0.25f64.to_le_bytes()), [0.25]);
        assert_eq!(Encoding::INT.convert(&(-7i32).to_le_bytes()), [-7.0]);
        assert_eq!(
            Encoding::UINT.convert(&u32::MAX.to_le_bytes()),
            [4_294_967_296.0]
        );
        let float = big(NumberKind::Float, 4);
        assert_eq!(
            float.convert(&[1.5f32.to_be_bytes(), 2f32.to_be_bytes()].concat()),
            [1.5, 2.0]
        );
        let signed = [
            (1, vec![0xff]),
            (2, (-1i16).to_be_bytes().to_vec()),
            (8, (-1i64).to_be_bytes().to_vec()),
        ];
        for (size, bytes) in signed {
            assert_eq!(big(NumberKind::Signed, size).convert(&bytes), [-1.0]);
        }
        for size in [1, 2, 8] {
            let mut bytes = vec![0; size];
            bytes[size - 1] = 200;
            assert_eq!(big(NumberKind::Unsigned, size).convert(&bytes), [200.0]);
        }
        assert_eq!(Encoding::new(NumberKind::Float, 3, false), None);
    }
}
