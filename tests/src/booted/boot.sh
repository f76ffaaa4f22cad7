# Lives: weir-tests, the first moments of a host whose first process is systemd.
# Called by: booted, as the first process of namespaces of its own (mounts, process ids, host name, IPC, cgroups), in a world's network.
# May touch: mounts that nobody else sees; the folder it is given.
# Never: leaves a way to write this machine's kernel settings, devices or cgroups.
#
# $1: a folder for the root; $2: what outlives a reboot (etc, var, bin, src); $3: programs for tests.
set -e
root=$1 disk=$2 probe=$3
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$root"
cd "$root"
mkdir usr etc var src run tmp root dev proc sys opt opt/probe
mount --bind /usr usr && mount -o remount,bind,ro usr
for folder in bin sbin lib lib64; do ln -s "usr/$folder" "$folder"; done
for folder in etc var src; do mount --bind "$disk/$folder" "$folder"; done
mount --bind "$disk/bin" usr/local/bin
mount --bind "$probe" opt/probe && mount -o remount,bind,ro opt/probe
mount -t proc proc proc
mount --bind proc/sys proc/sys && mount -o remount,bind,ro proc/sys
mount -t sysfs -o ro sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t bpf bpf sys/fs/bpf
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
for device in null zero full random urandom tty; do : > "dev/$device"; mount --bind "/dev/$device" "dev/$device"; done
mkdir dev/pts dev/shm
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
mkdir old
pivot_root . old
umount -l old
rmdir old
# `container`: this is not a machine, so nothing of udev, modules or clocks is its business.
exec env -i container=weir-test PATH=/usr/local/bin:/usr/bin:/usr/sbin /lib/systemd/systemd --system --log-target=journal
