/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A hostile driver: the input is a queue's parameters and then a script of writes to guest memory and of calls that
 * a device makes in between. Guest memory is 16 KiB at guest address 0: the descriptors at 0, the driver area at 0x1000,
 * the device area at 0x1400, the rest for indirect tables and buffers.
 *
 * input: flags, size - 1, base (4 bytes), iov_max - 1, then commands (enum command, a byte) and their
 * operands. Whatever comes, popped buffers lie in guest memory and ids are below the size and not in use.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "ring/virtq.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MEMORY_BYTES 16384u
#define DRIVER_AT 0x1000u
#define DEVICE_AT 0x1400u
#define SIZE_LIMIT 128u

enum command {
    WRITE, /* offset (2 bytes), length - 1, data: to guest memory */
    SPOIL, /* the same: to the in-flight table */
    POP,
    PUSH, /* which of those held */
    PUBLISH,
    KICKS_ON,
    KICKS_OFF,
    RESTART,
    COMMANDS
};

enum flags { PACKED = 1, EVENT_IDX = 2, INDIRECT = 4, TRACKED = 8, RESUME = 16 };

struct input {
    const uint8_t *at, *end;
};

static uint64_t take(struct input *in, unsigned bytes)
{
    uint64_t v = 0;
    for (unsigned i = 0; i < bytes && in->at < in->end; i++)
        v |= (uint64_t)*in->at++ << (8 * i);
    return v;
}

static struct guest_map *map;
static char *memory;
static _Alignas(64) char table[8192];

static void check(bool ok)
{
    if (!ok) abort();
}

static void map_once(void)
{
    if (map) return;
    int fd = memfd_create("fuzz-virtq", MFD_CLOEXEC);
    check(fd >= 0 && ftruncate(fd, MEMORY_BYTES) == 0);
    struct guest_region_desc d = {{0}, MEMORY_BYTES, 0x1000000, 0};
    check(guest_map_new(&map, &d, &fd, 1, NULL, NULL) == 0);
    close(fd);
    memory = guest_map_at(map, (struct gpa){0}, MEMORY_BYTES);
}

struct device {
    struct virtq_setup setup;
    struct virtq *q;
    unsigned iov_max;
    unsigned held_count;
    uint16_t held[SIZE_LIMIT];
    bool is_held[SIZE_LIMIT];
};

static void write_to(struct input *in, char *target, size_t target_bytes)
{
    size_t at = (size_t)take(in, 2), length = (size_t)take(in, 1) + 1;
    if (length > (size_t)(in->end - in->at)) length = (size_t)(in->end - in->at);
    if (at >= target_bytes) return;
    size_t fits = length < target_bytes - at ? length : target_bytes - at;
    memcpy(target + at, in->at, fits);
    in->at += length;
}

static void pop(struct device *v)
{
    struct virtq_chain c;
    struct iovec iov[256];
    int ret = virtq_pop(v->q, &c, iov, v->iov_max);
    check((ret == -EPROTO) == (virtq_broken(v->q) != NULL));
    check(ret >= 0 || ret == -EPROTO || ret == -E2BIG);
    if (ret == -E2BIG) virtq_break(v->q, "a chain of more buffers than there is room for");
    if (ret != 1) return;
    check(c.id < v->setup.size && !v->is_held[c.id] && c.out_count + c.in_count <= v->iov_max);
    uint64_t bytes = 0;
    for (unsigned i = 0; i < c.out_count + c.in_count; i++) {
        size_t at = (size_t)((char *)iov[i].iov_base - memory);
        check(at < MEMORY_BYTES && iov[i].iov_len > 0 && iov[i].iov_len <= MEMORY_BYTES - at);
        bytes += iov[i].iov_len;
    }
    check(bytes == c.out_bytes + c.in_bytes);
    v->is_held[c.id] = true;
    v->held[v->held_count++] = c.id;
    check(v->held_count == virtq_in_flight(v->q));
}

static void push(struct device *v, unsigned which)
{
    if (v->held_count == 0) return;
    which %= v->held_count;
    uint16_t id = v->held[which];
    v->held[which] = v->held[--v->held_count];
    v->is_held[id] = false;
    virtq_push(v->q, id, which * 100);
}

static bool restart(struct device *v)
{
    virtq_free(v->q);
    v->held_count = 0;
    memset(v->is_held, 0, sizeof v->is_held);
    struct errmsg e;
    return virtq_new(&v->q, &v->setup, map, &e) == 0;
}

static void run(struct device *v, struct input *in)
{
    while (in->at < in->end) {
        switch (take(in, 1) % COMMANDS) {
        case WRITE: write_to(in, memory, MEMORY_BYTES); break;
        case SPOIL: write_to(in, table, sizeof table); break;
        case POP: pop(v); break;
        case PUSH: push(v, (unsigned)take(in, 1)); break;
        case PUBLISH: virtq_publish(v->q); break;
        case KICKS_ON: virtq_kick_enable(v->q); break;
        case KICKS_OFF: virtq_kick_disable(v->q); break;
        case RESTART:
            v->setup.resume = true;
            if (!restart(v)) return;
            break;
        }
    }
    for (unsigned i = 0; i < 2 * SIZE_LIMIT && virtq_has_work(v->q); i++)
        pop(v);
    while (v->held_count > 0)
        push(v, 0);
    virtq_publish(v->q);
    virtq_base(v->q);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    map_once();
    memset(memory, 0, MEMORY_BYTES);
    memset(table, 0, sizeof table);
    struct input in = {data, data + size};
    struct device v = {0};
    unsigned flags = (unsigned)take(&in, 1);
    v.setup =
        (struct virtq_setup){.packed = flags & PACKED, .event_idx = flags & EVENT_IDX, .indirect = flags & INDIRECT};
    v.setup.size = (uint16_t)(take(&in, 1) % SIZE_LIMIT + 1);
    v.setup.base = (uint32_t)take(&in, 4);
    v.iov_max = (unsigned)take(&in, 1) + 1;
    v.setup.desc = memory;
    v.setup.driver = memory + DRIVER_AT;
    v.setup.device = memory + DEVICE_AT;
    v.setup.inflight = flags & TRACKED ? table : NULL;
    v.setup.resume = flags & RESUME;
    if (restart(&v)) run(&v, &in);
    virtq_free(v.q);
    return 0;
}
