#!/bin/sh
# counter.sh: answers every message with how many its sender has sent, across restarts.
me=$AGENTFS/agents/$AGENT_NAME

while msg=$(cat "$me/recv"); do # waits; asking for this one acknowledges the one before it
    head=$(printf '%s\n' "$msg" | sed '/^$/q')
    from=$(printf '%s\n' "$head" | sed -n 's/^From: //p')
    id=$(printf '%s\n' "$head" | sed -n 's/^Message-ID: //p')
    case $head in *"
Auto-Submitted: "*) continue ;; esac # a notice, or an answer: nobody waits for one to it

    count=0 last=
    [ ! -f "$me/memory/$from" ] || read -r count last < "$me/memory/$from"
    if [ "$id" != "$last" ]; then # else it came once more: an answer was under way
        count=$((count + 1))
        echo "$count $id" > "$me/memory/$from.new" || exit 1
        mv "$me/memory/$from.new" "$me/memory/$from" || exit 1
    fi
    printf 'To: %s\nIn-Reply-To: %s\nAuto-Submitted: auto-replied\n\n%s so far\n' \
        "$from" "$id" "$count" > "$me/send" || exit 1
done
exit 1 # the tree went away: what was not finished comes back
