"""Settings by name: for the bundled denoisers, one policy for all speeds, and those of arXiv 2512.09106."""

from __future__ import annotations

from dllm_env.train.grpo import GRPO

PAPER = GRPO().changed(
    task="gsm8k+math",
    max_prompt_length=200,
    response_length=256,
    limit_block_steps=True,
    cost="steps",
    alpha=1.0,
    alpha_warmup=0,
    updates=938,
    prompts=16,
    num_generations=8,
    gradient_steps=2,
    learning_rate=3e-5,
    warmup=100,
    betas=(0.9, 0.99),
    weight_decay=0.1,
    max_grad_norm=0.2,
    clip_range=0.5,
    target_kl=0.0,
    scale_rewards=False,
    ema_decay=0.0,
    head="bernoulli",
    width=128,
    bias=-2.0,
    sight=(),
    start="none",
    imitation_steps=0,
    expert="threshold:0.9",
    expert_block_length=32,
    expert_updates=0,
    test_temperatures=(1.0,),
    test_force_progress=True,
    evaluate_every=50,
)
"""Full diffusion, BL = 256. The paper trains a policy for each α of 10, 3, 1, 0.3 and 0: choose with --alpha."""

DEMO = GRPO().changed(
    preferences=(0.003, 100.0),
    updates=120,
    start="dagger",
    imitation_problems=256,
    imitation_batch_size=384,
    test_temperatures=(0.4,),
    evaluate_every=60,
)

PRESETS: dict[str, GRPO] = {
    "bundled": GRPO(),
    "demo": DEMO,
    "domains": DEMO.changed(
        denoiser="many",
        task="trace+trace:order=backward+cascade+choice+copy+sudoku",
        prompts=24,
        imitation_problems=384,
    ),
    "paper": PAPER,
    "paper-32": PAPER.changed(block_length=32, test_temperatures=(0.5,)),
    "paper-steered": PAPER.changed(experts=1),
}
"""``paper``, ``paper-32`` and ``paper-steered``: the paper's full diffusion, blocks of 32, and expert steering."""
