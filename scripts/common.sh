# shellcheck shell=bash
# Functions that the scripts of this repository share. Source it from the root of the repository.

# A machine without a network may lack the toolchain that rust-toolchain.toml pins. Then its own is tested.
if ! cargo --version >/dev/null 2>&1 && own=$(rustup default 2>/dev/null); then
  export RUSTUP_TOOLCHAIN=${own%% *}
  echo "the toolchain of rust-toolchain.toml is not installed; using $RUSTUP_TOOLCHAIN" >&2
fi

# The folder that cargo builds into, as a whole path: `target`, or what CARGO_TARGET_DIR or cargo's
# settings name.
target=$(cargo metadata --no-deps --format-version 1 --offline 2>/dev/null |
  sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p') || true
target=${target:-$(realpath -m "${CARGO_TARGET_DIR:-target}")}
mkdir -p "$target"

# Programs that the scripts install for themselves.
tools=$target/tools
export PATH=$PATH:$tools/bin

# Installs a program of crates.io in this version, if it is missing. Further arguments are options of cargo.
has() {
  type -P "$1" >/dev/null ||
    cargo install "$1" --version "$2" --locked --quiet --no-default-features --root "$tools" "${@:3}"
}

# It works for seconds, so its own compilation should be short.
has_deb() { has cargo-deb 3.8.0 --debug; }

# buf comes from npm.
has_buf() {
  command -v npm >/dev/null && npm install --silent --no-audit --no-fund --prefix "$tools/buf" @bufbuild/buf@1.75.0
}

say() { printf '\n== %s\n' "$*"; }

fail() {
  echo "$*" >&2
  exit 1
}

# Installs the Debian packages that are missing.
debian() {
  local missing=() package
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  local sudo=()
  [ "$(id -u)" -eq 0 ] || sudo=(sudo)
  # Two steps can run at once, and apt works for one of them at a time.
  (
    flock 9
    "${sudo[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -qq -y --no-install-recommends "${missing[@]}" >/dev/null
  ) 9>"$target/apt.lock"
}
