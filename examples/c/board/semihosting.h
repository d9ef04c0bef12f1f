/* For the startup code. */
#ifndef SEMIHOSTING_H
#define SEMIHOSTING_H

/* Ends the program. */
void leave(int success) __attribute__((noreturn));

#endif
