#!/bin/sh
# fetch_debian.sh DIR PACKAGE...: unpack Debian packages into DIR, without root and without installing
# them. Their dependencies are not followed: these are for programs that stand alone.
set -eu
dir=$1
shift
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || exit 1
mkdir -p "$dir/apt/lists/partial" "$dir/apt/cache/archives/partial" "$dir/deb"
dir=$(cd "$dir" && pwd)
options="-o Dir::State::lists=$dir/apt/lists -o Dir::Cache=$dir/apt/cache -o APT::Sandbox::User= -qq"
# shellcheck disable=SC2086
apt-get $options -o Debug::NoLocking=1 update
# shellcheck disable=SC2086
(cd "$dir/deb" && apt-get $options download "$@")
for package in "$dir"/deb/*.deb; do
    dpkg-deb -x "$package" "$dir"
done
rm -rf "$dir/apt" "$dir/deb"
