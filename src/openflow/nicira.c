/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Nicira's actions, those that have a meaning here: resubmit, load, move, set_tunnel, dec_ttl, and controller with
 * nothing that output has not. They are read as what OpenFlow has, where it has it.
 */
#include "openflow/codec_internal.h"

#include "switch/flow_text.h"

static int bad_length(struct of_error *e, unsigned subtype, size_t bytes)
{
    return of_wrong(e, OFPET_BAD_ACTION, OFPBAC_BAD_LEN, "Nicira's action %u of %zu bytes", subtype, bytes);
}

/* ---- reading ---- */

static void set_tunnel(struct action *out, uint64_t id)
{
    out->type = ACTION_SET_FIELD;
    out->set.field = FIELD_TUNNEL_ID;
    out->set.value = field_value_of(id);
    out->set.mask = field_all_ones(FIELD_TUNNEL_ID);
}

/* The same port in the same table would go round for ever. */
static int get_resubmit(const uint8_t *at, bool has_table, struct action *out, struct of_error *e)
{
    struct nx_action_resubmit a;
    memcpy(&a, at, sizeof a);
    out->type = ACTION_RESUBMIT;
    out->resubmit.port = port_of_16(be16_get(a.in_port));
    out->resubmit.table = has_table ? a.table : SWITCH_TABLE_ALL;
    if (out->resubmit.table != SWITCH_TABLE_ALL || out->resubmit.port != SWITCH_PORT_IN_PORT) return 0;
    return of_wrong(e, OFPET_BAD_ACTION, OFPBAC_BAD_ARGUMENT, "resubmit to the same port and table");
}

static int get_controller(const uint8_t *at, struct action *out, struct of_error *e)
{
    struct nx_action_controller a;
    memcpy(&a, at, sizeof a);
    out->type = ACTION_OUTPUT;
    out->output.port = SWITCH_PORT_CONTROLLER;
    out->output.max_len = be16_get(a.max_len);
    if (!be16_get(a.controller_id) && a.reason == OFPR_ACTION) return 0;
    return of_wrong(e, OFPET_BAD_ACTION, OFPBAC_BAD_ARGUMENT, "controller: an id or a reason");
}

/* A field that is named without a value. */
static int get_field(struct cursor *c, struct oxm *out, struct of_error *e)
{
    int ret = oxm_get_header(c, OXM_IN_LOAD, out, e);
    if (ret || !out->masked) return ret;
    return of_wrong(e, OFPET_BAD_ACTION, OFPBAC_BAD_SET_TYPE, "%s with a mask", fields[out->id].name);
}

static int check_writable(enum field_id id, struct of_error *e)
{
    if (fields[id].writable) return 0;
    return of_wrong(e, OFPET_BAD_ACTION, OFPBAC_BAD_SET_TYPE, "%s cannot be written", fields[id].name);
}

/* From which bit of the field on. */
static int check_bits(const struct oxm *f, unsigned at, unsigned count, uint8_t *bit, struct of_error *e)
{
    if (count && at >= f->spare && at + count <= f->bits) {
        *bit = (uint8_t)(at - f->spare);
        return 0;
    }
    return of_wrong(e, OFPET_BAD_ACTION, OFPBAC_BAD_SET_LEN, "%s: %u bits at %u: they are not there",
                    fields[f->id].name, count, at);
}

static struct field_value shifted(uint64_t n, unsigned by)
{
    struct field_value v = {0};
    unsigned __int128 wide = (unsigned __int128)n << by;
    struct be64 high = be64_make((uint64_t)(wide >> 64)), low = be64_make((uint64_t)wide);
    memcpy(v.raw, &high, sizeof high);
    memcpy(v.raw + 8, &low, sizeof low);
    return v;
}

static int get_load(const uint8_t *at, size_t bytes, struct action *out, struct of_error *e)
{
    struct nx_action_reg_load a;
    struct oxm field;
    if (bytes != sizeof a) return bad_length(e, NXAST_REG_LOAD, bytes);
    memcpy(&a, at, sizeof a);
    struct cursor c = cursor_over(&a.dst, sizeof a.dst);
    unsigned first = be16_get(a.ofs_nbits) >> 6, count = (be16_get(a.ofs_nbits) & 63) + 1;
    uint64_t n = be64_get(a.value);
    uint8_t bit = 0;
    int ret = get_field(&c, &field, e);
    if (!ret) ret = check_writable(field.id, e);
    if (!ret) ret = check_bits(&field, first, count, &bit, e);
    if (ret) return ret;
    if (count < 64 && n >> count)
        return of_wrong(e, OFPET_BAD_ACTION, OFPBAC_BAD_ARGUMENT, "load of 0x%jx: more than %u bits", (uintmax_t)n,
                        count);
    out->type = ACTION_SET_FIELD;
    out->set.field = (uint8_t)field.id;
    out->set.value = shifted(n, bit);
    out->set.mask = of_ones_at(bit, count);
    return 0;
}

static int get_load2(const uint8_t *at, size_t bytes, struct action *out, struct of_error *e)
{
    struct oxm_value v;
    struct cursor c = cursor_over(at, bytes);
    cursor_pull(&c, sizeof(struct nx_action_reg_load2));
    int ret = oxm_get(&c, OXM_IN_LOAD, &v, e);
    if (!ret && c.left_bytes > 7) ret = bad_length(e, NXAST_REG_LOAD2, bytes);
    if (!ret) ret = check_writable(v.field.id, e);
    if (ret) return ret;
    out->type = ACTION_SET_FIELD;
    out->set.field = (uint8_t)v.field.id;
    out->set.value = v.value;
    out->set.mask = v.mask;
    return 0;
}

static int get_move(const uint8_t *at, size_t bytes, struct action *out, struct of_error *e)
{
    struct nx_action_reg_move a;
    struct oxm from, to;
    if (bytes < sizeof a) return bad_length(e, NXAST_REG_MOVE, bytes);
    memcpy(&a, at, sizeof a);
    struct cursor c =
        cursor_over(at + offsetof(struct nx_action_reg_move, src), bytes - offsetof(struct nx_action_reg_move, src));
    unsigned count = be16_get(a.n_bits);
    int ret = get_field(&c, &from, e);
    if (!ret) ret = get_field(&c, &to, e);
    if (!ret && c.left_bytes > 7) ret = bad_length(e, NXAST_REG_MOVE, bytes);
    if (!ret) ret = check_writable(to.id, e);
    if (!ret) ret = check_bits(&from, be16_get(a.src_ofs), count, &out->move.from_bit, e);
    if (!ret) ret = check_bits(&to, be16_get(a.dst_ofs), count, &out->move.to_bit, e);
    if (ret) return ret;
    out->type = ACTION_MOVE;
    out->move.from = (uint8_t)from.id;
    out->move.to = (uint8_t)to.id;
    out->move.bits = (uint8_t)count;
    return 0;
}

static int get_set_tunnel(const uint8_t *at, size_t bytes, struct action *out, struct of_error *e)
{
    struct nx_action_set_tunnel a;
    if (bytes != sizeof a) return bad_length(e, NXAST_SET_TUNNEL, bytes);
    memcpy(&a, at, sizeof a);
    set_tunnel(out, be32_get(a.tun_id));
    return 0;
}

static int get_set_tunnel64(const uint8_t *at, size_t bytes, struct action *out, struct of_error *e)
{
    struct nx_action_set_tunnel64 a;
    if (bytes != sizeof a) return bad_length(e, NXAST_SET_TUNNEL64, bytes);
    memcpy(&a, at, sizeof a);
    set_tunnel(out, be64_get(a.tun_id));
    return 0;
}

int nicira_get_action(const uint8_t *at, size_t bytes, struct action *out, struct of_error *e)
{
    struct nx_action_header h;
    memcpy(&h, at, sizeof h);
    unsigned subtype = be16_get(h.subtype);
    switch (subtype) {
    case NXAST_RESUBMIT:
    case NXAST_RESUBMIT_TABLE:
        if (bytes != sizeof(struct nx_action_resubmit)) return bad_length(e, subtype, bytes);
        return get_resubmit(at, subtype == NXAST_RESUBMIT_TABLE, out, e);
    case NXAST_CONTROLLER:
        if (bytes != sizeof(struct nx_action_controller)) return bad_length(e, subtype, bytes);
        return get_controller(at, out, e);
    case NXAST_DEC_TTL: out->type = ACTION_DEC_NW_TTL; return bytes == 16 ? 0 : bad_length(e, subtype, bytes);
    case NXAST_SET_TUNNEL: return get_set_tunnel(at, bytes, out, e);
    case NXAST_SET_TUNNEL64: return get_set_tunnel64(at, bytes, out, e);
    case NXAST_REG_MOVE: return get_move(at, bytes, out, e);
    case NXAST_REG_LOAD: return get_load(at, bytes, out, e);
    case NXAST_REG_LOAD2: return get_load2(at, bytes, out, e);
    default: return of_wrong(e, OFPET_BAD_ACTION, OFPBAC_BAD_EXP_TYPE, "Nicira's action %u", subtype);
    }
}

/* ---- writing ---- */

static void *put(struct of_out *o, unsigned subtype, size_t bytes)
{
    struct nx_action_header *h = of_out_put(o, bytes);
    if (h)
        *h = (struct nx_action_header){.type = be16_make(OFPAT_EXPERIMENTER),
                                       .len = be16_make((uint16_t)bytes),
                                       .vendor = be32_make(NX_EXPERIMENTER_ID),
                                       .subtype = be16_make((uint16_t)subtype)};
    return h;
}

/* Padding and the length that came out. */
static void finish(struct of_out *o, size_t at)
{
    of_out_pad8(o, at);
    struct nx_action_header *h = of_out_ptr(o, at);
    if (h) h->len = be16_make((uint16_t)(of_out_at(o) - at));
}

/* One run of 1 bits of at most 64: where, and how many? 0: it is not. */
static unsigned run_of(const struct field_value *mask, unsigned *at)
{
    unsigned first = 0, count = 0;
    while (first < 128 && !(mask->raw[15 - first / 8] >> first % 8 & 1))
        first++;
    while (first + count < 128 && mask->raw[15 - (first + count) / 8] >> (first + count) % 8 & 1)
        count++;
    *at = first;
    struct field_value run = of_ones_at(first, count);
    return count <= 64 && memcmp(&run, mask, sizeof run) == 0 ? count : 0;
}

static uint64_t bits_at(const struct field_value *v, unsigned at)
{
    struct be64 high, low;
    memcpy(&high, v->raw, sizeof high);
    memcpy(&low, v->raw + 8, sizeof low);
    return (uint64_t)(((unsigned __int128)be64_get(high) << 64 | be64_get(low)) >> at);
}

static void put_load2(struct of_out *o, const struct action *set)
{
    size_t at = of_out_at(o);
    put(o, NXAST_REG_LOAD2, sizeof(struct nx_action_reg_load2));
    oxm_put(o, set->set.field, &set->set.value, &set->set.mask);
    finish(o, at);
}

void nicira_put_load(struct of_out *o, const struct action *set)
{
    size_t at = of_out_at(o);
    unsigned first, count = run_of(&set->set.mask, &first);
    if (!count) {
        put_load2(o, set);
        return;
    }
    struct nx_action_reg_load *a = put(o, NXAST_REG_LOAD, offsetof(struct nx_action_reg_load, dst));
    if (a) a->ofs_nbits = be16_make((uint16_t)(first << 6 | (count - 1)));
    oxm_put_header(o, set->set.field, false);
    struct be64 value = be64_make(bits_at(&set->set.value, first));
    of_out_put_bytes(o, &value, sizeof value);
    finish(o, at);
}

void nicira_put_move(struct of_out *o, const struct action *move)
{
    size_t at = of_out_at(o);
    struct nx_action_reg_move *a = put(o, NXAST_REG_MOVE, offsetof(struct nx_action_reg_move, src));
    if (a) {
        a->n_bits = be16_make(move->move.bits);
        a->src_ofs = be16_make(move->move.from_bit);
        a->dst_ofs = be16_make(move->move.to_bit);
    }
    oxm_put_header(o, move->move.from, false);
    oxm_put_header(o, move->move.to, false);
    finish(o, at);
}

/* A port of the text syntax that has more than 16 bits cannot be said: 0xffff, which is none. */
void nicira_put_resubmit(struct of_out *o, const struct action *resubmit)
{
    uint32_t port = resubmit->resubmit.port;
    bool all = resubmit->resubmit.table == SWITCH_TABLE_ALL, fits = port < 0xff00 || port >= SWITCH_PORT_MAX;
    struct nx_action_resubmit *a = put(o, all ? NXAST_RESUBMIT : NXAST_RESUBMIT_TABLE, sizeof *a);
    if (!a) return;
    a->in_port = be16_make(fits ? (uint16_t)port : UINT16_MAX);
    a->table = all ? 0 : resubmit->resubmit.table;
}
