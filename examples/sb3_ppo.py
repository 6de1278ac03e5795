"""PPO as Stable-Baselines3's users know it, on 16 rows with one denoiser call per step for all of them.

python examples/sb3_ppo.py
"""

from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import CheckpointCallback, EvalCallback
from stable_baselines3.common.vec_env import VecMonitor

from dllm_env.train.sb3 import UnmaskVecEnv  # also makes "UnmaskPolicy" known to PPO
from dllm_env.vector_env import UnmaskVectorEnv


def main(steps: int = 20_000, out: str = "runs/sb3") -> None:
    """Trains, and saves the policy for use without Stable-Baselines3."""
    train = VecMonitor(UnmaskVecEnv(UnmaskVectorEnv(16, task="trace", block_length=8)))
    test = VecMonitor(UnmaskVecEnv(UnmaskVectorEnv(16, task="trace", block_length=8, split="validation")))
    head = "dynamic_plackett_luce"
    model = PPO(
        "UnmaskPolicy", train, n_steps=64, gamma=1.0, policy_kwargs={"head": head}, tensorboard_log=out, seed=1
    )
    callbacks = [EvalCallback(test, n_eval_episodes=64, eval_freq=500), CheckpointCallback(500, out)]
    model.learn(steps, callback=callbacks)
    model.policy.learned().save_pretrained(f"{out}/policy")
    print(f"dllm-env eval --task trace --block-length 8 --policies {out}/policy threshold:0.9")


if __name__ == "__main__":
    main()
