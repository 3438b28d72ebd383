/* Preloaded: the first three polls that do not wait are interrupted, as by a signal, and say so. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <poll.h>
#include <unistd.h>

int poll(struct pollfd* fds, nfds_t count, int timeout_ms) {
  static int left = 3;
  if (count == 1 && timeout_ms == 0 && left > 0) {
    left--;
    (void)!write(2, "EINTR\n", 6);
    errno = EINTR;
    return -1;
  }
  int (*real)(struct pollfd*, nfds_t, int) =
      (int (*)(struct pollfd*, nfds_t, int))dlsym(RTLD_NEXT, "poll");
  return real(fds, count, timeout_ms);
}
