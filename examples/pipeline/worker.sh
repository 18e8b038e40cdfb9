#!/bin/sh
# Takes numbers from the queue `jobs` and puts their factors into the queue `results`.
jobs=$AGENTFS/dev/queues/jobs
results=$AGENTFS/dev/queues/results

while msg=$(cat "$jobs/recv"); do # acknowledges the job before
    case $msg in *"
Type: retire"*) exit 0 ;; esac # which acknowledges this one
    number=${msg##*
}
    sleep "${PIPELINE_PAUSE:-0}"
    factors=$(factor "$number") || exit 1 # the job comes to somebody else
    echo "$factors" > "$results/send" || exit 1
done
exit 1
