#!/bin/bash
# Fails if an object that runs between clone3 and execve uses a symbol of libc that is not in
# child-symbols.allow: async-signal-safety as a test. Usage: check-child-symbols.sh OBJECT-DIR,
# where node-gyp has put the objects of native/runtime (build/Release/obj.target/minke-oci/native/runtime).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
objects=("$1"/child_*.o)
[[ -e ${objects[0]} ]] || { echo "no child objects in $1" >&2; exit 2; }
# The objects' own symbols (namespace runtime) may refer to each other.
extra=$(nm -u "${objects[@]}" | awk '$1 == "U" { print $2 }' | grep -v '^_ZN7runtime' | LC_ALL=C sort -u |
  LC_ALL=C comm -23 - <(LC_ALL=C sort -u "$here/child-symbols.allow"))
if [[ -n $extra ]]; then
  echo "symbols between clone3 and execve that child-symbols.allow does not have:" >&2
  echo "$extra" >&2
  exit 1
fi
echo "child symbols: ${#objects[@]} objects within the allowlist"
