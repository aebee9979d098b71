# The package with everything it needs, in the versions of constraints.txt. PyTorch of the package index runs on a CPU and, where
# the host has the driver, on CUDA; a smaller image for a CPU alone takes it from PyTorch's own index of CPU builds:
#   docker build -t dat .
#   docker build -t dat:cpu --build-arg TORCH_INDEX=... .
ARG PYTHON=3.11
FROM python:${PYTHON}-slim
ARG TORCH_INDEX=

WORKDIR /src
COPY constraints.txt ./
# An index of builds may lack what they depend on: that comes with the package.
RUN pip install --no-cache-dir -c constraints.txt ${TORCH_INDEX:+--no-deps --index-url "$TORCH_INDEX"} torch torchvision
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
