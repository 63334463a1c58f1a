"""Conversations to token ids, and which of them are trained: the assistants' words and their end-of-turn tokens.

The text is what the chat template writes. Two things are done about it that apply_chat_template does not do:
- Control tokens come from the template alone. "<|im_end|>" in a user's text stays text of several tokens, so that nobody
  ends a turn from inside one. For that, special tokens get other names in a copy of the tokenizer, and in what the template
  wrote; the names of the original then mean nothing to it.
- A token counts as trained when all its characters lie inside {% generation %} ... {% endgeneration %} of the template.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from megatron_bielik.posttrain.errors import ChatError
from megatron_bielik.posttrain.messages import Message

CHATML = Path(__file__).with_name("chatml.jinja")
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")
# Two of Unicode's noncharacters, which no text may hold: around the name of a control token, and inside a name that is text.
_CONTROL, _TEXT = "\ufdd0", "\ufdd1"


@dataclass(frozen=True)
class Encoded:
    """A conversation as tokens.

    Args:
        ids: int32 [tokens].
        trained: bool [tokens]; never the first token, which nothing predicts.
        special_as_text: Special tokens written out in messages, which became ordinary text.
    """

    ids: npt.NDArray[np.int32]
    trained: npt.NDArray[np.bool_]
    special_as_text: int


def load_tokenizer(folder: str | Path) -> PreTrainedTokenizerFast:
    """The tokenizer as its tokenizer.json says; AutoTokenizer would split every qwen2 model's text as Qwen2's own does.

    Raises:
        ChatError: The folder has none, or it does not load.
    """
    if not (Path(folder) / "tokenizer.json").is_file():
        raise ChatError(
            f"model.path is {folder}: no tokenizer.json in it; give a Hugging Face folder with a fast tokenizer"
        )
    try:
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # tokenizers raises nothing more special
        raise ChatError(f"the tokenizer in {folder} does not load: {' '.join(str(error).split())}") from None


def choose_template(tokenizer: PreTrainedTokenizerFast, path: str | None) -> str:
    """The template to train with, which marks the assistant's words.

    Args:
        tokenizer: Its own template is taken if it marks them.
        path: A Jinja file; None takes the tokenizer's own, else this package's ChatML.

    Raises:
        ChatError: The file cannot be read, marks nothing, or a control token of ChatML is not in the vocabulary.
    """
    own = tokenizer.chat_template
    if path is not None:
        try:
            template = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ChatError(f"data.chat_template: {path} cannot be read ({error})") from None
        if not _GENERATION.search(template):
            raise ChatError(
                f"data.chat_template: {path} has no {{% generation %}} and {{% endgeneration %}} around the assistant's words"
            )
        return template
    if isinstance(own, str) and _GENERATION.search(own):
        return own
    missing = [name for name in ("<|im_start|>", "<|im_end|>") if name not in tokenizer.get_vocab()]
    if missing:
        raise ChatError(
            f"the tokenizer has no {' and no '.join(missing)}, which ChatML needs; give data.chat_template a template of "
            "its own tokens with {% generation %} marks"
        )
    return CHATML.read_text(encoding="utf-8")


def without_marks(template: str) -> str:
    """The template as it is exported: other programs than transformers do not know the marks."""
    return _GENERATION.sub(lambda mark: "{%- if true %}" if "end" not in mark[0] else "{%- endif %}", template)


class ChatEncoder:
    """Encodes conversations with one tokenizer and template.

    Args:
        tokenizer: Fast tokenizer; it is not changed.
        template: Jinja source with generation marks.

    Attributes:
        end_of_turn: Id of the token that ends an assistant's turn.

    Raises:
        ChatError: The template does not end an assistant's turn, inside its marks, with a special token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, template: str) -> None:
        self.template = template
        self.tokenizer = tokenizer
        specials = sorted(_special_tokens(tokenizer), key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, specials))) if specials else re.compile(r"(?!)")
        self._backend = _with_renamed(tokenizer, specials)
        self._kwargs = {name: value for name, value in tokenizer.special_tokens_map.items() if isinstance(value, str)}
        probe = self.encode([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
        trained = probe.ids[probe.trained]
        if not len(trained) or int(trained[-1]) not in set(tokenizer.convert_tokens_to_ids(specials)):
            raise ChatError(
                "the chat template ends the assistant's words without a special token inside its generation marks, "
                "so the model could not learn to stop"
            )
        self.end_of_turn = int(trained[-1])

    def encode(
        self, messages: Sequence[Message], tools: Sequence[Any] | None = None, add_generation_prompt: bool = False
    ) -> Encoded:
        """One conversation; see encode_many."""
        return self.encode_many([(messages, tools)], add_generation_prompt)[0]

    def encode_many(
        self,
        conversations: Iterable[tuple[Sequence[Message], Sequence[Any] | None]],
        add_generation_prompt: bool = False,
    ) -> list[Encoded]:
        """Encode conversations, in parallel threads of the tokenizer.

        Args:
            conversations: Messages and tools (JSON schemas) of each.
            add_generation_prompt: End with the beginning of an assistant's turn.

        Raises:
            ChatError: A message holds U+FDD0 or U+FDD1, or the template refuses it.
        """
        texts, spans, escaped = [], [], []
        for messages, tools in conversations:
            text, marks, count = self._render(messages, tools, add_generation_prompt)
            texts.append(text)
            spans.append(marks)
            escaped.append(count)
        encodings = self._backend.encode_batch(texts, add_special_tokens=False)
        return [
            Encoded(np.array(one.ids, np.int32), _inside(one.offsets, marks), count)
            for one, marks, count in zip(encodings, spans, escaped, strict=True)
        ]

    def writes_as(self, template: str | None) -> bool:
        """Whether another template writes a plain conversation in the same way; one that is not there does."""
        chat = [{"role": role, "content": role} for role in ("user", "assistant", "user", "assistant")]
        if not isinstance(template, str):
            return True
        return self._plain(self.template, chat) == self._plain(template, chat)

    def _plain(self, template: str, chat: list[dict[str, str]]) -> str:
        rendered, _ = render_jinja_template(conversations=[chat], chat_template=template, **self._kwargs)
        return str(rendered[0])

    def _render(
        self, messages: Sequence[Message], tools: Sequence[Any] | None, add_generation_prompt: bool
    ) -> tuple[str, list[tuple[int, int]], int]:
        """Text with renamed control tokens, character spans of the assistant's words, special tokens that are text."""
        count = 0

        def escape(value: Any) -> Any:
            nonlocal count
            if isinstance(value, str):
                if _CONTROL in value or _TEXT in value:
                    raise ChatError("a message holds U+FDD0 or U+FDD1, which are no characters of any text")
                value, found = self._special.subn(lambda token: token[0][0] + _TEXT + token[0][1:], value)
                count += found
                return value
            if isinstance(value, dict):
                return {escape(key): escape(item) for key, item in value.items()}
            return [escape(item) for item in value] if isinstance(value, list | tuple) else value

        chat = escape([dict(message) for message in messages])
        try:
            rendered, marks = render_jinja_template(
                conversations=[chat],
                tools=escape(list(tools)) if tools else None,
                chat_template=self.template,
                return_assistant_tokens_mask=True,
                add_generation_prompt=add_generation_prompt,
                **self._kwargs,
            )
        except ChatError:
            raise
        except Exception as error:  # templates raise what they like
            raise ChatError(f"the chat template refuses it: {' '.join(str(error).split())[:200]}") from None
        text, spans = "", []
        position = 0
        for start, end in marks[0]:
            text += self._rename(rendered[0][position:start])
            begin = len(text)
            text += self._rename(rendered[0][start:end])
            spans.append((begin, len(text)))
            position = end
        return text + self._rename(rendered[0][position:]), spans, count

    def _rename(self, text: str) -> str:
        """Control tokens under their other names, and what only looked like one as it was written."""
        return self._special.sub(lambda token: _renamed(token[0]), text).replace(_TEXT, "")


def _renamed(token: str) -> str:
    return f"{_CONTROL}{token}{_CONTROL}"


def _special_tokens(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    return [str(token) for token in tokenizer.added_tokens_decoder.values() if token.special]


def _with_renamed(tokenizer: PreTrainedTokenizerFast, specials: Sequence[str]) -> Tokenizer:
    """A copy of the tokenizer that knows its special tokens by other names alone."""
    source = json.loads(tokenizer.backend_tokenizer.to_str())
    source["post_processor"] = source["truncation"] = source["padding"] = None
    names = {token: _renamed(token) for token in specials}
    for token in source["added_tokens"]:
        token["content"] = names.get(token["content"], token["content"])
    vocabulary = source["model"].get("vocab")
    if isinstance(vocabulary, dict):
        source["model"]["vocab"] = {names.get(piece, piece): number for piece, number in vocabulary.items()}
    elif isinstance(vocabulary, list):
        source["model"]["vocab"] = [[names.get(piece, piece), score] for piece, score in vocabulary]
    if source["model"].get("unk_token") in names:
        source["model"]["unk_token"] = names[source["model"]["unk_token"]]
    return Tokenizer.from_str(json.dumps(source))


def _inside(offsets: Sequence[tuple[int, int]], spans: Sequence[tuple[int, int]]) -> npt.NDArray[np.bool_]:
    """Which tokens lie inside a span with all their characters; the first token of all never does."""
    if not spans or not offsets:
        return np.zeros(len(offsets), np.bool_)
    begins, ends = np.array(offsets, np.int64).T
    span = np.searchsorted([start for start, _ in spans], begins, side="right") - 1
    inside = (span >= 0) & (ends <= np.array([end for _, end in spans])[span])
    inside[0] = False
    return inside


def fingerprint(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 of all that decides about ids."""
    return hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest()
