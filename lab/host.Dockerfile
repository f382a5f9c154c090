# A "host" for the tests: runs its own engine. Storage belongs in a volume on /var/lib/docker.
ARG BASE=debian:bookworm-slim
FROM ${BASE}
ARG PACKAGES
RUN command -v dockerd >/dev/null || { apt-get update && apt-get install -y --no-install-recommends ${PACKAGES}; }
COPY host-entrypoint /usr/local/bin/host-entrypoint
VOLUME /var/lib/docker
ENTRYPOINT ["host-entrypoint"]
