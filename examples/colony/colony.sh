#!/bin/sh
# ColonyOS's simulation: workers come, beat and do tasks. One falls silent, and its task goes to
# another one; one task is rejected. $AGENTFS is a tree of your own: its settings are changed.
#
#     WORKER_HEARTBEAT_INTERVAL=2 sh examples/colony/colony.sh
#
# WORKER_HEARTBEAT_INTERVAL  seconds of silence after which a worker is lost (120)
set -eu
cd "$AGENTFS"
echo "tasks: {heartbeat_timeout: ${WORKER_HEARTBEAT_INTERVAL:-120}s}" > etc/agentfs.yaml
cat > etc/guardian.yaml <<'END'
rules:
  - {name: no-root, match: "'sudo' in task.description", action: reject, reason: no root here}
END

submit() { # submit WHAT REQUIREMENTS: its number
    exec 3<> dev/tasks/new
    echo "{description: $1, requirements: $2}" >&3
    read -r id <&3
    exec 3>&-
    echo "$id"
}
worker() { # worker NAME CAPABILITIES: it comes, does task after task, and beats
    echo "{name: $1, capabilities: $2}" > dev/workers/new
    exec 4<> "dev/workers/$1/recv"
    while message=$(cat <&4) 2> /dev/null; do # until the worker is removed
        id=$(echo "$message" | sed -n 's/^Task: //p')
        echo alive > "dev/workers/$1/heartbeat"
        echo "$1: $(cat "dev/tasks/$id/description")" > "dev/tasks/$id/result"
    done
}
worker ant '{cpu: high}' &
worker bee '{cpu: low, memory: 4}' &
(echo '{name: wasp, capabilities: {gpu: true}}' > dev/workers/new
exec 4<> dev/workers/wasp/recv
cat <&4 > /dev/null # it takes a task, and says nothing any more
exec sleep 1000) &
trap "kill $!; rmdir dev/workers/*/" EXIT

tasks=$(submit count '{cpu: medium}'; submit sort '{memory: 2}'; submit draw '{gpu: true}')
until grep -s lost dev/workers/wasp/state; do sleep 0.1; done
worker drone '{gpu: true, cpu: low}' &
for id in $tasks $(submit 'sudo rm' '{}'); do
    cat "dev/tasks/$id/wait"
done
