/* SPDX-License-Identifier: Apache-2.0 */
/* Text that somebody else wrote (a worker in the hands of its guest, say) and that a person will see. */
#ifndef CONTROL_TEXT_H
#define CONTROL_TEXT_H

/* Replace what a terminal would obey, and line ends, by '?': control characters of ASCII, and those of UTF-8
 * (U+0080 to U+009F). */
static inline void text_clean(char *text)
{
    for (unsigned char *p = (unsigned char *)text; *p; p++) {
        if (*p < 0x20 || *p == 0x7f) *p = '?';
        if (*p == 0xc2 && p[1] >= 0x80 && p[1] <= 0x9f) p[0] = p[1] = '?';
    }
}

#endif
