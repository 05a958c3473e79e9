#!/usr/bin/env bash
# Installs hep_ray on this node: the pinned, hashed set of requirements/lock.txt, and hep_ray from the mounted code.
#
#   bash ~/hep_ray/clusters/bin/setup.sh [KEY=VALUE ...]
#
# Typed again it changes only what differs, in seconds. Every KEY=VALUE becomes a variable of each later login, as do
# those that hep_ray needs:
#   HEP_RAY_SHARED    folder that every node sees; storage, data and the MLflow database lie below it [~/hep_ray_shared]
#   HEP_RAY_ENV       virtual environment of this node [.venv beside the code]
#   HEP_RAY_PYTHON    Python of the environment, which uv brings where the machine has none [3.12]
# It needs Python 3.8 or newer with venv (Debian, Ubuntu: apt-get install python3-venv), or uv.
set -euo pipefail

code=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
for pair in "$@"; do
    case $pair in
        [A-Z]*=*) export "${pair%%=*}=${pair#*=}" ;;
        *) echo "error: setup.sh takes KEY=VALUE; got '$pair'" >&2; exit 2 ;;
    esac
    case $pair in
        *CHANGE_ME*) echo "error: fill in the names marked CHANGE_ME in the cluster file; got '$pair'" >&2; exit 2 ;;
    esac
done
env=${HEP_RAY_ENV:-$code/.venv}
shared=${HEP_RAY_SHARED:-$HOME/hep_ray_shared}

# uv of the pinned version: the machine's own, else from a small environment that holds nothing else.
pinned=$(sed -n 's/^uv==\([0-9.]*\).*/\1/p' "$code/requirements/uv.txt")
uv=$(command -v uv || true)
if [ -z "$uv" ] || [ "$("$uv" --version | cut -d ' ' -f 2)" != "$pinned" ]; then
    uv=$HOME/.local/share/hep_ray/uv-$pinned/bin/uv
    if [ ! -x "$uv" ]; then
        python3 -m venv "${uv%/bin/uv}"
        "${uv%/bin/uv}/bin/python" -m pip install --quiet --require-hashes --requirement "$code/requirements/uv.txt"
    fi
fi

test -x "$env/bin/python" || "$uv" venv --quiet --python "${HEP_RAY_PYTHON:-3.12}" "$env"
"$uv" pip sync --quiet --python "$env/bin/python" --require-hashes "$code/requirements/lock.txt"
"$uv" pip install --quiet --python "$env/bin/python" --no-deps --no-build-isolation --editable "$code"

# Ray and its launcher leave the token for everyone to read.
[ ! -f ~/.ray/auth_token ] || chmod 600 ~/.ray/auth_token

# Variables of every login: bash reads ~/.bashrc, and Ray's launcher reads it before each command.
{
    echo "# Written by hep_ray's clusters/bin/setup.sh; it is written anew by the next setup."
    # shellcheck disable=SC2016
    printf 'export PATH=%q:$PATH\n' "$env/bin"
    printf 'export HEP_RAY_SHARED=%q\n' "$shared"
    printf 'export HEP_RAY_STORAGE=%q\n' "${HEP_RAY_STORAGE:-$shared/runs}"
    printf 'export HEP_RAY_DATA=%q\n' "${HEP_RAY_DATA:-$shared/data}"
    printf 'export MLFLOW_TRACKING_URI=%q\n' "${MLFLOW_TRACKING_URI:-http://127.0.0.1:5000}"
    # Said on every node: otherwise a token that lies about turns authentication on for one command and not the next.
    printf 'export RAY_AUTH_MODE=%q\n' "${RAY_AUTH_MODE:-token}"
    # Nodes let go of what a stream has read at once; Ray's own second leaves as much behind as the memory budget.
    printf 'export RAY_free_objects_period_milliseconds=%q\n' "${RAY_free_objects_period_milliseconds:-100}"
    for pair in "$@"; do printf 'export %s=%q\n' "${pair%%=*}" "${pair#*=}"; done
} >"$HOME/.hep_ray_env.new"
mv "$HOME/.hep_ray_env.new" "$HOME/.hep_ray_env"
for file in "$HOME/.bashrc" "$HOME/.profile"; do
    grep -qs hep_ray_env "$file" || printf '\n[ ! -r ~/.hep_ray_env ] || . ~/.hep_ray_env\n' >>"$file"
done
# shellcheck source=/dev/null
. "$HOME/.hep_ray_env"
mkdir -p "$HEP_RAY_STORAGE" "$HEP_RAY_DATA"
echo "hep_ray is installed in $env; storage $HEP_RAY_STORAGE, data $HEP_RAY_DATA"
