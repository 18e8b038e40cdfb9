#!/bin/sh
# Sends payloads with printf: producer.sh NOTES STOP TARGET COUNT. Through `send`, where the write is
# what sends: a shell does not look at what close(2) returned, which for outbox/PEER is the answer.
notes=$1 stop=$2 target=$3 count=$4
send=$AGENTFS/agents/$AGENT_NAME/send
touch "$notes"
number=$(grep -c '^try' "$notes")
while [ "$number" -lt "$count" ] && ! [ -e "$stop" ]; do
    payload=$target:$AGENT_NAME-$number number=$((number + 1))
    echo "try 0 $payload" >> "$notes"
    if { printf 'To: %s\n\n%s\n' "$target" "$payload" > "$send"; } 2> /dev/null; then
        echo "ok 0 $payload" >> "$notes"
    else
        until ls "$AGENTFS/proc" > /dev/null 2>&1; do sleep 0.02; done
    fi
done
exit 0
