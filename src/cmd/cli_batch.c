/* SPDX-License-Identifier: Apache-2.0 */
/* Texts one by one or from a file to the daemon, and lists that come page by page. */
#include "cmd/cli_batch.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

#define BATCH_LINES 500u /* in one request: fewer than the daemon takes */
#define BATCH_BYTES 65536u

struct batch {
    struct cli *c;
    const struct cli_change *change;
    const char *bridge, *source; /* source NULL: a single one of the command line */
    json_t *texts;
    unsigned lines[BATCH_LINES]; /* of the source */
    size_t bytes;
    json_int_t changed;
};

/* "line 3, column 5: ..." is about the batch: people count lines of their file, and a single flow has none. */
static int say_what_is_wrong(const struct batch *b, const char *message)
{
    unsigned line = 0;
    int used = 0;
    if (sscanf(message, "line %u%n", &line, &used) != 1 || line < 1 || line > json_array_size(b->texts))
        return cli_fail("%s", message);
    const char *rest = message + used + strspn(message + used, ":, ");
    if (!b->source) return cli_fail("%s", rest);
    cli_fail("%s: line %u: %s", b->source, b->lines[line - 1], rest);
    if (b->changed) fprintf(stderr, "What stands before line %u has been carried out.\n", b->lines[0]);
    return CLI_FAILED;
}

static int batch_send(struct batch *b)
{
    struct errmsg e = {""};
    json_t *result;
    if (!json_array_size(b->texts)) return CLI_OK;
    json_t *params = json_pack("{s:s, s:O}", "bridge", b->bridge, b->change->key, b->texts);
    if (b->change->flows) json_object_set_new(params, "strict", json_boolean(b->change->strict));
    if (cli_try_call(b->c, b->change->method, params, CLI_BATCH_MS, &result, &e) < 0)
        return say_what_is_wrong(b, e.text);
    b->changed += cli_integer(result, "changed");
    json_decref(result);
    json_array_clear(b->texts);
    b->bytes = 0;
    return CLI_OK;
}

static int batch_add(struct batch *b, const char *text, unsigned line)
{
    size_t len = strlen(text);
    int status = CLI_OK;
    if (json_array_size(b->texts) == BATCH_LINES || b->bytes + len > BATCH_BYTES) status = batch_send(b);
    if (status != CLI_OK) return status;
    b->lines[json_array_size(b->texts)] = line;
    b->bytes += len;
    if (json_array_append_new(b->texts, json_string(text)) < 0)
        return cli_fail("%s: line %u: not text in UTF-8", b->source ? b->source : "the text", line);
    return CLI_OK;
}

/* Without what is empty, and what begins with '#'. */
static int batch_add_file(struct batch *b, FILE *in)
{
    autofree char *line = NULL;
    size_t room = 0;
    int status = CLI_OK;
    for (unsigned number = 1; status == CLI_OK && getline(&line, &room, in) > 0; number++) {
        char *text = line + strspn(line, " \t\r\n");
        size_t len = strlen(text);
        while (len && strchr(" \t\r\n", text[len - 1]))
            text[--len] = 0;
        if (*text && *text != '#') status = batch_add(b, text, number);
    }
    if (status == CLI_OK && ferror(in)) return cli_fail("%s: %s", b->source, strerror(errno));
    return status;
}

static int batch_run(struct batch *b, const char *text)
{
    FILE *in = NULL;
    if (strcmp(text, "-") == 0) {
        b->source = "standard input";
        in = stdin;
    } else if (b->change->file_unless && !strstr(text, b->change->file_unless)) {
        b->source = text;
        in = fopen(text, "r");
        if (!in)
            return cli_fail("%s: %s (expected a %s with %s..., a file with one a line, or - for standard input)", text,
                            strerror(errno), b->change->thing, b->change->file_unless);
    }
    int status = in ? batch_add_file(b, in) : batch_add(b, text, 1);
    if (in && in != stdin) fclose(in);
    return status == CLI_OK ? batch_send(b) : status;
}

int cli_change(struct cli *c, const struct cli_change *how)
{
    struct batch *b = calloc(1, sizeof *b);
    if (!b) abort();
    *b = (struct batch){.c = c, .change = how, .texts = json_array()};
    bool whole = !how->file_unless && c->positional_count + (c->argc - optind) == 1; /* of the table */
    char **args = cli_arguments(c, whole ? 1 : 2);
    b->bridge = args[0];
    int status = CLI_OK;
    if (whole) {
        json_array_append_new(b->texts, json_string(""));
        status = batch_send(b);
    } else {
        status = batch_run(b, args[1]);
    }
    if (status == CLI_OK && c->json) cli_print_json(json_pack("{s:I}", "changed", b->changed));
    else if (status == CLI_OK)
        printf("%lld %s%s %s\n", (long long)b->changed, how->thing, b->changed == 1 ? "" : "s", how->word);
    json_decref(b->texts);
    free(b);
    return status;
}

int cli_pages(struct cli *c, const char *method, json_t *params, const char *key,
              void (*visit)(json_t *entry, void *arg), void *arg)
{
    json_t *all = c->json ? json_array() : NULL, *result, *entry;
    json_int_t from = 0;
    int status;
    for (;;) {
        json_object_set_new(params, "from", json_integer(from));
        status = cli_call(c, method, json_copy(params), CLI_BATCH_MS, &result);
        if (status != CLI_OK) break;
        size_t i;
        json_array_foreach(json_object_get(result, key), i, entry)
        {
            if (all) json_array_append(all, entry);
            else visit(entry, arg);
        }
        json_int_t next = cli_integer(result, "next");
        json_t *list = json_object_get(result, "list"); /* that is read on */
        if (list) json_object_set(params, "list", list);
        json_decref(result);
        if (next <= from) break;
        from = next;
    }
    json_decref(params);
    if (all && status == CLI_OK) return cli_print_json(json_pack("{s:o}", key, all));
    json_decref(all);
    return status;
}
