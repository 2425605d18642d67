# Shared by the scripts: where the tree is, how packages are installed, how long steps run. Sourced, not run.
# SPDX-License-Identifier: Apache-2.0
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
jobs=$(nproc 2>/dev/null || echo 2)

say() { printf '== %s\n' "$*"; }

# need_packages NAME...: installs Debian packages that are missing, as root or through sudo; otherwise says the line to run and stops.
need_packages() {
  local missing=() name
  for name in "$@"; do
    dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q '^install ok installed$' || missing+=("$name")
  done
  [ ${#missing[@]} -eq 0 ] && return 0
  local as=()
  if [ "$(id -u)" -ne 0 ]; then
    if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
      as=(sudo)
    else
      echo "These packages are missing; install them and run this script again:" >&2
      echo "  sudo apt-get update && sudo apt-get install -y ${missing[*]}" >&2
      exit 1
    fi
  fi
  say "installing ${missing[*]}"
  "${as[@]+"${as[@]}"}" apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive "${as[@]}" apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
}

required_packages() { grep -v '^#' "$root/scripts/packages.txt"; }

# with_heartbeat COMMAND...: runs it and prints a line every 10 s while it is quiet, so that nobody thinks it hangs.
with_heartbeat() {
  "$@" &
  local pid=$! waited=0
  while kill -0 "$pid" 2>/dev/null; do
    sleep 1
    waited=$((waited + 1))
    [ $((waited % 10)) -eq 0 ] && kill -0 "$pid" 2>/dev/null && echo "   ... $waited s"
  done
  wait "$pid"
}

# cmake_flags: a compiler cache where there is one.
cmake_flags() {
  if command -v ccache >/dev/null; then echo "-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"; fi
}
