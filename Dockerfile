# The router's image. Any base with Python 3.11 or newer, its venv module and pip will do: BASE is
# an argument so that the same file builds where no registry can be reached (see scripts/image).
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
# otel: traces. The CPU engine ("local") stays out; it is for trying things, not for clusters.
ARG EXTRAS=otel
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /build
COPY LICENSE README.md pyproject.toml hatch_build.py ./
COPY scripts/compile.py ./scripts/
COPY src ./src
# COMPILE=1 compiles what every upload goes through; BASE must then have gcc and Python's headers.
ARG COMPILE=0
RUN VLLM_ROUTER_COMPILE=${COMPILE} python3 -m pip wheel --no-deps --wheel-dir /dist .
# The environment is made at the path it is used from: a venv cannot be moved.
RUN python3 -m venv /opt/vllm-router
# At the versions that were tested.
COPY requirements.lock ./
RUN set -- /dist/*.whl \
 && /opt/vllm-router/bin/pip install --constraint requirements.lock "$1[${EXTRAS}]"
# pip has no business in a running container; compiled files spare a read-only root their writing.
RUN /opt/vllm-router/bin/pip uninstall --yes pip setuptools \
 && python3 -m compileall -q /opt/vllm-router/lib

FROM ${BASE}
# A number, because Kubernetes cannot prove a name to be other than root (runAsNonRoot).
ARG UID=10001
RUN groupadd --gid ${UID} router \
 && useradd --uid ${UID} --gid ${UID} --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin router \
 && install -d -o ${UID} -g ${UID} -m 0700 /spool
COPY --from=build /opt/vllm-router /opt/vllm-router
# Nothing is written but to the spool, temporary files of libraries included, so the root may be
# mounted read-only. PYTHONUNBUFFERED: the last line before a crash is the one that matters.
ENV PATH=/opt/vllm-router/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    VLLM_ROUTER_HOST=0.0.0.0 \
    VLLM_ROUTER_PORT=8001 \
    TMPDIR=/spool \
    VLLM_ROUTER_SPOOL_DIR=/spool
USER ${UID}:${UID}
VOLUME /spool
EXPOSE 8001
# /health is the process's own pulse and asks no engine. Kubernetes ignores this line.
HEALTHCHECK --interval=10s --timeout=5s --start-period=15s --retries=3 \
  CMD ["/opt/vllm-router/bin/python", "-c", "import os, urllib.request; urllib.request.urlopen('http://127.0.0.1:' + os.environ['VLLM_ROUTER_PORT'] + '/health', timeout=4)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["vllm-router"]
