# Builds the gate and packs it with what it needs to run, and nothing else.
# Plain instructions only: the classic builder, BuildKit and Podman all take this file.

# The workspace with every source file emptied: what decides which libraries are built, and nothing
# else. `COPY --from` is cached by content, so the long layer below is built again when a manifest
# changes or a file is added, not when code changes.
FROM rust:1-bookworm AS manifests
WORKDIR /src
COPY . .
# The pin in rust-toolchain.toml is for developers. Here it would make rustup download a second
# toolchain (and fail where there is no network) though the image brings one; `rust-version` in
# Cargo.toml still refuses one that is too old. .dockerignore leaves the file out as well; this holds
# for builders that do not read it.
RUN rm -f rust-toolchain.toml \
    && find . -type f ! -name '*.rs' ! -name Cargo.toml ! -name Cargo.lock ! -path './.cargo/*' \
        -delete \
    && find . -name '*.rs' -exec sh -c 'for f; do echo "fn main() { }" > "$f"; done' sh {} +

FROM rust:1-bookworm AS build
WORKDIR /src
# Function names stay for backtraces; line tables, which nobody reads in the image, would be most of
# its size.
ENV CARGO_PROFILE_RELEASE_DEBUG=false CARGO_PROFILE_RELEASE_STRIP=debuginfo
COPY --from=manifests /src .
RUN cargo build --release --locked -p streamgate
COPY . .
# Cargo compares times: a file last edited before the layer above was built would pass for already
# compiled, and the empty program would be shipped. Not in target: the generated code there belongs
# to libraries, which would be compiled again.
RUN rm -f rust-toolchain.toml \
    && find . -path ./target -prune -o -name '*.rs' -exec touch {} + \
    && cargo build --release --locked -p streamgate

FROM debian:bookworm-slim
LABEL org.opencontainers.image.title="StreamGate" \
      org.opencontainers.image.description="The log governance gate" \
      org.opencontainers.image.licenses="MIT"
# The number must be known to whoever prepares a bind mount, and Kubernetes' runAsNonRoot believes
# only numbers. A named volume takes the owner from this folder.
RUN install -d -o 10001 -g 10001 -m 0750 /var/lib/streamgate
# Roots for outputs that speak TLS. Copied, as installing the package would bring openssl along.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY examples/streamgate.toml /etc/streamgate/streamgate.toml
COPY --from=build /src/target/release/streamgate /usr/local/bin/streamgate
USER 10001:10001
# The control API has to listen on all addresses of the container to be reachable at all. So it needs a
# token: the first one is in /var/lib/streamgate/admin-token, and `docker exec NAME streamgate token
# show` prints it.
ENV STREAMGATE_STORE=/var/lib/streamgate \
    STREAMGATE_CACHE=/var/lib/streamgate/cache \
    STREAMGATE_CONTROL=0.0.0.0:8000
VOLUME /var/lib/streamgate
EXPOSE 8080 8081 8082/udp 8000
STOPSIGNAL SIGTERM
# bash, which is in every Debian, opens the connection: no HTTP client has to be installed and kept
# up to date. It asks whether the gate lives, not whether it is ready: an overloaded gate does its
# work and must not be restarted. It reads STREAMGATE_CONTROL, so move the control API with
# that and not with --control; run with --no-healthcheck where it is `off`.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD exec bash -c 'host=${STREAMGATE_CONTROL%:*}; host=${host#[}; host=${host%]}; \
        exec 3<>"/dev/tcp/$host/${STREAMGATE_CONTROL##*:}" || exit 1; \
        printf "GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" >&3; \
        read -r _ code _ <&3; [[ $code == 200 ]]'
ENTRYPOINT ["/usr/local/bin/streamgate"]
