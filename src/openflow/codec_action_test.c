/* SPDX-License-Identifier: Apache-2.0 */
/* Actions and instructions: each kind both ways, and everything that can be wrong with one. */
#include "openflow/codec_test.h"
#include "switch/flow_random.h"

void *__wrap_calloc(size_t count, size_t bytes);
void *__real_calloc(size_t count, size_t bytes);

static unsigned fail_after; /* allocations; 0: none fails */
static unsigned allocations;

void *__wrap_calloc(size_t count, size_t bytes)
{
    allocations++;
    if (fail_after && --fail_after == 0) return NULL;
    return __real_calloc(count, bytes);
}

/* ---- right ---- */

/* Lists that are written as they were read (written NULL) or otherwise, and what the text syntax calls them. */
static const struct {
    const char *hex, *match, *text, *written;
} right[] = {
    {"0000 0010 00000002 ffe5 000000000000", "", "output:2"},
    {"0000 0010 fffffffd ffff 000000000000", "", "CONTROLLER:65535"},
    {"0000 0010 fffffff8 0000 000000000000", "", "IN_PORT"},
    {"0016 0008 00000005", "", "group:5"},
    {"0015 0008 00000005", "", "set_queue:5"},
    {"000b 0008 00000000", "mpls", "copy_ttl_out"},
    {"000c 0008 00000000", "mpls", "copy_ttl_in"},
    {"000f 0008 40000000", "mpls", "set_mpls_ttl(64)"},
    {"0010 0008 00000000", "mpls", "dec_mpls_ttl"},
    {"0011 0008 8100 0000", "", "push_vlan:0x8100"},
    {"0012 0008 00000000", "dl_vlan=5", "pop_vlan"},
    {"0013 0008 8847 0000", "", "push_mpls:0x8847"},
    {"0014 0008 0800 0000", "mpls", "pop_mpls:0x0800"},
    {"0017 0008 40000000", "ip", "mod_nw_ttl:64"},
    {"0018 0008 00000000", "ip", "dec_ttl"},
    {"001a 0008 88e7 0000", "", "push_pbb:0x88e7"},
    {"001b 0008 00000000", "dl_type=0x88e7", "pop_pbb"},
    {"0019 0010 80000606 020000000001 0000", "", "set_field:02:00:00:00:00:01->eth_dst"},
    {"0019 0010 80000c02 1005 000000000000", "dl_vlan=9", "set_field:4101->vlan_vid"},
    {"0019 0018 80003410 20010db8000000000000000000000001", "ipv6", "set_field:2001:db8::1->ipv6_src"},
    {"0019 0010 80004a03 000005 0000000000", "dl_type=0x88e7", "set_field:0x5->pbb_isid"},
    {"0019 0010 00010004 00000007 00000000", "", "set_field:0x7->reg0"},
    {"0019 0010 00000802 1005 000000000000", "dl_vlan=9", "set_field:0x1005->vlan_tci"},
    {"0019 0010 00013a01 40 00000000000000", "ip", "set_field:64->nw_ttl"},
    /* Nicira's: resubmit, resubmit_table */
    {"ffff 0010 00002320 0001 0005 00000000", "", "resubmit:5"},
    {"ffff 0010 00002320 000e fff8 03000000", "", "resubmit(,3)"},
    {"ffff 0010 00002320 000e 0005 03000000", "", "resubmit(5,3)"},
    {"ffff 0010 00002320 000e fffe 03000000", "", "resubmit(LOCAL,3)"},
    /* load of a part, of a whole, across the middle of a long field */
    {"ffff 0018 00002320 0007 0103 00010004 0000000000000009", "", "set_field:0x90/0xf0->reg0"},
    {"ffff 0018 00002320 0007 001f 00010004 0000000000000009", "", "set_field:0x9->reg0",
     "0019 0010 00010004 00000009 00000000"},
    {"ffff 0018 00002320 0007 003f 80000408 0000000000000009", "", "set_field:0x9->metadata",
     "0019 0010 80000408 0000000000000009"},
    {"ffff 0018 00002320 0007 0f07 80003410 00000000000000ab", "ipv6",
     "set_field:0:0:0:a:b000::/0:0:0:f:f000::->ipv6_src", "ffff 0018 00002320 0007 0f07 80003410 00000000000000ab"},
    {"ffff 0018 00002320 0007 0085 00000a01 000000000000000b", "ip", "set_field:11->ip_dscp",
     "0019 0010 80001001 0b00000000000000"},
    /* load with a mask */
    {"ffff 0020 00002320 0021 000000000000 00010108 00000009 0000000f 00000000", "", "set_field:0x9/0xf->reg0",
     "ffff 0018 00002320 0007 0003 00010004 0000000000000009"},
    {"ffff 0020 00002320 0021 000000000000 00010108 80000001 f000000f 00000000", "",
     "set_field:0x80000001/0xf000000f->reg0"},
    {"ffff 0018 00002320 0021 000000000000 00010004 00000009", "", "set_field:0x9->reg0",
     "0019 0010 00010004 00000009 00000000"},
    /* move */
    {"ffff 0018 00002320 0006 0010 0000 0010 00010004 00010204", "", "move:NXM_NX_REG0[0..15]->NXM_NX_REG1[16..31]"},
    {"ffff 0018 00002320 0006 0010 0000 0000 00000002 00010204", "", "move:in_port[0..15]->NXM_NX_REG1[0..15]",
     "ffff 0018 00002320 0006 0010 0000 0000 80000004 00010204"},
    {"ffff 0018 00002320 0006 0006 0002 0000 00000a01 00010204", "ip", "move:ip_dscp[0..5]->NXM_NX_REG1[0..5]",
     "ffff 0018 00002320 0006 0006 0000 0000 80001001 00010204"},
    {"ffff 0020 00002320 0006 000c 0000 0000 ffff5406 4f4e4600 00010204 00000000", "tcp",
     "move:tcp_flags[0..11]->NXM_NX_REG1[0..11]"},
    /* set_tunnel, dec_ttl, controller */
    {"ffff 0010 00002320 0002 0000 00000007", "", "set_field:0x7->tun_id", "0019 0010 80004c08 0000000000000007"},
    {"ffff 0018 00002320 0009 000000000000 0000000000000007", "", "set_field:0x7->tun_id",
     "0019 0010 80004c08 0000000000000007"},
    {"ffff 0010 00002320 0012 000000000000", "ip", "dec_ttl", "0018 0008 00000000"},
    {"ffff 0010 00002320 0014 0080 0000 01 00", "", "CONTROLLER:128", "0000 0010 fffffffd 0080 000000000000"},
    {"0010 0008 00000000 0000 0010 00000002 0000 000000000000", "mpls", "dec_mpls_ttl,output:2"},
};

static struct bytes written(const struct action_list *l)
{
    struct of_out o;
    of_out_init(&o);
    of_put_actions(&o, l);
    return bytes_taken(&o);
}

/* As what the text says it is, but for the lengths of outputs, which it does not say. */
static void check_text(const char *match, const char *text, const struct action_list *l)
{
    struct flow_spec f;
    struct errmsg why;
    char line[256];
    snprintf(line, sizeof line, "%s%sactions=%s", match, *match ? "," : "", text);
    if (flow_parse(&f, line, FLOW_PARSE_ADD, NULL, &why)) fail_msg("%s: %s", line, why.text);
    for (unsigned i = 0; i < l->count; i++)
        if (l->list[i].type == ACTION_OUTPUT && l->list[i].output.port != SWITCH_PORT_CONTROLLER)
            f.instructions.apply.list[i].output.max_len = l->list[i].output.max_len;
    struct instructions i = {.has_apply = true, .apply = *l};
    if (!instructions_equal(&i, &f.instructions)) fail_msg("it is not %s", text);
    instructions_clear(&f.instructions);
}

static void every_action_is_read_and_written(void **state)
{
    for (unsigned i = 0; i < COUNT(right); i++) {
        struct bytes b = bytes_of_hex(right[i].hex);
        struct bytes expected = bytes_of_hex(right[i].written ? right[i].written : right[i].hex);
        struct action_list l;
        struct of_error e;
        allocations = 0;
        if (of_get_actions(b.at, b.count, &l, &e)) fail_msg("%s: %s", right[i].hex, e.text);
        assert_int_equal(allocations, 1);
        check_text(right[i].match, right[i].text, &l);
        struct bytes out = written(&l);
        if (out.count != expected.count || memcmp(out.at, expected.at, out.count))
            fail_msg("%s is written otherwise", right[i].hex);
        of_actions_clear(&l);
        free(b.at);
        free(out.at);
        free(expected.at);
    }
}

/* ---- wrong ---- */

static const struct {
    const char *hex;
    unsigned code;
} wrong[] = {
    {"0000", OFPBAC_BAD_LEN},
    {"0000 0000 00000000", OFPBAC_BAD_LEN},
    {"0000 0004 00000000", OFPBAC_BAD_LEN},
    {"0012 000c 00000000 00000000", OFPBAC_BAD_LEN},
    {"0012 0010 00000000", OFPBAC_BAD_LEN},
    {"0012 0010 00000000 00000000 00000000", OFPBAC_BAD_LEN},
    {"0000 0008 00000002", OFPBAC_BAD_LEN},
    {"0016 0010 00000002 0000000000000000", OFPBAC_BAD_LEN},
    {"ffff 0008 00002320", OFPBAC_BAD_LEN},
    {"ffff 0018 00002320 0001 0005 00000000 0000000000000000", OFPBAC_BAD_LEN},
    {"ffff 0018 00002320 0012 000000000000 0000000000000000", OFPBAC_BAD_LEN},
    {"ffff 0010 00002320 0006 0010 0000 0010", OFPBAC_BAD_LEN},
    {"ffff 0010 00002320 0007 0103 00010004", OFPBAC_BAD_LEN},
    {"ffff 0010 00002320 0009 000000000000", OFPBAC_BAD_LEN},
    {"ffff 0018 00002320 0014 0080 0000 01 00 0000000000000000", OFPBAC_BAD_LEN},
    {"ffff 0020 00002320 0006 0010 0000 0010 00010004 00010204 0000000000000000", OFPBAC_BAD_LEN},
    {"0001 0008 00000000", OFPBAC_BAD_TYPE},
    {"000d 0008 00000000", OFPBAC_BAD_TYPE},
    {"001c 0008 00000000", OFPBAC_BAD_TYPE},
    {"fffe 0008 00000000", OFPBAC_BAD_TYPE},
    {"ffff 0008 00001234", OFPBAC_BAD_EXPERIMENTER},
    {"ffff 0008 4f4e4600", OFPBAC_BAD_EXPERIMENTER},
    {"ffff 0010 00002320 0010 000000000000", OFPBAC_BAD_EXP_TYPE},                  /* learn */
    {"ffff 0010 00002320 0022 000000000000", OFPBAC_BAD_EXP_TYPE},                  /* conjunction */
    {"ffff 0018 00002320 0023 000000000000 0000000000000000", OFPBAC_BAD_EXP_TYPE}, /* ct */
    {"ffff 0010 00002320 0008 000000000000", OFPBAC_BAD_EXP_TYPE},                  /* note */
    {"ffff 0010 00002320 0001 fff8 00000000", OFPBAC_BAD_ARGUMENT},
    {"ffff 0010 00002320 000e fff8 ff000000", OFPBAC_BAD_ARGUMENT},
    {"ffff 0010 00002320 0014 0080 0001 01 00", OFPBAC_BAD_ARGUMENT},
    {"ffff 0010 00002320 0014 0080 0000 02 00", OFPBAC_BAD_ARGUMENT},
    {"ffff 0018 00002320 0007 0103 00010004 0000000000000019", OFPBAC_BAD_ARGUMENT},
    /* set_field */
    {"0019 0008 80000606", OFPBAC_BAD_SET_LEN},
    {"0019 0008 80004801", OFPBAC_BAD_SET_LEN},
    {"0019 0010 80000605 0200000000 000000", OFPBAC_BAD_SET_LEN},
    {"0019 0018 80000606 020000000001 0000 0000000000000000", OFPBAC_BAD_SET_LEN},
    {"0019 0010 80003410 20010db800000000", OFPBAC_BAD_SET_LEN},
    {"0019 0010 80000004 00000001 00000000", OFPBAC_BAD_SET_TYPE},
    {"0019 0010 80004e02 0001 000000000000", OFPBAC_BAD_SET_TYPE},
    {"0019 0010 80005002 0001 000000000000", OFPBAC_BAD_SET_TYPE},
    {"0019 0010 ffff5406 4f4e4600 0012 0000", OFPBAC_BAD_SET_TYPE},
    {"0019 0018 8000070c 020000000001 ffffffffffff 00000000", OFPBAC_BAD_SET_TYPE},
    {"0019 0010 80000c02 2005 000000000000", OFPBAC_BAD_SET_ARGUMENT},
    {"0019 0010 80001001 40 00000000000000", OFPBAC_BAD_SET_ARGUMENT},
    {"0019 0010 80004404 00100000 00000000", OFPBAC_BAD_SET_ARGUMENT},
    /* load, load2, move */
    {"ffff 0018 00002320 0007 07c1 00010004 0000000000000001", OFPBAC_BAD_SET_LEN},
    {"ffff 0018 00002320 0007 0020 00010004 0000000000000001", OFPBAC_BAD_SET_LEN},
    {"ffff 0018 00002320 0007 0007 00000a01 000000000000002c", OFPBAC_BAD_SET_LEN},
    {"ffff 0018 00002320 0007 0103 00010108 0000000000000001", OFPBAC_BAD_SET_TYPE},
    {"ffff 0018 00002320 0007 0103 00010003 0000000000000001", OFPBAC_BAD_SET_LEN},
    {"ffff 0018 00002320 0007 0103 80000004 0000000000000001", OFPBAC_BAD_SET_TYPE},
    {"ffff 0018 00002320 0007 0103 00014c02 0000000000000001", OFPBAC_BAD_SET_TYPE},
    {"ffff 0020 00002320 0021 000000000000 00010108 00000019 0000000f 00000000", OFPBAC_BAD_SET_ARGUMENT},
    {"ffff 0018 00002320 0021 000000000000 80000004 00000001", OFPBAC_BAD_SET_TYPE},
    {"ffff 0018 00002320 0021 000000000000 00010108 00000001", OFPBAC_BAD_SET_LEN},
    {"ffff 0020 00002320 0021 000000000000 00010004 00000001 0000000000000000", OFPBAC_BAD_LEN},
    {"ffff 0018 00002320 0006 0000 0000 0010 00010004 00010204", OFPBAC_BAD_SET_LEN},
    {"ffff 0018 00002320 0006 0010 0011 0010 00010004 00010204", OFPBAC_BAD_SET_LEN},
    {"ffff 0018 00002320 0006 0010 0000 0011 00010004 00010204", OFPBAC_BAD_SET_LEN},
    {"ffff 0018 00002320 0006 ffff 0001 0000 00010004 00010204", OFPBAC_BAD_SET_LEN},
    {"ffff 0018 00002320 0006 0010 0000 0000 00010204 80000004", OFPBAC_BAD_SET_TYPE},
    {"ffff 0018 00002320 0006 0010 0000 0000 00010204 ffff5406", OFPBAC_BAD_SET_TYPE},
};

static void every_error_has_its_code(void **state)
{
    for (unsigned i = 0; i < COUNT(wrong); i++) {
        struct bytes b = bytes_of_hex(wrong[i].hex);
        struct action_list l;
        struct of_error e = {0};
        if (of_get_actions(b.at, b.count, &l, &e) != -EINVAL) fail_msg("%s was taken", wrong[i].hex);
        if (e.type != OFPET_BAD_ACTION || e.code != wrong[i].code)
            fail_msg("%s: %u, %u (%s)", wrong[i].hex, e.type, e.code, e.text);
        assert_true(e.text[0]);
        free(b.at);
    }
}

static void there_is_a_limit(void **state)
{
    uint8_t list[8 * (ACTIONS_MAX + 1)];
    for (unsigned i = 0; i <= ACTIONS_MAX; i++)
        memcpy(list + 8 * i, "\0\x12\0\x08\0\0\0\0", 8);
    struct action_list l;
    struct of_error e;
    assert_int_equal(of_get_actions(list, sizeof list - 8, &l, &e), 0);
    assert_int_equal(l.count, ACTIONS_MAX);
    of_actions_clear(&l);
    assert_int_equal(of_get_actions(list, sizeof list, &l, &e), -EINVAL);
    assert_int_equal(e.type, OFPET_BAD_ACTION);
    assert_int_equal(e.code, OFPBAC_TOO_MANY);
}

/* ---- instructions ---- */

static void every_instruction_is_read_and_written(void **state)
{
    static const char hex[] = "0006 0008 00000009"                                      /* meter */
                              "0004 0018 00000000 0000 0010 00000002 0000 000000000000" /* apply */
                              "0005 0008 00000000"                                      /* clear */
                              "0003 0010 00000000 0012 0008 00000000"                   /* write */
                              "0002 0018 00000000 0000000000000005 00000000000000ff"    /* metadata */
                              "0001 0008 07000000";                                     /* goto */
    struct bytes b = bytes_of_hex(hex);
    struct instructions i;
    struct of_error e;
    struct of_out o;
    of_out_init(&o);
    assert_int_equal(of_get_instructions(b.at, b.count, &i, &e), 0);
    assert_int_equal(i.meter, 9);
    assert_true(i.has_apply && i.clear && i.has_write && i.has_metadata && i.has_goto);
    assert_int_equal(i.apply.count, 1);
    assert_int_equal(i.write.count, 1);
    assert_int_equal(i.metadata, 5);
    assert_int_equal(i.metadata_mask, 255);
    assert_int_equal(i.goto_table, 7);
    of_put_instructions(&o, &i);
    struct bytes out = bytes_taken(&o);
    assert_int_equal(out.count, b.count);
    assert_memory_equal(out.at, b.at, b.count);
    instructions_clear(&i);
    free(out.at);
    free(b.at);
}

static void instructions_may_be_empty_and_in_any_order(void **state)
{
    struct bytes b = bytes_of_hex("0001 0008 07000000 0004 0008 00000000 0003 0008 00000000");
    struct instructions i;
    struct of_error e;
    assert_int_equal(of_get_instructions(b.at, b.count, &i, &e), 0);
    assert_true(i.has_apply && i.has_write && i.has_goto && !i.apply.count && !i.write.count);
    assert_int_equal(of_get_instructions(b.at, 0, &i, &e), 0);
    assert_false(i.has_apply || i.has_write || i.has_goto);
    free(b.at);
    b = bytes_of_hex("0002 0018 00000000 0000000000000105 00000000000000ff");
    assert_int_equal(of_get_instructions(b.at, b.count, &i, &e), 0);
    assert_int_equal(i.metadata, 5);
    free(b.at);
}

static void wrong_instructions_have_their_codes(void **state)
{
    static const struct {
        const char *hex;
        unsigned type, code;
    } cases[] = {
        {"0001", OFPET_BAD_INSTRUCTION, OFPBIC_BAD_LEN},
        {"0001 0004", OFPET_BAD_INSTRUCTION, OFPBIC_BAD_LEN},
        {"0001 0000 00000000", OFPET_BAD_INSTRUCTION, OFPBIC_BAD_LEN},
        {"0001 000c 00000000 00000000", OFPET_BAD_INSTRUCTION, OFPBIC_BAD_LEN},
        {"0001 0010 00000000 0000000000000000", OFPET_BAD_INSTRUCTION, OFPBIC_BAD_LEN},
        {"0002 0010 00000000 0000000000000000", OFPET_BAD_INSTRUCTION, OFPBIC_BAD_LEN},
        {"0004 0010 00000000", OFPET_BAD_INSTRUCTION, OFPBIC_BAD_LEN},
        {"0005 0010 00000000 0012 0008 00000000", OFPET_BAD_INSTRUCTION, OFPBIC_BAD_LEN},
        {"0006 0010 00000001 0000000000000000", OFPET_BAD_INSTRUCTION, OFPBIC_BAD_LEN},
        {"0000 0008 00000000", OFPET_BAD_INSTRUCTION, OFPBIC_UNKNOWN_INST},
        {"0007 0008 00000000", OFPET_BAD_INSTRUCTION, OFPBIC_UNKNOWN_INST},
        {"0021 0008 00000000", OFPET_BAD_INSTRUCTION, OFPBIC_UNKNOWN_INST},
        {"ffff 0008 00002320", OFPET_BAD_INSTRUCTION, OFPBIC_BAD_EXPERIMENTER},
        {"0001 0008 01000000 0001 0008 02000000", OFPET_EXPERIMENTER, ONFERR_DUP_INSTRUCTION},
        {"0004 0010 00000000 0012 0008 00000000 0004 0008 00000000", OFPET_EXPERIMENTER, ONFERR_DUP_INSTRUCTION},
        {"0006 0008 00000000", OFPET_METER_MOD_FAILED, OFPMMFC_UNKNOWN_METER},
        {"0006 0008 ffff0001", OFPET_METER_MOD_FAILED, OFPMMFC_UNKNOWN_METER},
        {"0004 0010 00000000 0012 0008 00000000 0003 0010 00000000 0001 0008 00000000", OFPET_BAD_ACTION,
         OFPBAC_BAD_TYPE},
        {"0004 0010 00000000 0012 0010 00000000", OFPET_BAD_ACTION, OFPBAC_BAD_LEN},
    };
    for (unsigned n = 0; n < COUNT(cases); n++) {
        struct bytes b = bytes_of_hex(cases[n].hex);
        struct instructions i;
        struct of_error e = {0};
        if (of_get_instructions(b.at, b.count, &i, &e) != -EINVAL) fail_msg("%s was taken", cases[n].hex);
        if (e.type != cases[n].type || e.code != cases[n].code)
            fail_msg("%s: %u, %u (%s)", cases[n].hex, e.type, e.code, e.text);
        free(b.at);
    }
}

/* ---- random flows ---- */

static bool same_flow(const struct flow_spec *a, const struct flow_spec *b)
{
    return a->table == b->table && a->priority == b->priority && a->idle_timeout_s == b->idle_timeout_s &&
           a->hard_timeout_s == b->hard_timeout_s && a->flags == b->flags && a->cookie == b->cookie &&
           memcmp(&a->match, &b->match, sizeof a->match) == 0 && instructions_equal(&a->instructions, &b->instructions);
}

static void random_flows_come_back(void **state)
{
    uint64_t seed = 17;
    for (unsigned i = 0; i < 5000; i++) {
        struct action apply[ACTIONS_MAX], write[ACTIONS_MAX];
        struct flow_spec f = random_flow(apply, write, &seed);
        struct of_flow_mod back;
        struct of_error e;
        if (flow_check(&f, NULL)) continue;
        if (random_one_in(&seed, 4)) f.instructions.meter = 1 + (uint32_t)random_next(&seed) % OFPM_MAX;
        struct bytes b = flow_mod_of(&f, OFPFC_ADD);
        struct of_msg m = msg_of(&b);
        allocations = 0;
        if (of_get_flow_mod(&m, &back, &e)) fail_msg("%u: %s", i, e.text);
        assert_true(allocations <= 2);
        assert_true(same_flow(&f, &back.flow));
        instructions_clear(&back.flow.instructions);
        free(b.at);
    }
}

static void no_memory_is_told(void **state)
{
    struct bytes b = bytes_of_hex("0004 0010 00000000 0012 0008 00000000 0003 0010 00000000 0012 0008 00000000");
    for (unsigned n = 1; n <= 2; n++) {
        struct instructions i;
        struct of_error e = {0};
        fail_after = n;
        assert_int_equal(of_get_instructions(b.at, b.count, &i, &e), -ENOMEM);
        assert_string_equal(e.text, "no memory");
        assert_null(i.apply.list);
        assert_null(i.write.list);
    }
    fail_after = 0;
    free(b.at);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_action_is_read_and_written),
        cmocka_unit_test(every_error_has_its_code),
        cmocka_unit_test(there_is_a_limit),
        cmocka_unit_test(every_instruction_is_read_and_written),
        cmocka_unit_test(instructions_may_be_empty_and_in_any_order),
        cmocka_unit_test(wrong_instructions_have_their_codes),
        cmocka_unit_test(random_flows_come_back),
        cmocka_unit_test(no_memory_is_told),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
