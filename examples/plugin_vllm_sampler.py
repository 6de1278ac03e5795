"""vLLM's dllm-plugin with a DiffusionSampler, deciding by a policy. python examples/plugin_vllm_sampler.py

With the plugin itself: BatchedRemask(decoder).install() in the worker's process, before the engine starts.
"""

import torch

from dllm_env.denoisers.load import load_denoiser
from dllm_env.policies.block_decoder import BlockDecoder
from dllm_env.policies.vllm_sampler import BatchedRemask

PROMPT, LENGTH, BLOCK = "a 6 b +2 c -2 d *3 g 3 h -2 i *7 j *3 k +1 l *3", 40, 8


def main(policy: str = "threshold:0.9") -> str:
    """Writes one response; the loop stands in for the plugin's sampler."""
    denoiser = load_denoiser("tiny")
    remask = BatchedRemask(BlockDecoder(policy, denoiser.mask_id, LENGTH, end_ids=denoiser.end_ids))
    prompt = denoiser.encode(PROMPT)
    x = torch.tensor([prompt + [denoiser.mask_id] * LENGTH])
    for start in range(len(prompt), x.shape[1], BLOCK):
        draft, done = x[:, start : start + BLOCK], torch.tensor([False])
        while not done.all():
            with torch.no_grad():
                logits = denoiser.head(denoiser.features(x, x.shape[1]))
            remask.requests(["request 1"])
            draft, done, _ = remask(logits[:, start : start + BLOCK], draft, denoiser.mask_id, 0.9)
            x[:, start : start + BLOCK] = draft
    text = denoiser.response_text(x[0, len(prompt) :].tolist())
    print(text)
    return text


if __name__ == "__main__":
    main()
