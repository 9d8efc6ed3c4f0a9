/* SPDX-License-Identifier: Apache-2.0 */
/* A switch that is killed at its work for a card's control ring, and the next one: its guest is told the truth, and of it. */
#include <errno.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "vif/test_netif_control.h"

static void no_notify(struct xen *x, int port) {}

static bool was_notified(struct guest_control *g)
{
    int ports[32];
    bool yes = false;
    for (unsigned n; (n = sim_pending(g->bed.front.guest, ports, 32)) > 0;)
        for (unsigned i = 0; i < n; i++) {
            yes = yes || ports[i] == g->port;
            sim_unmask(g->bed.front.guest, ports[i]);
        }
    return yes;
}

/* Killed between an answer and its event: the guest, which sleeps until one comes, is told by the next process. */
static void test_killed_before_event(void **state)
{
    struct guest_control g;
    open_control(&g, 1);
    struct xen *x = g.bed.vif->netif->control.xen;
    struct xen_ring *ring = sim_guest_page(g.bed.front.guest, g.page);
    struct xen_ops silent = *x->ops;
    silent.notify = no_notify;
    x->ops = &silent;
    ring->rsp_event = 1;
    was_notified(&g);
    ask(&g, NETIF_CTRL_GET_HASH_MAPPING_SIZE, 0, 0, 0, NULL);
    assert_false(was_notified(&g));
    restart(&g);
    assert_true(was_notified(&g));
    bed_close(&g.bed);
}

/* The last request was carried out, and its process killed before the answer: it is asked again. */
static uint32_t ask_again(struct guest_control *g, unsigned type, uint32_t count, uint32_t *data)
{
    struct xen_ring *ring = sim_guest_page(g->bed.front.guest, g->page);
    g->asked--;
    ring->rsp_prod--;
    restart(g);
    return ask(g, type, 0, g->list_ref, count, data);
}

/* What was done and not answered is answered as done: a guest that is told otherwise believes that its pages are not mapped, or
 * still are. */
static void test_killed_before_answer(void **state)
{
    struct guest_control g;
    uint32_t data;
    open_control(&g, 1);
    struct netfront_queue *q = &g.bed.front.queue[0];
    struct netif_gref *grefs = list(&g);
    unsigned maps = sim_maps_used(g.bed.sim);
    for (unsigned i = 0; i < NETIF_STATIC_MAX; i++)
        grefs[i] = i < NETIF_ENTRIES ? (struct netif_gref){q->tx_grant[i], NETIF_GREF_READONLY, 0}
                                     : (struct netif_gref){q->rx_grant[i - NETIF_ENTRIES], 0, 0};
    assert_int_equal(ask(&g, NETIF_CTRL_ADD_GREF_MAPPING, 0, g.list_ref, NETIF_STATIC_MAX, NULL), NETIF_CTRL_SUCCESS);
    assert_int_equal(ask_again(&g, NETIF_CTRL_ADD_GREF_MAPPING, NETIF_STATIC_MAX, NULL), NETIF_CTRL_SUCCESS);
    assert_int_equal(sim_maps_used(g.bed.sim), maps + NETIF_STATIC_MAX);
    /* One that was refused the first time is refused again. */
    assert_int_equal(ask(&g, NETIF_CTRL_ADD_GREF_MAPPING, 0, g.list_ref, 1, NULL), NETIF_CTRL_INVALID_PARAMETER);
    assert_int_equal(ask_again(&g, NETIF_CTRL_ADD_GREF_MAPPING, 1, NULL), NETIF_CTRL_INVALID_PARAMETER);
    assert_int_equal(ask(&g, NETIF_CTRL_DEL_GREF_MAPPING, 0, g.list_ref, 100, &data), NETIF_CTRL_SUCCESS);
    assert_int_equal(data, 100);
    grefs[7].status = 77;
    assert_int_equal(ask_again(&g, NETIF_CTRL_DEL_GREF_MAPPING, 100, &data), NETIF_CTRL_SUCCESS);
    assert_int_equal(data, 100);
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(grefs[i].status, NETIF_CTRL_SUCCESS);
    assert_int_equal(sim_maps_used(g.bed.sim), maps + NETIF_STATIC_MAX - 100);
    assert_int_equal(ask(&g, NETIF_CTRL_DEL_GREF_MAPPING, 0, g.list_ref, 1, &data), NETIF_CTRL_SUCCESS);
    assert_int_equal(data, 0);
    bed_close(&g.bed);
}

static const struct xen_ops *real_ops;

static void copy_and_stop(struct xen *x, xen_domid domid, struct xen_copy *copies, unsigned count)
{
    real_ops->copy(x, domid, copies, count);
    raise(SIGSTOP);
}

#ifdef __SANITIZE_THREAD__
#define TRACES false /* it takes a hundred instructions for each */
#else
#define TRACES true
#endif

/* A child that serves the control ring, and has read the list when this returns. 0: it is not to be traced here. */
static pid_t serve_in_child(struct guest_control *g)
{
    int status;
    if (!TRACES) return 0;
    pid_t pid = fork();
    if (pid == 0) {
        struct xen *x = g->bed.vif->netif->control.xen;
        struct xen_ops stopping = *(real_ops = x->ops);
        stopping.copy = copy_and_stop;
        x->ops = &stopping;
        if (ptrace(PTRACE_TRACEME, 0, NULL, NULL)) _exit(1);
        netif_control_serve(g->bed.vif);
        _exit(2);
    }
    assert_true(pid > 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    if (WIFSTOPPED(status)) return pid;
    assert_int_equal(WEXITSTATUS(status), 1);
    return 0;
}

/* Is what stays in the list, and nothing that never was? */
static bool list_is_good(const struct netif_state_queue *k, const struct netif_gref *goes,
                         const struct netif_gref *stays)
{
    bool found = false;
    for (unsigned i = 0; i < k->static_count; i++) {
        const struct netif_gref *at = &k->static_grant[i];
        if (at->ref != goes->ref && at->ref != stays->ref) return false;
        if (at->flags != (at->ref == goes->ref ? goes : stays)->flags) return false;
        found = found || at->ref == stays->ref;
    }
    return found;
}

/* The list is good wherever a process is killed that writes it: here, at each instruction. */
static void test_killed_at_any_moment(void **state)
{
    struct guest_control g;
    uint32_t data;
    int status;
    open_control(&g, 1);
    struct netif_state *own = g.bed.state;
    g.bed.state = mmap(NULL, netif_state_bytes(1), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    assert_true(g.bed.state != MAP_FAILED);
    restart(&g);
    unsigned maps = sim_maps_used(g.bed.sim), changes = 0;
    struct netif_gref *grefs = list(&g);
    const struct netif_gref goes = {g.bed.front.queue[0].tx_grant[0], NETIF_GREF_READONLY, 0},
                            stays = {g.bed.front.queue[0].rx_grant[0], 0, 0};
    grefs[0] = goes;
    grefs[1] = stays;
    assert_int_equal(ask(&g, NETIF_CTRL_ADD_GREF_MAPPING, 0, g.list_ref, 2, NULL), NETIF_CTRL_SUCCESS);
    put_request(&g, NETIF_CTRL_DEL_GREF_MAPPING, 0, g.list_ref, 1);
    struct netif_state_queue *k = &g.bed.state->queue[0], *before = malloc(sizeof *before);
    pid_t pid = serve_in_child(&g);
    for (*before = *k; pid && k->static_count == 2; *before = *k) {
        assert_int_equal(ptrace(PTRACE_SINGLESTEP, pid, NULL, NULL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSTOPPED(status));
        if (memcmp(before, k, sizeof *k) == 0) continue;
        assert_true(list_is_good(k, &goes, &stays));
        changes++;
    }
    free(before);
    if (pid) {
        assert_true(changes >= 3); /* who changes it, what takes the place, the end */
        kill(pid, SIGKILL);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        restart(&g);
        assert_int_equal(sim_maps_used(g.bed.sim), maps + 1);
    }
    assert_int_equal(answered(&g, &data), NETIF_CTRL_SUCCESS);
    assert_int_equal(data, 1);
    assert_int_equal(sim_maps_used(g.bed.sim), maps + 1);
    struct netif_state *shared = g.bed.state;
    g.bed.state = own;
    bed_close(&g.bed);
    munmap(shared, netif_state_bytes(1));
}

/* What a guest may believe of its pages: lists of any kind, and a process that ends between any two requests, or before an answer. */
#define ORACLE_REFS 24u

struct oracle {
    uint32_t ref[ORACLE_REFS];
    bool readonly[ORACLE_REFS]; /* all that is granted */
    bool there[ORACLE_REFS];
};

/* References of the list, from those that there are and one that is none; which of them (ORACLE_REFS: that one). */
static unsigned random_list(struct guest_control *g, const struct oracle *o, unsigned *which)
{
    struct netif_gref *grefs = list(g);
    unsigned n = (unsigned)rand() % 6;
    for (unsigned i = 0; i < n; i++) {
        unsigned k = which[i] = rand() % 30 ? (unsigned)rand() % ORACLE_REFS : ORACLE_REFS;
        bool readonly = k < ORACLE_REFS && o->readonly[k];
        grefs[i] = (struct netif_gref){k < ORACLE_REFS ? o->ref[k] : 99999, readonly ? NETIF_GREF_READONLY : 0, 0};
    }
    return n;
}

/* The list is added, or nothing of it. */
static uint32_t oracle_add(struct oracle *o, const unsigned *which, unsigned n)
{
    struct oracle with = *o;
    for (unsigned i = 0; i < n; i++) {
        if (which[i] == ORACLE_REFS || with.there[which[i]]) return NETIF_CTRL_INVALID_PARAMETER;
        with.there[which[i]] = true;
    }
    *o = with;
    return NETIF_CTRL_SUCCESS;
}

static unsigned oracle_del(struct oracle *o, const unsigned *which, unsigned n)
{
    unsigned gone = 0;
    for (unsigned i = 0; i < n; i++) {
        if (which[i] == ORACLE_REFS || !o->there[which[i]]) continue;
        o->there[which[i]] = false;
        gone++;
    }
    return gone;
}

static void test_static_oracle(void **state)
{
    struct guest_control g;
    struct oracle o = {0};
    unsigned which[8];
    uint32_t data;
    open_control(&g, 1);
    struct netfront_queue *q = &g.bed.front.queue[0];
    const unsigned maps = sim_maps_used(g.bed.sim);
    srand(1);
    for (unsigned i = 0; i < ORACLE_REFS; i++) {
        o.readonly[i] = i % 2;
        o.ref[i] = i % 2 ? q->tx_grant[i] : q->rx_grant[i];
    }
    for (unsigned step = 0; step < 400; step++) {
        unsigned n = random_list(&g, &o, which), there = 0;
        bool adds = rand() % 2, killed = rand() % 4 == 0;
        unsigned type = adds ? NETIF_CTRL_ADD_GREF_MAPPING : NETIF_CTRL_DEL_GREF_MAPPING;
        uint32_t status = adds ? oracle_add(&o, which, n) : NETIF_CTRL_SUCCESS;
        unsigned gone = adds ? 0 : oracle_del(&o, which, n);
        if (rand() % 16 == 0) restart(&g);
        assert_int_equal(ask(&g, type, 0, g.list_ref, n, &data), status);
        assert_int_equal(data, gone);
        /* Of pages that never were there it may say, the second time, that they are gone. */
        if (killed) assert_int_equal(ask_again(&g, type, n, &data), status);
        assert_true(killed && !adds ? data >= gone : data == gone);
        for (unsigned i = 0; i < ORACLE_REFS; i++)
            there += o.there[i];
        assert_int_equal(sim_maps_used(g.bed.sim), maps + there);
        const struct netif_static *pages = atomic_load(&g.bed.vif->netif->queue[0].pages);
        for (unsigned i = 0; pages && i < ORACLE_REFS; i++)
            assert_int_equal(netif_static_find(pages, o.ref[i]) != NULL, o.there[i]);
    }
    bed_close(&g.bed);
}

/* Killed while the list was written: something is in it twice, and something that goes still is. */
static void test_killed_in_the_list(void **state)
{
    struct guest_control g;
    uint32_t data;
    open_control(&g, 1);
    struct netif_gref *grefs = list(&g);
    unsigned maps = sim_maps_used(g.bed.sim);
    for (unsigned i = 0; i < 10; i++)
        grefs[i].ref = g.bed.front.queue[0].rx_grant[i];
    assert_int_equal(ask(&g, NETIF_CTRL_ADD_GREF_MAPPING, 0, g.list_ref, 10, NULL), NETIF_CTRL_SUCCESS);
    /* The first two are to go, and the first is overwritten. */
    g.bed.state->queue[0].static_grant[0] = g.bed.state->queue[0].static_grant[9];
    g.bed.state->queue[0].changed_by = UINT64_C(1) << 32 | g.asked;
    put_request(&g, NETIF_CTRL_DEL_GREF_MAPPING, 0, g.list_ref, 2);
    restart(&g);
    assert_int_equal(sim_maps_used(g.bed.sim), maps + 9);
    assert_int_equal(answered(&g, &data), NETIF_CTRL_SUCCESS);
    assert_int_equal(data, 2);
    assert_int_equal(sim_maps_used(g.bed.sim), maps + 8);
    grefs[0] = grefs[9];
    assert_int_equal(ask(&g, NETIF_CTRL_DEL_GREF_MAPPING, 0, g.list_ref, 1, &data), NETIF_CTRL_SUCCESS);
    assert_int_equal(data, 1);
    bed_close(&g.bed);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_killed_before_event),  cmocka_unit_test(test_killed_before_answer),
        cmocka_unit_test(test_killed_at_any_moment), cmocka_unit_test(test_static_oracle),
        cmocka_unit_test(test_killed_in_the_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
