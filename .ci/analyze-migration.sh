#!/bin/sh
# Fetches QEMU's stream analyzer, scripts/analyze-migration.py of its sources, for test/interop/analyze-migration.test.ts.
#
#   .ci/analyze-migration.sh DIRECTORY       leaves there: analyze-migration.py
#
# Needs apt and tar, no root. The sources come from where the system has its packages; apt works on lists of its own within
# DIRECTORY. What is there already is not fetched again.
set -eu

test $# -eq 1 || { echo "Usage: $0 DIRECTORY" >&2; exit 2; }
mkdir -p "$1"
directory=$(cd "$1" && pwd)
if test -s "$directory/analyze-migration.py"; then exit 0; fi

work=$directory/work
rm -rf "$work"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/sources.d" "$work/source"
for file in /etc/apt/sources.list.d/*.sources; do
  if test -f "$file"; then sed 's/^Types:.*/Types: deb-src/' "$file" > "$work/sources.d/$(basename "$file")"; fi
done
touch "$work/sources.list"
for file in /etc/apt/sources.list /etc/apt/sources.list.d/*.list; do
  if test -f "$file"; then sed -n 's/^deb /deb-src /p' "$file" >> "$work/sources.list"; fi
done
cat > "$work/apt.conf" <<CONF
Dir::State::lists "$work/lists";
Dir::Cache "$work/cache";
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "$work/sources.d";
APT::Sandbox::User "";
Acquire::Languages "none";
CONF
export APT_CONFIG="$work/apt.conf"

apt-get update --quiet
(cd "$work/source" && apt-get source --quiet --download-only qemu)
tar --extract --to-stdout --wildcards --file "$work"/source/qemu_*.orig.tar.* '*/scripts/analyze-migration.py' \
  > "$directory/analyze-migration.py"
test -s "$directory/analyze-migration.py"
