/* SPDX-License-Identifier: Apache-2.0 */
/* creedence image create, clone, info, check: on files of this host, without the daemon. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/cli_verbs.h"
#include "control/size.h"
#include "disk/image.h"
#include "loop/clock.h"

#define PROGRESS_NS (NS_PER_SECOND / 5)

enum {
    OPT_FORMAT = CLI_OPT,
    OPT_BACKING,
    OPT_BACKING_FORMAT,
    OPT_CLUSTER_SIZE,
    OPT_REFCOUNT_BITS,
    OPT_QCOW2_VERSION,
    OPT_COMPRESSION,
    OPT_PREALLOCATE,
    OPT_REPAIR,
};

/* ---- What they share ---- */

static enum disk_format format_value(const struct cli *c, const char *option, const char *text)
{
    enum disk_format f;
    if (disk_format_parse(text, &f) < 0) cli_usage_error(c, "%s %s: expected raw or qcow2", option, text);
    return f;
}

static unsigned word_value(const struct cli *c, const char *option, const char *text, const char *const *words)
{
    for (unsigned i = 0; words[i]; i++)
        if (strcmp(words[i], text) == 0) return i;
    cli_usage_error(c, "%s %s: expected %s%s%s%s%s", option, text, words[0], words[2] ? ", " : " or ", words[1],
                    words[2] ? " or " : "", words[2] ? words[2] : "");
}

struct progress {
    bool shown, any;
    uint64_t last_ns;
};

static void progress_step(void *arg, uint64_t done, uint64_t total)
{
    struct progress *p = arg;
    uint64_t now_ns = clock_now_ns();
    if (!p->shown || total == 0 || now_ns - p->last_ns < PROGRESS_NS) return;
    p->last_ns = now_ns;
    p->any = true;
    fprintf(stderr, "\r%5.1f %%", 100.0 * (double)done / (double)total);
}

static struct progress progress_begin(const struct cli *c)
{
    return (struct progress){.shown = !c->json && isatty(STDERR_FILENO), .last_ns = clock_now_ns()};
}

static void progress_end(const struct progress *p)
{
    if (p->any) fputs("\r        \r", stderr);
}

/* ---- create ---- */

static const struct option create_options[] = {
    {"format", required_argument, NULL, OPT_FORMAT},
    {"backing", required_argument, NULL, OPT_BACKING},
    {"backing-format", required_argument, NULL, OPT_BACKING_FORMAT},
    {"cluster-size", required_argument, NULL, OPT_CLUSTER_SIZE},
    {"refcount-bits", required_argument, NULL, OPT_REFCOUNT_BITS},
    {"qcow2-version", required_argument, NULL, OPT_QCOW2_VERSION},
    {"compression", required_argument, NULL, OPT_COMPRESSION},
    {"preallocate", required_argument, NULL, OPT_PREALLOCATE},
    {0},
};

static void create_option(const struct cli *c, int opt, struct image_create_args *a, bool *base_format_given)
{
    static const char *const preallocations[] = {"none", "metadata", "full", NULL};
    static const char *const compressions[] = {"zlib", "zstd", NULL};
    switch (opt) {
    case OPT_BACKING: a->base_path = optarg; break;
    case OPT_BACKING_FORMAT:
        a->base_format = format_value(c, "--backing-format", optarg);
        *base_format_given = true;
        break;
    case OPT_CLUSTER_SIZE: {
        uint64_t bytes = cli_size(c, "--cluster-size", optarg);
        if (bytes > UINT32_MAX) cli_usage_error(c, "--cluster-size %s: expected at most 2M", optarg);
        a->cluster_bytes = (uint32_t)bytes;
        break;
    }
    case OPT_REFCOUNT_BITS: a->refcount_bits = (uint32_t)cli_number(c, "--refcount-bits", optarg, 1, 64); break;
    case OPT_QCOW2_VERSION: a->version = (uint32_t)cli_number(c, "--qcow2-version", optarg, 2, 3); break;
    case OPT_COMPRESSION: a->zstd = word_value(c, "--compression", optarg, compressions) == 1; break;
    case OPT_PREALLOCATE:
        a->preallocate = (enum image_preallocate)word_value(c, "--preallocate", optarg, preallocations);
        break;
    }
}

static int created(struct cli *c, const char *path, enum disk_format format)
{
    struct image_info info;
    struct errmsg e = {""};
    char text[SIZE_TEXT_MAX];
    if (image_info(path, format, &info, &e) < 0) return cli_fail("%s", e.text);
    if (c->json)
        return cli_print_json(json_pack("{s:s, s:s, s:I}", "path", path, "format", disk_format_name(format),
                                        "size_bytes", (json_int_t)info.size_bytes));
    printf("%s: %s, %s%s%s\n", path, disk_format_name(format), size_format(info.size_bytes, text),
           info.backing_name[0] ? ", on top of " : "", info.backing_name);
    return CLI_OK;
}

static int image_create_verb(struct cli *c)
{
    struct image_create_args a = {0};
    bool format_given = false, base_format_given = false;
    for (int opt; (opt = cli_option(c)) != -1;) {
        if (opt == OPT_FORMAT) {
            a.format = format_value(c, "--format", optarg);
            format_given = true;
        } else {
            create_option(c, opt, &a, &base_format_given);
        }
    }
    if (!format_given) cli_usage_error(c, "--format raw or --format qcow2 is missing (it is never guessed)");
    if (a.base_path && !base_format_given) cli_usage_error(c, "--backing-format is missing (it is never guessed)");
    bool size_given = c->positional_count + (c->argc - optind) != 1 || !a.base_path;
    char **args = cli_arguments(c, size_given ? 2 : 1);
    if (size_given) a.size_bytes = cli_size(c, "SIZE", args[1]);
    if (size_given && a.size_bytes == 0) cli_usage_error(c, "SIZE %s: expected more than nothing", args[1]);
    struct progress p = progress_begin(c);
    a.progress = (struct image_progress){.step = progress_step, .arg = &p};
    struct errmsg e = {""};
    int ret = image_create(args[0], &a, &e);
    progress_end(&p);
    return ret < 0 ? cli_fail("%s", e.text) : created(c, args[0], a.format);
}

const struct cli_verb cli_image_create = {
    .name = "image create",
    .args = "PATH SIZE --format FORMAT",
    .summary = "Make a new disk image",
    .options = create_options,
    .run = image_create_verb,
    .help = "SIZE is in bytes, or with K, M, G, T (powers of 1024) behind. With --backing it may be left out: the\n"
            "backing image's.\n\n"
            "  --format raw|qcow2\n"
            "  --backing PATH --backing-format raw|qcow2\n"
            "                          what the image shows where nothing was written to it (qcow2)\n"
            "  --preallocate none|metadata|full\n"
            "                          take the storage now (default none)\n"
            "qcow2 only:\n"
            "  --cluster-size SIZE     512 to 2M (default 64K)\n"
            "  --refcount-bits N       1, 2, 4, 8, 16, 32 or 64 (default 16)\n"
            "  --qcow2-version 2|3     (default 3)\n"
            "  --compression zlib|zstd of clusters that other programs compress (default zlib)\n"
            "\nExamples:\n"
            "  creedence image create data.qcow2 100G --format qcow2\n"
            "  creedence image create vm1.qcow2 --format qcow2 --backing golden.raw --backing-format raw\n",
};

/* ---- clone ---- */

static const struct option clone_options[] = {{"backing-format", required_argument, NULL, OPT_BACKING_FORMAT}, {0}};

static int image_clone_verb(struct cli *c)
{
    enum disk_format base_format = DISK_FORMAT_RAW;
    bool given = false;
    while (cli_option(c) != -1) {
        base_format = format_value(c, "--backing-format", optarg);
        given = true;
    }
    char **args = cli_arguments(c, 2);
    if (!given) cli_usage_error(c, "--backing-format is missing: the format of %s (it is never guessed)", args[0]);
    struct errmsg e = {""};
    if (image_clone(args[1], args[0], base_format, &e) < 0) return cli_fail("%s", e.text);
    return created(c, args[1], DISK_FORMAT_QCOW2);
}

const struct cli_verb cli_image_clone = {
    .name = "image clone",
    .args = "BASE NEW --backing-format FORMAT",
    .summary = "Make a qcow2 image that begins as a copy of BASE and takes no storage until it is written to",
    .options = clone_options,
    .run = image_clone_verb,
    .help = "BASE must not be changed any more once it has clones.\n\n"
            "  --backing-format raw|qcow2\n"
            "                          the format of BASE\n"
            "\nExamples:\n"
            "  creedence image clone golden.raw vm1.qcow2 --backing-format raw\n",
};

/* ---- info ---- */

static const struct option info_options[] = {{"format", required_argument, NULL, OPT_FORMAT}, {0}};

static json_t *info_json(const char *path, const struct image_info *i)
{
    json_t *o = json_pack("{s:s, s:s, s:I, s:I, s:I}", "path", path, "format", disk_format_name(i->format),
                          "size_bytes", (json_int_t)i->size_bytes, "file_bytes", (json_int_t)i->file_bytes,
                          "allocated_bytes", (json_int_t)i->allocated_bytes);
    if (i->format != DISK_FORMAT_QCOW2) return o;
    json_t *q = json_pack("{s:i, s:I, s:i, s:i, s:b, s:b, s:b, s:s, s:b, s:b}", "version", (int)i->version,
                          "cluster_bytes", (json_int_t)i->cluster_bytes, "refcount_bits", (int)i->refcount_bits,
                          "snapshots", (int)i->snapshot_count, "dirty", i->dirty, "corrupt", i->corrupt,
                          "lazy_refcounts", i->lazy_refcounts, "compression", i->zstd ? "zstd" : "zlib", "bitmaps",
                          i->has_bitmaps, "bitmaps_consistent", i->bitmaps_consistent);
    json_object_update(o, q);
    json_decref(q);
    if (i->backing_name[0]) json_object_set_new(o, "backing", json_string(i->backing_name));
    if (i->backing_format[0]) json_object_set_new(o, "backing_format", json_string(i->backing_format));
    return o;
}

static void print_info(const char *path, const struct image_info *i)
{
    char text[SIZE_TEXT_MAX];
    printf("image         %s\n", path);
    printf("format        %s", disk_format_name(i->format));
    if (i->format == DISK_FORMAT_QCOW2)
        printf(" version %u, clusters of %s, refcounts of %u bits", i->version, size_format(i->cluster_bytes, text),
               i->refcount_bits);
    printf("\ndisk size     %s (%llu bytes)\n", size_format(i->size_bytes, text), (unsigned long long)i->size_bytes);
    printf("file size     %s\n", size_format(i->file_bytes, text));
    printf("storage       %s\n", size_format(i->allocated_bytes, text));
    if (i->backing_name[0])
        printf("backing file  %s (format %s)\n", i->backing_name,
               i->backing_format[0] ? i->backing_format : "not said");
    if (i->snapshot_count) printf("snapshots     %u\n", i->snapshot_count);
    if (i->has_bitmaps) printf("bitmaps       %s\n", i->bitmaps_consistent ? "consistent" : "not to be trusted");
    if (i->dirty) puts("state         not closed in order: refcounts are rebuilt at the next check or use");
    if (i->corrupt) puts("state         MARKED CORRUPT: repair it with `creedence image check --repair all`");
}

static int image_info_verb(struct cli *c)
{
    enum disk_format format = DISK_FORMAT_RAW;
    bool given = false;
    while (cli_option(c) != -1) {
        format = format_value(c, "--format", optarg);
        given = true;
    }
    const char *path = cli_arguments(c, 1)[0];
    if (!given) cli_usage_error(c, "--format raw or --format qcow2 is missing (it is never guessed)");
    struct image_info info;
    struct errmsg e = {""};
    if (image_info(path, format, &info, &e) < 0) return cli_fail("%s", e.text);
    if (c->json) return cli_print_json(info_json(path, &info));
    print_info(path, &info);
    return CLI_OK;
}

const struct cli_verb cli_image_info = {
    .name = "image info",
    .args = "PATH --format FORMAT",
    .summary = "Describe a disk image",
    .options = info_options,
    .run = image_info_verb,
    .help = "  --format raw|qcow2      never guessed: a guest can write a qcow2 header into its raw disk\n"
            "\nExamples:\n"
            "  creedence image info vm1.qcow2 --format qcow2\n",
};

/* ---- check ---- */

static const struct option check_options[] = {
    {"format", required_argument, NULL, OPT_FORMAT},
    {"repair", required_argument, NULL, OPT_REPAIR},
    {0},
};

static void print_finding(void *arg, const char *text)
{
    json_t *findings = arg;
    if (findings) json_array_append_new(findings, json_string(text));
    else printf("%s\n", text);
}

static int print_check(const char *path, const struct image_check_result *r, enum image_repair repair)
{
    uint64_t errors_left = r->errors - r->errors_fixed, leaks_left = r->leaks - r->leaks_fixed;
    if (r->errors)
        printf("%llu errors, %llu of them repaired\n", (unsigned long long)r->errors,
               (unsigned long long)r->errors_fixed);
    if (r->leaks)
        printf("%llu leaked clusters (storage not used by anything; harmless), %llu of them freed\n",
               (unsigned long long)r->leaks, (unsigned long long)r->leaks_fixed);
    if (r->total_clusters)
        printf("%llu of %llu clusters have storage (%.1f %%), %llu are compressed, %llu are not where their neighbour "
               "ends\n",
               (unsigned long long)r->allocated_clusters, (unsigned long long)r->total_clusters,
               100.0 * (double)r->allocated_clusters / (double)r->total_clusters,
               (unsigned long long)r->compressed_clusters, (unsigned long long)r->fragmented_clusters);
    printf("%s: %s\n", path, errors_left ? "DAMAGED" : leaks_left ? "sound, with leaked clusters" : "sound");
    if (errors_left && repair != IMAGE_REPAIR_ALL)
        puts("`creedence image check --repair all` repairs what can be (make a copy first)");
    return errors_left ? CLI_FAILED : CLI_OK;
}

static int check_json(const char *path, const struct image_check_result *r, json_t *findings)
{
    json_t *o =
        json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "path", path, "errors",
                  (json_int_t)r->errors, "errors_fixed", (json_int_t)r->errors_fixed, "leaks", (json_int_t)r->leaks,
                  "leaks_fixed", (json_int_t)r->leaks_fixed, "total_clusters", (json_int_t)r->total_clusters,
                  "allocated_clusters", (json_int_t)r->allocated_clusters, "compressed_clusters",
                  (json_int_t)r->compressed_clusters, "fragmented_clusters", (json_int_t)r->fragmented_clusters,
                  "end_bytes", (json_int_t)r->end_bytes, "findings", findings);
    cli_print_json(o);
    return r->errors > r->errors_fixed ? CLI_FAILED : CLI_OK;
}

static int image_check_verb(struct cli *c)
{
    static const char *const repairs[] = {"none", "leaks", "all", NULL};
    struct image_check_args a = {0};
    enum disk_format format = DISK_FORMAT_RAW;
    bool given = false;
    for (int opt; (opt = cli_option(c)) != -1;) {
        if (opt == OPT_REPAIR) a.repair = (enum image_repair)word_value(c, "--repair", optarg, repairs);
        if (opt != OPT_FORMAT) continue;
        format = format_value(c, "--format", optarg);
        given = true;
    }
    const char *path = cli_arguments(c, 1)[0];
    if (!given) cli_usage_error(c, "--format is missing (it is never guessed)");
    struct progress p = progress_begin(c);
    struct image_check_result r;
    struct errmsg e = {""};
    a.progress = (struct image_progress){.step = progress_step, .arg = &p};
    a.finding = print_finding;
    a.finding_arg = c->json ? json_array() : NULL;
    int ret = image_check(path, format, &a, &r, &e);
    progress_end(&p);
    if (ret < 0) {
        json_decref(a.finding_arg);
        return ret == -ENOTSUP ? cli_fail("%s: a raw image has no structure that could be checked", path)
                               : cli_fail("%s", e.text);
    }
    return c->json ? check_json(path, &r, a.finding_arg) : print_check(path, &r, a.repair);
}

const struct cli_verb cli_image_check = {
    .name = "image check",
    .args = "PATH --format FORMAT",
    .summary = "Look for inconsistencies in an image that is not in use, and repair them if asked to",
    .options = check_options,
    .run = image_check_verb,
    .help = "  --format qcow2          never guessed\n"
            "  --repair none|leaks|all leaks: free clusters that nothing uses; all: errors too (default none)\n"
            "\nStatus 1 when errors are left. Leaked clusters are no errors.\n"
            "\nExamples:\n"
            "  creedence image check vm1.qcow2 --format qcow2\n"
            "  creedence image check vm1.qcow2 --format qcow2 --repair leaks\n",
};
