# syntax=docker/dockerfile:1
FROM python:3.12-slim AS builder

# "postgres"; "postgres,nvidia" runs NVIDIA's classifier when its weights are mounted, "postgres,torch" adds gigabytes
ARG EXTRAS=postgres
# "accepted" bakes NVIDIA's classifier in, 1.3 GB: you then accept the licence of its weights, see docs/nvidia.md
ARG NVIDIA_LICENCE=
ENV PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python -m venv /venv
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY armwise armwise
COPY bandit bandit
COPY service service
COPY migrations migrations
RUN /venv/bin/pip install -c constraints.txt ".[${EXTRAS}${NVIDIA_LICENCE:+,nvidia}]"

FROM builder AS weights

ARG NVIDIA_LICENCE=
ARG HF_ENDPOINT=https://huggingface.co
# A token is only needed for a mirror that asks for one: --secret id=HF_TOKEN,env=HF_TOKEN
RUN --mount=type=secret,id=HF_TOKEN,env=HF_TOKEN \
    mkdir -p /opt/nvidia-classifier \
 && case "$NVIDIA_LICENCE" in \
      "") ;; \
      accepted) /venv/bin/armwise classifier fetch --accept-licence --to /opt/nvidia-classifier \
        && /venv/bin/armwise classifier export --weights /opt/nvidia-classifier ;; \
      *) echo "NVIDIA_LICENCE is \"$NVIDIA_LICENCE\", expected \"accepted\" or nothing" >&2; exit 1 ;; \
    esac

FROM python:3.12-slim

# A fixed number, so that the owner of mounted files is known.
RUN useradd --uid 10001 --create-home --shell /usr/sbin/nologin armwise \
 && install -d -o armwise -g armwise /srv/armwise/data
COPY --from=builder /venv /venv
COPY --from=weights /opt/nvidia-classifier /opt/nvidia-classifier
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1
# Empty without baked weights: classifier.weights of the settings holds. Verdicts of `classifier check` go to the cache.
ARG NVIDIA_LICENCE=
ENV ARMWISE_CLASSIFIER_WEIGHTS=${NVIDIA_LICENCE:+/opt/nvidia-classifier} ARMWISE_CACHE=/srv/armwise/data/cache
USER armwise

# armwise.toml is looked for here; without Postgres the database is in data/.
WORKDIR /srv/armwise
VOLUME /srv/armwise/data
EXPOSE 8402
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=4s --start-period=20s --retries=3 \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8402/health', timeout=3)"]

ENTRYPOINT ["armwise", "serve", "--host", "0.0.0.0"]
