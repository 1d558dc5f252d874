# Shared by the scripts; source it. Keeps what is slow to build in one cache directory.
# shellcheck shell=bash

export SNAPBACK_CACHE="${SNAPBACK_CACHE:-/var/cache/snapback-lab}"
# What `packages` installs where the distribution's Rust is too old comes first.
# shellcheck disable=SC2034
RUST=1.95.0
export PATH="$SNAPBACK_CACHE/rust/toolchain/bin:$SNAPBACK_CACHE/bin:/root/.cargo/bin:${HOME:-/root}/.cargo/bin:$PATH:/usr/sbin:/sbin"
export HOME="${HOME:-/root}"

say() { printf '\n\033[1m== %s\033[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

need_root() {
    [ "$(id -u)" = 0 ] || die "this needs root (packages, loop devices, mounts): sudo $0"
}

# Runs a step quietly and shows its output only when it fails.
quietly() {
    local log
    log=$(mktemp)
    if "$@" >"$log" 2>&1; then rm -f "$log"; else
        tail -40 "$log" >&2
        rm -f "$log"
        die "failed: $*"
    fi
}
