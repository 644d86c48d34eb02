# Sourced by the other scripts: `use_environment EXTRAS` activates a virtual environment with this package in it.
# An environment that is active already is used as it is; otherwise .venv beside the checkout is made.

find_python() {
    local candidate
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3.10 python3 python; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            command -v "$candidate"
            return 0
        fi
    done
    echo "error: no Python 3.10, 3.11 or 3.12 found; install one, or set PYTHON=/path/to/python" >&2
    return 2
}

use_environment() {
    local extras="$1" root stamp wanted python
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
    if [ -z "${VIRTUAL_ENV:-}" ]; then
        if [ ! -x "$root/.venv/bin/python" ]; then
            python="$(find_python)" || return 2
            echo "making a virtual environment in .venv with $("$python" --version)"
            "$python" -m venv "$root/.venv" || return 2
        fi
        # shellcheck disable=SC1091
        . "$root/.venv/bin/activate"
    fi
    # Installing again is skipped while the package list and the extras are what they were.
    stamp="$VIRTUAL_ENV/.mindformers-installed-$extras"
    wanted="$(cksum < "$root/pyproject.toml") $root"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "installing the package and what it needs (extras: $extras); the first time this takes a minute or two"
        if ! python -m pip install --disable-pip-version-check -e "$root[$extras]" > "$VIRTUAL_ENV/install.log" 2>&1; then
            tail -n 20 "$VIRTUAL_ENV/install.log" >&2
            echo "error: the installation failed; the whole log is $VIRTUAL_ENV/install.log" >&2
            return 2
        fi
        echo "$wanted" > "$stamp"
    fi
}
