"""Text as tokens that are nothing but text.

A tokenizer of transformers makes special tokens of text that reads like them: ``<|im_end|>``, the mask token. In a
prompt that is somebody's text: it must not end a turn, nor be a mask that is then filled in. So only what the
tokenizer itself and a chat template put around a text becomes special here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from dllm_env.denoisers.templates import Renderer
from dllm_env.errors import UsageError

OPEN, CLOSE = "\ue0f0", "\ue0f1"
"""Stand around what only reads like a special token, in texts where others are meant (private use in Unicode)."""


class PlainText:
    """Encodes texts and conversations by a tokenizer of transformers.

    Args:
        tokenizer: any.
        controls: ids that no text may become, besides those that the tokenizer itself calls special.
        vocabulary: how many tokens the model knows; 0 where nobody says it.
    """

    def __init__(self, tokenizer: Any, controls: Iterable[int] = (), vocabulary: int = 0) -> None:
        self.tokenizer, self.vocabulary = tokenizer, vocabulary
        self._renderer: Renderer | None = None
        self._template: Any = None
        added = getattr(tokenizer, "added_tokens_decoder", {})
        special = {i for i, token in added.items() if token.special} | set(
            getattr(tokenizer, "all_special_ids", ())
        )
        self.special = (special - {getattr(tokenizer, "unk_token_id", None)}) | set(controls)
        words = [tokenizer.decode([i]).strip() for i in sorted(self.special)]
        words = sorted({word for word in words if len(word) > 1}, key=len, reverse=True)
        self._words = re.compile("|".join(map(re.escape, words)) or "(?!)")
        self._escaped = re.compile(f"{OPEN}({self._words.pattern}){CLOSE}")

    def encode(self, text: str, around: bool = True) -> list[int]:
        """Token ids of a text.

        Args:
            text: all of it plain.
            around: with the special tokens that the tokenizer puts around texts.
        """
        ids = self._ids(text)
        if not self.special & set(ids):
            return self._ids(text, add_special_tokens=True) if around else ids
        return self._surrounded(self._plain(text)) if around else self._plain(text)

    def escape(self, text: str) -> str:
        """The text with marks around what reads like a special token, for ``encode_escaped``."""
        return self._words.sub(lambda found: f"{OPEN}{found[0]}{CLOSE}", text)

    def encode_escaped(self, text: str, around: bool = False) -> list[int]:
        """Token ids of a text in which special tokens are meant, but for what ``escape`` has marked."""
        ids: list[int] = []
        for i, part in enumerate(self._escaped.split(text)):
            if part:
                ids += self._plain(part) if i % 2 else self._ids(part)
        return self._surrounded(ids) if around else ids

    def render(self, messages: Sequence[Mapping[str, Any]], **settings: Any) -> str:
        """A conversation in the tokenizer's chat template, as a text for ``encode_escaped``.

        Args:
            messages: ``role`` and ``content`` of each.
            settings: more arguments of ``apply_chat_template``.

        Raises:
            UsageError: there is no template, or it refuses the conversation, or takes too long or too much memory.
        """
        if not (getattr(self.tokenizer, "chat_template", None) or settings.get("chat_template")):
            raise UsageError("conversations need a tokenizer with a chat template; give texts")
        said = [{name: self._escape_all(value) for name, value in message.items()} for message in messages]
        template = getattr(self.tokenizer, "chat_template", None)
        if self._renderer is None or template != self._template:  # it has the tokenizer as it was when it began
            self._renderer, self._template = Renderer(self.tokenizer.apply_chat_template), template
        try:
            return self._renderer({"conversation": said, "tokenize": False, **settings})
        except UsageError as error:
            raise UsageError(f"the chat template refuses the conversation: {error}") from None

    def conversation(self, messages: Sequence[Mapping[str, Any]]) -> list[int]:
        """Token ids of a conversation in the chat template, up to where the answer begins.

        Raises:
            UsageError: see ``render``.
        """
        return self.encode_escaped(self.render(messages, add_generation_prompt=True))

    def _escape_all(self, value: Any) -> Any:
        if isinstance(value, str):
            return self.escape(value)
        if isinstance(value, Mapping):
            return {name: self._escape_all(part) for name, part in value.items()}
        return [self._escape_all(part) for part in value] if isinstance(value, (list, tuple)) else value

    def _ids(self, text: str, **settings: Any) -> list[int]:
        ids = list(self.tokenizer(text, **{"add_special_tokens": False, **settings})["input_ids"])
        if self.vocabulary and max(ids, default=0) >= self.vocabulary:
            raise UsageError(
                f"the tokenizer makes token {max(ids)} of a text, but the model knows {self.vocabulary:,} tokens: "
                "they do not belong together"
            )
        return ids

    def _plain(self, text: str) -> list[int]:
        """Token ids of a text in which nothing is special; letter by letter where the tokenizer cannot do that."""
        try:
            ids = self._ids(text, split_special_tokens=True)
        except TypeError:
            ids = self._ids(text)
        if not self.special & set(ids):
            return ids
        found: list[int] = []
        for part in re.split(f"({self._words.pattern})", text):
            for piece in part if self._words.fullmatch(part) else [part]:
                found += self._ids(piece) if piece else []
        return found

    def _surrounded(self, ids: list[int]) -> list[int]:
        """With what the tokenizer puts before and behind any text."""
        bare, whole = self._ids("a"), self._ids("a", add_special_tokens=True)
        for at in range(len(whole) - len(bare) + 1):
            if whole[at : at + len(bare)] == bare:
                return [*whole[:at], *ids, *whole[at + len(bare) :]]
        return ids
