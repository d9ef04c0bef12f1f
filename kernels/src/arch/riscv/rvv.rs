//! The vector extension of RISC-V, version 1.0 (SpacemiT K1, SiFive X280), whatever the length of
//! its registers.
//!
//! A lane is an output row: eight of 32 bits, a pair of registers where they have the least length
//! there is, 128 bits. A segment load takes the bytes of four columns apart, a register each;
//! widened to 16 bits, `vwmacc.vx` multiplies a column by its input, straight from a general
//! register, and adds to the rows' 32-bit lanes. Floating-point arithmetic follows IEEE 754,
//! subnormal numbers included, and f16 is widened by integers, since an extension of its own
//! converts it.
//!
//! Checked, and its instructions counted, in QEMU: `benches/README.md`. No hardware was at hand.

use core::arch::global_asm;

use crate::arch::assembly::Kernels;
use crate::tile::{Q4MinTile, Q4Tile, Q8Tile};
use crate::{InputGroup, Isa, TILE_ROWS};

/// The table.
pub(super) static RVV: Isa = Isa {
    name: "rvv",
    matmul: |matrix, input, tile_rows, out| KERNELS.matmul(matrix, input, tile_rows, out),
    ..*Isa::SCALAR
};

const KERNELS: Kernels = Kernels {
    f32: Some(pocketlm_rvv_f32),
    f16: Some(pocketlm_rvv_f16),
    bf16: Some(pocketlm_rvv_bf16),
    q8: pocketlm_rvv_q8,
    q4: pocketlm_rvv_q4,
    q4min: pocketlm_rvv_q4min,
};

unsafe extern "C" {
    fn pocketlm_rvv_f32(
        tiles: *const [f32; TILE_ROWS],
        x: *const f32,
        columns: usize,
        sums: *mut [f32; TILE_ROWS],
    );
    fn pocketlm_rvv_f16(
        tiles: *const [u16; TILE_ROWS],
        x: *const f32,
        columns: usize,
        sums: *mut [f32; TILE_ROWS],
    );
    fn pocketlm_rvv_bf16(
        tiles: *const [u16; TILE_ROWS],
        x: *const f32,
        columns: usize,
        sums: *mut [f32; TILE_ROWS],
    );
    fn pocketlm_rvv_q8(
        tiles: *const Q8Tile,
        x: *const InputGroup,
        groups: usize,
        sums: *mut [f32; TILE_ROWS],
    );
    fn pocketlm_rvv_q4(
        tiles: *const Q4Tile,
        x: *const InputGroup,
        groups: usize,
        sums: *mut [f32; TILE_ROWS],
    );
    fn pocketlm_rvv_q4min(
        tiles: *const Q4MinTile,
        x: *const InputGroup,
        groups: usize,
        sums: *mut [f32; TILE_ROWS],
    );
}

// a0 tiles, a1 inputs, a2 groups or columns that are left, a3 where the sums go; v24 the sums, v26
// the dot products, v4 to v7 four columns of bytes, v8 to v15 columns of 16 bits. At the end of a
// group v12 holds factors. ft0 is 2^112, ft1 the input's scale, or the input.
global_asm!(
    r#"
    .option push
    .option arch, +v
    .macro rvv_enter name
    .section .text.\name,"ax",@progbits
    .global \name
    .type \name,@function
    .balign 4
\name:
    li t0, 0x77800000
    fmv.w.x ft0, t0
    vsetivli zero, 8, e32, m2, ta, ma
    vmv.v.i v24, 0
    .endm

    .macro rvv_leave name
    addi a2, a2, -1
    bnez a2, 1b
    vse32.v v24, (a3)
    ret
    .size \name, . - \name
    .endm

    // v12 = v16, eight f16: exponent and mantissa, moved to where those of f32 are, are 2^112 times
    // too small.
    .macro rvv_widen
    vzext.vf2 v14, v16
    vsll.vi v12, v14, 17
    vsrl.vi v12, v12, 4
    vfmul.vf v12, v12, ft0
    vsll.vi v14, v14, 16
    vfsgnj.vv v12, v12, v14
    .endm

    // Eight weights, of \bytes bytes together, that \load puts into v12 as f32, with the input of
    // their column; and the next.
    .macro rvv_floats name, bytes, load
    rvv_enter \name
1:  \load
    flw ft1, (a1)
    addi a0, a0, \bytes
    addi a1, a1, 4
    vfmul.vf v12, v12, ft1
    vfadd.vv v24, v24, v12
    rvv_leave \name
    .endm

    .macro rvv_load_f32
    vle32.v v12, (a0)
    .endm

    .macro rvv_load_f16
    vle16.v v16, (a0)
    rvv_widen
    .endm

    .macro rvv_load_bf16
    vle16.v v16, (a0)
    vzext.vf2 v12, v16
    vsll.vi v12, v12, 16
    .endm

    rvv_floats pocketlm_rvv_f32, 32, rvv_load_f32
    rvv_floats pocketlm_rvv_f16, 16, rvv_load_f16
    rvv_floats pocketlm_rvv_bf16, 16, rvv_load_bf16

    // The products of four columns with their inputs, which are kept in the order 0 2 1 3.
    .macro rvv_columns c0, c1, c2, c3, inputs
    lh t0, \inputs(a1)
    lh t1, \inputs + 4(a1)
    lh t2, \inputs + 2(a1)
    lh t3, \inputs + 6(a1)
    vwmacc.vx v26, t0, \c0
    vwmacc.vx v26, t1, \c1
    vwmacc.vx v26, t2, \c2
    vwmacc.vx v26, t3, \c3
    .endm

    // sum = sum + dot * (scale * input scale).
    .macro rvv_join
    vle16.v v16, (a0)
    flw ft1, 64(a1)
    vsetivli zero, 8, e32, m2, ta, ma
    rvv_widen
    vfmul.vf v12, v12, ft1
    vfcvt.f.x.v v26, v26
    vfmul.vv v26, v26, v12
    vfadd.vv v24, v24, v26
    .endm

    rvv_enter pocketlm_rvv_q8
1:  vmv.v.i v26, 0
    addi t4, a0, 16
    vsetivli zero, 8, e16, m1, ta, ma
    .irp inputs, 0, 8, 16, 24, 32, 40, 48, 56
    vlseg4e8.v v4, (t4)
    addi t4, t4, 32
    vsext.vf2 v8, v4
    vsext.vf2 v9, v5
    vsext.vf2 v10, v6
    vsext.vf2 v11, v7
    rvv_columns v8, v9, v10, v11, \inputs
    .endr
    rvv_join
    addi a0, a0, 272
    addi a1, a1, 72
    rvv_leave pocketlm_rvv_q8

    // \header: bytes before the nibbles.
    .macro rvv_nibbles header
    addi t4, a0, \header
    vsetivli zero, 8, e16, m1, ta, ma
    .irp inputs, 0, 16, 32, 48
    vlseg4e8.v v4, (t4)
    addi t4, t4, 32
    vzext.vf2 v8, v4
    vzext.vf2 v9, v5
    vzext.vf2 v10, v6
    vzext.vf2 v11, v7
    vand.vi v12, v8, 15
    vand.vi v13, v9, 15
    vand.vi v14, v10, 15
    vand.vi v15, v11, 15
    rvv_columns v12, v13, v14, v15, \inputs
    vsrl.vi v8, v8, 4
    vsrl.vi v9, v9, 4
    vsrl.vi v10, v10, 4
    vsrl.vi v11, v11, 4
    rvv_columns v8, v9, v10, v11, \inputs + 8
    .endr
    .endm

    rvv_enter pocketlm_rvv_q4
1:  lw t0, 68(a1)
    slli t0, t0, 3
    neg t0, t0
    vmv.v.x v26, t0
    rvv_nibbles 16
    rvv_join
    addi a0, a0, 144
    addi a1, a1, 72
    rvv_leave pocketlm_rvv_q4

    rvv_enter pocketlm_rvv_q4min
1:  vmv.v.i v26, 0
    rvv_nibbles 32
    rvv_join
    // The minimum, and the sum of the inputs.
    addi t4, a0, 16
    vle16.v v16, (t4)
    lw t0, 68(a1)
    fcvt.s.w ft2, t0
    rvv_widen
    vfmul.vf v12, v12, ft1
    vfmul.vf v12, v12, ft2
    vfadd.vv v24, v24, v12
    addi a0, a0, 160
    addi a1, a1, 72
    rvv_leave pocketlm_rvv_q4min
    .option pop
    "#,
    options(raw)
);
