"""OpenAI completions: `/v1/completions`, and vLLM's `/render` of it. The prompt is text, token ids, or a batch of either."""

import msgspec

from epp.model.request import Api, InferenceRequest, RequestHead
from epp.parsers.body import Body, decode, output_cap
from epp.parsers.plain_prompt import PlainPrompt, read_prompt


class CompletionsBody(Body, kw_only=True):
    """The body, as far as routing needs it."""

    prompt: PlainPrompt | None = None
    max_tokens: int | float | None = None


_DECODER = msgspec.json.Decoder(CompletionsBody)


def parse(head: RequestHead, body: bytes) -> InferenceRequest:
    """Return the request.

    Raises:
        BadRequest: no JSON, no prompt, or a field of the wrong type.
    """
    found = decode(_DECODER, body)
    prompt, token_ids = read_prompt(found.prompt, "invalid completions request: must have prompt field")
    return InferenceRequest(
        head=head,
        api=Api.COMPLETIONS,
        model=found.model,
        target_model=found.model,
        prompt=prompt,
        token_ids=token_ids,
        cache_salt=found.cache_salt or "",
        stream=bool(found.stream),
        max_tokens=output_cap(found.max_tokens),
        engine_priority=found.priority or 0,
    )
