/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which message may carry what, who carries it out, and the messages that are about the device as a
 * whole. A message of a wrong size or with a wrong number of descriptors is refused before anybody
 * looks at it.
 *
 * A refused message is answered where an answer is due: with a non-zero value when the front end asked for
 * an acknowledgement, with the message's own form of failure where it has one. Where none is due the
 * front end would go on believing that it was obeyed: the session ends, and says why.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/checked.h"
#include "base/log.h"
#include "guest/notify.h"
#include "guest/vhost_user_session.h"

uint64_t vhost_features_offered(const struct vhost_session *s)
{
    return s->args.ops->features | BIT64(VHOST_USER_F_PROTOCOL_FEATURES) | BIT64(VIRTIO_F_VERSION_1);
}

/* LOG_SHMFD is not here: nothing logs the device's writes. Cards have no CONFIGURE_MEM_SLOTS: QEMU before 8.0 adds every
 * region once for each pair of queues, and an ADD_MEM_REG of what is there is an error. */
uint64_t vhost_protocol_features_offered(const struct vhost_session *s)
{
    return BIT64(VU_PROTOCOL_F_MQ) | BIT64(VU_PROTOCOL_F_REPLY_ACK) | BIT64(VU_PROTOCOL_F_BACKEND_REQ) |
           (s->args.ops->config_bytes ? BIT64(VU_PROTOCOL_F_CONFIG) : 0) |
           (s->args.ops->in_order ? 0 : BIT64(VU_PROTOCOL_F_INFLIGHT_SHMFD)) |
           (s->args.ops->announce ? BIT64(VU_PROTOCOL_F_RARP) : 0) | BIT64(VU_PROTOCOL_F_RESET_DEVICE) |
           (s->args.ops->announce ? 0 : BIT64(VU_PROTOCOL_F_CONFIGURE_MEM_SLOTS)) | BIT64(VU_PROTOCOL_F_STATUS);
}

/* ---- answers and descriptors ---- */

void vhost_message_close_fds(struct vhost_message *m)
{
    for (unsigned i = 0; i < m->fd_count; i++)
        if (m->fd[i] >= 0) guest_fd_drop(m->fd[i]);
    m->fd_count = 0;
}

int vhost_message_take_fd(struct vhost_message *m)
{
    if (m->fd_count == 0) return -1;
    int fd = m->fd[0];
    m->fd[0] = -1;
    return fd;
}

void vhost_message_answer(struct vhost_message *m, const void *payload, size_t bytes)
{
    assert(bytes <= sizeof m->reply);
    if (bytes) memcpy(m->reply, payload, bytes);
    m->reply_bytes = (uint32_t)bytes;
    m->answers = true;
}

static int answer_u64(struct vhost_message *m, uint64_t value)
{
    vhost_message_answer(m, &value, sizeof value);
    return 0;
}

static uint64_t payload_u64(const struct vhost_message *m)
{
    uint64_t v;
    memcpy(&v, m->payload, sizeof v);
    return v;
}

/* ---- features ---- */

static int get_features(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    return answer_u64(m, vhost_features_offered(s));
}

static int set_features(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    struct vhost_state *st = s->state;
    uint64_t want = payload_u64(m), extra = want & ~vhost_features_offered(s);
    if (extra) return errmsg_set(e, EINVAL, "features 0x%" PRIx64 " were not offered", extra);
    if (st->features_set && want == st->features) return 0;
    if (vhost_rings_any_running(s)) return errmsg_set(e, EBUSY, "features cannot change while rings run");
    int ret = s->args.ops->set_features(s->args.device, want & ~BIT64(VHOST_USER_F_PROTOCOL_FEATURES));
    if (ret < 0) return errmsg_set(e, -ret, "the device refused features 0x%" PRIx64, want);
    st->features = want;
    vhost_state_mark(&st->features_set, 1);
    return 0;
}

static int get_protocol_features(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    return answer_u64(m, vhost_protocol_features_offered(s));
}

static int set_protocol_features(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    uint64_t want = payload_u64(m), extra = want & ~vhost_protocol_features_offered(s);
    if (extra) return errmsg_set(e, EINVAL, "protocol features 0x%" PRIx64 " were not offered", extra);
    if (want != s->state->protocol_features && vhost_rings_any_running(s))
        return errmsg_set(e, EBUSY, "protocol features cannot change while rings run");
    s->state->protocol_features = want;
    return 0;
}

static int get_queue_num(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    return answer_u64(m, s->args.ops->queues_max);
}

static int get_max_mem_slots(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    return answer_u64(m, VHOST_REGIONS_MAX);
}

/* ---- ownership, status, reset ---- */

static int set_owner(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    return 0; /* a connection has one front end: nothing to be decided */
}

/* Deprecated: "ignore it, or disable all rings". */
static int reset_owner(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    vhost_rings_stop_all(s);
    return 0;
}

/* The device as it was before the driver came; memory and what the protocol agreed stay. */
static void reset_device_state(struct vhost_session *s, enum guest_reset kind)
{
    vhost_rings_reset(s, kind == GUEST_RESET_STATUS);
    vhost_state_mark(&s->state->features_set, 0);
    s->state->features = 0;
    s->state->status = 0;
    s->args.ops->reset(s->args.device, kind);
}

static int reset_device(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    reset_device_state(s, GUEST_RESET_DEVICE);
    return 0;
}

static int set_status(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    uint64_t status = payload_u64(m);
    if (status > 0xff) return errmsg_set(e, EINVAL, "status 0x%" PRIx64 ", expected 8 bits", status);
    /* QEMU 7.2 resets the status of a machine that is merely paused, and only then asks where its rings stand. */
    if (status == 0) reset_device_state(s, GUEST_RESET_STATUS);
    else s->state->status = (uint32_t)status;
    return 0;
}

static int get_status(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    return answer_u64(m, s->state->status);
}

/* The payload is a number in which the address is the first six bytes. */
static int send_rarp(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    if (!s->args.ops->announce) return errmsg_set(e, EOPNOTSUPP, "the device has no address to announce");
    s->args.ops->announce(s->args.device, m->payload);
    return 0;
}

/* ---- configuration space ---- */

static int config_range(const struct vhost_message *m, struct vu_config_head *head, struct errmsg *e)
{
    memcpy(head, m->payload, sizeof *head);
    if (!range_fits(head->offset, head->size_bytes, VHOST_CONFIG_MAX_BYTES))
        return errmsg_set(e, EINVAL, "%u bytes at %u, expected to end within %u", head->size_bytes, head->offset,
                          VHOST_CONFIG_MAX_BYTES);
    if (m->head.size != sizeof *head + head->size_bytes)
        return errmsg_set(e, EINVAL, "payload of %u bytes, expected %zu for %u bytes of configuration", m->head.size,
                          sizeof *head + head->size_bytes, head->size_bytes);
    return 0;
}

/* The answer is as long as the question; what the device does not have is zero. */
static int get_config(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    struct vu_config_head head;
    int ret = config_range(m, &head, e);
    if (ret < 0) return ret;
    uint8_t config[VHOST_CONFIG_MAX_BYTES] = {0}, answer[sizeof head + sizeof config];
    s->args.ops->get_config(s->args.device, config);
    memcpy(answer, &head, sizeof head);
    memcpy(answer + sizeof head, config + head.offset, head.size_bytes);
    vhost_message_answer(m, answer, sizeof head + head.size_bytes);
    return 0;
}

static int set_config(struct vhost_session *s, struct vhost_message *m, struct errmsg *e)
{
    struct vu_config_head head;
    int ret = config_range(m, &head, e);
    if (ret < 0) return ret;
    if (head.flags > 1) return errmsg_set(e, EINVAL, "flags %u, expected 0 or 1", head.flags);
    if (!range_fits(head.offset, head.size_bytes, s->args.ops->config_bytes))
        return errmsg_set(e, EINVAL, "%u bytes at %u, the configuration has %u", head.size_bytes, head.offset,
                          s->args.ops->config_bytes);
    ret = s->args.ops->set_config(s->args.device, head.offset, head.size_bytes, m->payload + sizeof head);
    if (ret < 0) return errmsg_set(e, -ret, "%u bytes at %u cannot be written", head.size_bytes, head.offset);
    return 0;
}

/* ---- the table ---- */

enum fd_rule {
    FDS_NONE,
    FDS_ONE,
    FDS_RING,        /* one, or none when the payload says so */
    FDS_PER_REGION,  /* as many as regions: the handler counts */
    FDS_NONE_OR_ONE, /* one is taken from old front ends, and not used */
};

enum failure { FAIL_ACK, FAIL_EMPTY, FAIL_ZEROES, FAIL_ENDS };

struct message_rule {
    const char *name;
    int (*run)(struct vhost_session *s, struct vhost_message *m, struct errmsg *e); /* NULL: not for us */
    uint32_t bytes_min, bytes_max;
    enum fd_rule fds;
    enum failure failure;
    unsigned needs; /* a protocol feature that must have been negotiated; 0: none */
};

#define NEEDS_NOTHING 0
#define EXACTLY(n) (n), (n)
#define U64 EXACTLY(sizeof(uint64_t))
#define STATE EXACTLY(sizeof(struct vu_vring_state))
#define CONFIG sizeof(struct vu_config_head), sizeof(struct vu_config_head) + VHOST_CONFIG_MAX_BYTES
#define INFLIGHT VU_INFLIGHT_PACKED_BYTES, sizeof(struct vu_inflight)
#define TABLE sizeof(struct vu_mem_table_head), VU_PAYLOAD_MAX
#define REGION EXACTLY(sizeof(struct vu_single_region))

static const struct message_rule rules[VU_REQUEST_COUNT] = {
    [VU_GET_FEATURES] = {"GET_FEATURES", get_features, EXACTLY(0), FDS_NONE, FAIL_ENDS},
    [VU_SET_FEATURES] = {"SET_FEATURES", set_features, U64, FDS_NONE, FAIL_ACK},
    [VU_SET_OWNER] = {"SET_OWNER", set_owner, EXACTLY(0), FDS_NONE, FAIL_ACK},
    [VU_RESET_OWNER] = {"RESET_OWNER", reset_owner, EXACTLY(0), FDS_NONE, FAIL_ACK},
    [VU_SET_MEM_TABLE] = {"SET_MEM_TABLE", vhost_set_mem_table, TABLE, FDS_PER_REGION, FAIL_ACK},
    [VU_SET_LOG_BASE] = {"SET_LOG_BASE"},
    [VU_SET_LOG_FD] = {"SET_LOG_FD"},
    [VU_SET_VRING_NUM] = {"SET_VRING_NUM", vhost_set_vring_num, STATE, FDS_NONE, FAIL_ACK},
    [VU_SET_VRING_ADDR] = {"SET_VRING_ADDR", vhost_set_vring_addr, EXACTLY(sizeof(struct vu_vring_addr)), FDS_NONE,
                           FAIL_ACK},
    [VU_SET_VRING_BASE] = {"SET_VRING_BASE", vhost_set_vring_base, STATE, FDS_NONE, FAIL_ACK},
    [VU_GET_VRING_BASE] = {"GET_VRING_BASE", vhost_get_vring_base, STATE, FDS_NONE, FAIL_ENDS},
    [VU_SET_VRING_KICK] = {"SET_VRING_KICK", vhost_set_vring_kick, U64, FDS_RING, FAIL_ACK},
    [VU_SET_VRING_CALL] = {"SET_VRING_CALL", vhost_set_vring_call, U64, FDS_RING, FAIL_ACK},
    [VU_SET_VRING_ERR] = {"SET_VRING_ERR", vhost_set_vring_err, U64, FDS_RING, FAIL_ACK},
    [VU_GET_PROTOCOL_FEATURES] = {"GET_PROTOCOL_FEATURES", get_protocol_features, EXACTLY(0), FDS_NONE, FAIL_ENDS},
    [VU_SET_PROTOCOL_FEATURES] = {"SET_PROTOCOL_FEATURES", set_protocol_features, U64, FDS_NONE, FAIL_ACK},
    /* May be asked as soon as MQ was seen among the features offered. */
    [VU_GET_QUEUE_NUM] = {"GET_QUEUE_NUM", get_queue_num, EXACTLY(0), FDS_NONE, FAIL_ENDS},
    [VU_SET_VRING_ENABLE] = {"SET_VRING_ENABLE", vhost_set_vring_enable, STATE, FDS_NONE, FAIL_ACK},
    [VU_SEND_RARP] = {"SEND_RARP", send_rarp, U64, FDS_NONE, FAIL_ACK, VU_PROTOCOL_F_RARP},
    [VU_NET_SET_MTU] = {"NET_SET_MTU"},
    [VU_SET_BACKEND_REQ_FD] = {"SET_BACKEND_REQ_FD", vhost_set_backend_req_fd, EXACTLY(0), FDS_ONE, FAIL_ACK,
                               VU_PROTOCOL_F_BACKEND_REQ},
    [VU_IOTLB_MSG] = {"IOTLB_MSG"},
    [VU_SET_VRING_ENDIAN] = {"SET_VRING_ENDIAN"},
    [VU_GET_CONFIG] = {"GET_CONFIG", get_config, CONFIG, FDS_NONE, FAIL_EMPTY, VU_PROTOCOL_F_CONFIG},
    [VU_SET_CONFIG] = {"SET_CONFIG", set_config, CONFIG, FDS_NONE, FAIL_ACK, VU_PROTOCOL_F_CONFIG},
    [VU_CREATE_CRYPTO_SESSION] = {"CREATE_CRYPTO_SESSION"},
    [VU_CLOSE_CRYPTO_SESSION] = {"CLOSE_CRYPTO_SESSION"},
    [VU_POSTCOPY_ADVISE] = {"POSTCOPY_ADVISE"},
    [VU_POSTCOPY_LISTEN] = {"POSTCOPY_LISTEN"},
    [VU_POSTCOPY_END] = {"POSTCOPY_END"},
    [VU_GET_INFLIGHT_FD] = {"GET_INFLIGHT_FD", vhost_get_inflight_fd, INFLIGHT, FDS_NONE, FAIL_ZEROES,
                            VU_PROTOCOL_F_INFLIGHT_SHMFD},
    [VU_SET_INFLIGHT_FD] = {"SET_INFLIGHT_FD", vhost_set_inflight_fd, INFLIGHT, FDS_ONE, FAIL_ACK,
                            VU_PROTOCOL_F_INFLIGHT_SHMFD},
    [VU_GPU_SET_SOCKET] = {"GPU_SET_SOCKET"},
    [VU_RESET_DEVICE] = {"RESET_DEVICE", reset_device, EXACTLY(0), FDS_NONE, FAIL_ACK, VU_PROTOCOL_F_RESET_DEVICE},
    [VU_VRING_KICK] = {"VRING_KICK"},
    [VU_GET_MAX_MEM_SLOTS] = {"GET_MAX_MEM_SLOTS", get_max_mem_slots, EXACTLY(0), FDS_NONE, FAIL_ENDS,
                              VU_PROTOCOL_F_CONFIGURE_MEM_SLOTS},
    [VU_ADD_MEM_REG] = {"ADD_MEM_REG", vhost_add_mem_reg, REGION, FDS_ONE, FAIL_ACK, VU_PROTOCOL_F_CONFIGURE_MEM_SLOTS},
    [VU_REM_MEM_REG] = {"REM_MEM_REG", vhost_rem_mem_reg, REGION, FDS_NONE_OR_ONE, FAIL_ACK,
                        VU_PROTOCOL_F_CONFIGURE_MEM_SLOTS},
    [VU_SET_STATUS] = {"SET_STATUS", set_status, U64, FDS_NONE, FAIL_ACK, VU_PROTOCOL_F_STATUS},
    [VU_GET_STATUS] = {"GET_STATUS", get_status, EXACTLY(0), FDS_NONE, FAIL_ENDS, VU_PROTOCOL_F_STATUS},
};

const char *vu_request_name(uint32_t request)
{
    return request < VU_REQUEST_COUNT ? rules[request].name : NULL;
}

unsigned vhost_message_fds_most(const struct vhost_message *m)
{
    const struct message_rule *rule = m->head.request < VU_REQUEST_COUNT ? &rules[m->head.request] : NULL;
    if (!rule || !rule->run || m->head.size < rule->bytes_min) return 0;
    switch (rule->fds) {
    case FDS_NONE: return 0;
    case FDS_ONE:
    case FDS_NONE_OR_ONE: return 1;
    case FDS_RING: return !(payload_u64(m) & VU_RING_NO_FD);
    case FDS_PER_REGION: break;
    }
    struct vu_mem_table_head head;
    memcpy(&head, m->payload, sizeof head);
    return head.count;
}

static int check_fds(const struct message_rule *rule, const struct vhost_message *m, struct errmsg *e)
{
    unsigned least = rule->fds == FDS_ONE, most = rule->fds == FDS_ONE || rule->fds == FDS_NONE_OR_ONE;
    if (m->fds_lost)
        return errmsg_set(e, EMFILE, "some of its descriptors were lost: more than %u, or too many open here",
                          VU_FDS_MAX);
    if (rule->fds == FDS_PER_REGION) return 0;
    if (rule->fds == FDS_RING) least = most = !(payload_u64(m) & VU_RING_NO_FD);
    if (m->fd_count < least || m->fd_count > most)
        return errmsg_set(e, EINVAL, "%u descriptors, expected %u", m->fd_count, m->fd_count < least ? least : most);
    return 0;
}

static int run_by_rule(struct vhost_session *s, const struct message_rule *rule, struct errmsg *e)
{
    struct vhost_message *m = &s->msg;
    if ((m->head.flags & VU_FLAG_VERSION_MASK) != VU_VERSION)
        return errmsg_set(e, EBADMSG, "protocol version %u, expected %u", m->head.flags & VU_FLAG_VERSION_MASK,
                          VU_VERSION);
    if (m->head.flags & VU_FLAG_REPLY)
        return errmsg_set(e, EBADMSG, "it is marked as an answer, but nothing was asked");
    if (!rule || !rule->run) return errmsg_set(e, EOPNOTSUPP, "not supported by this device");
    if (rule->needs && !vhost_negotiated(s, rule->needs))
        return errmsg_set(e, EPROTO, "its protocol feature (bit %u) was not negotiated", rule->needs);
    if (m->head.size < rule->bytes_min || m->head.size > rule->bytes_max)
        return errmsg_set(e, EINVAL, "payload of %u bytes, expected %u%s", m->head.size, rule->bytes_min,
                          rule->bytes_min == rule->bytes_max ? "" : " or more");
    int ret = check_fds(rule, m, e);
    return ret < 0 ? ret : rule->run(s, m, e);
}

/* The answer that says "refused", or the end of the session. */
static int fail(const struct message_rule *rule, struct vhost_message *m, int ret, struct errmsg *e)
{
    char unknown[32];
    const char *name = rule && rule->name ? rule->name : unknown;
    if (name == unknown) snprintf(unknown, sizeof unknown, "message %u", m->head.request);
    enum failure how = rule && rule->run ? rule->failure : FAIL_ACK;
    errmsg_prefix(e, ret, "%s", name);
    bool due = how == FAIL_EMPTY || how == FAIL_ZEROES || (how == FAIL_ACK && (m->head.flags & VU_FLAG_NEED_REPLY));
    if (!due || ret == -EBADMSG) return ret;
    log_limited(LOG_LEVEL_WARN, "vhost-user: refused: %s", e->text);
    if (how == FAIL_EMPTY) vhost_message_answer(m, NULL, 0);
    else if (how == FAIL_ZEROES) vhost_message_answer(m, &(struct vu_inflight){0}, sizeof(struct vu_inflight));
    else answer_u64(m, (uint64_t)-ret);
    return 0;
}

int vhost_message_run(struct vhost_session *s, struct errmsg *e)
{
    struct vhost_message *m = &s->msg;
    const struct message_rule *rule = m->head.request < VU_REQUEST_COUNT ? &rules[m->head.request] : NULL;
    struct errmsg local;
    if (!e) e = &local;
    e->text[0] = '\0';
    int ret = run_by_rule(s, rule, e);
    if (ret < 0) return fail(rule, m, ret, e);
    /* A front end may ask in the very message that agrees on REPLY_ACK, and before: whoever sets the flag waits. */
    if (!m->answers && (m->head.flags & VU_FLAG_NEED_REPLY)) answer_u64(m, 0);
    return 0;
}
