//! Protobuf wire format: bytes → records, without copying and without recursion.
//!
//! A message is a list of records, each a field number and a payload. Walking never
//! reads past its bytes and never panics; groups are skipped whole.

use std::borrow::Cow;

use prost::encoding::WireType;

/// What a record carries.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Payload<'a> {
    Varint(u64),
    Fixed32(u32),
    Fixed64(u64),
    /// A string, a message or packed scalars.
    Bytes(&'a [u8]),
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Record<'a> {
    pub number: u32,
    pub payload: Payload<'a>,
    /// Where the payload ends in the walked bytes.
    pub end: usize,
}

/// Where and why the bytes are not wire format.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct WireError {
    /// Offset into the walked bytes.
    pub offset: usize,
    /// The field whose payload is at fault.
    pub record: Option<u32>,
    pub why: &'static str,
}

impl WireError {
    fn new(offset: usize, why: &'static str) -> Self {
        WireError {
            offset,
            record: None,
            why,
        }
    }
}

/// The records of one message; ends after the first error.
pub fn records(bytes: &[u8]) -> Records<'_> {
    Records {
        reader: Reader { bytes, position: 0 },
    }
}

pub struct Records<'a> {
    reader: Reader<'a>,
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        while self.reader.position < self.reader.bytes.len() {
            match self.reader.record() {
                Ok(None) => {}
                Ok(Some(record)) => return Some(Ok(record)),
                Err(error) => {
                    self.reader.position = self.reader.bytes.len();
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

/// The values of a packed field whose elements have the type `element`.
pub fn unpack(
    bytes: &[u8],
    element: WireType,
) -> impl Iterator<Item = Result<Payload<'_>, WireError>> {
    let mut reader = Reader { bytes, position: 0 };
    std::iter::from_fn(move || {
        if reader.position == bytes.len() {
            return None;
        }
        let value = reader.payload(element);
        if value.is_err() {
            reader.position = bytes.len();
        }
        Some(value)
    })
}

struct Reader<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    /// The next record, or none for a group, which is skipped.
    fn record(&mut self) -> Result<Option<Record<'a>>, WireError> {
        let start = self.position;
        match self.key()? {
            (number, WireType::StartGroup) => self.skip_group(number).map(|()| None),
            (_, WireType::EndGroup) => {
                Err(WireError::new(start, "a group ends that was never started"))
            }
            (number, wire_type) => {
                let payload = self.payload(wire_type).map_err(|e| WireError {
                    record: Some(number),
                    ..e
                })?;
                let end = self.position;
                Ok(Some(Record {
                    number,
                    payload,
                    end,
                }))
            }
        }
    }

    fn key(&mut self) -> Result<(u32, WireType), WireError> {
        let start = self.position;
        let wrong = |why| WireError::new(start, why);
        let key = self.varint()?;
        let number = u32::try_from(key >> 3)
            .ok()
            .filter(|n| (1..1 << 29).contains(n));
        let wire_type = WireType::try_from(key & 7).map_err(|_| wrong("unknown wire type"))?;
        Ok((number.ok_or(wrong("impossible field number"))?, wire_type))
    }

    fn payload(&mut self, wire_type: WireType) -> Result<Payload<'a>, WireError> {
        Ok(match wire_type {
            WireType::Varint => Payload::Varint(self.varint()?),
            WireType::ThirtyTwoBit => Payload::Fixed32(u32::from_le_bytes(array(self.take(4)?))),
            WireType::SixtyFourBit => Payload::Fixed64(u64::from_le_bytes(array(self.take(8)?))),
            WireType::LengthDelimited => {
                let length = self.varint()?;
                Payload::Bytes(self.take(length)?)
            }
            WireType::StartGroup | WireType::EndGroup => unreachable!("groups have no payload"),
        })
    }

    /// Skips to the end of the group `number`, whatever is nested in it.
    fn skip_group(&mut self, number: u32) -> Result<(), WireError> {
        let mut open = vec![number];
        while let Some(&innermost) = open.last() {
            let start = self.position;
            match self.key()? {
                (number, WireType::StartGroup) => open.push(number),
                (number, WireType::EndGroup) if number == innermost => {
                    open.pop();
                }
                (_, WireType::EndGroup) => {
                    return Err(WireError::new(start, "a group ends inside another"));
                }
                (_, wire_type) => {
                    self.payload(wire_type)?;
                }
            }
        }
        Ok(())
    }

    fn varint(&mut self) -> Result<u64, WireError> {
        let start = self.position;
        let mut value = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(WireError::new(start, "a number of more than ten bytes"))
    }

    fn take(&mut self, length: u64) -> Result<&'a [u8], WireError> {
        let rest = &self.bytes[self.position..];
        match usize::try_from(length).ok().and_then(|n| rest.get(..n)) {
            Some(taken) => {
                self.position += taken.len();
                Ok(taken)
            }
            None => Err(WireError::new(self.position, "the file ends too early")),
        }
    }
}

fn array<const N: usize>(bytes: &[u8]) -> [u8; N] {
    bytes.try_into().expect("taken with this length")
}

// ---------------------------------------------------------------- strings

/// Stands for the byte 0 of a string that is not UTF-8; a private-use character.
const ODD_BYTE: u32 = 0x10_f800;

/// Bytes as a string, where Caffe accepts any bytes: each byte that is not UTF-8
/// becomes a private-use character of its own, so that different names stay
/// different. [`from_utf8`] takes it back.
pub fn to_utf8(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = std::str::from_utf8(bytes) {
        return text.into();
    }
    let mut out = String::new();
    for chunk in bytes.utf8_chunks() {
        out += chunk.valid();
        let odd = |b: &u8| char::from_u32(ODD_BYTE + u32::from(*b));
        out.extend(chunk.invalid().iter().filter_map(odd));
    }
    out.into()
}

/// The bytes that [`to_utf8`] was given, from its string's bytes.
pub fn from_utf8(bytes: &[u8]) -> Cow<'_, [u8]> {
    let odd = |c: char| (c as u32).checked_sub(ODD_BYTE).filter(|b| *b < 256);
    match std::str::from_utf8(bytes) {
        Ok(text) if text.chars().any(|c| odd(c).is_some()) => {
            let mut out = Vec::with_capacity(bytes.len());
            for c in text.chars() {
                match odd(c) {
                    Some(byte) => out.push(byte as u8),
                    None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
                }
            }
            Cow::Owned(out)
        }
        _ => Cow::Borrowed(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn why(bytes: &[u8]) -> Option<(usize, &'static str)> {
        let error = records(bytes).find_map(|r| r.err())?;
        Some((error.offset, error.why))
    }

    #[test]
    fn records_of_every_kind() {
        let bytes = [
            8, 0x96, 1, // 1: 150
            0x12, 2, b'a', b'b', // 2: "ab"
            0x1d, 0, 0, 0x80, 0x3f, // 3: 1f
            0x23, 8, 1, 0x2b, 0x2c, 0x24, // group 4 with a group 5
            8, 1,
        ];
        let found: Vec<_> = records(&bytes).map(|r| r.unwrap()).collect();
        let payloads: Vec<_> = found.iter().map(|r| (r.number, r.payload)).collect();
        assert_eq!(
            payloads,
            [
                (1, Payload::Varint(150)),
                (2, Payload::Bytes(b"ab")),
                (3, Payload::Fixed32(1f32.to_bits())),
                (1, Payload::Varint(1)),
            ]
        );
        assert_eq!(found[1].end, 7);
    }

    #[test]
    fn wrong_bytes_are_told() {
        assert_eq!(why(&[0x0a, 5, 1]), Some((2, "the file ends too early")));
        assert_eq!(why(&[8; 1]), Some((1, "the file ends too early")));
        assert_eq!(why(&[0x0f]), Some((0, "unknown wire type")));
        assert_eq!(why(&[0, 1]), Some((0, "impossible field number")));
        assert_eq!(
            why(&[0x08, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1]),
            Some((1, "a number of more than ten bytes"))
        );
        let huge = [0x0a, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        assert_eq!(why(&huge), Some((11, "the file ends too early")));
        let nested = [0x0b; 200_000];
        assert_eq!(why(&nested), Some((200_000, "the file ends too early")));
    }

    #[test]
    fn odd_strings_keep_their_bytes() {
        let odd = b"a\xff\xc3\xa9\x80";
        let text = to_utf8(odd);
        assert_eq!(text.chars().count(), 4);
        assert_eq!(*from_utf8(text.as_bytes()), *odd);
        assert_ne!(text, to_utf8(b"a\xfe\xc3\xa9\x80"));
    }
}
