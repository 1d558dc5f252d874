# Lock hold and commit latency under load, beside the naive sequence and mariadb-backup; sourced by scripts/bench.
# shellcheck shell=bash

# The longest commit of a separate client while a command runs, in ms.
probed() { # COMMAND
    mkfifo "$LAB/run/probe" 2>/dev/null || true
    "$ledger" probe "$SOCKET" <"$LAB/run/probe" >"$LAB/run/longest" &
    local probe=$!
    exec 8>"$LAB/run/probe"
    sleep 1
    eval "$1" >"$LAB/out" 2>&1 || [ $? = 5 ] || { tail -5 "$LAB/out" >&2; die "failed: $1"; }
    sleep 0.3
    exec 8>&-
    wait $probe
    awk '{ printf "%.1f\n", $1 / 1000 }' "$LAB/run/longest"
}

# Held time in µs of the stock client's sequence, by the server's clock.
naive() {
    local status="SHOW MASTER STATUS"
    [ "$FLAVOUR" = mariadb ] || status="SHOW BINARY LOG STATUS"
    client 2>"$LAB/naive.err" <<SQL | awk 'NR == 1 { a = $1 } END { printf "%.0f\n", ($1 - a) * 1e6 }'
FLUSH TABLES WITH READ LOCK;
SELECT UNIX_TIMESTAMP(SYSDATE(6));
$status;
\! btrfs subvolume snapshot -r $MOUNT/$SUBVOLUME $SNAP >/dev/null
UNLOCK TABLES;
SELECT UNIX_TIMESTAMP(SYSDATE(6));
SQL
    [ ! -s "$LAB/naive.err" ] || die "the naive sequence failed: $(cat "$LAB/naive.err")"
    btrfs subvolume delete "$SNAP" >/dev/null
}

held() { # STRATEGY
    "$snapback" --quiet --json backup --lock "$1" --repository "$LAB/other/hold" >"$LAB/out" || [ $? = 5 ] || die "the backup failed"
    field held_us <"$LAB/out"
}

ms() { awk -v a="$1" 'BEGIN { if (a == "-") print a; else printf "%.1f ms", a / 1000 }'; }
of_naive() { awk -v a="$1" -v b="$2" 'BEGIN { if (a == "-") print a; else if (a == 0) print "0"; else printf "1/%.1f", b / a }'; }
row() { # WORDS HELD-FILE LONGEST-FILE NAIVE
    local held longest
    held=$(median <"$2")
    longest=$(median <"$3")
    echo "| $1 | $(ms "$held") | $(of_naive "$held" "$4") | $longest |"
}

# FLAVOUR ENGINES STRATEGY...: one server of its own on a subvolume of its own, all ways in turn.
bench_hold() {
    FLAVOUR=$1
    local engines=$2 result=$LAB/results-$1-$2 way
    shift 2
    SUBVOLUME=hold-$FLAVOUR-$engines SNAP=$MOUNT/snap
    new_datadir "$SUBVOLUME"
    mkdir "$result"
    other_storage
    if [ "$FLAVOUR" = mariadb ]; then server_up "$DATADIR" "$SUBVOLUME" --innodb-log-file-size=256M; else server_up "$DATADIR" "$SUBVOLUME" --innodb-redo-log-capacity=256M; fi
    "$ledger" setup "$SOCKET" "$hold_rows" "$engines"
    write_config
    "$snapback" init --config "$LAB/$SUBVOLUME.yaml" --repository "$LAB/other/hold" >/dev/null
    mkfifo "$LAB/run/stop"
    "$ledger" load "$SOCKET" - $threads 0 "$hold_rows" "$engines" <"$LAB/run/stop" >"$LAB/run/load" &
    local load=$!
    CHILDREN=$load
    exec 9>"$LAB/run/stop"
    sleep 2
    held auto >/dev/null
    touch "$result/held-naive" "$result/held-none"
    # The same pause before each: whoever comes right after another finds the filesystem clean.
    for _ in $(seq $((rounds * 2))); do
        sleep 2; naive >>"$result/held-naive"
        for way in "$@"; do sleep 2; held "$way" >>"$result/held-$way"; done
    done
    for _ in $(seq "$rounds"); do
        # All over about as long as a backup takes: a load has its own outliers, more of them the longer one looks.
        sleep 2; probed "sleep 4" >>"$result/commit-nothing"
        sleep 2; probed "sleep 1; btrfs subvolume snapshot -r $MOUNT/$SUBVOLUME $SNAP && sleep 3 && btrfs subvolume delete $SNAP" >>"$result/commit-bare"
        for way in "$@"; do sleep 2; probed "$snapback --quiet backup --lock $way --repository $LAB/other/hold" >>"$result/commit-$way"; done
        [ "$FLAVOUR" = mysql ] || { sleep 2; probed "mariadb-backup --no-defaults --backup --user=root --socket=$SOCKET --target-dir=$LAB/other/mb-probe && rm -rf $LAB/other/mb-probe" >>"$result/commit-peer"; }
    done
    exec 9>&-
    wait "$load"
    CHILDREN=
    rm "$LAB/run/stop"
    local naive
    naive=$(median <"$result/held-naive")
    echo
    echo "Lock held, and the longest commit of a separate client over the whole run: $(sql 'SELECT VERSION()'), engines: $engines (medians; load: $(cat "$LAB/run/load"))"
    echo
    echo "| | held | of naive | longest commit (ms) |"
    echo "|---|---|---|---|"
    row "nothing but the load" "$result/held-none" "$result/commit-nothing" "$naive"
    row "bare snapshot, no lock" "$result/held-none" "$result/commit-bare" "$naive"
    row "naive: stock client, FTWRL, btrfs, UNLOCK" "$result/held-naive" "$result/held-none" "$naive"
    for way in "$@"; do row "snapback $way" "$result/held-$way" "$result/commit-$way" "$naive"; done
    [ "$FLAVOUR" = mysql ] || row "mariadb-backup" "$result/held-none" "$result/commit-peer" "$naive"
    server_down "$SERVER"
    quietly btrfs subvolume delete "$MOUNT/$SUBVOLUME"
    rm -rf "$LAB/other/hold" "$LAB/$SUBVOLUME.yaml"
}
