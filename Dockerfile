# Other images can be named here: the copies of a mirror, or those that scripts/image --check makes.
ARG BUILD_IMAGE=docker.io/library/rust:1.95-slim-bookworm
ARG BASE_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
WORKDIR /build

# Options for cargo. `--no-default-features --features mimalloc,otlp,redis` leaves out the simulated
# WeChat, and with it the commands `sandbox` and `simulate`.
ARG BUILD_OPTIONS=

# The dependencies without our own code, so that only a change of the manifests builds them again.
COPY Cargo.toml Cargo.lock ./
COPY benches/Cargo.toml benches/
COPY clock/Cargo.toml clock/
COPY simulator/Cargo.toml simulator/
RUN mkdir src benches/src clock/src simulator/src \
    && touch src/lib.rs benches/src/lib.rs clock/src/lib.rs simulator/src/lib.rs \
    && echo 'fn main() {}' >build.rs \
    && cp build.rs src/main.rs \
    && cargo build --locked --release -p wechat-store-gateway ${BUILD_OPTIONS}

# cargo compares the times of files. The real files are older than the empty ones above, so that without
# the touch it would keep the empty crates.
# For the command `version`. The folder that is sent to the build has no .git.
ARG REVISION=unknown
ENV GIT_COMMIT=${REVISION}
COPY build.rs ./
COPY proto proto
COPY clock clock
COPY simulator simulator
COPY src src
RUN touch build.rs clock/src/lib.rs simulator/src/lib.rs src/lib.rs src/main.rs \
    && cargo build --locked --release -p wechat-store-gateway ${BUILD_OPTIONS} \
    && mkdir /state

# This image has glibc and certificate authorities, and no shell.
FROM ${BASE_IMAGE}
# The release sets both.
ARG VERSION=unreleased
ARG REVISION=unknown
LABEL org.opencontainers.image.title="wechat-store-gateway" \
      org.opencontainers.image.description="WeChat store and nearby mini programs as one typed gRPC service" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}"
COPY LICENSE-APACHE LICENSE-MIT THIRD-PARTY-NOTICES.txt /usr/share/doc/wechat-store-gateway/
COPY --from=build /build/target/release/wechat-store-gateway /usr/local/bin/

# The folder of the default state.url. It belongs to the user below, and so does a new volume, because
# this image has no shell that could change the owner.
COPY --from=build --chown=65532:65532 /state /var/lib/wechat-store-gateway
WORKDIR /var/lib/wechat-store-gateway
# A volume can be written even if everything else is read-only. Mount a named one: an anonymous volume is
# easily lost, and with it events that WeChat does not send again.
VOLUME /var/lib/wechat-store-gateway

# A number, because Kubernetes' runAsNonRoot cannot check a name.
USER 65532:65532

# The settings must set listen.grpc = "0.0.0.0:50051" and plaintext = "behind-a-mesh". By default the
# gateway listens on loopback, which other containers cannot reach. The same holds for listen.callback
# (8080, WeChat's pushes) and listen.admin (9464, probes).
EXPOSE 50051 8080 9464

# Asks 127.0.0.1:50051. The command itself ends after 2 s and reports why, before this timeout.
HEALTHCHECK --interval=10s --timeout=4s --start-period=5s --retries=3 \
    CMD ["/usr/local/bin/wechat-store-gateway", "healthcheck"]

ENTRYPOINT ["/usr/local/bin/wechat-store-gateway"]
CMD ["serve", "--config", "/etc/wechat-store-gateway/settings.toml"]
