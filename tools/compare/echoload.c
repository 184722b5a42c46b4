// A load generator for one-shot echo servers on this machine.
//
//   echoload PORT CLIENTS SECONDS   clients that exchange again and again
//   echoload PORT CLIENTS hold      clients that stay idle once they are greeted
//
// One exchange: connect, read the greeting, send a message, read the echo,
// read EOF. Every byte is checked, and no two messages are the same. After
// SECONDS no exchange starts any more, and those in progress finish; with 0,
// each client makes one. With `hold` it prints "held N" and waits for a line
// or EOF on stdin before the clients finish their exchanges.
//
// Prints one line of JSON. Latency is from the connect to EOF.
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

static const char greeting[] = "Hello World!\r\n";
enum {
  GREETING_SIZE = sizeof greeting - 1,
  MESSAGE_SIZE = 32,
  SOURCES = 16,          // each source address has ports for 28 000 clients
  MAX_CONNECTING = 256, // at once, while holding: a listener's queue is short
};
static const uint64_t TIMEOUT = 10 * 1000000, SWEEP = 100 * 1000; // in µs

enum state { IDLE, GREETING, GREETED, ECHO, END };
struct client {
  enum state state;
  int fd;
  size_t received;
  uint64_t started;
  char message[MESSAGE_SIZE + 1];
};

enum failure { CONNECT, RESET, EARLY_EOF, WRONG_BYTES, TIMED_OUT, OTHER, FAILURES };
static const char *const failure_names[] = {
    "connect", "reset", "early_eof", "wrong_bytes", "timeout", "other"};

static struct sockaddr_in server;
static struct client *clients;
static int count, active, epoll;
static bool holding;
static uint64_t deadline, next_sweep;

static unsigned long long started, greeted, exchanges, failures[FAILURES];
static uint32_t *latencies; // in µs, one for each exchange
static size_t capacity;

static void die(const char *what) {
  perror(what);
  exit(1);
}

static uint64_t now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * 1000000ull + t.tv_nsec / 1000;
}

static void leave(struct client *c) {
  close(c->fd);
  c->state = IDLE;
  active--;
}

static void fail(struct client *c, enum failure why) {
  failures[why]++;
  leave(c);
}

static enum failure reason(int error) {
  switch (error) {
  case ECONNREFUSED:
  case ENOTCONN:
    return CONNECT;
  case ECONNRESET:
  case EPIPE:
    return RESET;
  default:
    return OTHER;
  }
}

static void succeed(struct client *c) {
  if (exchanges == capacity) {
    capacity = capacity ? 2 * capacity : 1 << 16;
    latencies = realloc(latencies, capacity * sizeof *latencies);
    if (!latencies) die("realloc");
  }
  latencies[exchanges++] = now() - c->started;
  leave(c);
}

static void start(struct client *c) {
  int one = 1;
  struct sockaddr_in source = {
      .sin_family = AF_INET,
      .sin_addr.s_addr = htonl(INADDR_LOOPBACK + started % SOURCES),
  };
  snprintf(c->message, sizeof c->message, "exchange %021llu\r\n", started++);
  c->received = 0;
  c->started = now();
  c->state = GREETING;
  active++;
  c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
  if (c->fd < 0) return fail(c, OTHER);
  setsockopt(c->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
  struct epoll_event event = {.events = EPOLLIN | EPOLLRDHUP | EPOLLET, .data.ptr = c};
  if (bind(c->fd, (struct sockaddr *)&source, sizeof source) < 0 ||
      epoll_ctl(epoll, EPOLL_CTL_ADD, c->fd, &event) < 0)
    return fail(c, OTHER);
  if (connect(c->fd, (struct sockaddr *)&server, sizeof server) < 0 &&
      errno != EINPROGRESS)
    fail(c, CONNECT);
}

// Reads and checks what has come; true when all of it is there.
static bool receive(struct client *c, const char *expected, size_t size) {
  char buffer[64];
  while (c->received < size) {
    ssize_t n = recv(c->fd, buffer, size - c->received, 0);
    if (n < 0 && errno == EAGAIN) return false;
    if (n <= 0) return fail(c, n == 0 ? EARLY_EOF : reason(errno)), false;
    if (memcmp(buffer, expected + c->received, n) != 0)
      return fail(c, WRONG_BYTES), false;
    c->received += n;
  }
  c->received = 0;
  return true;
}

static bool send_message(struct client *c) {
  ssize_t n = send(c->fd, c->message, MESSAGE_SIZE, MSG_NOSIGNAL);
  if (n == MESSAGE_SIZE) return true;
  return fail(c, n < 0 ? reason(errno) : OTHER), false;
}

static bool receive_eof(struct client *c) {
  char byte;
  ssize_t n = recv(c->fd, &byte, 1, 0);
  if (n == 0) return true;
  if (n > 0) return fail(c, WRONG_BYTES), false;
  if (errno != EAGAIN) fail(c, reason(errno));
  return false;
}

// Goes on as far as the socket lets it; true when the exchange has succeeded.
static bool advance(struct client *c) {
  switch (c->state) {
  case GREETING:
    if (!receive(c, greeting, GREETING_SIZE)) return false;
    c->state = GREETED;
    greeted++;
    // fall through
  case GREETED:
    if (holding || !send_message(c)) return false;
    c->state = ECHO;
    // fall through
  case ECHO:
    if (!receive(c, c->message, MESSAGE_SIZE)) return false;
    c->state = END;
    // fall through
  case END:
    if (!receive_eof(c)) return false;
    succeed(c);
    return true;
  case IDLE:
    break;
  }
  return false;
}

// Times clients out. One whose exchange failed has waited here to try again.
static void sweep(uint64_t t) {
  for (int i = 0; i < count; i++) {
    struct client *c = &clients[i];
    bool waiting = c->state != IDLE && !(holding && c->state == GREETED);
    if (waiting && t > c->started + TIMEOUT) fail(c, TIMED_OUT);
    if (c->state == IDLE && t < deadline) start(c);
  }
  next_sweep = t + SWEEP;
}

static void handle_events(void) {
  struct epoll_event events[1024];
  int n = epoll_wait(epoll, events, 1024, SWEEP / 1000);
  uint64_t t = now();
  for (int i = 0; i < n; i++) {
    struct client *c = events[i].data.ptr;
    if (advance(c) && t < deadline) start(c);
  }
  if (t >= next_sweep) sweep(t);
}

// Returns how many exchanges finished in time.
static unsigned long long load(double seconds) {
  deadline = now() + (uint64_t)(seconds * 1e6);
  for (int i = 0; i < count; i++) start(&clients[i]);
  while (now() < deadline) handle_events();
  unsigned long long in_time = exchanges;
  while (active > 0) handle_events();
  return in_time;
}

static void hold(void) {
  holding = true;
  for (int opened = 0; opened < count || active > (int)greeted;) {
    while (opened < count && active - (int)greeted < MAX_CONNECTING)
      start(&clients[opened++]);
    handle_events();
  }
  printf("held %llu\n", greeted);
  fflush(stdout);
  getchar();
  holding = false;
  for (int i = 0; i < count; i++) {
    if (clients[i].state != GREETED) continue;
    clients[i].started = now();
    advance(&clients[i]);
  }
  while (active > 0) handle_events();
}

static int compare(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return (x > y) - (x < y);
}

static double percentile_ms(double p) {
  return exchanges == 0 ? 0 : latencies[(size_t)(p * (exchanges - 1))] / 1e3;
}

static void print_result(double per_second) {
  if (exchanges > 0) qsort(latencies, exchanges, sizeof *latencies, compare);
  printf("{\"exchanges\":%llu,\"per_second\":%.0f,\"p50_ms\":%.3f,\"p99_ms\":%.3f,"
         "\"failures\":{",
         exchanges, per_second, percentile_ms(0.5), percentile_ms(0.99));
  for (int i = 0; i < FAILURES; i++)
    printf("%s\"%s\":%llu", i ? "," : "", failure_names[i], failures[i]);
  printf("}}\n");
}

int main(int argc, char **argv) {
  if (argc != 4) {
    fprintf(stderr, "usage: echoload PORT CLIENTS SECONDS|hold\n");
    return 2;
  }
  server.sin_family = AF_INET;
  server.sin_port = htons(atoi(argv[1]));
  server.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  count = atoi(argv[2]);
  clients = calloc(count, sizeof *clients);
  epoll = epoll_create1(0);
  if (!clients || epoll < 0) die("echoload");
  struct rlimit files;
  getrlimit(RLIMIT_NOFILE, &files);
  files.rlim_cur = files.rlim_max;
  setrlimit(RLIMIT_NOFILE, &files);

  double seconds = atof(argv[3]), per_second = 0;
  if (strcmp(argv[3], "hold") == 0) {
    hold();
  } else {
    unsigned long long in_time = load(seconds);
    if (seconds > 0) per_second = in_time / seconds;
  }
  print_result(per_second);
  return 0;
}
