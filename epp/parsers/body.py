"""What every parser does with a body: one typed decode, one kind of error.

The typed decode reads only the fields of the given struct and skips the rest unseen. Whatever is wrong with a body becomes
`BadRequest` here, in a sentence that names a field and never quotes its value; no other exception leaves a parser.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from epp.errors import BadRequest, TokenizeError
from epp.model.request import Chat

T = TypeVar("T", bound="Body")
U = TypeVar("U")


class Body(msgspec.Struct, kw_only=True):
    """Fields that every API has. `float` beside `int`, since clients may write `16.0`."""

    model: str = ""
    stream: bool | None = None
    cache_salt: str | None = None
    priority: int | None = None


def decode(decoder: msgspec.json.Decoder[T], body: bytes) -> T:
    """Return the body as the decoder's struct.

    Raises:
        BadRequest: the body is not JSON, or a field has the wrong type. One without a model is for the director to refuse: a
            rewrite may supply it.

    Cost: about 1 us at 2 kB and 50 us at 200 kB; `tests/bench/parse.py` has it beside the bare decode.
    """
    return guarded(decoder.decode, body)


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
