# boot.sh ROOT: boots the systemd of the disk at ROOT, with the unit `go.service`, in namespaces that `unshare` made.
set -eu
cd "$1"
mount --make-rprivate /
mount -t sysfs sysfs sys
mount -t proc proc proc
mount -t tmpfs -o mode=755 none run
if [ -f /sys/fs/cgroup/cgroup.controllers ]; then
    mount -t cgroup2 none sys/fs/cgroup
else
    mount -t tmpfs none sys/fs/cgroup
    mkdir sys/fs/cgroup/systemd sys/fs/cgroup/unified
    mount -t cgroup -o none,name=systemd,xattr none sys/fs/cgroup/systemd
    mount -t cgroup2 none sys/fs/cgroup/unified
fi
mkdir -p mnt/old
pivot_root . mnt/old
umount -l /mnt/old
rm -rf /etc/systemd/system/*.wants
# systemd knows that it runs in a container, and leaves the machine's devices alone.
exec env -i container=lxc PATH=/usr/sbin:/usr/bin:/sbin:/bin /lib/systemd/systemd --unit=go.target --log-target=null
