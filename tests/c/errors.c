/* Prints what each number among the arguments means. */
#include <stdio.h>
#include <stdlib.h>

#include "pocketlm.h"

int main(int argc, char **argv)
{
    for (int at = 1; at < argc; at++) {
        puts(plm_error_text((int32_t)strtol(argv[at], NULL, 10)));
    }
    return EXIT_SUCCESS;
}
