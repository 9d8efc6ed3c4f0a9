/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The load mode of vhost-net-bench: every port sends what it was given as fast as its card takes it (or at its rate), every port
 * counts and checks what comes in. One thread, so that one core drives all ports and none starves another.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "bench.h"
#include "net_bench.h"

enum { BURST = 64, ALIVE_PASSES = 65536 };

static volatile sig_atomic_t asked_to_end;

static void ask_to_end(int signal)
{
    (void)signal;
    asked_to_end = 1;
}

struct counts {
    uint64_t tx_packets, tx_bytes, rx_packets, rx_bytes, rx_buffers, wrong, foreign;
};

struct port {
    struct netfe *card;
    struct net_frames frames;
    const struct net_port_options *o;
    unsigned index;
    uint32_t next;   /* record to send */
    uint64_t number; /* of frames sent */
    double allowance, last_s;
    uint64_t reconnects;
    struct counts now, before;
};

struct load {
    const struct net_options *o;
    struct port *port;
    uint64_t passes, idle_passes;
    bool stopping;
    char first_failure[200];
};

static double now_s(void)
{
    return (double)bench_now_ns() / 1e9;
}

/* ---- Sending ---- */

static void put_counter(const struct net_options *o, uint8_t *frame, uint64_t number)
{
    for (unsigned i = o->counter_bytes; i-- > 0; number >>= 8) {
        frame[o->counter_at + i] = (uint8_t)number;
    }
}

static void write_frame(const struct load *l, struct port *p, char *buffer)
{
    uint8_t *frame = (uint8_t *)buffer + NETFE_HEADER_BYTES;
    memcpy(frame, p->frames.record + (size_t)p->next * NET_RECORD_BYTES, NET_RECORD_BYTES);
    if (++p->next == p->frames.count) p->next = 0;
    if (l->o->counter_bytes) put_counter(l->o, frame, p->number);
    if (l->o->verify && !p->o->frames_path) net_seal(frame, p->number);
}

static unsigned may_send(struct port *p)
{
    if (p->o->rate <= 0) return BURST;
    double now = now_s();
    p->allowance += (now - p->last_s) * p->o->rate;
    p->last_s = now;
    if (p->allowance > BURST) p->allowance = BURST;
    return (unsigned)p->allowance;
}

static int send_burst(struct load *l, struct port *p)
{
    struct netfe_queue *q = &p->card->tx[0];
    uint16_t slots[BURST];
    int back = netfe_tx_reap(q, 2 * BURST);
    if (back < 0) return back;
    unsigned n = l->stopping ? 0 : netfe_tx_take(q, slots, may_send(p));
    uint32_t bytes = p->o->stream_bytes ? p->o->stream_bytes : l->o->frame_bytes;
    for (unsigned i = 0; i < n; i++) {
        if (!p->o->stream_bytes) write_frame(l, p, netfe_buffer(q, slots[i]));
        netfe_tx_add(q, slots[i], NETFE_HEADER_BYTES + bytes);
        p->number++;
    }
    netfe_submit(q);
    if (p->o->rate > 0) p->allowance -= n;
    p->now.tx_packets += n;
    p->now.tx_bytes += (uint64_t)n * bytes;
    return (int)n;
}

/* ---- Receiving ---- */

/* A part of a large segment that lies at frame byte `at`: its first and last words, or all. */
static bool stream_part_right(const char *p, uint32_t at, uint32_t bytes, bool full)
{
    uint32_t first = at < NET_STREAM_CONTENT_AT ? NET_STREAM_CONTENT_AT : (at + 7) & ~7u;
    uint32_t end = (at + bytes) & ~7u, step = 8;
    if (first + 8 > end) return true;
    if (!full) step = end - 8 - first ? end - 8 - first : 8;
    for (uint32_t word_at = first; word_at < end; word_at += step) {
        uint64_t word;
        memcpy(&word, p + (word_at - at), sizeof word);
        if (word != net_stream_word(word_at)) return false;
    }
    return true;
}

/* Others on the same bridge broadcast: what is not for this card (net_content.c) is nothing that was sent to it. */
static bool is_foreign(const struct port *p, const struct netfe_queue *q, const struct netfe_used *u)
{
    const uint8_t own[6] = {2, 0, 0, 0, 0, (uint8_t)(p->index + 1)};
    return memcmp(netfe_buffer(q, u->slot) + NETFE_HEADER_BYTES, own, sizeof own) != 0;
}

static bool frame_right(const struct load *l, const struct netfe_queue *q, const struct netfe_used *u, bool streams)
{
    uint32_t at = 0;
    for (unsigned i = 0, buffers = u->buffers; i < buffers; i++) {
        uint32_t skip = i ? 0 : NETFE_HEADER_BYTES;
        if (u[i].bytes < skip) return false;
        const char *p = netfe_buffer(q, u[i].slot) + skip;
        if (streams && !stream_part_right(p, at, u[i].bytes - skip, l->o->verify_full)) return false;
        if (!streams && i == 0 && (u[i].bytes < skip + 60 || !net_sealed((const uint8_t *)p))) return false;
        at += u[i].bytes - skip;
    }
    return true;
}

static void count_frame(const struct load *l, struct port *p, const struct netfe_queue *q, const struct netfe_used *u)
{
    p->now.rx_bytes -= NETFE_HEADER_BYTES;
    if (l->o->verify && is_foreign(p, q, u)) {
        p->now.foreign++;
        return;
    }
    p->now.rx_packets++;
    if (l->o->verify && !frame_right(l, q, u, l->port[0].o->stream_bytes)) p->now.wrong++;
}

static int receive_burst(struct load *l, struct port *p)
{
    struct netfe_used used[BURST + NETFE_FRAME_BUFFERS_MAX];
    int total = 0;
    for (unsigned pair = 0; pair < p->card->args.pairs; pair++) {
        struct netfe_queue *q = &p->card->rx[pair];
        int n = netfe_rx_reap(q, used, BURST);
        if (n < 0) return n;
        for (int i = 0; i < n; i++) {
            if (used[i].buffers) count_frame(l, p, q, &used[i]);
            p->now.rx_bytes += used[i].bytes;
        }
        for (int i = 0; i < n; i++) {
            netfe_rx_give(q, used[i].slot);
        }
        p->now.rx_buffers += (unsigned)n;
        netfe_submit(q);
        total += n;
    }
    return total;
}

/* ---- The run ---- */

static int lost(struct load *l, struct errmsg *e)
{
    for (unsigned i = 0; i < l->o->ports; i++) {
        struct port *p = &l->port[i];
        if (frontend_alive(p->card->link)) continue;
        if (!l->o->reconnect) return errmsg_set(e, EPIPE, "port %u: the back end closed the connection", i);
        p->reconnects++;
        int ret = netfe_attach(p->card, e);
        if (ret < 0) return ret;
    }
    return 0;
}

static int broken(const struct port *p, struct errmsg *e)
{
    const char *why = p->card->rx[0].broken ? p->card->rx[0].broken : p->card->tx[0].broken;
    return errmsg_set(e, EPROTO, "port %u: %s", p->index, why ? why : "a queue broke");
}

static int run_until(struct load *l, double end_s, struct errmsg *e)
{
    for (unsigned pass = 1;; pass++) {
        int work = 0;
        for (unsigned i = 0; i < l->o->ports; i++) {
            struct port *p = &l->port[i];
            bool sends = p->frames.count || p->o->stream_bytes;
            int sent = sends ? send_burst(l, p) : 0;
            int got = sent < 0 ? 0 : receive_burst(l, p);
            if (sent < 0 || got < 0) return broken(p, e);
            work += sent + got;
        }
        l->passes++;
        if (work == 0) {
            l->idle_passes++;
            if (l->o->relax_us) usleep(l->o->relax_us);
            __builtin_ia32_pause();
        }
        if (pass % ALIVE_PASSES == 0 || (l->o->relax_us && pass % 1024 == 0)) {
            int ret = lost(l, e);
            if (ret < 0) return ret;
        }
        if (pass % 16 == 0 && (asked_to_end || now_s() >= end_s)) return 0;
    }
}

static void report_port(const struct port *p, double seconds)
{
    struct counts c = p->now;
    const struct counts *b = &p->before;
    printf("{\"socket\":\"%s\",\"tx_packets\":%llu,\"rx_packets\":%llu,\"tx_bytes\":%llu,\"rx_bytes\":%llu,"
           "\"rx_buffers\":%llu,\"wrong\":%llu,\"foreign\":%llu,\"rx_pps\":%.0f,\"tx_pps\":%.0f,\"kicks\":%llu,"
           "\"reconnects\":%llu}",
           p->o->socket_path, (unsigned long long)(c.tx_packets - b->tx_packets),
           (unsigned long long)(c.rx_packets - b->rx_packets), (unsigned long long)(c.tx_bytes - b->tx_bytes),
           (unsigned long long)(c.rx_bytes - b->rx_bytes), (unsigned long long)(c.rx_buffers - b->rx_buffers),
           (unsigned long long)c.wrong, (unsigned long long)c.foreign, (double)(c.rx_packets - b->rx_packets) / seconds,
           (double)(c.tx_packets - b->tx_packets) / seconds,
           (unsigned long long)(p->card->tx[0].kicks + p->card->rx[0].kicks), (unsigned long long)p->reconnects);
}

static void report(const struct load *l, double seconds, double cpu_s)
{
    uint64_t rx = 0, tx = 0, bytes = 0, wrong = 0;
    for (unsigned i = 0; i < l->o->ports; i++) {
        const struct port *p = &l->port[i];
        rx += p->now.rx_packets - p->before.rx_packets;
        tx += p->now.tx_packets - p->before.tx_packets;
        bytes += p->now.rx_bytes - p->before.rx_bytes;
        wrong += p->now.wrong;
    }
    printf("{\"seconds\":%.4f,\"mpps\":%.4f,\"gbps\":%.4f,\"bytes_per_s\":%.0f,\"rx_packets\":%llu,\"tx_packets\":%llu,"
           "\"wrong\":%llu,\"verified\":%s,\"idle_passes\":%.3f,\"generator_cpu_s\":%.3f,\"ports\":[",
           seconds, (double)rx / seconds / 1e6, (double)bytes * 8 / seconds / 1e9, (double)bytes / seconds,
           (unsigned long long)rx, (unsigned long long)tx, (unsigned long long)wrong,
           !l->o->verify       ? "false"
           : l->o->verify_full ? "\"full\""
                               : "true",
           l->passes ? (double)l->idle_passes / (double)l->passes : 0, cpu_s);
    for (unsigned i = 0; i < l->o->ports; i++) {
        if (i) putchar(',');
        report_port(&l->port[i], seconds);
    }
    puts("]}");
}

static int run(struct load *l, struct errmsg *e)
{
    int ret = run_until(l, now_s() + l->o->ramp_s, e);
    if (ret < 0) return ret;
    for (unsigned i = 0; i < l->o->ports; i++) {
        l->port[i].before = l->port[i].now;
    }
    l->passes = l->idle_passes = 0;
    double start_s = now_s();
    uint64_t cpu_ns = bench_cpu_ns();
    ret = run_until(l, start_s + l->o->runtime_s, e);
    double seconds = now_s() - start_s;
    uint64_t used_ns = bench_cpu_ns() - cpu_ns;
    l->stopping = true;
    asked_to_end = 0;
    if (l->o->drain && ret == 0) ret = run_until(l, now_s() + 0.2, e); /* what is on its way, counted */
    if (ret == 0) report(l, seconds, (double)used_ns / 1e9);
    fflush(stdout);
    return ret;
}

static int port_open(struct load *l, struct port *p, struct errmsg *e)
{
    const struct net_options *o = l->o;
    struct netfe_args a = o->card;
    int ret = 0;
    a.link.socket_path = p->o->socket_path;
    if (p->o->stream_bytes) a.tx_buffer_bytes = (NETFE_HEADER_BYTES + p->o->stream_bytes + 4095) & ~4095u;
    if (p->o->frames_path) ret = net_frames_read(&p->frames, p->o->frames_path, e);
    if (p->o->flows && net_frames_flows(&p->frames, p->index, o->ports, p->o->flows) < 0)
        ret = errmsg_sys(e, ENOMEM, "%u flows", p->o->flows);
    if (ret == 0) ret = netfe_new(&p->card, &a, e);
    struct netfe_queue *q = ret == 0 ? &p->card->tx[0] : NULL;
    for (unsigned i = 0; q && p->o->stream_bytes && i < q->slot_count; i++) {
        net_stream_fill(netfe_buffer(q, i), p->o->stream_bytes, o->mss, p->index, o->ports);
    }
    if (ret == 0) ret = netfe_attach(p->card, e);
    p->last_s = now_s();
    return errmsg_prefix(e, ret, "%s", p->o->socket_path);
}

static int load_go(struct load *l, struct errmsg *e)
{
    int ret = 0;
    for (unsigned i = 0; ret == 0 && i < l->o->ports; i++) {
        l->port[i].o = &l->o->port[i];
        l->port[i].index = i;
        ret = port_open(l, &l->port[i], e);
    }
    if (ret == 0) ret = run(l, e);
    for (unsigned i = 0; ret == 0 && i < l->o->ports; i++) {
        ret = netfe_detach(l->port[i].card, e);
    }
    return ret;
}

int net_load(const struct net_options *o)
{
    signal(SIGTERM, ask_to_end);
    struct errmsg e = {""};
    struct load l = {.o = o};
    l.port = calloc(o->ports, sizeof *l.port);
    int ret = l.port ? load_go(&l, &e) : -ENOMEM;
    uint64_t wrong = 0;
    for (unsigned i = 0; l.port && i < o->ports; i++) {
        wrong += l.port[i].now.wrong;
        netfe_free(l.port[i].card);
        net_frames_free(&l.port[i].frames);
    }
    free(l.port);
    if (ret < 0) fprintf(stderr, "vhost-net-bench: %s\n", e.text);
    if (wrong) fprintf(stderr, "vhost-net-bench: %llu frames were not what was sent\n", (unsigned long long)wrong);
    return ret < 0 ? 2 : wrong ? 1 : 0;
}
