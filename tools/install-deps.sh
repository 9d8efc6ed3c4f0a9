#!/bin/sh
# Install the Debian packages of the named groups (tools/packages.txt) that are missing.
# Usage: tools/install-deps.sh GROUP...    Does nothing, quickly, when nothing is missing.
set -eu

list=$(dirname "$0")/packages.txt
[ $# -gt 0 ] || { echo "usage: $0 GROUP... (groups are in $list)" >&2; exit 2; }

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    echo "$0: this is no Debian system (no dpkg-query or apt-get): install by hand what $list names" >&2
    exit 1
fi

wanted=""
for group in "$@"; do
    packages=$(awk -v group="$group" '$1 == group { print $2 }' "$list")
    [ -n "$packages" ] || { echo "$0: no group '$group' in $list" >&2; exit 2; }
    wanted="$wanted $packages"
done

# shellcheck disable=SC2086  # a list of words
present=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' $wanted 2>/dev/null | sed -n 's/^installed //p')
missing=$(printf '%s\n' $wanted | sort -u | while read -r package; do
    printf '%s\n' "$present" | grep -qxF "$package" || printf '%s ' "$package"
done)
[ -n "$missing" ] || exit 0

echo "Missing packages: $missing"
if [ "$(id -u)" != 0 ]; then
    echo "$0: not root, so they cannot be installed; run: sudo apt-get install $missing" >&2
    exit 1
fi
export DEBIAN_FRONTEND=noninteractive
# Package lists may be absent (a container image) or stale (an old one): refresh them only when needed.
# shellcheck disable=SC2086
apt-get install -y --no-install-recommends $missing && exit 0
apt-get update
# shellcheck disable=SC2086
apt-get install -y --no-install-recommends $missing || {
    echo "$0: apt-get could not install: $missing (see above)" >&2
    exit 1
}
