/* SPDX-License-Identifier: Apache-2.0 */
#include "control/xenstore.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <xenstore.h>

#include "base/cleanup.h"

#define COMMIT_TRIES 16u
#define OURS "creedence" /* value of a directory that was made here: directories have none otherwise */

struct xenstore {
    struct xs_handle *xs;
    xs_transaction_t snapshot;
};

int xenstore_open(struct xenstore **out, struct errmsg *e)
{
    struct xenstore *s = calloc(1, sizeof *s);
    if (!s) return errmsg_sys(e, ENOMEM, "xenstore");
    /* Not XS_UNWATCH_FILTER: the library (4.17) loses the memory of each event that it filters out. */
    s->xs = xs_open(0);
    if (!s->xs) {
        int error = errno;
        free(s);
        return errmsg_sys(e, error ? error : ENODEV, "xenstore");
    }
    *out = s;
    return 0;
}

void xenstore_close(struct xenstore *s)
{
    if (!s) return;
    xs_close(s->xs);
    free(s);
}

/* The library's thread closes its connection when the other side has, and tells nobody; each call fails from then on. */
bool xenstore_is_alive(struct xenstore *s)
{
    char domid[16];
    int ret = xenstore_read(s, "domid", NULL, domid, sizeof domid);
    return ret == 0 || ret == -ENOENT || ret == -EACCES;
}

static bool join(char out[XENSTORE_PATH_MAX], const char *dir, const char *key)
{
    int len = snprintf(out, XENSTORE_PATH_MAX, "%s%s%s", dir, key ? "/" : "", key ? key : "");
    return len >= 0 && len < (int)XENSTORE_PATH_MAX;
}

static int last_error(void)
{
    return errno ? -errno : -EIO;
}

int xenstore_read(struct xenstore *s, const char *dir, const char *key, char *out, size_t room)
{
    char path[XENSTORE_PATH_MAX];
    unsigned len = 0;
    *out = 0;
    if (!join(path, dir, key)) return -ENAMETOOLONG;
    autofree char *value = xs_read(s->xs, s->snapshot, path, &len);
    if (!value) return last_error();
    if (len >= room) return -E2BIG;
    for (unsigned i = 0; i < len; i++)
        if ((unsigned char)value[i] < ' ' || value[i] == 0x7f) return -EINVAL;
    memcpy(out, value, len);
    out[len] = 0;
    return 0;
}

/* ---- Changes, each at one moment ---- */

struct change {
    const char *dir, *guard;
    const struct xenstore_key *keys;
    unsigned count;
};

static int transact(struct xenstore *s, int (*make)(struct xs_handle *xs, xs_transaction_t t, const struct change *c),
                    const struct change *c)
{
    int ret = -EAGAIN; /* somebody changed what was read or written meanwhile */
    for (unsigned i = 0; ret == -EAGAIN && i < COMMIT_TRIES; i++) {
        xs_transaction_t t = xs_transaction_start(s->xs);
        if (!t) return last_error();
        ret = make(s->xs, t, c);
        if (!xs_transaction_end(s->xs, t, ret < 0) && ret == 0) ret = last_error();
    }
    return ret;
}

static bool put(struct xs_handle *xs, xs_transaction_t t, const char *path, const char *value)
{
    return xs_write(xs, t, path, value, (unsigned)strlen(value));
}

static int write_keys(struct xs_handle *xs, xs_transaction_t t, const struct change *c)
{
    char path[XENSTORE_PATH_MAX];
    unsigned len;
    if (!join(path, c->dir, c->guard)) return -ENAMETOOLONG;
    autofree char *there = xs_read(xs, t, path, &len);
    if (!there) return last_error();
    for (unsigned i = 0; i < c->count; i++) {
        if (!join(path, c->dir, c->keys[i].key)) return -ENAMETOOLONG;
        if (!put(xs, t, path, c->keys[i].value)) return last_error();
    }
    return 0;
}

int xenstore_write_keys(struct xenstore *s, const char *dir, const char *guard, const struct xenstore_key *keys,
                        unsigned count)
{
    return transact(s, write_keys, &(struct change){dir, guard, keys, count});
}

/* Those between the directory and the key; the store would make them as well, but without our mark. */
static int make_directories(struct xs_handle *xs, xs_transaction_t t, const struct change *c)
{
    char path[XENSTORE_PATH_MAX];
    unsigned len;
    if (!join(path, c->dir, c->keys[0].key)) return -ENAMETOOLONG;
    for (char *end = strchr(path + strlen(c->dir) + 1, '/'); end; end = strchr(end + 1, '/')) {
        *end = 0;
        autofree char *there = xs_read(xs, t, path, &len);
        if (!there && (errno != ENOENT || !put(xs, t, path, OURS))) return last_error();
        *end = '/';
    }
    return 0;
}

static int write_deep(struct xs_handle *xs, xs_transaction_t t, const struct change *c)
{
    int ret = make_directories(xs, t, c);
    return ret < 0 ? ret : write_keys(xs, t, c);
}

int xenstore_write_deep(struct xenstore *s, const char *dir, const char *guard, const struct xenstore_key *key)
{
    return transact(s, write_deep, &(struct change){dir, guard, key, 1});
}

static bool is_ours_and_empty(struct xs_handle *xs, xs_transaction_t t, const char *path)
{
    unsigned len = 0, count = 0;
    autofree char *value = xs_read(xs, t, path, &len);
    if (!value || len != strlen(OURS) || memcmp(value, OURS, len) != 0) return false;
    autofree char **names = xs_directory(xs, t, path, &count);
    return names && count == 0;
}

static int remove_deep(struct xs_handle *xs, xs_transaction_t t, const struct change *c)
{
    char path[XENSTORE_PATH_MAX];
    if (!join(path, c->dir, c->keys[0].key)) return -ENAMETOOLONG;
    do {
        if (!xs_rm(xs, t, path)) return last_error();
        *strrchr(path, '/') = 0;
    } while (strlen(path) > strlen(c->dir) && is_ours_and_empty(xs, t, path));
    return 0;
}

int xenstore_remove_deep(struct xenstore *s, const char *dir, const char *key)
{
    return transact(s, remove_deep,
                    &(struct change){.dir = dir, .keys = &(struct xenstore_key){key, NULL}, .count = 1});
}

int xenstore_remove(struct xenstore *s, const char *dir, const char *key)
{
    char path[XENSTORE_PATH_MAX];
    if (!join(path, dir, key)) return -ENAMETOOLONG;
    return xs_rm(s->xs, XBT_NULL, path) ? 0 : last_error();
}

int xenstore_list(struct xenstore *s, const char *dir, unsigned max, void (*found)(void *arg, const char *name),
                  void *arg)
{
    unsigned count = 0;
    autofree char **names = xs_directory(s->xs, s->snapshot, dir, &count);
    if (!names) return last_error();
    for (unsigned i = 0; i < count && i < max; i++)
        if (strlen(names[i]) < XENSTORE_PATH_MAX && !strchr(names[i], '/')) found(arg, names[i]);
    return 0;
}

void xenstore_snapshot_begin(struct xenstore *s)
{
    s->snapshot = xs_transaction_start(s->xs); /* XBT_NULL, without a snapshot: values may be of different moments */
}

void xenstore_snapshot_end(struct xenstore *s)
{
    if (s->snapshot) xs_transaction_end(s->xs, s->snapshot, true);
    s->snapshot = XBT_NULL;
}

int xenstore_watch(struct xenstore *s, const char *path, const char *token)
{
    return xs_watch(s->xs, path, token) ? 0 : last_error();
}

void xenstore_unwatch(struct xenstore *s, const char *path, const char *token)
{
    xs_unwatch(s->xs, path, token);
}

int xenstore_fd(struct xenstore *s)
{
    return xs_fileno(s->xs);
}

bool xenstore_event(struct xenstore *s, char path[XENSTORE_PATH_MAX], char token[XENSTORE_PATH_MAX])
{
    autofree char **event = xs_check_watch(s->xs);
    if (!event) return false;
    snprintf(path, XENSTORE_PATH_MAX, "%s", event[XS_WATCH_PATH]);
    snprintf(token, XENSTORE_PATH_MAX, "%s", event[XS_WATCH_TOKEN]);
    return true;
}
