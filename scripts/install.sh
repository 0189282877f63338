# Sourced by ./run and ./test: what Boira needs of the system, and how it gets there.

# What building and running needs. The program names are what is looked for, the packages (Debian's
# names) what is installed where one is missing.
RUN_PACKAGES="gcc:gcc libc.so:libc6-dev qemu-system-x86_64:qemu-system-x86 qemu-img:qemu-utils ip:iproute2 nft:nftables slirp4netns:slirp4netns ssh:openssh-client mke2fs:e2fsprogs dpkg-deb:dpkg apt-get:apt mmdebstrap:mmdebstrap sfdisk:fdisk gpgv:gpgv cpio:cpio debian-keyring:debian-archive-keyring ca-certificates:ca-certificates"
# What the tests need beyond that.
TEST_PACKAGES="python3:python3 python3-venv:python3-venv busybox:busybox-static socat:socat ping:iputils-ping arping:iputils-arping curl:curl ps:procps git:git"

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
        echo "error: this system has no apt. Install by its own means what Debian calls:$missing" >&2
        exit 1
    fi
    [ "$(id -u)" = 0 ] || { echo "error: missing packages:$missing (run as root to install them)" >&2; exit 1; }
    apt_quietly update
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

apt_quietly() {
    log=$(mktemp)
    if ! DEBIAN_FRONTEND=noninteractive apt-get -o Dpkg::Use-Pty=0 -y --no-install-recommends "$@" >"$log" 2>&1; then
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

# A cargo that is there if it is new enough, else Debian's rustc-web and cargo-web.
ensure_cargo() {
    # sudo drops the caller's PATH, and with it rustup's cargo.
    for folder in "${HOME:-/root}/.cargo/bin" ${SUDO_USER:+"$(getent passwd "$SUDO_USER" | cut -d: -f6)/.cargo/bin"}; do
        if [ -x "$folder/cargo" ]; then PATH="$folder:$PATH"; fi
    done
    export PATH
    cargo_is_new_enough && return 0
    echo "installing: rustc-web cargo-web (Rust 1.$RUST_MINOR or newer)"
    if ! command -v apt-get >/dev/null 2>&1; then
        echo "error: Rust 1.$RUST_MINOR or newer is needed; https://rustup.rs installs it" >&2
        exit 1
    fi
    apt_quietly update
    apt_quietly install rustc-web cargo-web
    cargo_is_new_enough && return 0
    echo "error: Rust 1.$RUST_MINOR or newer is needed and this system's packages have none; https://rustup.rs installs it" >&2
    exit 1
}

build_release() {
    echo "building (a few minutes the first time)"
    cargo build --release --locked -p boira
    ln -sfn target/release/boira boira
}
