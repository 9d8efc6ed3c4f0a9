/* SPDX-License-Identifier: Apache-2.0 */
#include "cmd/switch_fault.h"

#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>

#include "base/checked.h"

#define THREAD_NAME_BYTES 16

static _Atomic int tell_sock = -1; /* a handler has nothing but what is global */

static bool is_plain(char c)
{
    return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' || c == '_' ||
           c == '-';
}

static void tell(int sock)
{
    static const char head[] = "{\"method\":\"fault\",\"params\":{\"thread\":\"", tail[] = "\"}}";
    char text[sizeof head + THREAD_NAME_BYTES + sizeof tail], name[THREAD_NAME_BYTES + 1] = "";
    size_t used = sizeof head - 1;
    if (sock < 0 || prctl(PR_GET_NAME, name, 0, 0, 0) < 0) return;
    memcpy(text, head, used);
    for (const char *p = name; *p && is_plain(*p); p++)
        text[used++] = *p;
    memcpy(text + used, tail, sizeof tail - 1);
    used += sizeof tail - 1;
    struct iovec iov = {.iov_base = text, .iov_len = used};
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
