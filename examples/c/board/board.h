/* What the programs need of a board: the same on every one. */
#ifndef BOARD_H
#define BOARD_H

#include <stddef.h>

/* Called by the startup code, once. Returns whether all went well. */
int program(void);

/* Prints on the host, by semihosting: on a board without a debugger, write to a UART here. */
void print_text(const char *text, size_t bytes);

/* The image, in a section of its own: image.S. */
extern const unsigned char image[];
extern const unsigned char image_end[];

#endif
