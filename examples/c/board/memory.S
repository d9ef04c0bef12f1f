/* memcpy and its kin for Arm in 160 bytes. Those of C libraries are made for speed and take 0.9 KB,
 * while a model moves little: structures, and rows of a few hundred numbers. The program in Rust
 * has the same in examples/firmware/src/board/memory.rs.
 *
 * Whole words where all addresses are multiples of four, then what is left byte by byte. Only what
 * Armv6-M has, too. */
    .syntax unified
    .section .text.memory, "ax", %progbits
    .global memcpy, __aeabi_memcpy, __aeabi_memcpy4, __aeabi_memcpy8
    .type memcpy, %function
    .type __aeabi_memcpy, %function
    .type __aeabi_memcpy4, %function
    .type __aeabi_memcpy8, %function
    .thumb_func
memcpy:
    .thumb_func
__aeabi_memcpy:
    .thumb_func
__aeabi_memcpy4:
    .thumb_func
__aeabi_memcpy8:
9:  mov r12, r0
    mov r3, r0
    orrs r3, r1
    lsls r3, r3, #30
    bne 3f
1:  subs r2, #4
    blo 2f
    ldmia r1!, {r3}
    stmia r0!, {r3}
    b 1b
2:  adds r2, #4
3:  subs r2, #1
    blo 4f
    ldrb r3, [r1]
    strb r3, [r0]
    adds r0, #1
    adds r1, #1
    b 3b
4:  mov r0, r12
    bx lr
    .size memcpy, . - memcpy

    .global memset, __aeabi_memset, __aeabi_memset4, __aeabi_memset8
    .global __aeabi_memclr, __aeabi_memclr4, __aeabi_memclr8
    .type memset, %function
    .type __aeabi_memset, %function
    .type __aeabi_memset4, %function
    .type __aeabi_memset8, %function
    .type __aeabi_memclr, %function
    .type __aeabi_memclr4, %function
    .type __aeabi_memclr8, %function
    .thumb_func
__aeabi_memclr:
    .thumb_func
__aeabi_memclr4:
    .thumb_func
__aeabi_memclr8:
    movs r2, #0
    .thumb_func
__aeabi_memset:
    .thumb_func
__aeabi_memset4:
    .thumb_func
__aeabi_memset8:
    mov r3, r1
    mov r1, r2
    mov r2, r3
    .thumb_func
memset:
    mov r12, r0
    uxtb r1, r1
    lsls r3, r0, #30
    bne 3f
    lsls r3, r1, #8
    orrs r1, r3
    lsls r3, r1, #16
    orrs r1, r3
1:  subs r2, #4
    blo 2f
    stmia r0!, {r1}
    b 1b
2:  adds r2, #4
3:  subs r2, #1
    blo 4f
    strb r1, [r0]
    adds r0, #1
    b 3b
4:  mov r0, r12
    bx lr
    .size memset, . - memset

    .global memmove, __aeabi_memmove, __aeabi_memmove4, __aeabi_memmove8
    .type memmove, %function
    .type __aeabi_memmove, %function
    .type __aeabi_memmove4, %function
    .type __aeabi_memmove8, %function
    .thumb_func
memmove:
    .thumb_func
__aeabi_memmove:
    .thumb_func
__aeabi_memmove4:
    .thumb_func
__aeabi_memmove8:
    subs r3, r0, r1
    cmp r3, r2
    bhs 9b
1:  subs r2, #1
    blo 2f
    ldrb r3, [r1, r2]
    strb r3, [r0, r2]
    b 1b
2:  bx lr
    .size memmove, . - memmove
