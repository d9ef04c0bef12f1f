//! The vector extension of Armv8.1-M, Helium: Cortex-M55, M85.
//!
//! Helium multiplies and adds across the lanes of a vector into a general register, `vmladava`, so
//! a vector is one row's columns: four words of the row gathered from four steps of its tile, at no
//! more cost than the words one by one. Of q8 the even columns and the odd ones widen to 16 bits,
//! which is the order inputs are kept in. Nibbles meet inputs of two digits, `x = 256 high + low`,
//! sixteen at a time: they are 0..=15 and fit the signed high one as well as the unsigned low one.
//!
//! The f32 join is scalar: Helium's floating-point arithmetic flushes subnormal numbers to zero,
//! whatever FPSCR says, and the crate's contract needs them. (Its conversions of integers and of
//! f16 are exact.) Instructions counted in QEMU: `benches/README.md`.

use core::arch::global_asm;

use crate::arch::assembly::Kernels;
use crate::tile::{Q4MinTile, Q4Tile, Q8Tile};
use crate::{InputGroup, Isa, TILE_ROWS};

/// The table.
pub(super) static MVE: Isa = Isa {
    name: "mve",
    matmul: |matrix, input, tile_rows, out| KERNELS.matmul(matrix, input, tile_rows, out),
    ..*Isa::SCALAR
};

const KERNELS: Kernels = Kernels {
    f32: None,
    f16: None,
    bf16: None,
    q8: pocketlm_mve_q8,
    q4: pocketlm_mve_q4,
    q4min: pocketlm_mve_q4min,
};

unsafe extern "C" {
    fn pocketlm_mve_q8(
        tiles: *const Q8Tile,
        x: *const InputGroup,
        groups: usize,
        sums: *mut [f32; TILE_ROWS],
    );
    fn pocketlm_mve_q4(
        tiles: *const Q4Tile,
        x: *const InputGroup,
        groups: usize,
        sums: *mut [f32; TILE_ROWS],
    );
    fn pocketlm_mve_q4min(
        tiles: *const Q4MinTile,
        x: *const InputGroup,
        groups: usize,
        sums: *mut [f32; TILE_ROWS],
    );
}

// q0 to q3 the inputs, q4 where the words of row 0 lie, q5 to q7 weights. At the end of a group q0
// and q1 are the factors, q2 and q3 the dot products, s20 the input's scale, q6 and q7 the sums,
// which wait in memory meanwhile.
global_asm!(
    r#"
    .cpu cortex-m55
    // r1 inputs, r3 tiles, \sums the sums. \stride: bytes between the words of a row that are
    // gathered together.
    .macro mve_enter name, stride, sums
    .section .text.\name,"ax",%progbits
    .global \name
    .type \name,%function
    .thumb_func
    .balign 4
\name:
    push {r3-r11, lr}
    vpush {s16-s31}
    vmov.i32 q0, #0
    vstrw.32 q0, [r3]
    vstrw.32 q0, [r3, #16]
    movs r4, #0
    vidup.u32 q4, r4, #(\stride / 16)
    vshl.i32 q4, q4, #4
    vadd.i32 q4, q4, r0
    mov \sums, r3
    mov r3, r0
    .endm

    .macro mve_leave name
    vpop {s16-s31}
    pop {r3-r11, pc}
    .size \name, . - \name
    .endm

    // Of each eight columns, 0 2, 1 3, 4 6 and 5 7.
    .macro mve_inputs
    vld40.32 {q0, q1, q2, q3}, [r1]
    vld41.32 {q0, q1, q2, q3}, [r1]
    vld42.32 {q0, q1, q2, q3}, [r1]
    vld43.32 {q0, q1, q2, q3}, [r1]!
    .endm

    // Eight f16 at \from: factors, each times the input's scale.
    .macro mve_factors from
    vldrh.u32 q0, [r3, #\from]
    vldrh.u32 q1, [r3, #\from + 8]
    vcvtb.f32.f16 q0, q0
    vcvtb.f32.f16 q1, q1
    .irp factor, s0, s1, s2, s3, s4, s5, s6, s7
    vmul.f32 \factor, \factor, s20
    .endr
    .endm

    // sum = sum + dot * (scale * input scale).
    .macro mve_join
    vcvt.f32.s32 q2, q2
    vcvt.f32.s32 q3, q3
    vldr s20, [r1]
    mve_factors 0
    vmla.f32 s24, s8, s0
    vmla.f32 s25, s9, s1
    vmla.f32 s26, s10, s2
    vmla.f32 s27, s11, s3
    vmla.f32 s28, s12, s4
    vmla.f32 s29, s13, s5
    vmla.f32 s30, s14, s6
    vmla.f32 s31, s15, s7
    .endm

    // Eight times columns 0 to 3 of each eight of a row, and 4 to 7.
    .macro mve_q8_row dot, offset
    vldrw.u32 q5, [q4, #\offset]
    vmovlb.s8 q6, q5
    vmladav.s16 \dot, q6, q0
    vmovlt.s8 q5, q5
    vmladava.s16 \dot, q5, q1
    vldrw.u32 q5, [q4, #\offset + 32]
    vmovlb.s8 q6, q5
    vmladava.s16 \dot, q6, q2
    vmovlt.s8 q5, q5
    vmladava.s16 \dot, q5, q3
    .endm

    // r7 groups that are left, r9 bytes of a tile; the even registers the dot products.
    mve_enter pocketlm_mve_q8, 64, r5
    mov r7, r2
    mov.w r9, #272
1:  mve_inputs
    mve_q8_row r0, 16
    mve_q8_row r2, 20
    mve_q8_row r4, 24
    mve_q8_row r6, 28
    mve_q8_row r8, 32
    mve_q8_row r10, 36
    mve_q8_row r12, 40
    mve_q8_row lr, 44
    vmov s8, s9, r0, r2
    vmov s10, s11, r4, r6
    vmov s12, s13, r8, r10
    vmov s14, s15, r12, lr
    vldm r5, {s24-s31}
    mve_join
    vstm r5, {s24-s31}
    vadd.i32 q4, q4, r9
    add r3, r9
    adds r1, #8
    subs r7, #1
    bne 1b
    mve_leave pocketlm_mve_q8

    // The digits of the inputs, in the order of the nibbles: the low and the high ones of columns 0
    // to 3 of each eight, then of 4 to 7.
    .macro mve_digits
    mve_inputs
    vmov q5, q0
    vmovnt.i16 q0, q1
    vshrnb.i16 q1, q5, #8
    vmov q5, q2
    vmovnt.i16 q2, q3
    vshrnb.i16 q3, q5, #8
    vmov.i8 q7, #15
    .endm

    .macro mve_q4_row dot, offset
    vldrw.u32 q5, [q4, #\offset]
    vand q6, q5, q7
    vshr.u8 q5, q5, #4
    vmladav.u8 r0, q6, q0
    vmladava.u8 r0, q5, q2
    vmladav.s8 r2, q6, q1
    vmladava.s8 r2, q5, q3
    add \dot, r0, r2, lsl #8
    .endm

    // \header: bytes before the nibbles. The dot products are in r4 to r11 and then q2 and q3.
    .macro mve_q4_dots header
    mve_digits
    mve_q4_row r4, \header
    mve_q4_row r5, \header + 4
    mve_q4_row r6, \header + 8
    mve_q4_row r7, \header + 12
    mve_q4_row r8, \header + 16
    mve_q4_row r9, \header + 20
    mve_q4_row r10, \header + 24
    mve_q4_row r11, \header + 28
    vmov s8, s9, r4, r5
    vmov s10, s11, r6, r7
    vmov s12, s13, r8, r9
    vmov s14, s15, r10, r11
    vldm r12, {s24-s31}
    .endm

    // lr groups that are left.
    mve_enter pocketlm_mve_q4, 32, r12
    mov lr, r2
1:  mve_q4_dots 16
    ldr r0, [r1, #4]
    lsls r0, r0, #3
    vsub.i32 q2, q2, r0
    vsub.i32 q3, q3, r0
    mve_join
    vstm r12, {s24-s31}
    movs r0, #144
    vadd.i32 q4, q4, r0
    add r3, r0
    adds r1, #8
    subs lr, lr, #1
    bne 1b
    mve_leave pocketlm_mve_q4

    mve_enter pocketlm_mve_q4min, 32, r12
    mov lr, r2
1:  mve_q4_dots 32
    mve_join
    mve_factors 16
    vldr s8, [r1, #4]
    vcvt.f32.s32 s8, s8
    vmla.f32 s24, s8, s0
    vmla.f32 s25, s8, s1
    vmla.f32 s26, s8, s2
    vmla.f32 s27, s8, s3
    vmla.f32 s28, s8, s4
    vmla.f32 s29, s8, s5
    vmla.f32 s30, s8, s6
    vmla.f32 s31, s8, s7
    vstm r12, {s24-s31}
    movs r0, #160
    vadd.i32 q4, q4, r0
    add r3, r0
    adds r1, #8
    subs lr, lr, #1
    bne 1b
    mve_leave pocketlm_mve_q4min
    "#,
    options(raw)
);
