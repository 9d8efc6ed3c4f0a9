/* SPDX-License-Identifier: Apache-2.0 */
#include "control/version.h"

#include <stdio.h>

#include "commit.h"

const char *version_number(void)
{
    return CREEDENCE_VERSION;
}

const char *version_commit(void)
{
    return CREEDENCE_COMMIT;
}

bool version_is_debug(void)
{
    return CREEDENCE_DEBUG;
}

json_t *version_json(const char *program)
{
    return json_pack("{s:s, s:s, s:s, s:s}", "program", program, "version", version_number(), "commit",
                     version_commit(), "debug", version_is_debug() ? "y" : "n");
}

void version_print(const char *program, bool json)
{
    if (json) {
        json_t *v = version_json(program);
        json_dumpf(v, stdout, JSON_COMPACT);
        putchar('\n');
        json_decref(v);
        return;
    }
    printf("%s %s (%s) debug=%s\n", program, version_number(), version_commit(), version_is_debug() ? "y" : "n");
}
