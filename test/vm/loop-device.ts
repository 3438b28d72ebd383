/** The block device 7:0 of the tests, on a file: makes it where it is not there, and prints its numbers. */
export const LOOP_DEVICE = `
  modprobe loop
  [ -s /tmp/loop ] || { truncate -s 16M /tmp/loop && losetup /dev/loop0 /tmp/loop; }
  cat /sys/block/loop0/dev`;
