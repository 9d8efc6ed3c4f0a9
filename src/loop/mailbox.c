/* SPDX-License-Identifier: Apache-2.0 */
#include "loop/mailbox.h"

#include <errno.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

int mailbox_init(struct mailbox *box)
{
    atomic_init(&box->head, NULL);
    box->event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return box->event_fd < 0 ? -errno : 0;
}

void mailbox_destroy(struct mailbox *box)
{
    if (box->event_fd >= 0) close(box->event_fd);
    box->event_fd = -1;
}

void mailbox_post(struct mailbox *box, struct mail *m)
{
    int fd = box->event_fd; /* not after: whoever has run the message may have no more use for the box */
    struct mail *head = atomic_load_explicit(&box->head, memory_order_relaxed);
    do {
        m->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&box->head, &head, m, memory_order_release, memory_order_relaxed));
    if (head) return; /* whoever made it non-empty has signalled, or is about to */
    uint64_t one = 1;
    ssize_t n = write(fd, &one, sizeof one);
    (void)n; /* EAGAIN: the counter is full, so it is readable already */
}

unsigned mailbox_run(struct mailbox *box)
{
    /* Clear the signal before taking the messages: one posted in between signals again. */
    uint64_t count;
    ssize_t n = read(box->event_fd, &count, sizeof count);
    (void)n;
    struct mail *newest = atomic_exchange_explicit(&box->head, NULL, memory_order_acquire);
    struct mail *oldest = NULL;
    while (newest) {
        struct mail *next = newest->next;
        newest->next = oldest;
        oldest = newest;
        newest = next;
    }
    unsigned ran = 0;
    while (oldest) {
        struct mail *next = oldest->next;
        oldest->run(oldest);
        oldest = next;
        ran++;
    }
    return ran;
}
