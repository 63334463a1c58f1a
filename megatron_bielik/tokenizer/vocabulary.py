"""What every id of a tokenizer stands for, as bytes: read from a Hugging Face folder's tokenizer.json, without torch.

Byte-level vocabularies (GPT-2, Qwen2) write each byte as one printable character; SentencePiece-like ones write a space
as U+2581 and bytes that have no piece as <0xNN>. Both become the bytes that they decode to, so that they can be compared.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")
ROLES = ("bos", "eos", "unk", "pad")
_SPACE = "▁"


class VocabularyError(ValueError):
    """A tokenizer that cannot be used; the message is one line for the user."""


@dataclass(frozen=True)
class Vocabulary:
    """Tokens by id.

    Attributes:
        folder: Where it was read from.
        tokens: Each token as tokenizer.json writes it; None where an id is not used.
        data: The bytes a token stands for; None for control tokens, unused ids and text that no bytes are known for.
        byte_pieces: Ids of <0xNN> pieces.
        control: Ids of control tokens: special ones, and the added ones that stand for no text of their own, by their content.
        roles: Ids of bos, eos, unk and pad, as far as the configuration names them.
    """

    folder: Path
    tokens: tuple[str | None, ...]
    data: tuple[bytes | None, ...]
    byte_pieces: frozenset[int]
    control: Mapping[str, int]
    roles: Mapping[str, int]

    def __len__(self) -> int:
        """One more than the largest id."""
        return len(self.tokens)

    def shown(self, token: int) -> str:
        """A token for a reader: its text where that is text, spaces as U+2581."""
        data = self.data[token]
        if data is None or token in self.byte_pieces:
            return self.tokens[token] or f"[{token}]"
        try:
            text = data.decode()
        except UnicodeDecodeError:
            return "".join(f"<0x{byte:02X}>" for byte in data)
        return "".join(_SPACE if c == " " else c if c.isprintable() else f"<U+{ord(c):04X}>" for c in text)


@cache
def byte_alphabet() -> dict[str, int]:
    """The byte that each character of a byte-level vocabulary stands for (Radford et al., 2019).

    Printable bytes of Latin-1 stand for themselves, the others for the characters from U+0100 on, in order.
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {**{chr(byte): byte for byte in printable}, **{chr(0x100 + n): byte for n, byte in enumerate(others)}}


def read_vocabulary(folder: Path) -> Vocabulary:
    """Read tokenizer.json and the roles in tokenizer_config.json or special_tokens_map.json.

    Raises:
        VocabularyError: No tokenizer.json, a damaged one, or one of another kind than BPE or Unigram.
    """
    described = _json(folder / "tokenizer.json")
    try:
        kind = described["model"]["type"]
        if kind == "BPE":
            pieces = dict(described["model"]["vocab"])
        elif kind == "Unigram":
            pieces = {piece: number for number, (piece, _) in enumerate(described["model"]["vocab"])}
        else:
            raise VocabularyError(f"{folder / 'tokenizer.json'} is a {kind} tokenizer; BPE and Unigram are known")
        added = {token["id"]: (token["content"], bool(token["special"])) for token in described["added_tokens"]}
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, VocabularyError):
            raise
        raise VocabularyError(f"{folder / 'tokenizer.json'} is damaged ({error!r}): fetch it again") from None
    by_id = {number: piece for piece, number in pieces.items()} | {number: text for number, (text, _) in added.items()}
    tokens = tuple(by_id.get(number) for number in range(max(by_id, default=-1) + 1))
    byte_level = any(_uses_bytes(described.get(part)) for part in ("pre_tokenizer", "decoder"))
    special = {number for number, (_, is_special) in added.items() if is_special}
    data = [
        None
        if token is None or number in special
        else token.encode()
        if number in added
        else _bytes_of(token, byte_level)
        for number, token in enumerate(tokens)
    ]
    found = frozenset(
        number for number in pieces.values() if not byte_level and BYTE_PIECE.fullmatch(by_id[number]) and data[number]
    )
    control = {text: number for number, (text, is_special) in added.items() if is_special or _looks_like_markup(text)}
    return Vocabulary(folder, tokens, tuple(data), found, control, _roles(folder, {t: n for n, t in by_id.items()}))


def _bytes_of(token: str, byte_level: bool) -> bytes | None:
    if byte_level:
        alphabet = byte_alphabet()
        return bytes(alphabet[c] for c in token) if all(c in alphabet for c in token) else None
    if match := BYTE_PIECE.fullmatch(token):
        return bytes([int(match[1], 16)])
    return token.replace(_SPACE, " ").encode()


def _looks_like_markup(text: str) -> bool:
    """Whether an added token, though not special, marks something up: Qwen2.5's <tool_call> is such a one."""
    return re.fullmatch(r"</?[^\s<>]+>", text) is not None


def _uses_bytes(part: Any) -> bool:
    """Whether a pre-tokenizer or decoder, or one of a sequence, is ByteLevel."""
    if not isinstance(part, dict):
        return False
    members = [*part.get("pretokenizers", []), *part.get("decoders", [])]
    return part.get("type") == "ByteLevel" or any(map(_uses_bytes, members))


def _roles(folder: Path, ids: Mapping[str, int]) -> dict[str, int]:
    found: dict[str, int] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        if not (folder / name).is_file():
            continue
        settings = _json(folder / name)
        for role in ROLES:
            token = settings.get(f"{role}_token")
            content = token.get("content") if isinstance(token, dict) else token
            if isinstance(content, str) and content in ids:
                found.setdefault(role, ids[content])
    return found


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise VocabularyError(
            f"{path} not found: give the folder of a Hugging Face model or tokenizer with a fast tokenizer in it"
        ) from None
    except (OSError, ValueError) as error:
        raise VocabularyError(f"{path} is damaged ({error}): fetch it again") from None
    if not isinstance(content, dict):
        raise VocabularyError(f"{path} is damaged (no JSON object): fetch it again")
    return content
