# syntax=docker/dockerfile:1
FROM python:3.12-slim AS builder

# "postgres", or "postgres,nvidia" for NVIDIA's classifier (adds gigabytes)
ARG EXTRAS=postgres
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /venv
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY bandit bandit
COPY service service
COPY migrations migrations
RUN /venv/bin/pip install -c constraints.txt ".[${EXTRAS}]"

FROM python:3.12-slim

# A fixed number, so that the owner of mounted files is known.
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin armwise \
 && install -d -o armwise -g armwise /srv/armwise/data
COPY --from=builder /venv /venv
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
USER armwise

# armwise.toml is looked for here; without Postgres the database is in data/.
WORKDIR /srv/armwise
VOLUME /srv/armwise/data
EXPOSE 8402
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=4s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8402/health', timeout=3)"]

ENTRYPOINT ["armwise", "serve", "--host", "0.0.0.0"]
