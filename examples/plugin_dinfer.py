"""dInfer, deciding by a policy. python examples/plugin_dinfer.py

With dInfer itself: BlockWiseDiffusionLLM(model, PolicyDecoder(decoder, eos_id), BlockIteratorFactory(), …)
"""

import torch

from dllm_env.denoisers.load import load_denoiser
from dllm_env.policies.block_decoder import BlockDecoder
from dllm_env.policies.plugins import PolicyDecoder

PROMPT, LENGTH, BLOCK = "a 6 b +2 c -2 d *3 g 3 h -2 i *7 j *3 k +1 l *3", 40, 8


def main(policy: str = "threshold:0.9") -> str:
    """Writes one response; the loop stands in for dInfer's runner."""
    denoiser = load_denoiser("tiny")
    decoder = PolicyDecoder(
        BlockDecoder(policy, denoiser.mask_id, LENGTH, end_ids=denoiser.end_ids), denoiser.eot_id
    )
    prompt = denoiser.encode(PROMPT)
    x = torch.tensor([prompt + [denoiser.mask_id] * LENGTH])
    calls = 0
    for block_id, start in enumerate(range(len(prompt), x.shape[1], BLOCK)):
        end = start + BLOCK
        decoder.block_init(x[:, start:end], block_id)
        while (x[:, start:end] == denoiser.mask_id).any():
            with torch.no_grad():
                logits = denoiser.head(denoiser.features(x, x.shape[1]))
            calls += 1
            decoder.decode(logits[:, start:end], start, end, x)
    text = denoiser.response_text(x[0, len(prompt) :].tolist())
    print(f"{text}  [{calls} model calls]")
    return text


if __name__ == "__main__":
    main()
