/* SPDX-License-Identifier: Apache-2.0 */
#include "control/redial.h"

#include <errno.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>

#include "loop/clock.h"

#define LIMIT_MS 5000u /* of a connection being made */
#define FIRST_MS 500u
#define DOUBLINGS_MAX 4u /* 8 s */

void redial_init(struct redial *r, struct loop *loop, const struct target *t, void (*got)(struct redial *r, int fd),
                 void (*failed)(struct redial *r, const char *why))
{
    *r = (struct redial){.loop = loop, .target = *t, .got = got, .failed = failed, .watch.fd = -1};
}

static void fired(struct loop_timer *t)
{
    redial_now(container_of(t, struct redial, timer));
}

void redial_stop(struct redial *r)
{
    loop_timer_cancel(&r->timer);
    loop_remove(&r->watch);
    if (r->watch.fd >= 0) close(r->watch.fd);
    r->watch.fd = -1;
}

void redial_later(struct redial *r)
{
    uint64_t ms = (uint64_t)FIRST_MS << (r->failures < DOUBLINGS_MAX ? r->failures : DOUBLINGS_MAX);
    redial_stop(r);
    r->failures++;
    loop_timer_arm(r->loop, &r->timer, ms * NS_PER_MS, fired);
}

void redial_steady(struct redial *r)
{
    r->failures = 0;
}

static void give_up(struct redial *r, const char *why)
{
    redial_later(r);
    if (r->failed) r->failed(r, why);
}

static void give(struct redial *r)
{
    int fd = r->watch.fd;
    loop_remove(&r->watch);
    r->watch.fd = -1;
    redial_stop(r);
    r->got(r, fd);
}

static void ready(struct loop_watch *w, uint32_t events)
{
    struct redial *r = container_of(w, struct redial, watch);
    int ret = target_connected(w->fd);
    (void)events;
    if (ret < 0) give_up(r, strerror(-ret));
    else give(r);
}

static void too_slow(struct loop_timer *t)
{
    give_up(container_of(t, struct redial, timer), "it does not answer");
}

void redial_now(struct redial *r)
{
    struct errmsg e = {""};
    redial_stop(r);
    int ret = r->target.passive ? target_listen(&r->watch.fd, &r->target, 0600, &e)
                                : target_connect(&r->watch.fd, &r->target, &e);
    if (ret == -EINPROGRESS) {
        loop_timer_arm(r->loop, &r->timer, LIMIT_MS * NS_PER_MS, too_slow);
        ret = loop_add(r->loop, &r->watch, r->watch.fd, EPOLLOUT, ready);
    } else if (ret == 0) {
        give(r);
    }
    if (ret < 0) give_up(r, e.text[0] ? e.text : strerror(-ret));
}
