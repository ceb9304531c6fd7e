"""The canonical bytes of a prompt: what the engine will read before the first generated token, in one order, in one form.

Tools come first, then the messages in their order, as chat templates put them. Each piece is introduced by a byte that never
occurs in UTF-8, so that no text can be mistaken for structure:

    FF role            begins a message
    FE text            a text of it
    FD name FE value   another field of it
    FC kind digest     a medium: 16 bytes of xxh3 over its content or URL, as it stands in the body

A conversation's next turn only appends, so it has the bytes of the turn before as a prefix; the prompt for generation, which a
template adds at the end, is not part. A text in a list of one part equals the same text as a plain string.
"""

from collections.abc import Sequence
from typing import Annotated, Final, TypeGuard, TypeVar

import msgspec
import xxhash

from epp.errors import BadRequest

T = TypeVar("T")

ITEMS_MAX: Final = 1 << 16
"""Messages of one request, parts of all its messages, prompts of a batch: each costs about a microsecond that all others wait."""
Bounded = Annotated[list[T], msgspec.Meta(max_length=ITEMS_MAX)]
"""A list of as many messages as there may be."""

ABSENT = msgspec.Raw()
"""The default of raw fields; msgspec takes no `Raw | None`."""

MESSAGE, TEXT, FIELD, MEDIUM = b"\xff", b"\xfe", b"\xfd", b"\xfc"

IMAGE_TOKENS = 640 * 360 // 1024
"""Estimate of one image, width x height / 1024 at the reference's default size; the real size stands only in the engine's reach."""
VIDEO_TOKENS = 10 * IMAGE_TOKENS
"""Estimate of one video, as in the reference: 10 seconds, one frame of each."""
AUDIO_TOKENS = 10 * 25
"""Estimate of one clip, as in the reference: 10 seconds of 25 tokens."""
FILE_TOKENS = 0
"""A document: unknown."""


class Part(msgspec.Struct, gc=False):
    """One part of a message's content in any of the APIs. `cache_control` is not read: it moves between turns."""

    type: str = ""
    text: str | None = None
    refusal: str | None = None
    thinking: str | None = None
    image_url: msgspec.Raw = ABSENT
    input_audio: msgspec.Raw = ABSENT
    audio_url: msgspec.Raw = ABSENT
    video_url: msgspec.Raw = ABSENT
    image_embeds: msgspec.Raw = ABSENT
    source: msgspec.Raw = ABSENT
    file: msgspec.Raw = ABSENT
    file_id: msgspec.Raw = ABSENT
    file_url: msgspec.Raw = ABSENT
    file_data: msgspec.Raw = ABSENT
    data: msgspec.Raw = ABSENT


_TEXTS = ("refusal", "thinking")
_MEDIA = (
    ("image_url", b"image", IMAGE_TOKENS),
    ("input_audio", b"audio", AUDIO_TOKENS),
    ("audio_url", b"audio", AUDIO_TOKENS),
    ("video_url", b"video", VIDEO_TOKENS),
    ("image_embeds", b"image", IMAGE_TOKENS),
    ("file", b"file", FILE_TOKENS),
    ("file_id", b"file", FILE_TOKENS),
    ("file_url", b"file", FILE_TOKENS),
    ("file_data", b"file", FILE_TOKENS),
    ("data", b"data", 0),
)


def is_present(value: msgspec.Raw | None) -> TypeGuard[msgspec.Raw]:
    """Return whether a raw field was in the body and not null."""
    return value is not None and value is not ABSENT and bytes(memoryview(value)[:4]) != b"null"


class Canonical:
    """Gathers the pieces of one prompt; `bytes()` joins them once."""

    __slots__ = ("chunks", "media_tokens", "parts")

    def __init__(self) -> None:
        self.chunks: list[bytes] = []
        self.media_tokens = 0
        self.parts = 0

    def __bytes__(self) -> bytes:
        return b"".join(self.chunks)

    def message(self, role: str) -> None:
        """Begin a message."""
        self.chunks.append(MESSAGE + role.encode())

    def text(self, text: str) -> None:
        """Add a text to the message."""
        self.chunks += (TEXT, text.encode())

    def field(self, name: bytes, value: str | msgspec.Raw | None) -> None:
        """Add a named field, unless it is absent; raw JSON goes in as it stands in the body."""
        if isinstance(value, str):
            self.chunks += (FIELD, name, TEXT, value.encode())
        elif is_present(value):
            self.chunks += (FIELD, name, TEXT, bytes(value))

    def medium(self, kind: bytes, content: msgspec.Raw, tokens: int) -> None:
        """Add the digest of a medium and its estimated tokens."""
        self.chunks += (MEDIUM, kind, xxhash.xxh3_128_digest(memoryview(content)))
        self.media_tokens += tokens

    def content(self, content: str | Sequence[str | Part] | None) -> None:
        """Add a message's content, a string or parts."""
        if isinstance(content, str):
            self.chunks += (TEXT, content.encode())
        elif content is not None:
            self.count(content)
            for part in content:
                if isinstance(part, str):  # vLLM takes bare strings among the parts
                    self.text(part)
                else:
                    self.part(part)

    def count(self, parts: Sequence[object]) -> None:
        """Count parts before they are added.

        Raises:
            BadRequest: they are too many, with those before.
        """
        self.parts += len(parts)
        if self.parts > ITEMS_MAX:
            raise BadRequest(f"invalid request body: more than {ITEMS_MAX} parts of messages")

    def part(self, part: Part) -> None:
        """Add one part: its text, or digests of the media in it."""
        if part.text is not None:
            self.text(part.text)
            return
        if is_present(part.source):  # Anthropic: an image or a document
            image = part.type == "image"
            self.medium(b"image" if image else b"file", part.source, IMAGE_TOKENS if image else FILE_TOKENS)
        for name in _TEXTS:
            self.field(name.encode(), getattr(part, name))
        for name, kind, tokens in _MEDIA:
            value = getattr(part, name)
            if is_present(value):
                self.medium(kind, value, tokens)
