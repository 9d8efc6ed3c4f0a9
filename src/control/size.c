/* SPDX-License-Identifier: Apache-2.0 */
#include "control/size.h"

#include <stdio.h>
#include <string.h>

#include "base/checked.h"

static const char suffixes[] = "KMGTPE";

static bool take_digits(const char **p, uint64_t *out, unsigned most)
{
    const char *start = *p;
    for (*out = 0; **p >= '0' && **p <= '9'; (*p)++) {
        if ((unsigned)(*p - start) >= most) return false;
        if (!mul_fits(*out, 10, out) || !add_fits(*out, (uint64_t)(**p - '0'), out)) return false;
    }
    return *p != start;
}

bool size_parse(const char *text, uint64_t *out_bytes)
{
    uint64_t whole, fraction = 0, scale = 1;
    if (!take_digits(&text, &whole, 20)) return false;
    if (*text == '.') {
        const char *digits = ++text;
        if (!take_digits(&text, &fraction, 9)) return false;
        for (; digits < text; digits++)
            scale *= 10;
    }
    uint64_t unit = 1;
    if (*text) {
        const char *s = strchr(suffixes, *text & ~0x20); /* either case */
        if (!s || !*s) return false;
        unit = UINT64_C(1) << (10 * (s - suffixes + 1));
        text++;
    }
    if (*text || (scale > 1 && unit == 1)) return false;
    /* The fraction of a unit, exactly: unit * fraction may take more than 64 bits. */
    uint64_t part = (uint64_t)((unsigned __int128)unit * fraction / scale);
    return mul_fits(whole, unit, out_bytes) && add_fits(*out_bytes, part, out_bytes) && *out_bytes <= INT64_MAX;
}

const char *size_format(uint64_t bytes, char out[SIZE_TEXT_MAX])
{
    if (bytes < 1024) {
        snprintf(out, SIZE_TEXT_MAX, "%u B", (unsigned)bytes);
        return out;
    }
    unsigned i = 0;
    double value = (double)bytes / 1024;
    for (; value >= 1023.95 && suffixes[i + 1]; i++)
        value /= 1024;
    /* Whole numbers and large ones need no decimals. */
    double off = value - (double)(uint64_t)(value + 0.5);
    bool whole = value >= 100 || (off > -0.05 && off < 0.05);
    snprintf(out, SIZE_TEXT_MAX, whole ? "%.0f %ciB" : "%.1f %ciB", value, suffixes[i]);
    return out;
}
