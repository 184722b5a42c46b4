// One thread and epoll: about as few system calls as the exchange can do with.
#define _GNU_SOURCE
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

static const char greeting[] = "Hello World!\r\n";

static int listen_on(int port) {
  int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
  struct sockaddr_in addr = {.sin_family = AF_INET, .sin_port = htons(port)};
  if (bind(fd, (struct sockaddr *)&addr, sizeof addr) < 0 || listen(fd, 4096) < 0) {
    perror("listen");
    exit(1);
  }
  return fd;
}

static void watch(int epoll, int fd) {
  struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
  epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static void accept_all(int epoll, int listener) {
  int fd;
  while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
    send(fd, greeting, sizeof greeting - 1, MSG_NOSIGNAL);
    watch(epoll, fd);
  }
}

static void echo(int fd) {
  char buffer[1024];
  ssize_t n = recv(fd, buffer, sizeof buffer, 0);
  if (n > 0) send(fd, buffer, n, MSG_NOSIGNAL);
  close(fd);
}

int main(int argc, char **argv) {
  int listener = listen_on(argc > 1 ? atoi(argv[1]) : 0);
  int epoll = epoll_create1(0);
  watch(epoll, listener);
  for (;;) {
    struct epoll_event events[512];
    int n = epoll_wait(epoll, events, 512, -1);
    for (int i = 0; i < n; i++) {
      if (events[i].data.fd == listener) accept_all(epoll, listener);
      else echo(events[i].data.fd);
    }
  }
}
