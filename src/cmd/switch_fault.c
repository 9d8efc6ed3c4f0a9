/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/switch_fault.h"

#include <assert.h>
#include <signal.h>
#include <stdatomic.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "base/checked.h"
#include "port/port.h"
#include "port/source.h"

#define THREAD_NAME_BYTES 16

static _Atomic int tell_sock = -1; /* a handler has nothing but what is global */

struct words {
    size_t used;
    char text[128];
};
static_assert(sizeof((struct words){0}.text) > 64 + THREAD_NAME_BYTES + PORT_NAME_BYTES, "all that tell() says");

static void say(struct words *w, const char *text, size_t bytes)
{
    bytes = min_u64(bytes, sizeof w->text - w->used);
    memcpy(w->text + w->used, text, bytes);
    w->used += bytes;
}

static void say_words(struct words *w, const char *text)
{
    say(w, text, strlen(text));
}

/* Nothing that would have to be escaped. */
static void say_name(struct words *w, const char *name)
{
    say(w, name, strspn(name, "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ._-"));
}

static void tell(int sock)
{
    struct words w = {0};
    char thread[THREAD_NAME_BYTES + 1] = "";
    const struct port *port = runner_serves();
    if (sock < 0 || prctl(PR_GET_NAME, thread, 0, 0, 0) < 0) return;
    say_words(&w, "{\"method\":\"fault\",\"params\":{\"thread\":\"");
    say_name(&w, thread);
    say_words(&w, "\",\"port\":\"");
    say_name(&w, port ? port->name : "");
    say_words(&w, "\"}}");
    struct iovec iov = {.iov_base = w.text, .iov_len = w.used};
    struct msghdr msg = {.msg_iov = &iov, .msg_iovlen = 1};
    sendmsg(sock, &msg, MSG_DONTWAIT | MSG_NOSIGNAL);
}

/* Only what a handler may do: no allocation, no lock, no stdio. A fault repeats itself when this returns, now with the default
 * action; a signal that somebody sent (abort() does) is sent again. */
static void on_fault(int number, siginfo_t *info, void *context)
{
    signal(number, SIG_DFL);
    tell(atomic_load(&tell_sock));
    if (info->si_code <= 0) raise(number);
}

void fault_init(void)
{
    static const int numbers[] = {SIGSEGV, SIGBUS, SIGILL, SIGFPE, SIGTRAP, SIGABRT};
    for (size_t i = 0; i < ARRAY_LEN(numbers); i++) {
        struct sigaction now, ours = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO | SA_NODEFER};
        if (sigaction(numbers[i], NULL, &now) < 0 || (now.sa_flags & SA_SIGINFO) || now.sa_handler != SIG_DFL) continue;
        sigaction(numbers[i], &ours, NULL);
    }
}

void fault_tell(int sock)
{
    atomic_store(&tell_sock, sock);
}
