"""SGLang, deciding by a policy. python examples/plugin_sglang.py

With SGLang itself: a file with ``Algorithm = sglang_algorithm()`` among its algorithms; see docs/plugins.md.
"""

from types import SimpleNamespace

import torch

from dllm_env.denoisers.load import load_denoiser
from dllm_env.policies.serving import PolicyAlgorithm

PROMPT, LENGTH, BLOCK = "a 6 b +2 c -2 d *3 g 3 h -2 i *7 j *3 k +1 l *3", 40, 8


def main(policy: str = "threshold:0.9") -> str:
    """Writes one response; the loop stands in for SGLang's."""
    denoiser = load_denoiser("tiny")
    settings = {"policy": policy, "response_length": LENGTH, "end_ids": denoiser.end_ids}
    config = SimpleNamespace(block_size=BLOCK, mask_id=denoiser.mask_id, algorithm_config=settings)
    algorithm = PolicyAlgorithm(config)
    prompt = denoiser.encode(PROMPT)
    x = torch.tensor([prompt + [denoiser.mask_id] * LENGTH])
    for start in range(len(prompt), x.shape[1], BLOCK):
        block = x[0, start : start + BLOCK]  # a view: what is written into it is written into x
        batch = SimpleNamespace(batch_size=1, input_ids=block, rids=["request 1"])
        states, done = algorithm.init_step_state(batch), [False]
        while not all(done):
            with torch.no_grad():
                logits = denoiser.head(denoiser.features(x, x.shape[1]))
            done = algorithm.step(batch, logits[0, start : start + BLOCK], states)
    text = denoiser.response_text(x[0, len(prompt) :].tolist())
    print(text)
    return text


if __name__ == "__main__":
    main()
