# The package with everything it needs, in the versions of constraints.txt; for a CPU, or for CUDA, whose driver is the host's:
#   docker build -t dat .
#   docker build -t dat:cuda --build-arg DEVICE=cuda .
ARG PYTHON=3.11
FROM python:${PYTHON}-slim
ARG DEVICE=cpu

# PyTorch's own index has builds without CUDA, but not what they depend on; those of the Python package index bring CUDA along.
WORKDIR /src
COPY constraints.txt ./
RUN case "$DEVICE" in \
      cpu) pip install --no-cache-dir -c constraints.txt --no-deps --index-url https://download.pytorch.org/whl/cpu \
             torch torchvision ;; \
      cuda) pip install --no-cache-dir -c constraints.txt torch torchvision ;; \
      *) echo "DEVICE is '$DEVICE'; write cpu or cuda." >&2; exit 1 ;; \
    esac
COPY pyproject.toml README.md LICENSE ./
COPY dat dat
COPY recipes recipes
COPY weights weights
RUN pip install --no-cache-dir -c constraints.txt .

# Whoever runs it: runs/ goes into the folder that is mounted here, caches to where anyone may write.
ENV HOME=/tmp
USER 1000
WORKDIR /work
ENTRYPOINT ["dat"]
CMD ["--help"]
