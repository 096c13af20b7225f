//! Which memory a leaf reads and writes, for the checker of programs.

use super::{Activation, Leaf, Param};

/// What is known of an argument before a program runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum ArgInfo<'a> {
    /// A pointer that is not null.
    Ptr,
    Null,
    Table(&'a [i32]),
    Len(usize),
    F32(f32),
}

/// `rows` rows of `row_len` elements, the first at `offset` from the pointer argument
/// number `arg`, the others `row_stride` apart. What is written is covered exactly;
/// what is read, at least. Rows may overlap where they are only read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Touch {
    pub arg: usize,
    pub write: bool,
    pub offset: i64,
    pub rows: u64,
    pub row_len: u64,
    pub row_stride: i64,
}

/// No blob is larger; products of three lengths below this fit in an i128.
const MAX_LEN: usize = 1 << 40;

impl Leaf {
    /// The memory that it reads and writes with these arguments.
    ///
    /// # Errors
    /// A text that says what breaks the leaf's contract: number or kind of arguments, a
    /// null pointer, a size of zero, more than 16 channels, and so on.
    pub fn touches(self, args: &[ArgInfo]) -> Result<Vec<Touch>, String> {
        let mut t = Touches::new(self, args)?;
        match self {
            Leaf::Tile { mr, nb, px, taps } => t.tile(mr, nb, px, taps)?,
            Leaf::Depthwise { mr, px, taps } => t.depthwise(mr, px, taps)?,
            Leaf::ToPoints { n } => t.tile_values(n)?,
            Leaf::FromPoints { n, m } => t.tile_outputs(n, m)?,
            Leaf::ToBlocked => t.blocked()?,
            Leaf::ToPlain => t.unblocked()?,
            Leaf::Fill => t.fill()?,
            Leaf::Copy => t.copy()?,
            Leaf::Unary(_) => t.unary()?,
            Leaf::Lrn => t.lrn()?,
            Leaf::Pool { .. } => t.pool()?,
            Leaf::Softmax => t.softmax()?,
            Leaf::ArgMax => t.argmax()?,
            Leaf::SoftmaxLoss => t.softmax_loss()?,
            Leaf::Accuracy => t.accuracy()?,
            Leaf::PoolMask => t.pool_mask()?,
        }
        Ok(t.list)
    }
}

struct Touches<'a> {
    params: &'static [(&'static str, Param)],
    args: &'a [ArgInfo<'a>],
    list: Vec<Touch>,
}

type Done = Result<(), String>;

/// Rows of elements: offset, number of rows, length of a row, distance of rows.
struct Rows {
    offset: i128,
    rows: i128,
    len: i128,
    stride: i128,
}

impl Rows {
    fn one(len: i128) -> Rows {
        Rows {
            offset: 0,
            rows: 1,
            len,
            stride: 0,
        }
    }

    fn many(rows: i128, len: i128, stride: i128) -> Rows {
        Rows {
            offset: 0,
            rows,
            len,
            stride,
        }
    }

    fn at(mut self, offset: i128) -> Rows {
        self.offset = offset;
        self
    }
}

impl<'a> Touches<'a> {
    fn new(leaf: Leaf, args: &'a [ArgInfo<'a>]) -> Result<Self, String> {
        let params = leaf.params();
        if args.len() != params.len() {
            return Err(format!("{} arguments, not {}", args.len(), params.len()));
        }
        for (&(name, param), arg) in params.iter().zip(args) {
            let fits = matches!(
                (param, arg),
                (
                    Param::Src | Param::Dst | Param::Ahead,
                    ArgInfo::Ptr | ArgInfo::Null
                ) | (Param::Table, ArgInfo::Table(_))
                    | (Param::Len, ArgInfo::Len(_))
                    | (Param::F32, ArgInfo::F32(_))
            );
            if !fits {
                return Err(format!("`{name}` is {arg:?}, not {param:?}"));
            }
        }
        let list = Vec::new();
        Ok(Touches { params, args, list })
    }

    fn index(&self, name: &str) -> usize {
        let found = self.params.iter().position(|p| p.0 == name);
        found.unwrap_or_else(|| panic!("no parameter `{name}`"))
    }

    fn is_null(&self, name: &str) -> bool {
        self.args[self.index(name)] == ArgInfo::Null
    }

    /// A length that may be zero.
    fn len(&self, name: &str) -> Result<i128, String> {
        match self.args[self.index(name)] {
            ArgInfo::Len(n) if n <= MAX_LEN => Ok(n as i128),
            other => Err(format!("`{name}` is {other:?}, more than 2^40")),
        }
    }

    /// A length that may not be zero.
    fn size(&self, name: &str) -> Result<i128, String> {
        match self.len(name)? {
            0 => Err(format!("`{name}` is 0")),
            n => Ok(n),
        }
    }

    fn up_to(&self, name: &str, max: i128) -> Result<i128, String> {
        match self.len(name)? {
            n if n <= max => Ok(n),
            n => Err(format!("`{name}` is {n}, more than {max}")),
        }
    }

    fn read(&mut self, name: &str, rows: Rows) -> Done {
        self.touch(name, false, rows)
    }

    fn write(&mut self, name: &str, rows: Rows) -> Done {
        self.touch(name, true, rows)
    }

    fn touch(&mut self, name: &str, write: bool, r: Rows) -> Done {
        let arg = self.index(name);
        if self.args[arg] == ArgInfo::Null {
            return Err(format!("`{name}` is null"));
        }
        // Rows of the same thing written twice would depend on their order.
        if write && r.rows > 1 && r.stride < r.len {
            return Err(format!(
                "rows of {} elements in `{name}` overlap: they are {} apart",
                r.len, r.stride
            ));
        }
        let end = r.offset + (r.rows - 1) * r.stride + r.len;
        let too_large = |_| format!("`{name}` reaches too far");
        i64::try_from(end).map_err(too_large)?;
        self.list.push(Touch {
            arg,
            write,
            offset: i64::try_from(r.offset).map_err(too_large)?,
            rows: u64::try_from(r.rows).map_err(too_large)?,
            row_len: u64::try_from(r.len).map_err(too_large)?,
            row_stride: i64::try_from(r.stride).map_err(too_large)?,
        });
        Ok(())
    }

    fn tile(&mut self, mr: u8, nb: u8, px: u8, taps: u8) -> Done {
        let (mr, nb) = (i128::from(mr), i128::from(nb));
        let taps = match taps {
            0 => self.size("taps")?,
            known => i128::from(known),
        };
        let segments = self.segments(mr, px, taps)?;
        let (weight_stride, len) = (self.len("weight_stride")?, segments * taps * 16);
        self.read("weights", Rows::many(nb, len, weight_stride))?;
        let dst_stride = self.len("dst_stride")?;
        let residual_stride = self.len("residual_stride")?;
        self.epilogue(mr, nb, dst_stride, residual_stride)
    }

    fn depthwise(&mut self, mr: u8, px: u8, taps: u8) -> Done {
        let (mr, len) = (i128::from(mr), i128::from(taps) * 16);
        let segments = self.segments(mr, px, len)?;
        self.read("weights", Rows::one(segments * len))?;
        self.epilogue(mr, 1, 0, 0)
    }

    /// The source elements of all segments as one range, and how many segments.
    fn segments(&mut self, mr: i128, px: u8, taps: i128) -> Result<i128, String> {
        let segments = self.size("segments")?;
        let ArgInfo::Table(table) = self.args[self.index("offsets")] else {
            return Err("`offsets` is no table".to_string());
        };
        let used = usize::try_from(segments).ok().and_then(|n| table.get(..n));
        let Some(used) = used else {
            let n = table.len();
            return Err(format!("{segments} segments, `offsets` has {n}"));
        };
        let px = match px {
            0 => self.len("src_px")?,
            known => i128::from(known),
        };
        let lowest = i128::from(used.iter().copied().min().unwrap_or(0));
        let highest = i128::from(used.iter().copied().max().unwrap_or(0));
        let len = highest - lowest + (mr - 1) * px + taps;
        self.read("src", Rows::one(len).at(lowest))?;
        Ok(segments)
    }

    fn epilogue(&mut self, mr: i128, nb: i128, dst_stride: i128, residual_stride: i128) -> Done {
        self.read("bias", Rows::one(nb * 16))?;
        let act = self.up_to("act", Activation::PRelu as i128)?;
        if act == Activation::PRelu as i128 {
            self.read("slopes", Rows::one(nb * 16))?;
        }
        let dst_px = self.len("dst_px")?;
        for j in 0..nb {
            if !self.is_null("residual") {
                let rows = Rows::many(mr, 16, dst_px).at(j * residual_stride);
                self.read("residual", rows)?;
            }
            self.write("dst", Rows::many(mr, 16, dst_px).at(j * dst_stride))?;
        }
        if nb > 1 && dst_stride < 16 {
            return Err(format!("`dst_stride` is {dst_stride}: blocks overlap"));
        }
        Ok(())
    }

    fn tile_values(&mut self, n: u8) -> Done {
        let (n, tiles) = (i128::from(n), self.size("tiles")?);
        let [row, step] = [self.len("src_row_stride")?, self.len("src_step")?];
        self.read("src", Rows::many(n, (tiles - 1) * step + n * 16, row))?;
        let point_stride = self.len("point_stride")?;
        self.write("dst", Rows::many(n * n, tiles * 16, point_stride))
    }

    fn tile_outputs(&mut self, n: u8, m: u8) -> Done {
        let (n, m, tiles) = (i128::from(n), i128::from(m), self.size("tiles")?);
        let point_stride = self.len("point_stride")?;
        self.read("src", Rows::many(n * n, tiles * 16, point_stride))?;
        self.size("height")?;
        let height = self.up_to("height", m)?;
        let width = self.up_to("width", tiles * m)?;
        if width <= (tiles - 1) * m {
            return Err(format!("`width` is {width}, which is not in tile {tiles}"));
        }
        self.read("bias", Rows::one(16))?;
        let act = self.up_to("act", Activation::PRelu as i128)?;
        if act == Activation::PRelu as i128 {
            self.read("slopes", Rows::one(16))?;
        }
        if !self.is_null("residual") {
            let stride = self.len("residual_row_stride")?;
            self.read("residual", Rows::many(height, width * 16, stride))?;
        }
        let stride = self.len("dst_row_stride")?;
        self.write("dst", Rows::many(height, width * 16, stride))
    }

    fn blocked(&mut self) -> Done {
        let (height, width) = (self.size("height")?, self.size("width")?);
        let channel_stride = self.len("src_channel_stride")?;
        let row_stride = self.len("src_row_stride")?;
        for c in 0..self.block_channels()? {
            let rows = Rows::many(height, width, row_stride).at(c * channel_stride);
            self.read("src", rows)?;
        }
        let dst_row_stride = self.len("dst_row_stride")?;
        self.write("dst", Rows::many(height, width * 16, dst_row_stride))
    }

    fn unblocked(&mut self) -> Done {
        let (height, width) = (self.size("height")?, self.size("width")?);
        let src_row_stride = self.len("src_row_stride")?;
        self.read("src", Rows::many(height, width * 16, src_row_stride))?;
        let channel_stride = self.len("dst_channel_stride")?;
        let row_stride = self.len("dst_row_stride")?;
        for c in 0..self.block_channels()? {
            let rows = Rows::many(height, width, row_stride).at(c * channel_stride);
            self.write("dst", rows)?;
        }
        Ok(())
    }

    fn block_channels(&self) -> Result<i128, String> {
        self.size("channels")?;
        self.up_to("channels", 16)
    }

    fn fill(&mut self) -> Done {
        let (rows, len) = (self.size("rows")?, self.size("len")?);
        let stride = self.len("stride")?;
        self.write("dst", Rows::many(rows, len, stride))
    }

    fn copy(&mut self) -> Done {
        let (rows, len) = (self.size("rows")?, self.size("len")?);
        let src_stride = self.len("src_stride")?;
        let dst_stride = self.len("dst_stride")?;
        self.read("src", Rows::many(rows, len, src_stride))?;
        self.write("dst", Rows::many(rows, len, dst_stride))
    }

    fn unary(&mut self) -> Done {
        let len = self.size("len")?;
        self.read("src", Rows::one(len))?;
        self.write("dst", Rows::one(len))
    }

    fn lrn(&mut self) -> Done {
        let blocks = (self.size("channels")? + 15) / 16;
        let len = self.size("pixels")? * 16;
        let size = self.size("size")?;
        self.up_to("in_place", 1)?;
        let src_stride = self.len("src_block_stride")?;
        let dst_stride = self.len("dst_block_stride")?;
        self.read("src", Rows::many(blocks, len, src_stride))?;
        self.write("dst", Rows::many(blocks, len, dst_stride))?;
        let zeros = (size / 2 + 15) / 16 * 16;
        self.write("scratch", Rows::one(4 * (blocks * 16 + 2 * zeros)))
    }

    fn pool(&mut self) -> Done {
        let (lines, pixels) = (self.size("lines")?, self.size("pixels")?);
        let line_stride = self.len("dst_line_stride")?;
        self.write("dst", Rows::many(lines, pixels * 16, line_stride))?;
        let [slices, rows, columns] =
            [self.len("slices")?, self.len("rows")?, self.len("columns")?];
        if slices * rows * columns == 0 {
            return Ok(());
        }
        // From the first row of the first window to the last row of the last one.
        let len = (lines - 1) * self.len("src_line_stride")?
            + (pixels - 1) * self.len("src_px")?
            + (rows - 1) * self.len("row_stride")?
            + columns * 16;
        let slice_stride = self.len("slice_stride")?;
        self.read("src", Rows::many(slices, len, slice_stride))
    }

    fn softmax(&mut self) -> Done {
        let len = self.size("channels")? * self.size("inner")?;
        self.read("src", Rows::one(len))?;
        self.write("dst", Rows::one(len))
    }

    fn argmax(&mut self) -> Done {
        let (dim, inner) = (self.size("dim")?, self.size("inner")?);
        self.size("top_k")?;
        let top_k = self.up_to("top_k", dim)?;
        self.up_to("values", 1)?;
        self.read("src", Rows::one(dim * inner))?;
        self.write("dst", Rows::one(top_k * inner))
    }

    /// Number of labels and of classes.
    fn labels(&self) -> Result<(i128, i128), String> {
        let positions = self.size("outer")? * self.size("inner")?;
        self.up_to("ignore", 1)?;
        Ok((positions, self.size("channels")?))
    }

    fn softmax_loss(&mut self) -> Done {
        let (positions, channels) = self.labels()?;
        self.up_to("normalization", 3)?;
        self.read("prob", Rows::one(positions * channels))?;
        self.read("label", Rows::one(positions))?;
        self.write("dst", Rows::one(1))
    }

    fn accuracy(&mut self) -> Done {
        let (positions, channels) = self.labels()?;
        self.size("top_k")?;
        self.read("scores", Rows::one(positions * channels))?;
        self.read("label", Rows::one(positions))?;
        self.write("dst", Rows::one(1))?;
        if self.is_null("per_class") {
            return Ok(());
        }
        self.write("per_class", Rows::one(channels))
    }

    fn pool_mask(&mut self) -> Done {
        let plane = self.size("height")? * self.size("width")?;
        let out = self.size("out_height")? * self.size("out_width")?;
        for name in ["kernel_h", "kernel_w", "stride_h", "stride_w"] {
            self.size(name)?;
        }
        // The position of the last window must be a number.
        for (out, stride) in [("out_height", "stride_h"), ("out_width", "stride_w")] {
            i64::try_from(self.len(out)? * self.len(stride)?)
                .map_err(|_| format!("`{stride}` reaches too far"))?;
        }
        self.up_to("pad_h", MAX_LEN as i128)?;
        self.up_to("pad_w", MAX_LEN as i128)?;
        self.read("src", Rows::one(plane))?;
        self.write("dst", Rows::one(out))?;
        self.write("mask", Rows::one(out))
    }
}
