#!/bin/sh
# Builds the guest images from their sources: guests/build.sh [directory], by default beside the sources.
# The images are kept in the repository, so only who changes a guest needs NASM.
set -eu
sources=$(dirname "$0")
images=${1:-$sources}
for guest in counter random reader clock; do
  nasm -f bin -Ox -i "$sources/" -o "$images/$guest.bin" "$sources/$guest.asm"
done
