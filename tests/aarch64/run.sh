#!/bin/sh
# Runs the test suite as AArch64: pytest and every executor it starts are an AArch64 CPython under qemu's user-mode
# emulation, and `cc` is the cross compiler. Needs Debian 12; everything that it makes is below build/aarch64.
#
#   tests/aarch64/run.sh [--setup] [pytest arguments]      (--setup: prepare only)
#
# PYTHON is a Python that has pytest (default: python3).
set -eu
cd "$(dirname "$0")/../.."
platform=aarch64
. tests/platform.sh

install qemu-user-static gcc libc6-dev gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev-arm64-cross
qemu=$(command -v qemu-aarch64-static)
root=$out/root
bin=$out/bin

# The kernel cannot start an AArch64 program, so this takes its place and emulates NAME.aarch64, which is beside it. It
# is no shell script: that would set PWD, take a descriptor, and load what LD_PRELOAD names. `-0` makes sys.executable
# this program, so that what the suite starts with it is emulated, too. The ptrace of the sanitizers is not emulated, so
# leaks cannot be looked for.
cat >"$out/launcher.c" <<'SOURCE'
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
int main(int argc, char **argv) {
    static char program[PATH_MAX + 9], options[4096];
    if (readlink("/proc/self/exe", program, PATH_MAX) < 0)
        return 127;
    strcat(program, ".aarch64");
    if (getenv("ASAN_OPTIONS") != NULL) {
        snprintf(options, sizeof options, "%s:detect_leaks=0", getenv("ASAN_OPTIONS"));
        setenv("ASAN_OPTIONS", options, 1);
    }
    char *head[] = {QEMU, "-0", argv[0], "-L", ROOT, program};
    char **arguments = calloc(argc + 6, sizeof *arguments);
    memcpy(arguments, head, sizeof head);
    memcpy(arguments + 6, argv + 1, argc * sizeof *argv);
    execv(QEMU, arguments);
    perror(QEMU);
    return 127;
}
SOURCE
gcc -O2 -static -DQEMU="\"$qemu\"" -DROOT="\"$root\"" -o "$out/launcher" "$out/launcher.c"

if [ ! -e "$root/usr/bin/python3.aarch64" ]; then
    unpack bookworm arm64 "$root" python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 libffi8 zlib1g \
        libexpat1 libgcc-s1 libbz2-1.0 liblzma5 libssl3 libstdc++6 libasan8 libubsan1 libzstd1 libzstd-dev
    mv "$root/usr/bin/python3.11" "$root/usr/bin/python3.aarch64"
fi
cp "$out/launcher" "$root/usr/bin/python3"

# What the suite finds on PATH: the emulated python3, and cross compilers by the names of the system's.
rm -rf "$bin"
mkdir "$bin"
ln -s "$root/usr/bin/python3" "$bin/python3"
ln -s python3 "$bin/python"
PATH=$bin:$PATH

compiler() {
    cat >"$bin/$1" <<SCRIPT
#!/bin/sh
$2 -idirafter '$root/usr/include' -L '$root/usr/lib/aarch64-linux-gnu' "\$@" || exit
output=a.out
while [ \$# -gt 0 ]; do
    case \$1 in
        -o) output=\$2 ;;
        -o?*) output=\${1#-o} ;;
    esac
    shift
done
readelf -lW "\$output" 2>/dev/null | grep -q INTERP || exit 0
mv "\$output" "\$output.aarch64"
cp '$out/launcher' "\$output"
SCRIPT
    chmod +x "$bin/$1"
}
compiler cc aarch64-linux-gnu-gcc
compiler c++ aarch64-linux-gnu-g++
ln -s cc "$bin/gcc"
ln -s c++ "$bin/g++"
for name in clang clang++; do
    if clang=$(command -v $name); then
        compiler $name "$clang --target=aarch64-linux-gnu -Wno-unused-command-line-argument"
    fi
done

if [ "${1-}" = --setup ]; then
    say "ready; PATH=$bin:\$PATH python3 is the emulated Python"
    exit
fi
suite "$root/usr/lib/python3/dist-packages" -o timeout=600 "$@"
