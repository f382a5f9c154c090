# Runs inside the proxy's container for as long as one bluegreen command needs it, and does there what must be done from
# the proxy's place. A line is a verb and its arguments, percent-encoded; the answer is "ok LENGTH" or "error LENGTH" and
# a newline, then LENGTH bytes. Perl itself without modules beyond perl-base, which every Debian image has.
use strict; use warnings;
use Socket qw(pack_sockaddr_in inet_aton PF_INET SOCK_STREAM SOL_SOCKET SO_ERROR);
use IO::Socket::UNIX;
use IO::Select;
$| = 1; $SIG{PIPE} = 'IGNORE';

# Sends all of $data on $socket and returns what comes back until its end, within $seconds and the second begun.
sub talk {
    my ($socket, $data, $seconds) = @_;
    my $deadline = time + 1 + $seconds;
    my $select = IO::Select->new($socket);
    while (length $data) {
        my $left = $deadline - time;
        die "no answer within $seconds s\n" if $left <= 0 || !$select->can_write($left);
        my $n = syswrite $socket, $data;
        die "the connection broke: $!\n" unless defined $n;
        substr $data, 0, $n, '';
    }
    my $answer = '';
    while (1) {
        my $left = $deadline - time;
        die "no answer within $seconds s\n" if $left <= 0 || !$select->can_read($left);
        my $n = sysread $socket, $answer, 65536, length $answer;
        die "the connection broke: $!\n" if !defined $n && !length $answer;
        return $answer if !$n;
    }
}

# A connection over TCP, made within $seconds.
sub dial {
    my ($host, $port, $seconds) = @_;
    socket(my $socket, PF_INET, SOCK_STREAM, 0) or die "$!\n";
    $socket->blocking(0);
    my $address = inet_aton($host) or die "no such address: $host\n";
    if (!connect $socket, pack_sockaddr_in($port, $address)) {
        die "$!\n" unless $!{EINPROGRESS};
        die "no connection within $seconds s\n" unless IO::Select->new($socket)->can_write($seconds);
        $! = unpack 'i', getsockopt $socket, SOL_SOCKET, SO_ERROR;
        die "$!\n" if $!;
    }
    return $socket;
}

# Of each log: how far it was read, and how often each line was there.
my %tallies;

my %verbs = (
    # One exchange over TCP: everything that comes back until the other side closes.
    tcp => sub {
        my ($host, $port, $seconds, $data) = @_;
        return talk(dial($host, $port, $seconds), $data, $seconds);
    },
    # A connection over TCP that the other side takes, and does not close for the $look seconds after.
    connect => sub {
        my ($host, $port, $seconds, $look) = @_;
        my $socket = dial($host, $port, $seconds);
        if (IO::Select->new($socket)->can_read($look)) {
            my $n = sysread $socket, my $byte, 1;
            die "closed at once\n" unless $n;
        }
        return '';
    },
    # The same over a unix socket.
    unix => sub {
        my ($path, $seconds, $data) = @_;
        my $socket = IO::Socket::UNIX->new(Peer => $path) or die "$path: $!\n";
        return talk($socket, $data, $seconds);
    },
    read => sub {
        my ($path) = @_;
        open my $file, '<', $path or die "$path: $!\n";
        local $/;
        return scalar(<$file>) // '';
    },
    # How often each line was written to $log. For this hundred seconds and the next one a file says that it is wanted,
    # so that the writing ends by itself when nobody asks any more.
    tally => sub {
        my ($log, $wanted) = @_;
        my $now = int(time / 100);
        for my $file (map { "$wanted$_" } $now, $now + 1) { open my $new, '>', $file or die "$file: $!\n" }
        unlink grep { /(\d+)$/ && $1 < $now } glob "$wanted*";
        my $tally = $tallies{$log} ||= { read => 0, lines => {} };
        if (open my $file, '+<', $log) {
            $tally->{read} = 0 if -s $file < $tally->{read};
            seek $file, $tally->{read}, 0 or die "$log: $!\n";
            while (my $line = <$file>) {
                last if $line !~ /\n\z/;
                $tally->{read} += length $line;
                chomp $line;
                $tally->{lines}{$line}++;
            }
            if ($tally->{read} > 1_000_000) { truncate $file, 0 or die "$log: $!\n"; $tally->{read} = 0 }
        } elsif (!$!{ENOENT}) { die "$log: $!\n" }
        return join '', map { "$tally->{lines}{$_} $_\n" } sort keys %{$tally->{lines}};
    },
    exists => sub { return -e $_[0] ? 1 : 0 },
    # The whole new content or the old one: never half of it. A secret is for nobody but the user of the process $reader.
    # The file's name begins with a dot until it is whole: no proxy loads such a one.
    write => sub {
        my ($path, $content, $reader) = @_;
        my ($directory, $name) = $path =~ m{^(.*)/([^/]*)$};
        my $new = "$directory/.$name.new";
        my $secret = length($reader // '');
        my ($user, $group) = $secret ? (stat "/proc/$reader")[4, 5] : ();
        die "no process $reader\n" if $secret && !defined $user;
        if (!-d $directory) {
            mkdir $directory, ($secret ? 0700 : 0755) or die "$directory: $!\n";
            chown $user, $group, $directory or die "$directory: $!\n" if $secret;
        }
        unlink $new;
        my $mask = umask($secret ? 0077 : 0022);
        open my $file, '>', $new or die "$new: $!\n";
        umask $mask;
        chown $user, $group, $new or die "$new: $!\n" if $secret;
        print $file $content and close $file or do { my $why = $!; unlink $new; die "$new: $why\n" };
        rename $new, $path or die "$path: $!\n";
        return '';
    },
    # A file of lines, shared by services: those whose word number $column is $value are replaced by $text.
    replace => sub {
        my ($path, $column, $value, $text) = @_;
        open my $lock, '>>', "$path.lock" or die "$path.lock: $!\n";
        flock $lock, 2 or die "$path.lock: $!\n";
        my @lines;
        if (open my $file, '<', $path) { @lines = grep { ((split ' ')[$column] // '') ne $value } <$file> }
        open my $new, '>', "$path.new" or die "$path.new: $!\n";
        print $new @lines, $text and close $new or do { my $why = $!; unlink "$path.new"; die "$path.new: $why\n" };
        chmod 0644, "$path.new";
        rename "$path.new", $path or die "$path: $!\n";
        return '';
    },
    remove => sub {
        for my $path (@_) { unlink $path or $!{ENOENT} or die "$path: $!\n" }
        return '';
    },
    # A command's exit code, a newline, and its outputs together.
    run => sub {
        my @command = @_;
        my $pid = open my $out, '-|';
        die "$!\n" unless defined $pid;
        if (!$pid) { open STDERR, '>&', \*STDOUT; open STDIN, '<', '/dev/null'; exec { $command[0] } @command; exit 127 }
        local $/;
        my $text = <$out> // '';
        close $out;
        return ($? >> 8) . "\n$text";
    },
    # Every process that can be seen from here: its pid, its parent's, and its command line.
    ps => sub {
        my $lines = '';
        for my $path (glob '/proc/[0-9]*') {
            open my $stat, '<', "$path/stat" or next;
            my ($pid, $parent) = (<$stat> // '') =~ /^(\d+) \(.*\) \S (\d+)/s or next;
            open my $file, '<', "$path/cmdline" or next;
            local $/;
            my $line = <$file> // '';
            $line =~ tr/\0\n/  /;
            $lines .= "$pid $parent $line\n";
        }
        return $lines;
    },
);

while (defined(my $line = <STDIN>)) {
    last unless chomp $line;    # whoever sent it died half way: half an order is none
    my ($verb, @arguments) = map { my $word = $_; $word =~ s/%(..)/chr hex $1/ge; $word } split / /, $line, -1;
    my $answer = eval { ($verbs{$verb} or die "no such verb: $verb\n")->(@arguments) };
    my $state = defined $answer ? 'ok' : 'error';
    $answer = $@ unless defined $answer;
    $answer =~ s/\n\z// if $state eq 'error';
    print "$state " . length($answer) . "\n$answer";
}
