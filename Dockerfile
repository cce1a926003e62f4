# Other images can be named here: the copies of a mirror, or those that scripts/image --check makes. A tag can move:
# scripts/pin-images adds the digests that your registry has for these.
ARG BUILD_IMAGE=docker.io/library/rust:1.95-slim-bookworm
ARG BASE_IMAGE=gcr.io/distroless/cc-debian12:nonroot

# The compiler runs on this machine, also for a machine of another kind:
#   docker buildx build --platform linux/amd64,linux/arm64 --push --tag REGISTRY/wechat-store-gateway .
FROM --platform=$BUILDPLATFORM ${BUILD_IMAGE} AS build
WORKDIR /build
SHELL ["/bin/sh", "-eu", "-c"]

# The target, and its linker if it is not this machine's. apt's versions are those of the image's Debian.
ARG TARGETARCH
# hadolint ignore=DL3008
RUN case "${TARGETARCH:-$(dpkg --print-architecture)}" in \
      amd64) triple=x86_64-unknown-linux-gnu gcc=gcc-x86-64-linux-gnu libc=libc6-dev-amd64-cross ;; \
      arm64) triple=aarch64-unknown-linux-gnu gcc=gcc-aarch64-linux-gnu libc=libc6-dev-arm64-cross ;; \
      *) echo "no recipe for ${TARGETARCH}" >&2; exit 1 ;; \
    esac; \
    echo "$triple" >/target; \
    if [ "$triple" != "$(rustc --print host-tuple)" ]; then \
      rustup target add "$triple"; \
      apt-get update; \
      apt-get install -y --no-install-recommends "$gcc" "$libc"; \
      rm -rf /var/lib/apt/lists/*; \
    fi
ENV CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_LINKER=x86_64-linux-gnu-gcc \
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc

# cargo-auditable puts the list of crates into the program, for `cargo audit bin` and scanners of images.
# cargo-cyclonedx writes the same list as a file. Both work for seconds, so they are compiled without optimization.
RUN cargo install --quiet --debug --locked --root /usr/local --version 0.7.7 cargo-auditable; \
    cargo install --quiet --debug --locked --root /usr/local --version 0.5.9 cargo-cyclonedx

# Features for cargo. `--no-default-features --features mimalloc,otlp,redis` leaves out the simulated
# WeChat, and with it the commands `sandbox` and `simulate`.
ARG BUILD_OPTIONS=

# The dependencies without our own code, so that only a change of the manifests builds them again.
COPY Cargo.toml Cargo.lock ./
COPY benches/Cargo.toml benches/
COPY clock/Cargo.toml clock/
COPY simulator/Cargo.toml simulator/
RUN mkdir src benches/src clock/src simulator/src; \
    touch src/lib.rs benches/src/lib.rs clock/src/lib.rs simulator/src/lib.rs; \
    echo 'fn main() {}' >build.rs; \
    cp build.rs src/main.rs; \
    cargo auditable build --locked --release --target "$(cat /target)" -p wechat-store-gateway ${BUILD_OPTIONS}; \
    cargo cyclonedx --quiet --format json --spec-version 1.5 --no-build-deps --target "$(cat /target)" \
      --override-filename sbom ${BUILD_OPTIONS}

# cargo compares the times of files. The real files are older than the empty ones above, so that without
# the touch it would keep the empty crates. The folder that is sent to the build has no .git, so the command
# `version` gets the commit as a variable.
ARG REVISION=unknown
ENV GIT_COMMIT=${REVISION}
COPY build.rs ./
COPY proto proto
COPY clock clock
COPY simulator simulator
COPY src src
RUN touch build.rs clock/src/lib.rs simulator/src/lib.rs src/lib.rs src/main.rs; \
    cargo auditable build --locked --release --target "$(cat /target)" -p wechat-store-gateway ${BUILD_OPTIONS}; \
    mkdir /state /out; \
    mv "target/$(cat /target)/release/wechat-store-gateway" /out/

# This image has glibc and certificate authorities, and no shell.
FROM ${BASE_IMAGE}
# scripts/image sets the three.
ARG VERSION=unreleased
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG BASE_IMAGE
LABEL org.opencontainers.image.title="wechat-store-gateway" \
      org.opencontainers.image.description="WeChat store and nearby mini programs as one typed gRPC service" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.authors="The wechat-store-gateway authors" \
      org.opencontainers.image.base.name="${BASE_IMAGE}" \
      org.opencontainers.image.created="${CREATED}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY LICENSE-APACHE LICENSE-MIT THIRD-PARTY-NOTICES.txt /usr/share/doc/wechat-store-gateway/
COPY --from=build /build/sbom.json /usr/share/doc/wechat-store-gateway/sbom.cdx.json
COPY --from=build /out/wechat-store-gateway /usr/local/bin/

# The folder of the default state.url. It belongs to the user below, and so does a new volume, because
# this image has no shell that could change the owner.
COPY --from=build --chown=65532:65532 /state /var/lib/wechat-store-gateway
WORKDIR /var/lib/wechat-store-gateway
# A volume can be written even if everything else is read-only. Mount a named one: an anonymous volume is
# easily lost, and with it events that WeChat does not send again.
VOLUME /var/lib/wechat-store-gateway

# A number, because Kubernetes' runAsNonRoot cannot check a name.
USER 65532:65532

# The settings must set listen.grpc = "0.0.0.0:50051" and plaintext = "behind-a-mesh", and have [[callers]] or
# callers = "anyone". By default the gateway listens on loopback, which other containers cannot reach. The same
# holds for listen.callback (8080, WeChat's pushes) and listen.admin (9464, probes).
EXPOSE 50051 8080 9464

# Asks 127.0.0.1:50051. The command itself ends after 2 s and reports why, before this timeout.
HEALTHCHECK --interval=10s --timeout=4s --start-period=5s --retries=3 \
    CMD ["/usr/local/bin/wechat-store-gateway", "healthcheck"]

ENTRYPOINT ["/usr/local/bin/wechat-store-gateway"]
CMD ["serve", "--config", "/etc/wechat-store-gateway/settings.toml"]
