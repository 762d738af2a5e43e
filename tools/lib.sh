# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034
#
# Shell functions that tools/quickstart and tools/check share: what the build needs, and how a build
# folder is made. Sourced from the root of the tree. Everything said here goes to stderr, so that a
# caller's stdout holds its result and nothing else.

say() { printf '%s\n' "$*" >&2; }
die() {
	printf '%s: %s\n' "${0##*/}" "$*" >&2
	exit 1
}

# One need a line: Debian package, how to see that it is there, the thing looked for (of Python: what runs without
# an error). Looking for the thing and not for the package lets a hand-made toolchain, or another system,
# count too.
BUILD_NEEDS='
gcc               command  gcc
libc6-dev         header   stdio.h
linux-libc-dev    header   linux/futex.h
meson             command  meson
ninja-build       command  ninja
pkg-config        command  pkg-config
python3           command  python3
python3-dev       python   import os, sysconfig; os.stat(sysconfig.get_path("include") + "/Python.h")
python3-venv      python   import ensurepip
liburing-dev      module   liburing
libnuma-dev       module   numa
libisal-dev       module   libisal
libxxhash-dev     module   libxxhash
libcjson-dev      module   libcjson
libmicrohttpd-dev module   libmicrohttpd
libconfuse-dev    module   libconfuse
libsystemd-dev    module   libsystemd
check             module   check
'
CHECK_NEEDS='
git               command  git
clang             command  clang
libclang-rt-dev   runtime  fuzzer
clang-format      command  clang-format
shellcheck        command  shellcheck
groff-base        command  groff
binutils          command  nm
libssl-dev        module   libcrypto
'

need_met() { # need_met KIND THING
	case $1 in
	command) command -v "$2" >/dev/null 2>&1 ;;
	header) [ -e "/usr/include/$2" ] || echo "#include <$2>" | gcc -E - >/dev/null 2>&1 ;;
	python) python3 -c "$2" 2>/dev/null ;;
	module) pkg-config --exists "$2" 2>/dev/null ;;
	runtime) [ -e "$(clang -print-file-name="libclang_rt.$2-$(uname -m).a" 2>/dev/null)" ] ;;
	esac
}

# The packages of the needs given that are not met, one a line.
needs_missing() {
	local package kind thing
	while read -r package kind thing; do
		[ -z "$package" ] || need_met "$kind" "$thing" || echo "$package"
	done <<<"$*"
}

# Installs what is missing of the needs given; asks the package lists at most once.
needs_install() {
	local missing as_root=()
	mapfile -t missing < <(needs_missing "$*")
	[ ${#missing[@]} -gt 0 ] || return 0
	say "missing packages: ${missing[*]}"
	command -v apt-get >/dev/null ||
		die "packages are missing and there is no apt-get here; install what these Debian packages hold: ${missing[*]}"
	if [ "$(id -u)" -ne 0 ]; then
		command -v sudo >/dev/null ||
			die "packages are missing; run as root: apt-get install ${missing[*]}"
		as_root=(sudo)
		[ -t 0 ] || as_root+=(-n)
	fi
	as_root+=(env DEBIAN_FRONTEND=noninteractive apt-get)
	"${as_root[@]}" update >&2 || say "apt-get update failed; going on with the package lists that are here"
	"${as_root[@]}" install -y --no-install-recommends "${missing[@]}" >&2 ||
		die "could not install ${missing[*]} (is the network up, and may this user use apt-get?)"
	mapfile -t missing < <(needs_missing "$*")
	[ ${#missing[@]} -eq 0 ] || die "still missing after the installation: ${missing[*]}"
}

# build_tree DIR [VAR=VALUE...] [-Doption...]: configures DIR, again only when it was configured
# otherwise, and compiles all of it.
build_tree() {
	local dir=$1 env=() stamp
	shift
	stamp="$dir/.configured-as"
	while [ $# -gt 0 ] && [[ $1 == *=* && $1 != -* ]]; do
		env+=("$1")
		shift
	done
	if [ ! -f "$dir/build.ninja" ]; then
		env "${env[@]}" meson setup "$dir" "$@" >&2 || return 1
	elif [ "$(cat "$stamp" 2>/dev/null)" != "${env[*]} $*" ]; then
		env "${env[@]}" meson setup --reconfigure "$dir" "$@" >&2 ||
			env "${env[@]}" meson setup --wipe "$dir" "$@" >&2 || return 1
	fi
	echo "${env[*]} $*" >"$stamp"
	ninja -C "$dir" >&2
}

# The release build, the only one that build/ ever holds. Optimised across files: a lookup crosses four.
build_release() { build_tree build -Dbuildtype=release -Db_lto=true; }

# program NAME [DIR]: path of a built program.
program() {
	local path
	path=$(find "${2:-build}" -name "$1" -type f -perm -u+x ! -path '*.p/*' 2>/dev/null | head -n 1)
	[ -n "$path" ] || die "no program $1 under ${2:-build}/; run tools/quickstart --build-only"
	echo "$path"
}

# Ends a process that this shell started: politely, after 10 s for good.
end_process() { # end_process PID
	local i
	kill "$1" 2>/dev/null || return 0
	for ((i = 0; i < 100; i++)); do
		kill -0 "$1" 2>/dev/null || break
		sleep 0.1
	done
	kill -9 "$1" 2>/dev/null
	wait "$1" 2>/dev/null
	return 0
}
