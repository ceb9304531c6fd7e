"""Where the model's name stands in a body, so that a rewrite can replace that one value and leave every other byte alone.

Called by the director, and only when the name has to be replaced.
"""

import msgspec
import numpy as np

from epp.errors import BadRequest
from epp.parsers.body import guarded


class _Model(msgspec.Struct):
    model: msgspec.Raw = msgspec.Raw()


_DECODER = msgspec.json.Decoder(_Model)


def find_model_span(body: bytes) -> tuple[int, int]:
    """Return where the value of the top-level `model` stands in the body, quotes included; where there is none, the place for it.

    That place, right behind the brace, is empty: start and end are one. Exact: a key written with escapes counts, nested keys do
    not, and of duplicates the last one is taken, as JSON decoders do.

    Raises:
        BadRequest: the body is not a JSON object, or its `model` is not a string.

    Cost: one skipping pass over the body, no copy; about 50 us at 200 kB.
    """
    value = guarded(_DECODER.decode, body).model
    if not bytes(value):
        place = body.index(b"{") + 1
        return place, place
    if not bytes(value).startswith(b'"'):
        raise BadRequest("invalid request body: the model is not a string")
    start = _address(value) - _address(body)  # a Raw is a view of the bytes it was decoded from
    end = start + len(memoryview(value))
    if body[start:end] != bytes(value):
        raise AssertionError("msgspec.Raw is no longer a view of its message")
    return start, end


def _address(buffer: bytes | msgspec.Raw) -> int:
    address: int = np.frombuffer(buffer, np.uint8).__array_interface__["data"][0]
    return address
