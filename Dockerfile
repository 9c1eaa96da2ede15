# The server in a container: docs/how-to/deploy.md. It is built from the source around this file, or
# from the release that the build argument AIOVEC names, such as "==0.1.0". The first image has a
# compiler, which builds the native scan.
FROM python:3.13 AS build
ARG AIOVEC=.
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
