// Layout changes and plain memory work, the same for all instruction sets.

use std::ptr::copy_nonoverlapping;

// One channel block of a plain image to the blocked layout; missing channels become
// zero lanes.
//
// Safety: the strides keep to live memory, and source and destination do not overlap.
pub unsafe extern "C" fn to_blocked(
    src: *const f32,
    dst: *mut f32,
    channels: usize,
    height: usize,
    width: usize,
    src_channel_stride: usize,
    src_row_stride: usize,
    dst_row_stride: usize,
) {
    for y in 0..height {
        let mut x = 0;
        while x < width {
            let n = if width - x < 16 { width - x } else { 16 };
            unsafe {
                let from = src.add(y * src_row_stride + x);
                let to = dst.add(y * dst_row_stride + x * 16);
                let mut tile = [[0.0f32; 16]; 16];
                for (c, row) in tile.iter_mut().enumerate().take(channels) {
                    copy(from.add(c * src_channel_stride), row, n);
                }
                copy_nonoverlapping(transpose(&tile).as_ptr().cast::<f32>(), to, n * 16);
            }
            x += 16;
        }
    }
}

// One channel block of the blocked layout to a plain image.
//
// Safety: as for `to_blocked`.
pub unsafe extern "C" fn to_plain(
    src: *const f32,
    dst: *mut f32,
    channels: usize,
    height: usize,
    width: usize,
    src_row_stride: usize,
    dst_channel_stride: usize,
    dst_row_stride: usize,
) {
    for y in 0..height {
        let mut x = 0;
        while x < width {
            let n = if width - x < 16 { width - x } else { 16 };
            unsafe {
                let from = src.add(y * src_row_stride + x * 16);
                let to = dst.add(y * dst_row_stride + x);
                let mut tile = [[0.0f32; 16]; 16];
                copy_nonoverlapping(from, tile.as_mut_ptr().cast::<f32>(), n * 16);
                for (c, row) in transpose(&tile).iter().enumerate().take(channels) {
                    copy_nonoverlapping(row.as_ptr(), to.add(c * dst_channel_stride), n);
                }
            }
            x += 16;
        }
    }
}

// n ≤ 16 elements; a whole row without a call.
#[inline(always)]
unsafe fn copy(from: *const f32, to: &mut [f32; 16], n: usize) {
    unsafe {
        if n == 16 {
            copy_nonoverlapping(from, to.as_mut_ptr(), 16);
        } else {
            copy_nonoverlapping(from, to.as_mut_ptr(), n);
        }
    }
}

#[inline(always)]
fn transpose(tile: &[[f32; 16]; 16]) -> [[f32; 16]; 16] {
    let mut turned = [[0.0; 16]; 16];
    for (p, row) in turned.iter_mut().enumerate() {
        for (c, v) in row.iter_mut().enumerate() {
            *v = tile[c][p];
        }
    }
    turned
}

// `rows` rows of `len` elements set to `value`.
//
// Safety: the rows are live memory.
pub unsafe extern "C" fn fill(dst: *mut f32, rows: usize, len: usize, stride: usize, value: f32) {
    for row in 0..rows {
        for i in 0..len {
            unsafe { *dst.add(row * stride + i) = value };
        }
    }
}

// `rows` rows of `len` elements copied.
//
// Safety: the rows are live memory, and source and destination do not overlap.
pub unsafe extern "C" fn copy_rows(
    src: *const f32,
    dst: *mut f32,
    rows: usize,
    len: usize,
    src_stride: usize,
    dst_stride: usize,
) {
    for row in 0..rows {
        unsafe { copy_nonoverlapping(src.add(row * src_stride), dst.add(row * dst_stride), len) };
    }
}
