/* SPDX-License-Identifier: Apache-2.0 */
/* For tests: is a descriptor left open? */
#ifndef BASE_TEST_FDS_H
#define BASE_TEST_FDS_H

#include <assert.h>
#include <dirent.h>

/* How many descriptors this process has, and always three more: to compare with itself. */
static inline unsigned open_fds(void)
{
    unsigned n = 0;
    DIR *d = opendir("/proc/self/fd");
    assert(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

#endif
