# The gateway as an image: built from this folder, run without root.
#
#   docker build -t sockgate .
#   docker run -p 80:80 -v "$PWD/sockgate.yaml:/etc/sockgate/sockgate.yaml:ro" sockgate

FROM rust:1.95-bookworm AS build
# aws-lc (TLS) and zlib-ng are built with cmake.
RUN apt-get update \
    && apt-get install -y --no-install-recommends cmake \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
# The caches outlive the layer: a changed line of ours does not build the dependencies again.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    triple=$(rustc -vV | sed -n 's/^host: //p') \
    && RUSTFLAGS="-C target-feature=+crt-static" \
        cargo build --release --locked --features kubernetes --bin sockgate --target "$triple" \
    && strip -o /sockgate "target/$triple/release/sockgate"

# The program links nothing, so nothing else is here that would have to be kept up to date: no shell, no libraries.
FROM scratch
# The authorities that TLS to upstreams is verified against.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /sockgate /usr/local/bin/sockgate
COPY LICENSE /usr/share/doc/sockgate/LICENSE

# By number, so that Kubernetes can see that this is not root.
USER 10001:10001

# Docker lets any user of a container bind ports below 1024. Where that is not so, set the sysctl
# net.ipv4.ip_unprivileged_port_start=0 for the container (in Kubernetes: securityContext.sysctls, a safe one), or listen
# on higher ports and map them. The binary carries no CAP_NET_BIND_SERVICE of its own: a file capability would stop it
# from starting at all under allowPrivilegeEscalation: false.
EXPOSE 80 443 843 9901

# Asks for /readyz at 127.0.0.1:9901: needs an `admin` in the configuration that listens there, or on 0.0.0.0:9901.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["/usr/local/bin/sockgate", "health"]

# The gateway drains on SIGTERM, for up to `drain.deadline`, 30 s unless said otherwise: give `docker stop --time` more.
STOPSIGNAL SIGTERM
ENTRYPOINT ["/usr/local/bin/sockgate"]
CMD ["run", "-c", "/etc/sockgate/sockgate.yaml"]
