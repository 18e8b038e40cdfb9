#!/bin/sh
# Answers `words FOLDER` and `largest FOLDER`. A step of a run is a message like any other, and the
# answer to it is the output of the step.
me=$AGENTFS/agents/$AGENT_NAME

while msg=$(cat "$me/recv"); do # waits; asking for this one acknowledges the one before it
    head=$(printf '%s\n' "$msg" | sed '/^$/q')
    from=$(printf '%s\n' "$head" | sed -n 's/^From: //p')
    id=$(printf '%s\n' "$head" | sed -n 's/^Message-ID: //p')
    read -r what folder <<END
$(printf '%s\n' "$msg" | sed '1,/^$/d')
END
    case $what in
    words) answer=$(find "$folder" -type f -name '*.txt' -exec cat {} + | wc -w) ;;
    largest) answer=$(find "$folder" -type f -printf '%s %p\n' | sort -n | tail -1) ;;
    *) continue ;;
    esac
    printf 'To: %s\nIn-Reply-To: %s\nAuto-Submitted: auto-replied\n\n%s\n' \
        "$from" "$id" "$answer" > "$me/send" || exit 1
done
exit 1 # the tree went away: what was not finished comes back
