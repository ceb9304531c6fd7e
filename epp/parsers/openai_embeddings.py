"""OpenAI embeddings: `/v1/embeddings`. The input has the four forms of a completions prompt."""

import msgspec

from epp.model.request import Api, InferenceRequest, RequestHead
from epp.parsers.body import Body, decode
from epp.parsers.plain_prompt import PlainPrompt, read_prompt


class EmbeddingsBody(Body, kw_only=True):
    """The body, as far as routing needs it."""

    input: PlainPrompt | None = None


_DECODER = msgspec.json.Decoder(EmbeddingsBody)


def parse(head: RequestHead, body: bytes) -> InferenceRequest:
    """Return the request; it generates nothing, so it has no output cap.

    Raises:
        BadRequest: no JSON, no input, or a field of the wrong type.
    """
    found = decode(_DECODER, body)
    prompt, token_ids = read_prompt(found.input, "invalid embeddings request: must have input field")
    return InferenceRequest(
        head=head,
        api=Api.EMBEDDINGS,
        model=found.model,
        target_model=found.model,
        prompt=prompt,
        token_ids=token_ids,
        cache_salt=found.cache_salt or "",
        engine_priority=found.priority or 0,
    )
