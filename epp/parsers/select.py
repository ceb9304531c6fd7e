"""Which parser reads a request: by the end of its path, the longest match on a `/` boundary.

The director asks once per request. A configuration's `requestHandler.parsers` names the parsers in use; without it all are.
"""

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

from epp.model.request import InferenceRequest, RequestHead
from epp.parsers import anthropic, openai_chat, openai_completions, openai_embeddings, openai_responses, passthrough, vllm_generate

Parser = Callable[[RequestHead, bytes], InferenceRequest]

PARSERS: Mapping[str, Mapping[str, Parser]] = MappingProxyType(
    {
        "openai-parser": {
            "chat/completions": openai_chat.parse,
            "chat/completions/render": openai_chat.parse,
            "completions": openai_completions.parse,
            "completions/render": openai_completions.parse,
            "embeddings": openai_embeddings.parse,
            "responses": openai_responses.parse,
        },
        "anthropic-parser": {
            "messages": anthropic.parse,
            "messages/count_tokens": passthrough.parse,
        },
        "vllmhttp-parser": {"inference/v1/generate": vllm_generate.parse},
        "passthrough-parser": {},
    }
)
"""Paths by plugin type. What no path matches is passed through, so `passthrough-parser` has none of its own."""

SEGMENTS_MAX = 3
"""Of the longest path above."""


class Parsers:
    """The parsers in use.

    Args:
        types: plugin types, keys of `PARSERS`; of two with the same path the first wins.
    """

    __slots__ = ("_by_path",)

    def __init__(self, types: Iterable[str] = tuple(PARSERS)) -> None:
        self._by_path: dict[str, Parser] = {}
        for name in types:
            for path, parser in PARSERS[name].items():
                self._by_path.setdefault(path, parser)

    def select(self, path: str) -> Parser:
        """Return the parser of a path; its query and trailing slashes do not count."""
        segments = path.partition("?")[0].rstrip("/").rsplit("/", SEGMENTS_MAX)[-SEGMENTS_MAX:]
        for start in range(len(segments)):
            parser = self._by_path.get("/".join(segments[start:]))
            if parser is not None:
                return parser
        return passthrough.parse

    def parse(self, head: RequestHead, body: bytes) -> InferenceRequest:
        """Return the request.

        Raises:
            BadRequest: the parser of the path cannot understand the body.
        """
        return self.select(head.path)(head, body)
