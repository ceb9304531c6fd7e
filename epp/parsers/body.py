"""What every parser does with a body: one typed decode, one kind of error.

The typed decode reads only the fields of the given struct and skips the rest unseen. Whatever is wrong with a body becomes
`BadRequest` here, in a sentence that names a field and never quotes its value; no other exception leaves a parser.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

import msgspec
import numpy as np

from epp.errors import BadRequest, TokenizeError
from epp.model.request import Chat

T = TypeVar("T", bound="Body")
U = TypeVar("U")

LONG_BODY: Final = 1 << 20
"""Bytes from which the parts of a body are counted before they are decoded: three bytes of JSON become some hundred of objects."""
OPENINGS_MAX: Final = 1 << 20
"""Objects and lists of a long body, those that stand in its texts among them. A prompt of ten million tokens of JSON has fewer."""
STRINGS_MAX: Final = 1 << 20
"""Strings of a long body."""


class Body(msgspec.Struct, kw_only=True):
    """Fields that every API has. `float` beside `int`, since clients may write `16.0`."""

    model: str = ""
    stream: bool | None = None
    cache_salt: str | None = None
    priority: int | None = None


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Return the body as the decoder's struct.

    Raises:
        BadRequest: the body is not JSON, a field has the wrong type, or there are so many parts that decoding them would hold up
            all others. One without a model is for the director to refuse: a rewrite may supply it.

    Cost: about 1 us at 2 kB and 50 us at 200 kB; `tests/bench/parse.py` has it beside the bare decode.
    """
    if len(body) > LONG_BODY:
        _check_parts(body)
    return guarded(decoder.decode, body)


def _check_parts(body: bytes) -> None:
    """Refuse a body of too many objects, lists or strings, by the marks that begin them."""
    marks = np.frombuffer(body, np.uint8)  # ten times as fast as `bytes.count`
    if np.count_nonzero(marks == ord("{")) + np.count_nonzero(marks == ord("[")) > OPENINGS_MAX:
        raise BadRequest(f"invalid request body: more than {OPENINGS_MAX} objects and lists")
    quotes = marks == ord('"')
    quotes[1:] &= marks[:-1] != ord("\\")  # those that stand in texts
    if np.count_nonzero(quotes) > 2 * STRINGS_MAX:
        raise BadRequest(f"invalid request body: more than {STRINGS_MAX} strings")


def guarded(decoder: Callable[[bytes], U], body: bytes) -> U:
    """Return what the decoder makes of the body, or raise BadRequest for whatever it raises."""
    try:
        return decoder(body)
    except msgspec.ValidationError as error:  # names the field, and the types it should have and has
        raise BadRequest(f"invalid request body: {error}") from None
    except msgspec.DecodeError as error:  # names the position
        raise BadRequest(f"error unmarshaling request body: {error}") from None
    except UnicodeDecodeError:
        raise BadRequest("error unmarshaling request body: invalid UTF-8 in a string") from None
    except RecursionError:
        raise BadRequest("invalid request body: nested too deeply") from None


def lazy_chat(body: bytes, build: Callable[[dict[str, Any]], Chat]) -> Callable[[], Chat]:
    """Return a function that decodes the body once more, now with everything in it, and hands it to `build`."""

    def chat() -> Chat:
        try:
            return build(msgspec.json.decode(body))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise TokenizeError(f"the chat messages cannot be decoded ({type(error).__name__})") from None

    return chat


def dicts(value: object) -> list[dict[str, Any]]:
    """Return the objects of a JSON list; none if it is something else. For fields that the typed decode did not look into."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def output_cap(*values: float | None) -> int | None:
    """Return the first output token cap that is set, as an integer."""
    return next((int(value) for value in values if value is not None), None)
