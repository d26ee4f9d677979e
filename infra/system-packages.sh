#!/usr/bin/env bash
# The few system packages that the tests use: a browser, which looks at pages as people do, and fonts for it.
# Installs what is missing by apt-get as root; otherwise says what is missing and ends with 1.
set -euo pipefail

missing=()
type -p chromium chromium-browser google-chrome >/dev/null || missing+=(chromium)
[ -n "$(find /usr/share/fonts -name '*.ttf' -print -quit 2>/dev/null)" ] || missing+=(fonts-dejavu-core)
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" = 0 ] && type -p apt-get >/dev/null; then
    echo "installing ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    if { apt-get update && apt-get install -y --no-install-recommends "${missing[@]}"; } >"$log" 2>&1 </dev/null; then
        exit 0
    fi
    tail -n 15 "$log" >&2
fi
echo "missing system packages: ${missing[*]}; as root: apt-get install ${missing[*]}" >&2
exit 1
