/* SPDX-License-Identifier: Apache-2.0 */
/* Which build is this? Measurements are made on non-debug builds (debug=n). */
#ifndef CONTROL_VERSION_H
#define CONTROL_VERSION_H

#include <jansson.h>
#include <stdbool.h>

const char *version_number(void); /* "0.1.0" */
const char *version_commit(void); /* "1a2b3c4d5e6f", with "+" behind when the tree was changed; "unknown" outside git */
bool version_is_debug(void);      /* anything but an optimised build without sanitizers */

/* {"program", "version", "commit", "debug": "y"|"n"}, a new reference. */
json_t *version_json(const char *program);

/* "creedenced 0.1.0 (1a2b3c4d5e6f) debug=n" and a newline on standard output, or the JSON above. For --version. */
void version_print(const char *program, bool json);

#endif
