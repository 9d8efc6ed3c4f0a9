/* SPDX-License-Identifier: Apache-2.0 */
#include "vif/test_netif.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MUST(ok, ...)                                                                                                  \
    do {                                                                                                               \
        if (ok) break;                                                                                                 \
        fprintf(stderr, __VA_ARGS__);                                                                                  \
        abort();                                                                                                       \
    } while (0)

static int open_door(void *arg, xen_domid domid, struct xen **out, struct errmsg *e)
{
    struct netif_bed *b = arg;
    return sim_xen_open(out, b->sim, &b->budget, false, e);
}

int bed_card_try(struct netif_bed *b, unsigned queues, enum netif_transmit transmit, struct errmsg *e)
{
    struct netif_config xen = {.domid = BED_DOMID,
                               .transmit = transmit,
                               .open = open_door,
                               .arg = b,
                               .state = b->state,
                               .mappers = &b->mappers,
                               .barrier = b->barrier};
    struct vif_config c = {
        .name = "x", .mac = {2}, .mtu = 1500, .queue_pairs = queues, .offloads = true, .kept = &b->kept, .xen = &xen};
    return vif_new(&b->vif, &c, &card_runners, e);
}

void bed_card_new(struct netif_bed *b, unsigned queues, enum netif_transmit transmit)
{
    struct errmsg e = {""};
    MUST(bed_card_try(b, queues, transmit, &e) == 0, "%s\n", e.text);
}

void bed_restart(struct netif_bed *b, enum netif_transmit transmit)
{
    unsigned queues = b->front.queues;
    vif_free(b->vif);
    bed_card_new(b, queues, transmit);
}

const struct netif_front bed_takes_all = {
    .sg = true, .csum_offload = true, .csum_offload6 = true, .gso_tcp4 = true, .gso_tcp6 = true};

void bed_connect(struct netif_bed *b, const struct netif_front *front, bool resume)
{
    struct errmsg e = {""};
    struct netif_queue_setup setup[NETFRONT_QUEUES_MAX];
    netfront_setup(&b->front, setup);
    MUST(netif_connect(b->vif, front, setup, b->front.queues, NULL, resume, &e) == 0, "%s\n", e.text);
}

void bed_open(struct netif_bed *b, unsigned queues, bool split, enum netif_transmit transmit,
              const struct netif_front *front)
{
    struct errmsg e = {""};
    memset(b, 0, sizeof *b);
    strcpy(b->dir, "/tmp/creedence-netif-XXXXXX");
    MUST(mkdtemp(b->dir), "mkdtemp\n");
    b->budget.max = 100000;
    b->state = calloc(1, netif_state_bytes(queues));
    struct sim_options o = {.abi = SIM_FIFO};
    MUST(sim_create(&b->sim, b->dir, &o, &e) == 0, "%s\n", e.text);
    MUST(netfront_open(&b->front, b->sim, BED_DOMID, queues, split) == 0, "front end\n");
    bed_card_new(b, queues, transmit);
    bed_connect(b, front, false);
}

void bed_close(struct netif_bed *b)
{
    vif_free(b->vif);
    MUST(sim_maps_used(b->sim) == 0, "something is left\n");
    MUST(sim_ports_used(b->sim, SIM_HOST) == 0, "something is left\n");
    MUST(atomic_load(&b->budget.used) == 0, "something is left\n");
    MUST(atomic_load(&b->mappers) == 0, "something is left\n");
    netfront_close(&b->front);
    sim_detach(b->sim);
    sim_remove(b->dir);
    free(b->state);
}

int bed_receive(struct netif_bed *b, unsigned queue, struct packet **out)
{
    struct port_source *s = &b->vif->netif->queue[queue].source;
    return s->ops->receive(s, out, PACKET_BATCH, NULL);
}

void bed_release(struct netif_bed *b, unsigned queue)
{
    struct port_source *s = &b->vif->netif->queue[queue].source;
    s->ops->release(s);
}

void bed_deliver(struct netif_bed *b, struct packet *const *packets, unsigned count)
{
    vif_port(b->vif)->ops->send(vif_port(b->vif), packets, count, NULL);
}
