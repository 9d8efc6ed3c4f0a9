/* SPDX-License-Identifier: Apache-2.0 */
#include "port/tap.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "packet/hash.h"
#include "port/frame.h"

/* Linux 6.2; older headers lack them. */
#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20u
#define TUN_F_USO6 0x40u
#endif

/* Of large frames one at a time: it is to be in the cache still when it is sent. */
#define BATCH_BYTES (48u * 1024)

struct tap_queue {
    struct port_source source;
    struct tap *tap;
    uint8_t *buffers;
    bool more; /* the last batch ended for its bytes */
    struct packet packets[PACKET_BATCH];
    struct iovec bodies[PACKET_BATCH];
};

struct tap {
    struct port port;
    char device[IFNAMSIZ];
    unsigned queue_count;
    int control_fd; /* a socket where the interface is, to ask for its state */
    _Atomic bool down;
    struct tap_queue *queues;
};

static struct tap *tap_of(struct port *p)
{
    return container_of(p, struct tap, port);
}

/* ---- receive ---- */

/* False: not a frame that goes anywhere. */
static bool make_packet(struct tap_queue *q, unsigned i, uint8_t *frame, size_t bytes)
{
    struct packet *p = &q->packets[i];
    return frame_packet(p, &q->bodies[i], frame, bytes) && vnet_read(frame - VNET_HEADER_BYTES, p);
}

static int tap_receive(struct port_source *s, struct packet **out, unsigned max, struct packet_pool *pool)
{
    struct tap_queue *q = container_of(s, struct tap_queue, source);
    size_t taken_bytes = 0;
    unsigned n = 0;
    (void)pool;
    while (n < max && taken_bytes < BATCH_BYTES) {
        uint8_t *frame = q->buffers + (size_t)n * FRAME_BUFFER_BYTES + PACKET_ROOM_BYTES;
        ssize_t got = read(s->fd, frame - VNET_HEADER_BYTES, VNET_HEADER_BYTES + FRAME_SPACE_BYTES);
        if (got < 0) {
            if (errno == EINTR) continue;
            if (errno == EAGAIN) break;
            if (n) break; /* first what there is; it will fail again */
            return -errno;
        }
        if (got == 0) break;
        if (got < (ssize_t)VNET_HEADER_BYTES || !make_packet(q, n, frame, (size_t)got - VNET_HEADER_BYTES)) {
            atomic_fetch_add_explicit(&s->port->in.errors, 1, memory_order_relaxed);
            taken_bytes += FRAME_SPACE_BYTES; /* not for ever */
            continue;
        }
        out[n] = &q->packets[n];
        taken_bytes += (size_t)got;
        n++;
    }
    q->more = taken_bytes >= BATCH_BYTES;
    return (int)n;
}

static bool tap_arm(struct port_source *s)
{
    return container_of(s, struct tap_queue, source)->more;
}

static void tap_release(struct port_source *s)
{
    (void)s; /* the buffers are ours */
}

static const struct port_source_ops source_ops = {.receive = tap_receive, .release = tap_release, .arm = tap_arm};

/* ---- send ---- */

/* What is at fault? 0: it is gone. */
static void send_failed(struct tap *t, int error)
{
    if (error == EIO) atomic_store_explicit(&t->down, true, memory_order_relaxed);
    else if (error != EAGAIN && error != ENOBUFS && error != ENOMEM)
        atomic_fetch_add_explicit(&t->port.out.errors, 1, memory_order_relaxed);
    atomic_fetch_add_explicit(&t->port.out.dropped, 1, memory_order_relaxed);
}

static int send_one(int fd, const struct packet *p)
{
    uint8_t header[VNET_HEADER_BYTES];
    struct iovec iov[IOV_MAX];
    if (p->body_count > IOV_MAX - 2) return EMSGSIZE;
    vnet_write(header, p);
    iov[0] = (struct iovec){.iov_base = header, .iov_len = sizeof header};
    iov[1] = (struct iovec){.iov_base = p->head, .iov_len = p->head_bytes};
    for (unsigned i = 0; i < p->body_count; i++)
        iov[2 + i] = p->body[i];
    while (writev(fd, iov, (int)(2 + p->body_count)) < 0)
        if (errno != EINTR) return errno;
    return 0;
}

static void tap_send(struct port *port, struct packet *const *packets, unsigned n, struct packet_pool *pool)
{
    struct tap *t = tap_of(port);
    bool sent = false;
    (void)pool;
    for (unsigned i = 0; i < n; i++) {
        const struct tap_queue *q = &t->queues[t->queue_count == 1 ? 0 : packet_queue(packets[i], t->queue_count)];
        int error = send_one(q->source.fd, packets[i]);
        if (error) send_failed(t, error);
        else sent = true;
    }
    if (sent && atomic_load_explicit(&t->down, memory_order_relaxed))
        atomic_store_explicit(&t->down, false, memory_order_relaxed);
}

/* The interface may have gone to another name space: then the last frame says it. */
static bool tap_link_up(struct port *port)
{
    struct tap *t = tap_of(port);
    struct ifreq request = {0};
    memcpy(request.ifr_name, t->device, sizeof t->device);
    if (ioctl(t->control_fd, SIOCGIFFLAGS, &request) == 0) return request.ifr_flags & IFF_UP;
    return !atomic_load_explicit(&t->down, memory_order_relaxed);
}

static bool tap_mac(struct port *port, uint8_t mac[6])
{
    struct tap *t = tap_of(port);
    struct ifreq request = {0};
    memcpy(request.ifr_name, t->device, sizeof t->device);
    if (ioctl(t->control_fd, SIOCGIFHWADDR, &request) || request.ifr_hwaddr.sa_family != ARPHRD_ETHER) return false;
    memcpy(mac, request.ifr_hwaddr.sa_data, 6);
    return true;
}

static void tap_free(struct port *port)
{
    struct tap *t = tap_of(port);
    for (unsigned i = 0; i < t->queue_count; i++) {
        struct tap_queue *q = &t->queues[i];
        if (q->source.fd >= 0) close(q->source.fd);
        if (q->buffers) munmap(q->buffers, (size_t)PACKET_BATCH * FRAME_BUFFER_BYTES);
    }
    if (t->control_fd >= 0) close(t->control_fd);
    free(t->queues);
    free(t);
}

static const struct port_ops ops = {
    .type = "tap", .send = tap_send, .link_up = tap_link_up, .mac = tap_mac, .free = tap_free};

/* ---- opening ---- */

static int set_offloads(struct tap *t, int fd, bool none, struct errmsg *e)
{
    static const struct {
        unsigned flags;
        uint32_t takes;
    } choices[] = {
        {TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN | TUN_F_USO4 | TUN_F_USO6, PORT_TAKES_ALL},
        {TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN, PORT_TAKES_CSUM | PORT_TAKES_TSO4 | PORT_TAKES_TSO6},
    };
    for (unsigned i = 0; !none && i < ARRAY_LEN(choices); i++) {
        if (ioctl(fd, TUNSETOFFLOAD, choices[i].flags) < 0) continue;
        atomic_store(&t->port.takes, choices[i].takes);
        return 0;
    }
    /* What we write may have offloads all the same: that is the kernel's own business. */
    atomic_store(&t->port.takes, PORT_TAKES_CSUM | PORT_TAKES_TSO4 | PORT_TAKES_TSO6);
    if (none && ioctl(fd, TUNSETOFFLOAD, 0) == 0) return 0;
    return errmsg_sys(e, errno, "tap %s: offloads", t->device);
}

static int queue_open(struct tap *t, const struct tap_config *c, struct errmsg *e)
{
    autoclose int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0) return errmsg_sys(e, errno, "/dev/net/tun");
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    if (c->queues > 1) request.ifr_flags |= IFF_MULTI_QUEUE;
    memcpy(request.ifr_name, t->device, sizeof t->device);
    if (ioctl(fd, TUNSETIFF, &request) < 0) return errmsg_sys(e, errno, "tap %s", t->device);
    memcpy(t->device, request.ifr_name, sizeof t->device);
    t->device[IFNAMSIZ - 1] = 0;
    return steal_fd(&fd);
}

/* One that somebody else opened: it must be of the kind that we make. */
static int queue_adopt(struct tap *t, int given, struct errmsg *e)
{
    struct ifreq request = {0};
    const short wanted = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if (ioctl(given, TUNGETIFF, &request) < 0) return errmsg_sys(e, errno, "descriptor %d is not a tap", given);
    if ((request.ifr_flags & wanted) != wanted)
        return errmsg_set(e, EINVAL, "descriptor %d: a tap with IFF_NO_PI and IFF_VNET_HDR is expected", given);
    memcpy(t->device, request.ifr_name, sizeof t->device);
    t->device[IFNAMSIZ - 1] = 0;
    int flags = fcntl(given, F_GETFL);
    if (flags < 0 || fcntl(given, F_SETFL, flags | O_NONBLOCK) < 0) return errmsg_sys(e, errno, "tap %s", t->device);
    int fd = fcntl(given, F_DUPFD_CLOEXEC, 3);
    return fd < 0 ? errmsg_sys(e, errno, "tap %s", t->device) : fd;
}

static int queue_init(struct tap *t, unsigned i, const struct tap_config *c, struct errmsg *e)
{
    struct tap_queue *q = &t->queues[i];
    q->tap = t;
    q->source = (struct port_source){.ops = &source_ops, .port = &t->port, .fd = -1};
    void *memory = mmap(NULL, (size_t)PACKET_BATCH * FRAME_BUFFER_BYTES, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return errmsg_sys(e, errno, "tap %s: buffers", t->device);
    q->buffers = memory;
    int fd = c->fds ? queue_adopt(t, c->fds[i], e) : queue_open(t, c, e);
    if (fd < 0) return fd;
    q->source.fd = fd;
    int header_bytes = VNET_HEADER_BYTES;
    if (ioctl(fd, TUNSETVNETHDRSZ, &header_bytes) < 0)
        return errmsg_sys(e, errno, "tap %s: TUNSETVNETHDRSZ", t->device);
    return set_offloads(t, fd, c->no_offloads, e);
}

static int set_mtu(struct tap *t, uint32_t mtu, struct errmsg *e)
{
    struct ifreq request = {.ifr_mtu = (int)mtu};
    memcpy(request.ifr_name, t->device, sizeof t->device);
    if (ioctl(t->control_fd, mtu ? SIOCSIFMTU : SIOCGIFMTU, &request) == 0) {
        atomic_store(&t->port.mtu, (uint32_t)request.ifr_mtu);
        return 0;
    }
    /* A descriptor that came from elsewhere: the interface may be out of our sight. */
    if (mtu == 0) return 0;
    return errmsg_sys(e, errno, "tap %s: MTU %u", t->device, mtu);
}

static int tap_fill(struct tap *t, const struct tap_config *c, struct errmsg *e)
{
    t->control_fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (t->control_fd < 0) return errmsg_sys(e, errno, "tap %s: socket", t->device);
    for (t->queue_count = 0; t->queue_count < c->queues;) {
        int ret = queue_init(t, t->queue_count++, c, e);
        if (ret < 0) return ret;
    }
    int ret = set_mtu(t, c->mtu, e);
    /* Last, so that a failure leaves nothing behind; and one that somebody made to stay is left so. */
    if (ret == 0 && c->persist && ioctl(t->queues[0].source.fd, TUNSETPERSIST, 1) < 0)
        ret = errmsg_sys(e, errno, "tap %s: TUNSETPERSIST", t->device);
    return ret;
}

int tap_open(struct tap **out, const struct tap_config *c, struct errmsg *e)
{
    if (c->queues < 1 || c->queues > TAP_QUEUES_MAX)
        return errmsg_set(e, EINVAL, "tap %s: 1 to %u queues, not %u", c->name, TAP_QUEUES_MAX, c->queues);
    if (c->device && strlen(c->device) >= IFNAMSIZ)
        return errmsg_set(e, EINVAL, "%s: longer than an interface's name may be", c->device);
    struct tap *t = calloc(1, sizeof *t);
    if (!t) return errmsg_sys(e, ENOMEM, "tap %s", c->name);
    port_init(&t->port, &ops, c->name);
    t->control_fd = -1;
    if (c->device) snprintf(t->device, sizeof t->device, "%s", c->device);
    t->queues = calloc(c->queues, sizeof *t->queues);
    int ret = t->queues ? tap_fill(t, c, e) : errmsg_sys(e, ENOMEM, "tap %s", c->name);
    if (ret < 0) {
        tap_free(&t->port);
        return ret;
    }
    *out = t;
    return 0;
}

struct port *tap_port(struct tap *t)
{
    return &t->port;
}

struct port_source *tap_source(struct tap *t, unsigned queue)
{
    return queue < t->queue_count ? &t->queues[queue].source : NULL;
}

const char *tap_device(struct tap *t)
{
    return t->device;
}
