# Sourced by ./run and ./test, and part of what `boira host invite` has a PC run: what Boira needs of
# the system, and how it gets there.

# What a host needs to run instances. The program names are what is looked for, the packages (Debian's
# names) what is installed where one is missing.
HOST_PACKAGES="qemu-system-x86_64:qemu-system-x86 qemu-img:qemu-utils ip:iproute2 nft:nftables conntrack:conntrack slirp4netns:slirp4netns ca-certificates:ca-certificates"
# What building, and a controller with its images, needs.
RUN_PACKAGES="gcc:gcc libc.so:libc6-dev $HOST_PACKAGES ssh:openssh-client mke2fs:e2fsprogs dpkg-deb:dpkg apt-get:apt mmdebstrap:mmdebstrap sfdisk:fdisk gpgv:gpgv cpio:cpio debian-keyring:debian-archive-keyring"
# What the tests need beyond that.
TEST_PACKAGES="python3:python3 strace:strace python3-venv:python3-venv busybox:busybox-static socat:socat ping:iputils-ping arping:iputils-arping curl:curl ps:procps git:git openssl:openssl qemu-x86_64:qemu-user"

# The oldest Rust that builds Boira.
RUST_MINOR=95

have() {
    case "$1" in
    libc.so) [ -e /usr/include/stdio.h ] ;;
    ca-certificates) [ -e /etc/ssl/certs/ca-certificates.crt ] ;;
    debian-keyring) [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] ;;
    python3-venv) python3 -c 'import ensurepip, venv' 2>/dev/null ;;
    *) PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1 ;;
    esac
}

# install_packages PROGRAM:PACKAGE...
install_packages() {
    find_missing "$@"
    [ -n "$missing" ] || return 0
    if ! command -v apt-get >/dev/null 2>&1; then
        [ -n "${HOST_ONLY-}" ] || find_cargo || missing="$missing, and Rust 1.$RUST_MINOR or newer (https://rustup.rs)"
        echo "error: this system has no apt. Install by its own means what Debian calls:$missing" >&2
        exit 1
    fi
    [ "$(id -u)" = 0 ] || { echo "error: missing packages:$missing (run as root to install them)" >&2; exit 1; }
    update_lists
    # A package may push out one that was there: a backport's qemu-utils goes when qemu-system-x86
    # comes. So what is missing afterwards is installed too.
    for round in 1 2; do
        [ -n "$missing" ] || break
        echo "installing:$missing"
        # shellcheck disable=SC2086
        apt_quietly install $missing
        find_missing "$@"
    done
    [ -z "$missing" ] || { echo "error: after installing there is still no:$missing" >&2; exit 1; }
}

# Sets $missing to the packages of the programs that aren't there.
find_missing() {
    missing=""
    for pair in "$@"; do
        have "${pair%%:*}" || missing="$missing ${pair#*:}"
    done
}

update_lists() {
    echo "reading the lists of packages"
    apt_quietly update
}

# Waits where another apt is at work, as on a machine that was just switched on.
apt_quietly() {
    log=$(mktemp)
    if ! DEBIAN_FRONTEND=noninteractive apt-get -o Dpkg::Use-Pty=0 -o DPkg::Lock::Timeout=300 -y --no-install-recommends "$@" >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        echo "error: apt-get $* failed; its words are above" >&2
        exit 1
    fi
    rm -f "$log"
}

cargo_is_new_enough() {
    command -v cargo >/dev/null 2>&1 && command -v rustc >/dev/null 2>&1 || return 1
    minor=$(rustc --version 2>/dev/null | sed -n 's/^rustc 1\.\([0-9]*\)\..*/\1/p')
    [ -n "$minor" ] && [ "$minor" -ge "$RUST_MINOR" ]
}

# A cargo that is new enough: rustup's in the home of who runs this or of who called sudo, which drops
# the caller's PATH, else one in PATH.
find_cargo() {
    for home in "${HOME:-/root}" ${SUDO_USER:+"$(getent passwd "$SUDO_USER" | cut -d: -f6)"}; do
        if take_cargo_of "$home"; then return 0; fi
    done
    cargo_is_new_enough || prefer_new_cargo
}

# rustup's programs look for the toolchain below the home of who runs them, which sudo changes.
take_cargo_of() {
    [ -x "$1/.cargo/bin/cargo" ] || return 1
    before=$PATH toolchains=${RUSTUP_HOME-}
    export PATH="$1/.cargo/bin:$PATH"
    if [ -z "$toolchains" ] && [ -d "$1/.rustup" ]; then export RUSTUP_HOME="$1/.rustup"; fi
    if cargo_is_new_enough; then return 0; fi
    PATH=$before
    if [ -z "$toolchains" ]; then unset RUSTUP_HOME; fi
    return 1
}

# Puts the first folder of PATH before the others whose cargo and rustc are new enough.
prefer_new_cargo() {
    rest="$PATH:"
    while [ -n "$rest" ]; do
        folder=${rest%%:*} rest=${rest#*:}
        if [ -x "$folder/cargo" ] && (PATH="$folder:$PATH" && cargo_is_new_enough); then
            export PATH="$folder:$PATH"
            return 0
        fi
    done
    return 1
}

# A cargo that is there if it is new enough, else Debian's rustc-web and cargo-web.
ensure_cargo() {
    if find_cargo; then return 0; fi
    hint="Rust 1.$RUST_MINOR or newer is needed; https://rustup.rs installs it"
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "error: $hint" >&2
        exit 1
    fi
    update_lists
    if ! apt-cache show rustc-web >/dev/null 2>&1; then
        echo "error: $hint (this system's packages have none; Debian 12 has rustc-web with its security suite)" >&2
        exit 1
    fi
    echo "installing: rustc-web cargo-web (Rust 1.$RUST_MINOR or newer)"
    apt_quietly install rustc-web cargo-web
    prefer_new_cargo && return 0
    echo "error: $hint (this system's packages have an older one)" >&2
    exit 1
}

# Linked statically, because hosts with other systems run the same file. The target is named so that
# the flag is not for what runs while building.
build_release() {
    echo "building (a few minutes the first time)"
    target=$(rustc -vV | sed -n 's/^host: //p')
    RUSTFLAGS="${RUSTFLAGS-} -C target-feature=+crt-static" \
        cargo build --release --locked -p boira --target "$target"
    # CARGO_TARGET_DIR and cargo's configuration may have it elsewhere.
    folder=$(cargo metadata --format-version 1 --no-deps --locked | sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')
    ln -sfn "$folder/$target/release/boira" boira
}
