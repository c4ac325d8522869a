#!/bin/sh
# Runs the test suite as AArch64: pytest and every executor it starts are an AArch64 CPython under qemu's user-mode
# emulation, and `cc` is the cross compiler. Needs a Debian 12 machine; everything it makes is under build/aarch64.
#
#   tests/aarch64/run.sh [--setup] [pytest arguments]      (--setup: prepare only)
#
# PIP is the command that installs pytest (default: python3 -m pip).
set -eu

here=$(cd "$(dirname "$0")" && pwd)
project=$(cd "$here/../.." && pwd)
out=$project/build/aarch64
root=$out/root
bin=$out/bin
: "${PIP:=python3 -m pip}"

say() { printf 'aarch64: %s\n' "$*"; }
fail() { printf 'aarch64: %s\n' "$*" >&2; exit 1; }

# One run at a time: pytest inherits the descriptor, and so keeps the lock.
mkdir -p "$out"
exec 9>"$out/lock"
flock -n 9 || { say "waiting for another run to end"; flock 9; }

# ---- the emulator and the cross compilers -------------------------------------------------------------------------
tools='qemu-user-static gcc-aarch64-linux-gnu g++-aarch64-linux-gnu libc6-dev-arm64-cross'
have_tools() {
    for tool in qemu-aarch64-static aarch64-linux-gnu-gcc aarch64-linux-gnu-g++; do
        command -v "$tool" >/dev/null || return 1
    done
}
if ! have_tools; then
    command -v apt-get >/dev/null || fail "no apt-get here: this needs Debian 12 with $tools"
    [ "$(id -u)" = 0 ] || fail "missing tools; as root: apt-get update && apt-get install $tools"
    say "installing $tools"
    apt-get update -qq
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive apt-get install -yqq $tools >/dev/null
fi
qemu=$(command -v qemu-aarch64-static)

# ---- the root: Debian's arm64 packages, unpacked --------------------------------------------------------------------
packages="python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 libffi8 zlib1g libexpat1 libgcc-s1 \
libbz2-1.0 liblzma5 libssl3 libstdc++6 libasan8 libubsan1 libzstd1 libzstd-dev"
if [ "$(cat "$root/.packages" 2>/dev/null)" != "$packages" ]; then
    say "fetching Debian's arm64 packages: $packages"
    apt=$out/apt
    rm -rf "$root" "$apt"
    mkdir -p "$root" "$apt/lists/partial" "$apt/cache/archives/partial" "$apt/debs"
    : >"$apt/status"
    sources=/etc/apt/sources.list.d/debian.sources
    [ -e "$sources" ] || sources=/etc/apt/sources.list
    arm64_apt() {
        apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User=root \
            -o Dir::State="$apt" -o Dir::State::lists="$apt/lists" -o Dir::State::status="$apt/status" \
            -o Dir::Cache="$apt/cache" -o Dir::Etc::sourcelist="$sources" -o Dir::Etc::sourceparts=- "$@"
    }
    arm64_apt update
    # shellcheck disable=SC2086
    (cd "$apt/debs" && arm64_apt download $packages) ||
        fail "cannot fetch the packages: do $sources name Debian 12 (bookworm)?"
    for deb in "$apt"/debs/*.deb; do dpkg -x "$deb" "$root"; done
    rm -rf "$apt"
    printf '%s\n' "$packages" >"$root/.packages"
fi

# ---- what the suite finds on PATH: an emulated python3, cross compilers in the names of the system's ------------------
rm -rf "$bin"
mkdir -p "$bin"
# `-0 "$0"` makes the script sys.executable, so that what the suite starts with it is emulated too.
cat >"$root/usr/bin/python3" <<SCRIPT
#!/bin/sh
exec '$qemu' -0 "\$0" -L '$root' '$root/usr/bin/python3.11' "\$@"
SCRIPT
chmod +x "$root/usr/bin/python3"
ln -s "$root/usr/bin/python3" "$bin/python3"
ln -s python3 "$bin/python"

# The kernel cannot start an AArch64 program, so a linked one is put behind a script that emulates it. Leaks cannot be
# looked for there: the sanitizer's ptrace is not emulated.
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

# ---- pytest, for the emulated Python ----------------------------------------------------------------------------------
site=$root/usr/lib/python3/dist-packages
requirements=$("$bin/python3" - "$project/pyproject.toml" <<'SCRIPT'
import sys, tomllib
with open(sys.argv[1], "rb") as file:
    print("\n".join(tomllib.load(file)["dependency-groups"]["test"]))
SCRIPT
)
if [ "$(cat "$site/.requirements" 2>/dev/null)" != "$requirements" ]; then
    say "installing pytest"
    rm -rf "$site"
    printf '%s\n' "$requirements" >"$out/requirements.txt"
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore $PIP install --quiet --target "$site" \
        --python-version 3.11 --only-binary=:all: --requirement "$out/requirements.txt" ||
        fail "'$PIP' cannot install the test group; set PIP to a pip of CPython 3.8 or later"
    printf '%s\n' "$requirements" >"$site/.requirements"
fi
cp "$here/emulated.py" "$site/"

# ---- the suite --------------------------------------------------------------------------------------------------------
if [ "${1-}" = --setup ]; then
    say "ready; PATH=$bin:\$PATH python3 is the emulated Python"
    exit
fi
unset CC CXX CFLAGS CXXFLAGS LDFLAGS PYTHONPATH PYTHONHOME VIRTUAL_ENV
PATH=$bin:$PATH
export PATH
say "running the suite with $(python3 -c 'import platform; print(platform.python_implementation(), platform.python_version(), platform.machine())')"
# In a copy: what the suite builds must not be taken for this machine's.
rm -rf "$out/project"
mkdir "$out/project"
tar -C "$project" --exclude=./build --exclude=./dist --exclude=./.venv --exclude=./.git -cf - . | tar -C "$out/project" -xf -
cd "$out/project"
exec python3 -m pytest -p emulated -o timeout=600 "$@"
