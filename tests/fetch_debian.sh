#!/bin/sh
# fetch_debian.sh DIR PACKAGE...: unpack Debian packages into DIR, without root and without installing
# them. Dependencies are not fetched, so it works for self-contained programs only. Several instances may
# run at once: each has a work directory of its own.
set -eu
dir=$1
shift
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || exit 1
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
work=$(mktemp -d "$dir/debian.XXXXXX")
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/deb"
options="-o Dir::State::lists=$work/lists -o Dir::Cache=$work/cache -o APT::Sandbox::User= -qq"
# shellcheck disable=SC2086
apt-get $options -o Debug::NoLocking=1 update
# shellcheck disable=SC2086
(cd "$work/deb" && apt-get $options download "$@")
for package in "$work"/deb/*.deb; do
    dpkg-deb -x "$package" "$dir"
done
