/* SPDX-License-Identifier: Apache-2.0 */
/* Between xenstore_backends.c (which devices there are), xenstore_device.c (one device), and the two kinds of devices. */
#ifndef CONTROL_XENSTORE_INTERNAL_H
#define CONTROL_XENSTORE_INTERNAL_H

#include "control/host.h"
#include "control/xenstore.h"
#include "control/xenstore_backends.h"
#include "control/xenstore_state.h"

#define XEN_DEVICES_MAX 16384u
#define XEN_BACKENDS_MAX 8u /* names below backend/ */
#define XEN_QUEUES_MAX 64u
#define XEN_TEXT_MAX 256u

struct xen_device;

/* What a kind of device does. Those that take time end with xen_device_done(), which may be called from inside. */
struct xen_device_kind {
    const char *name;          /* "disk", "card" */
    const char *script_prefix; /* of the names of our hotplug scripts */
    enum xen_device_stage (*stage)(struct xen_device *d);
    void (*attach)(struct xen_device *d);
    void (*connect)(struct xen_device *d, bool resume);
    void (*disconnect)(struct xen_device *d);
    void (*detach)(struct xen_device *d);
    /* A key of the front end's that it may change while it is connected; NULL: there is none. Is it other than what is in use? Do as
     * it says. */
    const char *followed;
    bool (*changed)(struct xen_device *d);
    void (*follow)(struct xen_device *d);
    const char *(*broken)(struct xen_device *d); /* what its guest did to its rings; NULL: nothing. Borrowed */
    bool (*heard_of)(struct xen_device *d);      /* by whoever serves it, so that "nothing" is true */
    json_t *(*offered)(struct xen_device *d);    /* keys to be published; borrowed */
    /* What the device that there is here was made of (xen_identity()); NULL: there is none. Borrowed. */
    const char *(*identity)(struct xen_device *d);
};

extern const struct xen_device_kind xen_disk_kind, xen_card_kind;

/* Shared by the devices of a domain. */
struct xen_guest {
    unsigned devices;
    double looks; /* that its front ends may still cause; below 0: they wait */
    uint64_t looked_ns;
};

/* A watch of a key of the front end's. */
struct xen_watch {
    bool there, is_new;
};

struct xen_device {
    struct list node; /* xen_backends' */
    struct xen_backends *backends;
    struct xen_guest *guest;
    const struct xen_device_kind *kind;
    unsigned domid, id, serial;
    char backend[64];              /* "backend/vbd/7/51712", below our own domain */
    char dir[XENSTORE_PATH_MAX];   /* the same, whole */
    char front[XENSTORE_PATH_MAX]; /* "": not read yet */
    char identity[XEN_TEXT_MAX];   /* read with it */
    struct xen_watch state_watch, followed_watch;
    bool told_broken; /* the toolstack was, by us or an earlier daemon */
    bool foreign;     /* another backend's, or nonsense: left alone until it goes */
    bool published;   /* it was past Initialising: when it is there again, it is a new one of the same name */
    bool failed, put_down, seen_used; /* xenstore_state.h */
    bool let_go;       /* of its rings, since they were used last: the next are new, whatever the states are */
    bool store_failed; /* not everything could be read for what is going on: it is to be tried again */
    enum xen_device_action busy; /* going on; WAIT: none */
    unsigned tries;              /* of attach or detach, in vain */
    struct loop_timer timer;     /* look at it then */
    json_t *lent;                /* a disk's: what it offers while another guest still has its image; NULL: it has it */
    char error[XEN_TEXT_MAX];
};

struct xen_backends {
    struct host *host;
    struct xen_settings settings;
    struct xenstore *store; /* NULL: not reached just now */
    struct loop_watch watch;
    struct loop_timer timer; /* alive?; or try to reach it */
    struct loop_timer more;  /* events are left */
    bool started, paused, ending;
    char home[64]; /* "/local/domain/0" */
    struct {
        char name[32];
        const struct xen_device_kind *kind;
    } names[XEN_BACKENDS_MAX];
    unsigned name_count;
    struct list devices;
    unsigned device_count, next_serial;
};

/* ---- xenstore_device.c ---- */

/* NULL: out of memory. It is looked at soon. */
struct xen_device *xen_device_new(struct xen_backends *b, unsigned name, unsigned domid, unsigned id);
void xen_device_free(struct xen_device *d);
/* Look at it when the loop comes around. */
void xen_device_poke(struct xen_device *d);
/* Its front end's state changed, or so it says, or the key that is followed. `token`: the watch's. */
void xen_device_front_changed(struct xen_device *d, const char *token);
/* The store's connection is another: watches are to be made anew. */
void xen_device_unwatched(struct xen_device *d);
/* What was going on is over: 0, -EAGAIN: try again later, another -errno with the reason. */
void xen_device_done(struct xen_device *d, int ret, const char *why);
/* Say (to the toolstack, and in the log) what is wrong. */
void xen_device_complain(struct xen_device *d, const char *why);

/* ---- xenstore_values.c ---- */

/* ret, an answer of the store; a fault of the store's is kept in mind. */
int xen_device_note(struct xen_device *d, int ret);
/* A number of a front end's: decimal digits only. 0, -ENOENT, -EINVAL. */
int xen_device_front_number(struct xen_device *d, const char *key, unsigned max, unsigned *out);
int xen_device_front_text(struct xen_device *d, const char *key, char *out, size_t room);
/* ... or this, if there is none. */
int xen_device_front_number_or(struct xen_device *d, const char *key, unsigned max, unsigned fallback, unsigned *out);
/* At one moment; false: not done (the log says why), as when its directory is gone. */
bool xen_device_write(struct xen_device *d, const struct xenstore_key *keys, unsigned count);
int xen_device_read(struct xen_device *d, const char *key, char out[XENSTORE_VALUE_MAX]);
/* Something of the tree's own, and no fault of the store's (which must not be taken for a guest that is gone). */
bool xen_is_answer(int ret);
/* Of whom, and what: of the same device at the same place it is the same. 0, or -errno of the store. */
int xen_identity(struct xenstore *store, const char *dir, char out[XEN_TEXT_MAX]);
/* The number that was offered under a key; fallback if none was. */
unsigned xen_offered_number(json_t *offered, const char *key, unsigned fallback);
/* Only keys (of a list that ends with NULL) with short, printable texts: a new reference. */
json_t *xen_keys_filter(json_t *keys, const char *const *allowed);
/* The same keys as they are in the backend's directory; NULL: none of them. */
json_t *xen_keys_read(struct xen_device *d, const char *const *allowed);

/* ---- xenstore_backends.c ---- */

struct xen_device *xen_backends_find(struct xen_backends *b, const char *backend);
void xen_backends_scan(struct xen_backends *b);
/* A saved disk or card was announced there: look, even if nobody announces it any more. */
void xen_backends_expect(struct xen_backends *b, const char *backend);

/* ---- xenstore_disk.c ---- */

/* Expect all that were saved. */
void xen_disks_expect(struct xen_backends *b);
void xen_cards_expect(struct xen_backends *b);

#endif
