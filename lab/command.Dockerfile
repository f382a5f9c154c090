# bluegreen's dependencies, for the tests that run the command in a container. Its source is mounted on /src.
ARG BASE=debian:bookworm-slim
FROM ${BASE}
ARG PACKAGES
RUN command -v ssh >/dev/null || { apt-get update && apt-get install -y --no-install-recommends ${PACKAGES}; }
ENV PYTHONPATH=/src:/site PYTHONDONTWRITEBYTECODE=1
WORKDIR /work
COPY . /site
ENTRYPOINT ["python3", "-m", "bluegreen"]
