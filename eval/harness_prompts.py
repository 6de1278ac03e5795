"""Texts of the lm-evaluation-harness as the denoiser's tokens.

Texts are taken as they stand. ``Denoiser.encode`` would put them into the tokenizer's chat template where there is
one; in the harness that is up to ``--apply_chat_template``, which gives texts that have been put there. Special
tokens are what such a template and the tokenizer itself put in; all that comes from a task is plain text.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from dllm_env.denoisers.base import Denoiser
from dllm_env.denoisers.plain_text import PlainText
from dllm_env.errors import UsageError
from dllm_env.eval.likelihood import Pair
from dllm_env.numerics import digest

logger = logging.getLogger("lm_eval.dllm_env")
"""Below the harness's own, so that its level and format count."""


class Prompts:
    """Turns texts into tokens, and conversations into texts.

    Args:
        denoiser: one with a tokenizer of transformers, or one that encodes texts word by word.

    Raises:
        UsageError: the denoiser was told to use a chat template whatever the harness says.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self.tokenizer = getattr(denoiser, "tokenizer", None)
        self._template: str | None = None
        if getattr(getattr(denoiser, "options", None), "chat", -1) == 1:
            raise UsageError("leave chat=1 away: --apply_chat_template puts prompts into the chat template")
        self._text = (
            None
            if self.tokenizer is None
            else PlainText(
                self.tokenizer,
                (denoiser.mask_id, *denoiser.end_ids),
                getattr(getattr(denoiser, "plain_text", None), "vocabulary", 0),
            )
        )

    def plain(self, text: str) -> list[int]:
        """Token ids without the special tokens that the tokenizer puts around texts."""
        return self.denoiser.encode(text) if self._text is None else self._text.encode(text, around=False)

    def _rendered(self, text: str) -> list[int]:
        """``plain``, of a text whose special tokens are those of a template where one is used."""
        if self._text is None or self._template is None:
            return self.plain(text)
        return self._text.encode_escaped(text)

    def context(self, text: str) -> list[int]:
        """Token ids of what is to be continued.

        A text that begins with a special token, as rendered chat templates do, has all that it needs; any other
        gets what the tokenizer puts around texts. Where position i predicts token i + 1, it is never empty.
        """
        ids = self._rendered(text)
        if self._text is not None and not (self._text.special - {self.denoiser.mask_id}) & set(ids[:1]):
            ids = self._text.encode_escaped(text, around=True) if self._template else self._text.encode(text)
        return ids or ([self.denoiser.eot_id] if getattr(self.denoiser, "shift", False) else [])

    def pair(self, context: str, continuation: str) -> Pair:
        """Tokens of a context and of what follows it: those of both as one text, cut where the context's end.

        Whitespace at the end of the context goes to the continuation, because tokenizers put it before words.
        """
        head = context.rstrip()
        tail = context[len(head) :] + continuation
        if self._text is None:  # words, whatever stands before them
            return self.context(head), self.plain(tail)
        if self._template:
            tail = self._text.escape(tail)
        rest = self._rendered(head + tail)[len(self._rendered(head)) :]
        return self.context(head), rest or self._rendered(tail)

    def fit(self, contexts: Sequence[Sequence[int]], lengths: Sequence[int]) -> list[list[int]]:
        """The contexts, without their beginning where so many more tokens would not fit behind them.

        Raises:
            UsageError: the denoiser's context is too short for those tokens alone.
        """
        limit = self.denoiser.max_length
        if max(lengths, default=0) > limit:
            raise UsageError(
                f"{max(lengths)} tokens exceed the context of denoiser {self.denoiser.name!r} ({limit}); to "
                "generate fewer, give the model argument gen_length or --gen_kwargs max_gen_toks=…"
            )
        surplus = [max(len(ids) + length - limit, 0) for ids, length in zip(contexts, lengths, strict=True)]
        if any(surplus):
            count = sum(map(bool, surplus))
            logger.warning("%d of %d prompts do not fit and lose their beginning", count, len(contexts))
        return [list(ids[more:]) for ids, more in zip(contexts, surplus, strict=True)]

    def windows(self, text: str) -> Iterator[Pair]:
        """Consecutive parts of a text, each but the first with the half context that stands before it."""
        prefix, ids, longest = self.context(""), self.plain(text), self.denoiser.max_length
        first, half = longest - len(prefix), longest // 2
        yield prefix, ids[:first]
        for start in range(first, len(ids), half):
            yield ids[max(start - (longest - half), 0) : start], ids[start : start + half]

    def render(self, conversation: Sequence[dict[str, str]], ask: bool = True) -> str:
        """A conversation in the chat template; without ``ask`` its last message is left open to go on.

        Raises:
            UsageError: the tokenizer has no chat template.
        """
        template = self._template or self.choose_template(True)
        assert self._text is not None
        return self._text.render(
            conversation, chat_template=template, add_generation_prompt=ask, continue_final_message=not ask
        )

    def choose_template(self, name: bool | str) -> str:
        """The template of this name, used from now on; True for the only one, or the default one of several.

        Raises:
            UsageError: the tokenizer has none, or none of this name.
        """
        found = getattr(self.tokenizer, "chat_template", None)
        if not found:
            raise UsageError(
                f"denoiser {self.denoiser.name!r} has no chat template; leave --apply_chat_template away"
            )
        named = found if isinstance(found, dict) else {True: found}
        if name is True and isinstance(found, dict):
            name = "default"
        if name not in named:
            names = ", ".join(found) if isinstance(found, dict) else "one without a name"
            raise UsageError(f"denoiser {self.denoiser.name!r} has no chat template {name!r}, but {names}")
        self._template = str(named[name])
        return self._template

    @property
    def name(self) -> str:
        """Stands for the tokenizer and its templates, in the name of a file."""
        name = "".join(letter if letter.isalnum() else "_" for letter in self.denoiser.name)
        return f"{name}-{digest({}, str(self._template or getattr(self.tokenizer, 'chat_template', None)))}"
