# The server in a container: docs/how-to/deploy.md. The build argument AIOVEC is a version, such as
# "==0.1.0", or "." for the source around this file, which has no native scan then: this image has no
# compiler, and the wheels of the registry have it.
FROM python:3.13-slim AS build
ARG AIOVEC=""
WORKDIR /source
COPY . .
RUN python -m venv /aiovec \
    && if [ "$AIOVEC" = . ]; then requirement=".[lancedb,server]"; else requirement="aiovec[lancedb,server]$AIOVEC"; fi \
    && /aiovec/bin/pip install --no-cache-dir "$requirement"

FROM python:3.13-slim
COPY --from=build /aiovec /aiovec
RUN useradd --system --uid 10001 --no-create-home aiovec \
    && install -d -o aiovec -g aiovec -m 700 /data
ENV PATH=/aiovec/bin:$PATH
USER 10001
VOLUME /data
EXPOSE 4002
# Other machines reach the container, so the server refuses to start without AIOVEC_API_KEYS.
# In this form the server itself gets SIGTERM.
ENTRYPOINT ["aiovec", "serve", "-s", "/data/vectors.db", "--host", "0.0.0.0"]
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:4002/health', timeout=4)"]
