/* The upstream that everything is measured against: one thread, epoll, drops bodies unread where it can.

   stub PORT            listens on 127.0.0.1; PORT 0 takes a free one; prints the port
   .../fast             a 1 KB JSON answer with eight fields
   .../echo             the request's head as it arrived, and the body's length in X-Body-Bytes
   .../delay/MS         the same answer as fast after MS milliseconds
   .../slurp/KIB        reads the body at KIB KiB a second, then answers
   .../sse/N/MS         N server-sent events, one every MS milliseconds, each with its sending time (monotonic, ns) */
#define _GNU_SOURCE
#include "http.h"
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HEAD_BYTES = 32768, TICK_MS = 10 };
enum { READ_HEAD, READ_BODY, WAIT };

typedef struct {
    int fd, state, closed, timed, events, interval_ms, streams;
    int64_t due_ns, slurp; /* slurp: bytes a second, 0 = as fast as they come */
    size_t filled;
    size_t head_bytes;
    Body body;
    char action[8], in[HEAD_BYTES];
} Conn;

static int ep;
static char scratch[1 << 18], fast[2048];
static size_t fast_bytes;
static Conn *heap[1 << 16];
static int heap_n;

static void later(Conn *c, int64_t due_ns) {
    int i = heap_n++;
    c->due_ns = due_ns, c->timed = 1;
    while (i && heap[(i - 1) / 2]->due_ns > due_ns) heap[i] = heap[(i - 1) / 2], i = (i - 1) / 2;
    heap[i] = c;
}

static Conn *pop(void) {
    Conn *top = heap[0], *last = heap[--heap_n];
    int i = 0;
    for (;;) {
        int k = 2 * i + 1;
        if (k >= heap_n) break;
        if (k + 1 < heap_n && heap[k + 1]->due_ns < heap[k]->due_ns) k++;
        if (heap[k]->due_ns >= last->due_ns) break;
        heap[i] = heap[k], i = k;
    }
    heap[i] = last;
    top->timed = 0;
    return top;
}

static void end(Conn *c) {
    if (c->closed) return;
    close(c->fd);
    c->closed = 1;
    if (!c->timed) later(c, 0); /* freed by its timer: whoever called this may still look at it */
}

static void listen_to(Conn *c, int on) {
    struct epoll_event e = {.events = on ? EPOLLIN : 0, .data.ptr = c};
    epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
}

/* Answers are far smaller than a socket's buffer: one that does not fit means nobody reads any more. */
static int put(Conn *c, const char *p, size_t n) {
    if (send(c->fd, p, n, MSG_NOSIGNAL) == (ssize_t)n) return 1;
    end(c);
    return 0;
}

static void next_request(Conn *c) {
    c->state = READ_HEAD, c->filled = 0, c->slurp = 0;
}

static void event(Conn *c) {
    char text[320], line[384];
    int n = snprintf(text, sizeof text,
                     "data: %020lld {\"id\":\"chatcmpl-bench\",\"object\":\"chat.completion.chunk\",\"model\":\"bench\","
                     "\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word\"}}]}\n\n",
                     (long long)now_ns());
    n = snprintf(line, sizeof line, "%x\r\n%s\r\n%s", n, text, --c->events ? "" : "0\r\n\r\n");
    if (put(c, line, n) && !c->events) c->streams = 0, next_request(c);
}

static void answer(Conn *c) {
    char head[512];
    if (!strcmp(c->action, "delay")) {
        c->state = WAIT;
        later(c, now_ns() + c->interval_ms * 1000000LL);
    } else if (!strcmp(c->action, "sse")) {
        const char *start = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n"
                            "Transfer-Encoding: chunked\r\n\r\n";
        c->state = WAIT, c->streams = 1;
        if (!put(c, start, strlen(start))) return;
        event(c);
        /* The second event at a random moment of the interval, so that streams do not march in step. */
        if (!c->closed && c->streams) later(c, now_ns() + (int64_t)(drand48() * c->interval_ms * 1e6));
    } else if (!strcmp(c->action, "echo")) {
        int n = snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %zu\r\nX-Body-Bytes: %lld\r\n\r\n",
                         c->head_bytes, (long long)c->body.total);
        if (put(c, head, n) && put(c, c->in, c->head_bytes)) next_request(c);
    } else if (put(c, fast, fast_bytes)) next_request(c);
}

static void begin(Conn *c, const char *head_end) {
    char *path = memchr(c->in, ' ', 16), *stop = path ? memchr(path + 1, ' ', head_end - path - 1) : NULL;
    char *name;
    int kib = 0, small = 131072;
    if (!stop) {
        end(c);
        return;
    }
    *stop = 0;
    c->action[0] = 0;
    if ((name = strstr(path, "/sse/")) && sscanf(name, "/sse/%d/%d", &c->events, &c->interval_ms) == 2) strcpy(c->action, "sse");
    else if ((name = strstr(path, "/delay/")) && sscanf(name, "/delay/%d", &c->interval_ms) == 1) strcpy(c->action, "delay");
    else if ((name = strstr(path, "/slurp/")) && sscanf(name, "/slurp/%d", &kib) == 1) {
        c->slurp = kib * 1024LL; /* what the kernel holds is not read: a large buffer would hide the slowness */
        setsockopt(c->fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof small);
    } else if (strstr(path, "/echo")) strcpy(c->action, "echo");
    *stop = ' ';
    c->head_bytes = head_end - c->in;
    body_begin(&c->body, c->in, head_end);
    body_take(&c->body, head_end, c->filled - c->head_bytes, NULL, NULL);
    c->state = READ_BODY;
}

/* Read up to `most` bytes of the body; 0 when there is nothing more for now. */
static int64_t take(Conn *c, int64_t most) {
    ssize_t n;
    if (!c->body.chunked) { /* MSG_TRUNC on TCP: thrown away inside the kernel, never copied */
        n = recv(c->fd, scratch, most < c->body.left ? most : c->body.left, MSG_TRUNC);
        if (n > 0) c->body.left -= n, c->body.total += n, c->body.done = !c->body.left;
    } else {
        n = recv(c->fd, scratch, most < (int64_t)sizeof scratch ? most : (int64_t)sizeof scratch, 0);
        if (n > 0) body_take(&c->body, scratch, n, NULL, NULL);
    }
    if (n > 0) return n;
    if (n == 0 || (errno != EAGAIN && errno != EINTR)) end(c);
    return 0;
}

static void readable(Conn *c) {
    if (c->state == READ_HEAD) {
        ssize_t n = recv(c->fd, c->in + c->filled, HEAD_BYTES - c->filled, 0);
        char *e;
        if (n <= 0) {
            if (n == 0 || errno != EAGAIN) end(c);
            return;
        }
        c->filled += n;
        if (!(e = memmem(c->in, c->filled, "\r\n\r\n", 4))) {
            if (c->filled == HEAD_BYTES) end(c);
            return;
        }
        begin(c, e + 4);
        if (c->closed) return;
        if (c->slurp && !c->body.done) {
            listen_to(c, 0);
            later(c, now_ns() + TICK_MS * 1000000LL);
            return;
        }
    } else if (c->state == READ_BODY) {
        take(c, 1 << 20);
        if (c->closed) return;
    } else { /* not asked for: the other side left, or talks out of turn */
        if (recv(c->fd, scratch, sizeof scratch, 0) == 0 || errno != EAGAIN) end(c);
        return;
    }
    if (c->state == READ_BODY && c->body.done) answer(c);
}

static void tick(Conn *c) {
    if (c->closed) {
        free(c);
    } else if (c->slurp && c->state == READ_BODY) {
        int64_t room = c->slurp * TICK_MS / 1000, n = 1;
        while (room > 0 && n > 0 && !c->body.done) {
            n = take(c, room);
            if (c->closed) return;
            room -= n;
        }
        if (!c->body.done) {
            later(c, c->due_ns + TICK_MS * 1000000LL);
            return;
        }
        listen_to(c, 1);
        answer(c);
    } else if (c->streams) {
        event(c);
        if (!c->closed && c->streams) later(c, c->due_ns + c->interval_ms * 1000000LL);
    } else {
        c->action[0] = 0;
        answer(c);
    }
}

int main(int argc, char **argv) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(argc > 1 ? atoi(argv[1]) : 0)};
    socklen_t size = sizeof a;
    struct epoll_event e = {.events = EPOLLIN}, ready[256];
    struct rlimit files;
    char json[1100];
    int one = 1, door = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

    prctl(PR_SET_PDEATHSIG, SIGTERM); /* never left behind */
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    memset(json, 'x', sizeof json);
    memcpy(json, "{\"answer\":\"", 11);
    memcpy(json + 1022, "\"}", 2);
    fast_bytes = snprintf(fast, sizeof fast,
                          "HTTP/1.1 200 OK\r\nServer: stub\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\nContent-Type: application/json\r\n"
                          "Content-Length: 1024\r\nX-Request-Id: 0123456789abcdef0123456789abcdef\r\nCache-Control: no-store\r\n"
                          "X-Content-Type-Options: nosniff\r\nVary: Accept-Encoding\r\n\r\n%.1024s", json);
    inet_pton(AF_INET, "127.0.0.1", &a.sin_addr);
    setsockopt(door, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(door, (void *)&a, sizeof a) || listen(door, 4096)) {
        perror("stub");
        return 1;
    }
    getsockname(door, (void *)&a, &size);
    printf("%d\n", ntohs(a.sin_port));
    fflush(stdout);
    ep = epoll_create1(0);
    epoll_ctl(ep, EPOLL_CTL_ADD, door, &e);
    for (;;) {
        int64_t wait_ms = -1;
        if (heap_n) {
            wait_ms = (heap[0]->due_ns - now_ns() + 999999) / 1000000;
            if (wait_ms < 0) wait_ms = 0;
        }
        int n = epoll_wait(ep, ready, 256, (int)wait_ms);
        for (int i = 0; i < n; i++) {
            Conn *c = ready[i].data.ptr;
            int fd;
            if (c) {
                readable(c);
                continue;
            }
            while ((fd = accept4(door, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
                c = calloc(1, sizeof *c);
                c->fd = fd;
                setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
                e = (struct epoll_event){.events = EPOLLIN, .data.ptr = c};
                epoll_ctl(ep, EPOLL_CTL_ADD, fd, &e);
            }
        }
        for (int64_t t = now_ns(); heap_n && heap[0]->due_ns <= t;) tick(pop());
    }
}
