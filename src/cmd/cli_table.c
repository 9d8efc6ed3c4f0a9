/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wchar.h>

#include "base/log.h"
#include "cmd/cli.h"

static void add_cell(struct cli_table *t, char *text)
{
    if (t->rows == t->room) {
        t->room = t->room ? t->room * 2 : 64;
        char **cells = realloc(t->cells, t->room * sizeof *cells);
        if (!cells) abort();
        t->cells = cells;
    }
    t->cells[t->rows++] = text;
}

void cli_table_begin(struct cli_table *t, const char *headings)
{
    *t = (struct cli_table){0};
    while (*headings) {
        assert(t->columns < CLI_COLUMNS_MAX);
        size_t len = strcspn(headings, "|");
        if (*headings == '>') {
            t->right[t->columns] = true;
            headings++;
            len--;
        }
        t->columns++;
        add_cell(t, strndup(headings, len));
        headings += len + (headings[len] == '|');
    }
}

void cli_table_cell(struct cli_table *t, const char *format, ...)
{
    char *text = NULL;
    va_list args;
    va_start(args, format);
    if (vasprintf(&text, format, args) < 0) text = NULL;
    va_end(args);
    add_cell(t, text);
}

/* Columns on a terminal: names may be in any script. */
static unsigned width(const char *text)
{
    size_t chars = mbstowcs(NULL, text, 0);
    if (chars == (size_t)-1) return (unsigned)strlen(text);
    wchar_t *wide = calloc(chars + 1, sizeof *wide);
    if (!wide) return (unsigned)chars;
    mbstowcs(wide, text, chars + 1);
    int columns = wcswidth(wide, chars);
    free(wide);
    return columns < 0 ? (unsigned)chars : (unsigned)columns;
}

void cli_table_end(struct cli_table *t)
{
    unsigned widest[CLI_COLUMNS_MAX] = {0};
    assert(t->rows % t->columns == 0);
    for (unsigned i = 0; i < t->rows; i++) {
        if (!t->cells[i]) abort();
        unsigned w = width(t->cells[i]);
        if (w > widest[i % t->columns]) widest[i % t->columns] = w;
    }
    for (unsigned i = 0; i < t->rows; i++) {
        unsigned column = i % t->columns;
        bool last = column + 1 == t->columns;
        int pad = (int)(widest[column] - width(t->cells[i]));
        if (t->right[column]) printf("%*s%s", pad, "", t->cells[i]);
        else printf("%s%*s", t->cells[i], last ? 0 : pad, "");
        fputs(last ? "\n" : "  ", stdout);
        free(t->cells[i]);
    }
    free(t->cells);
    *t = (struct cli_table){0};
}
