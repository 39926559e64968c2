#!/bin/sh
# Fetches a 32-bit Debian kernel and a busybox, and makes of them the Linux guest of test/e2e/linux-guest.test.ts.
#
#   .ci/linux-guest.sh DIRECTORY       leaves there: vmlinuz, initrd.gz
#
# Needs apt (of any architecture), dpkg-deb and gzip, no root. The packages come from where the system has its own; the
# system's lists and architectures stay as they are: apt works on lists within DIRECTORY. What is there is not made again.
set -eu

test $# -eq 1 || { echo "Usage: $0 DIRECTORY" >&2; exit 2; }
mkdir -p "$1"
directory=$(cd "$1" && pwd)
if test -s "$directory/vmlinuz" && test -s "$directory/initrd.gz"; then exit 0; fi

work=$directory/work
rm -rf "$work"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/packages" "$work/root"
: > "$work/status"
cat > "$work/apt.conf" <<CONF
Dir::State "$work";
Dir::State::status "$work/status";
Dir::State::lists "$work/lists";
Dir::Cache "$work/cache";
APT::Architecture "i386";
APT::Architectures { "i386"; };
APT::Sandbox::User "";
Acquire::Languages "none";
CONF
export APT_CONFIG="$work/apt.conf"

# A list that is out of step at the mirror is left out; whether the packages are in the others shows below.
apt-get update --quiet || true
image=$(apt-cache show --no-all-versions linux-image-686 | sed -n 's/^Depends: \(linux-image-[^ ,]*\).*/\1/p')
(cd "$work/packages" && apt-get download --quiet "$image" busybox-static)
for package in "$work"/packages/*.deb; do dpkg-deb --extract "$package" "$work/packages"; done

# /init counts on the console, as fast as its clock allows; each line also says the time, both since boot and of day.
root=$work/root
busybox=$work/packages/bin/busybox
mkdir "$root/bin" "$root/dev" "$root/proc"
cp "$busybox" "$root/bin/busybox"
cat > "$root/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
exec < /dev/ttyS0 > /dev/ttyS0 2>&1
count=0
while true; do
  count=$((count + 1))
  read -r uptime idle < /proc/uptime
  echo "count=$count uptime=$uptime date=$(/bin/busybox date +%s)"
  /bin/busybox sleep 0.1
done
INIT
chmod 755 "$root/init"
(cd "$root" && find . | LC_ALL=C sort | "$busybox" cpio -o -H newc 2>"$work/cpio.log" | gzip -9n) > "$directory/initrd.gz"
cp "$work"/packages/boot/vmlinuz-* "$directory/vmlinuz"
