/* SPDX-License-Identifier: Apache-2.0 */
/* What the verbs on flows, groups and meters share. */
#ifndef CMD_CLI_BATCH_H
#define CMD_CLI_BATCH_H

#include "cmd/cli.h"

#define CLI_BATCH_MS 60000u

struct cli_change {
    const char *method, *key;
    const char *thing, *word; /* "flow", "added" */
    const char
        *file_unless; /* the argument is a file's name if this is not in it; NULL: never, and it may be missing (all) */
    bool strict, flows; /* of flows */
};
/* The rest of a verb "BRIDGE TEXT|FILE|-", after its options. */
int cli_change(struct cli *c, const struct cli_change *how);

/* visit() gets each entry; with --json they are collected and printed. params are stolen. */
int cli_pages(struct cli *c, const char *method, json_t *params, const char *key,
              void (*visit)(json_t *entry, void *arg), void *arg);

#endif
