/* SPDX-License-Identifier: Apache-2.0 */
/* Order within a sender, one signal per burst, nothing lost under many senders. */
#include "loop/mailbox.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <poll.h>
#include <pthread.h>
#include <stdlib.h>

#include "base/checked.h"
#include "loop/thread.h"

#define SENDERS 4u
#define MAILS_PER_SENDER 20000u

struct letter {
    struct mail mail;
    unsigned sender, number;
    struct mailbox *reply_to; /* posted there again by its own run */
};

static unsigned next_number[SENDERS];
static unsigned long received;

static void letter_run(struct mail *m)
{
    struct letter *letter = container_of(m, struct letter, mail);
    assert_int_equal(letter->number, next_number[letter->sender]++);
    received++;
    if (letter->reply_to) {
        struct mailbox *box = letter->reply_to;
        letter->reply_to = NULL;
        letter->number++;
        mailbox_post(box, m);
    }
}

static bool readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

static int fresh(void **state)
{
    received = 0;
    for (unsigned i = 0; i < SENDERS; i++)
        next_number[i] = 0;
    return 0;
}

static void burst_is_run_in_order_with_one_signal(void **state)
{
    struct mailbox box;
    assert_int_equal(mailbox_init(&box), 0);
    struct letter letters[10];
    for (unsigned i = 0; i < ARRAY_LEN(letters); i++) {
        letters[i] = (struct letter){.mail.run = letter_run, .number = i};
        assert_false(i == 0 && readable(mailbox_fd(&box)));
        mailbox_post(&box, &letters[i].mail);
    }
    assert_true(readable(mailbox_fd(&box)));
    assert_true(mailbox_has_mail(&box));
    assert_int_equal(mailbox_run(&box), 10);
    assert_false(readable(mailbox_fd(&box)));
    assert_false(mailbox_has_mail(&box));
    assert_int_equal(mailbox_run(&box), 0);
    assert_int_equal(received, 10);
    mailbox_destroy(&box);
    mailbox_destroy(&box);
}

/* A message may be posted again while it runs; it is for the next pass then. */
static void message_posted_from_a_message(void **state)
{
    struct mailbox box;
    assert_int_equal(mailbox_init(&box), 0);
    struct letter letter = {.mail.run = letter_run, .reply_to = &box};
    mailbox_post(&box, &letter.mail);
    assert_int_equal(mailbox_run(&box), 1);
    assert_true(readable(mailbox_fd(&box)));
    assert_int_equal(mailbox_run(&box), 1);
    assert_int_equal(received, 2);
    mailbox_destroy(&box);
}

struct sender {
    pthread_t thread;
    unsigned index;
    struct mailbox *box;
    struct letter *letters;
};

static void *send_all(void *arg)
{
    struct sender *s = arg;
    for (unsigned i = 0; i < MAILS_PER_SENDER; i++) {
        s->letters[i] = (struct letter){.mail.run = letter_run, .sender = s->index, .number = i};
        mailbox_post(s->box, &s->letters[i].mail);
    }
    return NULL;
}

/* The receiver sleeps on the descriptor: a lost signal would leave it there. */
static void many_senders_lose_nothing(void **state)
{
    struct mailbox box;
    assert_int_equal(mailbox_init(&box), 0);
    struct sender senders[SENDERS];
    for (unsigned i = 0; i < SENDERS; i++) {
        senders[i] =
            (struct sender){.index = i, .box = &box, .letters = calloc(MAILS_PER_SENDER, sizeof(struct letter))};
        assert_non_null(senders[i].letters);
        assert_int_equal(thread_start(&senders[i].thread, "sender", send_all, &senders[i]), 0);
    }
    while (received < SENDERS * MAILS_PER_SENDER) {
        struct pollfd p = {.fd = mailbox_fd(&box), .events = POLLIN};
        assert_int_equal(poll(&p, 1, 10000), 1);
        mailbox_run(&box);
    }
    for (unsigned i = 0; i < SENDERS; i++) {
        pthread_join(senders[i].thread, NULL);
        free(senders[i].letters);
    }
    assert_int_equal(received, SENDERS * MAILS_PER_SENDER);
    mailbox_destroy(&box);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(burst_is_run_in_order_with_one_signal, fresh),
        cmocka_unit_test_setup(message_posted_from_a_message, fresh),
        cmocka_unit_test_setup(many_senders_lose_nothing, fresh),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
