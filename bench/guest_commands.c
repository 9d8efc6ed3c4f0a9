/* SPDX-License-Identifier: Apache-2.0 */
#include "guest_commands.h"

#include <string.h>
#include <unistd.h>

bool guest_commands(bool (*obey)(void *arg, const char *line), void *arg)
{
    static char text[256];
    static size_t have;
    ssize_t n = read(0, text + have, sizeof text - 1 - have);
    if (n <= 0) return false;
    have += (size_t)n;
    text[have] = 0;
    for (char *end; (end = strchr(text, '\n'));) {
        *end = 0;
        if (!obey(arg, text)) return false;
        have -= (size_t)(end + 1 - text);
        memmove(text, end + 1, have + 1);
    }
    return true;
}
