# shellcheck shell=bash
# Sourced by the other scripts: `use_environment EXTRAS` puts a Python with this package first on the PATH.
# A virtual environment that is active takes the package, as long as that changes nothing it already holds;
# in every other case .venv beside the checkout is made and used.

NEEDED="Python 3.10, 3.11 or 3.12"

say() { printf '%s\n' "$*" >&2; }

# fault_of PYTHON MODULE: what keeps an interpreter from being used; prints nothing when it will do.
fault_of() {
    "$1" -I -c '
import sys
version = "%d.%d" % sys.version_info[:2]
if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    print("is Python " + version)
else:
    try:
        __import__(sys.argv[1])
    except ImportError:
        tail = " (Debian, Ubuntu: apt install python%s-venv)" % version
        print("has no " + sys.argv[1] + tail * (sys.argv[1] == "ensurepip"))
' "$2" 2> /dev/null || echo "does not run"
}

find_python() {
    local candidate fault faults=""
    if [ -n "${PYTHON:-}" ]; then
        fault="$(fault_of "$PYTHON" ensurepip)"
        [ -z "$fault" ] && { printf '%s\n' "$PYTHON"; return 0; }
        say "error: PYTHON=$PYTHON $fault; needed is $NEEDED with the venv module"
        return 2
    fi
    for candidate in python3.11 python3.12 python3.10 python3 python; do
        command -v "$candidate" > /dev/null || continue
        fault="$(fault_of "$candidate" ensurepip)"
        [ -z "$fault" ] && { command -v "$candidate"; return 0; }
        faults="$faults; $candidate $fault"
    done
    say "error: no $NEEDED with the venv module found$faults. Install one, or set PYTHON=/path/to/python"
    return 2
}

# enter DIR: what sourcing DIR/bin/activate does, also for a checkout that was moved or copied.
enter() {
    export VIRTUAL_ENV="$1" PATH="$1/bin:$PATH"
    unset PYTHONHOME
    hash -r
}

# make_environment DIR: .unfinished stays in it until the package is installed, so a broken-off start is seen.
make_environment() {
    local python
    python="$(find_python)" || return 2
    say "making a virtual environment in .venv with $("$python" --version 2>&1)"
    rm -rf "$1"
    mkdir -p "$1" && touch "$1/.unfinished" || return 2
    if ! "$python" -m venv "$1" >&2; then
        say "error: $python cannot make a virtual environment in $1 (the reason is above)"
        return 2
    fi
}

# own_environment DIR: enter .venv; make it when it is missing, unfinished or has lost its interpreter.
own_environment() {
    local fault made wanted
    fault="$(fault_of "$1/bin/python" pip)"
    if [ "$fault" = "has no pip" ] && "$1/bin/python" -m ensurepip > /dev/null 2>&1; then
        fault=""
    fi
    if [ "$fault" = "does not run" ] || [ -e "$1/.unfinished" ]; then
        make_environment "$1" || return 2
    elif [ -n "$fault" ]; then
        say "error: the virtual environment $1 $fault; needed is $NEEDED with pip. Remove it and start again"
        return 2
    elif [ -n "${PYTHON:-}" ]; then
        made="$("$1/bin/python" --version 2>&1)"
        wanted="$("$PYTHON" --version 2>&1)" || wanted="nothing that runs"
        [ "$made" = "$wanted" ] || say "note: .venv has $made and PYTHON is $wanted; to change it remove .venv first"
    fi
    enter "$1"
}

# is_installed EXTRAS WANTED: an installation with these extras is in the active environment and up to date.
is_installed() {
    local stamp extra
    for stamp in "$VIRTUAL_ENV"/.mindformers-installed-*; do
        [ "$(cat "$stamp" 2> /dev/null)" = "$2" ] || continue
        for extra in ${1//,/ }; do
            case ",${stamp##*-installed-}," in *",$extra,"*) ;; *) continue 2 ;; esac
        done
        return 0
    done
    return 1
}

# install ROOT EXTRAS [CONSTRAINTS]: pip's output goes to install.log in the environment.
install() {
    local wanted
    wanted="$(cksum < "$1/pyproject.toml") $1"
    is_installed "$2" "$wanted" && return 0
    say "installing the package and what it needs (extras: $2); the first time this takes a minute or two"
    PIP_USER=0 python -m pip install --disable-pip-version-check ${3:+-c "$3"} -e "${1}[$2]" \
        > "$VIRTUAL_ENV/install.log" 2>&1 || return 2
    printf '%s\n' "$wanted" > "$VIRTUAL_ENV/.mindformers-installed-$2"
    rm -f "$VIRTUAL_ENV/.unfinished"
}

# other_mindformers ROOT: the active environment holds a package of this name from somewhere else.
other_mindformers() {
    python -I -c '
import json, sys
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlparse
try:
    origin = metadata.distribution("mindformers").read_text("direct_url.json")
except metadata.PackageNotFoundError:
    sys.exit(1)
path = unquote(urlparse(json.loads(origin)["url"]).path) if origin else ""
sys.exit(bool(path) and Path(path).resolve() == Path(sys.argv[1]).resolve())
' "$1"
}

# active_environment ROOT EXTRAS: use the environment that is active, if there is one and it can stay as it is.
active_environment() {
    local fault pins
    [ -n "${VIRTUAL_ENV:-}" ] && [ ! "$VIRTUAL_ENV" -ef "$1/.venv" ] || return 1
    fault="$(fault_of "$VIRTUAL_ENV/bin/python" pip)"
    [ -z "$fault" ] && [ ! -w "$VIRTUAL_ENV" ] && fault="is not writable"
    if [ -z "$fault" ]; then
        enter "$VIRTUAL_ENV"
        is_installed "$2" "$(cksum < "$1/pyproject.toml") $1" && return 0
        other_mindformers "$1" && fault="has another mindformers"
    fi
    if [ -z "$fault" ]; then
        say "using the active environment $VIRTUAL_ENV"
        pins="$VIRTUAL_ENV/.mindformers-pins"
        python -m pip list --format=freeze --exclude mindformers > "$pins" 2> /dev/null \
            && install "$1" "$2" "$pins" && return 0
        fault="cannot take the package without a change to what it holds (see install.log in it)"
    fi
    say "note: the active environment $VIRTUAL_ENV $fault; it stays as it is and .venv is used"
    return 1
}

use_environment() {
    local root
    root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
    active_environment "$root" "$1" && return 0
    own_environment "$root/.venv" || return 2
    if ! install "$root" "$1"; then
        tail -n 20 "$VIRTUAL_ENV/install.log" >&2
        say "error: the installation failed; the whole log is $VIRTUAL_ENV/install.log"
        return 2
    fi
}
