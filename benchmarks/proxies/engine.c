/*
 * An engine that answers at once: what is left of a request's cost is the proxy's in front of it.
 *
 *   engine COUNT RATE METRICS [ANSWER]
 *
 * Listens on COUNT loopback ports and prints them on one line. Reads bodies with a Content-Length,
 * at RATE bytes per second and connection (0: as fast as they come), and answers as vLLM would; its
 * /metrics are the file METRICS, as one recorded of a vLLM, and its transcription the file ANSWER.
 * Knows keep-alive and nothing else of HTTP; one thread, epoll.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <sys/uio.h>
#include <unistd.h>

#define HEAD_BYTES 16384
#define TICK_MS 20
/* With a rate, the kernel may hold little of what has not been read. */
#define SLOW_RCVBUF 65536

enum kind { LISTENER, TIMER, CLIENT };

struct peer {
    enum kind kind;
    int fd;
    int used;             /* bytes of head held */
    long long left;       /* bytes of body to come; -1 while in a head */
    int is_waiting;       /* out of epoll until the next tick */
    struct peer *next, *previous; /* clients with a rate */
    char head[HEAD_BYTES + 1];
};

static int poller;
static long rate;
static struct peer *slow;
static char sink[1 << 20];

static const char TRANSCRIPTION[] =
    "{\"text\":\"And so, my fellow Americans, ask not what your country can do for you.\","
    "\"usage\":{\"type\":\"duration\",\"seconds\":3}}";
static const char MODELS[] =
    "{\"object\":\"list\",\"data\":[{\"id\":\"openai/whisper-small\",\"object\":\"model\","
    "\"created\":1,\"owned_by\":\"vllm\",\"max_model_len\":448}]}";
struct text {
    char *data;
    size_t size;
};
static struct text metrics, transcription = {(char *)TRANSCRIPTION, sizeof TRANSCRIPTION - 1};

static void fail(const char *what) {
    perror(what);
    exit(1);
}

static struct text read_text(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file || fseek(file, 0, SEEK_END)) fail(path);
    struct text text = {.size = ftell(file)};
    rewind(file);
    text.data = malloc(text.size);
    if (fread(text.data, 1, text.size, file) != text.size) fail(path);
    fclose(file);
    return text;
}

static void watch(struct peer *peer) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = peer};
    if (epoll_ctl(poller, EPOLL_CTL_ADD, peer->fd, &event)) fail("epoll_ctl");
}

static void drop(struct peer *peer) {
    if (rate) {
        if (peer->previous) peer->previous->next = peer->next; else slow = peer->next;
        if (peer->next) peer->next->previous = peer->previous;
    }
    close(peer->fd);
    free(peer);
}

static int answer(struct peer *peer) {
    char head[512];
    const char *body = transcription.data, *type = "application/json";
    size_t size = transcription.size;
    if (!strncmp(peer->head, "GET ", 4)) {
        const char *path = peer->head + 4;
        if (!strncmp(path, "/metrics", 8)) body = metrics.data, size = metrics.size, type = "text/plain; version=1.0.0";
        else if (!strncmp(path, "/v1/models", 10)) body = MODELS, size = strlen(body);
        else size = 0;
    }
    int length = snprintf(head, sizeof head,
        "HTTP/1.1 200 OK\r\ndate: Thu, 01 Jan 2026 00:00:00 GMT\r\nserver: uvicorn\r\n"
        "content-length: %zu\r\ncontent-type: %s\r\n\r\n", size, type);
    struct iovec parts[] = {{head, length}, {(char *)body, size}};
    struct msghdr message = {.msg_iov = parts, .msg_iovlen = 2};
    return sendmsg(peer->fd, &message, MSG_NOSIGNAL) == length + (ssize_t)size;
}

/* Takes the head's end, if it is there: how many bytes of the body came with it. 0: not yet. */
static int take_head(struct peer *peer) {
    peer->head[peer->used] = 0;
    char *end = memmem(peer->head, peer->used, "\r\n\r\n", 4);
    if (!end) return 0;
    end += 4;
    peer->left = 0;
    for (char *line = peer->head; line < end; line = strstr(line, "\r\n") + 2)
        if (!strncasecmp(line, "content-length:", 15)) peer->left = atoll(line + 15);
        else if (!strncasecmp(line, "expect:", 7)) send(peer->fd, "HTTP/1.1 100 Continue\r\n\r\n", 25, MSG_NOSIGNAL);
    peer->left -= peer->head + peer->used - end;
    peer->used = 0;
    return 1;
}

/* Reads up to `budget` bytes; 0 if the connection is over. */
static int serve(struct peer *peer, long budget) {
    while (budget > 0) {
        ssize_t got;
        if (peer->left < 0) {
            got = recv(peer->fd, peer->head + peer->used, HEAD_BYTES - peer->used, 0);
            if (got > 0) {
                peer->used += got;
                if (!take_head(peer) && peer->used == HEAD_BYTES) return 0;
            }
        } else {
            size_t most = sizeof sink;
            if ((long long)most > peer->left) most = peer->left;
            if ((long)most > budget) most = budget;
            got = recv(peer->fd, sink, most, 0);
            if (got > 0) peer->left -= got;
        }
        if (got == 0) return 0;
        if (got < 0) return errno == EAGAIN || errno == EINTR;
        budget -= got;
        if (peer->left == 0) {
            if (!answer(peer)) return 0;
            peer->left = -1;
        }
    }
    return 1;
}

static void greet(int listener) {
    int fd;
    while ((fd = accept4(listener, 0, 0, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
        int one = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        struct peer *peer = calloc(1, sizeof *peer);
        peer->kind = CLIENT;
        peer->fd = fd;
        peer->left = -1;
        if (rate) {
            peer->next = slow;
            if (slow) slow->previous = peer;
            slow = peer;
        }
        watch(peer);
    }
}

static void tick(int timer) {
    uint64_t ticks;
    if (read(timer, &ticks, sizeof ticks) < 0) return;
    for (struct peer *peer = slow, *next; peer; peer = next) {
        next = peer->next;
        if (peer->is_waiting) {
            peer->is_waiting = 0;
            watch(peer);
        }
    }
}

int main(int argc, char **argv) {
    if (argc < 4) return fprintf(stderr, "usage: engine COUNT RATE METRICS [ANSWER]\n"), 2;
    int count = atoi(argv[1]);
    rate = atol(argv[2]);
    metrics = read_text(argv[3]);
    if (argc > 4) transcription = read_text(argv[4]);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    poller = epoll_create1(EPOLL_CLOEXEC);
    for (int i = 0; i < count; i++) {
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
        socklen_t size = sizeof address;
        struct peer *peer = calloc(1, sizeof *peer);
        peer->kind = LISTENER;
        peer->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        int buffer = SLOW_RCVBUF;
        if (rate) setsockopt(peer->fd, SOL_SOCKET, SO_RCVBUF, &buffer, sizeof buffer);
        if (bind(peer->fd, (struct sockaddr *)&address, size) || listen(peer->fd, 4096)) fail("listen");
        getsockname(peer->fd, (struct sockaddr *)&address, &size);
        printf("%d%c", ntohs(address.sin_port), i == count - 1 ? '\n' : ' ');
        watch(peer);
    }
    fflush(stdout);
    if (rate) {
        struct peer *peer = calloc(1, sizeof *peer);
        struct itimerspec every = {{0, TICK_MS * 1000000}, {0, TICK_MS * 1000000}};
        peer->kind = TIMER;
        peer->fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
        timerfd_settime(peer->fd, 0, &every, 0);
        watch(peer);
    }
    struct epoll_event events[256];
    for (;;) {
        int ready = epoll_wait(poller, events, 256, -1);
        for (int i = 0; i < ready; i++) {
            struct peer *peer = events[i].data.ptr;
            if (peer->kind == LISTENER) greet(peer->fd);
            else if (peer->kind == TIMER) tick(peer->fd);
            else if (!serve(peer, rate ? rate * TICK_MS / 1000 : (long)sizeof sink)) drop(peer);
            else if (rate && peer->left > 0) {
                peer->is_waiting = 1;
                epoll_ctl(poller, EPOLL_CTL_DEL, peer->fd, 0);
            }
        }
    }
}
