#!/bin/sh
# find_python.sh [PYTHON]: print the Python to use: PYTHON if it is given, else the newest one here that Brim
# supports. Prints what to install, and ends with 1, if there is none. A name that is found may still
# be a shim that starts nothing, and Debian's Python comes without venv, so each one is tried.
versions="3.14 3.13 3.12 3.11" # as in pyproject.toml; a test compares them
newest=${versions%% *}
oldest=${versions##* }

# "ok", or why this Python cannot be used
try() {
    "$1" -I - "$versions" 2>/dev/null <<'PYTHON' || echo "does not start"
import sys
version = "%d.%d" % sys.version_info[:2]
try:
    import ensurepip, venv
    print("ok" if version in sys.argv[1].split() else "is Python " + version)
except ImportError:
    print("is Python %s without venv" % version)
PYTHON
}

names=$1
if [ -z "$names" ]; then
    for version in $versions; do names="$names python$version"; done
    names="$names python3 python"
fi
found=""
for name in $names; do
    command -v "$name" >/dev/null 2>&1 || continue
    result=$(try "$name")
    if [ "$result" = ok ]; then
        command -v "$name"
        exit 0
    fi
    found="$found
brim:   $name $result"
done

say() {
    echo "brim: $1" >&2
}
say "no Python from $oldest to $newest is here${1:+ under the name $1}${found:+; found:$found}"
say "install one, and run make again:"
say "  Debian, Ubuntu   apt install python3 python3-venv"
say "  Ubuntu 22.04     apt install python3.11 python3.11-venv"
say "  Fedora           dnf install python3"
say "  macOS            brew install python3"
say "  others           https://www.python.org/downloads/"
say "if it is not on the PATH: make PYTHON=/path/to/python3"
exit 1
