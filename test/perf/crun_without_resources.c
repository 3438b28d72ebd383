// crun for the peer of a benchmark: renames `linux.resources` in the bundle's config before crun reads
// it, one byte in place, since crun 1.8 raises RLIMIT_MEMLOCK for its device policy, which needs a
// capability that a test machine may lack. Costs tens of microseconds. The real one is CRUN.
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static void drop_resources(const char* bundle) {
  char path[4096];
  snprintf(path, sizeof path, "%s/config.json", bundle);
  int fd = open(path, O_RDWR | O_CLOEXEC);
  struct stat status;
  if (fd < 0 || fstat(fd, &status) < 0 || status.st_size == 0) return;
  char* text = mmap(NULL, status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (text == MAP_FAILED) return;
  char* found = memmem(text, status.st_size, "\"resources\"", 11);
  if (found) found[1] = '_';
  munmap(text, status.st_size);
  close(fd);
}

int main(int argc, char** argv) {
  for (int i = 1; i + 1 < argc; i++) {
    if (strcmp(argv[i], "--bundle") == 0) drop_resources(argv[i + 1]);
  }
  execv(CRUN, argv);
  perror(CRUN);
  return 127;
}
