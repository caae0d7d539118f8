# syntax=docker/dockerfile:1
# qwq in a container: the command line, the trainer, the server with its page; and the code execution server.
#
#     docker build -t qwq .
#     docker build -t qwq-sandbox --target sandbox .
#     docker run --rm -v "$PWD/runs:/data/runs" qwq train tiny
#     docker run --rm -v "$PWD/runs:/data/runs:ro" -e QWQ_API_KEY=... -p 127.0.0.1:8000:8000 qwq serve runs/tiny --host 0.0.0.0
#
# TORCH_INDEX is PyTorch's index for the machine (its "Get Started" page shows the address; CPU builds are 2 GB smaller).
# EXTRAS are those of pyproject.toml; `gguf` compiles llama.cpp's kernels. compose.yaml runs all three together.
ARG PYTHON=3.12

FROM python:${PYTHON}-slim-bookworm AS build
ARG TORCH_INDEX=""
ARG EXTRAS="serve,eval,data,release,gguf"
RUN apt-get update \
    && apt-get install --yes --no-install-recommends build-essential cmake \
    && rm -rf /var/lib/apt/lists/*
RUN python -m venv /opt/qwq
WORKDIR /source
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY src ./src
# src/qwq/recipes is a link to it.
COPY recipes ./recipes
RUN /opt/qwq/bin/pip install --no-cache-dir --constraint constraints.txt \
    ${TORCH_INDEX:+--extra-index-url "$TORCH_INDEX"} ".[${EXTRAS}]"

FROM python:${PYTHON}-slim-bookworm AS sandbox
# Compilers for programs in C, C++ and JavaScript; Python and bash need nothing more.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends gcc g++ libc6-dev nodejs libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 qwq
COPY --from=build /opt/qwq /opt/qwq
ENV PATH=/opt/qwq/bin:$PATH PYTHONUNBUFFERED=1
USER qwq
WORKDIR /home/qwq
EXPOSE 8080
ENTRYPOINT ["qwq"]
CMD ["sandbox", "serve", "--host", "0.0.0.0"]

# The last stage is what `docker build .` makes.
FROM python:${PYTHON}-slim-bookworm AS app
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --create-home --uid 1000 qwq \
    && install --directory --owner=qwq --group=qwq --mode=1777 /data
COPY --from=build /opt/qwq /opt/qwq
ENV PATH=/opt/qwq/bin:$PATH PYTHONUNBUFFERED=1 HF_HOME=/data/huggingface MODELSCOPE_CACHE=/data/modelscope XDG_CACHE_HOME=/data/cache
USER qwq
WORKDIR /data
VOLUME /data
EXPOSE 8000
ENTRYPOINT ["qwq"]
CMD ["--help"]
