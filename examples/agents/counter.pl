#!/usr/bin/perl
# counter.pl: answers every message with how many its sender has sent, across restarts.
use strict;
use warnings;

my $me = "$ENV{AGENTFS}/agents/$ENV{AGENT_NAME}";

sub whole {
    my ($path) = @_;
    open my $file, '<', $path or die "$path: $!\n";
    local $/;
    my $text = <$file> // die "$path: $!\n";
    return $text;
}

while (1) {
    my $message = whole("$me/recv");    # waits; acknowledges the one before it
    my ($head, $body) = split /\n\n/, $message, 2;
    my ($from) = $head =~ /^From: (.*)/m;
    my ($id)   = $head =~ /^Message-ID: (.*)/m;
    next if $head =~ /^Auto-Submitted: /m; # a notice, or an answer: nobody waits for one to it

    my $file = "$me/memory/$from";
    my ($count, $last) = -e $file ? split ' ', whole($file) : (0, '');
    if ($id ne $last) {                 # else it came once more: an answer was under way
        $count++;
        open my $new, '>', "$file.new" or die "$file: $!\n";
        print {$new} "$count $id\n" or die "$file: $!\n";
        close $new or die "$file: $!\n";
        rename "$file.new", $file or die "$file: $!\n";
    }

    open my $send, '>', "$me/send" or die "send: $!\n";
    my $header = "To: $from\nIn-Reply-To: $id\nAuto-Submitted: auto-replied\n";
    syswrite $send, "$header\n$count so far\n" or die "send: $!\n";
}
