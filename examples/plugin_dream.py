"""Dream's ``diffusion_generate``, deciding by a policy. python examples/plugin_dream.py

With Dream itself: DreamHooks(BlockDecoder(policy, mask_id=151666, response_length=256)).generate(model, input_ids)
"""

import torch

from dllm_env.denoisers.load import load_denoiser
from dllm_env.policies.block_decoder import BlockDecoder
from dllm_env.policies.plugins import DreamHooks

PROMPT, LENGTH, BLOCK = "a 6 b +2 c -2 d *3 g 3 h -2 i *7 j *3 k +1 l *3", 40, 8
DENOISER = load_denoiser("tiny")


class Model:
    """Stands in for Dream; its sampler writes nothing by itself."""

    @torch.no_grad()
    def diffusion_generate(self, inputs: torch.Tensor, steps: int, max_new_tokens: int, **hooks) -> torch.Tensor:
        x = torch.nn.functional.pad(inputs, (0, max_new_tokens), value=DENOISER.mask_id)
        x = hooks["generation_tokens_hook_func"](None, x, None)
        for step in range(steps):
            logits = DENOISER.head(DENOISER.features(x, x.shape[1]))
            logits = hooks["generation_logits_hook_func"](step, x, logits)
            x = hooks["generation_tokens_hook_func"](step, x, logits)
        return x


def main(policy: str = "threshold:0.9") -> str:
    """Writes one response."""
    hooks = DreamHooks(BlockDecoder(policy, DENOISER.mask_id, LENGTH, end_ids=DENOISER.end_ids), BLOCK)
    x = hooks.generate(Model(), torch.tensor([DENOISER.encode(PROMPT)]))
    return DENOISER.response_text(x[0, -LENGTH:].tolist())


if __name__ == "__main__":
    print(main())
