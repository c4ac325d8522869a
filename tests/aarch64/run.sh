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

install qemu-user-static gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev-arm64-cross
qemu=$(command -v qemu-aarch64-static)
root=$out/root
bin=$out/bin

if [ ! -e "$root/usr/bin/python3" ]; then
    unpack bookworm arm64 "$root" python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 libffi8 zlib1g \
        libexpat1 libgcc-s1 libbz2-1.0 liblzma5 libssl3 libstdc++6 libasan8 libubsan1 libzstd1 libzstd-dev
    # `-0 "$0"` makes the script sys.executable, so that what the suite starts with it is emulated, too.
    cat >"$root/usr/bin/python3" <<SCRIPT
#!/bin/sh
exec '$qemu' -0 "\$0" -L '$root' '$root/usr/bin/python3.11' "\$@"
SCRIPT
    chmod +x "$root/usr/bin/python3"
fi

# What the suite finds on PATH: the emulated python3, and cross compilers by the names of the system's.
rm -rf "$bin"
mkdir "$bin"
ln -s "$root/usr/bin/python3" "$bin/python3"
ln -s python3 "$bin/python"
PATH=$bin:$PATH

# The kernel cannot start an AArch64 program, so a script that emulates it takes the place of each one that is linked.
# Leaks cannot be looked for there: the sanitizer's ptrace is not emulated.
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
program=\$(realpath "\$output.aarch64")
printf '#!/bin/sh\nASAN_OPTIONS=\$ASAN_OPTIONS:detect_leaks=0 exec "%s" -0 "\$0" -L "%s" "%s" "\$@"\n' '$qemu' '$root' "\$program" >"\$output"
chmod +x "\$output"
SCRIPT
    chmod +x "$bin/$1"
}
for name in cc gcc; do compiler $name aarch64-linux-gnu-gcc; done
for name in c++ g++; do compiler $name aarch64-linux-gnu-g++; done
for name in clang clang++; do
    if clang=$(command -v $name); then compiler $name "$clang --target=aarch64-linux-gnu"; fi
done

if [ "${1-}" = --setup ]; then
    say "ready; PATH=$bin:\$PATH python3 is the emulated Python"
    exit
fi
suite "$root/usr/lib/python3/dist-packages" -o timeout=600 "$@"
