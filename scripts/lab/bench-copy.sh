# First and second backup and restore, beside the peers, server idle and page cache cold, backups on other storage (memory); sourced by scripts/bench.
# shellcheck shell=bash

stored() { du -sb "$1" 2>/dev/null | cut -f1; }
mb() { awk -v b="${1:-0}" 'BEGIN { printf "%.0f MiB", b / 1048576 }'; }
cold() { sync; echo 3 >/proc/sys/vm/drop_caches; }
# Wall seconds, CPU seconds, peak RSS in MiB of a shell command.
timed() { /usr/bin/time -o "$LAB/time" -f '%e %U %S %M' bash -c "$1" >"$LAB/out" 2>&1 || { tail -5 "$LAB/out" >&2; die "failed: $1"; }
    awk '{ printf "%.2f s | %.2f s | %.0f MiB", $1, $2 + $3, $4 / 1024 }' "$LAB/time"; }
backup="$snapback --quiet backup || [ \$? = 5 ]"
mariabackup="mariadb-backup --no-defaults --backup --user=root --socket=\$SOCKET"

# The row in the middle, by wall time.
middle() { sort -n | awk '{ v[NR] = $0 } END { print v[int((NR + 1) / 2)] }'; }

# Until the server writes nothing any more by itself: purge and flushing go on for a while after a load.
until_idle() {
    local waited
    for waited in $(seq 60); do
        [ -n "$(find "$DATADIR" -type f -newermt '-4 seconds' -print -quit)" ] || return 0
        sleep 2
    done
    say "the server is not idle after $waited looks"
}

first_backup() {
    until_idle
    say "first backup of $(du -sh "$DATADIR" | cut -f1), server idle, cold cache"
    restic init >/dev/null 2>&1
    local limit round rows=$LAB/rows
    mkdir "$rows"
    for round in $(seq $((rounds + 2))); do
        cold; limit=$(cargo bench --locked --quiet --bench limit -- "$DATADIR" 2>/dev/null | tail -1)
        echo "$(cut -d' ' -f1 <<<"$limit") s | | | $(mb "$(cut -d' ' -f3 <<<"$limit")") |" >>"$rows/limit"
        rm -rf "$LAB/other/repository" "$LAB/x.yaml"
        "$snapback" init --config "$LAB/x.yaml" --repository "$LAB/other/repository" >/dev/null
        cold; echo "$(timed "$backup") | $(mb "$(stored "$LAB/other/repository")") |" >>"$rows/snapback"
        rm -rf "$LAB/other/tar.zst" "$LAB/other/mb.zst"
        cold; echo "$(timed "set -o pipefail; tar -C $DATADIR -c . | zstd -1 -T2 -q -o $LAB/other/tar.zst") | $(mb "$(stored "$LAB/other/tar.zst")") |" >>"$rows/tar"
        cold; echo "$(timed "set -o pipefail; $mariabackup --stream=mbstream --target-dir=$LAB/other/mbtmp | zstd -1 -T2 -q -o $LAB/other/mb.zst") | $(mb "$(stored "$LAB/other/mb.zst")") |" >>"$rows/mb"
    done
    echo
    echo "| first backup (medians of $((rounds + 2))) | wall | CPU | peak RSS | stored |"
    echo "|---|---|---|---|---|"
    echo "| the limit: read, BLAKE3, zstd -1, nothing kept | $(middle <"$rows/limit")"
    echo "| snapback | $(middle <"$rows/snapback")"
    echo "| mariadb-backup, zstd -1 -T2 (leaves the binary logs out) | $(middle <"$rows/mb")"
    echo "| tar, zstd -1 -T2 | $(middle <"$rows/tar")"
    cold; echo "| restic | $(timed "restic backup -q $DATADIR") | $(mb "$(stored "$LAB/other/restic")") |"
}

second_backup() { # WORDS BASE-OF-INCREMENTAL NAME
    local before rbefore t
    before=$(stored "$LAB/other/repository") rbefore=$(stored "$LAB/other/restic")
    echo
    echo "| second backup, $1 | wall | CPU | peak RSS | stored |"
    echo "|---|---|---|---|---|"
    cold; t=$(timed "$backup"); echo "| snapback | $t | $(mb $(($(stored "$LAB/other/repository") - before))) |"
    cold; t=$(timed "$mariabackup --incremental-basedir=$LAB/other/$2 --target-dir=$LAB/other/$3"); echo "| mariadb-backup incremental | $t | $(mb "$(stored "$LAB/other/$3")") |"
    cold; t=$(timed "restic backup -q $DATADIR"); echo "| restic | $t | $(mb $(($(stored "$LAB/other/restic") - rbefore))) |"
}

restores() {
    echo
    echo "| restore | wall | CPU | peak RSS |"
    echo "|---|---|---|---|"
    cold; echo "| snapback restore --datadir | $(timed "$snapback --quiet restore latest --datadir $LAB/restored || [ \$? = 5 ]; sync -f $LAB") |"
    rm -rf "$LAB/restored"
    cold; echo "| mariadb-backup prepare, copy-back | $(timed "mariadb-backup --no-defaults --prepare --target-dir=$LAB/other/mb-full && mariadb-backup --no-defaults --copy-back --target-dir=$LAB/other/mb-full --datadir=$LAB/mb-back && sync -f $LAB") |"
    rm -rf "$LAB/mb-back"
    cold; mkdir "$LAB/untar"; echo "| zstd -d, tar x | $(timed "set -o pipefail; zstd -dqc $LAB/other/tar.zst | tar -C $LAB/untar -x && sync -f $LAB") |"
}

bench_copy() {
    FLAVOUR=mariadb SUBVOLUME=copy
    other_storage
    new_datadir "$SUBVOLUME"
    server_up "$DATADIR" "$SUBVOLUME" --innodb-log-file-size=256M
    say "loading $rows rows"
    "$ledger" setup "$SOCKET" "$rows"
    # Some seconds of writers, so that the tables are not all in one piece.
    mkfifo "$LAB/run/stop"
    "$ledger" load "$SOCKET" - $threads 0 "$rows" <"$LAB/run/stop" >/dev/null &
    local load=$!
    exec 9>"$LAB/run/stop"
    sleep 10
    exec 9>&-
    wait "$load"
    rm "$LAB/run/stop"
    write_config
    export LAB DATADIR SOCKET RESTIC_PASSWORD=bench RESTIC_REPOSITORY=$LAB/other/restic RESTIC_CACHE_DIR=$LAB/restic-cache
    first_backup
    bash -c "$mariabackup --target-dir=$LAB/other/mb-full" >/dev/null 2>&1
    second_backup "nothing changed" mb-full mb-quiet
    sql "UPDATE ledger.bulk SET hits = hits + 1 WHERE id % 100 = 0"
    until_idle
    second_backup "1 % of the rows changed" mb-full mb-inc
    restores
    server_down "$SERVER"
}
