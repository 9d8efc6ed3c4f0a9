/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A queue is a socket with a ring of slots in memory shared with the kernel; tp_status says whose a slot is:
 *
 *     [ tpacket2_hdr, sockaddr_ll | reserve: our room, in its end the vnet header | frame ... ]
 *
 * The kernel fills slots in order and does not touch one again before it was given back, so a frame's head and body are
 * where the kernel put them. Slots are given back when the batch is over.
 *
 * A slot whose status has TP_STATUS_COPY holds the beginning of a frame that is longer; all of it waits in the socket, in the
 * same order.
 */
#include "port/af_packet.h"

#include <errno.h>
#include <limits.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "base/endian.h"
#include "loop/clock.h"
#include "port/device.h"
#include "port/frame.h"

#ifndef PACKET_IGNORE_OUTGOING
#define PACKET_IGNORE_OUTGOING 23
#endif
#ifndef PACKET_FANOUT_FLAG_IGNORE_OUTGOING
#define PACKET_FANOUT_FLAG_IGNORE_OUTGOING 0x4000 /* Linux 6.5 */
#endif

#define BLOCK_BYTES (128u * 1024)
#define RING_MAX 65536u
#define SLOT_MTU_MAX 9216u /* above, slots are for an Ethernet's MTU */
#define SLOT_MTU_DEFAULT 1500u
#define SOCKET_BUFFER_BYTES (8 << 20)
#define BATCH_BYTES                                                                                                    \
    (256u * 1024) /* of large frames not more at once: they are to be still in the cache when they are sent */
#define LOOKED_AT_MAX (4 * PACKET_BATCH)
#define SEND_IOVS 1024u
#define DOWN_LOOK_NS (100 * NS_PER_MS) /* an interface that is down is looked at this often */
static_assert(SEND_IOVS <= IOV_MAX, "one message has all of them");

struct packet_queue {
    struct port_source source;
    struct af_packet *device;
    uint8_t *ring;
    uint8_t *buffers;    /* for frames that do not fit a slot */
    unsigned next, held; /* slot to be looked at; how many before it are to be given back */
    bool woken, down;
    struct packet packets[PACKET_BATCH];
    struct iovec bodies[PACKET_BATCH];
};

struct af_packet {
    struct port port;
    struct device nic;
    unsigned slot_bytes, block_slots, slots;
    size_t ring_bytes;
    bool sees_own;                 /* the kernel cannot leave out what is sent through the interface */
    _Atomic uint64_t ring_dropped; /* what the kernel had no slot for */
    unsigned queue_count;
    struct packet_queue *queues;
};

static struct af_packet *device_of(struct port *p)
{
    return container_of(p, struct af_packet, port);
}

static void count(_Atomic uint64_t *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* ---- receive ---- */

static struct tpacket2_hdr *slot_at(struct packet_queue *q, unsigned i)
{
    const struct af_packet *a = q->device;
    return (struct tpacket2_hdr *)(void *)(q->ring + (size_t)(i / a->block_slots) * BLOCK_BYTES +
                                           (size_t)(i % a->block_slots) * a->slot_bytes);
}

static void give_back(struct packet_queue *q)
{
    unsigned slots = q->device->slots, i = q->next >= q->held ? q->next - q->held : q->next + slots - q->held;
    for (; q->held; q->held--) {
        __atomic_store_n(&slot_at(q, i)->tp_status, TP_STATUS_KERNEL, __ATOMIC_RELEASE);
        if (++i == slots) i = 0;
    }
}

static void packet_release(struct port_source *s)
{
    give_back(container_of(s, struct packet_queue, source));
}

enum taken { TAKEN, TAKEN_OWN, TAKEN_LOST, TAKEN_BAD };

static bool is_own(const struct packet_queue *q, const struct tpacket2_hdr *slot)
{
    if (!q->device->sees_own) return false;
    const struct sockaddr_ll *from = (const void *)((const uint8_t *)slot + TPACKET_ALIGN(sizeof *slot));
    return from->sll_pkttype == PACKET_OUTGOING;
}

static bool put_tag_back(struct packet *p, const struct tpacket2_hdr *slot, uint32_t status)
{
    struct be16 tag[2] = {be16_make(status & TP_STATUS_VLAN_TPID_VALID ? slot->tp_vlan_tpid : ETH_P_8021Q),
                          be16_make(slot->tp_vlan_tci)};
    if (!packet_insert(p, 2 * ETH_ALEN, sizeof tag)) return false;
    memcpy(p->head + 2 * ETH_ALEN, tag, sizeof tag);
    return true;
}

/* The frame of a slot, at its place or fetched. */
static enum taken take(struct packet_queue *q, unsigned n, struct tpacket2_hdr *slot, uint32_t status)
{
    struct packet *p = &q->packets[n];
    uint8_t *frame = (uint8_t *)slot + slot->tp_mac;
    size_t bytes = slot->tp_snaplen;
    if (status & TP_STATUS_COPY) {
        frame = q->buffers + (size_t)n * FRAME_BUFFER_BYTES + PACKET_ROOM_BYTES;
        ssize_t got =
            recv(q->source.fd, frame - VNET_HEADER_BYTES, VNET_HEADER_BYTES + FRAME_SPACE_BYTES, MSG_DONTWAIT);
        if (got < (ssize_t)VNET_HEADER_BYTES) return TAKEN_BAD;
        bytes = (size_t)got - VNET_HEADER_BYTES;
    } else if (slot->tp_snaplen < slot->tp_len) {
        return TAKEN_LOST; /* the socket had no room for the rest */
    }
    if (is_own(q, slot)) return TAKEN_OWN;
    if (!frame_packet(p, &q->bodies[n], frame, bytes) || !vnet_read(frame - VNET_HEADER_BYTES, p)) return TAKEN_BAD;
    return !(status & TP_STATUS_VLAN_VALID) || put_tag_back(p, slot, status) ? TAKEN : TAKEN_BAD;
}

/* Nothing came. The kernel says once that the interface went down, and not at all that it was then removed. 0 or -ENODEV. */
static int look_at_device(struct packet_queue *q)
{
    short flags;
    if (q->woken) {
        int error = 0;
        socklen_t length = sizeof error;
        getsockopt(q->source.fd, SOL_SOCKET, SO_ERROR, &error, &length);
        q->woken = false;
        if (error) q->down = true;
    }
    if (!q->down) return 0;
    if (!device_flags(&q->device->nic, &flags)) return -ENODEV;
    q->down = !(flags & IFF_UP);
    if (q->down) q->source.not_before_ns = clock_now_ns() + DOWN_LOOK_NS;
    return 0;
}

static int packet_receive(struct port_source *s, struct packet **out, unsigned max, struct packet_pool *pool)
{
    struct packet_queue *q = container_of(s, struct packet_queue, source);
    size_t fetched_bytes = 0;
    unsigned n = 0;
    (void)pool;
    unsigned most = (unsigned)min_u64(q->device->slots, LOOKED_AT_MAX);
    while (n < max && fetched_bytes < BATCH_BYTES && q->held < most) {
        struct tpacket2_hdr *slot = slot_at(q, q->next);
        uint32_t status = __atomic_load_n(&slot->tp_status, __ATOMIC_ACQUIRE);
        if (!(status & TP_STATUS_USER)) break;
        if (++q->next == q->device->slots) q->next = 0;
        q->held++;
        enum taken taken = take(q, n, slot, status);
        if (taken == TAKEN_BAD) count(&s->port->in.errors, 1);
        if (taken == TAKEN_LOST) count(&s->port->in.dropped, 1);
        if (taken != TAKEN) continue;
        if (status & TP_STATUS_COPY) fetched_bytes += q->packets[n].length_bytes;
        out[n] = &q->packets[n];
        n++;
    }
    if (n) return (int)n;
    give_back(q);
    return look_at_device(q);
}

/* Look once more: frames may be in the ring while the descriptor was found readable for others. */
static bool packet_arm(struct port_source *s)
{
    struct packet_queue *q = container_of(s, struct packet_queue, source);
    return __atomic_load_n(&slot_at(q, q->next)->tp_status, __ATOMIC_ACQUIRE) & TP_STATUS_USER;
}

static void packet_woken(struct port_source *s)
{
    container_of(s, struct packet_queue, source)->woken = true;
}

static const struct port_source_ops source_ops = {
    .receive = packet_receive, .release = packet_release, .arm = packet_arm, .woken = packet_woken};

/* ---- send ---- */

struct messages {
    struct port *port;
    int fd;
    unsigned count, iovs;
    struct mmsghdr messages[PACKET_BATCH];
    uint8_t headers[PACKET_BATCH][VNET_HEADER_BYTES];
    struct iovec iov[SEND_IOVS];
};

/* How many messages to leave out, after the first one failed. */
static unsigned failed(struct messages *m, unsigned left, int error)
{
    switch (error) {
    case EAGAIN: return left; /* the socket's queue is full, and stays so for now */
    case ENETDOWN:
    case ENXIO:
    case ENODEV: return left;
    case ENOBUFS: /* the interface's queue */
    case ENOMEM: return 1;
    default: count(&m->port->out.errors, 1); return 1;
    }
}

static void flush(struct messages *m)
{
    unsigned at = 0, dropped = 0;
    while (at < m->count) {
        int sent = sendmmsg(m->fd, m->messages + at, m->count - at, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent > 0) {
            at += (unsigned)sent;
        } else if (errno != EINTR) {
            unsigned skipped = failed(m, m->count - at, errno);
            at += skipped;
            dropped += skipped;
        }
    }
    if (dropped) count(&m->port->out.dropped, dropped);
    m->count = m->iovs = 0;
}

static void put(struct messages *m, const struct packet *p)
{
    struct iovec *iov = m->iov + m->iovs;
    uint8_t *header = m->headers[m->count];
    vnet_write(header, p);
    iov[0] = (struct iovec){.iov_base = header, .iov_len = VNET_HEADER_BYTES};
    iov[1] = (struct iovec){.iov_base = p->head, .iov_len = p->head_bytes};
    for (unsigned i = 0; i < p->body_count; i++)
        iov[2 + i] = p->body[i];
    m->messages[m->count] = (struct mmsghdr){.msg_hdr = {.msg_iov = iov, .msg_iovlen = 2 + p->body_count}};
    m->count++;
    m->iovs += 2 + p->body_count;
}

static void packet_send(struct port *port, struct packet *const *packets, unsigned n, struct packet_pool *pool)
{
    struct messages m; /* not cleared: it is large */
    (void)pool;
    m.port = port;
    m.fd = device_of(port)->queues[0].source.fd;
    m.count = m.iovs = 0;
    for (unsigned i = 0; i < n; i++) {
        const struct packet *p = packets[i];
        if (p->body_count > SEND_IOVS - 2) {
            count(&port->out.errors, 1);
            count(&port->out.dropped, 1);
            continue;
        }
        if (p->body_count + 2 > SEND_IOVS - m.iovs) flush(&m);
        put(&m, p);
    }
    flush(&m);
}

static bool packet_link_up(struct port *port)
{
    return device_link_up(&device_of(port)->nic);
}

static bool packet_mac(struct port *port, uint8_t mac[6])
{
    return device_mac(&device_of(port)->nic, mac);
}

static void packet_stats(struct port *port, struct port_stats *out)
{
    struct af_packet *a = device_of(port);
    for (unsigned i = 0; i < a->queue_count; i++) {
        struct tpacket_stats stats;
        socklen_t length = sizeof stats;
        /* The kernel counts anew from here on. */
        if (getsockopt(a->queues[i].source.fd, SOL_PACKET, PACKET_STATISTICS, &stats, &length) == 0)
            count(&a->ring_dropped, stats.tp_drops);
    }
    out->in_dropped += atomic_load_explicit(&a->ring_dropped, memory_order_relaxed);
}

static void packet_free(struct port *port)
{
    struct af_packet *a = device_of(port);
    for (unsigned i = 0; i < a->queue_count; i++) {
        struct packet_queue *q = &a->queues[i];
        if (q->ring) munmap(q->ring, a->ring_bytes);
        if (q->buffers) munmap(q->buffers, (size_t)PACKET_BATCH * FRAME_BUFFER_BYTES);
        if (q->source.fd >= 0) close(q->source.fd);
    }
    device_close(&a->nic);
    free(a->queues);
    free(a);
}

static const struct port_ops ops = {.type = "af_packet",
                                    .send = packet_send,
                                    .link_up = packet_link_up,
                                    .mac = packet_mac,
                                    .stats = packet_stats,
                                    .free = packet_free};

/* ---- opening ---- */

static int set(int fd, int level, int option, int value)
{
    return setsockopt(fd, level, option, &value, sizeof value) < 0 ? -errno : 0;
}

static int set_options(struct af_packet *a, int fd, const struct af_packet_config *c, struct errmsg *e)
{
    static const struct {
        int option, value;
        const char *name;
    } options[] = {
        {PACKET_VERSION, TPACKET_V2, "PACKET_VERSION"}, {PACKET_RESERVE, PACKET_ROOM_BYTES, "PACKET_RESERVE"},
        {PACKET_VNET_HDR, 1, "PACKET_VNET_HDR"},        {PACKET_IGNORE_OUTGOING, 1, "PACKET_IGNORE_OUTGOING"},
        {PACKET_COPY_THRESH, 1, "PACKET_COPY_THRESH"},
    };
    for (unsigned i = 0; i < ARRAY_LEN(options); i++) {
        int ret = set(fd, SOL_PACKET, options[i].option, options[i].value);
        if (ret < 0) return errmsg_sys(e, -ret, "%s: %s", c->device, options[i].name);
    }
    if (c->qdisc_bypass && set(fd, SOL_PACKET, PACKET_QDISC_BYPASS, 1) < 0)
        return errmsg_sys(e, errno, "%s: PACKET_QDISC_BYPASS", c->device);
    /* As large as may be; less works too. */
    if (set(fd, SOL_SOCKET, SO_RCVBUFFORCE, SOCKET_BUFFER_BYTES) < 0)
        set(fd, SOL_SOCKET, SO_RCVBUF, SOCKET_BUFFER_BYTES);
    if (set(fd, SOL_SOCKET, SO_SNDBUFFORCE, SOCKET_BUFFER_BYTES) < 0)
        set(fd, SOL_SOCKET, SO_SNDBUF, SOCKET_BUFFER_BYTES);
    (void)a;
    return 0;
}

static int map_ring(struct packet_queue *q, const struct af_packet_config *c, struct errmsg *e)
{
    const struct af_packet *a = q->device;
    struct tpacket_req request = {.tp_block_size = BLOCK_BYTES,
                                  .tp_block_nr = a->slots / a->block_slots,
                                  .tp_frame_size = a->slot_bytes,
                                  .tp_frame_nr = a->slots};
    if (setsockopt(q->source.fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request) < 0)
        return errmsg_sys(e, errno, "%s: a ring of %u frames", c->device, a->slots);
    void *ring = mmap(NULL, a->ring_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, q->source.fd, 0);
    if (ring == MAP_FAILED) return errmsg_sys(e, errno, "%s: the ring", c->device);
    q->ring = ring;
    void *buffers = mmap(NULL, (size_t)PACKET_BATCH * FRAME_BUFFER_BYTES, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (buffers == MAP_FAILED) return errmsg_sys(e, errno, "%s: buffers", c->device);
    q->buffers = buffers;
    return 0;
}

/* The first one makes a group of its own; the others join it. */
static int join_group(struct af_packet *a, unsigned i, struct errmsg *e, const struct af_packet_config *c)
{
    int fd = a->queues[i].source.fd, mode = PACKET_FANOUT_HASH, group = 0;
    socklen_t length = sizeof group;
    if (i == 0) mode |= PACKET_FANOUT_FLAG_UNIQUEID;
    else if (getsockopt(a->queues[0].source.fd, SOL_PACKET, PACKET_FANOUT, &group, &length) < 0)
        return errmsg_sys(e, errno, "%s: PACKET_FANOUT", c->device);
    int id = group & 0xffff;
    /* A group's own flag, where the kernel has it; otherwise our own frames are seen, and left out as they come. */
    if (set(fd, SOL_PACKET, PACKET_FANOUT, id | (mode | PACKET_FANOUT_FLAG_IGNORE_OUTGOING) << 16) == 0) return 0;
    int ret = set(fd, SOL_PACKET, PACKET_FANOUT, id | mode << 16);
    a->sees_own = true;
    return ret < 0 ? errmsg_sys(e, -ret, "%s: PACKET_FANOUT", c->device) : 0;
}

/* Nothing is to come in before all is set, and nothing twice: until then a filter takes nothing. */
static int bind_quietly(struct af_packet *a, unsigned i, const struct af_packet_config *c, struct errmsg *e)
{
    int fd = a->queues[i].source.fd;
    struct sock_filter nothing = BPF_STMT(BPF_RET | BPF_K, 0);
    struct sock_fprog program = {.len = 1, .filter = &nothing};
    if (setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof program) < 0)
        return errmsg_sys(e, errno, "%s: SO_ATTACH_FILTER", c->device);
    struct sockaddr_ll address = {
        .sll_family = AF_PACKET, .sll_protocol = __builtin_bswap16(ETH_P_ALL), .sll_ifindex = a->nic.ifindex};
    if (bind(fd, (struct sockaddr *)&address, sizeof address) < 0) return errmsg_sys(e, errno, "%s", c->device);
    struct packet_mreq promiscuous = {.mr_ifindex = a->nic.ifindex, .mr_type = PACKET_MR_PROMISC};
    if (i == 0 && setsockopt(fd, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &promiscuous, sizeof promiscuous) < 0)
        return errmsg_sys(e, errno, "%s: promiscuous mode", c->device);
    int ret = c->queues > 1 ? join_group(a, i, e, c) : 0;
    if (ret < 0) return ret;
    int unused = 0;
    if (setsockopt(fd, SOL_SOCKET, SO_DETACH_FILTER, &unused, sizeof unused) < 0)
        return errmsg_sys(e, errno, "%s: SO_DETACH_FILTER", c->device);
    return 0;
}

static int queue_open(struct af_packet *a, unsigned i, const struct af_packet_config *c, struct errmsg *e)
{
    struct packet_queue *q = &a->queues[i];
    q->device = a;
    q->source = (struct port_source){.ops = &source_ops, .port = &a->port, .gro = !c->no_gro};
    q->source.fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (q->source.fd < 0) return errmsg_sys(e, errno, "%s: a packet socket", c->device);
    int ret = set_options(a, q->source.fd, c, e);
    if (ret == 0) ret = map_ring(q, c, e);
    return ret == 0 ? bind_quietly(a, i, c, e) : ret;
}

/* Slots are for frames of the MTU, an odd number of cache lines long (port/frame.h). */
static void shape_ring(struct af_packet *a, uint32_t mtu, unsigned wanted)
{
    uint32_t frame_bytes = (mtu <= SLOT_MTU_MAX ? mtu : SLOT_MTU_DEFAULT) + ETH_HLEN + 8;
    uint64_t slot_bytes =
        align_up(TPACKET2_HDRLEN + TPACKET_ALIGNMENT + PACKET_ROOM_BYTES + TPACKET_ALIGNMENT + frame_bytes, 64);
    slot_bytes = max_u64(slot_bytes, align_up(TPACKET2_HDRLEN + 64 + PACKET_BUFFER_BYTES, 64));
    a->slot_bytes = (unsigned)(slot_bytes | 64);
    a->block_slots = BLOCK_BYTES / a->slot_bytes;
    unsigned blocks = (unsigned)div_round_up(wanted, a->block_slots);
    a->slots = blocks * a->block_slots;
    a->ring_bytes = (size_t)blocks * BLOCK_BYTES;
}

/* Does the kernel cut up UDP (VIRTIO_NET_HDR_GSO_UDP_L4: Linux 6.2)? There is no way to ask. */
static bool kernel_has_uso(void)
{
    struct utsname u;
    char *end;
    if (uname(&u) < 0) return false;
    unsigned long major = strtoul(u.release, &end, 10), minor = *end == '.' ? strtoul(end + 1, NULL, 10) : 0;
    return major > 6 || (major == 6 && minor >= 2);
}

static int read_device(struct af_packet *a, const struct af_packet_config *c, struct errmsg *e)
{
    int ret = device_open(&a->nic, c->device, e);
    if (ret < 0) return ret;
    atomic_store(&a->port.mtu, a->nic.mtu);
    shape_ring(a, a->nic.mtu, c->ring ? c->ring : AF_PACKET_RING_DEFAULT);
    uint32_t takes = PORT_TAKES_CSUM | PORT_TAKES_TSO4 | PORT_TAKES_TSO6;
    if (kernel_has_uso()) takes |= PORT_TAKES_USO4 | PORT_TAKES_USO6;
    /* Without the queueing discipline the kernel does not cut up what the card cannot. */
    atomic_store(&a->port.takes, c->qdisc_bypass ? PORT_TAKES_CSUM : takes);
    return 0;
}

int af_packet_open(struct af_packet **out, const struct af_packet_config *c, struct errmsg *e)
{
    if (c->queues < 1 || c->queues > AF_PACKET_QUEUES_MAX)
        return errmsg_set(e, EINVAL, "%s: 1 to %u queues, not %u", c->device, AF_PACKET_QUEUES_MAX, c->queues);
    if (c->ring > RING_MAX) return errmsg_set(e, EINVAL, "%s: a ring of at most %u frames", c->device, RING_MAX);
    struct af_packet *a = calloc(1, sizeof *a);
    if (!a) return errmsg_sys(e, ENOMEM, "%s", c->device);
    port_init(&a->port, &ops, c->name);
    a->nic.control_fd = -1;
    a->queues = calloc(c->queues, sizeof *a->queues);
    int ret = a->queues ? read_device(a, c, e) : errmsg_sys(e, ENOMEM, "%s", c->device);
    while (ret == 0 && a->queue_count < c->queues)
        ret = queue_open(a, a->queue_count++, c, e);
    if (ret < 0) {
        packet_free(&a->port);
        return ret;
    }
    *out = a;
    return 0;
}

struct port *af_packet_port(struct af_packet *a)
{
    return &a->port;
}

struct port_source *af_packet_source(struct af_packet *a, unsigned queue)
{
    return queue < a->queue_count ? &a->queues[queue].source : NULL;
}
