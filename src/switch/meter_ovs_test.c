/* SPDX-License-Identifier: Apache-2.0 */
/* Meters as text are what ovs-ofctl makes of them, and prints. Skipped where it is not installed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "switch/meter.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])
#define MESSAGE_MAX 512u
#define METER_MOD 29u

static bool is_installed(void)
{
    return system("ovs-ofctl --version >/dev/null 2>&1") == 0;
}

static void formatted(char *out, size_t bytes, const struct meter_spec *m)
{
    FILE *to = fmemopen(out, bytes, "w");
    assert_non_null(to);
    meter_format(to, m);
    assert_int_equal(fclose(to), 0);
}

/* ---- printing ---- */

static void put(uint8_t *at, uint32_t v, unsigned bytes)
{
    while (bytes-- > 0) {
        at[bytes] = (uint8_t)v;
        v >>= 8;
    }
}

/* ofp_meter_mod: a header, command (add), flags, number, bands. */
static unsigned encode(const struct meter_spec *m, uint8_t *at)
{
    unsigned bytes = 16 + 16 * m->count;
    memset(at, 0, bytes);
    put(at, 4u << 24 | METER_MOD << 16 | bytes, 4);
    put(at + 10, m->flags, 2);
    put(at + 12, m->id, 4);
    for (unsigned i = 0; i < m->count; i++) {
        uint8_t *band = at + 16 + 16 * i;
        put(band, (uint32_t)m->bands[i].type << 16 | 16, 4);
        put(band + 4, m->bands[i].rate, 4);
        put(band + 8, m->bands[i].burst, 4);
        if (m->bands[i].type == METER_DSCP_REMARK) band[12] = m->bands[i].prec_level;
    }
    return bytes;
}

/* "OFPT_METER_MOD (OF1.3) (xid=0x0): ADD meter=1 kbps bands=\ntype=drop rate=7\n": what follows ADD, with commas. */
static void printed(const struct meter_spec *m, char *out, size_t bytes)
{
    uint8_t message[MESSAGE_MAX];
    char command[2 * MESSAGE_MAX + 64] = "ovs-ofctl ofp-print ";
    unsigned n = encode(m, message);
    for (unsigned i = 0; i < n; i++)
        sprintf(command + strlen(command), "%02x", message[i]);
    FILE *answer = popen(command, "r");
    assert_non_null(answer);
    size_t got = fread(out, 1, bytes - 1, answer);
    pclose(answer);
    out[got] = 0;
    char *text = strstr(out, "ADD ");
    assert_non_null(text);
    char *to = out;
    for (text += 4; *text; text++) {
        bool first = *text == '\n' && to > out && to[-1] == '=';
        if (!first) *to++ = *text == ' ' || *text == '\n' ? ',' : *text;
    }
    while (to > out && to[-1] == ',')
        to--;
    *to = 0;
}

static uint32_t next(uint64_t *seed)
{
    *seed = *seed * UINT64_C(6364136223846793005) + 1442695040888963407u;
    return (uint32_t)(*seed >> 33);
}

static void random_meter(struct meter_spec *m, uint64_t *seed)
{
    memset(m, 0, sizeof *m);
    m->id = 1 + next(seed) % 1000;
    if (next(seed) % 8 == 0) m->id = next(seed) % 2 ? SWITCH_METER_SLOWPATH : SWITCH_METER_CONTROLLER;
    m->flags = (uint16_t)((next(seed) % 2 ? METER_KBPS : METER_PKTPS) | (next(seed) % 4 * METER_BURST));
    m->count = 1 + next(seed) % 4;
    for (unsigned i = 0; i < m->count; i++) {
        struct meter_band *b = &m->bands[i];
        b->type = (uint16_t)(next(seed) % 2 ? METER_DROP : METER_DSCP_REMARK);
        b->rate = 1 + next(seed) % 100000;
        if (m->flags & METER_BURST) b->burst = 1 + next(seed) % 1000;
        if (b->type == METER_DSCP_REMARK) b->prec_level = (uint8_t)(1 + next(seed) % 4);
    }
}

static void it_prints_the_same(void **state)
{
    static char text[4096], other[4096];
    uint64_t seed = 5;
    (void)state;
    if (!is_installed()) skip();
    for (unsigned i = 0; i < 60; i++) {
        struct meter_spec m;
        random_meter(&m, &seed);
        formatted(text, sizeof text, &m);
        printed(&m, other, sizeof other);
        assert_string_equal(text, other);
    }
}

/* ---- reading ---- */

struct peer {
    char path[64];
    int listener;
};

static void peer_open(struct peer *p)
{
    struct sockaddr_un to = {.sun_family = AF_UNIX};
    strcpy(p->path, "/tmp/creedence-meter-XXXXXX");
    int fd = mkstemp(p->path);
    assert_true(fd >= 0);
    close(fd);
    unlink(p->path);
    memcpy(to.sun_path, p->path, strlen(p->path) + 1);
    p->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct timeval limit = {.tv_sec = 5};
    setsockopt(p->listener, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    assert_int_equal(bind(p->listener, (struct sockaddr *)&to, sizeof to), 0);
    assert_int_equal(listen(p->listener, 1), 0);
}

static bool read_all(int fd, uint8_t *at, size_t n)
{
    while (n > 0) {
        ssize_t got = read(fd, at, n);
        if (got <= 0) return false;
        at += got;
        n -= (size_t)got;
    }
    return true;
}

static void answer(int fd, const uint8_t *to, uint8_t type)
{
    uint8_t m[8] = {4, type, 0, 8, to[4], to[5], to[6], to[7]};
    assert_int_equal(write(fd, m, sizeof m), sizeof m);
}

/* Talks to ovs-ofctl until it goes; the meter's message into out: how long it is. */
static unsigned listen_for_meter(const struct peer *p, uint8_t out[MESSAGE_MAX])
{
    uint8_t m[MESSAGE_MAX];
    unsigned bytes = 0;
    int fd = accept(p->listener, NULL, NULL);
    assert_true(fd >= 0);
    while (read_all(fd, m, 8)) {
        unsigned n = (unsigned)(m[2] << 8 | m[3]);
        assert_true(n >= 8 && n <= sizeof m && read_all(fd, m + 8, n - 8));
        if (m[1] == 0) answer(fd, m, 0);   /* hello */
        if (m[1] == 2) answer(fd, m, 3);   /* echo */
        if (m[1] == 20) answer(fd, m, 21); /* barrier */
        if (m[1] != METER_MOD) continue;
        memcpy(out, m, n);
        bytes = n;
    }
    close(fd);
    return bytes;
}

static void it_reads_the_same(void **state)
{
    static const char *const texts[] = {
        "meter=1,kbps,burst,stats,bands=type=drop,rate=1000,burst_size=100",
        "meter=7 pktps bands= type=drop rate=5",
        "meter=1,pktps,band=type=dscp_remark,rate=5,prec_level=2 type=drop,rate=7",
        "meter=slowpath,kbps,bands=type=drop,rate=4",
        "meter=controller,pktps,stats,bands=type=drop,rate=4294967295",
        "meter=3,kbps,burst,bands=type=dscp_remark,rate=1,burst_size=1,prec_level=1,type=drop,rate=2,burst_size=9",
    };
    struct peer p;
    (void)state;
    if (!is_installed()) skip();
    peer_open(&p);
    for (unsigned i = 0; i < COUNT(texts); i++) {
        uint8_t theirs[MESSAGE_MAX], ours[MESSAGE_MAX];
        char command[512];
        struct meter_spec m;
        struct errmsg e;
        snprintf(command, sizeof command, "ovs-ofctl -O OpenFlow13 add-meter unix:%s '%s'", p.path, texts[i]);
        FILE *asked = popen(command, "r");
        assert_non_null(asked);
        unsigned n = listen_for_meter(&p, theirs);
        assert_int_equal(pclose(asked), 0);
        assert_int_equal(meter_parse(&m, texts[i], &e), 0);
        assert_int_equal(encode(&m, ours), n);
        memset(theirs + 4, 0, 4); /* its number */
        assert_memory_equal(theirs, ours, n);
    }
    close(p.listener);
    unlink(p.path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_prints_the_same),
        cmocka_unit_test(it_reads_the_same),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
