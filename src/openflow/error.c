/* SPDX-License-Identifier: Apache-2.0 */
/* What is wrong, by OpenFlow's names (1.3.5, section 7.4.4), and error messages. */
#include <stdarg.h>
#include <stdio.h>

#include "openflow/codec_internal.h"

#define QUOTED_MAX 128u /* bytes of the message that failed; 64 are the least */

int of_wrong(struct of_error *e, unsigned type, unsigned code, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    e->type = (uint16_t)type;
    e->code = (uint16_t)code;
    e->experimenter = type == OFPET_EXPERIMENTER ? ONF_EXPERIMENTER_ID : 0;
    vsnprintf(e->text, sizeof e->text, format, args);
    va_end(args);
    return -EINVAL;
}

/* The closest that there is. */
int of_no_memory(struct of_error *e)
{
    of_wrong(e, OFPET_BAD_ACTION, OFPBAC_TOO_MANY, "no memory");
    return -ENOMEM;
}

struct error_name {
    uint8_t type, code;
};

void of_error_of_flow(enum flow_wrong why, const char *text, struct of_error *e)
{
    static const struct error_name names[] = {
        [FLOW_BAD_TABLE_ID] = {OFPET_FLOW_MOD_FAILED, OFPFMFC_BAD_TABLE_ID},
        [FLOW_BAD_FLAGS] = {OFPET_FLOW_MOD_FAILED, OFPFMFC_BAD_FLAGS},
        [FLOW_BAD_FIELD] = {OFPET_BAD_MATCH, OFPBMC_BAD_FIELD},
        [FLOW_BAD_VALUE] = {OFPET_BAD_MATCH, OFPBMC_BAD_VALUE},
        [FLOW_BAD_MASK] = {OFPET_BAD_MATCH, OFPBMC_BAD_MASK},
        [FLOW_BAD_WILDCARDS] = {OFPET_BAD_MATCH, OFPBMC_BAD_WILDCARDS},
        [FLOW_BAD_PREREQ] = {OFPET_BAD_MATCH, OFPBMC_BAD_PREREQ},
        [FLOW_BAD_GOTO] = {OFPET_BAD_INSTRUCTION, OFPBIC_BAD_TABLE_ID},
        [FLOW_BAD_INSTRUCTION] = {OFPET_BAD_INSTRUCTION, OFPBIC_UNSUP_INST},
        [FLOW_BAD_METADATA] = {OFPET_BAD_INSTRUCTION, OFPBIC_UNSUP_METADATA_MASK},
        [FLOW_BAD_METER] = {OFPET_METER_MOD_FAILED, OFPMMFC_UNKNOWN_METER},
        [FLOW_BAD_OUT_PORT] = {OFPET_BAD_ACTION, OFPBAC_BAD_OUT_PORT},
        [FLOW_BAD_OUT_GROUP] = {OFPET_BAD_ACTION, OFPBAC_BAD_OUT_GROUP},
        [FLOW_BAD_ACTION] = {OFPET_BAD_ACTION, OFPBAC_BAD_TYPE},
        [FLOW_BAD_ARGUMENT] = {OFPET_BAD_ACTION, OFPBAC_BAD_ARGUMENT},
        [FLOW_BAD_SET_TYPE] = {OFPET_BAD_ACTION, OFPBAC_BAD_SET_TYPE},
        [FLOW_BAD_SET_ARGUMENT] = {OFPET_BAD_ACTION, OFPBAC_BAD_SET_ARGUMENT},
        [FLOW_BAD_MATCH_INCONSISTENT] = {OFPET_BAD_ACTION, OFPBAC_MATCH_INCONSISTENT},
        [FLOW_TOO_MANY] = {OFPET_BAD_ACTION, OFPBAC_TOO_MANY},
        [FLOW_OVERLAP] = {OFPET_FLOW_MOD_FAILED, OFPFMFC_OVERLAP},
        [FLOW_TABLE_FULL] = {OFPET_FLOW_MOD_FAILED, OFPFMFC_TABLE_FULL},
    };
    struct error_name n = {OFPET_FLOW_MOD_FAILED, OFPFMFC_UNKNOWN};
    if ((size_t)why < sizeof names / sizeof names[0] && why != FLOW_RIGHT) n = names[why];
    of_wrong(e, n.type, n.code, "%s", text);
}

void of_error_of_group(const struct group_why *why, const char *text, struct of_error *e)
{
    static const uint8_t codes[] = {
        [GROUP_EXISTS] = OFPGMFC_GROUP_EXISTS,
        [GROUP_INVALID] = OFPGMFC_INVALID_GROUP,
        [GROUP_OUT_OF_GROUPS] = OFPGMFC_OUT_OF_GROUPS,
        [GROUP_OUT_OF_BUCKETS] = OFPGMFC_OUT_OF_BUCKETS,
        [GROUP_CHAINING_UNSUPPORTED] = OFPGMFC_CHAINING_UNSUPPORTED,
        [GROUP_WATCH_UNSUPPORTED] = OFPGMFC_WATCH_UNSUPPORTED,
        [GROUP_LOOP] = OFPGMFC_LOOP,
        [GROUP_UNKNOWN] = OFPGMFC_UNKNOWN_GROUP,
        [GROUP_CHAINED] = OFPGMFC_CHAINED_GROUP,
        [GROUP_BAD_TYPE] = OFPGMFC_BAD_TYPE,
        [GROUP_BAD_BUCKET] = OFPGMFC_BAD_BUCKET,
        [GROUP_BAD_WATCH] = OFPGMFC_BAD_WATCH,
    };
    if (why->wrong == GROUP_BAD_ACTION) {
        of_error_of_flow((enum flow_wrong)why->flow_wrong, text, e);
        return;
    }
    bool known = why->wrong != GROUP_RIGHT && (size_t)why->wrong < sizeof codes;
    of_wrong(e, OFPET_GROUP_MOD_FAILED, known ? codes[why->wrong] : OFPGMFC_OUT_OF_GROUPS, "%s", text);
}

void of_error_of_meter(enum meter_wrong why, const char *text, struct of_error *e)
{
    static const uint8_t codes[] = {
        [METER_RIGHT] = OFPMMFC_UNKNOWN,
        [METER_EXISTS] = OFPMMFC_METER_EXISTS,
        [METER_INVALID] = OFPMMFC_INVALID_METER,
        [METER_UNKNOWN] = OFPMMFC_UNKNOWN_METER,
        [METER_BAD_FLAGS] = OFPMMFC_BAD_FLAGS,
        [METER_BAD_RATE] = OFPMMFC_BAD_RATE,
        [METER_BAD_BURST] = OFPMMFC_BAD_BURST,
        [METER_BAD_BAND] = OFPMMFC_BAD_BAND,
        [METER_BAD_BAND_VALUE] = OFPMMFC_BAD_BAND_VALUE,
        [METER_OUT_OF_METERS] = OFPMMFC_OUT_OF_METERS,
        [METER_OUT_OF_BANDS] = OFPMMFC_OUT_OF_BANDS,
    };
    bool known = (size_t)why < sizeof codes;
    of_wrong(e, OFPET_METER_MOD_FAILED, known ? codes[why] : OFPMMFC_UNKNOWN, "%s", text);
}

static uint32_t xid_of(const uint8_t *message, size_t bytes)
{
    struct ofp_header h;
    if (!message || bytes < sizeof h) return 0;
    memcpy(&h, message, sizeof h);
    return be32_get(h.xid);
}

bool of_put_error(struct of_out *o, const uint8_t *message, size_t bytes, const struct of_error *e)
{
    of_out_begin(o, OFPT_ERROR, xid_of(message, bytes));
    struct ofp_error_msg *m = of_out_put(o, sizeof *m);
    if (m) *m = (struct ofp_error_msg){.type = be16_make(e->type), .code = be16_make(e->code)};
    if (e->type == OFPET_EXPERIMENTER) {
        struct be32 id = be32_make(e->experimenter);
        of_out_put_bytes(o, &id, sizeof id);
    }
    if (e->type == OFPET_HELLO_FAILED) of_out_put_bytes(o, e->text, strnlen(e->text, sizeof e->text));
    else if (message) of_out_put_bytes(o, message, bytes < QUOTED_MAX ? bytes : QUOTED_MAX);
    return of_out_end(o);
}
