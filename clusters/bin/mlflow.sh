#!/usr/bin/env bash
# Starts an MLflow server on this node, on 127.0.0.1 only, unless one answers there already, and waits until it does.
#
#   bash ~/hep_ray/clusters/bin/mlflow.sh
#
# Its runs outlive it: they lie in a database below HEP_RAY_STORAGE (HEP_RAY_MLFLOW_BACKEND names another one, such as
# postgresql://…), its artifacts in HEP_RAY_MLFLOW_ARTIFACTS, a folder or s3://bucket/path or gs://bucket/path.
# Users and passwords, where others log in on this machine: name MLflow's file of them in MLFLOW_AUTH_CONFIG_PATH, and give
# the driver MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD (SECURITY.md).
# To look at it from a laptop: ray attach clusters/NAME.yaml --port-forward 5000, then http://127.0.0.1:5000.
set -euo pipefail

: "${HEP_RAY_STORAGE:?is not set: run clusters/bin/setup.sh first}"
port=${HEP_RAY_MLFLOW_PORT:-5000}
log=$HEP_RAY_STORAGE/mlflow_server.log
answers() {
    python - "http://127.0.0.1:$port/health" 2>/dev/null <<'PYTHON'
import sys, urllib.request

urllib.request.urlopen(sys.argv[1], timeout=2)
PYTHON
}

if answers; then
    echo "MLflow answers on 127.0.0.1:$port already"
    exit 0
fi
mkdir -p "$HEP_RAY_STORAGE"
# One worker: SQLite takes one writer, and hep_ray's driver is the only one that writes. No job runners: nothing asks.
export MLFLOW_DISABLE_TELEMETRY=true MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false
auth=()
if [ -n "${MLFLOW_AUTH_CONFIG_PATH:-}" ]; then
    auth=(--app-name basic-auth)
    # Signs the pages' forms; every start has its own.
    export MLFLOW_FLASK_SERVER_SECRET_KEY=${MLFLOW_FLASK_SERVER_SECRET_KEY:-$(python -c 'import secrets; print(secrets.token_hex())')}
fi
setsid nohup python -m mlflow server \
    --host 127.0.0.1 --port "$port" --workers 1 \
    --backend-store-uri "${HEP_RAY_MLFLOW_BACKEND:-sqlite:///$HEP_RAY_STORAGE/mlflow.db}" \
    --artifacts-destination "${HEP_RAY_MLFLOW_ARTIFACTS:-$HEP_RAY_STORAGE/mlartifacts}" "${auth[@]}" \
    >>"$log" 2>&1 </dev/null &
for _ in $(seq 600); do
    if answers; then
        echo "MLflow answers on 127.0.0.1:$port; log: $log"
        exit 0
    fi
    sleep 1
done
echo "error: MLflow did not answer on 127.0.0.1:$port within ten minutes; the end of $log:" >&2
tail -n 20 "$log" >&2
exit 1
