# The picker's image: `make image`. Two stages: what builds does not ship.
#
# Other sources than the public ones, for networks that have their own:
#   --build-arg BASE=registry.example/python:3.11.13-slim-bookworm
#   --build-arg PIP_INDEX_URL=https://packages.example/simple
# In production give BASE with a digest (name@sha256:...): a tag can be moved.
ARG BASE=python:3.11.13-slim-bookworm

FROM ${BASE} AS build
# pip reads these by itself.
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /source
# Dependencies first and alone: they change less often than the code, and this layer is the large one.
COPY hack/build.lock hack/runtime.lock hack/
RUN python -m venv /build \
 && /build/bin/pip install --require-hashes --requirement hack/build.lock \
 && python -m venv --without-pip /opt/epp \
 && python -m pip --python /opt/epp/bin/python install --no-compile --require-hashes --only-binary :all: --requirement hack/runtime.lock \
 && find /opt/epp -type d -name tests -prune -exec rm -r {} +
COPY pyproject.toml README.md LICENSE ./
COPY epp epp
# Compiled here, since nothing can be written where it runs; but for the half of the Kubernetes client that is never imported.
RUN /build/bin/pip wheel --no-deps --no-build-isolation --wheel-dir /wheels . \
 && python -m pip --python /opt/epp/bin/python install --no-compile --no-deps /wheels/*.whl \
 && /opt/epp/bin/python -m compileall -q -x /site-packages/kubernetes/client/ /opt/epp

FROM ${BASE}
LABEL org.opencontainers.image.title="epp" \
      org.opencontainers.image.description="An endpoint picker for LLM inference" \
      org.opencontainers.image.licenses="Apache-2.0"
ENV PATH=/opt/epp/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
COPY --from=build /opt/epp /opt/epp
# By number: Kubernetes cannot tell whether a name is root.
USER 65532:65532
WORKDIR /
# ext_proc, health, metrics.
EXPOSE 9002 9003 9090
ENTRYPOINT ["epp"]
CMD ["serve"]
