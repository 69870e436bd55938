#!/bin/sh
# fetch_perf_analyzer.sh DIR PYTHON: Triton's perf_analyzer and the two libraries it needs, into
# DIR/usr/bin and DIR/usr/lib, without root. It ships inside an older wheel of Triton's client, for
# x86-64 only. The program is written last: if it exists, the libraries do too.
set -eu
dir=$1
python=$2
here=$(cd "$(dirname "$0")" && pwd)
[ "$(uname -m)" = x86_64 ] || exit 1
mkdir -p "$dir/usr/bin" "$dir/usr/lib"
wheels=$(mktemp -d "$dir/wheels.XXXXXX")
trap 'rm -rf "$wheels"' EXIT
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --python-version 3.11 --platform manylinux1_x86_64 --platform manylinux2014_x86_64 \
    --dest "$wheels" tritonclient==2.50.0 nvidia-cuda-runtime-cu12==12.9.79
sh "$here/fetch_debian.sh" "$dir" libb64-0d
cp "$dir"/usr/lib/*/libb64.so.0d "$dir/usr/lib/"
"$python" - "$dir" "$wheels" <<'END'
import pathlib
import sys
import zipfile

root, wheels = map(pathlib.Path, sys.argv[1:])
wanted = (
    ("nvidia_cuda_runtime_cu12", "lib/libcudart.so.12"),
    ("tritonclient", "bin/perf_analyzer"),
)
for package, ending in wanted:
    (wheel,) = wheels.glob(f"{package}-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (name for name in archive.namelist() if name.endswith(f"/{ending}"))
        target = root / "usr" / ending
        target.write_bytes(archive.read(member))
        target.chmod(0o755)
END
