#!/bin/sh
# Counts the words of every piece that is mailed to it, and mails the number to its lead.
#
# WORDCOUNT_WORD   what a run of non-blanks needs to be a word; wc wants a printable character
# WORDCOUNT_PAUSE  seconds to take for a piece at least, for people who want to watch
LC_ALL=C
export LC_ALL
me=$AGENTFS/agents/$AGENT_NAME

echo ready > "$me/outbox/lead" || exit 1

while msg=$(cat "$me/recv"); do
    answer=$(awk -v word="${WORDCOUNT_WORD:-[!-~]}" -v pause="${WORDCOUNT_PAUSE:-0}" '
        BEGIN { FS = "[ \t\v\f\r]+" }
        body { for (i = 1; i <= NF; i++) if ($i ~ word) words++ }
        /^$/ { body = 1 }
        !body && sub(/^Delivery-Attempt: /, "") { again = ", attempt " $0 }
        !body && sub(/^Piece: /, "") { piece = $0; print "piece " piece again > "/dev/stderr" }
        END {
            if (pause > 0) system("sleep " pause)
            print piece, words + 0
        }
    ' <<END
$msg
END
    ) && echo "$answer" > "$me/outbox/lead" || exit 1
done
exit 1
