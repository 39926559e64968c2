#!/bin/sh
# Fetches the QEMU of a newer Debian than the system's own, for what Debian 12's 7.2 lacks (mapped-ram, file:). Nothing is
# installed: it lies in the directory with every library it needs, the C library among them, and firmware.
#
#   .ci/newer-qemu.sh DIRECTORY       leaves there: qemu-system-x86_64 (a script), root/
#
# Needs apt and dpkg-deb on amd64, no root. The packages come from Debian's mirror and are checked with the keys of the
# package debian-archive-keyring; apt works on lists of its own within DIRECTORY. What is there is not fetched again.
set -eu

test $# -eq 1 || { echo "Usage: $0 DIRECTORY" >&2; exit 2; }
suite=trixie
mkdir -p "$1"
directory=$(cd "$1" && pwd)
if test -x "$directory/qemu-system-x86_64"; then exit 0; fi

work=$directory/work
root=$directory/root
rm -rf "$work" "$root"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/sources.d" "$root"
: > "$work/status"
keys=/usr/share/keyrings/debian-archive-keyring.gpg
echo "deb [signed-by=$keys] http://deb.debian.org/debian $suite main" > "$work/sources.list"
cat > "$work/apt.conf" <<CONF
Dir::State "$work";
Dir::State::status "$work/status";
Dir::State::lists "$work/lists";
Dir::Cache "$work/cache";
Dir::Etc::sourcelist "$work/sources.list";
Dir::Etc::sourceparts "$work/sources.d";
APT::Architecture "amd64";
APT::Architectures { "amd64"; };
APT::Sandbox::User "";
Acquire::Languages "none";
CONF
export APT_CONFIG="$work/apt.conf"

# For apt nothing is installed here, so it fetches all that QEMU needs.
apt-get update --quiet
apt-get install --quiet --yes --no-install-recommends --download-only qemu-system-x86
for package in "$work"/cache/archives/*.deb; do dpkg-deb --extract "$package" "$root"; done

# Debian 13 keeps all libraries under /usr. QEMU would look for its modules at the path it was built for: the system's.
libraries=$root/usr/lib/x86_64-linux-gnu
test -x "$libraries/ld-linux-x86-64.so.2"
cat > "$work/qemu-system-x86_64" <<WRAPPER
#!/bin/sh
QEMU_MODULE_DIR="$libraries/qemu" exec "$libraries/ld-linux-x86-64.so.2" --library-path "$libraries" --argv0 "\$0" \\
  "$root/usr/bin/qemu-system-x86_64" -L "$root/usr/share/seabios" -L "$root/usr/share/qemu" "\$@"
WRAPPER
chmod 755 "$work/qemu-system-x86_64"
"$work/qemu-system-x86_64" --version
mv "$work/qemu-system-x86_64" "$directory/qemu-system-x86_64"
