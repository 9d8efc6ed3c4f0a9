/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NORMAL against a model: a bridge that learns from every frame and remembers in an array. Random frames, with tags and
 * without, between ports of all modes, whose settings change, that come and go, and addresses that move.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/bitmap.h"
#include "switch/test_rig.h"

#define PORTS 6u
#define MACS 6u
#define VLANS 4u /* 0 to 3 */
#define STEPS 20000u

struct model {
    struct rig rig;
    struct switch_port_config config[PORTS + 1];
    uint32_t bits[PORTS + 1]; /* PORT_CONFIG_* */
    bool there[PORTS + 1];
    unsigned behind[VLANS][MACS]; /* 0: not known */
    bool moved[VLANS][MACS];      /* in this second: it stays where it is */
    time_t second;
};

static uint64_t seed = 4711;

static unsigned rnd(unsigned below)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    seed ^= seed << 17;
    return (unsigned)(seed >> 33) % below;
}

static struct switch_port_config random_config(void)
{
    struct switch_port_config c = {.vlan_mode = (enum vlan_mode)rnd(4), .no_flood = rnd(8) == 0};
    c.tag = (uint16_t)(c.vlan_mode == VLAN_TRUNK ? 0 : 1 + rnd(VLANS - 1));
    if (rnd(2)) c.trunks[0] = 1 + rnd(15);
    return c;
}

static bool carries(const struct switch_port_config *c, unsigned vlan)
{
    if (c->vlan_mode == VLAN_ACCESS) return vlan == c->tag;
    bool trunk = c->trunks[0] == 0 || (c->trunks[0] >> vlan & 1);
    return c->vlan_mode == VLAN_TRUNK ? trunk : trunk || vlan == c->tag;
}

static bool tagged_on(const struct switch_port_config *c, unsigned vlan)
{
    switch (c->vlan_mode) {
    case VLAN_ACCESS: return false;
    case VLAN_NATIVE_UNTAGGED: return vlan != 0 && vlan != c->tag;
    default: return vlan != 0;
    }
}

static void forget_behind(struct model *m, unsigned port)
{
    for (unsigned v = 0; v < VLANS; v++)
        for (unsigned a = 0; a < MACS; a++)
            if (m->behind[v][a] == port) m->behind[v][a] = m->moved[v][a] = 0;
}

static void random_bits(struct model *m, unsigned port)
{
    static const uint32_t each[] = {PORT_CONFIG_DOWN, PORT_CONFIG_NO_RECV, PORT_CONFIG_NO_FWD,
                                    PORT_CONFIG_NO_PACKET_IN};
    m->bits[port] = 0;
    for (unsigned i = 0; i < sizeof each / sizeof each[0]; i++)
        if (rnd(16) == 0) m->bits[port] |= each[i];
    switch_port_set_config(m->rig.ports[port]->sp, m->bits[port], UINT32_MAX);
}

static void forget_all(struct model *m)
{
    memset(m->behind, 0, sizeof m->behind);
    memset(m->moved, 0, sizeof m->moved);
}

/* The second that the switch's time is in. Where one ends both forget, rather than that the model would have to know exactly when. */
static bool is_next_second(struct model *m)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    if (m->second == now.tv_sec) return false;
    m->second = now.tv_sec;
    bridge_mac_flush(m->rig.bridge);
    forget_all(m);
    return true;
}

static void add(struct model *m, unsigned port)
{
    m->config[port] = random_config();
    rig_port_add(&m->rig, port, &m->config[port]);
    random_bits(m, port);
    m->there[port] = true;
}

static void change(struct model *m)
{
    unsigned port = 1 + rnd(PORTS);
    if (rnd(8) == 0) {
        bridge_mac_flush(m->rig.bridge);
        forget_all(m);
    } else if (!m->there[port]) {
        add(m, port);
    } else if (rnd(2)) {
        m->config[port] = random_config();
        switch_port_set(m->rig.ports[port]->sp, &m->config[port]);
        if (rnd(2)) random_bits(m, port);
    } else {
        rig_port_remove(&m->rig, port);
        m->there[port] = false;
        forget_behind(m, port);
    }
}

/* Which ports get it; *vlan: in which VLAN. */
static uint32_t expected(struct model *m, unsigned in, unsigned dst, unsigned src, int tag, unsigned *vlan)
{
    const struct switch_port_config *c = &m->config[in];
    uint32_t bits = 0;
    if (m->bits[in] & (PORT_CONFIG_DOWN | PORT_CONFIG_NO_RECV)) return 0;
    *vlan = tag > 0 ? (unsigned)tag : c->vlan_mode == VLAN_TRUNK ? 0 : c->tag;
    if ((tag > 0 && c->vlan_mode == VLAN_ACCESS) || !carries(c, *vlan)) return 0;
    unsigned *known = &m->behind[*vlan][src];
    bool moves = *known && *known != in;
    if (!moves || !m->moved[*vlan][src]) *known = in;
    m->moved[*vlan][src] |= moves;
    unsigned to = dst < MACS ? m->behind[*vlan][dst] : 0;
    for (unsigned p = 1; p <= PORTS; p++) {
        const struct switch_port_config *o = &m->config[p];
        if (!m->there[p] || p == in || !carries(o, *vlan)) continue;
        if (m->bits[p] & (PORT_CONFIG_DOWN | PORT_CONFIG_NO_FWD)) continue;
        if (to ? p == to : !o->no_flood) bits |= 1u << p;
    }
    return bits;
}

static void check_tag(const struct model *m, unsigned port, unsigned vlan, unsigned frame)
{
    const struct rig_port *p = m->rig.ports[port];
    const uint8_t *b = p->last[(p->got - 1) % 8].bytes;
    bool tagged = b[12] == 0x81 && b[13] == 0;
    assert_int_equal(tagged, tagged_on(&m->config[port], vlan));
    if (tagged) assert_int_equal((b[14] & 15) << 8 | b[15], vlan);
    assert_int_equal(b[tagged ? 16 : 12], 8);
    assert_int_equal(p->last[(p->got - 1) % 8].length, frame + (tagged ? 4 : 0));
}

static void send(struct model *m)
{
    uint8_t f[128];
    char dst[32], src[32];
    unsigned in = 1 + rnd(PORTS), to = rnd(MACS + 1), vlan = 0;
    unsigned from = rnd(16) ? in - 1 : rnd(MACS); /* seldom where it was not before */
    int tag = rnd(2) ? -1 : (int)rnd(VLANS);      /* 0: a priority tag */
    if (!m->there[in]) return;
    snprintf(dst, sizeof dst, to < MACS ? "02:00:00:00:00:%02x" : "ff:ff:ff:ff:ff:%02x", to < MACS ? to : 0xff);
    snprintf(src, sizeof src, "02:00:00:00:00:%02x", from);
    unsigned n = frame_udp(f, dst, src, "10.0.0.1", "10.0.0.2", 1, 2), bytes = n;
    if (tag >= 0) bytes = frame_tag(f, n, 0x8100, (unsigned)tag | (rnd(2) << 13));
    is_next_second(m);
    uint32_t want = expected(m, in, to, from, tag, &vlan);
    rig_send(&m->rig, in, f, bytes, 1);
    if (is_next_second(m)) {
        rig_got(&m->rig);
        return;
    }
    for (unsigned p = 1; p <= PORTS; p++)
        if (m->there[p] && (want >> p & 1) && m->rig.ports[p]->got == 1) check_tag(m, p, vlan, n);
    assert_int_equal(rig_got(&m->rig), want);
}

static void as_the_model(void **state)
{
    struct model *m = calloc(1, sizeof *m);
    struct switch_stats s;
    (void)state;
    rig_open(&m->rig, NULL, BRIDGE_STANDALONE, 0);
    for (unsigned p = 1; p <= PORTS; p++)
        add(m, p);
    for (unsigned i = 0; i < STEPS; i++) {
        if (rnd(100) == 0) change(m);
        send(m);
    }
    switch_stats_read(m->rig.sw, &s);
    assert_true(s.translations < s.packets * 9 / 10); /* the caches had a part in it */
    print_message("%u frames, %u of them by the caches\n", (unsigned)s.packets, (unsigned)(s.packets - s.translations));
    rig_close(&m->rig);
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(as_the_model)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
