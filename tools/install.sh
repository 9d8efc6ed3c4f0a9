#!/bin/sh
# Install the release and the debug build side by side, below one prefix:
#
#   PREFIX/lib/creedence/release/bin/*  PREFIX/lib/creedence/debug/bin/*   the programs of each build
#   PREFIX/lib/creedence/current -> release                                the one in use (`creedence debug on|off`)
#   PREFIX/bin/* -> ../lib/creedence/current/bin/*                         what is on the PATH
#   PREFIX/share/..., PREFIX/lib/systemd/...                               manuals, completion, units
#
# Usage: tools/install.sh BUILD PREFIX [DESTDIR]. An existing `current` link is left as it points. Into the running system
# (root, no DESTDIR) the unprivileged user of the workers is made, too.
set -eu

build=$1
prefix=$2
destdir=${3:-}
case $prefix in
/*) ;;
*) echo "$0: the prefix must be absolute, not '$prefix'" >&2; exit 2 ;;
esac
root=$destdir$prefix
home=$root/lib/creedence

for kind in release debug; do
    # Each build keeps its programs in a directory of its own; everything else is the same file in both.
    meson configure "$build/$kind" -Dprefix="$prefix" -Dbindir="lib/creedence/$kind/bin"
    DESTDIR=$destdir meson install -C "$build/$kind" --quiet
done

if [ -e "$home/current" ]; then
    echo "$prefix/lib/creedence/current stays as it is: $(readlink "$home/current")"
else
    ln -sfn release "$home/current"
fi
mkdir -p "$root/bin"
for program in "$home"/release/bin/*; do
    name=$(basename "$program")
    ln -sfn "../lib/creedence/current/bin/$name" "$root/bin/$name"
done
echo "Installed below $root: $(cd "$home/release/bin" && echo *) (release and debug; in use: $(readlink "$home/current"))"

[ -z "$destdir" ] || exit 0
if getent passwd creedence >/dev/null; then
    echo "Disk workers and the read cache run as the user creedence, which is there."
elif [ "$(id -u)" = 0 ] && command -v systemd-sysusers >/dev/null && systemd-sysusers "$root/lib/sysusers.d/creedence.conf"; then
    echo "Made the user creedence, as which disk workers and the read cache run ($prefix/lib/sysusers.d/creedence.conf)."
else
    echo "There is no user creedence: until it is made, disk workers and the read cache stay root, without capabilities."
fi
