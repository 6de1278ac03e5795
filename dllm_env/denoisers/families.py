"""Published kinds of diffusion language models: where each position looks, and what stands for the mask.

Most look everywhere. Block-causal ones see their own block and those before it, counted from the first token of
the prompt, and nothing behind; with full attention their predictions would be wrong. What is known to be
block-causal and cannot be loaded is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from dllm_env.errors import UsageError


@dataclass(frozen=True)
class Family:
    """How a kind of model is used, where its configuration does not say so.

    Attributes:
        name: ``model_type`` in small letters.
        title: as people call it.
        attention_block: N, tokens of a block; 0 for full attention.
        shift: position i predicts token i + 1.
        mask: id of the mask token; −1 where the checkpoint knows it.
        named: N as the checkpoint's name has it; 0 where it says nothing.
        plain: the family of transformers that computes the same from the same weights; empty where none does.
        classes: of published modelling code, which looks where it likes.
    """

    name: str
    title: str
    attention_block: int = 0
    shift: bool = False
    mask: int = -1
    plain: str = ""
    classes: tuple[str, ...] = ()
    named: int = 0


MOE_CLASSES = ("LLaDAMoEModelLM", "LLaDAMoEModel")
FAMILIES = (
    Family("llada", "LLaDA", plain="llama"),
    Family("llada_moe", "LLaDA-MoE", mask=156895, plain="qwen3_moe", classes=MOE_CLASSES),
    Family("dream", "Dream", shift=True, plain="qwen2"),
    Family("llada2_moe", "LLaDA2", 32, mask=156895, plain="glm4_moe", classes=("LLaDA2MoeModelLM",)),
    Family("sdar", "SDAR", 4, mask=151669, plain="qwen3", classes=("SDARForCausalLM",)),
    Family("sdar_moe", "SDAR-MoE", 4, mask=151669, plain="qwen3_moe", classes=("SDARMoeForCausalLM",)),
    Family("fast_dllm_qwen", "Fast-dLLM v2", 32, True, 151665, "qwen2", ("Fast_dLLM_QwenForCausalLM",)),
    Family("lfm2_block_diffusion", "LFM2 for block diffusion", 32, classes=("Lfm2ForBlockDiffusion",)),
)
"""TraDo calls itself SDAR, and LLaDA-MoE LLaDA: classes count for more than names."""

BLOCK_KEYS = ("block_size", "bd_size", "block_length")
"""What configurations call N."""


def family_of(raw: Mapping[str, Any], config: Any = None) -> str:
    """The kind of model that a configuration names, in small letters."""
    return str(raw.get("model_type") or getattr(config, "model_type", "")).lower()


def find_family(place: str, raw: Mapping[str, Any], config: Any = None, kind: str = "") -> Family:
    """What is known of a model.

    Args:
        place: folder, or name on the Hub; of Tiny-A2D's conversions it alone tells ``bd3lm`` from ``mdlm``, of SDAR
            it tells the length of blocks where the configuration does not.
        raw: the configuration as it was published.
        config: the same as transformers has read it.
        kind: the class of a model that is loaded already.
    """
    name, listed = family_of(raw, config), said_by(raw, config, "architectures")
    classes = {kind, *(listed if isinstance(listed, list) else ())}
    found = next((family for family in FAMILIES if classes & set(family.classes)), None)
    found = found or next((family for family in FAMILIES if family.name == name), Family(name, name))
    if name.startswith("a2d-"):
        blocks = 32 if "bd3lm" in place.lower() else 0
        found = Family(name, "Tiny-A2D", blocks, plain=name.removeprefix("a2d-"))
    if not found.attention_block:
        return found
    said = [said_by(raw, config, key) for key in BLOCK_KEYS]
    in_name = re.search(r"-b(\d+)\b", place.rstrip("/").rpartition("/")[2].lower())
    named = int(in_name[1]) if in_name else 0
    sizes = [*(size for size in said if type(size) is int and size > 0), *([named] if named else [])]
    return replace(found, attention_block=sizes[0] if sizes else found.attention_block, named=named)


def refuse_unsupported(place: str, family: Family, kind: str = "") -> None:
    """Refuses what is block-causal and would not be here.

    Args:
        place: folder, or name on the Hub.
        family: what is known of it.
        kind: the class of a model that is loaded already.

    Raises:
        UsageError: nothing here computes it, or the model is one of its own modelling code.
    """
    if not family.attention_block:
        return
    if kind in family.classes:
        raise UsageError(
            f"{place or kind} is {family.title}, loaded by its own code, which does not say where it looks; give "
            "its folder or name on the Hub instead, which is read without that code"
        )
    if not family.plain:
        raise UsageError(
            f"{place or kind} is {family.title}: it attends to its own block and to finished ones, block by block, "
            "with layers that are not supported; with full attention, which it would get here, its predictions are "
            "wrong"
        )


def said_by(raw: Mapping[str, Any], config: Any, name: str) -> Any:
    """A value of the configuration, by what was published, or else by what transformers has read."""
    value = raw.get(name)
    return getattr(config, name, None) if value is None else value
