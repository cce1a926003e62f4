# shellcheck shell=bash
# Shared by the scripts in this folder.

source scripts/common.sh

# Builds everything as it is released. Each package is built alone, so that the benches add no feature to
# the dependencies of the service.
built() {
  cargo build --locked --release --quiet -p wechat-store-gateway
  cargo build --locked --release --quiet -p wechat-store-gateway-benches
  counted
}

# Builds what counts syncs.
counted() { cc -O2 -shared -fPIC -o "$target/syncs.so" benches/src/syncs.c; }

# What is measured.
commit() {
  local commit
  commit=$(git rev-parse HEAD)
  [ -z "$(git status --porcelain --untracked-files=no)" ] || commit+=' with changes'
  echo "$commit"
}
