#!/bin/sh
# Joins this machine to a Boira cloud as a host, where its controller runs instances:
#     curl … https://CONTROLLER/join | sh -s TOKEN [--home FOLDER]
# Written by the controller for this moment; the install functions are those of scripts/install.sh.
set -eu

CONTROLLER='@CONTROLLER@'
SHA256='@SHA256@'
CLOUD='@CLOUD@'
MACHINE='@MACHINE@'
NOW='@NOW@'
AUTHORITY='@AUTHORITY@'

@INSTALL@

fail() {
    echo "error: $*" >&2
    exit 1
}

UNIT=/etc/systemd/system/boira-agent.service

main() {
    # Of a root shell by plain su, where dpkg misses its own programs.
    PATH="$PATH:/usr/local/sbin:/usr/sbin:/sbin"
    export PATH
    token="${1-}" home=/var/lib/boira
    [ -n "$token" ] || fail "a token is missing; 'boira host invite' prints the whole line"
    shift
    while [ $# -gt 0 ]; do
        case "$1" in
        --home) [ $# -gt 1 ] || fail "--home needs a folder"; home=$2; shift 2 ;;
        *) fail "$1 is no option; there is --home FOLDER" ;;
        esac
    done
    [ "$(id -u)" = 0 ] || fail "joining needs root: guests get network namespaces and users of their own. Pipe into 'sudo sh -s TOKEN'"
    case "$home" in
    /*) ;;
    *) home=$PWD/$home ;;
    esac
    case "$home" in
    *[!A-Za-z0-9/._-]*) fail "--home $home has letters that a service's file can't have" ;;
    esac
    if [ -e "$UNIT" ] && ! grep -q "^ExecStart=$home/bin/boira " "$UNIT"; then
        fail "$UNIT is that of another home; this machine is a host of one cloud at a time"
    fi
    [ "$(uname -s)-$(uname -m)" = "$MACHINE" ] || fail "this machine is a $(uname -s)-$(uname -m) and the controller's program is for $MACHINE"
    skew=$(($(date +%s) - NOW))
    if [ "$skew" -lt -3600 ] || [ "$skew" -gt 3600 ]; then
        fail "this machine's clock is $skew s away from the controller's, so certificates can't be checked; set it with 'date -s @$NOW' and keep it right with an NTP service"
    fi

    HOST_ONLY=yes
    # shellcheck disable=SC2086
    install_packages $HOST_PACKAGES
    umask 022
    mkdir -p "$home/bin"
    printf '%s\n' "$AUTHORITY" >"$home/bin/ca.pem"
    echo "fetching boira from the controller"
    curl -fsS --cacert "$home/bin/ca.pem" --retry 3 -o "$home/bin/boira.new" "https://$CONTROLLER/join/boira"
    echo "$SHA256  $home/bin/boira.new" | sha256sum -c --quiet - || fail "what was fetched is not what the controller has; try again"
    chmod 755 "$home/bin/boira.new"
    mv "$home/bin/boira.new" "$home/bin/boira"
    "$home/bin/boira" --home "$home" join "$CONTROLLER" --authority "$home/bin/ca.pem" --token "$token" --cloud "$CLOUD"
    serve "$home"
}

serve() {
    if [ ! -d /run/systemd/system ]; then
        echo "This machine has no systemd. Let whatever starts its services run this as root, and again when it ends:"
        echo "    $1/bin/boira --home $1 agent"
        return 0
    fi
    # Guests outlive their agent, so only the agent is ended with the service.
    cat >"$UNIT" <<EOF
[Unit]
Description=Boira agent: runs instances of the cloud at $CONTROLLER
After=network-online.target
Wants=network-online.target
StartLimitIntervalSec=0

[Service]
ExecStart=$1/bin/boira --home $1 agent
Restart=always
RestartSec=1
KillMode=process
LimitNOFILE=1048576
TasksMax=infinity

[Install]
WantedBy=multi-user.target
EOF
    systemctl daemon-reload
    systemctl enable --quiet boira-agent
    # Also where it ran: it may have another key now.
    systemctl restart boira-agent
    echo "the agent runs as the service boira-agent; 'journalctl -u boira-agent' shows what it says"
}

main "$@"
