//! The DSP extension with a floating-point unit: Cortex-M4F, M7, and Cortex-M33 and later where
//! they have both.
//!
//! `sxtb16` widens two of the four bytes of a row to a pair of 16-bit words, even columns or odd
//! ones, which is the order inputs are kept in; `smlad` multiplies two pairs and adds both
//! products. Four rows at a time: their dot products, the inputs of two steps and two words of
//! weights fill the registers. The second four rows take the inputs backwards, so that those in
//! registers are used twice. Sums stay in floating-point registers; `vmla` rounds the product
//! before it adds (it is `vfma` that does not). Instructions counted in QEMU: `benches/README.md`.

use core::arch::global_asm;

use crate::arch::assembly::Kernels;
use crate::tile::{Q4MinTile, Q4Tile, Q8Tile};
use crate::{InputGroup, Isa, TILE_ROWS};

/// The table.
pub(super) static DSP: Isa = Isa {
    name: "dsp",
    matmul: |matrix, input, tile_rows, out| KERNELS.matmul(matrix, input, tile_rows, out),
    ..*Isa::SCALAR
};

const KERNELS: Kernels = Kernels {
    f32: None,
    f16: None,
    bf16: None,
    q8: pocketlm_dsp_q8,
    q4: pocketlm_dsp_q4,
    q4min: pocketlm_dsp_q4min,
};

unsafe extern "C" {
    fn pocketlm_dsp_q8(
        tiles: *const Q8Tile,
        x: *const InputGroup,
        groups: usize,
        sums: *mut [f32; TILE_ROWS],
    );
    fn pocketlm_dsp_q4(
        tiles: *const Q4Tile,
        x: *const InputGroup,
        groups: usize,
        sums: *mut [f32; TILE_ROWS],
    );
    fn pocketlm_dsp_q4min(
        tiles: *const Q4MinTile,
        x: *const InputGroup,
        groups: usize,
        sums: *mut [f32; TILE_ROWS],
    );
}

// r0 tiles, r1 inputs, lr groups that are left; r4 to r7 the dot products of four rows, r8 to r11
// inputs of two steps (q8) or one (4 bits), r2 and r3 words of weights, r12 what is widened. s16 to
// s23 the sums, s24 to s31 the dot products, s0 to s3 scales, s4 the input's scale.
global_asm!(
    r#"
    .arch armv7e-m
    .fpu fpv4-sp-d16
    .macro dsp_enter name
    .section .text.\name,"ax",%progbits
    .global \name
    .type \name,%function
    .thumb_func
    .balign 4
\name:
    push {r3-r11, lr}
    vpush {s16-s31}
    movs r4, #0
    .irp sum, s16, s17, s18, s19, s20, s21, s22, s23
    vmov \sum, r4
    .endr
    mov lr, r2
    .endm

    .macro dsp_leave name
    ldr r3, [sp, #64]
    vstm r3, {s16-s23}
    vpop {s16-s31}
    pop {r3-r11, pc}
    .size \name, . - \name
    .endm

    // Four halves in \scales: eight factors in s5 to s12, each times the input's scale.
    .macro dsp_factors
    vcvtb.f32.f16 s5, s0
    vcvtt.f32.f16 s6, s0
    vcvtb.f32.f16 s7, s1
    vcvtt.f32.f16 s8, s1
    vcvtb.f32.f16 s9, s2
    vcvtt.f32.f16 s10, s2
    vcvtb.f32.f16 s11, s3
    vcvtt.f32.f16 s12, s3
    .irp factor, s5, s6, s7, s8, s9, s10, s11, s12
    vmul.f32 \factor, \factor, s4
    .endr
    .endm

    // sum = sum + dot * (scale * input scale); the tile's scales are in s0 to s3.
    .macro dsp_join
    .irp dot, s24, s25, s26, s27, s28, s29, s30, s31
    vcvt.f32.s32 \dot, \dot
    .endr
    dsp_factors
    vmla.f32 s16, s24, s5
    vmla.f32 s17, s25, s6
    vmla.f32 s18, s26, s7
    vmla.f32 s19, s27, s8
    vmla.f32 s20, s28, s9
    vmla.f32 s21, s29, s10
    vmla.f32 s22, s30, s11
    vmla.f32 s23, s31, s12
    .endm

    // Four columns of one row. The first step of a group starts its dot product.
    .macro dsp_q8_row first, dot, word, even, odd
    sxtb16 r12, \word
    .ifc \first, first
    smuad \dot, r12, \even
    .else
    smlad \dot, r12, \even, \dot
    .endif
    sxtb16 \word, \word, ror #8
    smlad \dot, \word, \odd, \dot
    .endm

    .macro dsp_q8_step first, offset, even, odd
    ldrd r2, r3, [r0, #16 + \offset]
    dsp_q8_row \first, r4, r2, \even, \odd
    dsp_q8_row \first, r5, r3, \even, \odd
    ldrd r2, r3, [r0, #24 + \offset]
    dsp_q8_row \first, r6, r2, \even, \odd
    dsp_q8_row \first, r7, r3, \even, \odd
    .endm

    dsp_enter pocketlm_dsp_q8
1:  ldmia r1!, {r8-r11}
    dsp_q8_step first, 0, r8, r9
    dsp_q8_step then, 32, r10, r11
    ldmia r1!, {r8-r11}
    dsp_q8_step then, 64, r8, r9
    dsp_q8_step then, 96, r10, r11
    ldmia r1!, {r8-r11}
    dsp_q8_step then, 128, r8, r9
    dsp_q8_step then, 160, r10, r11
    ldmia r1, {r8-r11}
    dsp_q8_step then, 192, r8, r9
    dsp_q8_step then, 224, r10, r11
    vmov s24, s25, r4, r5
    vmov s26, s27, r6, r7
    dsp_q8_step first, 208, r8, r9
    dsp_q8_step then, 240, r10, r11
    ldmdb r1!, {r8-r11}
    dsp_q8_step then, 144, r8, r9
    dsp_q8_step then, 176, r10, r11
    ldmdb r1!, {r8-r11}
    dsp_q8_step then, 80, r8, r9
    dsp_q8_step then, 112, r10, r11
    ldmdb r1!, {r8-r11}
    dsp_q8_step then, 16, r8, r9
    dsp_q8_step then, 48, r10, r11
    vmov s28, s29, r4, r5
    vmov s30, s31, r6, r7
    vldm r0, {s0-s3}
    vldr s4, [r1, #64]
    dsp_join
    add r0, r0, #272
    adds r1, #72
    subs lr, lr, #1
    bne 1b
    dsp_leave pocketlm_dsp_q8

    // Eight columns of one row: 0 and 2 are the lowest nibbles of the words, then 4 and 6, 1 and 3,
    // 5 and 7. The dot product goes on from \from; r14 is the mask.
    .macro dsp_q4_row dot, from, word
    and r12, lr, \word
    smlad \dot, r12, r8, \from
    and r12, lr, \word, lsr #8
    smlad \dot, r12, r9, \dot
    and r12, lr, \word, lsr #4
    smlad \dot, r12, r10, \dot
    and r12, lr, \word, lsr #12
    smlad \dot, r12, r11, \dot
    .endm

    .macro dsp_q4_step offset, from4, from5, from6, from7
    ldrd r2, r3, [r0, #\offset]
    dsp_q4_row r4, \from4, r2
    dsp_q4_row r5, \from5, r3
    ldrd r2, r3, [r0, #\offset + 8]
    dsp_q4_row r6, \from6, r2
    dsp_q4_row r7, \from7, r3
    .endm

    // \header: bytes before the nibbles. The dot products start from r7. The mask takes the place
    // of the groups that are left, which wait in s13.
    .macro dsp_q4_dots header
    vmov s14, r7
    ldmia r1!, {r8-r11}
    dsp_q4_step \header, r7, r7, r7, r7
    ldmia r1!, {r8-r11}
    dsp_q4_step \header + 32, r4, r5, r6, r7
    ldmia r1!, {r8-r11}
    dsp_q4_step \header + 64, r4, r5, r6, r7
    ldmia r1, {r8-r11}
    dsp_q4_step \header + 96, r4, r5, r6, r7
    vmov s24, s25, r4, r5
    vmov s26, s27, r6, r7
    vmov r7, s14
    dsp_q4_step \header + 112, r7, r7, r7, r7
    ldmdb r1!, {r8-r11}
    dsp_q4_step \header + 80, r4, r5, r6, r7
    ldmdb r1!, {r8-r11}
    dsp_q4_step \header + 48, r4, r5, r6, r7
    ldmdb r1!, {r8-r11}
    dsp_q4_step \header + 16, r4, r5, r6, r7
    vmov s28, s29, r4, r5
    vmov s30, s31, r6, r7
    .endm

    dsp_enter pocketlm_dsp_q4
    vmov s13, lr
    mov lr, #0x000f000f
1:  ldr r7, [r1, #68]
    rsb r7, r7, #0
    lsls r7, r7, #3
    dsp_q4_dots 16
    vldm r0, {s0-s3}
    vldr s4, [r1, #64]
    dsp_join
    adds r0, #144
    adds r1, #72
    vmov r2, s13
    subs r2, r2, #1
    vmov s13, r2
    bne 1b
    dsp_leave pocketlm_dsp_q4

    dsp_enter pocketlm_dsp_q4min
    vmov s13, lr
    mov lr, #0x000f000f
1:  movs r7, #0
    dsp_q4_dots 32
    vldm r0, {s0-s3}
    vldr s4, [r1, #64]
    dsp_join
    add r2, r0, #16
    vldm r2, {s0-s3}
    dsp_factors
    vldr s0, [r1, #68]
    vcvt.f32.s32 s0, s0
    vmla.f32 s16, s0, s5
    vmla.f32 s17, s0, s6
    vmla.f32 s18, s0, s7
    vmla.f32 s19, s0, s8
    vmla.f32 s20, s0, s9
    vmla.f32 s21, s0, s10
    vmla.f32 s22, s0, s11
    vmla.f32 s23, s0, s12
    adds r0, #160
    adds r1, #72
    vmov r2, s13
    subs r2, r2, #1
    vmov s13, r2
    bne 1b
    dsp_leave pocketlm_dsp_q4min
    "#,
    options(raw)
);
