/* What examples/c/board/memory.S does, byte by byte, for all short lengths and places:
 * -Wl,--wrap=program. */
#include <string.h>

#include "board.h"

enum { SIZE = 24 };

int __wrap_program(void);

static unsigned char bytes[SIZE] __attribute__((aligned(4)));
static unsigned char source[SIZE] __attribute__((aligned(4)));

static unsigned char initial(size_t at)
{
    return (unsigned char)(at * 7 + 1);
}

/* What `bytes` should be after `count` bytes at `to` were written: from `from`, or `fill`. */
static int is(size_t to, size_t from, size_t count, int fill)
{
    int same = 1;
    for (size_t at = 0; at < SIZE; at++) {
        const int written = at >= to && at < to + count;
        const int value = fill < 0 ? initial(at - to + from) : fill;
        same &= bytes[at] == (written ? value : initial(at));
        bytes[at] = initial(at);
    }
    return same;
}

int __wrap_program(void)
{
    int good = 1;
    for (size_t at = 0; at < SIZE; at++) {
        bytes[at] = source[at] = initial(at);
    }
    for (size_t count = 0; count <= 12; count++) {
        for (size_t to = 0; to <= SIZE - count; to++) {
            good &= memset(bytes + to, 0x1a5, count) == bytes + to && is(to, 0, count, 0xa5);
            for (size_t from = 0; from <= SIZE - count; from++) {
                good &= memcpy(bytes + to, source + from, count) == bytes + to;
                good &= is(to, from, count, -1);
                good &= memmove(bytes + to, bytes + from, count) == bytes + to;
                good &= is(to, from, count, -1);
            }
        }
    }
    if (good) {
        print_text("done\n", 5);
    }
    return good;
}
