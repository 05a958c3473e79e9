#!/usr/bin/env bash
# Starts a search, or goes on with it where the storage holds it already: what a batch system types again and again.
#
#   bash clusters/bin/search.sh searches/resnet_loss.py --preset thesis --gpus-per-trial 0.5
#
# SIGINT, SIGTERM and SIGUSR1 reach the search as Ctrl-C: every finished epoch is kept, and it ends with exit code 75
# ("try again") when trials are left. Other exit codes are the search's own: 0 done, 1 failed, 2 wrong input.
set -uo pipefail

if [ $# -lt 1 ]; then
    echo "usage: search.sh SCRIPT [FLAGS]" >&2
    exit 2
fi
: "${HEP_RAY_STORAGE:?names the folder of all searches, on storage that every node sees}"
script=$1
shift
# An interrupted search, and one whose batch job was killed outright, has left its journal.
if [ -s "$HEP_RAY_STORAGE/$(basename "$script" .py)/journal.jsonl" ]; then
    set -- "$@" --resume
fi

# Job control, so that the search does not start with SIGINT ignored, as background commands of a script do.
set -m
interrupted=
trap '[ -n "$interrupted" ] || kill -INT "$driver" 2>/dev/null; interrupted=yes' INT TERM USR1
python "$script" "$@" &
driver=$!
while kill -0 "$driver" 2>/dev/null; do
    if [ -z "$interrupted" ]; then
        wait "$driver"  # a signal ends the waiting
        continue
    fi
    # The search tidies up. A signal that met it while it was still starting may be lost: say it again.
    for _ in $(seq "${HEP_RAY_PATIENCE:-120}"); do
        kill -0 "$driver" 2>/dev/null || break
        sleep 1
    done
    kill -INT "$driver" 2>/dev/null
done
wait "$driver"
code=$?
if [ -n "$interrupted" ] && [ "$code" -ne 0 ]; then
    echo "The search was interrupted and can be resumed."
    exit 75
fi
exit "$code"
