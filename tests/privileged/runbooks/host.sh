# Makes a namespace look like a database host of its own. $1 is its name, $2 its address; $LAB is the test's directory, $VOLUME a Btrfs subvolume,
# $OPTIONS more lines for the server's configuration.
# Nothing of the real host's /etc, /root, /srv, /mnt, /opt, /run, /var/lib and /var/tmp is written to.
set -eu
home=$LAB/$1
mkdir -p "$home/root" "$home/tmp" "$home/mnt" "$home/opt" "$LAB/srv"
chmod 1777 "$home/tmp"
echo "$1" >/proc/sys/kernel/hostname
cp -a /etc "$home/etc"
mount --bind "$home/etc" /etc
mount --bind "$VOLUME" /var/lib
mount -t tmpfs -o mode=755 tmpfs /run
for name in root mnt opt; do mount --bind "$home/$name" "/$name"; done
mount --bind "$home/tmp" /var/tmp
mount --bind "$LAB/srv" /srv
ip link set lo up
ip address add "$2/24" dev lo

printf '10.0.0.1 db1\n10.0.0.2 db2\n' >>/etc/hosts
grep -q '^mysql:' /etc/passwd || {
    echo 'mysql:x:994:994::/nonexistent:/usr/sbin/nologin' >>/etc/passwd
    echo 'mysql:x:994:' >>/etc/group
}
mkdir -p /run/mysqld
chown mysql: /run/mysqld
# MySQL's package makes it.
if [ -n "${MYSQLD:-}" ]; then install -d -m 750 -o mysql -g mysql /var/lib/mysql-files; fi
rm -rf /etc/mysql
mkdir -p /etc/mysql
cat >/etc/mysql/my.cnf <<CNF
[client]
socket=/run/mysqld/mysqld.sock
[mysqld]
user=mysql
datadir=/var/lib/mysql
socket=/run/mysqld/mysqld.sock
bind-address=$2
server-id=1
log-bin=binlog
innodb-buffer-pool-size=64M
$OPTIONS
CNF
if [ -n "${NEW:-}" ]; then ln -s "$NEW" /opt/new; fi
