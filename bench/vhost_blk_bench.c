/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vhost-blk-bench: measure, verify and torment vhost-user-blk back ends from a native front end (frontend.h).
 * This file reads the command line; the modes are in load.c, verify_writes.c, attach_many.c, storm.c.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "bench.h"

enum bench_mode { MODE_LOAD, MODE_VERIFY_WRITES, MODE_ATTACH_MANY, MODE_STORM, MODE_PATTERN, MODE_TRACE };

static const char usage[] =
    "usage: vhost-blk-bench --socket PATH [options]          load, measured\n"
    "       vhost-blk-bench --socket PATH --verify-writes    write generations, read them back, for ever or --runtime\n"
    "       vhost-blk-bench --attach-many DIR --count N      attach to N sockets (DIR/*.sock) and stay idle\n"
    "       vhost-blk-bench --storm DIR --count N --trace F  replay a boot on N sockets at once\n"
    "       vhost-blk-bench --make-pattern FILE SIZE         an image whose content is a function of the offset\n"
    "       vhost-blk-bench --make-trace FILE SIZE WORKING-SET\n"
    "\n"
    "  --rw=MODE           randread (default), read, randwrite, write, randrw\n"
    "  --bs=SIZE           bytes per request, 4k\n"
    "  --iodepth=N         requests in flight per queue, 32\n"
    "  --queues=N          1\n"
    "  --runtime=S         seconds measured, 5;  --ramp=S before that, 1\n"
    "  --offset=SIZE --size=SIZE   use this part of the disk only\n"
    "  --verify[=block|sectors|full]   check reads against --make-pattern's content: the first and last word of\n"
    "                      each 4 KiB, of each sector (default), every word; writes then write that content\n"
    "  --sleep             wait on the call descriptor rather than poll\n"
    "  --reconnect         attach again when the back end goes away\n"
    "  --seed=N\n"
    "  --json              the result as one line of JSON\n"
    "  --progress          with --verify-writes, a line of JSON each second\n"
    "queues and memory:\n"
    "  --packed --event-idx --indirect   ring features to accept\n"
    "  --queue-size=N --segment=SIZE     ring entries; bytes per descriptor of payload\n"
    "  --huge --regions=N --mem-slots    2 MiB pages; memory shared in N regions; by ADD_MEM_REG\n"
    "  --no-inflight --config-channel    do not use INFLIGHT_SHMFD; hear of configuration changes\n"
    "connection:\n"
    "  --listen            wait for the back end to connect to PATH\n"
    "  --wait=S            go on trying to connect for so long, 5\n"
    "verified writes:\n"
    "  --initial=any|zero|pattern   what unwritten blocks hold\n"
    "  --flush-interval=S  1;  --stall=S  fail when nothing completes for so long, 60;  --pace=IOPS\n"
    "  --model=FILE        load what earlier runs wrote, save it at the end;  --check-only\n"
    "many devices:\n"
    "  --count=N --idle=S --trace=FILE --spread=S\n";

enum long_option {
    OPT_SOCKET = 256,
    OPT_RW,
    OPT_BS,
    OPT_IODEPTH,
    OPT_QUEUES,
    OPT_RUNTIME,
    OPT_RAMP,
    OPT_OFFSET,
    OPT_SIZE,
    OPT_VERIFY,
    OPT_SLEEP,
    OPT_RECONNECT,
    OPT_SEED,
    OPT_JSON,
    OPT_PROGRESS,
    OPT_PACKED,
    OPT_EVENT_IDX,
    OPT_INDIRECT,
    OPT_QUEUE_SIZE,
    OPT_SEGMENT,
    OPT_HUGE,
    OPT_REGIONS,
    OPT_MEM_SLOTS,
    OPT_NO_INFLIGHT,
    OPT_CONFIG_CHANNEL,
    OPT_LISTEN,
    OPT_WAIT,
    OPT_VERIFY_WRITES,
    OPT_INITIAL,
    OPT_FLUSH_INTERVAL,
    OPT_STALL,
    OPT_PACE,
    OPT_MODEL,
    OPT_CHECK_ONLY,
    OPT_ATTACH_MANY,
    OPT_STORM,
    OPT_COUNT,
    OPT_IDLE,
    OPT_TRACE,
    OPT_SPREAD,
    OPT_MAKE_PATTERN,
    OPT_MAKE_TRACE,
    OPT_HELP,
};

static const struct option options[] = {
    {"socket", required_argument, NULL, OPT_SOCKET},
    {"rw", required_argument, NULL, OPT_RW},
    {"bs", required_argument, NULL, OPT_BS},
    {"iodepth", required_argument, NULL, OPT_IODEPTH},
    {"queues", required_argument, NULL, OPT_QUEUES},
    {"runtime", required_argument, NULL, OPT_RUNTIME},
    {"ramp", required_argument, NULL, OPT_RAMP},
    {"offset", required_argument, NULL, OPT_OFFSET},
    {"size", required_argument, NULL, OPT_SIZE},
    {"verify", optional_argument, NULL, OPT_VERIFY},
    {"sleep", no_argument, NULL, OPT_SLEEP},
    {"reconnect", no_argument, NULL, OPT_RECONNECT},
    {"seed", required_argument, NULL, OPT_SEED},
    {"json", no_argument, NULL, OPT_JSON},
    {"progress", no_argument, NULL, OPT_PROGRESS},
    {"packed", no_argument, NULL, OPT_PACKED},
    {"event-idx", no_argument, NULL, OPT_EVENT_IDX},
    {"indirect", no_argument, NULL, OPT_INDIRECT},
    {"queue-size", required_argument, NULL, OPT_QUEUE_SIZE},
    {"segment", required_argument, NULL, OPT_SEGMENT},
    {"huge", no_argument, NULL, OPT_HUGE},
    {"regions", required_argument, NULL, OPT_REGIONS},
    {"mem-slots", no_argument, NULL, OPT_MEM_SLOTS},
    {"no-inflight", no_argument, NULL, OPT_NO_INFLIGHT},
    {"config-channel", no_argument, NULL, OPT_CONFIG_CHANNEL},
    {"listen", no_argument, NULL, OPT_LISTEN},
    {"wait", required_argument, NULL, OPT_WAIT},
    {"verify-writes", no_argument, NULL, OPT_VERIFY_WRITES},
    {"initial", required_argument, NULL, OPT_INITIAL},
    {"flush-interval", required_argument, NULL, OPT_FLUSH_INTERVAL},
    {"stall", required_argument, NULL, OPT_STALL},
    {"pace", required_argument, NULL, OPT_PACE},
    {"model", required_argument, NULL, OPT_MODEL},
    {"check-only", no_argument, NULL, OPT_CHECK_ONLY},
    {"attach-many", required_argument, NULL, OPT_ATTACH_MANY},
    {"storm", required_argument, NULL, OPT_STORM},
    {"count", required_argument, NULL, OPT_COUNT},
    {"idle", required_argument, NULL, OPT_IDLE},
    {"trace", required_argument, NULL, OPT_TRACE},
    {"spread", required_argument, NULL, OPT_SPREAD},
    {"make-pattern", no_argument, NULL, OPT_MAKE_PATTERN},
    {"make-trace", no_argument, NULL, OPT_MAKE_TRACE},
    {"help", no_argument, NULL, OPT_HELP},
    {0},
};

static int bad(const char *option, const char *value, const char *expected)
{
    fprintf(stderr, "vhost-blk-bench: %s '%s': expected %s\n", option, value, expected);
    return -EINVAL;
}

/* "4096", "4k", "1M", "2G", "1T". */
static int parse_size(const char *option, const char *text, uint64_t *out)
{
    static const char suffixes[] = "kMGT";
    char *end;
    errno = 0;
    unsigned long long v = strtoull(text, &end, 10);
    unsigned shift = 0;
    if (*end) {
        const char *s = strchr(suffixes, *end == 'K' ? 'k' : *end);
        if (s) shift = 10 * (unsigned)(s - suffixes + 1);
        if (!s || end[1]) return bad(option, text, "a size such as 4096, 4k, 16M or 1G");
    }
    if (end == text || errno || text[0] == '-' || !mul_fits(v, UINT64_C(1) << shift, out))
        return bad(option, text, "a size such as 4096, 4k, 16M or 1G");
    return 0;
}

static int parse_count(const char *option, const char *text, unsigned least, unsigned most, unsigned *out)
{
    char *end;
    errno = 0;
    unsigned long v = strtoul(text, &end, 10);
    if (end == text || *end || errno || text[0] == '-' || v < least || v > most) {
        fprintf(stderr, "vhost-blk-bench: %s '%s': expected a number from %u to %u\n", option, text, least, most);
        return -EINVAL;
    }
    *out = (unsigned)v;
    return 0;
}

static int parse_seconds(const char *option, const char *text, double *out)
{
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || !(v >= 0 && v < 1e9)) return bad(option, text, "a number that is not negative");
    *out = v;
    return 0;
}

static int parse_word(const char *option, const char *text, const char *const *words, unsigned count, unsigned *out)
{
    for (unsigned i = 0; i < count; i++) {
        if (strcmp(text, words[i]) == 0) {
            *out = i;
            return 0;
        }
    }
    fprintf(stderr, "vhost-blk-bench: %s '%s': expected one of:", option, text);
    for (unsigned i = 0; i < count; i++) {
        fprintf(stderr, " %s", words[i]);
    }
    fputc('\n', stderr);
    return -EINVAL;
}

struct command {
    enum bench_mode mode;
    struct bench_options o;
};

static int take_bytes32(const char *option, const char *text, uint32_t *out)
{
    uint64_t v;
    int ret = parse_size(option, text, &v);
    if (ret < 0) return ret;
    if (v == 0 || v % 512 || v > UINT32_MAX) return bad(option, text, "a multiple of 512, less than 4G");
    *out = (uint32_t)v;
    return 0;
}

static int take_connection(struct command *c, int option, const char *arg)
{
    struct frontend_args *f = &c->o.frontend;
    double seconds;
    switch (option) {
    case OPT_SOCKET: f->socket_path = arg; return 0;
    case OPT_PACKED: f->packed = true; return 0;
    case OPT_EVENT_IDX: f->event_idx = true; return 0;
    case OPT_INDIRECT: f->indirect = true; return 0;
    case OPT_QUEUE_SIZE: return parse_count("--queue-size", arg, 1, 32768, &f->queue_size);
    case OPT_SEGMENT: return take_bytes32("--segment", arg, &f->segment_bytes);
    case OPT_QUEUES: return parse_count("--queues", arg, 1, 64, &f->queues);
    case OPT_HUGE: f->huge_pages = true; return 0;
    case OPT_REGIONS: return parse_count("--regions", arg, 1, FRONTEND_REGIONS_MAX, &f->regions);
    case OPT_MEM_SLOTS: f->mem_slots = true; return 0;
    case OPT_NO_INFLIGHT: f->no_inflight = true; return 0;
    case OPT_CONFIG_CHANNEL: f->backend_channel = true; return 0;
    case OPT_LISTEN: f->listen = true; return 0;
    case OPT_WAIT:
        if (parse_seconds("--wait", arg, &seconds) < 0) return -EINVAL;
        f->connect_wait_ms = (unsigned)(seconds * 1000);
        return 0;
    default: return 1;
    }
}

static int take_many(struct command *c, int option, const char *arg)
{
    struct bench_options *o = &c->o;
    switch (option) {
    case OPT_ATTACH_MANY:
        c->mode = MODE_ATTACH_MANY;
        o->socket_dir = arg;
        return 0;
    case OPT_STORM:
        c->mode = MODE_STORM;
        o->socket_dir = arg;
        return 0;
    case OPT_MAKE_PATTERN: c->mode = MODE_PATTERN; return 0;
    case OPT_MAKE_TRACE: c->mode = MODE_TRACE; return 0;
    case OPT_COUNT: return parse_count("--count", arg, 1, 100000, &o->count);
    case OPT_IDLE: return parse_seconds("--idle", arg, &o->idle_s);
    case OPT_TRACE: o->trace_path = arg; return 0;
    case OPT_SPREAD: return parse_seconds("--spread", arg, &o->spread_s);
    default: return 1;
    }
}

static int take_verified(struct command *c, int option, const char *arg)
{
    static const char *const initials[] = {"any", "zero", "pattern"};
    struct bench_options *o = &c->o;
    unsigned word = 0;
    switch (option) {
    case OPT_VERIFY_WRITES: c->mode = MODE_VERIFY_WRITES; return 0;
    case OPT_INITIAL:
        if (parse_word("--initial", arg, initials, ARRAY_LEN(initials), &word) < 0) return -EINVAL;
        o->initial = (enum bench_initial)word;
        return 0;
    case OPT_FLUSH_INTERVAL: return parse_seconds("--flush-interval", arg, &o->flush_interval_s);
    case OPT_STALL: return parse_seconds("--stall", arg, &o->stall_s);
    case OPT_PACE: return parse_seconds("--pace", arg, &o->pace_iops);
    case OPT_MODEL: o->model_path = arg; return 0;
    case OPT_CHECK_ONLY: o->check_only = true; return 0;
    default: return 1;
    }
}

static int take_load(struct command *c, int option, const char *arg)
{
    static const char *const modes[] = {"read", "write", "randread", "randwrite", "randrw"};
    static const char *const depths[] = {"none", "block", "sectors", "full"};
    struct bench_options *o = &c->o;
    unsigned word = PATTERN_SECTORS;
    switch (option) {
    case OPT_RW:
        if (parse_word("--rw", arg, modes, ARRAY_LEN(modes), &word) < 0) return -EINVAL;
        o->rw = (enum bench_rw)word;
        return 0;
    case OPT_VERIFY:
        if (arg && parse_word("--verify", arg, depths, ARRAY_LEN(depths), &word) < 0) return -EINVAL;
        o->verify = (enum pattern_depth)word;
        return 0;
    case OPT_BS: return take_bytes32("--bs", arg, &o->block_bytes);
    case OPT_IODEPTH: return parse_count("--iodepth", arg, 1, 8192, &o->depth);
    case OPT_RUNTIME: return parse_seconds("--runtime", arg, &o->runtime_s);
    case OPT_RAMP: return parse_seconds("--ramp", arg, &o->ramp_s);
    case OPT_OFFSET: return parse_size("--offset", arg, &o->offset_bytes);
    case OPT_SIZE: return parse_size("--size", arg, &o->size_bytes);
    case OPT_SEED: return parse_size("--seed", arg, &o->seed);
    case OPT_SLEEP: o->sleep = true; return 0;
    case OPT_RECONNECT: o->reconnect = true; return 0;
    case OPT_JSON: o->json = true; return 0;
    case OPT_PROGRESS: o->progress = true; return 0;
    default: return 1;
    }
}

static int parse(struct command *c, int argc, char **argv)
{
    static int (*const takers[])(struct command *, int, const char *) = {take_connection, take_many, take_verified,
                                                                         take_load};
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (option == '?') return -EINVAL;
        if (option == OPT_HELP) {
            fputs(usage, stdout);
            exit(0);
        }
        int ret = 1;
        for (unsigned i = 0; i < ARRAY_LEN(takers) && ret == 1; i++) {
            ret = takers[i](c, option, optarg);
        }
        if (ret < 0) return ret;
    }
    bool files = c->mode == MODE_PATTERN || c->mode == MODE_TRACE;
    int operands = c->mode == MODE_PATTERN ? 2 : c->mode == MODE_TRACE ? 3 : 0;
    if (argc - optind != operands) {
        fputs(usage, stderr);
        return -EINVAL;
    }
    if (!files && !c->o.socket_dir && !c->o.frontend.socket_path) {
        fprintf(stderr, "vhost-blk-bench: --socket is missing (--help tells more)\n");
        return -EINVAL;
    }
    return 0;
}

static int make_pattern(char **operands)
{
    struct errmsg e;
    uint64_t size;
    if (parse_size("SIZE", operands[1], &size) < 0) return 2;
    if (pattern_make_file(operands[0], size, &e) == 0) return 0;
    fprintf(stderr, "vhost-blk-bench: %s\n", e.text);
    return 2;
}

static int make_trace(char **operands, uint64_t seed)
{
    uint64_t size, working_set;
    if (parse_size("SIZE", operands[1], &size) < 0) return 2;
    if (parse_size("WORKING-SET", operands[2], &working_set) < 0) return 2;
    return bench_make_trace(operands[0], size, working_set, seed);
}

int main(int argc, char **argv)
{
    struct command c = {.o = {.rw = RW_RANDREAD,
                              .block_bytes = 4096,
                              .depth = 32,
                              .runtime_s = 5,
                              .ramp_s = 1,
                              .seed = 1,
                              .count = 1,
                              .flush_interval_s = 1,
                              .stall_s = 60,
                              .frontend = {.connect_wait_ms = 5000}}};
    if (parse(&c, argc, argv) < 0) return 2;
    switch (c.mode) {
    case MODE_LOAD: return bench_load(&c.o);
    case MODE_VERIFY_WRITES: return bench_verify_writes(&c.o);
    case MODE_ATTACH_MANY: return bench_attach_many(&c.o);
    case MODE_STORM: return bench_storm(&c.o);
    case MODE_PATTERN: return make_pattern(argv + optind);
    case MODE_TRACE: return make_trace(argv + optind, c.o.seed);
    }
    return 2;
}
