#!/bin/sh
# A seed that evolves twice: spec.yaml says how it is done, and how it is judged.
#
#     sh examples/colony/seed.sh
set -eu
mkdir "$AGENTFS/projects/questions"
cp "$(dirname "$0")/spec.yaml" "$AGENTFS/projects/questions/spec.yaml"
agentfs seed plant questions "Capital of France?" --criterion "it says Rome" --wait
agentfs seed ls questions
