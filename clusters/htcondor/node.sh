#!/usr/bin/env bash
# What every job of search.sub runs: node.sh CLUSTER PROCESS SCRIPT [FLAGS]. Process 0 is the head.
set -uo pipefail

if [ $# -lt 3 ]; then
    echo "usage: node.sh CLUSTER PROCESS SCRIPT [FLAGS]; started by condor_submit clusters/htcondor/search.sub" >&2
    exit 2
fi
cluster=$1 process=$2
shift 2
code=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$code" || exit 2
export HEP_RAY_STORAGE=${HEP_RAY_STORAGE:-$code/runs} HEP_RAY_DATA=${HEP_RAY_DATA:-$code/data}
export PATH=${HEP_RAY_ENV:-$code/.venv}/bin:$PATH
# The head writes its address here; once the search has ended, the word "ended".
meeting=$HEP_RAY_STORAGE/.htcondor/$cluster
umask 077
mkdir -p "$meeting" ~/.ray

export RAY_AUTH_MODE=token RAY_TMPDIR=/tmp/ray_$cluster.$process
# Nodes let go of what a stream has read at once; Ray's own second leaves as much behind as the memory budget.
export RAY_free_objects_period_milliseconds=100
until [ -s ~/.ray/auth_token ]; do
    # Ray writes the token for everyone to read.
    if [ "$process" -eq 0 ]; then (umask 077 && ray get-auth-token --generate >/dev/null) || exit 1; else sleep 5; fi
done
resources="--num-cpus=${OMP_NUM_THREADS:-1} --num-gpus=$(python -c 'import torch; print(torch.cuda.device_count())')"
unset OMP_NUM_THREADS  # HTCondor sets it to the job's cores, and Ray's workers would inherit it
limit=${HEP_RAY_SECONDS:-82800}

if [ "$process" -ne 0 ]; then
    # A worker: it joins the head that is there, and again after the head has moved.
    began=$SECONDS ray=
    trap 'kill "$ray" 2>/dev/null; exit 75' TERM
    while [ $((SECONDS - began)) -lt "$limit" ]; do
        address=$(cat "$meeting/head" 2>/dev/null)
        [ "$address" != ended ] || exit 0
        if [ -n "$address" ] && RAY_ADDRESS=$address ray status >/dev/null 2>&1; then
            # shellcheck disable=SC2086  # flags are words
            timeout "$((limit - SECONDS + began))" ray start --address="$address" --block $resources &
            ray=$!
            wait "$ray"
        fi
        sleep 15
    done
    exit 75
fi

# Ports that two searches on one machine do not share.
offset=$((cluster % 1000))
address=$(hostname --ip-address | cut -d ' ' -f 1):$((20000 + offset))
export HEP_RAY_MLFLOW_PORT=$((21000 + offset))
export MLFLOW_TRACKING_URI=http://127.0.0.1:$HEP_RAY_MLFLOW_PORT
# shellcheck disable=SC2086
ray start --head --block --node-ip-address="${address%:*}" --port="${address#*:}" --include-dashboard=false \
    $resources &
ray=$!
export RAY_ADDRESS=$address
until ray status >/dev/null 2>&1; do
    kill -0 "$ray" 2>/dev/null || { echo "error: Ray's head did not start: see above" >&2; exit 1; }
    sleep 2
done
bash clusters/bin/mlflow.sh || exit 1
echo "$address" >"$meeting/head.new" && mv "$meeting/head.new" "$meeting/head"

# Evicted, or after the limit, the search is interrupted as by Ctrl-C; search.sh then says 75.
signals=0
trap 'signals=$((signals + 1)); kill -USR1 "$search" 2>/dev/null' TERM
timeout --signal=USR1 "$limit" bash clusters/bin/search.sh "$@" &
search=$!
while :; do
    before=$signals
    wait "$search"
    result=$?
    [ "$signals" -ne "$before" ] || break
done
# `timeout` says 124 when it was the limit, whatever search.sh said.
[ "$result" -ne 124 ] || result=75
[ "$result" -eq 75 ] || echo ended >"$meeting/head"
kill "$ray" 2>/dev/null
exit "$result"
