/* Printing and the end of the program by semihosting, for Arm and RISC-V. */
#include <stdint.h>

#include "board.h"
#include "semihosting.h"

enum { SYS_OPEN = 0x01, SYS_WRITE = 0x05, SYS_EXIT_EXTENDED = 0x20 };

static uintptr_t call(uintptr_t operation, const void *argument)
{
#if defined(__riscv)
    register uintptr_t a0 __asm__("a0") = operation;
    register const void *a1 __asm__("a1") = argument;
    /* These three, none of them compressed and all on one page, are the call. */
    __asm__ volatile(".balign 16\n"
                     ".option push\n"
                     ".option norvc\n"
                     "slli x0, x0, 0x1f\n"
                     "ebreak\n"
                     "srai x0, x0, 7\n"
                     ".option pop\n"
                     : "+r"(a0)
                     : "r"(a1)
                     : "memory");
    return a0;
#else
    register uintptr_t r0 __asm__("r0") = operation;
    register const void *r1 __asm__("r1") = argument;
    __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
    return r0;
#endif
}

void print_text(const char *text, size_t bytes)
{
    static uintptr_t console;
    if (console == 0) {
        /* Mode 4 is "w": standard output. */
        static const char name[] = ":tt";
        const uintptr_t open[] = {(uintptr_t)name, 4, sizeof name - 1};
        console = call(SYS_OPEN, open);
    }
    const uintptr_t write[] = {console, (uintptr_t)text, bytes};
    call(SYS_WRITE, write);
}

void leave(int success)
{
    const uintptr_t exit[] = {0x20026, success ? 0 : 1};
    call(SYS_EXIT_EXTENDED, exit);
    for (;;) {
    }
}
