# raymdm, Ray and all they need, for every node of a cluster: docker build -t REGISTRY/raymdm:0.1.0 .
#
# PyPI's torch for Linux brings CUDA, so this image trains on GPUs (the node needs NVIDIA's driver, no CUDA). Another
# build of the same version, CPU only (much smaller) or for another CUDA, comes by the address of its wheel:
#   docker build --build-arg TORCH='torch @ URL' -t REGISTRY/raymdm:0.1.0-cpu .
FROM python:3.11.14-slim-bookworm

# KubeRay runs commands with bash, and its probes of older versions call wget. bash of this Debian (5.2) hands itself
# over to `ray start`, which therefore gets the SIGTERM of a pod that ends and drains its node.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends wget \
    && rm -rf /var/lib/apt/lists/* \
    && groupadd --gid 1000 ray \
    && useradd --uid 1000 --gid 1000 --create-home --home-dir /opt/ray --shell /bin/bash ray

WORKDIR /opt/raymdm

# Dependencies, which seldom change, in layers before the code: an empty package stands in for it. They go into
# /usr/local, so that `ray` is found by login shells too.
ARG TORCH=torch
COPY pyproject.toml constraints.txt README.md ./
RUN pip install --no-cache-dir --constraint constraints.txt "$TORCH"
RUN mkdir raymdm \
    && touch raymdm/__init__.py \
    && pip install --no-cache-dir --constraint constraints.txt '.[reasoning]' \
    && rm -rf raymdm build ./*.egg-info

COPY raymdm raymdm
RUN pip install --no-cache-dir --no-deps --force-reinstall . \
    && rm -rf build ./*.egg-info

COPY jobs jobs
COPY deploy deploy

ENV HOME=/opt/ray \
    PYTHONUNBUFFERED=1 \
    RAY_USAGE_STATS_ENABLED=0
# A number, because Kubernetes cannot tell that a name is not root's.
USER 1000:1000
CMD ["raymdm", "--help"]
