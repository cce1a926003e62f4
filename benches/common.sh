# Shared by the scripts in this folder.

# Installs Debian packages that are not there yet.
debian() {
  local missing=()
  for package in "$@"; do
    dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  local sudo=()
  [ "$(id -u)" -eq 0 ] || sudo=(sudo)
  "${sudo[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${sudo[@]}" apt-get install -qq -y --no-install-recommends "${missing[@]}"
}

# Builds everything as it is released. Each package is built alone, so that the benches add no feature to
# what the service depends on.
built() {
  cargo build --locked --release --quiet -p wechat-store-gateway
  cargo build --locked --release --quiet -p wechat-store-gateway-benches
  counted
}

# Builds what counts syncs.
counted() { cc -O2 -shared -fPIC -o target/syncs.so benches/src/syncs.c; }

# What is measured.
commit() {
  local commit
  commit=$(git rev-parse HEAD)
  [ -z "$(git status --porcelain --untracked-files=no)" ] || commit+=' with changes'
  echo "$commit"
}
