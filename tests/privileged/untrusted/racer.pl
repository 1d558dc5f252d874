#!/usr/bin/perl
# The server's user as an enemy: puts links, pipes and directories wherever it can below the scratch directory and the datadirs, as fast as it can, until it is killed.
# Usage: racer.pl WAY SCRATCH VICTIMS LOG DATADIR...
use strict;
use warnings;

my ($way, $scratch, $victims, $log, @datadirs) = @ARGV;
open(my $said, '>>', $log) or die "$log: $!";
$said->autoflush(1);
my @targets = ("$victims/etc", "$victims/etc/shadow", "$victims/etc/evil.cnf", "$victims/program", "/dev/zero", 'nowhere');
my @names = qw(run read data data.external own tmp client my.cnf init.sql client.cnf target.cnf output.log error.log pid s
    run/tmp run/error.log run/pid run/s run/init.sql run/my.cnf run/client.cnf read/my.cnf read/init.sql read/client.cnf read/output.log
    data/mysql data/ibdata1 data/ledger data/x.isl data/binlog.index data/binlog.000001 data/auto.cnf data/performance_schema);
my @data = qw(x.isl ledger mysql ibdata1 binlog.index binlog.000002 aria_log_control sys auto.cnf SNAPBACK-REPLAY-UNFINISHED relay-log.info);
my $number = 0;

# In the place of whatever has the name.
sub plant {
    my ($path) = @_;
    my $new = "$path.n" . $number++;
    my $kind = int(rand(8));
    if ($kind == 0) { mkdir $new or return; }
    elsif ($kind == 1) { require POSIX; POSIX::mkfifo($new, 0666) or return; }
    elsif ($kind == 2) { link("$victims/etc/shadow", $new) or return; }
    else { symlink($targets[int(rand(@targets))], $new) or return; }
    rename($new, $path) or (rename($path, "$path.o$number") and rename($new, $path)) or do { unlink $new or rmdir $new; return; };
    print $said "$path\n" if $number % 64 == 1;
}

while (1) {
    my @spaces = glob("$scratch/snapback-drill-*");
    for my $space (@spaces) {
        my @wanted = $way eq 'space' ? grep { !m{/} or m{^read/} } @names : $way eq 'run' ? grep { m{^run/} } @names : @names;
        plant("$space/$_") for $way eq 'space' ? @wanted : $wanted[int(rand(@wanted))];
        # The whole of it.
        if ($way eq 'space') { plant($space); }
    }
    if ($way eq 'data') {
        for my $datadir (@datadirs) {
            plant("$datadir/" . $data[int(rand(@data))]) if -d $datadir and int(rand(50)) == 0;
        }
    }
    # Names that are guessed.
    if ($way eq 'space') { symlink("$victims/etc", "$scratch/snapback-drill-" . sprintf("%032x", $number)); unlink("$scratch/snapback-drill-" . sprintf("%032x", $number)); }
}
