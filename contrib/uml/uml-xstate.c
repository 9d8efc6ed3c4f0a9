/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Lets a User-mode Linux that does not know of AMX run on a host that has it: LD_PRELOAD=.../uml-xstate.so linux.uml ...
 *
 * UML (seen with 6.1) switches the floating-point state of its processes by ptrace(PTRACE_GETREGSET and PTRACE_SETREGSET,
 * NT_X86_XSTATE), into a buffer that ends where AVX-512 and PKRU end. A host whose processor has AMX hands out as much of its
 * larger state as fits, but takes back a whole one only (EFAULT otherwise): the first process of the guest ends in
 * "fatal_sigsegv", and the guest in a panic.
 *
 * What does not fit is the tile data of AMX. A process has it only after asking for it (ARCH_REQ_XCOMP_PERM), which UML's
 * processes never do, so it is always in its initial state: setting a state that was cut short is setting it with zeroes
 * behind, and without the bits that say that there is tile data.
 *
 * Source: Linux, arch/x86/kernel/fpu/regset.c, and Documentation/arch/x86/xstate.rst; Intel SDM volume 1, 13.4 (XSAVE area).
 */
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

#define XSTATE_MAX_BYTES 65536u /* the largest today, with AMX, is 11008 */
#define XSTATE_BV_OFFSET 512u   /* in the XSAVE header: which components are not in their initial state */
#define XSTATE_TILE_BITS (UINT64_C(3) << 17)

static long (*next_ptrace)(enum __ptrace_request request, ...);
static size_t host_bytes; /* how large the host's state is; 0: not known yet. UML calls ptrace from one thread. */
static unsigned char host_state[XSTATE_MAX_BYTES];

/* Learn the size from a read of the whole state, and hand out the part that the caller has room for. */
static long get_first(pid_t pid, void *type, struct iovec *theirs)
{
    struct iovec whole = {.iov_base = host_state, .iov_len = sizeof(host_state)};
    long result = next_ptrace(PTRACE_GETREGSET, pid, type, &whole);

    if (result) return result;
    host_bytes = whole.iov_len;
    if (theirs->iov_len > host_bytes) theirs->iov_len = host_bytes;
    memcpy(theirs->iov_base, host_state, theirs->iov_len);
    return 0;
}

static long set_padded(pid_t pid, void *type, const struct iovec *theirs)
{
    struct iovec whole = {.iov_base = host_state, .iov_len = host_bytes};
    uint64_t components;

    memcpy(host_state, theirs->iov_base, theirs->iov_len);
    memset(host_state + theirs->iov_len, 0, host_bytes - theirs->iov_len);
    memcpy(&components, host_state + XSTATE_BV_OFFSET, sizeof(components));
    components &= ~XSTATE_TILE_BITS;
    memcpy(host_state + XSTATE_BV_OFFSET, &components, sizeof(components));
    return next_ptrace(PTRACE_SETREGSET, pid, type, &whole);
}

long ptrace(enum __ptrace_request request, ...)
{
    va_list arguments;
    pid_t pid;
    void *addr, *data;

    va_start(arguments, request);
    pid = va_arg(arguments, pid_t);
    addr = va_arg(arguments, void *);
    data = va_arg(arguments, void *);
    va_end(arguments);
    if (!next_ptrace) {
        void *symbol = dlsym(RTLD_NEXT, "ptrace");

        if (!symbol) abort();
        memcpy(&next_ptrace, &symbol, sizeof(symbol));
    }
    if (addr == (void *)(uintptr_t)NT_X86_XSTATE && request == PTRACE_GETREGSET && !host_bytes)
        return get_first(pid, addr, data);
    if (addr == (void *)(uintptr_t)NT_X86_XSTATE && request == PTRACE_SETREGSET) {
        const struct iovec *theirs = data;

        if (theirs->iov_len > XSTATE_BV_OFFSET + sizeof(uint64_t) && theirs->iov_len < host_bytes)
            return set_padded(pid, addr, theirs);
    }
    return next_ptrace(request, pid, addr, data);
}
