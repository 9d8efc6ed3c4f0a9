/* SPDX-License-Identifier: Apache-2.0 */
/* Meters as text: ovs-ofctl's add-meter syntax. */
#include <errno.h>

#include "switch/flow_text.h"
#include "switch/meter.h"

static const struct {
    const char *word;
    uint16_t flag;
} flags[] = {{"kbps", METER_KBPS}, {"pktps", METER_PKTPS}, {"burst", METER_BURST}, {"stats", METER_STATS}};
#define FLAGS (sizeof flags / sizeof flags[0])

static const struct {
    const char *word;
    uint32_t id;
} special[] = {{"slowpath", SWITCH_METER_SLOWPATH}, {"controller", SWITCH_METER_CONTROLLER}, {"all", SWITCH_METER_ALL}};
#define SPECIAL (sizeof special / sizeof special[0])

struct parser {
    struct text_source s;
    struct meter_spec *m;
    bool has_id, bands; /* "bands=" was said: what follows is of bands */
};

static int parse_id(struct parser *p, struct text t)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < SPECIAL && !n; i++)
        if (text_is(t, special[i].word)) n = special[i].id;
    if (!n && (!text_number(t, SWITCH_METER_MAX, &n) || n == 0))
        return text_fail(&p->s, t, "a meter's number (from 1), controller or slowpath");
    p->m->id = (uint32_t)n;
    p->has_id = true;
    return 0;
}

static int parse_flag(struct parser *p, const struct text_item *i)
{
    for (unsigned f = 0; f < FLAGS; f++)
        if (text_is(i->whole, flags[f].word)) {
            p->m->flags |= flags[f].flag;
            return 0;
        }
    return text_fail(&p->s, i->whole, "meter=NUMBER, kbps, pktps, burst, stats or bands=..");
}

static int parse_type(struct parser *p, struct text t)
{
    if (p->m->count == METER_BANDS_MAX)
        return text_refuse(&p->s, t, "there are no more than %u bands", METER_BANDS_MAX);
    struct meter_band *b = &p->m->bands[p->m->count];
    if (text_is(t, "drop")) b->type = METER_DROP;
    else if (text_is(t, "dscp_remark")) b->type = METER_DSCP_REMARK;
    else return text_fail(&p->s, t, "drop or dscp_remark");
    p->m->count++;
    return 0;
}

static int parse_of_band(struct parser *p, const struct text_item *i)
{
    uint64_t n;
    if (text_is(i->key, "type")) return parse_type(p, i->value);
    if (p->m->count == 0) return text_fail(&p->s, i->whole, "type=drop or type=dscp_remark");
    struct meter_band *b = &p->m->bands[p->m->count - 1];
    bool level = text_is(i->key, "prec_level") && b->type == METER_DSCP_REMARK;
    bool rate = text_is(i->key, "rate"), burst = text_is(i->key, "burst_size");
    if (!level && !rate && !burst)
        return text_fail(&p->s, i->key, "type, rate or burst_size (of dscp_remark: prec_level, too)");
    if (!text_number(i->value, level ? UINT8_MAX : UINT32_MAX, &n))
        return text_fail(&p->s, i->value, "a number of %u bits", level ? 8 : 32);
    if (level) b->prec_level = (uint8_t)n;
    else if (rate) b->rate = (uint32_t)n;
    else b->burst = (uint32_t)n;
    return 0;
}

/* bands=type=drop: the first one's type stands in its value. */
static int begin_bands(struct parser *p, struct text t)
{
    struct text_item i;
    p->bands = true;
    int ret = text_next(&p->s, &t, &i);
    return ret > 0 ? parse_of_band(p, &i) : ret;
}

static int parse_item(struct parser *p, const struct text_item *i)
{
    if (p->bands) return parse_of_band(p, i);
    if (text_is(i->key, "meter")) return parse_id(p, i->value);
    if (text_is(i->key, "bands") || text_is(i->key, "band")) return begin_bands(p, i->value);
    return parse_flag(p, i);
}

int meter_parse(struct meter_spec *out, const char *text, struct errmsg *e)
{
    struct parser p = {.s = {.start = text, .e = e}, .m = out};
    struct text rest = {.at = text, .length = strnlen(text, FLOW_TEXT_MAX + 1)};
    struct text_item i;
    int ret;
    *out = (struct meter_spec){0};
    if (rest.length > FLOW_TEXT_MAX)
        return errmsg_set(e, EINVAL, "a meter's text has %u characters at most", FLOW_TEXT_MAX);
    while ((ret = text_next(&p.s, &rest, &i)) > 0) {
        ret = parse_item(&p, &i);
        if (ret) return ret;
    }
    if (ret) return ret;
    return p.has_id ? 0 : text_fail(&p.s, rest, "meter=NUMBER");
}

static void put_id(FILE *out, uint32_t id)
{
    for (unsigned i = 0; i < SPECIAL; i++)
        if (special[i].id == id) {
            fprintf(out, "meter=%s", special[i].word);
            return;
        }
    fprintf(out, "meter=%u", id);
}

void meter_format(FILE *out, const struct meter_spec *m)
{
    put_id(out, m->id);
    for (unsigned i = 0; i < FLAGS; i++)
        if (m->flags & flags[i].flag) fprintf(out, ",%s", flags[i].word);
    for (unsigned i = 0; i < m->count; i++) {
        const struct meter_band *b = &m->bands[i];
        fprintf(out, ",%stype=%s,rate=%u", i ? "" : "bands=", b->type == METER_DROP ? "drop" : "dscp_remark", b->rate);
        if (b->burst || (m->flags & METER_BURST)) fprintf(out, ",burst_size=%u", b->burst);
        if (b->type == METER_DSCP_REMARK) fprintf(out, ",prec_level=%u", b->prec_level);
    }
}
