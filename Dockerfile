# Both can be named differently: a mirror's copy, or what scripts/image --check makes itself.
ARG BUILD_IMAGE=docker.io/library/rust:1.95-slim-bookworm
ARG BASE_IMAGE=gcr.io/distroless/cc-debian12:nonroot

FROM ${BUILD_IMAGE} AS build
WORKDIR /build

# Options for cargo. `--no-default-features --features mimalloc,otlp,redis` leaves out the simulated
# WeChat, and with it the commands `sandbox` and `simulate`.
ARG BUILD_OPTIONS=

# The dependencies, with nothing of our own: only a change of the manifests builds them again.
COPY Cargo.toml Cargo.lock ./
COPY benches/Cargo.toml benches/
COPY clock/Cargo.toml clock/
COPY simulator/Cargo.toml simulator/
RUN mkdir src benches/src clock/src simulator/src \
    && touch src/lib.rs benches/src/lib.rs clock/src/lib.rs simulator/src/lib.rs \
    && echo 'fn main() {}' >build.rs \
    && cp build.rs src/main.rs \
    && cargo build --locked --release -p wechat-store-gateway ${BUILD_OPTIONS}

# cargo compares times, and the files' are older than the empty ones' above: without the touch it
# would take the empty crate for the finished one.
COPY build.rs ./
COPY proto proto
COPY clock clock
COPY simulator simulator
COPY src src
RUN touch build.rs clock/src/lib.rs simulator/src/lib.rs src/lib.rs src/main.rs \
    && cargo build --locked --release -p wechat-store-gateway ${BUILD_OPTIONS} \
    && mkdir /state

# glibc and the certificate authorities that WeChat's certificates are checked against; no shell.
FROM ${BASE_IMAGE}
LABEL org.opencontainers.image.title="wechat-store-gateway" \
      org.opencontainers.image.description="WeChat store and nearby mini programs as one typed gRPC service" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0"
COPY --from=build /build/target/release/wechat-store-gateway /usr/local/bin/

# Where the default state.url leads. Its owner is the user below, and a new volume takes after it;
# there is no shell here that could change that.
COPY --from=build --chown=65532:65532 /state /var/lib/wechat-store-gateway
WORKDIR /var/lib/wechat-store-gateway
# So that it can be written even where everything else is read-only. Mount one of your own: this one
# is easily lost, and with it events that WeChat does not send again.
VOLUME /var/lib/wechat-store-gateway

# A number, because Kubernetes' runAsNonRoot cannot tell from a name who is root.
USER 65532:65532

# The settings have to say listen.grpc = "0.0.0.0:50051" and plaintext = "behind-a-mesh": by default
# the service listens on loopback, which in a container nobody else reaches. So with listen.callback
# (8080, for WeChat's pushes) and listen.admin (9464, for probes).
EXPOSE 50051 8080 9464

# It asks 127.0.0.1:50051 and gives up by itself after 2 s, saying why; the timeout lets it.
HEALTHCHECK --interval=10s --timeout=4s --start-period=5s --retries=3 \
    CMD ["/usr/local/bin/wechat-store-gateway", "healthcheck"]

ENTRYPOINT ["/usr/local/bin/wechat-store-gateway"]
CMD ["serve", "--config", "/etc/wechat-store-gateway/settings.toml"]
