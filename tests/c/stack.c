/* Prints how many bytes of stack `program` takes: -Wl,--wrap=program. */
#include <stdint.h>

#include "board.h"

enum { WORDS = 4096 };

int __real_program(void);
int __wrap_program(void);

int __wrap_program(void)
{
    static const uint32_t paint = 0xa5a5a5a5;
    uintptr_t here;
    __asm__ volatile("mov %0, sp" : "=r"(here));
    /* Below the stack pointer nothing is in use. */
    volatile uint32_t *top = (volatile uint32_t *)here;
    volatile uint32_t *word = top - WORDS;
    for (; word < top; word++) {
        *word = paint;
    }
    const int success = __real_program();
    for (word = top - WORDS; word < top && *word == paint; word++) {
    }
    char text[] = "stack 00000\n";
    uint32_t bytes = (uint32_t)(here - (uintptr_t)word);
    for (char *digit = text + 10; digit > text + 5; digit--) {
        *digit = (char)('0' + bytes % 10);
        bytes /= 10;
    }
    print_text(text, sizeof text - 1);
    return success;
}
