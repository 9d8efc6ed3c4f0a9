/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vhost-net-bench: drive vhost-user-net back ends from native front ends (net_frontend.h). This file reads the command line; the
 * modes are in net_load.c and net_attach_many.c.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/checked.h"
#include "net_bench.h"

static const char usage[] =
    "usage: vhost-net-bench --port=SOCKET[,...] [--port=...] [options]    send and receive, measured\n"
    "       vhost-net-bench --attach-many=DIR --count=N [--idle=S]        attach to N sockets (DIR/*.sock) and stay "
    "idle\n"
    "\n"
    "what a port sends (nothing: it only receives):\n"
    "  flows=N           frames of N UDP flows, told apart by their destination address, as testpmd's flowgen has "
    "them\n"
    "  frames=FILE       the frames in FILE, 64 bytes each, one after the other\n"
    "  stream=BYTES      TCP segments of that size, to be cut (or not) by the back end\n"
    "  rate=PPS          at most so many a second\n"
    "options:\n"
    "  --frame-bytes=N   of flows and frames, 60 (without the checksum of the wire)\n"
    "  --counter=AT,LEN  a running number of LEN bytes at byte AT of each frame: every frame another flow\n"
    "  --mss=N           of streams, 1448\n"
    "  --verify[=full]   look at what is received (full: at every word of a stream)\n"
    "  --runtime=S --ramp=S   seconds measured, 5 (less after SIGTERM), after a ramp of 1\n"
    "  --relax=US        sleep so long when there is nothing to do, instead of polling\n"
    "  --drain           count what arrives shortly after the end, too: what is missing then was dropped\n"
    "  --reconnect       attach again when the back end goes away\n"
    "  --json            accepted for symmetry: the result is one line of JSON\n"
    "cards:\n"
    "  --packed --event-idx --offloads   features to accept (--offloads: checksum and segmentation, both ways)\n"
    "  --queue-size=N    1024;  --pairs=N  of queues, 1 (only the first sends)\n"
    "  --rx-buffer=N     bytes of a receive buffer, 2048;  --tx-segment=N  bytes of a descriptor of what is sent\n"
    "  --huge --regions=N     2 MiB pages; memory shared in N regions\n"
    "  --listen          wait for the back end to connect;  --wait=S  go on trying for so long, 5\n";

enum long_option {
    OPT_PORT = 256,
    OPT_FRAME_BYTES,
    OPT_COUNTER,
    OPT_MSS,
    OPT_VERIFY,
    OPT_RUNTIME,
    OPT_RAMP,
    OPT_RECONNECT,
    OPT_JSON,
    OPT_DRAIN,
    OPT_RELAX,
    OPT_PACKED,
    OPT_EVENT_IDX,
    OPT_OFFLOADS,
    OPT_QUEUE_SIZE,
    OPT_PAIRS,
    OPT_RX_BUFFER,
    OPT_TX_SEGMENT,
    OPT_HUGE,
    OPT_REGIONS,
    OPT_LISTEN,
    OPT_WAIT,
    OPT_ATTACH_MANY,
    OPT_COUNT,
    OPT_IDLE,
    OPT_HELP,
};

static const struct option options[] = {
    {"port", required_argument, NULL, OPT_PORT},
    {"frame-bytes", required_argument, NULL, OPT_FRAME_BYTES},
    {"counter", required_argument, NULL, OPT_COUNTER},
    {"mss", required_argument, NULL, OPT_MSS},
    {"verify", optional_argument, NULL, OPT_VERIFY},
    {"runtime", required_argument, NULL, OPT_RUNTIME},
    {"ramp", required_argument, NULL, OPT_RAMP},
    {"reconnect", no_argument, NULL, OPT_RECONNECT},
    {"json", no_argument, NULL, OPT_JSON},
    {"drain", no_argument, NULL, OPT_DRAIN},
    {"relax", required_argument, NULL, OPT_RELAX},
    {"packed", no_argument, NULL, OPT_PACKED},
    {"event-idx", no_argument, NULL, OPT_EVENT_IDX},
    {"offloads", no_argument, NULL, OPT_OFFLOADS},
    {"queue-size", required_argument, NULL, OPT_QUEUE_SIZE},
    {"pairs", required_argument, NULL, OPT_PAIRS},
    {"rx-buffer", required_argument, NULL, OPT_RX_BUFFER},
    {"tx-segment", required_argument, NULL, OPT_TX_SEGMENT},
    {"huge", no_argument, NULL, OPT_HUGE},
    {"regions", required_argument, NULL, OPT_REGIONS},
    {"listen", no_argument, NULL, OPT_LISTEN},
    {"wait", required_argument, NULL, OPT_WAIT},
    {"attach-many", required_argument, NULL, OPT_ATTACH_MANY},
    {"count", required_argument, NULL, OPT_COUNT},
    {"idle", required_argument, NULL, OPT_IDLE},
    {"help", no_argument, NULL, OPT_HELP},
    {0},
};

static int bad(const char *option, const char *value, const char *expected)
{
    fprintf(stderr, "vhost-net-bench: %s '%s': expected %s\n", option, value, expected);
    return -EINVAL;
}

static int parse_count(const char *option, const char *text, uint32_t least, uint32_t most, uint32_t *out)
{
    char *end;
    errno = 0;
    unsigned long v = strtoul(text, &end, 10);
    if (end == text || *end || errno || text[0] == '-' || v < least || v > most) {
        fprintf(stderr, "vhost-net-bench: %s '%s': expected a number from %u to %u\n", option, text, least, most);
        return -EINVAL;
    }
    *out = (uint32_t)v;
    return 0;
}

static int parse_number(const char *option, const char *text, double *out)
{
    char *end;
    double v = strtod(text, &end);
    if (end == text || *end || !(v >= 0 && v < 1e12)) return bad(option, text, "a number that is not negative");
    *out = v;
    return 0;
}

static int take_port_word(struct net_port_options *p, const char *word)
{
    const char *value = strchr(word, '=');
    size_t n = value ? (size_t)(value++ - word) : 0;
    if (n == 5 && strncmp(word, "flows", n) == 0) return parse_count("flows", value, 1, 1u << 24, &p->flows);
    if (n == 6 && strncmp(word, "stream", n) == 0)
        return parse_count("stream", value, 64, NETFE_FRAME_BYTES_MAX - 16, &p->stream_bytes);
    if (n == 4 && strncmp(word, "rate", n) == 0) return parse_number("rate", value, &p->rate);
    if (n == 6 && strncmp(word, "frames", n) == 0) {
        p->frames_path = value;
        return 0;
    }
    return bad("--port", word, "flows=, frames=, stream= or rate=");
}

static int take_port(struct net_options *o, char *text)
{
    if (o->ports == NET_PORTS_MAX) return bad("--port", text, "fewer ports");
    struct net_port_options *p = &o->port[o->ports++];
    p->socket_path = strtok(text, ",");
    if (!p->socket_path) return bad("--port", "", "a socket");
    for (char *word; (word = strtok(NULL, ","));) {
        if (take_port_word(p, word) < 0) return -EINVAL;
    }
    if (!!p->flows + !!p->frames_path + !!p->stream_bytes > 1)
        return bad("--port", p->socket_path, "one of flows, frames and stream");
    return 0;
}

static int take_counter(struct net_options *o, char *text)
{
    char *comma = strchr(text, ',');
    if (!comma) return bad("--counter", text, "AT,LEN");
    *comma = 0;
    if (parse_count("--counter", text, 0, 63, &o->counter_at) < 0) return -EINVAL;
    return parse_count("--counter", comma + 1, 1, 8, &o->counter_bytes);
}

static int take_card(struct net_options *o, int option, char *arg)
{
    struct netfe_args *c = &o->card;
    double seconds;
    switch (option) {
    case OPT_PACKED: c->link.packed = true; return 0;
    case OPT_EVENT_IDX: c->link.event_idx = true; return 0;
    case OPT_OFFLOADS: c->offloads = true; return 0;
    case OPT_QUEUE_SIZE: return parse_count("--queue-size", arg, 2, 32768, &c->queue_size);
    case OPT_PAIRS: return parse_count("--pairs", arg, 1, NETFE_PAIRS_MAX, &c->pairs);
    case OPT_RX_BUFFER: return parse_count("--rx-buffer", arg, 128, 1u << 20, &c->rx_buffer_bytes);
    case OPT_TX_SEGMENT: return parse_count("--tx-segment", arg, 64, 1u << 20, &c->tx_segment_bytes);
    case OPT_HUGE: c->link.huge_pages = true; return 0;
    case OPT_REGIONS: return parse_count("--regions", arg, 1, FRONTEND_REGIONS_MAX, &c->link.regions);
    case OPT_LISTEN: c->link.listen = true; return 0;
    case OPT_WAIT:
        if (parse_number("--wait", arg, &seconds) < 0) return -EINVAL;
        c->link.connect_wait_ms = (unsigned)(seconds * 1000);
        return 0;
    default: return 1;
    }
}

static int take_load(struct net_options *o, int option, char *arg)
{
    switch (option) {
    case OPT_PORT: return take_port(o, arg);
    case OPT_FRAME_BYTES: return parse_count("--frame-bytes", arg, 60, 1514, &o->frame_bytes);
    case OPT_COUNTER: return take_counter(o, arg);
    case OPT_MSS: return parse_count("--mss", arg, 64, 65000, &o->mss);
    case OPT_VERIFY:
        if (arg && strcmp(arg, "full") != 0) return bad("--verify", arg, "full, or nothing");
        o->verify = true;
        o->verify_full = arg;
        return 0;
    case OPT_RUNTIME: return parse_number("--runtime", arg, &o->runtime_s);
    case OPT_RAMP: return parse_number("--ramp", arg, &o->ramp_s);
    case OPT_RECONNECT: o->reconnect = true; return 0;
    case OPT_JSON: o->json = true; return 0;
    case OPT_DRAIN: o->drain = true; return 0;
    case OPT_RELAX: return parse_count("--relax", arg, 1, 100000, &o->relax_us);
    case OPT_ATTACH_MANY: o->socket_dir = arg; return 0;
    case OPT_COUNT: return parse_count("--count", arg, 1, 100000, &o->count);
    case OPT_IDLE: return parse_number("--idle", arg, &o->idle_s);
    default: return 1;
    }
}

static int parse(struct net_options *o, int argc, char **argv)
{
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        if (option == '?') return -EINVAL;
        if (option == OPT_HELP) {
            fputs(usage, stdout);
            exit(0);
        }
        int ret = take_card(o, option, optarg);
        if (ret == 1) ret = take_load(o, option, optarg);
        if (ret < 0) return ret;
    }
    if (argc != optind || (!o->ports && !o->socket_dir)) {
        fputs(usage, stderr);
        return -EINVAL;
    }
    return 0;
}

int main(int argc, char **argv)
{
    static struct net_options o = {.frame_bytes = 60,
                                   .mss = 1448,
                                   .runtime_s = 5,
                                   .ramp_s = 1,
                                   .count = 1,
                                   .card = {.link = {.connect_wait_ms = 5000}}};
    if (parse(&o, argc, argv) < 0) return 2;
    return o.socket_dir ? net_attach_many(&o) : net_load(&o);
}
