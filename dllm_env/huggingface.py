"""Diffusion language models in Hugging Face's format, read by transformers' own classes without remote code.

What can be loaded, by ``load_denoiser``, with the folder of a checkpoint or its name on the Hub:

* LLaDA (arXiv 2502.09992): Llama with full attention; its configuration and names of weights are translated.
* Dream (arXiv 2508.15487): Qwen2 with full attention, whose position i predicts token i + 1.
* Autoregressive models that were converted to masked diffusion (``a2d-…``, or any decoder of transformers with a
  mask token): full attention is switched on.
* Masked language models (``AutoModelForMaskedLM``): BERT, RoBERTa, ModernBERT, …

Settings stand behind a colon, ``GSAI-ML/LLaDA-8B-Instruct:dtype=bfloat16,chat=1``; see ``Options``. What a model
claims is tried out when it is loaded: a token must see what stands to its right, and padding must change nothing.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from dllm_env.denoisers import Denoiser, PrefixCache
from dllm_env.errors import UsageError
from dllm_env.numerics import digest
from dllm_env.tasks import parse_settings

try:
    import transformers
except ImportError:
    raise UsageError("models in Hugging Face's format need transformers: pip install 'dllm-env[hf]'") from None

from dllm_env.backbones import Decoder, backbone

PAD = -1
"""Stands for padding; no token of a vocabulary, because several models pad with their end-of-text."""

SAMPLED = 1024
"""How many numbers of each weight the fingerprint reads."""


@dataclass(frozen=True)
class Options:
    """How a checkpoint is loaded and talked to."""

    dtype: str = "auto"
    """float32, bfloat16 or float16; auto: float32 on a CPU, the checkpoint's own elsewhere."""
    device: str = "auto"
    """cpu, cuda, cuda:1, …; auto: the first GPU, where there is one."""
    device_map: str = ""
    """auto spreads the model over all GPUs (by accelerate)."""
    attention: str = "sdpa"
    """transformers' attention implementation: sdpa, eager, flash_attention_2, …"""
    chat: int = -1
    """1 puts prompts into the tokenizer's chat template, 0 does not; −1: where it has one."""
    shift: int = -1
    """1: position i predicts token i + 1, 0: token i; −1: what the family does."""
    mask: int = -1
    """Id of the mask token; −1: the checkpoint's."""
    revision: str = "main"
    """Branch, tag or commit on the Hub."""
    trust_remote_code: int = 0
    """1 runs the Python code that comes with a checkpoint, with all your rights; only for what is not supported
    without, and only from people whom you trust."""

    @classmethod
    def parse(cls, text: str) -> Options:
        """From ``dtype=bfloat16,chat=1``.

        Raises:
            UsageError: an unknown setting, or a value of another kind.
        """
        kinds = {field.name: type(getattr(cls(), field.name)) for field in fields(cls)}
        values: dict[str, Any] = {}
        for name, value in parse_settings(text).items():
            if name not in kinds:
                raise UsageError(f"a denoiser has no setting {name!r}; there are {', '.join(kinds)}")
            if kinds[name] is int and not isinstance(value, int):
                raise UsageError(f"the denoiser's {name} has to be a whole number, got {value!r}")
            values[name] = kinds[name](value)
        return cls(**values)

    def __post_init__(self) -> None:
        if self.dtype not in ("auto", "float32", "bfloat16", "float16"):
            raise UsageError(f"unknown dtype {self.dtype!r}; choose auto, float32, bfloat16 or float16")


# -------------------------------------------------------------------------------------------- denoiser


class HuggingFaceDenoiser(Denoiser):
    """A model and its tokenizer as a denoiser.

    Args:
        model: of transformers, or anything that answers ``input_ids`` with ``logits``.
        tokenizer: of transformers.
        name: how results call it.
        options: of these ``chat``, ``shift`` and ``mask`` count here.
        raw: the checkpoint's configuration as it was published.

    Raises:
        UsageError: no mask token or end-of-text is known, or the model attends to the left only.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        name: str = "",
        options: Options = Options(),
        raw: Mapping[str, Any] | None = None,
    ) -> None:
        config = getattr(model, "config", None)
        known = dict(raw or {})
        self.model, self.tokenizer, self.options = model, tokenizer, options
        self.parts = backbone(model)
        self.name = name or str(getattr(config, "name_or_path", "")) or type(model).__name__
        self.shift = bool(options.shift) if options.shift >= 0 else _family(known, config) == "dream"
        self.chat = bool(options.chat) if options.chat >= 0 else bool(getattr(tokenizer, "chat_template", None))
        self.pad_id = PAD
        self.mask_id = _first_id(options.mask, _of(known, config, "mask_token_id"), _id(tokenizer, "mask_token"))
        if self.mask_id < 0:
            raise UsageError(
                f"{self.name}: no mask token is known; say which with {self.name}:mask=ID, in Python with "
                "options=Options(mask=ID)"
            )
        self.eot_id = _first_id(
            _id(tokenizer, "eos_token"), _of(known, config, "eos_token_id"), _id(tokenizer, "sep_token")
        )
        if self.eot_id < 0:
            raise UsageError(f"{self.name}: its tokenizer has no end-of-text (eos_token or sep_token)")
        self._ends = _ends(tokenizer, self.eot_id, _of(known, config, "eos_token_id"))
        weight = next(iter(model.parameters()))
        self.device = weight.device
        self.vocabulary = int(_of(known, config, "embedding_size") or _of(known, config, "vocab_size") or 0)
        self.hidden_size = self.parts.hidden_size
        self.caches_prefix = isinstance(self.parts, Decoder)
        length = _of({}, config, "max_position_embeddings") or known.get("max_sequence_length") or 2**20
        self.max_length = int(length) - getattr(self.parts, "_first", 0)
        self._check()

    def features(self, tokens: Tensor, last: int) -> Tensor:
        real = self._real(tokens)
        if real is not None and not self.pads:
            raise UsageError(f"{self.name} cannot pad prompts; give prompts of one length, or one at a time")
        hidden = self.parts.features(tokens.clamp(min=0), real)
        return self._cut(hidden.to(tokens.device), last)  # spread over devices, it ends on another

    def cached_features(self, tokens: Tensor, last: int, prefix: PrefixCache) -> Tensor:
        assert isinstance(self.parts, Decoder)
        ids, real = tokens.clamp(min=0), tokens != PAD
        start = (prefix.start - int(self.shift)).clamp(min=0)
        out = torch.zeros(
            len(tokens), tokens.shape[1], self.hidden_size, device=self.device, dtype=self.model.dtype
        )
        fresh = prefix.kept != start
        if fresh.any():
            rows = fresh.nonzero()[:, 0]
            out[rows], layers = self.parts.begin(ids[rows], real[rows])
            begun = PrefixCache(len(rows), tokens.device)
            begun.start, begun.kept, begun.layers = prefix.start[rows], start[rows], layers
            prefix.write(rows, begun)
        if not fresh.all():
            rows = (~fresh).nonzero()[:, 0]
            kept = [(keys[rows], values[rows]) for keys, values in prefix.layers]
            hidden, first = self.parts.go_on(ids[rows], real[rows], start[rows], kept)
            out[rows, first:] = hidden
        return self._cut(out, last)

    def _real(self, tokens: Tensor) -> Tensor | None:
        """(B, S) bool: no padding; None where there is none."""
        real = tokens != PAD
        return None if bool(real.all()) else real

    def _cut(self, hidden: Tensor, last: int) -> Tensor:
        """(B, last, d): the hidden states that predict the last positions."""
        if not self.shift:
            return hidden[:, -last:]
        if last < hidden.shape[1]:
            return hidden[:, -last - 1 : -1]
        return torch.cat((hidden[:, :1], hidden[:, :-1]), 1)  # nothing stands before the first position

    def head(self, hidden: Tensor) -> Tensor:
        return self.parts.head(hidden).to(hidden.device)

    @torch.no_grad()
    def _check(self) -> None:
        """Tries out what everything else relies on, on a few tokens."""
        known = [i for i in range(min(self.vocabulary, 4096)) if i not in (self.mask_id, *self.end_ids)]
        a, b, c, d = (known[len(known) * k // 5] for k in range(1, 5))
        first = self.parts.features(torch.tensor([[a, b, c]], device=self.device), None)
        other = self.parts.features(torch.tensor([[a, b, d]], device=self.device), None)
        if torch.equal(first[:, 0], other[:, 0]):
            raise UsageError(
                f"{self.name} attends to the left only, so it cannot predict masks from what follows them; "
                f"another attention implementation may help: {self.name}:attention=eager"
            )
        self.pads = False
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                ids = torch.tensor([[0, 0, a, b, c], [a, b, c, d, a]], device=self.device)
                real = torch.tensor([[0, 0, 1, 1, 1], [1] * 5], device=self.device).bool()
                padded = self.parts.features(ids, real)[:1, 2:]
            except Exception:
                return
        scale = first.float().abs().max()
        self.pads = bool((padded - first).float().abs().max() <= 0.05 * scale)

    def fingerprint(self) -> str:
        """A digest of a sample of each weight, and of how the model is used."""
        sample = {}
        for name, value in self.model.state_dict().items():
            flat = value.detach().reshape(-1)
            sample[name] = flat[:: max(len(flat) // SAMPLED, 1)]
        return digest(sample, repr((self.shift, self.chat, self.mask_id, transformers.__version__)))

    @property
    def end_ids(self) -> tuple[int, ...]:
        return self._ends

    def encode(self, text: str) -> list[int]:
        if self.chat:
            said = [{"role": "user", "content": text}]
            return list(self.tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False))
        return list(self.tokenizer(text)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids)))

    def text(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))


def _of(raw: Mapping[str, Any], config: Any, name: str) -> Any:
    value = raw.get(name)
    return getattr(config, name, None) if value is None else value


def _id(tokenizer: Any, name: str) -> Any:
    """A special token's id; without a warning where there is none."""
    known = getattr(tokenizer, "special_tokens_map", {})
    return getattr(tokenizer, f"{name}_id", None) if name in known else None


def _first_id(*candidates: Any) -> int:
    """The first that is an id; −1 for none."""
    for candidate in candidates:
        one = candidate[0] if isinstance(candidate, list) and candidate else candidate
        if isinstance(one, int) and one >= 0:
            return one
    return -1


def _ends(tokenizer: Any, eot_id: int, listed: Any) -> tuple[int, ...]:
    """All tokens that end a text: end-of-text, the configuration's, and the known ends of a turn."""
    ends = {eot_id, *(listed if isinstance(listed, list) else ())}
    vocabulary = tokenizer.get_vocab()
    ends |= {vocabulary[word] for word in ("<|endoftext|>", "<|eot_id|>", "<|im_end|>") if word in vocabulary}
    return tuple(sorted(ends))


# --------------------------------------------------------------------------------------------- loading


def load_huggingface(place: str, options: Options, name: str = "") -> HuggingFaceDenoiser:
    """A checkpoint's denoiser.

    Args:
        place: folder, or name on the Hub.
        options: how to load and use it.
        name: how results call it; by default the place.

    Raises:
        UsageError: nothing there, files that are damaged or do not fit, or a kind of model that cannot be used.
    """
    try:
        raw, _ = transformers.PretrainedConfig.get_config_dict(place, revision=options.revision)
    except (OSError, ValueError) as error:
        raise UsageError(f"no denoiser {place!r}: {_line(error)}") from None
    if "model_type" not in raw:
        raise UsageError(f"{place}: its config.json names no model_type")
    device = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    options = replace(options, device=device)
    try:
        model = _model(place, raw, options)
        tokenizer = _tokenizer(place, raw, options)
    except UsageError:
        raise
    except Exception as error:  # transformers raises all kinds of errors for damaged files
        raise UsageError(f"cannot load the denoiser {place!r}: {_line(error)}") from None
    return HuggingFaceDenoiser(model, tokenizer, name or place, options, raw)


def _line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _family(raw: Mapping[str, Any], config: Any = None) -> str:
    return str(raw.get("model_type") or getattr(config, "model_type", "")).lower()


def _model(place: str, raw: Mapping[str, Any], options: Options) -> Any:
    family = _family(raw)
    if family == "diffusion_gemma":
        raise UsageError(
            f"{place} is DiffusionGemma, whose canvas has no mask token: positions that are not accepted get new "
            "random tokens in every step. The dynamics here reveal masks; see docs/models.md"
        )
    if family == "llada":
        return _load(transformers.LlamaForCausalLM, place, options, _llada_config(raw), _LLADA_NAMES)
    if family == "dream":
        return _load(transformers.Qwen2ForCausalLM, place, options, _converted(raw, "qwen2"))
    if family.startswith("a2d-"):
        config = _converted(raw, family.removeprefix("a2d-"))
        return _load(transformers.AutoModelForCausalLM, place, options, config)
    if family not in transformers.CONFIG_MAPPING:
        return _remote_model(place, raw, options)
    config = _converted(raw, family)
    masked = type(config) in transformers.MODEL_FOR_MASKED_LM_MAPPING
    kinds = transformers.AutoModelForMaskedLM, transformers.AutoModelForCausalLM
    if not masked and type(config) not in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        raise UsageError(f"{place} is of the kind {family!r}, which is no language model that fills in masks")
    return _load(kinds[0] if masked else kinds[1], place, options, config)


def _converted(raw: Mapping[str, Any], family: str) -> Any:
    """The configuration read as that of a family of transformers."""
    if family not in transformers.CONFIG_MAPPING:
        raise UsageError(f"transformers {transformers.__version__} knows no model of the kind {family!r}")
    kept = {k: v for k, v in raw.items() if k not in ("model_type", "auto_map", "architectures")}
    return transformers.CONFIG_MAPPING[family].from_dict(kept)


_LLADA_NAMES = {
    r"^model\.transformer\.wte\.": "model.embed_tokens.",
    r"^model\.transformer\.ln_f\.": "model.norm.",
    r"^model\.transformer\.ff_out\.": "lm_head.",
    **{
        rf"^model\.transformer\.blocks\.(\d+)\.{theirs}\.": rf"model.layers.\1.{ours}."
        for theirs, ours in (
            ("attn_norm", "input_layernorm"),
            ("ff_norm", "post_attention_layernorm"),
            ("q_proj", "self_attn.q_proj"),
            ("k_proj", "self_attn.k_proj"),
            ("v_proj", "self_attn.v_proj"),
            ("attn_out", "self_attn.o_proj"),
            ("ff_proj", "mlp.gate_proj"),
            ("up_proj", "mlp.up_proj"),
            ("ff_out", "mlp.down_proj"),
        )
    },
}
"""LLaDA's names of weights, as patterns, to Llama's."""

_LLADA_IS = {
    **{"block_type": "llama", "layer_norm_type": "rms", "activation_type": "silu", "rope": True, "alibi": False},
    **{"include_bias": False, "include_qkv_bias": False, "attention_layer_norm": False, "scale_logits": False},
    **{"input_emb_norm": False, "multi_query_attention": False, "bias_for_layer_norm": False},
}
"""What LLaDA's configuration could also say, and Llama cannot do."""


def _llada_config(raw: Mapping[str, Any]) -> Any:
    """LLaDA's configuration as Llama's.

    Raises:
        UsageError: a field is missing, or a variant that is no Llama.
    """
    for name, value in _LLADA_IS.items():
        if raw.get(name) is not None and raw[name] != value:
            raise UsageError(f"this LLaDA has {name} = {raw[name]!r}; only {value!r} is supported")
    try:
        config: Any = transformers.LlamaConfig(
            vocab_size=raw.get("embedding_size") or raw["vocab_size"],
            hidden_size=raw["d_model"],
            intermediate_size=raw.get("mlp_hidden_size") or raw["mlp_ratio"] * raw["d_model"],
            num_hidden_layers=raw["n_layers"],
            num_attention_heads=raw["n_heads"],
            num_key_value_heads=raw.get("n_kv_heads") or raw["n_heads"],
            max_position_embeddings=raw["max_sequence_length"],
            rms_norm_eps=raw["rms_norm_eps"],
            rope_parameters={"rope_type": "default", "rope_theta": raw["rope_theta"]},
            tie_word_embeddings=bool(raw.get("weight_tying", False)),
        )
    except KeyError as error:
        raise UsageError(f"LLaDA's config.json has no {error.args[0]}") from None
    config.mask_token_id = raw.get("mask_token_id")
    return config


def _load(kind: Any, place: str, options: Options, config: Any, names: Mapping[str, str] | None = None) -> Any:
    """A model of transformers, every weight of it from the checkpoint's safetensors."""
    dtype: Any = options.dtype
    if dtype == "auto" and options.device == "cpu" and not options.device_map:
        dtype = "float32"
    more: dict[str, Any] = {"key_mapping": dict(names)} if names else {}
    if options.device_map or options.device != "cpu":
        more["device_map"] = options.device_map or {"": options.device}
    model, found = kind.from_pretrained(
        place,
        config=config,
        dtype=dtype,
        attn_implementation=options.attention,
        use_safetensors=True,
        revision=options.revision,
        output_loading_info=True,
        **more,
    )
    for what in ("missing_keys", "mismatched_keys"):
        if found.get(what):
            first = sorted(map(str, found[what]))[0]
            raise UsageError(f"{place} does not fit its config.json: {what.replace('_', ' ')}, first {first}")
    return model.eval().requires_grad_(False)


def _remote_model(place: str, raw: Mapping[str, Any], options: Options) -> Any:
    """A model whose code comes with the checkpoint; for users who said that they trust it."""
    homes = raw.get("auto_map", {})
    kind = next((k for k in ("AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModel") if k in homes), "")
    if not kind:
        raise UsageError(
            f"{place} is of the kind {_family(raw)!r}, which neither this package nor transformers knows"
        )
    if not options.trust_remote_code:
        raise UsageError(
            f"{place} is of the kind {_family(raw)!r}, which needs the Python code that comes with it; if you "
            f"trust whoever wrote that, run it with {place}:trust_remote_code=1"
        )
    warnings.warn(
        f"running the Python code of {place}: it can do whatever you can on this machine, and change between "
        "revisions (pin one with revision=COMMIT)",
        stacklevel=2,
    )
    dtype = "float32" if options.dtype == "auto" and options.device == "cpu" else options.dtype
    model = getattr(transformers, kind).from_pretrained(
        place, trust_remote_code=True, dtype=dtype, use_safetensors=True, revision=options.revision
    )
    return model.to(options.device).eval().requires_grad_(False)


def _tokenizer(place: str, raw: Mapping[str, Any], options: Options) -> Any:
    if _family(raw) == "dream":  # published with code of its own, around Qwen2's
        return transformers.Qwen2Tokenizer.from_pretrained(place, revision=options.revision)
    native = _family(raw) in ("llada", *transformers.CONFIG_MAPPING) or _family(raw).startswith("a2d-")
    trusted = bool(options.trust_remote_code) and not native
    if native:
        # With the checkpoint's own configuration AutoTokenizer would look for its class.
        return transformers.AutoTokenizer.from_pretrained(place, revision=options.revision, config=_plain(raw))
    return transformers.AutoTokenizer.from_pretrained(place, revision=options.revision, trust_remote_code=trusted)


def _plain(raw: Mapping[str, Any]) -> Any:
    family = _family(raw)
    family = "llama" if family == "llada" else family.removeprefix("a2d-")
    return transformers.CONFIG_MAPPING[family]()
