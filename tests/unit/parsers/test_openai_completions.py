"""Completions, embeddings and token-in requests: prompts that are not conversations."""

import json

import pytest

from epp.errors import BadRequest
from epp.model.request import Api, RequestHead, prompt_tokens
from epp.parsers import openai_completions, openai_embeddings, vllm_generate

HEAD = RequestHead(path="/v1/completions")


def complete(prompt, **fields):
    return openai_completions.parse(HEAD, json.dumps({"model": "m", "prompt": prompt, **fields}).encode())


def test_a_text():
    request = complete("héllo", max_tokens=4, stream=True)
    assert (request.api, request.prompt, request.token_ids) == (Api.COMPLETIONS, "héllo".encode(), None)
    assert (request.max_tokens, request.stream, request.chat) == (4, True, None)


def test_texts_stand_one_after_the_other_and_are_told_apart():
    assert complete(["ab", "c"]).prompt.startswith(complete("ab").prompt)
    assert complete(["ab", "c"]).prompt != complete(["a", "bc"]).prompt
    assert complete(["ab"]).prompt == complete("ab").prompt


def test_token_ids():
    request = complete([1, 2, 300_000])
    assert request.token_ids == (1, 2, 300_000)
    assert request.prompt == b"\x01\0\0\0\x02\0\0\0\xe0\x93\x04\0"
    assert prompt_tokens(request) == 3
    assert complete([[1, 2, 300_000]]) == request


def test_lists_of_token_ids_stand_one_after_the_other():
    assert complete([[1, 2], [3]]).token_ids == (1, 2, 3)


@pytest.mark.parametrize("prompt", [None, [], [[]], [[], []]])
def test_no_prompt(prompt):
    with pytest.raises(BadRequest, match="invalid completions request: must have prompt field"):
        complete(prompt)


@pytest.mark.parametrize("prompt", [3, {"a": 1}, [1, "a"], [1, [2]], [-1], [2**31], [1.5], [True], [[["a"]]], [None]])
def test_prompts_of_the_wrong_kind(prompt):
    with pytest.raises(BadRequest, match="invalid request"):
        complete(prompt)


def test_an_empty_text_is_a_prompt():
    assert complete("").prompt == b""


def test_embeddings():
    body = json.dumps({"model": "e", "input": ["one", "two"]}).encode()
    request = openai_embeddings.parse(HEAD, body)
    assert (request.api, request.model, request.prompt, request.max_tokens) == (Api.EMBEDDINGS, "e", b"one\xfftwo", None)
    with pytest.raises(BadRequest, match="invalid embeddings request: must have input field"):
        openai_embeddings.parse(HEAD, b'{"model": "e"}')


def test_generate_from_token_ids():
    body = json.dumps({"model": "m", "token_ids": [5, 6], "sampling_params": {"max_tokens": 9, "temperature": 0}}).encode()
    request = vllm_generate.parse(HEAD, body)
    assert (request.token_ids, request.max_tokens) == ((5, 6), 9)
    for missing in (b'{"model": "m"}', b'{"model": "m", "token_ids": []}'):
        with pytest.raises(BadRequest, match="invalid generate request: must have token_ids field"):
            vllm_generate.parse(HEAD, missing)
