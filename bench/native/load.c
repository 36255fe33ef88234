/* The load: one thread, epoll, HTTP/1.1 keep-alive, nothing but POST.

   load -p PORT -u PATH [options]
     -c N   connections                     -b N   body bytes
     -d S   seconds, counted after warming  -w S   seconds of warming up
     -r N   requests a second, open loop: Poisson arrivals, latency counts from the intended moment
     -n N   this many requests, no warming  -s     answers are event streams of the stub
     -t S   give up after this long

   Prints `begin` when counting starts, and one JSON object at the end; times in microseconds. */
#define _GNU_SOURCE
#include "http.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

typedef struct {
    int fd, busy, headed, status, writing, matched, first_seen;
    size_t sent, filled;
    int64_t since_ns, stamp;
    int digits;
    Body body;
    char in[16384];
} Conn;

typedef struct {
    double *us;
    size_t n, room;
} Samples;

static int ep, port, conns = 1, stream, timer = -1;
static double seconds = 2, warm, rate, limit = 60;
static int64_t count, started, finished, ok, failed, begin_ns, end_ns, next_ns, firsts;
static char *request;
static size_t request_bytes;
static Samples latency, delays;
static Conn *all;
static Conn **idle;
static int idle_n;
static int64_t waiting[1 << 16];
static unsigned wait_in, wait_out;

static void sample(Samples *s, int64_t ns) {
    if (s->n == s->room) s->us = realloc(s->us, (s->room = s->room ? 2 * s->room : 4096) * sizeof *s->us);
    s->us[s->n++] = ns / 1e3;
}

static int by_size(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double at(Samples *s, double share) {
    return s->n ? s->us[(size_t)((s->n - 1) * share)] : 0;
}

static void counting(int64_t t) {
    begin_ns = t;
    end_ns = t + (int64_t)(seconds * 1e9);
    ok = failed = 0;
    latency.n = delays.n = 0;
    puts("begin");
    fflush(stdout);
}

static void report(int64_t t) {
    qsort(latency.us, latency.n, sizeof *latency.us, by_size);
    qsort(delays.us, delays.n, sizeof *delays.us, by_size);
    printf("{\"ok\": %lld, \"failed\": %lld, \"unfinished\": %lld, \"seconds\": %.6f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f, "
           "\"events\": %zu, \"event_p50_us\": %.1f, \"event_p99_us\": %.1f}\n",
           (long long)ok, (long long)failed, (long long)(count ? count - finished : 0), (t - begin_ns) / 1e9, at(&latency, .5),
           at(&latency, .99), at(&latency, 1), delays.n, at(&delays, .5), at(&delays, .99));
    fflush(stdout);
    exit(0);
}

static void watch(Conn *c, int writing) {
    struct epoll_event e = {.events = EPOLLIN | (writing ? EPOLLOUT : 0), .data.ptr = c};
    if (c->writing != writing) epoll_ctl(ep, EPOLL_CTL_MOD, c->fd, &e);
    c->writing = writing;
}

static void dial(Conn *c) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port)};
    struct epoll_event e = {.events = EPOLLIN, .data.ptr = c};
    int one = 1;
    inet_pton(AF_INET, "127.0.0.1", &a.sin_addr);
    c->fd = socket(AF_INET, SOCK_STREAM, 0);
    if (connect(c->fd, (void *)&a, sizeof a)) {
        perror("load: connect");
        exit(1);
    }
    fcntl(c->fd, F_SETFL, O_NONBLOCK);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->writing = 0;
    epoll_ctl(ep, EPOLL_CTL_ADD, c->fd, &e);
}

static void lost(Conn *c);

static void push(Conn *c) {
    while (c->sent < request_bytes) {
        ssize_t n = send(c->fd, request + c->sent, request_bytes - c->sent, MSG_NOSIGNAL);
        if (n < 0) {
            if (errno == EAGAIN) watch(c, 1);
            else lost(c);
            return;
        }
        c->sent += n;
    }
    watch(c, 0);
}

static void start(Conn *c, int64_t since_ns) {
    c->busy = 1, c->since_ns = since_ns, c->sent = c->filled = 0, c->headed = c->matched = c->digits = c->first_seen = 0;
    started++;
    push(c);
}

static void done(Conn *c, int good) {
    int64_t t = now_ns();
    c->busy = 0;
    finished++;
    if (good) {
        ok++;
        if (begin_ns) sample(&latency, t - c->since_ns);
    } else failed++;
    if (rate > 0) {
        if (wait_out != wait_in) start(c, waiting[wait_out++ & 0xffff]);
        else idle[idle_n++] = c;
    } else if (!count || started < count) start(c, now_ns());
}

static void lost(Conn *c) {
    int busy = c->busy;
    close(c->fd);
    dial(c);
    if (busy) done(c, 0);
}

/* The stub stamps each event: `data: ` and twenty digits. */
static void events(void *owner, const char *p, size_t n) {
    static const char mark[] = "data: ";
    Conn *c = owner;
    for (size_t i = 0; i < n; i++) {
        if (c->matched == 6) {
            c->stamp = c->stamp * 10 + (p[i] - '0');
            if (++c->digits == 20) {
                if (begin_ns) sample(&delays, now_ns() - c->stamp);
                if (!c->first_seen) c->first_seen = 1, firsts++;
                c->matched = 0;
            }
        } else {
            c->matched = p[i] == mark[c->matched] ? c->matched + 1 : p[i] == 'd';
            if (c->matched == 6) c->stamp = c->digits = 0;
        }
    }
}

static void readable(Conn *c) {
    static char scratch[1 << 16];
    char *from = scratch, *e;
    ssize_t n;
    if (!c->busy || !c->headed) {
        n = recv(c->fd, c->in + c->filled, sizeof c->in - c->filled, 0);
        if (n <= 0) {
            if (n == 0 || errno != EAGAIN) lost(c);
            return;
        }
        c->filled += n;
        if (!(e = memmem(c->in, c->filled, "\r\n\r\n", 4))) return;
        c->headed = 1;
        c->status = c->filled > 12 ? atoi(c->in + 9) : 0;
        body_begin(&c->body, c->in, e + 4);
        from = e + 4;
        n = c->filled - (e + 4 - c->in);
    } else if ((n = recv(c->fd, scratch, sizeof scratch, 0)) <= 0) {
        if (n == 0 || errno != EAGAIN) lost(c);
        return;
    }
    body_take(&c->body, from, n, stream ? events : NULL, c);
    if (c->body.done) done(c, c->status == 200 && c->sent == request_bytes);
}

static void arrivals(void) {
    int64_t t = now_ns();
    struct itimerspec s = {0};
    while (next_ns <= t) {
        if (idle_n) start(idle[--idle_n], next_ns);
        else waiting[wait_in++ & 0xffff] = next_ns;
        next_ns += (int64_t)(-log(1 - drand48()) / rate * 1e9);
    }
    s.it_value.tv_sec = next_ns / 1000000000;
    s.it_value.tv_nsec = next_ns % 1000000000;
    timerfd_settime(timer, TFD_TIMER_ABSTIME, &s, NULL);
}

int main(int argc, char **argv) {
    const char *path = "/fast";
    struct epoll_event ready[256], e = {.events = EPOLLIN};
    struct rlimit files;
    size_t body = 300;
    int o, n;
    while ((o = getopt(argc, argv, "p:u:c:b:d:w:r:n:st:")) != -1) switch (o) {
        case 'p': port = atoi(optarg); break;
        case 'u': path = optarg; break;
        case 'c': conns = atoi(optarg); break;
        case 'b': body = atoll(optarg); break;
        case 'd': seconds = atof(optarg); break;
        case 'w': warm = atof(optarg); break;
        case 'r': rate = atof(optarg); break;
        case 'n': count = atoll(optarg); break;
        case 's': stream = 1; break;
        case 't': limit = atof(optarg); break;
        default: return 2;
        }
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    request = malloc(body + 1024);
    n = sprintf(request, "POST %.500s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUser-Agent: load/1\r\nAccept: */*\r\nContent-Type: %s\r\nContent-Length: %zu\r\n\r\n",
                path, port, body > 65536 ? "application/octet-stream" : "application/json", body);
    memset(request + n, 'x', body);
    if (body > 20) memcpy(request + n, "{\"prompt\":\"", 11), memcpy(request + n + body - 2, "\"}", 2);
    request_bytes = n + body;
    ep = epoll_create1(0);
    all = calloc(conns, sizeof *all);
    idle = calloc(conns, sizeof *idle);
    for (int i = 0; i < conns; i++) dial(&all[i]);
    int64_t t = now_ns(), warm_until = t + (int64_t)(warm * 1e9), give_up = t + (int64_t)(limit * 1e9);
    if (count && !stream) counting(t);
    if (rate > 0) {
        for (int i = 0; i < conns; i++) idle[idle_n++] = &all[i];
        timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
        epoll_ctl(ep, EPOLL_CTL_ADD, timer, &e);
        next_ns = t;
        arrivals();
    } else for (int i = 0; i < conns && (!count || started < count); i++) start(&all[i], now_ns());
    for (;;) {
        n = epoll_wait(ep, ready, 256, 20);
        for (int i = 0; i < n; i++) {
            Conn *c = ready[i].data.ptr;
            if (!c) {
                uint64_t ticks;
                if (read(timer, &ticks, sizeof ticks) > 0) arrivals();
                continue;
            }
            if (ready[i].events & EPOLLOUT) push(c);
            if (ready[i].events & ~EPOLLOUT) readable(c);
        }
        t = now_ns();
        if (!begin_ns && (stream ? firsts >= conns : t >= warm_until)) counting(t);
        if (count ? finished >= count : begin_ns && t >= end_ns) report(t);
        if (t > give_up) report(t);
    }
}
