/* SPDX-License-Identifier: Apache-2.0 */
/* TLS: keys that are given, both ends' certificates, what is said when something does not fit, and connections over it. */
#include "openflow/conn_rig.h"

#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rsa.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <sys/epoll.h>

/* ---- certificates ---- */

struct identity {
    EVP_PKEY *key;
    X509 *x;
    char *key_pem, *pem;
};

struct wish {
    EVP_PKEY *key;    /* NULL: a new one */
    int from_s, to_s; /* of now; both 0: an hour on either side */
    const char *constraint, *usage;
    const char *digest;
};

static char *pem_text(BIO *bio)
{
    char *bytes;
    long n = BIO_get_mem_data(bio, &bytes);
    char *text = malloc((size_t)n + 1); /* no zero ends what a BIO has: that is no string for strndup() */
    assert_non_null(text);
    memcpy(text, bytes, (size_t)n);
    text[n] = 0;
    BIO_free(bio);
    return text;
}

static void extend(X509 *x, int nid, const char *value)
{
    if (!value) return;
    X509_EXTENSION *e = X509V3_EXT_conf_nid(NULL, NULL, nid, value);
    assert_non_null(e);
    X509_add_ext(x, e, -1);
    X509_EXTENSION_free(e);
}

static struct identity identity_new(const char *name, const struct identity *signer, const struct wish *w)
{
    static long serial;
    struct identity id = {.key = w->key ? w->key : EVP_EC_gen("P-256"), .x = X509_new()};
    X509_set_version(id.x, 2);
    ASN1_INTEGER_set(X509_get_serialNumber(id.x), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(id.x), w->from_s ? w->from_s : -3600);
    X509_gmtime_adj(X509_getm_notAfter(id.x), w->to_s ? w->to_s : 3600);
    X509_NAME_add_entry_by_txt(X509_get_subject_name(id.x), "CN", MBSTRING_ASC, (const unsigned char *)name, -1, -1, 0);
    X509_set_issuer_name(id.x, X509_get_subject_name(signer ? signer->x : id.x));
    X509_set_pubkey(id.x, id.key);
    extend(id.x, NID_basic_constraints, w->constraint);
    extend(id.x, NID_ext_key_usage, w->usage);
    const EVP_MD *digest = EVP_get_digestbyname(w->digest ? w->digest : "SHA256");
    assert_true(X509_sign(id.x, signer ? signer->key : id.key, digest) > 0);
    BIO *b = BIO_new(BIO_s_mem());
    PEM_write_bio_PrivateKey(b, id.key, NULL, NULL, 0, NULL, NULL);
    id.key_pem = pem_text(b);
    b = BIO_new(BIO_s_mem());
    PEM_write_bio_X509(b, id.x);
    id.pem = pem_text(b);
    return id;
}

static void identity_free(struct identity *id)
{
    EVP_PKEY_free(id->key);
    X509_free(id->x);
    free(id->key_pem);
    free(id->pem);
}

static const struct wish plain_wish, ca_wish = {.constraint = "critical,CA:TRUE"};
static struct identity ca, other_ca, alice, bob, mallory; /* mallory: of the other CA */

static int setup_identities(void **state)
{
    OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG, NULL);
    ca = identity_new("a CA", NULL, &ca_wish);
    other_ca = identity_new("another CA", NULL, &ca_wish);
    alice = identity_new("alice", &ca, &plain_wish);
    bob = identity_new("bob", &ca, &plain_wish);
    mallory = identity_new("mallory", &other_ca, &plain_wish);
    return 0;
}

static int clear_identities(void **state)
{
    struct identity *all[] = {&ca, &other_ca, &alice, &bob, &mallory};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        identity_free(all[i]);
    return 0;
}

static struct of_tls *tls_of(const struct identity *id, const struct identity *trusted)
{
    struct of_tls *t;
    struct errmsg e = {""};
    if (of_tls_new(&t, id->key_pem, id->pem, trusted->pem, &e) < 0) fail_msg("%s", e.text);
    return t;
}

/* ---- two streams ---- */

struct ends {
    struct of_stream *client, *server;
    ssize_t of_client, of_server; /* what a read failed with; 0: none did */
    char client_why[200], server_why[200];
};

static void step(struct of_stream *s, ssize_t *failed, char *why, bool *wrote, unsigned *read)
{
    char text[64];
    if (*failed) return;
    ssize_t n = 1;
    if (!*wrote) {
        n = of_stream_write(s, "hello", 5);
        *wrote = n == 5;
    }
    if (n > 0 || n == -EAGAIN) n = of_stream_read(s, text, sizeof text);
    if (n > 0) *read += (unsigned)n;
    if (n > 0 || n == -EAGAIN) return;
    *failed = n == 0 ? -ECONNRESET : n;
    snprintf(why, 200, "%s", n == 0 ? "closed" : of_stream_why(s, (int)-n));
}

/* Both write and read until one fails or both have read. */
static struct ends meet(struct of_tls *client, struct of_tls *server)
{
    int s[2];
    struct ends e = {0};
    assert_return_code(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), errno);
    assert_int_equal(of_stream_new(&e.client, s[0], client, true), 0);
    assert_int_equal(of_stream_new(&e.server, s[1], server, false), 0);
    bool client_wrote = false, server_wrote = false;
    unsigned client_read = 0, server_read = 0;
    for (int i = 0; i < 20 && (client_read < 5 || server_read < 5); i++) {
        step(e.client, &e.of_client, e.client_why, &client_wrote, &client_read);
        step(e.server, &e.of_server, e.server_why, &server_wrote, &server_read);
    }
    assert_true(e.of_client || e.of_server || (client_read == 5 && server_read == 5));
    of_stream_free(e.client);
    of_stream_free(e.server);
    return e;
}

static void test_both_ends_know_each_other(void **state)
{
    struct of_tls *a = tls_of(&alice, &ca), *b = tls_of(&bob, &ca);
    struct ends e = meet(a, b);
    assert_int_equal(e.of_client, 0);
    assert_int_equal(e.of_server, 0);
    e = meet(b, a);
    assert_int_equal(e.of_client | e.of_server, 0);
    of_tls_free(a);
    of_tls_free(b);
}

static void refused(const struct identity *client, const struct identity *client_ca, const struct identity *server,
                    const struct identity *server_ca, const char *client_why, const char *server_why)
{
    struct of_tls *a = tls_of(client, client_ca), *b = tls_of(server, server_ca);
    struct ends e = meet(a, b);
    if (client_why && !strstr(e.client_why, client_why)) fail_msg("client: %s", e.client_why);
    if (server_why && !strstr(e.server_why, server_why)) fail_msg("server: %s", e.server_why);
    of_tls_free(a);
    of_tls_free(b);
}

static void test_the_same_texts(void **state)
{
    struct of_tls *t = tls_of(&alice, &ca);
    assert_true(of_tls_is_of(t, alice.key_pem, alice.pem, ca.pem));
    assert_false(of_tls_is_of(t, bob.key_pem, bob.pem, ca.pem));
    assert_false(of_tls_is_of(t, alice.key_pem, alice.pem, other_ca.pem));
    assert_false(of_tls_is_of(t, "", "", ""));
    of_tls_free(t);
}

static void test_another_ca(void **state)
{
    refused(&mallory, &ca, &bob, &ca, "is not signed by the CA that the peer was given",
            "the peer's certificate is not signed by the CA given");
    refused(&alice, &ca, &mallory, &ca, "the peer's certificate is not signed by the CA given",
            "is not signed by the CA that the peer was given");
    struct identity self = identity_new("self", NULL, &plain_wish);
    refused(&self, &ca, &bob, &ca, NULL, "the peer's certificate is not signed by the CA given");
    identity_free(&self);
    /* The name of the CA is not enough. */
    struct identity false_ca = identity_new("a CA", NULL, &ca_wish),
                    forged = identity_new("alice", &false_ca, &plain_wish);
    refused(&forged, &ca, &bob, &ca, NULL, "the peer's certificate is not signed by the CA given");
    identity_free(&forged);
    identity_free(&false_ca);
}

static void test_dates(void **state)
{
    struct wish old = {.from_s = -7200, .to_s = -3600}, early = {.from_s = 3600, .to_s = 7200};
    struct identity expired = identity_new("old", &ca, &old), unborn = identity_new("early", &ca, &early);
    refused(&expired, &ca, &bob, &ca, "the peer refuses our certificate: it has expired", "has expired");
    refused(&unborn, &ca, &bob, &ca, "the peer refuses our certificate", "is not valid yet");
    identity_free(&expired);
    identity_free(&unborn);
}

static void test_use(void **state)
{
    struct wish serves = {.usage = "serverAuth"};
    struct identity server = identity_new("server", &ca, &serves);
    refused(&alice, &ca, &server, &ca, NULL, "");
    refused(&server, &ca, &bob, &ca, "the peer refuses our certificate", "extendedKeyUsage");
    identity_free(&server);
    struct wish connects = {.usage = "clientAuth"};
    struct identity client = identity_new("client", &ca, &connects);
    refused(&client, &ca, &bob, &ca, NULL, "");
    refused(&alice, &ca, &client, &ca, "extendedKeyUsage", "the peer refuses our certificate");
    identity_free(&client);
}

static void test_weak_keys(void **state)
{
    struct wish weak = {.key = EVP_RSA_gen(1024)};
    struct identity id = identity_new("weak", &ca, &weak);
    struct of_tls *t;
    struct errmsg e;
    assert_int_equal(of_tls_new(&t, id.key_pem, id.pem, ca.pem, &e), -EINVAL);
    assert_non_null(strstr(e.text, "key too small"));
    identity_free(&id);
}

/* A certificate between ours and the CA comes along; a CA that another signed will do. */
static void test_chain(void **state)
{
    struct identity middle = identity_new("middle", &ca, &ca_wish), leaf = identity_new("leaf", &middle, &plain_wish);
    refused(&leaf, &ca, &bob, &ca, NULL, "the peer's certificate is not signed by the CA given");
    refused(&leaf, &ca, &bob, &middle, "", "");
    struct identity with = leaf;
    assert_return_code(asprintf(&with.pem, "%s%s", leaf.pem, middle.pem), errno);
    struct of_tls *a = tls_of(&with, &ca), *b = tls_of(&bob, &ca), *c = tls_of(&bob, &middle);
    struct ends e = meet(a, b);
    assert_int_equal(e.of_client | e.of_server, 0);
    struct of_tls *d = tls_of(&leaf, &ca);
    e = meet(d, c);
    assert_int_equal(e.of_client | e.of_server, 0);
    of_tls_free(a);
    of_tls_free(b);
    of_tls_free(c);
    of_tls_free(d);
    free(with.pem);
    identity_free(&leaf);
    identity_free(&middle);
}

static void test_plain_peers(void **state)
{
    struct of_tls *a = tls_of(&alice, &ca);
    static const char *const said[] = {"\4\0\0\x10\0\0\0\0\0\1\0\x08\0\0\0\x10", "\1\0\0\x08\0\0\0\0\1\0\0\x08\0\0\0\0",
                                       "GET / HTTP/1.1\r\n", "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"};
    for (int client = 0; client < 2; client++) {
        for (size_t i = 0; i < sizeof said / sizeof *said; i++) {
            int s[2];
            char text[64];
            struct of_stream *stream;
            assert_return_code(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), errno);
            assert_int_equal(of_stream_new(&stream, s[0], a, client), 0);
            assert_int_equal(send(s[1], said[i], 16, 0), 16);
            ssize_t n = of_stream_read(stream, text, sizeof text);
            assert_int_equal(n, -EPROTO);
            const char *why = of_stream_why(stream, EPROTO);
            if (!strstr(why, "the peer does not speak TLS")) fail_msg("%zu, %d: %s", i, client, why);
            assert_true(of_stream_write(stream, "hello", 5) < 0); /* it stays so */
            assert_true(of_stream_read(stream, text, sizeof text) < 0);
            assert_false(of_stream_has_more(stream));
            of_stream_free(stream);
            close(s[1]);
        }
    }
    of_tls_free(a);
}

static void test_peer_leaves_during_the_handshake(void **state)
{
    struct of_tls *a = tls_of(&alice, &ca);
    for (int client = 0; client < 2; client++) {
        int s[2];
        char text[64];
        struct of_stream *stream;
        assert_return_code(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), errno);
        assert_int_equal(of_stream_new(&stream, s[0], a, client), 0);
        assert_int_equal(of_stream_read(stream, text, sizeof text), -EAGAIN);
        close(s[1]);
        assert_true(of_stream_read(stream, text, sizeof text) < 0);
        of_stream_free(stream);
    }
    of_tls_free(a);
}

/* ---- what is given ---- */

static void given(const char *key, const char *certificate, const char *trusted, const char *why)
{
    struct of_tls *t;
    struct errmsg e = {""};
    assert_int_equal(of_tls_new(&t, key, certificate, trusted, &e), -EINVAL);
    assert_null(t);
    if (!strstr(e.text, why)) fail_msg("%s", e.text);
}

static void test_bad_texts(void **state)
{
    given("", alice.pem, ca.pem, "the private key is no PEM text");
    given(alice.pem, alice.pem, ca.pem, "the private key is no PEM text");
    given(bob.key_pem, alice.pem, ca.pem, "the private key does not belong to the certificate");
    given(alice.key_pem, "", ca.pem, "the certificate is no PEM text");
    given(alice.key_pem, alice.pem, "", "the CA's certificate is no PEM text");
    given(alice.key_pem, alice.pem, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no PEM text");
    BIO *b = BIO_new(BIO_s_mem());
    PEM_write_bio_PrivateKey(b, alice.key, EVP_aes_128_cbc(), (const unsigned char *)"secret", 6, NULL, NULL);
    char *locked = pem_text(b);
    given(locked, alice.pem, ca.pem, "encrypted: give one without a passphrase");
    free(locked);
}

static void test_too_many_certificates(void **state)
{
    size_t n = strlen(ca.pem);
    char *many = calloc(33, n + 1);
    for (int i = 0; i < 33; i++)
        memcpy(many + (size_t)i * n, ca.pem, n);
    given(alice.key_pem, alice.pem, many, "more than 32 certificates");
    free(many);
}

/* Every way to cut a text off. */
static void test_cut_texts(void **state)
{
    for (size_t n = 0; n < strlen(alice.pem) - 2; n += 13) {
        char *cut = strndup(alice.pem, n);
        struct of_tls *t;
        assert_int_equal(of_tls_new(&t, alice.key_pem, cut, ca.pem, NULL), -EINVAL);
        free(cut);
    }
}

/* ---- old peers ---- */

static void test_old_versions(void **state)
{
    struct of_tls *b = tls_of(&bob, &ca);
    int s[2];
    char text[64];
    struct of_stream *stream;
    assert_return_code(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, s), errno);
    assert_int_equal(of_stream_new(&stream, s[0], b, false), 0);
    SSL_CTX *ctx = SSL_CTX_new(TLS_method());
    SSL_CTX_set_security_level(ctx, 0);
    SSL_CTX_set_min_proto_version(ctx, TLS1_VERSION);
    SSL_CTX_set_max_proto_version(ctx, TLS1_1_VERSION);
    SSL *ssl = SSL_new(ctx);
    SSL_set_fd(ssl, s[1]);
    SSL_connect(ssl);
    assert_int_equal(of_stream_read(stream, text, sizeof text), -EPROTO);
    assert_non_null(strstr(of_stream_why(stream, EPROTO), "no TLS 1.2 or later"));
    SSL_free(ssl);
    SSL_CTX_free(ctx);
    of_stream_free(stream);
    close(s[1]);
    of_tls_free(b);
}

/* ---- peers without a certificate ---- */

/* It may say what it will: nothing of it is heard. */
static void test_a_peer_without_a_certificate(void **state)
{
    static const int versions[] = {TLS1_2_VERSION, TLS1_3_VERSION};
    for (unsigned i = 0; i < 2; i++) {
        struct of_tls *b = tls_of(&bob, &ca);
        int s[2];
        char text[64] = "hello";
        struct of_stream *stream;
        ssize_t n = -EAGAIN;
        assert_return_code(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, s), errno);
        assert_int_equal(of_stream_new(&stream, s[0], b, false), 0);
        SSL_CTX *ctx = SSL_CTX_new(TLS_client_method());
        SSL_CTX_set_max_proto_version(ctx, versions[i]);
        SSL *ssl = SSL_new(ctx);
        SSL_set_fd(ssl, s[1]);
        SSL_set_connect_state(ssl);
        for (unsigned j = 0; j < 10 && n == -EAGAIN; j++) {
            SSL_write(ssl, text, (int)sizeof text);
            n = of_stream_read(stream, text, sizeof text);
        }
        assert_int_equal(n, -EPROTO);
        assert_non_null(strstr(of_stream_why(stream, EPROTO), "showed no certificate"));
        assert_int_equal(of_stream_read(stream, text, sizeof text), -EPIPE);
        SSL_free(ssl);
        SSL_CTX_free(ctx);
        of_stream_free(stream);
        close(s[1]);
        of_tls_free(b);
    }
}

/* ---- connections ---- */

/* Two connections, each other's peer. */
static void connect_both(struct rig *a, struct rig *b, struct of_tls *client, struct of_tls *server)
{
    int s[2];
    struct of_stream *stream;
    struct of_conn_ops ops = rig_ops;
    memset(a, 0, sizeof *a);
    memset(b, 0, sizeof *b);
    a->loop = b->loop = loop_new();
    a->peer = b->peer = -1;
    assert_return_code(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), errno);
    ops.arg = a;
    assert_int_equal(of_stream_new(&stream, s[0], client, true), 0);
    assert_int_equal(of_conn_new(&a->conn, a->loop, stream, 15, &ops), 0);
    ops.arg = b;
    assert_int_equal(of_stream_new(&stream, s[1], server, false), 0);
    assert_int_equal(of_conn_new(&b->conn, b->loop, stream, 15, &ops), 0);
}

static void disconnect_both(struct rig *a, struct rig *b)
{
    of_conn_free(a->conn);
    of_conn_free(b->conn);
    loop_free(a->loop);
}

static void say(struct rig *r, uint32_t xid, size_t payload)
{
    struct of_out *o = of_conn_out(r->conn);
    of_out_begin(o, OFPT_EXPERIMENTER, xid);
    of_out_put(o, payload);
    assert_true(of_out_end(o));
    of_conn_send(r->conn);
}

static void test_messages(void **state)
{
    struct of_tls *a = tls_of(&alice, &ca), *b = tls_of(&bob, &ca);
    struct rig client, server;
    connect_both(&client, &server, a, b);
    rig_run(&client);
    assert_int_equal(client.established, 1);
    assert_int_equal(server.established, 1);
    /* More than both sockets hold, less than makes them pause, both ways at once. */
    size_t sum = 0;
    for (uint32_t i = 0; i < 300; i++) {
        say(&client, i, i * 22);
        say(&server, i, i * 22);
        sum += 8 + i * 22;
    }
    for (int i = 0; i < 1000 && (client.message_bytes < sum || server.message_bytes < sum); i++)
        rig_run(&client);
    assert_int_equal(client.message_bytes, sum);
    assert_int_equal(server.message_bytes, sum);
    assert_int_equal(client.ended + server.ended, 0);
    of_conn_close(client.conn, "enough");
    rig_run(&client);
    assert_int_equal(client.ended, 1);
    assert_int_equal(server.ended, 1);
    assert_string_equal(server.reason, "the peer closed the connection");
    disconnect_both(&client, &server);
    of_tls_free(a);
    of_tls_free(b);
}

static void stop_reading(struct rig *r, const uint8_t *message, size_t bytes)
{
    of_conn_read(r->conn, false);
}

/* What TLS had read already is handed over when reading goes on, though no event tells of it; and the loop sleeps before. */
static void test_what_was_read_already(void **state)
{
    struct of_tls *a = tls_of(&alice, &ca), *b = tls_of(&bob, &ca);
    struct rig client, server;
    connect_both(&client, &server, a, b);
    rig_run(&client);
    server.on_message = stop_reading;
    for (uint32_t i = 0; i < 10; i++)
        say(&client, i, 60000);
    for (int i = 0; i < 50; i++)
        rig_run(&client);
    assert_int_equal(server.messages, 1);
    server.on_message = NULL;
    of_conn_read(server.conn, true);
    for (int i = 0; i < 50; i++)
        rig_run(&client);
    assert_int_equal(server.messages, 10);
    disconnect_both(&client, &server);
    of_tls_free(a);
    of_tls_free(b);
}

static void test_one_end_is_plain(void **state)
{
    struct of_tls *a = tls_of(&alice, &ca);
    struct rig client, server;
    connect_both(&client, &server, a, NULL);
    rig_run(&client);
    assert_int_equal(client.ended, 1);
    assert_int_equal(server.ended, 1);
    assert_non_null(strstr(client.reason, "the peer does not speak TLS"));
    assert_non_null(strstr(server.reason, "the peer speaks TLS"));
    disconnect_both(&client, &server);
    connect_both(&client, &server, NULL, a);
    rig_run(&client);
    assert_non_null(strstr(server.reason, "the peer does not speak TLS"));
    assert_int_equal(client.ended, 1);
    disconnect_both(&client, &server);
    of_tls_free(a);
}

static void test_strangers_are_told(void **state)
{
    struct of_tls *a = tls_of(&mallory, &ca), *b = tls_of(&bob, &ca);
    struct rig client, server;
    connect_both(&client, &server, a, b);
    rig_run(&client);
    assert_int_equal(server.established, 0);
    assert_string_equal(server.reason, "TLS: the peer's certificate is not signed by the CA given");
    assert_string_equal(client.reason,
                        "TLS: the peer refuses our certificate: it is not signed by the CA that the peer was given");
    disconnect_both(&client, &server);
    of_tls_free(a);
    of_tls_free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ends_know_each_other),
        cmocka_unit_test(test_the_same_texts),
        cmocka_unit_test(test_another_ca),
        cmocka_unit_test(test_dates),
        cmocka_unit_test(test_use),
        cmocka_unit_test(test_weak_keys),
        cmocka_unit_test(test_chain),
        cmocka_unit_test(test_plain_peers),
        cmocka_unit_test(test_peer_leaves_during_the_handshake),
        cmocka_unit_test(test_bad_texts),
        cmocka_unit_test(test_too_many_certificates),
        cmocka_unit_test(test_cut_texts),
        cmocka_unit_test(test_old_versions),
        cmocka_unit_test(test_a_peer_without_a_certificate),
        cmocka_unit_test(test_messages),
        cmocka_unit_test(test_what_was_read_already),
        cmocka_unit_test(test_one_end_is_plain),
        cmocka_unit_test(test_strangers_are_told),
    };
    return cmocka_run_group_tests(tests, setup_identities, clear_identities);
}
