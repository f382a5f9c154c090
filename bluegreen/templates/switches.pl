# Beside Keepalived on a node of several: the nodes tell each other which switch of which service each of them has, so
# that one which missed a switch does not take the address.
#
#   run COMMAND...  the command, with `serve` beside it for as long as it lives
#   serve           answers the other nodes, while the proxy of this one answers: who can't serve keeps nobody away
#   ask             says what the other nodes answer
#   check           the same, and ends with 1 if another node is ahead of this one, or one was not heard yet
#
# `nodes`, beside this file, says how, a word and its value a line: port, own, peer (one or more) and check (what asks
# the proxy, one argument a line). `switches/SERVICE` is the number of the last switch that was committed here.
use strict;
use warnings;
use IO::Select;
use IO::Socket::IP;
use Socket qw(inet_pton AF_INET AF_INET6);

use constant {
    PATIENCE => 4,      # seconds, less one at most, in which a node that lives has answered, on a busy host, too
    AGAIN    => 0.25,   # seconds without an answer after which the question is put again
    AT_ONCE  => 2,      # seconds that the proxy may take
    TIMES    => 3,      # how often in a row a node has to be asked in vain before it keeps this one away no more
    HOLDS    => 5,      # seconds for which it is believed to answer as it did last
};
my ($root) = $0 =~ m{^(.*)/} ? $1 : '.';
my $doing = shift // '';

sub text {
    open my $file, '<', "$root/nodes" or return '';
    local $/;
    return <$file> // '';
}

sub nodes {
    my %said;
    push @{ $said{$1} }, $2 while $_[0] =~ /^(\w+) (.*)$/mg;
    return %said;
}

sub switches {
    my %numbers;
    for my $path (glob "$root/switches/*") {
        open my $file, '<', $path or next;
        my ($number) = (<$file> // '') =~ /^(\d+)$/;
        $numbers{ $path =~ s{.*/}{}r } = $number if $number;
    }
    return %numbers;
}

sub packed { return inet_pton($_[0] =~ /:/ ? AF_INET6 : AF_INET, $_[0]) // '' }

sub answers {
    my @check = @_;
    my $child = fork // return 0;
    if (!$child) {
        alarm AT_ONCE;
        open STDERR, '>', '/dev/null';
        exec { $check[0] } @check or exit 1;
    }
    waitpid $child, 0;
    return $? == 0;
}

sub serve {
    my $text = text();
    my %said = nodes($text);
    my $socket = IO::Socket::IP->new(Proto => 'udp', LocalHost => $said{own}[0], LocalPort => $said{port}[0])
        or die "$said{own}[0], port $said{port}[0]: $@\n";
    my %known = map { (packed($_) => 1) } @{ $said{own} }, @{ $said{peer} };
    my ($answers, $as_of) = (0, 0);
    while (1) {
        my $there = IO::Select->new($socket)->can_read(1);
        exec $^X, $0, 'serve' if text() ne $text;
        next unless $there && defined $socket->recv(my $question, 64);
        next unless $question =~ /^bluegreen (\w+)$/ && $known{ packed($socket->peerhost // '') };
        # Whoever asks is answered at once, on a busy host, too, and the proxy asked for the next time.
        ($answers, $as_of) = (answers(@{ $said{check} }), time) if time - $as_of > HOLDS;
        my %mine = switches();
        $socket->send(join '', "$question\n", map { "$_ $mine{$_}\n" } sort keys %mine) if $answers;
        ($answers, $as_of) = (answers(@{ $said{check} }), time) if time != $as_of;
    }
}

# How often in a row, this time too, a node did not answer since the container was started.
sub in_vain {
    my ($silent, $file, $times) = (shift, ($ENV{TMPDIR} // '/tmp') . '/bluegreen-in-vain', 0);
    if (open my $was, '<', $file) { ($times) = (<$was> // '') =~ /^(\d+)/ }
    $times = $silent ? ($times // 0) + 1 : 0;
    if (open my $is, '>', $file) { print $is $times }
    return $times;
}

sub ask {
    my %said = nodes(text());
    my $six = $said{own}[0] =~ /:/;
    my $socket = IO::Socket::IP->new(Proto => 'udp', LocalHost => $said{own}[0], LocalPort => 0) or return (0, 1);
    my $question = sprintf 'bluegreen %x%x', $$, time;
    my %asked = map { (packed($_) => $_) } @{ $said{peer} };
    my ($until, $ask, %heard) = (time + PATIENCE, 1);
    while (keys %heard < keys %asked && time < $until) {
        if ($ask) {
            for my $peer (grep { !$heard{$_} } values %asked) {
                my $where = $six ? Socket::pack_sockaddr_in6($said{port}[0], packed($peer))
                                 : Socket::pack_sockaddr_in($said{port}[0], packed($peer));
                send $socket, $question, 0, $where;
            }
        }
        $ask = !IO::Select->new($socket)->can_read(AGAIN);
        next if $ask || !defined $socket->recv(my $answer, 65000);
        my $peer = $asked{ packed($socket->peerhost // '') };
        my ($first, @lines) = split /\n/, $answer;
        $heard{$peer} = { map { /^(\S+) (\d+)$/ ? ($1, $2) : () } @lines } if $peer && ($first // '') eq $question;
    }
    my %mine = switches();
    my ($ahead, $silent) = (0, 0);
    for my $peer (@{ $said{peer} }) {
        my $theirs = $heard{$peer};
        if (!$theirs) { print "$peer does not answer\n"; $silent = 1; next }
        my %all = (%mine, %$theirs);
        my @more = grep { ($theirs->{$_} // 0) > ($mine{$_} // 0) } sort keys %all;
        my @less = grep { ($theirs->{$_} // 0) < ($mine{$_} // 0) } keys %all;
        # Where each has what the other missed, neither stays away: somebody has to answer.
        my $is = @more && !@less;
        $ahead ||= $is;
        print "$peer is ", ($is ? "ahead: " . join(', ', map { "$_ $theirs->{$_}" } @more) : 'not ahead'), "\n";
    }
    return ($ahead, $silent);
}

if ($doing eq 'run') {
    if (!(fork // die "fork: $!\n")) {
        while (1) { system $^X, $0, 'serve'; sleep 1 }
    }
    exec { $ARGV[0] } @ARGV or die "$ARGV[0]: $!\n";
}
serve() if $doing eq 'serve';
my ($ahead, $silent) = $doing =~ /^(ask|check)$/ ? ask() : die "run, serve, ask or check\n";
exit 0 if $doing eq 'ask';
my $times = in_vain($silent);
exit($ahead || ($silent && $times < TIMES) ? 1 : 0);
