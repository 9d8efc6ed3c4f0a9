/* SPDX-License-Identifier: Apache-2.0 */
/*
 * creedence-switch: the network process. Alone it makes what its options say and follows QEMU's "backend program
 * conventions" for vhost-user programs; under the daemon it is told everything over --link-fd.
 */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "cmd/switch_alone.h"
#include "cmd/switch_fault.h"
#include "cmd/switch_net.h"
#include "cmd/switch_options.h"
#include "guest/memory.h"

#define DESCRIPTORS_WANTED (1u << 20)
#define FLOWS_AT_ONCE 1000u

/* A VIF takes a few dozen descriptors, and there may be thousands. */
static void raise_limits(void)
{
    struct rlimit r;
    if (getrlimit(RLIMIT_NOFILE, &r) < 0) return;
    rlim_t hard = r.rlim_max;
    r.rlim_cur = r.rlim_max = hard > DESCRIPTORS_WANTED ? hard : DESCRIPTORS_WANTED;
    if (setrlimit(RLIMIT_NOFILE, &r) == 0) return; /* root's privilege */
    r.rlim_cur = r.rlim_max = hard;
    setrlimit(RLIMIT_NOFILE, &r);
}

/* ---- without a daemon ---- */

static bool is_listening(int fd)
{
    int yes = 0;
    socklen_t len = sizeof yes;
    return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &yes, &len) == 0 && yes;
}

/* The one card of --fd gets its socket as a daemon would give it. */
static int ask_with_fd(struct net *n, const char *method, struct net_request *r, int fd)
{
    struct link_msg m = {.fd_count = 1, .fds = {fd}, .names = {is_listening(fd) ? "listen" : "connect"}};
    r->msg = &m;
    int ret = net_request(n, method, r);
    r->msg = NULL;
    return ret;
}

/* A bridge gets its sockets for tools. */
static int ask_with_tools(struct net *n, const struct switch_options *o, struct net_request *r)
{
    struct link_msg m = {0};
    int ret = alone_tools(&m, o, json_string_value(json_object_get(r->params, "name")), r->e);
    r->msg = &m;
    if (ret == 0) ret = net_request(n, "bridge.add", r);
    for (unsigned i = 0; i < m.fd_count; i++)
        if (m.fds[i] >= 0) close(m.fds[i]);
    r->msg = NULL;
    return ret;
}

static int ask_all(struct net *n, const struct switch_options *o, struct errmsg *e)
{
    size_t i;
    json_t *v;
    json_array_foreach(o->requests, i, v)
    {
        const char *method = json_string_value(json_object_get(v, "method"));
        const char *option = json_string_value(json_object_get(v, "option"));
        struct net_request r = {.params = json_object_get(v, "params"), .e = e};
        bool fd = o->fd >= 0 && strcmp(option, "--fd=N") == 0;
        bool bridge = strcmp(method, "bridge.add") == 0;
        int ret = fd       ? ask_with_fd(n, method, &r, o->fd)
                  : bridge ? ask_with_tools(n, o, &r)
                           : net_request(n, method, &r);
        json_decref(r.result);
        if (ret < 0) return errmsg_prefix(e, ret, "%s", option);
    }
    return 0;
}

static int add_flows(struct net *n, const char *bridge, json_t *flows, struct errmsg *e)
{
    struct net_request r = {.params = json_pack("{s:s, s:O}", "bridge", bridge, "flows", flows), .e = e};
    int ret = net_request(n, "flow.add", &r);
    json_decref(r.params);
    json_decref(r.result);
    json_array_clear(flows);
    return ret;
}

/* Lines that are empty or begin with '#' say nothing. */
static int load_flow_file(struct net *n, const char *bridge, const char *path, struct errmsg *e)
{
    FILE *in = fopen(path, "re");
    if (!in) return errmsg_sys(e, errno, "%s", path);
    json_t *flows = json_array();
    char *line = NULL;
    size_t room = 0;
    unsigned at = 0, first = 1;
    int ret = 0;
    while (ret == 0 && getline(&line, &room, in) > 0) {
        at++;
        line[strcspn(line, "\r\n")] = 0;
        const char *text = line + strspn(line, " \t");
        if (!*text || *text == '#') continue;
        if (json_array_size(flows) == 0) first = at;
        json_array_append_new(flows, json_string(text));
        if (json_array_size(flows) == FLOWS_AT_ONCE) ret = add_flows(n, bridge, flows, e);
    }
    if (ret == 0 && json_array_size(flows)) ret = add_flows(n, bridge, flows, e);
    if (ret < 0) errmsg_prefix(e, ret, "%s, from line %u on", path, first);
    json_decref(flows);
    free(line);
    fclose(in);
    return ret;
}

static int load_flow_files(struct net *n, const struct switch_options *o, struct errmsg *e)
{
    size_t i;
    json_t *v;
    json_array_foreach(o->flow_files, i, v)
    {
        int ret = load_flow_file(n, json_string_value(json_object_get(v, "bridge")),
                                 json_string_value(json_object_get(v, "path")), e);
        if (ret < 0) return ret;
    }
    return 0;
}

static void stop_ready(struct loop_watch *w, uint32_t events)
{
    struct signalfd_siginfo info;
    (void)events;
    if (read(w->fd, &info, sizeof info) > 0) loop_stop(w->loop);
}

/* Nothing is forwarded, and no guest heard of, before every right that is not needed was given up. */
static int set_up(struct net *n, struct alone *a, const struct switch_options *o, struct errmsg *e)
{
    int ret = ask_all(n, o, e);
    if (ret == 0) ret = load_flow_files(n, o, e);
    if (ret == 0) ret = alone_begin(a, n, o, e);
    if (ret == 0 && !o->sandbox_off) ret = sandbox_leave_host_but_network(&o->sandbox, false, e);
    if (ret == 0 && !o->sandbox_off) ret = sandbox_filter(&o->sandbox, SANDBOX_NETWORK | SANDBOX_XEN, e);
    if (ret < 0) return ret;
    net_settle(n);
    alone_dial(a);
    return 0;
}

static int serve_control(struct link_server **out, struct loop *loop, struct net *n, const char *path, struct errmsg *e)
{
    int fd;
    int ret = link_listen(&fd, path, e);
    if (ret < 0) return ret;
    ret = link_server_new(out, loop, fd, n, NULL, e);
    if (ret < 0) close(fd);
    return ret;
}

static int run_alone(const struct switch_options *o, struct loop *loop, struct errmsg *e)
{
    struct alone *alone = alone_new();
    struct net_args args = {.loop = loop, .keeper = {.controller = alone_controller, .arg = alone}};
    struct net *n = NULL;
    if (!alone) return errmsg_set(e, ENOMEM, "out of memory");
    struct link_server *control = NULL;
    net_options_init(&args.options);
    int ret = net_options_read(&args.options, o->configure, e);
    if (ret == 0) ret = net_new(&n, &args, e);
    if (ret == 0 && o->control) ret = serve_control(&control, loop, n, o->control, e);
    if (ret == 0) ret = set_up(n, alone, o, e);
    if (ret == 0) ret = loop_run(loop);
    link_server_free(control);
    if (control) unlink(o->control);
    alone_free(alone);
    if (n) net_quit(n);
    return ret;
}

/* ---- under the daemon ---- */

static int run_linked(const struct switch_options *o, struct loop *loop, struct errmsg *e)
{
    struct link_server *s;
    int ret = link_server_new(&s, loop, o->link_fd, NULL, o->sandbox_off ? NULL : &o->sandbox, e);
    if (ret < 0) return ret;
    ret = loop_run(loop);
    link_server_free(s);
    return ret;
}

static int run(const struct switch_options *o, const sigset_t *stop_signals, struct errmsg *e)
{
    struct loop *loop = loop_new();
    struct loop_watch stop = {0};
    int signal_fd = signalfd(-1, stop_signals, SFD_CLOEXEC | SFD_NONBLOCK);
    if (!loop || signal_fd < 0) return errmsg_sys(e, errno, "event loop");
    /* Only the daemon's word or SIGKILL ends a switch that guests depend on. */
    int ret = o->link_fd >= 0 ? 0 : loop_add(loop, &stop, signal_fd, EPOLLIN, stop_ready);
    if (ret == 0) ret = o->link_fd >= 0 ? run_linked(o, loop, e) : run_alone(o, loop, e);
    loop_remove(&stop);
    loop_free(loop);
    close(signal_fd);
    return ret;
}

int main(int argc, char **argv)
{
    struct switch_options o;
    struct errmsg e = {""};
    log_setup("creedence-switch", LOG_LEVEL_INFO);
    int ret = switch_options_parse(&o, argc, argv, &e);
    if (ret != 0) {
        if (ret < 0) fprintf(stderr, "creedence-switch: %s\n", e.text);
        switch_options_free(&o);
        return ret < 0 ? 2 : 0;
    }
    if (o.verbose) log_setup("creedence-switch", LOG_LEVEL_DEBUG);
    sigset_t stop_signals;
    sigemptyset(&stop_signals);
    sigaddset(&stop_signals, SIGTERM);
    sigaddset(&stop_signals, SIGINT);
    sigprocmask(SIG_BLOCK, &stop_signals, NULL);
    signal(SIGPIPE, SIG_IGN);
    raise_limits();
    fault_init(); /* before the handler of the next one, which passes on to it */
    guest_memory_init();
    ret = run(&o, &stop_signals, &e);
    if (ret < 0) log_error("%s", e.text[0] ? e.text : strerror(-ret));
    switch_options_free(&o);
    return ret < 0 ? 1 : 0;
}
