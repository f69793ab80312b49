#!/usr/bin/env bash
# Makes or updates .venv from the lock files and installs Mercure into it.
#
#   tools/venv.sh run    what Mercure needs to run            (requirements.lock)
#   tools/venv.sh dev    that, and what tests and checks need (requirements-dev.lock)
#
# Takes the newest of python3.13, 3.12, 3.11 and python3 that is 3.11 or newer, or $PYTHON. Does nothing when all is
# up to date. What the distribution must provide is installed as root unless MERCURE_NO_INSTALL=1, else named.
set -euo pipefail
cd "$(dirname "$0")/.."

kind="${1:-run}"
case "$kind" in
    run) lock=requirements.lock ;;
    dev) lock=requirements-dev.lock ;;
    *)
        echo "usage: tools/venv.sh [run|dev]" >&2
        exit 2
        ;;
esac

stamp=.venv/mercure-stamp

may_install() {
    [ "$(id -u)" -eq 0 ] && [ "${MERCURE_NO_INSTALL:-0}" != 1 ]
}

is_recent() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

can_make_venv() {
    "$1" -c 'import ensurepip, venv' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
        if is_recent "$candidate" && can_make_venv "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    for candidate in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
        if is_recent "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

# $1: the Python that was found without its venv module, or nothing.
install_python() {
    local python="${1:-python3}"
    if command -v apt-get >/dev/null; then
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$python" "$python-venv"
    elif command -v dnf >/dev/null; then
        dnf install -y -q python3.12 || dnf install -y -q python3.11
    else
        return 1
    fi
}

say_what_to_install() {
    echo "Mercure needs Python 3.11 or newer with its venv module, and none was found." >&2
    if command -v apt-get >/dev/null; then
        echo "Run as root:  apt-get install python3 python3-venv   (Debian 12, Ubuntu 24.04 or newer)" >&2
    elif command -v dnf >/dev/null; then
        echo "Run as root:  dnf install python3.12" >&2
    fi
    echo "Or name one:  PYTHON=/path/to/python3.12 make ..." >&2
}

# The content that .venv depends on. The package itself is installed in place, so its sources are not part of it.
wanted() {
    { echo "$1"; cat requirements.lock requirements-dev.lock pyproject.toml; } | sha256sum | cut -d' ' -f1
}

if [ -f "$stamp" ] && is_recent .venv/bin/python; then
    have="$(cat "$stamp")"
    if [ "$have" = "$(wanted "$kind")" ] || [ "$have" = "$(wanted dev)" ]; then
        exit 0
    fi
fi

if ! [ -x .venv/bin/python ] || ! is_recent .venv/bin/python || ! .venv/bin/python -c 'import pip' 2>/dev/null; then
    if ! python="$(find_python)" || ! can_make_venv "$python"; then
        if may_install; then
            install_python "${python##*/}" || true
        fi
        if ! python="$(find_python)" || ! can_make_venv "$python"; then
            say_what_to_install
            exit 1
        fi
    fi
    echo "Making .venv with $("$python" --version)"
    rm -rf .venv
    "$python" -m venv .venv
fi

echo "Installing what $lock names"
rm -f "$stamp"
.venv/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r "$lock"
# In place; the build backend comes with the build's own isolated environment.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
wanted "$kind" >"$stamp"
