# Run by `cargo xtask fresh` with: the tarball of an empty Debian, the clone, the folder to work in,
# what is to be run, and a folder with what the outer machine hands in.
set -eu
tarball=$1 clone=$2 work=$3 script=$4 handed=$5

root=$work/root
# Mounts live in the namespace below and are gone with it; one-file-system is a second belt.
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'rm -rf --one-file-system "$(dirname "$work")"; exit 130' INT TERM HUP

mkdir -p "$root"
tar -xf "$tarball" -C "$root" --numeric-owner
mkdir -p "$root/src"
cp -a "$clone" "$root/src/boira"
cp -a "$handed/." "$root/"

# Its own mounts and processes: whatever is started in there ends with it. The network stays, for
# apt and cargo; named network namespaces are private because /run is.
unshare --mount --pid --fork --kill-child --ipc --uts sh -eu -c '
    root=$1
    # A root that is no mount is nothing that `ip netns exec` or a sandbox could work with.
    mount --bind "$root" "$root"
    mount --rbind /dev "$root/dev"
    mount -t proc proc "$root/proc"
    mount --rbind /sys "$root/sys"
    mount -t tmpfs -o mode=755 run "$root/run"
    mkdir -p "$root/run/netns" "$root/run/lock"
    cd "$root"
    mkdir -p mnt/outer
    pivot_root . mnt/outer
    exec env -i HOME=/root USER=root TERM="${TERM:-dumb}" LANG=C.UTF-8 \
        PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin \
        chroot . /bin/sh -eu -c "umount -l /mnt/outer; . /etc/boira-fresh/environment; cd /src/boira; $2"
' sh "$root" "$script"
