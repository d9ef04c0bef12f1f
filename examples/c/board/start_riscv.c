/* Startup of a RISC-V core in machine mode: stack, variables, the floating-point unit. */
#include <stdint.h>

#include "board.h"
#include "semihosting.h"

extern uint32_t data_start[], data_end[], data_load[], bss_start[], bss_end[];

void run(void) __attribute__((noreturn));

__asm__(".section .vectors, \"ax\"\n"
        ".global reset\n"
        "reset:\n"
        "    la sp, stack_top\n"
        "    la t0, fault\n"
        "    csrw mtvec, t0\n"
        "    j run\n"
        ".balign 4\n"
        "fault:\n"
        "    li a0, 0\n"
        "    j leave\n"
        ".text\n");

void run(void)
{
#if defined(__riscv_flen)
    /* mstatus.FS: the floating-point unit may be used. */
    __asm__ volatile("csrs mstatus, %0" ::"r"(1u << 13) : "memory");
#endif
    const uint32_t *from = data_load;
    for (uint32_t *to = data_start; to < data_end; to++) {
        *to = *from++;
    }
    for (uint32_t *to = bss_start; to < bss_end; to++) {
        *to = 0;
    }
    leave(program());
}
