# What the scripts share that run the suite on another platform, or fetch a Python. A script sets `platform`, goes to
# the project's directory and sources this file. Everything that it makes is below build/$platform.
# shellcheck shell=sh

project=$PWD
out=$project/build/$platform
mkdir -p "$out"
unset CC CXX CFLAGS CXXFLAGS LDFLAGS PYTHONPATH PYTHONHOME VIRTUAL_ENV

say() { printf '%s: %s\n' "$platform" "$*"; }
fail() { say "$@" >&2; exit 1; }

# One run at a time: pytest inherits the descriptor, and so keeps the lock.
exec 9>"$out/lock"
flock -n 9 || { say "waiting for another run to end"; flock 9; }

# install PACKAGE...: those of Debian's packages that this machine lacks.
install() {
    ! dpkg -s "$@" >/dev/null 2>&1 || return 0
    command -v apt-get >/dev/null || fail "there is no apt-get: this needs a Debian with $*"
    [ "$(id -u)" = 0 ] || fail "packages are missing; as root: apt-get update && apt-get install $*"
    say "installing $*"
    apt-get -qq update
    DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$@" >/dev/null
}

# debian SUITE ARCHITECTURE FOLDER ARGUMENT...: run apt-get in FOLDER, which is emptied, with the lists of a Debian that
# need not be this machine's.
debian() {
    suite=$1 architecture=$2 folder=$3
    shift 3
    say "fetching from Debian's $suite, $architecture: $*"
    rm -rf "$folder"
    mkdir -p "$folder/apt/lists/partial" "$folder/apt/archives/partial"
    : >"$folder/apt/status"
    release=$(. /etc/os-release && echo "$VERSION_CODENAME")
    mirror=$(apt-get indextargets --no-release-info --format '$(REPO_URI)' "Release: $release" | head -n 1)
    printf '%s %s %s main\n' deb "$mirror" "$suite" deb-src "$mirror" "$suite" >"$folder/apt/sources.list"
    cat >"$folder/apt/apt.conf" <<CONF
APT::Architecture "$architecture";
APT::Architectures "$architecture";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Dir::Etc::sourcelist "$folder/apt/sources.list";
Dir::Etc::sourceparts "-";
Dir::State "$folder/apt";
Dir::State::status "$folder/apt/status";
Dir::Cache "$folder/apt";
CONF
    (cd "$folder" && export APT_CONFIG="$folder/apt/apt.conf" && apt-get -qq update && apt-get -qq "$@")
}

# unpack SUITE ARCHITECTURE FOLDER PACKAGE...: the files of Debian's packages in FOLDER, without installing them.
unpack() {
    suite=$1 architecture=$2 folder=$3
    shift 3
    debian "$suite" "$architecture" "$folder" download "$@" || return
    for package in "$folder"/*.deb; do
        dpkg -x "$package" "$folder" || return
    done
    rm -r "$folder"/*.deb "$folder/apt"
}

# suite SITE [pytest arguments]: run the suite with the python3 that is first on PATH. SITE is its folder for packages.
suite() {
    mkdir -p "$1"
    "${PYTHON:-python3}" -c 'import pathlib, pytest; print(pathlib.Path(pytest.__file__).parent.parent)' >"$1/pytest.pth"
    shift
    # In a copy: what the suite builds must not be taken for this machine's.
    rm -rf "$out/project"
    mkdir "$out/project"
    tar --exclude=./build --exclude=./dist --exclude=./.venv --exclude=./.git -cf - . | tar -C "$out/project" -xf -
    cd "$out/project"
    # Deselected are tests that say nothing there; each must exist.
    list=tests/$platform/deselected.txt
    sed -n 's/^\(tests[^:]*\)::\([^[]*\).*/\1 \2/p' "$list" | while read -r file test; do
        grep -q "^def $test(" "$file" || fail "$list: there is no $test in $file"
    done
    sed -n 's/^tests/--deselect=&/p' "$list" >"$out/deselected"
    say "running the suite with $(python3 -c 'import platform; print(platform.platform(), platform.python_version())')"
    exec python3 -m pytest @"$out/deselected" "$@"
}
