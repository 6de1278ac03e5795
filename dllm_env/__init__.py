"""dllm-env: train and compare unmasking policies for diffusion language models."""
