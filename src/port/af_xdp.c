/* SPDX-License-Identifier: Apache-2.0 */
/*
 * One UMEM for the port, cut into chunks; each queue of the card has its own share and four rings:
 *
 *     fill        chunks that frames may be put into     ours -> the kernel
 *     rx          frames that came                       the kernel -> ours
 *     tx          frames to be sent                      ours -> the kernel
 *     completion  chunks that were sent                  the kernel -> ours
 *
 * The kernel leaves 256 bytes free before a received frame: a packet's room. Chunks of a batch go back into the fill ring when it is
 * over; it has a place for each of them, so that always fits. Several threads may send through one queue: it has a lock, held
 * while frames are copied and not while the kernel sends them.
 *
 * That the interface went down or is gone wakes nobody here (the kernel's poll does not tell): the source stays silent,
 * frames to be sent are dropped when the ring is full, and the link is down. Whoever asks (ops->broken) is told that it is gone.
 */
#include "port/af_xdp.h"

#include <bpf/bpf.h>
#include <errno.h>
#include <linux/if_link.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>
#include <xdp/libxdp.h>
#include <xdp/xsk.h>

#include "packet/hash.h"
#include "port/device.h"
#include "port/frame.h"

#define RING 1024u /* chunks of a queue for receiving, and as many for sending */
#define CHUNK_SMALL 2048u
#define CHUNK_LARGE 4096u
#define HEADROOM 256u /* XDP_PACKET_HEADROOM */
#define ETHERNET_TAGS_BYTES 22u
#define KICKS_MAX 8u /* the kernel sends some 32 frames at a call */
#define SEND_BUFFER_BYTES (8 << 20)
static_assert(HEADROOM >= PACKET_ROOM_BYTES && CHUNK_SMALL - HEADROOM + PACKET_ROOM_BYTES >= PACKET_BUFFER_BYTES,
              "a head fits");
static_assert(AF_XDP_MTU_MAX + ETHERNET_TAGS_BYTES <= CHUNK_LARGE - HEADROOM, "a frame fits");

struct xdp_queue {
    struct port_source source;
    struct af_xdp *device;
    struct xsk_socket *socket;
    struct xsk_ring_cons rx, completion;
    struct xsk_ring_prod tx, fill;
    unsigned held;
    uint64_t chunks[PACKET_BATCH]; /* of the batch that is out */
    struct packet packets[PACKET_BATCH];
    struct iovec bodies[PACKET_BATCH];
    pthread_mutex_t send_lock; /* the rest */
    unsigned free_count;
    uint64_t free_chunks[RING];
};

struct af_xdp {
    struct port port;
    struct device nic;
    enum af_xdp_mode mode;
    uint32_t chunk_bytes;
    uint8_t *memory;
    size_t memory_bytes;
    struct xsk_umem *umem;
    int promiscuous_fd, map_fd, program_fd, link_fd;
    unsigned queue_count;
    struct xdp_queue *queues;
};

static struct af_xdp *device_of(struct port *p)
{
    return container_of(p, struct af_xdp, port);
}

static void count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* ---- receive ---- */

static void fill(struct xdp_queue *q, const uint64_t *chunks, unsigned n)
{
    uint32_t at;
    if (n == 0) return;
    unsigned got = xsk_ring_prod__reserve(&q->fill, n, &at);
    assert(got == n);
    for (unsigned i = 0; i < n; i++)
        *xsk_ring_prod__fill_addr(&q->fill, at + i) = chunks[i];
    xsk_ring_prod__submit(&q->fill, n);
}

static void xdp_release(struct port_source *s)
{
    struct xdp_queue *q = container_of(s, struct xdp_queue, source);
    fill(q, q->chunks, q->held);
    q->held = 0;
    if (xsk_ring_prod__needs_wakeup(&q->fill)) (void)!recvfrom(s->fd, NULL, 0, MSG_DONTWAIT, NULL, NULL);
}

static int xdp_receive(struct port_source *s, struct packet **out, unsigned max, struct packet_pool *pool)
{
    struct xdp_queue *q = container_of(s, struct xdp_queue, source);
    struct af_xdp *x = q->device;
    uint32_t at;
    (void)pool;
    unsigned got = xsk_ring_cons__peek(&q->rx, max < PACKET_BATCH ? max : PACKET_BATCH, &at), n = 0;
    if (got == 0) return 0;
    for (unsigned i = 0; i < got; i++) {
        const struct xdp_desc *d = xsk_ring_cons__rx_desc(&q->rx, at + i);
        q->chunks[i] = d->addr & ~(uint64_t)(x->chunk_bytes - 1);
        struct packet *p = &q->packets[n];
        if (!frame_packet(p, &q->bodies[n], x->memory + d->addr, d->len)) {
            count(&s->port->in.errors, 1);
            continue;
        }
        out[n++] = p;
    }
    xsk_ring_cons__release(&q->rx, got);
    q->held = got;
    if (n == 0) xdp_release(s);
    return (int)n;
}

static bool xdp_arm(struct port_source *s)
{
    struct xdp_queue *q = container_of(s, struct xdp_queue, source);
    return xsk_cons_nb_avail(&q->rx, 1) != 0;
}

static const struct port_source_ops source_ops = {.receive = xdp_receive, .release = xdp_release, .arm = xdp_arm};

/* ---- send ---- */

static void take_completed(struct xdp_queue *q)
{
    uint32_t at;
    unsigned n = xsk_ring_cons__peek(&q->completion, RING, &at);
    for (unsigned i = 0; i < n; i++)
        q->free_chunks[q->free_count++] = *xsk_ring_cons__comp_addr(&q->completion, at + i);
    xsk_ring_cons__release(&q->completion, n);
}

/* With the lock held. False: not a frame for this card, or no chunk is free. */
static bool put(struct xdp_queue *q, const struct packet *p)
{
    struct af_xdp *x = q->device;
    uint32_t at;
    if (p->length_bytes > x->chunk_bytes || q->free_count == 0) return false;
    if (xsk_ring_prod__reserve(&q->tx, 1, &at) == 0) return false;
    uint64_t chunk = q->free_chunks[--q->free_count];
    packet_read(p, 0, x->memory + chunk, p->length_bytes);
    *xsk_ring_prod__tx_desc(&q->tx, at) = (struct xdp_desc){.addr = chunk, .len = p->length_bytes};
    count(&x->port.copied_bytes, p->length_bytes);
    return true;
}

/* Without a driver's help it is this call that sends. What stays in the ring leaves with the next one. */
static void kick(struct xdp_queue *q)
{
    for (unsigned i = 0; i < KICKS_MAX && xsk_ring_prod__needs_wakeup(&q->tx); i++) {
        if (sendto(q->source.fd, NULL, 0, MSG_DONTWAIT, NULL, 0) >= 0) return;
        if (errno != EAGAIN && errno != EINTR && errno != EBUSY) {
            count(&q->device->port.out.errors, 1);
            return;
        }
    }
}

static void send_through(struct xdp_queue *q, struct packet *const *packets, unsigned n)
{
    unsigned sent = 0;
    pthread_mutex_lock(&q->send_lock);
    take_completed(q);
    for (unsigned i = 0; i < n; i++)
        if (put(q, packets[i])) sent++;
    xsk_ring_prod__submit(&q->tx, sent);
    pthread_mutex_unlock(&q->send_lock);
    if (sent < n) count(&q->device->port.out.dropped, n - sent);
    kick(q);
}

/* Each frame through the queue of its flow, in order within each. */
static void xdp_send(struct port *port, struct packet *const *packets, unsigned n, struct packet_pool *pool)
{
    struct af_xdp *x = device_of(port);
    uint8_t to[PACKET_BATCH];
    uint32_t wanted = 0;
    (void)pool;
    if (x->queue_count == 1) {
        send_through(&x->queues[0], packets, n);
        return;
    }
    for (unsigned i = 0; i < n; i++) {
        to[i] = (uint8_t)packet_queue(packets[i], x->queue_count);
        wanted |= 1u << to[i];
    }
    for (; wanted; wanted &= wanted - 1) {
        unsigned queue = (unsigned)__builtin_ctz(wanted), found = 0;
        struct packet *mine[PACKET_BATCH];
        for (unsigned i = 0; i < n; i++)
            if (to[i] == queue) mine[found++] = packets[i];
        send_through(&x->queues[queue], mine, found);
    }
}

static bool xdp_link_up(struct port *port)
{
    return device_link_up(&device_of(port)->nic);
}

static bool xdp_mac(struct port *port, uint8_t mac[6])
{
    return device_mac(&device_of(port)->nic, mac);
}

static int xdp_broken(struct port *port)
{
    short flags;
    return device_flags(&device_of(port)->nic, &flags) ? 0 : -ENODEV;
}

static void xdp_stats(struct port *port, struct port_stats *out)
{
    struct af_xdp *x = device_of(port);
    for (unsigned i = 0; i < x->queue_count; i++) {
        struct xdp_statistics stats = {0};
        socklen_t length = sizeof stats;
        if (getsockopt(x->queues[i].source.fd, SOL_XDP, XDP_STATISTICS, &stats, &length) < 0) continue;
        out->in_dropped += stats.rx_dropped + stats.rx_ring_full + stats.rx_fill_ring_empty_descs;
        out->out_errors += stats.tx_invalid_descs;
    }
}

static void close_fd(int fd)
{
    if (fd >= 0) close(fd);
}

static void xdp_free(struct port *port)
{
    struct af_xdp *x = device_of(port);
    close_fd(x->link_fd);
    for (unsigned i = 0; i < x->queue_count; i++) {
        struct xdp_queue *q = &x->queues[i];
        if (q->socket) xsk_socket__delete(q->socket);
        pthread_mutex_destroy(&q->send_lock);
    }
    if (x->umem) xsk_umem__delete(x->umem);
    if (x->memory) munmap(x->memory, x->memory_bytes);
    close_fd(x->map_fd);
    close_fd(x->program_fd);
    close_fd(x->promiscuous_fd);
    device_close(&x->nic);
    free(x->queues);
    free(x);
}

static const struct port_ops ops = {.type = "af_xdp",
                                    .send = xdp_send,
                                    .link_up = xdp_link_up,
                                    .mac = xdp_mac,
                                    .broken = xdp_broken,
                                    .stats = xdp_stats,
                                    .free = xdp_free};

/* ---- opening ---- */

/* return bpf_redirect_map(map, context->rx_queue_index, XDP_PASS) */
static int load_program(struct af_xdp *x)
{
    const struct bpf_insn program[] = {
        {.code = BPF_LDX | BPF_MEM | BPF_W, .dst_reg = 2, .src_reg = 1, .off = offsetof(struct xdp_md, rx_queue_index)},
        {.code = BPF_LD | BPF_IMM | BPF_DW, .dst_reg = 1, .src_reg = BPF_PSEUDO_MAP_FD, .imm = x->map_fd},
        {0},
        {.code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = 3, .imm = XDP_PASS},
        {.code = BPF_JMP | BPF_CALL, .imm = BPF_FUNC_redirect_map},
        {.code = BPF_JMP | BPF_EXIT},
    };
    return bpf_prog_load(BPF_PROG_TYPE_XDP, "creedence", "Apache-2.0", program, ARRAY_LEN(program), NULL);
}

static int attach(struct af_xdp *x, const struct af_xdp_config *c, struct errmsg *e)
{
    x->map_fd = bpf_map_create(BPF_MAP_TYPE_XSKMAP, "creedence", 4, 4, AF_XDP_QUEUES_MAX, NULL);
    if (x->map_fd < 0) return errmsg_sys(e, errno, "%s: a map of sockets", c->device);
    x->program_fd = load_program(x);
    if (x->program_fd < 0) return errmsg_sys(e, errno, "%s: an XDP program", c->device);
    DECLARE_LIBBPF_OPTS(bpf_link_create_opts, options);
    if (c->mode != AF_XDP_GENERIC) {
        options.flags = XDP_FLAGS_DRV_MODE;
        x->mode = AF_XDP_NATIVE;
        x->link_fd = bpf_link_create(x->program_fd, x->nic.ifindex, BPF_XDP, &options);
        if (x->link_fd >= 0 || c->mode == AF_XDP_NATIVE || errno == EBUSY)
            return x->link_fd >= 0 ? 0 : errmsg_sys(e, errno, "%s: the driver takes no XDP program", c->device);
    }
    options.flags = XDP_FLAGS_SKB_MODE;
    x->mode = AF_XDP_GENERIC;
    x->link_fd = bpf_link_create(x->program_fd, x->nic.ifindex, BPF_XDP, &options);
    return x->link_fd >= 0 ? 0 : errmsg_sys(e, errno, "%s: attaching an XDP program", c->device);
}

static int make_umem(struct af_xdp *x, const struct af_xdp_config *c, struct errmsg *e)
{
    const struct xsk_umem_config config = {
        .fill_size = RING, .comp_size = RING, .frame_size = x->chunk_bytes, .frame_headroom = 0};
    x->memory_bytes = (size_t)x->queue_count * 2 * RING * x->chunk_bytes;
    void *memory =
        mmap(NULL, x->memory_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (memory == MAP_FAILED) return errmsg_sys(e, errno, "%s: memory for frames", c->device);
    x->memory = memory;
    struct xdp_queue *first = &x->queues[0];
    int ret = xsk_umem__create(&x->umem, memory, x->memory_bytes, &first->fill, &first->completion, &config);
    if (ret < 0) {
        x->umem = NULL;
        return errmsg_sys(e, -ret, "%s: memory for frames", c->device);
    }
    return 0;
}

static int queue_open(struct af_xdp *x, uint32_t i, const struct af_xdp_config *c, struct errmsg *e)
{
    struct xdp_queue *q = &x->queues[i];
    const struct xsk_socket_config config = {
        .rx_size = RING,
        .tx_size = RING,
        .libxdp_flags = XSK_LIBXDP_FLAGS__INHIBIT_PROG_LOAD,
        .bind_flags = (uint16_t)(XDP_USE_NEED_WAKEUP | (x->mode == AF_XDP_GENERIC ? XDP_COPY : 0))};
    int ret =
        xsk_socket__create_shared(&q->socket, c->device, i, x->umem, &q->rx, &q->tx, &q->fill, &q->completion, &config);
    if (ret < 0) {
        q->socket = NULL;
        return errmsg_sys(e, -ret, "%s: queue %u", c->device, i);
    }
    q->source.fd = xsk_socket__fd(q->socket);
    int bytes = SEND_BUFFER_BYTES;
    (void)setsockopt(q->source.fd, SOL_SOCKET, SO_SNDBUFFORCE, &bytes, sizeof bytes);
    uint64_t chunk = (uint64_t)i * 2 * RING * x->chunk_bytes, chunks[RING];
    for (unsigned k = 0; k < RING; k++) {
        chunks[k] = chunk + (uint64_t)k * x->chunk_bytes;
        q->free_chunks[k] = chunk + (uint64_t)(RING + k) * x->chunk_bytes;
    }
    q->free_count = RING;
    fill(q, chunks, RING);
    if (bpf_map_update_elem(x->map_fd, &i, &q->source.fd, 0) < 0)
        return errmsg_sys(e, errno, "%s: queue %u", c->device, i);
    return 0;
}

/* The card is to take frames for every address; as long as the socket is there. */
static int be_promiscuous(struct af_xdp *x, const struct af_xdp_config *c, struct errmsg *e)
{
    struct packet_mreq request = {.mr_ifindex = x->nic.ifindex, .mr_type = PACKET_MR_PROMISC};
    x->promiscuous_fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
    if (x->promiscuous_fd < 0 ||
        setsockopt(x->promiscuous_fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &request, sizeof request) < 0)
        return errmsg_sys(e, errno, "%s: promiscuous mode", c->device);
    return 0;
}

/* What the card takes off a frame nobody gives us: there is only the frame. */
static int keep_tags(struct af_xdp *x, const struct af_xdp_config *c, struct errmsg *e)
{
    int ret = device_keep_tags(&x->nic);
    if (ret == 0) return 0;
    return errmsg_sys(
        e, -ret,
        "%s: it takes VLAN tags off, which would be lost, and cannot be told not to (ethtool -K %s rxvlan off)",
        c->device, c->device);
}

static int xdp_fill(struct af_xdp *x, const struct af_xdp_config *c, struct errmsg *e)
{
    int ret = device_open(&x->nic, c->device, e);
    if (ret < 0) return ret;
    if (x->nic.mtu > AF_XDP_MTU_MAX)
        return errmsg_set(e, EINVAL, "%s: an MTU of at most %u, not %u", c->device, AF_XDP_MTU_MAX, x->nic.mtu);
    unsigned queues = device_queues(&x->nic);
    if (queues > AF_XDP_QUEUES_MAX)
        return errmsg_set(e, EINVAL, "%s: at most %u queues, not %u (ethtool -L)", c->device, AF_XDP_QUEUES_MAX,
                          queues);
    atomic_store(&x->port.mtu, x->nic.mtu);
    x->chunk_bytes = x->nic.mtu + ETHERNET_TAGS_BYTES <= CHUNK_SMALL - HEADROOM ? CHUNK_SMALL : CHUNK_LARGE;
    x->queues = calloc(queues, sizeof *x->queues);
    if (!x->queues) return errmsg_sys(e, ENOMEM, "%s", c->device);
    for (; x->queue_count < queues; x->queue_count++) {
        struct xdp_queue *q = &x->queues[x->queue_count];
        q->device = x;
        q->source = (struct port_source){.ops = &source_ops, .port = &x->port, .fd = -1, .gro = !c->no_gro};
        pthread_mutex_init(&q->send_lock, NULL);
    }
    ret = keep_tags(x, c, e);
    if (ret == 0) ret = attach(x, c, e);
    if (ret == 0) ret = make_umem(x, c, e);
    for (unsigned i = 0; ret == 0 && i < queues; i++)
        ret = queue_open(x, i, c, e);
    return ret == 0 ? be_promiscuous(x, c, e) : ret;
}

int af_xdp_open(struct af_xdp **out, const struct af_xdp_config *c, struct errmsg *e)
{
    /* What they say to standard error, we say in e. */
    libbpf_set_print(NULL);
    libxdp_set_print(NULL);
    struct af_xdp *x = calloc(1, sizeof *x);
    if (!x) return errmsg_sys(e, ENOMEM, "%s", c->device);
    port_init(&x->port, &ops, c->name);
    x->nic.control_fd = x->promiscuous_fd = x->map_fd = x->program_fd = x->link_fd = -1;
    int ret = xdp_fill(x, c, e);
    if (ret < 0) {
        xdp_free(&x->port);
        return ret;
    }
    *out = x;
    return 0;
}

struct port *af_xdp_port(struct af_xdp *x)
{
    return &x->port;
}

struct port_source *af_xdp_source(struct af_xdp *x, unsigned queue)
{
    return queue < x->queue_count ? &x->queues[queue].source : NULL;
}

enum af_xdp_mode af_xdp_mode(const struct af_xdp *x)
{
    return x->mode;
}
