/* SPDX-License-Identifier: Apache-2.0 */
/*
 * OpenSSL 3, with no configuration file, no session that is resumed and no renegotiation. Both ends show a certificate of the CA
 * that the other was given; names in certificates are not looked at, for controllers are known by address: who may
 * be a controller is decided by what the CA signs.
 *
 * Its BIO is our own, so that a peer that is gone is an error and not a signal.
 *
 * System calls: getrandom besides those of stream.h; all that needs files is done by of_tls_new().
 */
#include "openflow/tls.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/ssl.h>
#include <openssl/x509_vfy.h>

#define CERTIFICATES_MAX 32     /* of a text */
#define READ_BUFFER_BYTES 65536 /* several records of one system call */
#define SECURITY_LEVEL 2        /* 112 bits: RSA keys of 2048 bits or more, no SHA-1 */
#define CHAIN_DEPTH_MAX 8
#define DIGEST_BYTES 32 /* SHA-256 */

struct of_tls {
    SSL_CTX *ctx;
    BIO_METHOD *bio;
    uint8_t digest[DIGEST_BYTES]; /* of the texts that it was made of */
};

struct of_tls_session {
    SSL *ssl;
    uint32_t read_wants, write_wants;
    int error; /* of the last system call */
    bool failed;
    char why[160];
};

/* ---- the socket ---- */

struct of_bio {
    struct of_tls_session *session;
    int fd;
};

static int bio_result(BIO *bio, ssize_t n, int retry)
{
    struct of_bio *b = BIO_get_data(bio);
    BIO_clear_retry_flags(bio);
    b->session->error = n < 0 ? errno : 0;
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) BIO_set_flags(bio, retry | BIO_FLAGS_SHOULD_RETRY);
    return (int)n;
}

static int bio_read(BIO *bio, char *to, int max)
{
    struct of_bio *b = BIO_get_data(bio);
    return bio_result(bio, recv(b->fd, to, (size_t)max, 0), BIO_FLAGS_READ);
}

static int bio_write(BIO *bio, const char *from, int bytes)
{
    struct of_bio *b = BIO_get_data(bio);
    return bio_result(bio, send(b->fd, from, (size_t)bytes, MSG_NOSIGNAL), BIO_FLAGS_WRITE);
}

static long bio_ctrl(BIO *bio, int command, long number, void *pointer)
{
    return command == BIO_CTRL_FLUSH; /* nothing is held back; nothing else is known */
}

static int bio_destroy(BIO *bio)
{
    free(BIO_get_data(bio));
    return 1;
}

static BIO_METHOD *bio_method(void)
{
    BIO_METHOD *m = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "connection");
    if (m && BIO_meth_set_read(m, bio_read) && BIO_meth_set_write(m, bio_write) && BIO_meth_set_ctrl(m, bio_ctrl) &&
        BIO_meth_set_destroy(m, bio_destroy))
        return m;
    BIO_meth_free(m);
    return NULL;
}

static BIO *bio_new(struct of_tls *t, struct of_tls_session *s, int fd)
{
    struct of_bio *b = malloc(sizeof *b);
    BIO *bio = b ? BIO_new(t->bio) : NULL;
    if (!bio) {
        free(b);
        return NULL;
    }
    *b = (struct of_bio){.session = s, .fd = fd};
    BIO_set_data(bio, b);
    BIO_set_init(bio, 1);
    return bio;
}

/* ---- keys and certificates ---- */

static int no_passphrase(char *to, int max, int writing, void *arg)
{
    *(bool *)arg = true;
    return -1;
}

static int use_key(SSL_CTX *ctx, const char *pem, struct errmsg *e)
{
    bool encrypted = false;
    BIO *in = BIO_new_mem_buf(pem, -1);
    EVP_PKEY *key = in ? PEM_read_bio_PrivateKey(in, NULL, no_passphrase, &encrypted) : NULL;
    BIO_free(in);
    if (encrypted) return errmsg_set(e, EINVAL, "the private key is encrypted: give one without a passphrase");
    if (!key) return errmsg_set(e, EINVAL, "the private key is no PEM text of a key (-----BEGIN PRIVATE KEY-----)");
    int ok = SSL_CTX_use_PrivateKey(ctx, key);
    EVP_PKEY_free(key);
    if (ok == 1) return 0;
    if (ERR_GET_REASON(ERR_peek_last_error()) == X509_R_KEY_VALUES_MISMATCH)
        return errmsg_set(e, EINVAL, "the private key does not belong to the certificate");
    return errmsg_set(e, EINVAL, "the private key cannot be used: %s", ERR_reason_error_string(ERR_peek_last_error()));
}

/* Certificate by certificate to use(); their number, or -EINVAL. */
static int each_certificate(const char *pem, const char *what, int (*use)(SSL_CTX *, X509 *, int), SSL_CTX *ctx,
                            struct errmsg *e)
{
    BIO *in = BIO_new_mem_buf(pem, -1);
    int count = 0, ret = in ? 0 : -EINVAL;
    X509 *x;
    while (ret == 0 && (x = PEM_read_bio_X509(in, NULL, NULL, NULL))) {
        if (count == CERTIFICATES_MAX)
            ret = errmsg_set(e, EINVAL, "%s has more than %d certificates", what, CERTIFICATES_MAX);
        else if (use(ctx, x, count++) != 1)
            ret = errmsg_set(e, EINVAL, "%s cannot be used: %s", what, ERR_reason_error_string(ERR_peek_last_error()));
        X509_free(x);
    }
    BIO_free(in);
    if (ret < 0) return ret;
    bool at_end = ERR_GET_REASON(ERR_peek_last_error()) == PEM_R_NO_START_LINE;
    if (count == 0 || !at_end)
        return errmsg_set(e, EINVAL, "%s is no PEM text of certificates (-----BEGIN CERTIFICATE-----)", what);
    return 0;
}

/* Ours, then those between it and the CA. */
static int use_certificate(SSL_CTX *ctx, X509 *x, int index)
{
    return index == 0 ? SSL_CTX_use_certificate(ctx, x) : (int)SSL_CTX_add1_chain_cert(ctx, x);
}

static int use_ca(SSL_CTX *ctx, X509 *x, int index)
{
    return X509_STORE_add_cert(SSL_CTX_get_cert_store(ctx), x) == 1 ? SSL_CTX_add_client_CA(ctx, x) : 0;
}

static int setup(SSL_CTX *ctx, const char *key, const char *certificate, const char *ca, struct errmsg *e)
{
    SSL_CTX_set_min_proto_version(ctx, TLS1_2_VERSION);
    SSL_CTX_set_security_level(ctx, SECURITY_LEVEL);
    SSL_CTX_set_options(ctx, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
    SSL_CTX_set_num_tickets(ctx, 0);
    SSL_CTX_set_session_cache_mode(ctx, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(ctx,
                     SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(ctx, 1);
    SSL_CTX_set_default_read_buffer_len(ctx, READ_BUFFER_BYTES);
    SSL_CTX_set_verify(ctx, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
    SSL_CTX_set_verify_depth(ctx, CHAIN_DEPTH_MAX);
    /* A CA that is given is trusted, whoever signed it. */
    X509_VERIFY_PARAM_set_flags(SSL_CTX_get0_param(ctx), X509_V_FLAG_PARTIAL_CHAIN);
    int ret = each_certificate(certificate, "the certificate", use_certificate, ctx, e);
    if (ret == 0) ret = use_key(ctx, key, e);
    if (ret == 0) ret = each_certificate(ca, "the CA's certificate", use_ca, ctx, e);
    return ret;
}

static bool digest_texts(uint8_t out[DIGEST_BYTES], const char *key, const char *certificate, const char *ca)
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    bool good = c && EVP_DigestInit_ex(c, EVP_sha256(), NULL) && EVP_DigestUpdate(c, key, strlen(key) + 1) &&
                EVP_DigestUpdate(c, certificate, strlen(certificate) + 1) && EVP_DigestUpdate(c, ca, strlen(ca) + 1) &&
                EVP_DigestFinal_ex(c, out, NULL);
    EVP_MD_CTX_free(c);
    return good;
}

bool of_tls_is_of(const struct of_tls *t, const char *key, const char *certificate, const char *ca)
{
    uint8_t digest[DIGEST_BYTES];
    return digest_texts(digest, key, certificate, ca) && memcmp(digest, t->digest, sizeof digest) == 0;
}

int of_tls_new(struct of_tls **out, const char *key, const char *certificate, const char *ca, struct errmsg *e)
{
    *out = NULL;
    OPENSSL_init_ssl(OPENSSL_INIT_NO_LOAD_CONFIG, NULL);
    struct of_tls *t = calloc(1, sizeof *t);
    if (!t) return errmsg_set(e, ENOMEM, "out of memory");
    ERR_clear_error();
    t->ctx = SSL_CTX_new(TLS_method());
    t->bio = bio_method();
    bool made = t->ctx && t->bio && digest_texts(t->digest, key, certificate, ca);
    int ret = made ? setup(t->ctx, key, certificate, ca, e) : errmsg_set(e, ENOMEM, "out of memory");
    ERR_clear_error();
    if (ret < 0) {
        of_tls_free(t);
        return ret;
    }
    *out = t;
    return 0;
}

void of_tls_free(struct of_tls *t)
{
    if (!t) return;
    SSL_CTX_free(t->ctx);
    BIO_meth_free(t->bio);
    free(t);
}

/* ---- what went wrong ---- */

static const char *why_not_verified(long result)
{
    switch (result) {
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT:
    case X509_V_ERR_UNABLE_TO_GET_ISSUER_CERT_LOCALLY:
    case X509_V_ERR_UNABLE_TO_VERIFY_LEAF_SIGNATURE:
    case X509_V_ERR_DEPTH_ZERO_SELF_SIGNED_CERT:
    case X509_V_ERR_SELF_SIGNED_CERT_IN_CHAIN:
    case X509_V_ERR_CERT_SIGNATURE_FAILURE: return "the peer's certificate is not signed by the CA given";
    case X509_V_ERR_CERT_HAS_EXPIRED: return "the peer's certificate has expired (or a clock is wrong)";
    case X509_V_ERR_CERT_NOT_YET_VALID: return "the peer's certificate is not valid yet: are both clocks right?";
    case X509_V_ERR_INVALID_PURPOSE:
        return "the peer's certificate is not for this use: its extendedKeyUsage must allow clientAuth (who connects) "
               "or "
               "serverAuth (who is connected to)";
    case X509_V_ERR_EE_KEY_TOO_SMALL:
    case X509_V_ERR_CA_KEY_TOO_SMALL:
    case X509_V_ERR_CA_MD_TOO_WEAK:
        return "the peer's certificate is too weak: RSA keys need 2048 bits, signatures SHA-256";
    default: return X509_verify_cert_error_string(result);
    }
}

/* What the peer said of ours. */
static const char *why_refused(int reason)
{
    switch (reason) {
    case SSL_R_TLSV1_ALERT_UNKNOWN_CA:
        return "the peer refuses our certificate: it is not signed by the CA that the peer was given";
    case SSL_R_SSLV3_ALERT_CERTIFICATE_EXPIRED: return "the peer refuses our certificate: it has expired";
    case SSL_R_SSLV3_ALERT_CERTIFICATE_REVOKED: return "the peer refuses our certificate: it was revoked";
    case SSL_R_SSLV3_ALERT_BAD_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_UNSUPPORTED_CERTIFICATE:
    case SSL_R_SSLV3_ALERT_CERTIFICATE_UNKNOWN: return "the peer refuses our certificate";
    case SSL_R_TLSV1_ALERT_PROTOCOL_VERSION: return "the peer speaks no TLS 1.2 or later";
    default: return NULL;
    }
}

static const char *why_failed(SSL *ssl, unsigned long error)
{
    int reason = ERR_GET_REASON(error);
    if (SSL_get_verify_result(ssl) != X509_V_OK) return why_not_verified(SSL_get_verify_result(ssl));
    if (ERR_GET_LIB(error) != ERR_LIB_SSL) return ERR_reason_error_string(error);
    const char *refused = why_refused(reason);
    if (refused) return refused;
    switch (reason) {
    case SSL_R_PEER_DID_NOT_RETURN_A_CERTIFICATE:
        return "the peer showed no certificate: it must have one of the CA given";
    case SSL_R_WRONG_VERSION_NUMBER:
    case SSL_R_HTTP_REQUEST:
    case SSL_R_HTTPS_PROXY_REQUEST:
    case SSL_R_BAD_PACKET_LENGTH:
    case SSL_R_RECORD_TOO_SMALL:
    case SSL_R_RECORD_LENGTH_MISMATCH: return "the peer does not speak TLS: both must use ssl:, or both tcp:";
    case SSL_R_UNSUPPORTED_PROTOCOL:
    case SSL_R_NO_PROTOCOLS_AVAILABLE: return "the peer speaks no TLS 1.2 or later";
    case SSL_R_NO_SHARED_CIPHER: return "no cipher suits both ends";
    default: return ERR_reason_error_string(error);
    }
}

static ssize_t fail(struct of_tls_session *s, const char *why)
{
    s->failed = true;
    snprintf(s->why, sizeof s->why, "TLS: %s", why ? why : "the connection failed");
    return -EPROTO;
}

/* What SSL_read_ex or SSL_write_ex did not do. */
static ssize_t result(struct of_tls_session *s, uint32_t *wants)
{
    switch (SSL_get_error(s->ssl, 0)) {
    case SSL_ERROR_WANT_READ: *wants = EPOLLIN; return -EAGAIN;
    case SSL_ERROR_WANT_WRITE: *wants = EPOLLOUT; return -EAGAIN;
    case SSL_ERROR_ZERO_RETURN: break;
    case SSL_ERROR_SYSCALL:
        s->failed = true;
        if (s->error) return -s->error;
        break;
    default: return fail(s, why_failed(s->ssl, ERR_peek_error()));
    }
    return SSL_is_init_finished(s->ssl) ? 0 : fail(s, "the peer closed the connection during the handshake");
}

/* ---- sessions ---- */

int of_tls_session_new(struct of_tls_session **out, struct of_tls *t, int fd, bool client)
{
    *out = NULL;
    ERR_clear_error();
    struct of_tls_session *s = calloc(1, sizeof *s);
    SSL *ssl = s ? SSL_new(t->ctx) : NULL;
    BIO *bio = ssl ? bio_new(t, s, fd) : NULL;
    if (!bio) {
        SSL_free(ssl);
        free(s);
        ERR_clear_error();
        return -ENOMEM;
    }
    SSL_set_bio(ssl, bio, bio);
    if (client) SSL_set_connect_state(ssl);
    else SSL_set_accept_state(ssl);
    s->ssl = ssl;
    s->read_wants = EPOLLIN;
    s->write_wants = EPOLLOUT;
    *out = s;
    return 0;
}

void of_tls_session_free(struct of_tls_session *s)
{
    if (!s) return;
    ERR_clear_error();
    if (SSL_is_init_finished(s->ssl) && !s->failed) SSL_shutdown(s->ssl);
    SSL_free(s->ssl);
    ERR_clear_error();
    free(s);
}

ssize_t of_tls_session_read(struct of_tls_session *s, void *to, size_t max)
{
    size_t n;
    if (s->failed) return -EPIPE;
    ERR_clear_error();
    s->read_wants = EPOLLIN;
    return SSL_read_ex(s->ssl, to, max, &n) ? (ssize_t)n : result(s, &s->read_wants);
}

/* Record by record, as many as the socket takes. */
ssize_t of_tls_session_write(struct of_tls_session *s, const void *from, size_t bytes)
{
    size_t done = 0, n;
    if (s->failed) return -EPIPE;
    s->write_wants = EPOLLOUT;
    while (done < bytes) {
        ERR_clear_error();
        if (!SSL_write_ex(s->ssl, (const uint8_t *)from + done, bytes - done, &n)) {
            ssize_t ret = result(s, &s->write_wants);
            if (done > 0 && ret == -EAGAIN) break;
            return ret == 0 ? -EPIPE : ret;
        }
        done += n;
    }
    return (ssize_t)done;
}

uint32_t of_tls_session_wants(const struct of_tls_session *s, bool writing)
{
    return writing ? s->write_wants : s->read_wants;
}

bool of_tls_session_has_more(const struct of_tls_session *s)
{
    return !s->failed && SSL_has_pending(s->ssl);
}

const char *of_tls_session_why(const struct of_tls_session *s)
{
    return s->why[0] ? s->why : NULL;
}
