/* SPDX-License-Identifier: Apache-2.0 */
/*
 * creedence top: what disks, the read cache and networks do right now. Two samples of the daemon's counters make one
 * line per disk, card or port; one that appeared, or whose worker was replaced (counters went back), starts at zero.
 */
#include <curses.h>
#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cmd/cli_verbs.h"
#include "control/disk_config.h"
#include "control/size.h"
#include "loop/clock.h"

enum { OPT_BATCH = CLI_OPT };

static const struct option top_options[] = {
    {"batch", no_argument, NULL, OPT_BATCH},
    {"iterations", required_argument, NULL, 'n'},
    {"delay", required_argument, NULL, 'd'},
    {0},
};

struct sample {
    uint64_t at_ns;
    json_t *disks; /* array: {"name", "stats"} */
    json_t *cache;
    json_t *networks; /* "vifs", "ports", "switch" */
};

struct rates {
    double reads, writes, read_bytes, write_bytes; /* per second */
    double hit_percent;                            /* of what was asked of base layers; negative: nothing was */
    double latency_us;                             /* mean since the worker started; 0: not known */
};

/* ---- Samples ---- */

static void sample_clear(struct sample *s)
{
    json_decref(s->disks);
    json_decref(s->cache);
    json_decref(s->networks);
    *s = (struct sample){0};
}

static int sample_take(struct cli *c, struct sample *s, struct errmsg *e)
{
    json_t *disks = NULL;
    *s = (struct sample){0};
    int ret = cli_try_call(c, "disk.stats", NULL, CLI_QUICK_MS, &disks, e);
    if (ret == 0) ret = cli_try_call(c, "cache.show", NULL, CLI_QUICK_MS, &s->cache, e);
    if (ret == 0) ret = cli_try_call(c, "net.stats", NULL, CLI_QUICK_MS, &s->networks, e);
    s->disks = json_incref(json_object_get(disks, "disks"));
    s->at_ns = clock_now_ns();
    json_decref(disks);
    if (ret < 0) sample_clear(s);
    return ret;
}

static json_t *find_by(json_t *list, const char *key, const char *value)
{
    size_t i;
    json_t *o;
    json_array_foreach(list, i, o)
    {
        if (strcmp(cli_string(o, key), value) == 0) return o;
    }
    return NULL;
}

/* Growth of a counter per second; from nothing when it went back. */
static double rate(json_t *before, json_t *now, const char *key, double seconds)
{
    json_int_t a = cli_integer(before, key), b = cli_integer(now, key);
    return seconds > 0 ? (double)(b >= a ? b - a : b) / seconds : 0;
}

static struct rates rates_of(json_t *before, json_t *now, double seconds)
{
    double hit = rate(before, now, "cache_hit_bytes", seconds), fill = rate(before, now, "cache_fill_bytes", seconds);
    double direct = rate(before, now, "base_direct_bytes", seconds), base = hit + fill + direct;
    return (struct rates){.reads = rate(before, now, "reads", seconds),
                          .writes = rate(before, now, "writes", seconds),
                          .read_bytes = rate(before, now, "read_bytes", seconds),
                          .write_bytes = rate(before, now, "write_bytes", seconds),
                          .hit_percent = base > 0 ? 100 * hit / base : -1,
                          .latency_us = (double)cli_integer(now, "latency_ns_mean") / 1000};
}

/* ---- Lines: to the screen or to standard output ---- */

struct screen {
    bool curses;
    int row, rows, columns;
};

__attribute__((format(printf, 2, 3))) static void line(struct screen *s, const char *format, ...)
{
    char text[512];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (!s->curses) {
        puts(text);
    } else if (s->row < s->rows) {
        mvaddnstr(s->row++, 0, text, s->columns);
        clrtoeol();
    }
}

static const char *mega(double bytes, char out[16])
{
    snprintf(out, 16, "%.1f", bytes / 1e6);
    return out;
}

static void disk_line(struct screen *s, const char *name, const char *state, const struct rates *r)
{
    char hit[16] = "-", latency[16] = "-", a[16], b[16];
    if (r->hit_percent >= 0) snprintf(hit, sizeof hit, "%.1f", r->hit_percent);
    if (r->latency_us > 0) snprintf(latency, sizeof latency, "%.0f", r->latency_us);
    line(s, "%-20.20s %-12.12s %9.0f %9.0f %9s %9s %7s %8s", name, state, r->reads, r->writes, mega(r->read_bytes, a),
         mega(r->write_bytes, b), hit, latency);
}

static void add_rates(struct rates *sum, const struct rates *r)
{
    sum->reads += r->reads;
    sum->writes += r->writes;
    sum->read_bytes += r->read_bytes;
    sum->write_bytes += r->write_bytes;
}

static void show_disks(struct screen *s, const struct sample *before, const struct sample *now, double seconds)
{
    struct rates sum = {.hit_percent = -1};
    size_t i;
    json_t *d;
    line(s, "%-20s %-12s %9s %9s %9s %9s %7s %8s", "DISK", "STATE", "READ/s", "WRITE/s", "READ MB", "WRITE MB", "HIT %",
         "MEAN us");
    json_array_foreach(now->disks, i, d)
    {
        const char *state = cli_string(d, "state");
        if (strcmp(state, "serving") == 0) state = cli_string(d, "front_end");
        json_t *old = find_by(before->disks, "name", cli_string(d, "name"));
        struct rates r = rates_of(json_object_get(old, "stats"), json_object_get(d, "stats"), seconds);
        add_rates(&sum, &r);
        disk_line(s, cli_string(d, "name"), state, &r);
    }
    if (json_array_size(now->disks) != 1) disk_line(s, "all", "", &sum);
}

static void show_cache(struct screen *s, const struct sample *before, const struct sample *now, double seconds)
{
    json_t *stats = json_object_get(now->cache, "stats"),
           *old = json_object_get(json_object_get(before->cache, "stats"), "layers");
    char used[SIZE_TEXT_MAX], budget[SIZE_TEXT_MAX], a[16], b[16];
    size_t i;
    json_t *l;
    line(s, "%s", "");
    if (!stats) {
        line(s, "read cache: %s", *cli_string(now->cache, "error") ? cli_string(now->cache, "error") : "not running");
        return;
    }
    line(s, "read cache: %s of %s", size_format((uint64_t)cli_integer(stats, "used_bytes"), used),
         size_format((uint64_t)cli_integer(stats, "budget_bytes"), budget));
    line(s, "%10s %10s %9s %9s %6s  %s", "SIZE", "CACHED", "READ MB", "FILL MB", "DISKS", "LAYER");
    json_array_foreach(json_object_get(stats, "layers"), i, l)
    {
        json_t *was = find_by(old, "path", cli_string(l, "path"));
        line(s, "%10s %10s %9s %9s %6lld  %s", size_format((uint64_t)cli_integer(l, "size_bytes"), used),
             size_format((uint64_t)cli_integer(l, "cached_bytes"), budget),
             mega(rate(was, l, "storage_read_bytes", seconds), a), mega(rate(was, l, "filled_bytes", seconds), b),
             (long long)cli_integer(l, "clients"), cli_string(l, "path"));
    }
}

/* ---- Networks ---- */

struct flow_rates {
    double in_packets, in_bits, out_packets, out_bits, drops; /* per second; in: into the switch */
};

static struct flow_rates flow_rates_of(json_t *before, json_t *now, double seconds)
{
    return (struct flow_rates){.in_packets = rate(before, now, "in_packets", seconds),
                               .in_bits = 8 * rate(before, now, "in_bytes", seconds),
                               .out_packets = rate(before, now, "out_packets", seconds),
                               .out_bits = 8 * rate(before, now, "out_bytes", seconds),
                               .drops = rate(before, now, "in_dropped", seconds) +
                                        rate(before, now, "out_dropped", seconds)};
}

/* What decided packets, in percent of them; negative: there were none. */
struct hits {
    double exact, mega, tables;
};

static struct hits hits_of(const struct sample *before, const struct sample *now, double seconds)
{
    json_t *old = json_object_get(before->networks, "switch"), *new = json_object_get(now->networks, "switch");
    double exact = rate(old, new, "emc_hits", seconds), mega_hits = rate(old, new, "megaflow_hits", seconds);
    double tables = rate(old, new, "translations", seconds), all = exact + mega_hits + tables;
    if (all <= 0) return (struct hits){-1, -1, -1};
    return (struct hits){100 * exact / all, 100 * mega_hits / all, 100 * tables / all};
}

static void show_ports(struct screen *s, json_t *before, json_t *now, double seconds)
{
    size_t i;
    json_t *p;
    json_array_foreach(now, i, p)
    {
        const char *state = cli_string(p, "state");
        if (strcmp(state, "serving") == 0 && *cli_string(p, "front_end")) state = cli_string(p, "front_end");
        json_t *old = find_by(before, "name", cli_string(p, "name"));
        struct flow_rates r = flow_rates_of(json_object_get(old, "stats"), json_object_get(p, "stats"), seconds);
        char a[16], b[16];
        line(s, "%-20.20s %-12.12s %-12.12s %11.0f %10s %11.0f %10s %9.0f", cli_string(p, "name"),
             cli_string(p, "bridge"), state, r.in_packets, mega(r.in_bits, a), r.out_packets, mega(r.out_bits, b),
             r.drops);
    }
}

static void show_networks(struct screen *s, const struct sample *before, const struct sample *now, double seconds)
{
    json_t *n = now->networks, *old = before->networks, *totals = json_object_get(n, "switch");
    json_t *process = json_object_get(n, "process");
    if (!json_array_size(json_object_get(n, "bridges"))) return;
    struct hits h = hits_of(before, now, seconds);
    line(s, "%s", "");
    if (!json_is_true(json_object_get(process, "running")))
        line(s, "switch: %s%s%s", cli_string(process, "state"), *cli_string(process, "error") ? ": " : "",
             cli_string(process, "error"));
    else if (h.exact < 0)
        line(s, "switch: idle; %lld megaflows, %lld masks", (long long)cli_integer(totals, "megaflows"),
             (long long)cli_integer(totals, "masks"));
    else
        line(s, "switch: decided by exact match %.1f %%, megaflows %.1f %%, tables %.1f %%; %lld megaflows, %lld masks",
             h.exact, h.mega, h.tables, (long long)cli_integer(totals, "megaflows"),
             (long long)cli_integer(totals, "masks"));
    line(s, "%-20s %-12s %-12s %11s %10s %11s %10s %9s", "CARD OR PORT", "BRIDGE", "STATE", "IN pkt/s", "IN Mb/s",
         "OUT pkt/s", "OUT Mb/s", "DROPS/s");
    show_ports(s, json_object_get(old, "vifs"), json_object_get(n, "vifs"), seconds);
    show_ports(s, json_object_get(old, "ports"), json_object_get(n, "ports"), seconds);
}

static void show(struct screen *s, const struct sample *before, const struct sample *now)
{
    double seconds = before->disks ? (double)(now->at_ns - before->at_ns) / 1e9 : 0;
    show_disks(s, before, now, seconds);
    show_cache(s, before, now, seconds);
    show_networks(s, before, now, seconds);
}

static void show_text(const struct sample *before, const struct sample *now)
{
    struct screen s = {0};
    show(&s, before, now);
}

/* ---- One JSON text a look, on a line of its own ---- */

static json_t *disk_json(json_t *before, json_t *now, double seconds)
{
    struct rates r = rates_of(json_object_get(before, "stats"), json_object_get(now, "stats"), seconds);
    return json_pack("{s:s, s:s, s:s, s:f, s:f, s:f, s:f, s:o, s:I}", "name", cli_string(now, "name"), "state",
                     cli_string(now, "state"), "front_end", cli_string(now, "front_end"), "reads_per_s", r.reads,
                     "writes_per_s", r.writes, "read_bytes_per_s", r.read_bytes, "write_bytes_per_s", r.write_bytes,
                     "hit_percent", r.hit_percent >= 0 ? json_real(r.hit_percent) : json_null(), "latency_ns_mean",
                     cli_integer(json_object_get(now, "stats"), "latency_ns_mean"));
}

static void append_ports(json_t *list, const char *kind, json_t *before, json_t *now, double seconds)
{
    size_t i;
    json_t *p;
    json_array_foreach(now, i, p)
    {
        json_t *old = find_by(before, "name", cli_string(p, "name"));
        struct flow_rates r = flow_rates_of(json_object_get(old, "stats"), json_object_get(p, "stats"), seconds);
        json_array_append_new(
            list, json_pack("{s:s, s:s, s:s, s:s, s:s, s:f, s:f, s:f, s:f, s:f}", "name", cli_string(p, "name"), "kind",
                            kind, "bridge", cli_string(p, "bridge"), "state", cli_string(p, "state"), "front_end",
                            cli_string(p, "front_end"), "in_packets_per_s", r.in_packets, "in_bits_per_s", r.in_bits,
                            "out_packets_per_s", r.out_packets, "out_bits_per_s", r.out_bits, "drops_per_s", r.drops));
    }
}

static json_t *percent_json(double percent)
{
    return percent >= 0 ? json_real(percent) : json_null();
}

static json_t *networks_json(const struct sample *before, const struct sample *now, double seconds)
{
    json_t *list = json_array(), *old = before->networks, *n = now->networks;
    struct hits h = hits_of(before, now, seconds);
    append_ports(list, "vif", json_object_get(old, "vifs"), json_object_get(n, "vifs"), seconds);
    append_ports(list, "port", json_object_get(old, "ports"), json_object_get(n, "ports"), seconds);
    return json_pack("{s:o, s:o, s:o, s:o}", "ports", list, "exact_percent", percent_json(h.exact), "megaflow_percent",
                     percent_json(h.mega), "tables_percent", percent_json(h.tables));
}

static void show_json(const struct sample *before, const struct sample *now)
{
    double seconds = (double)(now->at_ns - before->at_ns) / 1e9;
    json_t *disks = json_array(), *d;
    size_t i;
    json_array_foreach(now->disks, i, d)
        json_array_append_new(disks, disk_json(find_by(before->disks, "name", cli_string(d, "name")), d, seconds));
    json_t *o = json_pack("{s:f, s:o, s:O, s:o}", "seconds", seconds, "disks", disks, "cache", now->cache, "networks",
                          networks_json(before, now, seconds));
    json_dumpf(o, stdout, JSON_COMPACT);
    putchar('\n');
    json_decref(o);
}

/* ---- Running ---- */

static int run_batch(struct cli *c, uint64_t iterations, double delay_s)
{
    struct sample before = {0}, now;
    struct errmsg e = {""};
    for (uint64_t i = 0;; i++) {
        if (sample_take(c, &now, &e) < 0) {
            sample_clear(&before);
            return cli_fail("%s", e.text);
        }
        if (i) { /* the first sample is only compared with */
            if (i > 1 && !c->json) puts("");
            (c->json ? show_json : show_text)(&before, &now);
            fflush(stdout);
        }
        sample_clear(&before);
        before = now;
        if (i == iterations) break;
        usleep((useconds_t)(delay_s * 1e6));
    }
    sample_clear(&before);
    return CLI_OK;
}

/* False: the user wants to leave. */
static bool wait_key(double delay_s)
{
    timeout((int)(delay_s * 1000));
    int key = getch();
    return key != 'q' && key != 'Q' && key != 27 && key != 3;
}

static int run_screen(struct cli *c, uint64_t iterations, double delay_s)
{
    struct sample before = {0}, now;
    struct errmsg e = {""};
    int ret = sample_take(c, &now, &e);
    if (ret < 0) return cli_fail("%s", e.text);
    SCREEN *terminal = newterm(NULL, stdout, stdin);
    if (!terminal) {
        sample_clear(&now);
        return cli_fail("this terminal (TERM=%s) cannot show `top`: use --batch", getenv("TERM") ? getenv("TERM") : "");
    }
    noecho();
    cbreak();
    curs_set(0);
    for (uint64_t i = 0;; i++) {
        struct screen s = {.curses = true};
        getmaxyx(stdscr, s.rows, s.columns);
        erase();
        line(&s, "creedence top: %zu disks, every %.1f s; q leaves", json_array_size(now.disks), delay_s);
        show(&s, &before, &now);
        refresh();
        if (i == iterations || !wait_key(delay_s)) break;
        sample_clear(&before);
        before = now;
        now = (struct sample){0};
        ret = sample_take(c, &now, &e);
        if (ret < 0) break;
    }
    endwin();
    delscreen(terminal);
    sample_clear(&before);
    sample_clear(&now);
    return ret < 0 ? cli_fail("%s", e.text) : CLI_OK;
}

static double delay_value(const struct cli *c, const char *text)
{
    char *end;
    double d = strtod(text, &end);
    if (*end || end == text || !(d >= 0.1 && d <= 3600))
        cli_usage_error(c, "--delay %s: expected seconds, 0.1 to 3600", text);
    return d;
}

static int top(struct cli *c)
{
    bool batch = false;
    uint64_t iterations = UINT64_MAX;
    double delay_s = 1;
    for (int opt; (opt = cli_option(c)) != -1;) {
        switch (opt) {
        case OPT_BATCH: batch = true; break;
        case 'n': iterations = cli_number(c, "--iterations", optarg, 1, 1000000000); break;
        case 'd': delay_s = delay_value(c, optarg); break;
        }
    }
    cli_arguments(c, 0);
    return batch || c->json ? run_batch(c, iterations, delay_s) : run_screen(c, iterations, delay_s);
}

const struct cli_verb cli_top = {
    .name = "top",
    .args = "",
    .summary = "Show what disks, the read cache and networks do, live",
    .options = top_options,
    .shorts = "n:d:",
    .run = top,
    .help = "  -d, --delay SECONDS     between two looks (default 1)\n"
            "  -n, --iterations N      leave after N of them\n"
            "  --batch                 plain lines instead of a screen\n"
            "\nREAD/s and WRITE/s are requests; HIT % is what of the reads of base layers came from the shared cache;\n"
            "MEAN us is a request's mean time in the worker since it started. IN is what comes from a card or port "
            "into the\n"
            "switch, OUT what goes to it. With --json it is like --batch, and each "
            "look is\n"
            "one JSON text on a line of its own.\n"
            "\nExamples:\n"
            "  creedence top\n"
            "  creedence top --batch -n 5 -d 10\n"
            "  creedence top --json -n 1 | jq '.disks[] | {name, reads_per_s}'\n",
};
