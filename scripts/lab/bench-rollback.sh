#!/usr/bin/env bash
# How long until the server answers again with older data: snapback snapshot rollback, snapback restore of a backup of the same data, and
# mariadb-backup --prepare with --copy-back. One server on Btrfs; each from the moment at which the running server is told to stop.
# Usage: sudo scripts/lab/bench-rollback.sh [ROWS [ROUNDS]]   (rows of about 1 KiB; 400000 and 3 by default). SNAPBACK: the program. MEMORY: all of it, and what the
# kernel caches for it, gets no more than so many bytes (a memory cgroup), so that data can be larger than memory.
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/lab/lib.sh
need_root
rows=${1:-400000} rounds=${2:-3}
snapback=${SNAPBACK:-target/release/snapback}
[ -x "$snapback" ] || die "$snapback is not built: cargo build --release"
work=$(mktemp -d)
device= group=
if [ -n "${MEMORY:-}" ]; then
    group=/sys/fs/cgroup/memory/snapback-bench-$$ limit=memory.limit_in_bytes
    [ -d /sys/fs/cgroup/memory ] || { group=/sys/fs/cgroup/snapback-bench-$$ limit=memory.max; }
    mkdir "$group" && echo "$MEMORY" >"$group/$limit" && echo $$ >"$group/cgroup.procs" || die "this host has no memory cgroup to put it into"
fi
mysqld() { # not a child of ours that would wait for us
    setsid mariadbd --no-defaults --user=root --datadir="$work/mnt/db/data" --socket="$work/s" --skip-networking --pid-file="$work/pid" --log-bin=binlog \
        --innodb-buffer-pool-size=256M --innodb-log-file-size=128M >>"$work/log" 2>&1 </dev/null &
    until sql "SELECT 1" >/dev/null 2>&1; do sleep 0.02; done
}
sql() { mariadb --no-defaults -uroot --socket="$work/s" -N -e "$1"; }
stop() {
    local pid
    pid=$(cat "$work/pid" 2>/dev/null) || return 0
    kill -TERM "$pid" 2>/dev/null || return 0
    while kill -0 "$pid" 2>/dev/null; do sleep 0.02; done
}
tidy() {
    stop
    umount "$work/mnt" 2>/dev/null || true
    [ -z "$device" ] || losetup --detach "$device"
    rm -rf "$work"
    [ -z "$group" ] || { echo $$ >"$(dirname "$group")/cgroup.procs"; sleep 0.2; rmdir "$group"; }
}
trap tidy EXIT
mkdir "$work/mnt"
truncate -s 24G "$work/image"
mkfs.btrfs -q "$work/image" >/dev/null
device=$(losetup --find --show "$work/image")
mount -o noatime "$device" "$work/mnt"
btrfs -q subvolume create "$work/mnt/db" 2>/dev/null || btrfs subvolume create "$work/mnt/db" >/dev/null
mariadb-install-db --no-defaults --user=root --auth-root-authentication-method=normal --skip-test-db --datadir="$work/mnt/db/data" >/dev/null
cat >"$work/stop" <<EOF
#!/bin/sh
kill -TERM \$(cat $work/pid) && while kill -0 \$(cat $work/pid 2>/dev/null) 2>/dev/null; do sleep 0.02; done
EOF
cat >"$work/start" <<EOF
#!/bin/sh
setsid mariadbd --no-defaults --user=root --datadir=$work/mnt/db/data --socket=$work/s --skip-networking --pid-file=$work/pid --log-bin=binlog \
    --innodb-buffer-pool-size=256M --innodb-log-file-size=128M >>$work/log 2>&1 </dev/null &
EOF
chmod +x "$work/stop" "$work/start"
cat >"$work/snapback.yaml" <<EOF
repository: $work/repository
state_dir: $work/state
server: {socket: $work/s, user: root}
service: {stop: [$work/stop], start: [$work/start]}
EOF
tool() { "$snapback" --quiet --config "$work/snapback.yaml" "$@" >/dev/null || [ $? = 5 ]; }
mysqld
sql "CREATE DATABASE b; USE b; CREATE TABLE b.t (id INT PRIMARY KEY, pad VARBINARY(1000)); SET SESSION binlog_format=ROW;
     INSERT INTO b.t SELECT seq, CONCAT(RANDOM_BYTES(500), REPEAT('lorem ipsum ', 40)) FROM seq_1_to_$rows"
tool init
tool backup
tool snapshot create --label held
mariadb-backup --no-defaults --backup --user=root --socket="$work/s" --target-dir="$work/mb" >/dev/null 2>&1
want=$(sql "CHECKSUM TABLE b.t")
spoil() { sql "UPDATE b.t SET pad = 'gone' WHERE id % 100 = 0; DELETE FROM b.t WHERE id % 100 = 1"; }
right() { [ "$(sql "CHECKSUM TABLE b.t")" = "$want" ] || die "$1 did not bring the data back"; }
now() { date +%s%N; }
ms() { echo $((($(now) - $1) / 1000000)); }
echo "data: $(du -sh "$work/mnt/db/data" | cut -f1); milliseconds until the server answers"
for round in $(seq "$rounds"); do
    spoil; begun=$(now)
    tool snapshot rollback held --stop-server --yes
    rollback=$(ms "$begun"); right rollback
    spoil; begun=$(now)
    stop; rm -rf "$work/mnt/db/data"; tool restore latest --datadir "$work/mnt/db/data"; mysqld
    restore=$(ms "$begun"); right restore
    spoil; begun=$(now)
    stop; stopped=$(ms "$begun"); rm -rf "$work/mnt/db/data"
    cp -r "$work/mb" "$work/mb-round"; copied=$(now)
    mariadb-backup --no-defaults --prepare --target-dir="$work/mb-round" >/dev/null 2>&1
    mariadb-backup --no-defaults --copy-back --target-dir="$work/mb-round" --datadir="$work/mnt/db/data" >/dev/null 2>&1
    mysqld
    # The copy keeps the backup for the next round: it does not count.
    peer=$((stopped + $(ms "$copied"))); right mariadb-backup; rm -rf "$work/mb-round"
    echo "round $round: rollback $rollback, restore $restore, mariadb-backup --prepare and --copy-back $peer"
done
