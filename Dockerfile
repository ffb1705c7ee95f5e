# The image of both programs: `docker build --tag penstock .`. Your application goes on top of it (infra/README.md).

FROM python:3.11-slim AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1
WORKDIR /build
RUN python -m venv /opt/penstock
COPY requirements-build.lock requirements-image.lock ./
RUN python -m pip install --no-cache-dir --require-hashes --requirement requirements-build.lock \
    && /opt/penstock/bin/python -m pip install --no-cache-dir --require-hashes --requirement requirements-image.lock
COPY pyproject.toml README.md LICENSE ./
COPY penstock penstock
COPY service service
COPY consumer consumer
COPY infra infra
RUN python -m hatchling build --target wheel --directory dist \
    && /opt/penstock/bin/python -m pip install --no-cache-dir --no-deps dist/*.whl \
    && /opt/penstock/bin/python -m pip check

FROM python:3.11-slim
# Everything is already compiled, and the root file system may be read-only.
ENV PATH=/opt/penstock/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
RUN groupadd --gid 10001 penstock \
    && useradd --uid 10001 --gid 10001 --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin penstock
COPY --from=build /opt/penstock /opt/penstock
WORKDIR /app
USER 10001:10001
# Only this folder is written to: large batches are buffered there. As a volume it keeps its mode when it is mounted.
VOLUME ["/tmp"]
EXPOSE 8080
STOPSIGNAL SIGTERM
# What a request needs. Set it to `keys`, unless something in front of the container decides who may call.
ENV PENSTOCK_AUTH=none
ENTRYPOINT ["penstock"]
