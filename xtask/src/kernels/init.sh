#!/bin/busybox sh
# The machine's init: mounts a node's file systems, runs every story, and reports each exit code on the second serial
# line. A missing line counts as a failure.
export PATH=/bin PORTREEVE_BIN=/portreeve PORTREEVE_LEDGER=/ledger NO_COLOR=1
# Emulation is slow.
export PORTREEVE_TIMEOUT_FACTOR=10

/bin/busybox mkdir -p /proc /sys /dev /tmp /run
/bin/busybox --install -s /bin
mount -t devtmpfs devtmpfs /dev
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount -t bpf bpf /sys/fs/bpf
mount -t tmpfs tmpfs /tmp
ip link set lo up

# Lines end with a line feed alone, and nothing is echoed.
stty -F /dev/ttyS1 raw -echo
exec 3>/dev/ttyS1
echo "portreeve kernels 1" >&3

for module in /modules/*; do
    insmod "$module" || echo "module $module" >&3
done
for story in /stories/deps/*; do
    echo "=== ${story##*/}"
    "$story" --test-threads=1 --nocapture 2>&1
    echo "story ${story##*/} $?" >&3
done
# shellcheck disable=SC2154 # of the kernel's command line
if [ -n "$UPDATE_EXPECT" ]; then
    sed 's/^/ledger /' /ledger/*.txt >&3
fi
echo "end" >&3
# The close waits until the last line is sent.
exec 3>&-
poweroff -f
