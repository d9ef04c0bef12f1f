//! The element types of a matrix, and how many bytes a matrix of each takes.

/// Rows of a tile: the rows of a matrix are stored eight together, so that a SIMD lane is a row.
pub const TILE_ROWS: usize = 8;
/// Columns that share a scale in the quantised types.
pub const GROUP: usize = 32;

/// How the elements of a tensor are stored.
///
/// Example: [`Isa`](crate::Isa).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
#[repr(u8)]
pub enum DType {
    /// IEEE binary32, 4 bytes an element.
    F32 = 0,
    /// IEEE binary16, 2 bytes an element.
    F16 = 1,
    /// bfloat16, 2 bytes an element.
    Bf16 = 2,
    /// 8 bit: groups of 32 along the row, one f16 scale, values in −128..=127 (8.5 bits an element;
    /// GGUF's Q8_0). This crate quantises to −127..=127.
    Q8 = 3,
    /// 4 bit: groups of 32 along the row, one f16 scale, values in −8..=7 (4.5 bits an element;
    /// GGUF's Q4_0).
    Q4 = 4,
    /// 4 bit with a minimum: groups of 32, one f16 scale and one f16 minimum, values in 0..=15
    /// (5 bits an element; GGUF's Q4_1).
    Q4Min = 5,
}

impl DType {
    /// Every type, in the order of its code.
    // The compiler does not ask for a new type here. `from_code` finds only what is listed.
    pub const ALL: [DType; 6] = [
        DType::F32,
        DType::F16,
        DType::Bf16,
        DType::Q8,
        DType::Q4,
        DType::Q4Min,
    ];

    /// The type with this code in an image.
    pub const fn from_code(code: u32) -> Option<DType> {
        if code < Self::ALL.len() as u32 {
            Some(Self::ALL[code as usize])
        } else {
            None
        }
    }

    /// The name used on the command line and in `info`.
    pub const fn name(self) -> &'static str {
        match self {
            DType::F32 => "f32",
            DType::F16 => "f16",
            DType::Bf16 => "bf16",
            DType::Q8 => "q8",
            DType::Q4 => "q4",
            DType::Q4Min => "q4min",
        }
    }

    /// Whether the kernels of this type are compiled in (a cargo feature each; both 4-bit types are
    /// `q4`).
    pub const fn enabled(self) -> bool {
        match self {
            DType::F32 => cfg!(feature = "f32"),
            DType::F16 => cfg!(feature = "f16"),
            DType::Bf16 => cfg!(feature = "bf16"),
            DType::Q8 => cfg!(feature = "q8"),
            DType::Q4 | DType::Q4Min => cfg!(feature = "q4"),
        }
    }

    /// Whether the type is multiplied in integers, with the input quantised to 16 bits.
    pub const fn is_quantized(self) -> bool {
        match self {
            DType::F32 | DType::F16 | DType::Bf16 => false,
            DType::Q8 | DType::Q4 | DType::Q4Min => true,
        }
    }

    /// Bytes of one tile row, eight matrix rows of `columns` columns; `None` on overflow.
    pub const fn tile_row_bytes(self, columns: usize) -> Option<usize> {
        match self {
            DType::F32 => columns.checked_mul(4 * TILE_ROWS),
            DType::F16 | DType::Bf16 => columns.checked_mul(2 * TILE_ROWS),
            DType::Q8 => columns
                .div_ceil(GROUP)
                .checked_mul(2 * TILE_ROWS + GROUP * TILE_ROWS),
            DType::Q4 => columns
                .div_ceil(GROUP)
                .checked_mul(2 * TILE_ROWS + GROUP * TILE_ROWS / 2),
            DType::Q4Min => columns
                .div_ceil(GROUP)
                .checked_mul(4 * TILE_ROWS + GROUP * TILE_ROWS / 2),
        }
    }

    /// Bytes of a matrix; `None` on overflow. The last tile row is stored in full.
    pub const fn matrix_bytes(self, rows: usize, columns: usize) -> Option<usize> {
        match self.tile_row_bytes(columns) {
            Some(bytes) => bytes.checked_mul(rows.div_ceil(TILE_ROWS)),
            None => None,
        }
    }
}

/// `row` in groups of 32; the last may be shorter. Unlike `chunks`, it does not divide by a length
/// that the compiler may not know: at the smallest optimisation levels that leaves a panic.
pub(crate) fn groups<T>(row: &[T]) -> impl Iterator<Item = &[T]> {
    let (whole, rest) = row.as_chunks::<GROUP>();
    whole
        .iter()
        .map(|group| group.as_slice())
        .chain((!rest.is_empty()).then_some(rest))
}

/// [`groups`], mutable.
pub(crate) fn groups_mut<T>(row: &mut [T]) -> impl Iterator<Item = &mut [T]> {
    let (whole, rest) = row.as_chunks_mut::<GROUP>();
    whole
        .iter_mut()
        .map(|group| group.as_mut_slice())
        .chain((!rest.is_empty()).then_some(rest))
}
