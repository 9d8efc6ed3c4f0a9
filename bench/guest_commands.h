/* SPDX-License-Identifier: Apache-2.0 */
/* Simulated guests that are told what to do: commands on standard input, a line each. */
#ifndef BENCH_GUEST_COMMANDS_H
#define BENCH_GUEST_COMMANDS_H

#include <stdbool.h>

/* Standard input is readable: obey() each line that is there whole. False: it has ended, a line is too long, or obey() said so. */
bool guest_commands(bool (*obey)(void *arg, const char *line), void *arg);

#endif
