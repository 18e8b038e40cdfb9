#!/bin/sh
# A pipeline over queues that has as many workers as there is work.
#
#     agentfs up --detach examples/pipeline/system.yaml
#     for n in $(seq 1001 1200); do echo $n > $AGENTFS/dev/queues/jobs/send; done
#     watch cat $AGENTFS/dev/queues/jobs/length $AGENTFS/shared/factors.txt
#
#     you -> /dev/queues/jobs -> worker.sh, 1 to 5 of them -> /dev/queues/results -> collector.sh
#
# This one, the foreman, looks at how many jobs wait. It starts a worker for every PIPELINE_JOBS of
# them, by writing a spec to its own `spawn`. When none waits, it sends one worker home each turn:
# not with a signal, which would come in the middle of a job, but with a job that says `retire`.
# A worker that is killed is started again by the kernel, and its job goes to a worker that is free.
#
# PIPELINE_JOBS   jobs that wait for each worker (20)     PIPELINE_MAX    most workers (5)
# PIPELINE_TURN   seconds between two looks (1)           PIPELINE_PAUSE  seconds a job takes (0)
jobs=$AGENTFS/dev/queues/jobs
results=$AGENTFS/dev/queues/results
self=$AGENTFS/proc/$AGENT_PID
here=$PWD
number=0

start() { # start NAME SCRIPT RESTART: a child; its pid on stdout
    exec 3<> "$self/spawn" || exit 1
    cat >&3 <<END
{name: $1, role: worker, tier: operational, restart: $3, exec: [sh, $here/$2], env: {PIPELINE_PAUSE: "${PIPELINE_PAUSE:-0}"}}
END
    read -r pid <&3 || exit 1
    exec 3>&-
    echo "started $1 as $pid"
}

workers() { # how many are at work; those that have gone home are seen off
    count=0
    for child in "$self"/children/*; do
        case $(cat "$child/name" "$child/state" 2> /dev/null | tr '\n' ' ') in
        worker-*zombie* | worker-*dead*) echo "worker $(cat "$child/name") went home: $(cat "$child/wait")" ;;
        worker-*) count=$((count + 1)) ;;
        esac
    done
}

mkdir -p "$jobs" "$results" || exit 1
[ -e "$AGENTFS/agents/collector" ] || start collector collector.sh always

while waiting=$(cat "$jobs/length"); do
    wanted=$(((waiting + ${PIPELINE_JOBS:-20} - 1) / ${PIPELINE_JOBS:-20}))
    [ "$wanted" -ge 1 ] || wanted=1
    [ "$wanted" -le "${PIPELINE_MAX:-5}" ] || wanted=${PIPELINE_MAX:-5}
    workers
    while [ "$count" -lt "$wanted" ]; do
        number=$((number + 1)) count=$((count + 1))
        [ -e "$AGENTFS/agents/worker-$number" ] || start worker-$number worker.sh on-failure
    done
    if [ "$waiting" = 0 ] && [ "$count" -gt 1 ]; then
        printf 'Type: retire\n\n' > "$jobs/send"
    fi
    sleep "${PIPELINE_TURN:-1}"
done
exit 1
