#!/bin/sh
# Runs the test suite on musl: pytest and every executor that it starts are a CPython built for musl, and `cc` is a
# compiler for musl. Needs Debian 12; everything that it makes is below build/musl.
#
#   tests/musl/run.sh [--setup] [pytest arguments]      (--setup: prepare only)
#
# PYTHON is a Python that has pytest (default: python3).
set -eu
cd "$(dirname "$0")/../.."
platform=musl
. tests/platform.sh

install gcc libc6-dev make musl-tools linux-libc-dev dpkg-dev

# musl-gcc hides the directory of glibc's headers, and with it those of the kernel. It links the sanitizers' libraries,
# which are glibc's.
mkdir -p "$out/bin" "$out/kernel"
ln -sfn /usr/include/linux /usr/include/asm-generic "/usr/include/$(gcc -print-multiarch)/asm" "$out/kernel"
cat >"$out/bin/cc" <<SCRIPT
#!/bin/sh
case "\$*" in *-fsanitize=*) echo "there are no sanitizers for musl" >&2; exit 1 ;; esac
exec musl-gcc -idirafter "$out/kernel" "\$@"
SCRIPT
chmod +x "$out/bin/cc"
ln -sfn cc "$out/bin/gcc"
PATH=$out/bin:$PATH

# build SOURCE TARGET [arguments of configure]
build() {
    say "building $1"
    target=$2
    cd "$out/sources/$1"
    shift 2
    # As if for glibc: configure's name for musl is not the compiler's.
    { ./configure --quiet --build=x86_64-linux-gnu --prefix="$out" CC=cc "$@" && make -s -j2 "$target"; } \
        >build.log 2>&1 || { cat build.log; exit 1; }
    cd "$project"
}

if [ ! -e "$out/bin/python3" ]; then
    sources=$out/sources
    debian bookworm amd64 "$sources" source --download-only libffi python3.11
    for name in libffi python3.11; do
        mkdir "$sources/$name"
        tar -C "$sources/$name" --strip-components 1 -xf "$sources/$name"_*.orig.tar.*
    done
    build libffi install --disable-shared --disable-docs --disable-exec-static-tramp
    # The modules become part of the program: CPython's setup.py would compile them with glibc's headers.
    modules=$sources/python3.11/Modules
    sed -n '/^# Modules that should always/,/^# Modules with UNIX .* require/ s/^#\([_a-z]\)/\1/p; s/^#_ctypes /_ctypes /p' \
        "$modules/Setup" | grep -v '^_codecs_\|^_multibyte\|^ossaudio' >"$modules/Setup.local"
    build python3.11 pybuilddir.txt PKG_CONFIG=false OPT='-DNDEBUG -O1' CPPFLAGS="-I$out/include" LDFLAGS="-L$out/lib"
    mkdir "$sources/python3.11/Lib/lib-dynload"
    mv "$sources"/python3.11/build/lib.*/_sysconfigdata_*.py "$sources/python3.11/Lib"
    ln -sfn "$sources/python3.11/Lib" "$out/lib/python3.11"
    mv "$sources/python3.11/python" "$out/bin/python3"
fi

if [ "${1-}" = --setup ]; then
    say "ready; PATH=$out/bin:\$PATH python3 is the Python for musl"
    exit
fi
# There is no C++ library for musl.
export CXX=
suite "$out/lib/python3.11/site-packages" "$@"
