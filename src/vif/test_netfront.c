/* SPDX-License-Identifier: Apache-2.0 */
#include "vif/test_netfront.h"

#include <errno.h>
#include <string.h>

static int page_new(struct sim_guest *g, bool readonly, uint32_t *page, uint32_t *grant)
{
    int64_t frame = sim_page_take(g);
    int64_t ref = frame < 0 ? frame : sim_grant(g, SIM_HOST, (uint32_t)frame, readonly);
    if (ref < 0) return (int)ref;
    *page = (uint32_t)frame;
    *grant = (uint32_t)ref;
    return 0;
}

static int queue_open(struct sim_guest *g, struct netfront_queue *q, bool split)
{
    uint32_t tx = 0, rx = 0;
    int ret = page_new(g, false, &tx, &q->tx_ref);
    if (ret == 0) ret = page_new(g, false, &rx, &q->rx_ref);
    for (uint16_t i = 0; ret == 0 && i < NETIF_ENTRIES; i++) {
        ret = page_new(g, true, &q->tx_page[i], &q->tx_grant[i]);
        if (ret == 0) ret = page_new(g, false, &q->rx_page[i], &q->rx_grant[i]);
        q->tx_free[q->tx_free_count++] = q->rx_free[q->rx_free_count++] = i;
    }
    if (ret < 0) return ret;
    netif_sim_init(&q->tx, sim_guest_page(g, tx), true);
    netif_sim_init(&q->rx, sim_guest_page(g, rx), false);
    q->tx_port = sim_port_alloc(g, SIM_HOST);
    q->rx_port = split && q->tx_port > 0 ? sim_port_alloc(g, SIM_HOST) : q->tx_port;
    return q->rx_port < 0 ? q->rx_port : 0;
}

int netfront_open(struct netfront *f, struct sim *sim, xen_domid domid, unsigned queues, bool split)
{
    struct errmsg e = {""};
    struct sim_guest_options o = {.domid = domid,
                                  .pages = queues * NETFRONT_PAGES_PER_QUEUE + 64,
                                  .grants = queues * NETFRONT_PAGES_PER_QUEUE + 128,
                                  .abi = SIM_FIFO};
    memset(f, 0, sizeof *f);
    f->queues = queues;
    int ret = sim_guest_create(&f->guest, sim, &o, &e);
    for (unsigned i = 0; ret == 0 && i < queues; i++)
        ret = queue_open(f->guest, &f->queue[i], split);
    return ret;
}

void netfront_close(struct netfront *f)
{
    sim_guest_free(f->guest);
    f->guest = NULL;
}

void netfront_setup(const struct netfront *f, struct netif_queue_setup *out)
{
    for (unsigned i = 0; i < f->queues; i++) {
        const struct netfront_queue *q = &f->queue[i];
        out[i] = (struct netif_queue_setup){q->tx_ref, q->rx_ref, (uint32_t)q->tx_port, (uint32_t)q->rx_port};
    }
}

unsigned netfront_post(struct netfront_queue *q, unsigned n)
{
    unsigned posted = 0;
    for (; posted < n && q->rx_free_count; posted++) {
        uint16_t id = q->rx_free[q->rx_free_count - 1];
        if (!netif_sim_add_rx(&q->rx, id, q->rx_grant[id])) break;
        q->rx_free_count--;
    }
    return posted;
}

void netfront_publish_rx(struct netfront *f, struct netfront_queue *q)
{
    if (netif_sim_publish(&q->rx)) sim_port_notify(f->guest, q->rx_port);
}

void netfront_publish_tx(struct netfront *f, struct netfront_queue *q)
{
    if (netif_sim_publish(&q->tx)) sim_port_notify(f->guest, q->tx_port);
}

static void add_entry(struct netfront *f, struct netfront_queue *q, const uint8_t *bytes, uint16_t n,
                      struct netif_wire_tx w)
{
    uint16_t id = q->tx_free[--q->tx_free_count];
    memcpy((uint8_t *)sim_guest_page(f->guest, q->tx_page[id]) + w.offset, bytes, n);
    w.id = id;
    w.ref = q->tx_grant[id];
    netif_sim_add_tx(&q->tx, &w);
    q->sent++;
}

bool netfront_add(struct netfront *f, struct netfront_queue *q, const void *frame, uint32_t length,
                  const struct netfront_send *how)
{
    unsigned piece = how->piece_bytes ? how->piece_bytes : NETIF_PAGE_BYTES - how->offset;
    unsigned head = how->head_bytes && how->head_bytes < length ? how->head_bytes : 0;
    unsigned pieces = (head > 0) + (length - head + piece - 1) / piece;
    const uint8_t *at = frame;
    if (netif_sim_free(&q->tx) < pieces + 1 || q->tx_free_count < pieces) return false;
    for (uint32_t done = 0; done < length;) {
        unsigned most = done == 0 && head ? head : piece;
        uint16_t n = (uint16_t)(length - done < most ? length - done : most);
        struct netif_wire_tx w = {.offset = how->offset, .size = done ? n : (uint16_t)length};
        if (done + n < length) w.flags |= NETIF_TX_MORE_DATA;
        if (done == 0) w.flags |= how->flags | (how->gso ? NETIF_TX_EXTRA_INFO : 0);
        add_entry(f, q, at + done, n, w);
        if (done == 0 && how->gso) {
            struct netif_wire_extra x = {.type = NETIF_EXTRA_GSO};
            x.gso.size = how->gso_size;
            x.gso.type = how->gso;
            netif_sim_add_extra(&q->tx, &x);
        }
        done += n;
    }
    return true;
}

unsigned netfront_reap(struct netfront_queue *q)
{
    unsigned n = 0;
    uint16_t id;
    int status;
    for (; netif_sim_get_tx(&q->tx, &id, &status); n++) {
        q->tx_free[q->tx_free_count++] = id;
        q->answered++;
        q->failed += status != NETIF_OKAY;
    }
    return n;
}

static void take_data(struct netfront *f, struct netfront_queue *q, const struct netif_wire_rx_response *w, uint16_t id,
                      struct netfront_frame *out)
{
    if (w->id != id && !q->rx.error) q->rx.error = "an answer that is not its request's";
    if (w->status < 0) {
        if (!out->status) out->status = w->status;
    } else {
        memcpy(out->bytes + out->length, (uint8_t *)sim_guest_page(f->guest, q->rx_page[id]) + w->offset,
               (size_t)w->status);
        out->length += (uint32_t)w->status;
    }
    q->rx_free[q->rx_free_count++] = id;
    out->entries++;
}

static void take_extras(struct netfront_queue *q, struct netfront_frame *out)
{
    struct netif_wire_rx_response w;
    struct netif_wire_extra x = {.flags = NETIF_EXTRA_FLAG_MORE};
    uint16_t id;
    while (x.flags & NETIF_EXTRA_FLAG_MORE && netif_sim_get_rx(&q->rx, &w, &id)) {
        memcpy(&x, &w, sizeof x);
        if (x.type == NETIF_EXTRA_GSO) {
            out->gso = x.gso.type;
            out->gso_size = x.gso.size;
        }
        q->rx_free[q->rx_free_count++] = id;
        out->entries++;
    }
}

bool netfront_get(struct netfront *f, struct netfront_queue *q, struct netfront_frame *out)
{
    struct netif_wire_rx_response w;
    uint16_t id;
    uint8_t *bytes = out->bytes;
    *out = (struct netfront_frame){.bytes = bytes};
    if (!netif_sim_get_rx(&q->rx, &w, &id)) return false;
    out->flags = w.flags;
    take_data(f, q, &w, id, out);
    if (w.flags & NETIF_RX_EXTRA_INFO) take_extras(q, out);
    while (w.flags & NETIF_RX_MORE_DATA && netif_sim_get_rx(&q->rx, &w, &id))
        take_data(f, q, &w, id, out);
    return true;
}

static void put16(uint8_t *at, unsigned v)
{
    at[0] = (uint8_t)(v >> 8);
    at[1] = (uint8_t)v;
}

void netfront_headers(uint8_t *f, unsigned from, unsigned queue, unsigned length, bool tcp)
{
    memset(f, 0, NETFRONT_HEADER_BYTES);
    f[0] = f[6] = 2;
    f[5] = (uint8_t)(2 - from);
    f[11] = (uint8_t)(1 + from);
    put16(f + 12, 0x0800);
    f[14] = 0x45;
    put16(f + 16, length - 14);
    f[22] = 64;
    f[23] = tcp ? 6 : 17;
    memcpy(f + 26, (uint8_t[]){10, 0, 0, (uint8_t)(1 + from), 10, 0, 0, (uint8_t)(2 - from)}, 8);
    put16(f + 34, 1000 + queue);
    put16(f + 36, 2000);
    if (tcp) f[46] = 0x50, f[47] = 0x10;
    else put16(f + 38, length - 34);
}
