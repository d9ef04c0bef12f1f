/* Prints how many words of scratch the header asks for, without NFC and with it, for texts of as
 * many bytes as the arguments say. */
#include <stdio.h>
#include <stdlib.h>

#include "pocketlm.h"

int main(int argc, char **argv)
{
    for (int at = 1; at < argc; at++) {
        const size_t bytes = strtoul(argv[at], NULL, 10);
        printf("%zu %zu\n", PLM_SCRATCH_WORDS(bytes), PLM_NFC_SCRATCH_WORDS(bytes));
    }
    return EXIT_SUCCESS;
}
