#!/bin/sh
# Install the release and the debug build side by side, below one prefix:
#
#   PREFIX/lib/creedence/release/bin/*  PREFIX/lib/creedence/debug/bin/*   the programs of each build
#   PREFIX/lib/creedence/current -> release                                the one in use (`creedence debug on|off`)
#   PREFIX/bin/* -> ../lib/creedence/current/bin/*                         what is on the PATH
#   PREFIX/share/..., PREFIX/lib/systemd/...                               manuals, completion, units
#
# Usage: tools/install.sh BUILD PREFIX [DESTDIR]. An existing `current` link is left as it points.
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
