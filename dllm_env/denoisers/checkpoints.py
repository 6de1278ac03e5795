"""Loads checkpoints in Hugging Face's format: which class of transformers reads them, and what is translated."""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import safe_open
from safetensors.torch import load_file

from dllm_env import consent
from dllm_env.denoisers.backbones import without_bars
from dllm_env.denoisers.families import family_of, find_family, refuse_unsupported
from dllm_env.denoisers.huggingface import HuggingFaceDenoiser, Options, transformers
from dllm_env.denoisers.saving import as_used
from dllm_env.denoisers.tiny import CONFIG
from dllm_env.denoisers.translations import TRANSLATED, Translation
from dllm_env.errors import UsageError
from dllm_env.reading import is_folder, read_table
from dllm_env.reading import shown as in_short


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
        if is_folder(Path(place)):
            read_table(Path(place) / CONFIG)  # says what is wrong with it in fewer words
        raw, _ = transformers.PretrainedConfig.get_config_dict(place, revision=options.revision)
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"no denoiser {place!r}: {_line(error)}") from None
    _check_config(raw, place)
    device = options.device if options.device != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
    said: dict[str, Any] = as_used(raw, options)
    options = replace(options, device=device, **said)
    try:
        if "/" in options.attention:  # transformers loads compiled code from the Hub by such a name
            asked = replace(options, trust_remote_code=True)  # by that very name
            _need_trust(place, asked, f"is asked for attention={options.attention}, code from the Hub")
        check_shards(place, options.revision)
        check_files(place, raw, options.revision)
        with without_bars():
            model = _model(place, raw, options)
        check_finite(model, place)
        tokenizer = _tokenizer(place, raw, options)
        return HuggingFaceDenoiser(model, tokenizer, name or place, options, raw)
    except UsageError:
        raise
    except Exception as error:  # transformers raises all kinds of errors for damaged files
        raise UsageError(f"cannot load the denoiser {place!r}: {_line(error)}") from None


INDEX = "model.safetensors.index.json"


def find_file(place: str, name: str, revision: str) -> Path | None:
    """A checkpoint's file, in its folder or of the Hub; None where there is none."""
    from transformers.utils.hub import cached_file

    found = cached_file(
        place,
        name,
        revision=revision,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return None if found is None else Path(found)


def check_shards(place: str, revision: str = "main") -> None:
    """Refuses a checkpoint whose index names files of weights outside its folder.

    Args:
        place: folder, or name on the Hub.
        revision: of the latter.

    Raises:
        UsageError: an entry with an absolute path, ``..``, or a link out of the folder; or an index that is none.
    """
    if is_folder(folder := Path(place)):
        indices = sorted(folder.glob("*.safetensors.index.json"))
    else:
        found = find_file(place, INDEX, revision)
        indices = [] if found is None else [found]
    for index in indices:
        named = read_table(index).get("weight_map")
        if not isinstance(named, dict):
            raise UsageError(f"{index} is no index of weights (weight_map: names to files)")
        for name in named.values():
            if not isinstance(name, str) or not _is_inside(name, index.parent):
                raise UsageError(f"{index} names the weights {name!r}, which are not in its folder")


def _is_inside(name: str, folder: Path) -> bool:
    """Whether a file's name leads nowhere but into the folder. In the Hub's cache files are links to its blobs."""
    path = PurePosixPath(name.replace("\\", "/"))
    if path.is_absolute() or PureWindowsPath(name).drive or ".." in path.parts or not path.parts:
        return False
    base, target = folder.resolve(), (folder / path).resolve()
    blobs = base.parent.parent / "blobs"
    return target.is_relative_to(base) or (base.parent.name == "snapshots" and target.parent == blobs)


def _line(error: Exception) -> str:
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return in_short(line)[1:-1] if len(line) > 300 else line or type(error).__name__


def _check_config(raw: Mapping[str, Any], place: str) -> None:
    """Of a configuration, what would take for ever, or be understood as something else.

    Raises:
        UsageError: no kind of model, or a size that no model has.
    """
    if not isinstance(raw.get("model_type"), str):
        raise UsageError(f"{place}: its config.json names no model_type")
    for name, most in SIZES.items():
        value = raw.get(name)
        if value is not None and not (type(value) is int and 1 <= value <= most):
            got = in_short(value)
            raise UsageError(f"{place}: {name} in its config.json must be from 1 to {most:,}, and whole, got {got}")


_LAYERS = ("num_hidden_layers", "n_layers", "n_layer", "num_layers")
_WIDTHS = ("hidden_size", "d_model", "n_heads", "num_attention_heads", "intermediate_size", "mlp_hidden_size")
SIZES = {
    **dict.fromkeys(_LAYERS, 1000),
    **dict.fromkeys(_WIDTHS, 2**20),
    **dict.fromkeys(("vocab_size", "embedding_size"), 2**24),
}
"""Sizes in a configuration, and the largest that they may be."""


def check_files(place: str, raw: Mapping[str, Any], revision: str) -> None:
    """Looks into the headers of a checkpoint's safetensors files.

    Raises:
        UsageError: weights that are whole numbers, in a checkpoint that does not say how these stand for others.
    """
    if raw.get("quantization_config") is not None:
        return
    folder = Path(place)
    if not is_folder(folder):
        found = try_to_load_from_cache(place, CONFIG, revision=revision)
        if not isinstance(found, str):
            return
        folder = Path(found).parent
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for name in opened.keys():  # noqa: SIM118
                kind = opened.get_slice(name).get_dtype()
                if name.endswith(("weight", "bias")) and not kind.startswith(("F", "BF")):
                    raise UsageError(f"{place}: the weight {name} in {file.name} is {kind}, not floating-point")


def check_finite(model: Any, place: str) -> None:
    """Looks at all weights and buffers of a checkpoint.

    Raises:
        UsageError: one of them holds NaN or infinity.
    """
    for name, value in model.state_dict().items():
        looked_at = value.is_floating_point() and value.element_size() > 1 and value.device.type != "meta"
        if looked_at and not bool(value.isfinite().all()):
            raise UsageError(f"{place}: the weight {name} holds NaN or infinity: the file is damaged")


def _model(place: str, raw: Mapping[str, Any], options: Options) -> Any:
    family, known = family_of(raw), find_family(place, raw)
    refuse_unsupported(place, known)
    if (translation := TRANSLATED.get(known.name)) is not None:
        return _translated(place, raw, options, translation)
    if family == "diffusion_gemma":
        raise UsageError(
            f"{place} is DiffusionGemma, whose canvas has no mask token: positions that are not accepted get new "
            "random tokens in every step. The dynamics here reveal masks; see docs/models.md"
        )
    if known.plain:
        return _load(transformers.AutoModelForCausalLM, place, options, _converted(raw, known.plain))
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
    # Of what is left out, "transformers_weights" would choose the file of the weights, of any format.
    without = ("model_type", "auto_map", "architectures", "transformers_weights")
    kept = {k: v for k, v in raw.items() if k not in without}
    return transformers.CONFIG_MAPPING[family].from_dict(kept)


def _translated(place: str, raw: Mapping[str, Any], options: Options, how: Translation) -> Any:
    """A family's checkpoint, read as a model of transformers that computes the same."""
    config = transformers.CONFIG_MAPPING[how.plain].from_dict(how.config(raw))
    weights = None
    if how.weights is not None:
        files = weight_files(place, options.revision)
        weights = how.weights({name: value for file in files for name, value in load_file(file).items()}, raw)
    kind = transformers.MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    return _load(kind, place, options, config, how.names, weights)


def weight_files(place: str, revision: str) -> list[Path]:
    """The safetensors files of a checkpoint, in a folder or on the Hub.

    Raises:
        UsageError: none.
    """
    index = find_file(place, INDEX, revision)
    names = ["model.safetensors"] if index is None else sorted(set(read_table(index)["weight_map"].values()))
    found = [find_file(place, name, revision) for name in names]
    files = [file for file in found if file is not None]
    if len(files) < len(names):
        raise UsageError(f"{place} has no {names[found.index(None)]}: its weights have to be safetensors")
    return files


def _load(
    kind: Any,
    place: str,
    options: Options,
    config: Any,
    names: Mapping[str, str] | None = None,
    weights: dict[str, torch.Tensor] | None = None,
) -> Any:
    """A model of transformers, every weight of it from the checkpoint's safetensors, or from those given."""
    dtype: Any = options.dtype
    if dtype == "auto" and options.device == "cpu" and not options.device_map:
        dtype = "float32"
    more: dict[str, Any] = {"key_mapping": dict(names)} if names else {}
    if weights is not None:
        more["state_dict"] = weights
    if options.bits:
        more["quantization_config"] = _in_bits(options.bits)
    if options.device_map or options.device != "cpu":
        more["device_map"] = options.device_map or {"": options.device}
    model, found = kind.from_pretrained(
        place if weights is None else None,
        config=config,
        dtype=dtype,
        attn_implementation=options.attention,
        use_safetensors=True,
        trust_remote_code=False,
        revision=options.revision,
        output_loading_info=True,
        **more,
    )
    for what in ("missing_keys", "mismatched_keys"):
        if found.get(what):
            first = sorted(map(str, found[what]))[0]
            raise UsageError(f"{place} does not fit its config.json: {what.replace('_', ' ')}, first {first}")
    return model.eval().requires_grad_(False)


def _in_bits(bits: int) -> Any:
    """How transformers is told to hold weights in so many bits.

    Raises:
        UsageError: bitsandbytes is missing.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UsageError(f"bits={bits} needs bitsandbytes: pip install bitsandbytes")
    if bits == 8:
        return transformers.BitsAndBytesConfig(load_in_8bit=True)
    return transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.bfloat16
    )


def _remote_model(place: str, raw: Mapping[str, Any], options: Options) -> Any:
    """A model whose code comes with the checkpoint; for users who said that they trust it."""
    homes = raw.get("auto_map", {})
    kind = next((k for k in ("AutoModelForMaskedLM", "AutoModelForCausalLM", "AutoModel") if k in homes), "")
    if not kind:
        raise UsageError(
            f"{place} is of the kind {family_of(raw)!r}, which neither this package nor transformers knows"
        )
    _need_trust(
        place, options, f"is of the kind {family_of(raw)!r}, which needs the Python code that comes with it"
    )
    dtype = "float32" if options.dtype == "auto" and options.device == "cpu" else options.dtype
    model = getattr(transformers, kind).from_pretrained(
        place, trust_remote_code=True, dtype=dtype, use_safetensors=True, revision=options.revision
    )
    return model.to(options.device).eval().requires_grad_(False)


def _need_trust(place: str, options: Options, reason: str) -> None:
    """Lets code that comes with a checkpoint run, with a warning, or refuses it.

    Raises:
        UsageError: nobody has said that it is trusted.
    """
    if not consent.may_trust(place, bool(options.trust_remote_code)):
        raise UsageError(
            f"{place} {reason}; if you trust whoever wrote that, run it with {place}:trust_remote_code=1 on the "
            f"command line, or {consent.TRUST_REMOTE}"
        )
    warnings.warn(
        f"running the Python code of {place}: it can do whatever you can on this machine, and change between "
        "revisions (pin one with revision=COMMIT)",
        stacklevel=2,
    )


def _tokenizer(place: str, raw: Mapping[str, Any], options: Options) -> Any:
    """The checkpoint's tokenizer, by a class of transformers' own wherever one reads it."""
    auto, settings = transformers.AutoTokenizer.from_pretrained, dict[str, Any](revision=options.revision)
    if family_of(raw) == "dream":  # published with code of its own, around Qwen2's
        return transformers.Qwen2Tokenizer.from_pretrained(place, trust_remote_code=False, **settings)
    plain = find_family(place, raw).plain or family_of(raw)  # the family of transformers that it is read as
    if plain in transformers.CONFIG_MAPPING:
        # With the checkpoint's own configuration AutoTokenizer would look for its class.
        settings["config"] = transformers.CONFIG_MAPPING[plain]()
    elif consent.may_trust(place, bool(options.trust_remote_code)):  # as its model, which has been told of
        return auto(place, trust_remote_code=True, **settings)
    # Never without the argument: transformers would ask on the terminal, and take a "y" from a pipe for consent.
    try:
        return auto(place, trust_remote_code=False, **settings)
    except ValueError:
        if "auto_map" not in transformers.models.auto.tokenization_auto.get_tokenizer_config(
            place, revision=options.revision
        ):
            raise
    _need_trust(place, options, "has a tokenizer that needs the Python code that comes with it")
    return auto(place, trust_remote_code=True, **settings)
