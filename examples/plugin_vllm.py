"""vLLM's dllm-plugin without a DiffusionSampler, deciding by a policy. python examples/plugin_vllm.py

With the plugin itself: runtime_worker.run_block_contract_from_model_output = PolicyRemasking(decoder).run_block
"""

import torch

from dllm_env.denoisers.load import load_denoiser
from dllm_env.policies.block_decoder import BlockDecoder
from dllm_env.policies.serving import PolicyRemasking

PROMPT, LENGTH, BLOCK = "a 6 b +2 c -2 d *3 g 3 h -2 i *7 j *3 k +1 l *3", 40, 8


def main(policy: str = "threshold:0.9") -> str:
    """Writes one response; the loop stands in for the plugin's scheduler and worker."""
    denoiser = load_denoiser("tiny")
    remasking = PolicyRemasking(BlockDecoder(policy, denoiser.mask_id, LENGTH, end_ids=denoiser.end_ids))
    prompt = denoiser.encode(PROMPT)
    x = torch.tensor([prompt + [denoiser.mask_id] * LENGTH])
    start = len(prompt)
    draft = x[0, start : start + BLOCK].tolist()
    while start < x.shape[1]:
        x[0, start : start + BLOCK] = torch.tensor(draft)
        with torch.no_grad():
            logits = denoiser.head(denoiser.features(x, x.shape[1]))
        result = remasking.apply(input_draft=draft, logits=logits[0, start : start + BLOCK])
        draft = result.next_input_block
        if result.committed_token_ids:
            x[0, start : start + BLOCK] = torch.tensor(result.committed_token_ids)
            start += BLOCK
    text = denoiser.response_text(x[0, len(prompt) :].tolist())
    print(text)
    return text


if __name__ == "__main__":
    main()
