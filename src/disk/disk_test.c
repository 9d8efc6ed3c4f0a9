/* SPDX-License-Identifier: Apache-2.0 */
/* Formats by name, and opening and closing the channels of a chain, in the right order and undone when one fails. */
#include "disk/test_util.h"

#include "disk/disk.h"

static void test_format_names(void **state)
{
    for (enum disk_format f = 0; f < DISK_FORMAT_COUNT; f++) {
        enum disk_format back;
        assert_non_null(disk_format_name(f));
        assert_int_equal(disk_format_parse(disk_format_name(f), &back), 0);
        assert_int_equal(back, f);
    }
    enum disk_format f;
    assert_null(disk_format_name(DISK_FORMAT_COUNT));
    assert_null(disk_format_name((enum disk_format) - 1));
    assert_int_equal(disk_format_parse("", &f), -1);
    assert_int_equal(disk_format_parse("RAW", &f), -1);
    assert_int_equal(disk_format_parse("qcow", &f), -1);
}

static void test_open_by_format(void **state)
{
    struct scratch s;
    struct layer *l;
    struct errmsg e;
    scratch_open(&s, 4096, DISK_FILE_WRITE);
    struct layer_args args = {.file = &s.file, .writable = true, .maker = &engine_uring_maker};
    assert_int_equal(layer_open(&l, DISK_FORMAT_RAW, &args, &e), 0);
    assert_string_equal(l->ops->type, "raw");
    assert_int_equal(l->ops->close(l, &e), 0);
    assert_true(layer_open(&l, DISK_FORMAT_QCOW2, &args, &e) < 0); /* zeroes: never taken for anything */
    assert_non_null(strstr(e.text, s.path));
    assert_int_equal(layer_open(&l, DISK_FORMAT_COUNT, &args, &e), -EINVAL);
    scratch_drop(&s);
}

/* ---- Chains ---- */

struct fake {
    struct layer layer;
    struct layer_chan chan;
    int fails;
};

static char order[64]; /* a letter for each open (capital) and close, by layer */

static void note(const struct layer *l, char base)
{
    size_t n = strlen(order);
    order[n] = (char)(base + l->name[0] - 'a');
    order[n + 1] = 0;
}

static int fake_chan_open(struct layer *l, struct engine *e, struct layer_chan *below, struct layer_chan **out)
{
    struct fake *f = container_of(l, struct fake, layer);
    if (f->fails) return f->fails;
    note(l, 'A');
    f->chan = (struct layer_chan){.layer = l, .engine = e, .below = below};
    *out = &f->chan;
    return 0;
}

static void fake_chan_close(struct layer_chan *c)
{
    note(c->layer, 'a');
}

static const struct layer_ops fake_ops = {.type = "fake", .chan_open = fake_chan_open, .chan_close = fake_chan_close};

static void test_chains(void **state)
{
    struct fake fake[3] = {{.layer = {.ops = &fake_ops, .name = "a"}},
                           {.layer = {.ops = &fake_ops, .name = "b"}},
                           {.layer = {.ops = &fake_ops, .name = "c"}}};
    struct layer *layers[3] = {&fake[0].layer, &fake[1].layer, &fake[2].layer};
    struct disk_chans chans;
    order[0] = 0;
    assert_int_equal(disk_chans_open(&chans, layers, 3, NULL), 0);
    assert_string_equal(order, "CBA");
    assert_ptr_equal(chans.chan[0]->below, chans.chan[1]);
    assert_ptr_equal(chans.chan[1]->below, chans.chan[2]);
    assert_null(chans.chan[2]->below);
    disk_chans_close(&chans);
    assert_string_equal(order, "CBAabc");
    disk_chans_close(&chans); /* harmless */

    order[0] = 0;
    fake[0].fails = -ENOMEM;
    assert_int_equal(disk_chans_open(&chans, layers, 3, NULL), -ENOMEM);
    assert_string_equal(order, "CBbc");
    assert_int_equal(chans.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_format_names),
        cmocka_unit_test(test_open_by_format),
        cmocka_unit_test(test_chains),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
