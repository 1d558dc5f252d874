# The rehearsal host of scripts/lab/provision: its places, and its MariaDB with and without systemd. Source after lib.sh.
# shellcheck shell=bash
AT=/srv/db
# shellcheck disable=SC2034 # used by the scripts
DATADIR=$AT/data
SOCKET=/run/mysqld/mysqld.sock
PIDFILE=/run/mysqld/lab.pid

sql() { mariadb --no-defaults -uroot --socket="$SOCKET" -N -e "$1"; }

systemd() { [ -d /run/systemd/system ]; }

server_start() {
    mkdir -p /run/mysqld
    chown mysql:mysql /run/mysqld
    if systemd; then systemctl start mariadb; else
        setsid mariadbd --user=mysql --pid-file="$PIDFILE" >/var/log/lab-mariadb.log 2>&1 </dev/null 9>&- &
    fi
    for _ in $(seq 600); do
        ! sql 'SELECT 1' >/dev/null 2>&1 || return 0
        systemd || kill -0 $! 2>/dev/null || break
        sleep 0.2
    done
    tail -20 /var/log/lab-mariadb.log >&2 2>/dev/null || true
    die "MariaDB does not answer"
}

server_stop() { server_end TERM; }

# As a power cut does.
server_kill() { server_end KILL; }

server_end() { # SIGNAL
    if systemd; then
        [ "$1" = TERM ] || systemctl kill --signal="$1" mariadb 2>/dev/null || true
        systemctl stop mariadb 2>/dev/null || true
        return 0
    fi
    local pid
    pid=$(cat "$PIDFILE" 2>/dev/null) || return 0
    kill "-$1" "$pid" 2>/dev/null || true
    for _ in $(seq 600); do
        kill -0 "$pid" 2>/dev/null || { rm -f "$PIDFILE"; return 0; }
        sleep 0.2
    done
    die "MariaDB (process $pid) does not end"
}
