/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A worker without a daemon asks the cache service itself, once, at start: in the sandbox there is no path to
 * connect to, and no call for it. When the service dies it reads its base images directly from then on.
 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "cmd/vbd_worker.h"
#include "control/link.h"

#define ANSWER_WAIT_MS 10000

static int ask(int sock, const struct worker_config *c, struct errmsg *e)
{
    struct engine_file file[DISK_CHAIN_MAX];
    char name_space[DISK_CHAIN_MAX][16];
    const char *names[DISK_CHAIN_MAX];
    int fds[DISK_CHAIN_MAX], ret = 0;
    unsigned count = 0;
    json_t *layers = json_array();
    for (unsigned i = 1; ret == 0 && i < c->layer_count; i++) {
        ret = disk_file_open(&file[count], c->layer[i].path, 0, e);
        if (ret < 0) break;
        snprintf(name_space[count], sizeof name_space[count], "layer%u", count);
        names[count] = name_space[count];
        fds[count] = file[count].fd;
        count++;
        json_array_append_new(
            layers, json_pack("{s:s, s:s}", "format", disk_format_name(c->layer[i].format), "path", c->layer[i].path));
    }
    json_t *body =
        link_request(1, "channel", json_pack("{s:o, s:i}", "layers", layers, "count", (int)c->device.queues));
    if (ret == 0) {
        ret = link_send(sock, body, names, fds, count);
        if (ret < 0) errmsg_sys(e, -ret, "asking the cache service");
    }
    json_decref(body);
    while (count > 0)
        disk_file_close(&file[--count]);
    return ret;
}

static int take_answer(int sock, const struct worker_config *c, int *out, struct errmsg *e)
{
    struct pollfd p = {.fd = sock, .events = POLLIN};
    struct link_msg m = {0};
    struct link_head head;
    if (poll(&p, 1, ANSWER_WAIT_MS) <= 0)
        return errmsg_set(e, ETIMEDOUT, "the cache service did not answer in %d s", ANSWER_WAIT_MS / 1000);
    int ret = link_recv(sock, &m, e);
    if (ret < 0) return ret;
    ret = link_msg_head(&m, &head, e);
    if (ret == 0 && head.error_code) ret = errmsg_set(e, -head.error_code, "the cache service: %s", head.error_message);
    for (unsigned i = 0; ret == 0 && i < c->device.queues; i++) {
        char name[24];
        snprintf(name, sizeof name, "channel%u", i);
        out[i] = link_msg_take_fd(&m, name);
    }
    link_msg_clear(&m);
    return ret;
}

int cache_connect(const char *path, const struct worker_config *c, int *out, struct errmsg *e)
{
    int sock;
    if (c->layer_count < 2) return 0; /* nothing to read through it */
    int ret = link_connect(&sock, path, e);
    if (ret < 0) return ret;
    ret = ask(sock, c, e);
    if (ret == 0) ret = take_answer(sock, c, out, e);
    close(sock);
    return ret < 0 ? errmsg_prefix(e, ret, "%s", path) : 0;
}
