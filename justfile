# Short names for the commands of this repository. `just` comes from crates.io, PyPI (rust-just) or your
# system. Every recipe is one command, so it works without `just` as well.

# Lists the recipes.
default:
    @just --list --unsorted

# Runs every check and test, or only the named steps: `just test clippy tests`.
test *steps:
    scripts/test {{ steps }}

# Runs the checks that take a minute: format, spelling, scripts, links, translations, prose, clippy, docs.
lint:
    scripts/test format spelling scripts links translations prose clippy docs

# Formats all Rust code.
fmt:
    cargo fmt --all

# Starts the gateway with a simulated WeChat.
sandbox *options:
    cargo run --locked -- sandbox {{ options }}

# Shows the gateway's work from end to end.
tour:
    cargo run --locked --quiet -- sandbox --tour

# Runs the tests of one file of tests/it, or with a part of their name: `just it card`.
it name:
    cargo test --locked --test it {{ name }}

# Checks a settings file.
check settings:
    cargo run --locked --quiet -- check --config {{ settings }}

# Measures the gateway. docs/performance.md explains the options.
bench *options:
    benches/run {{ options }}

# Shows that the chaos suite detects broken versions of the gateway. Takes twenty minutes.
broken *names:
    scripts/broken {{ names }}

# Builds the container image.
image tag="wechat-store-gateway":
    scripts/image {{ tag }}

# Checks the image without a registry, as root on Debian.
image-check:
    scripts/image --check

# Writes settings.schema.json anew. Needed after a change of a struct of the settings.
schema:
    WRITE_SCHEMA=1 cargo test --locked --lib schema_describes_the_structs

# Writes proto/service_config.json anew. Needed after a new RPC.
service-config:
    cargo run --locked --quiet -- service-config > proto/service_config.json

# Writes THIRD-PARTY-NOTICES.txt anew. Needed after a change of Cargo.lock.
notices:
    scripts/notices

# Accepts the contract and the stored records in proto/ as the baselines. Only the commit of a release does this.
baseline:
    buf build proto --path proto/wechat --exclude-source-info -o proto/baseline.binpb
    buf build proto --path proto/internal --exclude-source-info -o proto/internal/baseline.binpb
