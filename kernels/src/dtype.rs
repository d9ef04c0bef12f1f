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
    /// 5 bit: groups of 32 along the row, one f16 scale, values in −16..=15 (5.5 bits an element;
    /// GGUF's Q5_0).
    Q5 = 6,
    /// 6 bit: groups of 32 along the row, one f16 scale, values in −32..=31 (6.5 bits an element).
    Q6 = 7,
    /// 3 bit, uneven: groups of 32 along the row, codes of eight [`levels`](DType::levels), one
    /// 8-bit scale a group and one bf16 scale a row (3.25 bits an element and 16 bits a row).
    Nl3 = 8,
    /// 4 bit, uneven: as [`Nl3`](DType::Nl3), with 16 levels (4.25 bits an element and 16 bits a
    /// row).
    Nl4 = 9,
}

/// The levels of [`DType::Nl3`].
pub(crate) const LEVELS_3: [i8; 8] = [-127, -77, -45, -18, 7, 33, 63, 104];
/// The levels of [`DType::Nl4`].
pub(crate) const LEVELS_4: [i8; 16] = [
    -127, -100, -79, -62, -47, -34, -21, -9, 3, 15, 27, 41, 55, 72, 93, 123,
];

impl DType {
    /// Every type, in the order of its code.
    // The compiler does not ask for a new type here. `from_code` finds only what is listed.
    pub const ALL: [DType; 10] = [
        DType::F32,
        DType::F16,
        DType::Bf16,
        DType::Q8,
        DType::Q4,
        DType::Q4Min,
        DType::Q5,
        DType::Q6,
        DType::Nl3,
        DType::Nl4,
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
            DType::Q5 => "q5",
            DType::Q6 => "q6",
            DType::Nl3 => "nl3",
            DType::Nl4 => "nl4",
        }
    }

    /// The cargo feature that compiles the kernels of this type in: its name, but `q4` is for both
    /// types of even 4-bit levels.
    pub const fn feature(self) -> &'static str {
        match self {
            DType::Q4Min => DType::Q4.name(),
            DType::F32
            | DType::F16
            | DType::Bf16
            | DType::Q8
            | DType::Q6
            | DType::Q5
            | DType::Q4
            | DType::Nl4
            | DType::Nl3 => self.name(),
        }
    }

    /// Whether the kernels of this type are compiled in ([`feature`](DType::feature)).
    pub const fn enabled(self) -> bool {
        match self {
            DType::F32 => cfg!(feature = "f32"),
            DType::F16 => cfg!(feature = "f16"),
            DType::Bf16 => cfg!(feature = "bf16"),
            DType::Q8 => cfg!(feature = "q8"),
            DType::Q4 | DType::Q4Min => cfg!(feature = "q4"),
            DType::Q5 => cfg!(feature = "q5"),
            DType::Q6 => cfg!(feature = "q6"),
            DType::Nl3 => cfg!(feature = "nl3"),
            DType::Nl4 => cfg!(feature = "nl4"),
        }
    }

    /// Whether the type is multiplied in integers, with the input quantised to 16 bits.
    pub const fn is_quantized(self) -> bool {
        match self {
            DType::F32 | DType::F16 | DType::Bf16 => false,
            DType::Q8
            | DType::Q4
            | DType::Q4Min
            | DType::Q5
            | DType::Q6
            | DType::Nl3
            | DType::Nl4 => true,
        }
    }

    /// The level of each code, in ascending order, for the types whose levels are uneven. A weight
    /// is `level * (group scale * row scale)`. For the other types there are none.
    pub const fn levels(self) -> &'static [i8] {
        match self {
            DType::Nl3 => &LEVELS_3,
            DType::Nl4 => &LEVELS_4,
            DType::F32
            | DType::F16
            | DType::Bf16
            | DType::Q8
            | DType::Q4
            | DType::Q4Min
            | DType::Q5
            | DType::Q6 => &[],
        }
    }

    /// Bytes of one tile row, eight matrix rows of `columns` columns; `None` on overflow.
    pub const fn tile_row_bytes(self, columns: usize) -> Option<usize> {
        let groups = columns.div_ceil(GROUP);
        // The bytes before the tiles, how many tiles there are, and the bytes of each.
        let (header, tiles, bytes) = match self {
            DType::F32 => (0, columns, 4 * TILE_ROWS),
            DType::F16 | DType::Bf16 => (0, columns, 2 * TILE_ROWS),
            DType::Q8 => (0, groups, 2 * TILE_ROWS + GROUP * TILE_ROWS),
            DType::Q6 => (0, groups, 2 * TILE_ROWS + GROUP * TILE_ROWS * 6 / 8),
            DType::Q5 => (0, groups, 2 * TILE_ROWS + GROUP * TILE_ROWS * 5 / 8),
            DType::Q4 => (0, groups, 2 * TILE_ROWS + GROUP * TILE_ROWS / 2),
            DType::Q4Min => (0, groups, 4 * TILE_ROWS + GROUP * TILE_ROWS / 2),
            DType::Nl4 => (2 * TILE_ROWS, groups, TILE_ROWS + GROUP * TILE_ROWS / 2),
            DType::Nl3 => (2 * TILE_ROWS, groups, TILE_ROWS + GROUP * TILE_ROWS * 3 / 8),
        };
        match tiles.checked_mul(bytes) {
            Some(bytes) => bytes.checked_add(header),
            None => None,
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
