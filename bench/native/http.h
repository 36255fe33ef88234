/* What the load generator and the upstream stub share: the clock, and where an HTTP/1.1 body ends. */
#ifndef BENCH_HTTP_H
#define BENCH_HTTP_H
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

static inline int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000000000LL + t.tv_nsec;
}

/* The value of a header field inside a head that ends with an empty line, or NULL. */
static inline const char *field(const char *head, const char *end, const char *name) {
    size_t n = strlen(name);
    const char *line = memchr(head, '\n', end - head);
    while (line && line + 1 < end) {
        line++;
        if ((size_t)(end - line) > n && line[n] == ':' && !strncasecmp(line, name, n)) {
            line += n + 1;
            while (*line == ' ') line++;
            return line;
        }
        line = memchr(line, '\n', end - line);
    }
    return NULL;
}

enum { SIZE, DATA, AFTER_DATA, TRAILER };

typedef struct {
    int chunked, done, state, extension, line;
    int64_t left, total; /* bytes still to come in this piece; bytes seen, framing left out */
} Body;

static inline void body_begin(Body *b, const char *head, const char *end) {
    const char *length = field(head, end, "Content-Length"), *coding = field(head, end, "Transfer-Encoding");
    memset(b, 0, sizeof *b);
    b->chunked = coding && !strncasecmp(coding, "chunked", 7);
    b->left = b->chunked || !length ? 0 : atoll(length);
    b->done = !b->chunked && !b->left;
}

typedef void (*Sink)(void *owner, const char *bytes, size_t n);

/* Take what belongs to this body; returns how much of it that was. */
static inline size_t body_take(Body *b, const char *p, size_t n, Sink sink, void *owner) {
    size_t i = 0;
    while (i < n && !b->done) {
        if (!b->chunked || b->state == DATA) {
            size_t m = (int64_t)(n - i) < b->left ? n - i : (size_t)b->left;
            if (sink) sink(owner, p + i, m);
            i += m, b->left -= m, b->total += m;
            if (!b->left) b->chunked ? (b->state = AFTER_DATA) : (b->done = 1);
            continue;
        }
        char c = p[i++];
        if (b->state == AFTER_DATA) {
            if (c == '\n') b->state = SIZE, b->left = b->extension = 0;
        } else if (b->state == SIZE) {
            if (c == '\n') {
                b->state = b->left ? DATA : TRAILER;
                b->line = 0;
            } else if (c == ';' || c == '\r') b->extension = 1;
            else if (!b->extension) b->left = b->left * 16 + (c <= '9' ? c - '0' : (c | 32) - 'a' + 10);
        } else {
            if (c == '\n') b->done = !b->line, b->line = 0;
            else if (c != '\r') b->line = 1;
        }
    }
    return i;
}
#endif
