#!/bin/sh
# fetch_perf_analyzer.sh DIR PYTHON: Triton's perf_analyzer and the two libraries it needs, into
# DIR/usr/bin and DIR/usr/lib, without root. It ships inside an older wheel of Triton's client.
set -eu
dir=$1
python=$2
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$dir/usr/bin" "$dir/usr/lib" "$dir/wheels"
"$python" -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: \
    --python-version 3.11 --platform manylinux1_x86_64 --platform manylinux2014_x86_64 \
    --dest "$dir/wheels" tritonclient==2.50.0 nvidia-cuda-runtime-cu12==12.9.79
sh "$here/fetch_debian.sh" "$dir" libb64-0d
"$python" - "$dir" <<'END'
import pathlib, sys, zipfile

root = pathlib.Path(sys.argv[1])
wanted = {"bin/perf_analyzer": "usr/bin/perf_analyzer", "lib/libcudart.so.12": "usr/lib/libcudart.so.12"}
for wheel in (root / "wheels").glob("*.whl"):
    with zipfile.ZipFile(wheel) as archive:
        for member in archive.namelist():
            for ending, target in wanted.items():
                if member.endswith("/" + ending):
                    (root / target).write_bytes(archive.read(member))
                    (root / target).chmod(0o755)
END
find "$dir" -name 'libb64.so*' -exec cp -P {} "$dir/usr/lib/" \; 2>/dev/null || true
rm -rf "$dir/wheels"
