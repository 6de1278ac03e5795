# docker build -t dllm-env .
# docker run --rm --gpus all -v "$PWD/runs:/work/runs" dllm-env eval --policies threshold:0.9 --out runs/x
#
# The usual build of torch for Linux runs on CUDA and on a processor (leave --gpus away). Another one, such as the much
# smaller one for a processor alone, comes from an index of PyTorch's: --build-arg TORCH_INDEX=ADDRESS.
FROM python:3.11-slim
ARG TORCH_INDEX=
ARG EXTRAS=hf,lora,report
WORKDIR /src
COPY . .
RUN pip install --no-cache-dir -c constraints.txt ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} torch \
    && pip install --no-cache-dir -c constraints.txt ".[$EXTRAS]"
WORKDIR /work
ENTRYPOINT ["dllm-env"]
