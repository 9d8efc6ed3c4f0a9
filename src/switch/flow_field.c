/* SPDX-License-Identifier: Apache-2.0 */
/* How values of fields are written: read and printed here, for matches and for set_field. */
#include <arpa/inet.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "switch/flow_text.h"

enum notation { HEXADECIMAL, DECIMAL, MAC, IPV4, IPV6, PORT, FRAGMENT, TCP_FLAGS };

static enum notation notation_of(enum field_id id)
{
    switch (id) {
    case FIELD_IN_PORT:
    case FIELD_IN_PHY_PORT: return PORT;
    case FIELD_ETH_DST:
    case FIELD_ETH_SRC:
    case FIELD_ARP_SHA:
    case FIELD_ARP_THA:
    case FIELD_ND_SLL:
    case FIELD_ND_TLL: return MAC;
    case FIELD_IPV4_SRC:
    case FIELD_IPV4_DST:
    case FIELD_ARP_SPA:
    case FIELD_ARP_TPA: return IPV4;
    case FIELD_IPV6_SRC:
    case FIELD_IPV6_DST:
    case FIELD_ND_TARGET: return IPV6;
    case FIELD_IP_FRAG: return FRAGMENT;
    case FIELD_TCP_FLAGS: return TCP_FLAGS;
    case FIELD_METADATA:
    case FIELD_ETH_TYPE:
    case FIELD_VLAN_TCI:
    case FIELD_IPV6_FLABEL:
    case FIELD_IPV6_EXTHDR:
    case FIELD_PBB_ISID:
    case FIELD_TUNNEL_ID: return HEXADECIMAL;
    default: return id >= FIELD_REG0 ? HEXADECIMAL : DECIMAL;
    }
}

bool text_field_maskable(enum field_id id)
{
    switch (id) {
    case FIELD_TCP_SRC:
    case FIELD_TCP_DST:
    case FIELD_UDP_SRC:
    case FIELD_UDP_DST:
    case FIELD_SCTP_SRC:
    case FIELD_SCTP_DST:
    case FIELD_ND_TARGET:
    case FIELD_ND_SLL:
    case FIELD_ND_TLL: return true;
    default: return fields[id].maskable;
    }
}

bool text_field_is_full(enum field_id id, struct field_value mask)
{
    struct field_value all = field_all_ones(id);
    return memcmp(&all, &mask, sizeof all) == 0;
}

bool text_field_is_zero(struct field_value v)
{
    static const struct field_value zero;
    return memcmp(&v, &zero, sizeof v) == 0;
}

/* ---- reading ---- */

static bool read_number(enum field_id id, struct text t, struct field_value *v)
{
    uint64_t n, max = fields[id].bits >= 64 ? UINT64_MAX : (1ull << fields[id].bits) - 1;
    if (!text_number(t, max, &n)) return false;
    *v = field_value_of(n);
    return true;
}

static bool read_mac(struct text t, struct field_value *v)
{
    *v = (struct field_value){0};
    struct text part, rest = t;
    for (unsigned i = 0; i < 6; i++) {
        uint64_t n;
        char digits[5] = "0x";
        if (text_split(rest, ':', &part, &rest) != (i < 5) || part.length < 1 || part.length > 2) return false;
        memcpy(digits + 2, part.at, part.length);
        if (!text_number((struct text){digits, part.length + 2}, 255, &n)) return false;
        v->raw[10 + i] = (uint8_t)n;
    }
    return true;
}

static bool read_ip(enum notation how, struct text t, struct field_value *v)
{
    char text[INET6_ADDRSTRLEN];
    if (t.length >= sizeof text) return false;
    memcpy(text, t.at, t.length);
    text[t.length] = 0;
    if (memchr(text, 0, t.length)) return false;
    *v = (struct field_value){0};
    return how == IPV4 ? inet_pton(AF_INET, text, v->raw + 12) == 1 : inet_pton(AF_INET6, text, v->raw) == 1;
}

/* An address, or the length of a prefix. */
static bool read_ip_mask(enum notation how, struct text t, struct field_value *v)
{
    uint64_t ones, bits = how == IPV4 ? 32 : 128;
    if (!text_number(t, bits, &ones)) return read_ip(how, t, v);
    *v = (struct field_value){0};
    for (unsigned i = 0; i < ones; i++)
        v->raw[(128 - bits + i) / 8] |= (uint8_t)(0x80 >> i % 8);
    return true;
}

static const struct {
    const char *word;
    uint8_t value, mask;
} fragments[] = {
    {"no", 0, 3},
    {"yes", FLOW_FRAG_ANY, FLOW_FRAG_ANY},
    {"first", FLOW_FRAG_ANY, 3},
    {"later", FLOW_FRAG_ANY | FLOW_FRAG_LATER, 3},
    {"not_later", 0, FLOW_FRAG_LATER},
};
#define FRAGMENTS (sizeof fragments / sizeof fragments[0])

static bool read_fragment(struct text t, struct field_value *v, struct field_value *mask)
{
    for (unsigned i = 0; i < FRAGMENTS; i++)
        if (text_is(t, fragments[i].word)) {
            *v = field_value_of(fragments[i].value);
            *mask = field_value_of(fragments[i].mask);
            return true;
        }
    return false;
}

static const char *const tcp_flags[12] = {
    "fin", "syn", "rst", "psh", "ack", "urg", "ece", "cwr", "ns", "[200]", "[400]", "[800]",
};

static uint16_t tcp_flag(struct text t)
{
    for (unsigned i = 0; i < 12; i++)
        if (text_is(t, tcp_flags[i])) return (uint16_t)(1u << i);
    return 0;
}

/* +syn-ack: these flags only; syn|ack: these and no others. */
static bool read_tcp_flags(struct text t, struct field_value *v, struct field_value *mask)
{
    uint16_t set = 0, known = 0;
    bool chosen = t.length && (t.at[0] == '+' || t.at[0] == '-');
    for (size_t i = 0; i < t.length;) {
        bool on = !chosen || t.at[i] == '+';
        if (chosen && t.at[i] != '+' && t.at[i] != '-') return false;
        size_t begin = i + (chosen ? 1 : 0), end = begin;
        while (end < t.length && (chosen ? t.at[end] != '+' && t.at[end] != '-' : t.at[end] != '|'))
            end++;
        uint16_t flag = tcp_flag((struct text){t.at + begin, end - begin});
        if (!flag || known & flag || (!chosen && end + 1 == t.length)) return false;
        known |= flag;
        set |= on ? flag : 0;
        i = chosen ? end : end + 1;
    }
    *v = field_value_of(set);
    *mask = chosen ? field_value_of(known) : field_all_ones(FIELD_TCP_FLAGS);
    return t.length > 0;
}

static const char *expected(enum notation how)
{
    switch (how) {
    case MAC: return "an Ethernet address (02:00:00:00:00:01)";
    case IPV4: return "an IPv4 address (192.0.2.1)";
    case IPV6: return "an IPv6 address (2001:db8::1)";
    case PORT: return "a port's number or name";
    case FRAGMENT: return "yes, no, first, later or not_later";
    case TCP_FLAGS: return "TCP flags (+syn-ack, syn|ack, or a number of 12 bits)";
    default: return NULL;
    }
}

static bool read_value(const struct text_source *s, enum field_id id, struct text t, struct field_value *v)
{
    uint32_t port;
    switch (notation_of(id)) {
    case MAC: return read_mac(t, v);
    case IPV4: return read_ip(IPV4, t, v);
    case IPV6: return read_ip(IPV6, t, v);
    case PORT:
        if (!text_port(s, t, &port)) return false;
        *v = field_value_of(port);
        return true;
    default: return read_number(id, t, v);
    }
}

static bool read_mask(enum field_id id, struct text t, struct field_value *v)
{
    switch (notation_of(id)) {
    case MAC: return read_mac(t, v);
    case IPV4: return read_ip_mask(IPV4, t, v);
    case IPV6: return read_ip_mask(IPV6, t, v);
    default: return read_number(id, t, v);
    }
}

int text_field(const struct text_source *s, enum field_id id, struct text t, struct field_value *value,
               struct field_value *mask)
{
    enum notation how = notation_of(id);
    struct text first, second;
    if (how == FRAGMENT && read_fragment(t, value, mask)) return 0;
    if (how == TCP_FLAGS && read_tcp_flags(t, value, mask)) return 0;
    bool masked = text_split(t, '/', &first, &second);
    if (!read_value(s, id, first, value)) {
        if (expected(how)) return text_fail(s, first, "%s", expected(how));
        return text_fail(s, first, "a number of %u bits", fields[id].bits);
    }
    *mask = field_all_ones(id);
    if (!masked) return 0;
    if (!read_mask(id, second, mask)) {
        if (how == IPV4 || how == IPV6) return text_fail(s, second, "a prefix's length or a mask");
        return text_fail(s, second, "a mask of %u bits", fields[id].bits);
    }
    for (unsigned i = 0; i < FIELD_VALUE_BYTES; i++)
        value->raw[i] &= mask->raw[i];
    return 0;
}

/* ---- printing ---- */

static void print_mac(FILE *out, struct field_value v)
{
    const uint8_t *b = v.raw + 10;
    fprintf(out, "%02x:%02x:%02x:%02x:%02x:%02x", b[0], b[1], b[2], b[3], b[4], b[5]);
}

static void print_ip(FILE *out, enum notation how, struct field_value v)
{
    char text[INET6_ADDRSTRLEN];
    inet_ntop(how == IPV4 ? AF_INET : AF_INET6, how == IPV4 ? v.raw + 12 : v.raw, text, sizeof text);
    fputs(text, out);
}

/* The length of a prefix, or -1: ones and zeros are mixed. */
static int prefix_length(enum notation how, struct field_value mask)
{
    int ones = 0;
    bool ended = false;
    for (unsigned i = how == IPV4 ? 96 : 0; i < 128; i++) {
        bool one = mask.raw[i / 8] >> (7 - i % 8) & 1;
        if (one && ended) return -1;
        ended |= !one;
        ones += one;
    }
    return ones;
}

static void print_ip_masked(FILE *out, enum notation how, struct field_value v, struct field_value mask)
{
    int prefix = prefix_length(how, mask);
    print_ip(out, how, v);
    if (prefix == (how == IPV4 ? 32 : 128)) return;
    fputc('/', out);
    if (prefix >= 0) fprintf(out, "%d", prefix);
    else print_ip(out, how, mask);
}

static void print_mac_masked(FILE *out, struct field_value v, struct field_value mask)
{
    print_mac(out, v);
    if (prefix_length(IPV6, mask) == 0 || field_value_u64(mask) != 0xffffffffffff) {
        fputc('/', out);
        print_mac(out, mask);
    }
}

static void print_fragment(FILE *out, struct field_value v, struct field_value mask)
{
    uint64_t value = field_value_u64(v), of = field_value_u64(mask);
    for (unsigned i = 0; i < FRAGMENTS; i++)
        if (fragments[i].value == value && fragments[i].mask == of) {
            fputs(fragments[i].word, out);
            return;
        }
    fprintf(out, "%" PRIu64 "/%" PRIu64, value, of);
}

static void print_tcp_flags(FILE *out, struct field_value v, struct field_value mask)
{
    uint64_t value = field_value_u64(v), of = field_value_u64(mask);
    bool all = text_field_is_full(FIELD_TCP_FLAGS, mask), first = true;
    if (all && value == 0) fputc('0', out);
    for (unsigned i = 0; i < 12; i++) {
        if (!(of >> i & 1) || (all && !(value >> i & 1))) continue;
        if (!all) fputc(value >> i & 1 ? '+' : '-', out);
        else if (!first) fputc('|', out);
        fputs(tcp_flags[i], out);
        first = false;
    }
}

static void print_number(FILE *out, enum field_id id, struct field_value v, struct field_value mask, bool in_match)
{
    uint64_t value = field_value_u64(v);
    bool full = text_field_is_full(id, mask), label = in_match && id == FIELD_IPV6_FLABEL;
    bool wide = in_match && (id == FIELD_ETH_TYPE || id == FIELD_VLAN_TCI);
    int width = label ? 5 : wide ? 4 : 0;
    if (width) fprintf(out, "0x%0*" PRIx64, width, value);
    else if (notation_of(id) == HEXADECIMAL) fprintf(out, "%#" PRIx64, value);
    else if (in_match && !full) fprintf(out, "0x%" PRIx64, value);
    else fprintf(out, "%" PRIu64, value);
    if (full) return;
    if (width) fprintf(out, "/0x%0*" PRIx64, width, field_value_u64(mask));
    else fprintf(out, "/%#" PRIx64, field_value_u64(mask));
}

static void print(FILE *out, enum field_id id, struct field_value v, struct field_value mask, bool in_match)
{
    enum notation how = notation_of(id);
    switch (how) {
    case MAC: print_mac_masked(out, v, mask); break;
    case IPV4:
    case IPV6: print_ip_masked(out, how, v, mask); break;
    case FRAGMENT: print_fragment(out, v, mask); break;
    case TCP_FLAGS: print_tcp_flags(out, v, mask); break;
    default: print_number(out, id, v, mask, in_match); break;
    }
}

void text_field_print(FILE *out, enum field_id id, struct field_value value, struct field_value mask)
{
    print(out, id, value, mask, true);
}

void text_field_print_set(FILE *out, enum field_id id, struct field_value value, struct field_value mask)
{
    print(out, id, value, mask, false);
}
