/* SPDX-License-Identifier: Apache-2.0 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "control/size.h"

static void parse(void **state)
{
    static const struct {
        const char *text;
        uint64_t bytes;
    } good[] = {{"0", 0},
                {"512", 512},
                {"1k", 1024},
                {"1K", 1024},
                {"10G", UINT64_C(10) << 30},
                {"1.5T", UINT64_C(3) << 39},
                {"0.5K", 512},
                {"1.3K", 1331},
                {"0.001M", 1048},
                {"7E", UINT64_C(7) << 60},
                {"7.999999999E", (UINT64_C(7) << 60) + UINT64_C(1152921503453925471)},
                {"9223372036854775807", INT64_MAX},
                {"8191P", UINT64_C(8191) << 50}};
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        uint64_t bytes = 1;
        assert_true(size_parse(good[i].text, &bytes));
        if (bytes != good[i].bytes) print_error("%s: %llu\n", good[i].text, (unsigned long long)bytes);
        assert_true(bytes == good[i].bytes);
    }
    static const char *const bad[] = {"",
                                      " 1",
                                      "-1",
                                      "+1",
                                      "1 ",
                                      "x",
                                      "K",
                                      "1.5",
                                      "1.",
                                      ".5K",
                                      "1KB",
                                      "1KK",
                                      "0x10",
                                      "1e3",
                                      "1.5.5K",
                                      "8E",
                                      "9223372036854775808",
                                      "99999999999999999999",
                                      "999999999999999999999999999",
                                      "16E",
                                      "8192P",
                                      "1.0000000000K",
                                      "1,5K"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint64_t bytes;
        if (size_parse(bad[i], &bytes)) print_error("%s was taken\n", bad[i]);
        assert_false(size_parse(bad[i], &bytes));
    }
}

static void format(void **state)
{
    static const struct {
        uint64_t bytes;
        const char *text;
    } cases[] = {{0, "0 B"},
                 {1023, "1023 B"},
                 {1024, "1 KiB"},
                 {1536, "1.5 KiB"},
                 {102400, "100 KiB"},
                 {1048575, "1 MiB"},
                 {UINT64_C(10) << 30, "10 GiB"},
                 {UINT64_C(3) << 39, "1.5 TiB"},
                 {UINT64_MAX, "16 EiB"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        char text[SIZE_TEXT_MAX];
        assert_string_equal(size_format(cases[i].bytes, text), cases[i].text);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(parse), cmocka_unit_test(format)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
