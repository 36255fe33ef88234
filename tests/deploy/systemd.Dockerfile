# A machine with systemd as its first process and the gateway as docs/deploying.md installs it without containers.
ARG BASE_IMAGE=debian:bookworm-slim
FROM ${BASE_IMAGE}
RUN if ! { test -x /sbin/init && python3 -c 'import ensurepip'; }; then \
        apt-get update && apt-get install -y --no-install-recommends ca-certificates python3-venv systemd-sysv; \
    fi
WORKDIR /src
COPY requirements/ requirements/
RUN python3 -m venv /opt/modelarts-gateway \
    && /opt/modelarts-gateway/bin/pip install --require-hashes -r requirements/runtime.txt
COPY pyproject.toml README.md ./
COPY gateway/ gateway/
RUN /opt/modelarts-gateway/bin/pip install --no-deps .
STOPSIGNAL SIGRTMIN+3
CMD ["/sbin/init"]
