# A private lab for demo and bench: Btrfs on a loop image, servers with datadir and socket of their own. Source after lib.sh.
# shellcheck shell=bash
# Everything is ended and removed by `scene_down`, which the scripts call on every exit.

# FLAVOUR=mysql makes it MySQL 9.7 from scripts/lab/mysql97.
FLAVOUR=${FLAVOUR:-mariadb}

scene_up() { # SIZE-OF-IMAGE
    LAB=$(mktemp -d "${TMPDIR:-/tmp}/snapback-lab-XXXXXX")
    MOUNT=$LAB/btrfs
    mkdir "$MOUNT" "$LAB/run" "$LAB/log"
    truncate -s "$1" "$LAB/btrfs.img"
    quietly mkfs.btrfs -q "$LAB/btrfs.img"
    LOOP=$(losetup --find --show "$LAB/btrfs.img")
    mount -o noatime "$LOOP" "$MOUNT"
}

# A datadir in a subvolume of its own: sets DATADIR.
new_datadir() { # NAME-OF-SUBVOLUME
    DATADIR=$MOUNT/$1/data
    quietly btrfs subvolume create "$MOUNT/$1"
    case $FLAVOUR in
        mariadb) quietly mariadb-install-db --no-defaults --user=root --auth-root-authentication-method=normal --skip-test-db --datadir="$DATADIR" ;;
        mysql) quietly "$SNAPBACK_CACHE/mysql-9.7/bin/mysqld97" --no-defaults --initialize-insecure --user=root --secure-file-priv= --datadir="$DATADIR" ;;
    esac
}

server_up() { # DATADIR NAME [OPTION...]
    local datadir=$1 name=$2 program=mariadbd own=()
    shift 2
    SOCKET=$LAB/run/$name.sock
    case $FLAVOUR in
        mysql) program=$SNAPBACK_CACHE/mysql-9.7/bin/mysqld97 own=(--mysqlx=OFF --secure-file-priv=) ;;
    esac
    # The lab's tuning, not a recommendation. --skip-networking: no port that may be taken.
    "$program" --no-defaults --user=root --datadir="$datadir" --socket="$SOCKET" --pid-file="$LAB/run/$name.pid" --skip-networking \
        --log-bin=binlog --server-id=1 --sync-binlog=1 --innodb-buffer-pool-size=256M --max-connections=200 "${own[@]}" "$@" >"$LAB/run/$name.log" 2>&1 &
    SERVER=$!
    SERVERS="${SERVERS:-} $SERVER"
    local waited=0
    until sql 'SELECT 1' >/dev/null 2>&1; do
        kill -0 "$SERVER" 2>/dev/null || { tail -20 "$LAB/run/$name.log" >&2; die "the server ended"; }
        waited=$((waited + 1))
        [ $waited -lt 600 ] || die "the server does not answer"
        sleep 0.1
    done
}

server_down() { # PID [SIGNAL]
    kill "-${2:-TERM}" "$1" 2>/dev/null || return 0
    wait "$1" 2>/dev/null || true
}

# The stock client of the server at hand.
client() {
    case $FLAVOUR in
        mariadb) mariadb --no-defaults -uroot --socket="$SOCKET" -N "$@" ;;
        mysql) "$SNAPBACK_CACHE/mysql-9.7/bin/mysql97" --no-defaults -uroot --socket="$SOCKET" --commands=ON --system-command=ON -N "$@" ;;
    esac
}

sql() { client -e "$1"; }

scene_down() {
    local status=$?
    trap '' INT TERM
    for pid in ${CHILDREN:-} ${SERVERS:-}; do server_down "$pid" KILL; done
    if [ -n "${LAB:-}" ] && mountpoint -q "$LAB/other"; then umount "$LAB/other"; fi
    if [ -n "${MOUNT:-}" ]; then
        for _ in $(seq 50); do
            umount "$MOUNT" 2>/dev/null && break
            grep -q " $MOUNT " /proc/mounts || break
            sleep 0.2
        done
    fi
    [ -z "${LOOP:-}" ] || losetup --detach "$LOOP" 2>/dev/null || true
    [ -z "${LAB:-}" ] || rm -rf "$LAB"
    return $status
}
