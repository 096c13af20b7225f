//! Arrays in chunks: each is unpacked and put into its place.

use std::io::Read as _;

use super::{Cursor, Got, broken, invalid, unsupported};

/// A chunk's bytes, of which there must be `size`. Filter i was left out where bit i
/// of `mask` is set.
pub(super) fn unfilter(
    packed: Cursor,
    filters: &[u16],
    mask: u64,
    number: usize,
    size: usize,
) -> Got<Vec<u8>> {
    let mut bytes = packed.rest().to_vec();
    let wrong = |what: String| broken(packed.at, what);
    for (i, filter) in filters.iter().enumerate().rev() {
        if mask >> i.min(63) & 1 != 0 {
            continue;
        }
        match filter {
            1 => {
                let mut out = Vec::new();
                let zlib = flate2::read::ZlibDecoder::new(bytes.as_slice());
                // With a checksum of Fletcher behind.
                let read = zlib.take(size as u64 + 5).read_to_end(&mut out);
                read.map_err(|e| wrong(format!("a chunk cannot be inflated: {e}")))?;
                bytes = out;
            }
            2 => bytes = unshuffled(&bytes, number),
            3 => {
                let end = bytes.len().checked_sub(4);
                bytes.truncate(end.ok_or_else(|| wrong("a chunk without a checksum".into()))?);
            }
            _ => {
                return Err(unsupported(format!(
                    "an array packed by HDF5 filter {filter}"
                )));
            }
        }
    }
    match bytes.len() == size {
        true => Ok(bytes),
        false => Err(wrong(format!(
            "{} bytes for a chunk of {size}",
            bytes.len()
        ))),
    }
}

/// First bytes of all numbers, then second bytes … → numbers.
pub(super) fn unshuffled(bytes: &[u8], number: usize) -> Vec<u8> {
    let count = bytes.len() / number;
    let (planes, rest) = bytes.split_at(count * number);
    let mut out = Vec::with_capacity(bytes.len());
    for i in 0..count {
        out.extend((0..number).map(|b| planes[b * count + i]));
    }
    out.extend_from_slice(rest);
    out
}

/// Copies what of a chunk lies in the array, row by row; tells how many bytes.
pub(super) fn place_chunk(
    from: &[u8],
    chunk: &[u64],
    place: &[u64],
    shape: &[u64],
    to: &mut [u8],
) -> Got<u64> {
    let outside = || invalid("a chunk lies outside the array");
    let number = chunk[shape.len()];
    let extents: Option<Vec<u64>> = (0..shape.len())
        .map(|a| {
            shape[a]
                .checked_sub(place[a])
                .map(|left| left.min(chunk[a]))
        })
        .collect();
    let extents = extents
        .filter(|e| e.iter().all(|&n| n > 0))
        .ok_or_else(outside)?;
    let last = shape.len() - 1;
    let row = extents[last] * number;
    let mut index = vec![0u64; last];
    let mut written = 0;
    loop {
        let offset = |extent: &[u64], at: &dyn Fn(usize) -> u64, end: u64| {
            let rows = (0..last).fold(0, |n, a| n * extent[a] + at(a));
            ((rows * extent[last] + end) * number) as usize
        };
        let source = offset(chunk, &|a| index[a], 0);
        let target = offset(shape, &|a| place[a] + index[a], place[last]);
        let row_at = |start: usize| start..start + row as usize;
        to[row_at(target)].copy_from_slice(&from[row_at(source)]);
        written += row;
        let Some(axis) = (0..last).rev().find(|&a| index[a] + 1 < extents[a]) else {
            return Ok(written);
        };
        index[axis] += 1;
        index[axis + 1..].fill(0);
    }
}
