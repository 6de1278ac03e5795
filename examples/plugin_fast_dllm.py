"""Fast-dLLM, deciding by a policy. python examples/plugin_fast_dllm.py

With Fast-dLLM itself: generate.get_transfer_index = transfer_index(policy, 126336, 256, block_length=32)
"""

import torch

from dllm_env.denoisers.load import load_denoiser
from dllm_env.policies.plugins import transfer_index

PROMPT, LENGTH, BLOCK = "a 6 b +2 c -2 d *3 g 3 h -2 i *7 j *3 k +1 l *3", 40, 8


def main(policy: str = "threshold:0.9") -> str:
    """Writes one response; the loop stands in for Fast-dLLM's ``generate``."""
    denoiser = load_denoiser("tiny")
    get_transfer_index = transfer_index(policy, denoiser.mask_id, LENGTH, BLOCK, end_ids=denoiser.end_ids)
    prompt = denoiser.encode(PROMPT)
    x = torch.tensor([prompt + [denoiser.mask_id] * LENGTH])
    calls = 0
    for end in range(len(prompt) + BLOCK, x.shape[1] + 1, BLOCK):
        while (x[:, end - BLOCK : end] == denoiser.mask_id).any():
            with torch.no_grad():
                logits = denoiser.head(denoiser.features(x, x.shape[1]))
            calls += 1
            mask_index = x == denoiser.mask_id
            mask_index[:, end:] = False
            x0, chosen = get_transfer_index(logits, 0.0, "low_confidence", mask_index, x, None, 0.9)
            x[chosen] = x0[chosen]
    text = denoiser.response_text(x[0, len(prompt) :].tolist())
    print(f"{text}  [{calls} model calls]")
    return text


if __name__ == "__main__":
    main()
