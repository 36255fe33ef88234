# Two stages: the first makes a virtual environment from hashed requirements, the second runs it as nobody in particular.
# Any base with Python 3.11+ under the name python3 will do: docker build --build-arg BASE_IMAGE=...
ARG BASE_IMAGE=python:3.13-slim

FROM ${BASE_IMAGE} AS build
WORKDIR /src
COPY requirements/ requirements/
ENV PIP_CACHE_DIR=/var/cache/pip
RUN --mount=type=cache,target=/var/cache/pip \
    python3 -m venv /opt/gateway \
    && /opt/gateway/bin/pip install --disable-pip-version-check --require-hashes -r requirements/runtime.txt \
    && python3 -m venv /opt/build \
    && /opt/build/bin/pip install --disable-pip-version-check --require-hashes -r requirements/build.txt
COPY pyproject.toml README.md ./
COPY gateway/ gateway/
# --no-build-isolation: the wheel is made by the hashed hatchling above, not by one fetched for the occasion.
RUN /opt/build/bin/pip wheel --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir /wheels . \
    && /opt/gateway/bin/pip install --disable-pip-version-check --no-index --no-deps /wheels/*.whl \
    && /opt/gateway/bin/python -m pip uninstall --yes pip

FROM ${BASE_IMAGE}
COPY --from=build /opt/gateway /opt/gateway
# The root file system may be read-only: nothing is written but bodies on their way to a signature that are over the
# route's `replay`, and those go to TMPDIR. Mount a tmpfs or an emptyDir at /tmp for them.
ENV PATH=/opt/gateway/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    TMPDIR=/tmp \
    GATEWAY_CONFIG=/etc/gateway/gateway.yaml
# A number, so that Kubernetes can see for itself that it is not root (runAsNonRoot).
USER 10001:10001
WORKDIR /
EXPOSE 8080 8081
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s --retries=3 CMD ["modelarts-gateway", "healthcheck"]
ENTRYPOINT ["modelarts-gateway"]
CMD ["serve"]
