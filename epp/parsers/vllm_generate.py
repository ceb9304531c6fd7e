"""vLLM's token-in, token-out API: `/inference/v1/generate`. The request carries the token ids of its prompt."""

from typing import Annotated

import msgspec
from msgspec import Meta

from epp.errors import BadRequest
from epp.model.request import Api, InferenceRequest, RequestHead
from epp.parsers.body import Body, decode, output_cap
from epp.parsers.plain_prompt import TokenId, read_prompt

MISSING = "invalid generate request: must have token_ids field"


class Sampling(msgspec.Struct, gc=False):
    """Of the sampling parameters, the output cap."""

    max_tokens: int | float | None = None


class GenerateBody(Body, kw_only=True):
    """The body, as far as routing needs it."""

    token_ids: Annotated[list[TokenId], Meta(description="The prompt.")] | None = None
    sampling_params: Sampling | None = None


_DECODER = msgspec.json.Decoder(GenerateBody)


def parse(head: RequestHead, body: bytes) -> InferenceRequest:
    """Return the request.

    Raises:
        BadRequest: no JSON, no token ids, or a field of the wrong type.
    """
    found = decode(_DECODER, body)
    if not found.token_ids:
        raise BadRequest(MISSING)
    prompt, token_ids = read_prompt(list(found.token_ids), MISSING)
    return InferenceRequest(
        head=head,
        api=Api.COMPLETIONS,
        model=found.model,
        target_model=found.model,
        prompt=prompt,
        token_ids=token_ids,
        cache_salt=found.cache_salt or "",
        stream=bool(found.stream),
        max_tokens=output_cap(found.sampling_params.max_tokens if found.sampling_params else None),
        engine_priority=found.priority or 0,
    )
