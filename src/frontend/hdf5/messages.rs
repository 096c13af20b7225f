//! The messages in an object's header that tell of its array and of its links.

use super::{Cursor, Got, Layout, Link, MAX_FILTERS, Target, broken, unsupported};
use crate::frontend::numbers::{Encoding, NumberKind};
use crate::frontend::wire;

/// The extents; none for an array that has no elements by its kind.
pub(super) fn dataspace(m: &mut Cursor) -> Got<Option<Vec<u64>>> {
    let at = m.at;
    let (version, rank) = (m.uint(1)?, m.uint(1)?);
    m.skip(1)?;
    match version {
        1 => m.skip(5)?,
        2 if m.uint(1)? == 2 => return Ok(None),
        2 => {}
        _ => return Err(broken(at, "an unknown dataspace")),
    }
    (0..rank).map(|_| m.length()).collect::<Got<_>>().map(Some)
}

/// None for what are not plain numbers.
pub(super) fn datatype(m: &mut Cursor) -> Got<Option<Encoding>> {
    let class = m.uint(1)? & 15;
    let bits = m.uint(3)?;
    let size = m.uint(4)? as usize;
    let (offset, precision) = (m.uint(2), m.uint(2));
    let kind = match class {
        0 if bits & 8 != 0 => NumberKind::Signed,
        0 => NumberKind::Unsigned,
        1 => NumberKind::Float,
        _ => return Ok(None),
    };
    let mut plain = (offset?, precision?) == (0, 8 * size as u64);
    if kind == NumberKind::Float {
        // Places and sizes of exponent and fraction; VAX order has bit 6.
        let fields = [m.uint(1)?, m.uint(1)?, m.uint(1)?, m.uint(1)?];
        let ieee = match size {
            2 => [10, 5, 0, 10],
            4 => [23, 8, 0, 23],
            _ => [52, 11, 0, 52],
        };
        plain &= fields == ieee && bits & 0x40 == 0;
    }
    let encoding = Encoding::new(kind, size, bits & 1 != 0);
    Ok(encoding.filter(|_| plain))
}

pub(super) fn link(m: &mut Cursor) -> Got<Link> {
    m.skip(1)?;
    let flags = m.uint(1)?;
    let hard = flags & 8 == 0 || m.uint(1)? == 0;
    m.skip(if flags & 4 != 0 { 8 } else { 0 })?;
    m.skip(if flags & 16 != 0 { 1 } else { 0 })?;
    let length = m.uint(1 << (flags & 3))?;
    let name = m.block(length)?;
    Ok(Link {
        name: wire::to_utf8(name.rest()).into_owned(),
        target: match hard {
            true => Target::Object(m.address()?),
            false => Target::Soft,
        },
    })
}

pub(super) fn layout<'a>(m: &mut Cursor<'a>) -> Got<Layout<'a>> {
    let (version, class) = (m.uint(1)?, m.uint(1)?);
    Ok(match (version, class) {
        (3 | 4, 0) => {
            let size = m.uint(2)?;
            Layout::Compact(m.block(size)?.rest())
        }
        (3 | 4, 1) => Layout::Contiguous {
            address: m.address()?,
            size: m.length()?,
        },
        (3, 2) => {
            let extents = m.uint(1)?;
            Layout::Chunked {
                tree: m.address()?,
                chunk: (0..extents).map(|_| m.uint(4)).collect::<Got<_>>()?,
            }
        }
        _ => Layout::Other,
    })
}

/// The filters' numbers, in the order in which they were applied.
pub(super) fn filters(m: &mut Cursor) -> Got<Vec<u16>> {
    let (version, count) = (m.uint(1)?, m.uint(1)?);
    if count > MAX_FILTERS {
        return Err(unsupported(format!("an array packed by {count} filters")));
    }
    m.skip(if version == 1 { 6 } else { 0 })?;
    let mut filters = Vec::new();
    for _ in 0..count {
        let filter = m.uint(2)?;
        let name = match version == 1 || filter >= 256 {
            true => m.uint(2)?,
            false => 0,
        };
        m.skip(2)?;
        let values = m.uint(2)?;
        let padded = if version == 1 {
            values + values % 2
        } else {
            values
        };
        m.block(name.next_multiple_of(if version == 1 { 8 } else { 1 }))?;
        m.block(4 * padded)?;
        filters.push(filter as u16);
    }
    Ok(filters)
}
