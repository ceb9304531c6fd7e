"""Path to parser."""

import pytest

from epp.errors import BadRequest
from epp.model.request import Api, RequestHead
from epp.parsers import anthropic, openai_chat, openai_completions, openai_embeddings, openai_responses, passthrough, vllm_generate
from epp.parsers.select import PARSERS, SEGMENTS_MAX, Parsers


@pytest.mark.parametrize(
    ("path", "parser"),
    [
        ("/v1/chat/completions", openai_chat.parse),
        ("/v1/chat/completions/render", openai_chat.parse),
        ("/v1/completions", openai_completions.parse),
        ("/completions", openai_completions.parse),
        ("/prefix/of/gateway/v1/completions/", openai_completions.parse),
        ("/v1/completions?api-version=1/chat/completions", openai_completions.parse),
        ("/v1/completions/?a=b", openai_completions.parse),
        ("/v1/embeddings", openai_embeddings.parse),
        ("/v1/responses", openai_responses.parse),
        ("/v1/messages", anthropic.parse),
        ("/v1/messages/count_tokens", passthrough.parse),
        ("/inference/v1/generate", vllm_generate.parse),
        ("/v1/generate", passthrough.parse),
        ("/v1/mycompletions", passthrough.parse),
        ("/v1/mychat/completions", openai_completions.parse),
        ("/v1/models", passthrough.parse),
        ("/", passthrough.parse),
        ("", passthrough.parse),
        ("chat/completions", openai_chat.parse),
    ],
)
def test_the_longest_path_on_a_slash_boundary_wins(path, parser):
    assert Parsers().select(path) is parser


def test_a_configuration_narrows_the_parsers():
    parsers = Parsers(["anthropic-parser"])
    assert parsers.select("/v1/messages") is anthropic.parse
    assert parsers.select("/v1/chat/completions") is passthrough.parse


def test_no_path_is_longer_than_what_is_looked_at():
    longest = max(path.count("/") + 1 for paths in PARSERS.values() for path in paths)
    assert longest == SEGMENTS_MAX


def test_passthrough_takes_anything():
    request = Parsers().parse(RequestHead(path="/v1/images/generations"), b"\xff\x00 not json")
    assert (request.api, request.model, request.prompt, request.chat) == (Api.PASSTHROUGH, "", b"", None)


def test_an_empty_body_is_the_clients_mistake():
    with pytest.raises(BadRequest, match="error unmarshaling request body: Input data was truncated"):
        Parsers().parse(RequestHead(path="/v1/completions"), b"")
