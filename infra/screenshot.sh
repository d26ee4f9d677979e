#!/usr/bin/env bash
# Render a page as a person would see it: infra/screenshot.sh URL FILE.png [WIDTHxHEIGHT] [SECONDS of the page's clock]
# Needs chromium (infra/system-packages.sh); its profile is thrown away.
set -euo pipefail

url=${1:?the page} file=${2:?the picture} size=${3:-1280x900} seconds=${4:-10}
browser=$(type -p chromium chromium-browser google-chrome | head -n 1 || true)
[ -n "$browser" ] || { echo "screenshot: no chromium; infra/system-packages.sh installs it" >&2; exit 1; }
profile=$(mktemp -d)
trap 'rm -rf "$profile"' EXIT
options=(--headless --disable-gpu --disable-dev-shm-usage --hide-scrollbars --no-first-run "--user-data-dir=$profile"
    "--window-size=${size/x/,}" "--virtual-time-budget=${seconds}000" "--screenshot=$file")
# Chromium refuses its sandbox to root.
[ "$(id -u)" != 0 ] || options+=(--no-sandbox)
HOME=$profile timeout 120 "$browser" "${options[@]}" "$url" >"$profile/log" 2>&1 </dev/null || { tail -n 5 "$profile/log" >&2; exit 1; }
[ -s "$file" ] || { echo "screenshot: $url gave no picture" >&2; exit 1; }
