"""Tokenizing off the loop: bounded in number, in time, and able to be given up."""

import asyncio
import json
import threading
import weakref
from datetime import datetime

import pytest
from msgspec.structs import replace

from epp.errors import ConfigError, TokenizeError
from epp.model.request import Api, Chat, InferenceRequest, RequestHead
from epp.prefix.tokens import ChatTemplate, PromptTokenizer
from epp.scheduling.settings import TokenProducer
from epp.testing import tokenizer as stand_in
from epp.tokenizer import BYTES_PER_S, Tokenizer, load_tokenizer


class Slow:
    """A tokenizer that works when it is let."""

    def __init__(self):
        self.let = threading.Event()
        self.began = threading.Event()

    def encode(self, asked, chars_max):
        self.began.set()
        assert self.let.wait(10)
        if asked.prompt == b"fails":
            raise TokenizeError("no")
        return (1, 2, 3)


class Body:
    """What a request's `chat` holds on to."""

    def __call__(self):
        raise NotImplementedError


def request(prompt=b"the river"):
    return InferenceRequest(head=RequestHead(), api=Api.COMPLETIONS, prompt=prompt)


def run(body, **options):
    async def inner():
        slow = Slow()
        service = Tokenizer(slow, **options)
        try:
            await asyncio.wait_for(body(service, slow), 10)
        finally:
            slow.let.set()
            service.close()
            await asyncio.sleep(0)
        return service.counts

    return asyncio.run(inner())


async def until(condition):
    while not condition():  # noqa: ASYNC110 - what is waited for has no event
        await asyncio.sleep(0.001)


def test_ids_come_later_on_the_loop():
    async def body(service, slow):
        answers, threads = [], []
        slow.let.set()

        def done(tokens):
            answers.append(tokens)
            threads.append(threading.current_thread())

        service.encode(request(), done)
        assert answers == []
        await until(lambda: answers)
        assert answers == [(1, 2, 3)]
        assert threads == [threading.main_thread()]

    counts = run(body)
    assert (counts.encoded, counts.tokens) == (1, 3)


def test_what_fails_goes_on_without():
    async def body(service, slow):
        answers = []
        slow.let.set()
        service.encode(request(b"fails"), answers.append)
        await until(lambda: answers)
        assert answers == [None]

    assert run(body).failed == 1


def test_what_is_late_goes_on_without_and_is_answered_once():
    async def body(service, slow):
        answers = []
        service.encode(request(), answers.append)
        await until(lambda: answers)
        slow.let.set()
        await until(lambda: service.counts.encoded)
        assert answers == [None]

    assert run(body, timeout_s=0.01).late == 1


def test_the_queue_is_bounded():
    async def body(service, slow):
        answers = []
        for _ in range(5):
            service.encode(request(), answers.append)
        await until(lambda: len(answers) == 2)
        assert answers == [None, None]
        slow.let.set()
        await until(lambda: len(answers) == 5)
        service.encode(request(), answers.append)
        await until(lambda: len(answers) == 6)
        assert answers[2:] == [(1, 2, 3)] * 4

    assert run(body, queue_max=3, workers=1).refused == 2


def test_what_cannot_be_done_in_the_time_is_not_begun():
    async def body(service, slow):
        answers = []
        service.encode(request(b"x" * (BYTES_PER_S // 10 + 1)), answers.append)
        await until(lambda: answers)
        assert answers == [None]
        assert not slow.began.is_set()
        slow.let.set()
        service.encode(request(b"x" * (BYTES_PER_S // 10)), answers.append)
        await until(lambda: len(answers) == 2)
        assert answers[1] == (1, 2, 3)

    assert run(body, timeout_s=0.1).too_long == 1


def test_nor_is_what_a_template_makes_too_long():
    """A field of a message that only the template knows is no part of what the parsers call the prompt."""
    chat = Chat(messages=[{"role": "user", "content": "hi", "thinking": "river " * (BYTES_PER_S // 50)}])

    async def body():
        template = ChatTemplate("{{ messages[0].thinking }}", {}, datetime.now)
        service, answers = Tokenizer(PromptTokenizer(stand_in.tokenizer(), template), timeout_s=0.1), []
        service.encode(InferenceRequest(head=RequestHead(), api=Api.CHAT, prompt=b"hi", chat=lambda: chat), answers.append)
        await until(lambda: answers)
        service.close()
        return answers, service.counts.failed

    assert asyncio.run(body()) == ([None], 1)


@pytest.mark.parametrize("ends", ["late", "given up"])
def test_what_waits_for_a_thread_counts_until_it_is_taken_off_but_holds_no_request(ends):
    """A thread that hangs on to one prompt must not let an unbounded number of others pile up behind it."""

    async def body(service, slow):
        answers, gone = [], []
        for _ in range(3):
            asked = request(b"x" * 1000)
            body_of_it = Body()
            give_up = service.encode(replace(asked, chat=body_of_it), answers.append)
            gone.append(weakref.ref(body_of_it))
            await until(slow.began.is_set)
            if ends == "given up":
                give_up()
        del asked, body_of_it, give_up
        if ends == "late":
            await until(lambda: len(answers) == 3)
        assert [one() is None for one in gone[1:]] == [True, True]
        service.encode(request(), answers.append)
        await asyncio.sleep(0)
        assert service.counts.refused == 1
        slow.let.set()
        await until(lambda: service._pending == 0)

    counts = run(body, workers=1, queue_max=3, timeout_s=0.05)
    assert counts.encoded == 1


def test_a_wait_that_is_given_up():
    async def body(service, slow):
        answers = []
        give_up = [service.encode(request(), answers.append) for _ in range(3)]
        await until(slow.began.is_set)
        for each in give_up:
            each()
        slow.let.set()
        service.encode(request(), answers.append)
        await until(lambda: answers)
        assert answers == [(1, 2, 3)]

    run(body, workers=1)


def test_a_refusal_that_is_given_up():
    async def body(service, slow):
        answers = []
        service.encode(request(), answers.append)()
        service.encode(request(), answers.append)()
        await asyncio.sleep(0)
        assert answers == []

    run(body, queue_max=1)


class TestLoad:
    CHAT = Chat(messages=[{"role": "user", "content": "Write about the river."}])

    def ids(self, path):
        chat = InferenceRequest(head=RequestHead(), api=Api.CHAT, chat=lambda: self.CHAT)
        return load_tokenizer(path).encode(chat)

    def test_the_stand_ins_files(self, tmp_path):
        stand_in.write_tokenizer(tmp_path)
        expected = tuple(stand_in.encode(stand_in.render_chat(self.CHAT.messages)))
        assert self.ids(tmp_path) == self.ids(tmp_path / "tokenizer.json") == expected

    def test_templates_in_their_other_places(self, tmp_path):
        stand_in.write_tokenizer(tmp_path)
        template = "{{ bos_token }}{{ messages[0].content }}"
        several = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": template}]
        config = {"chat_template": several, "bos_token": {"content": stand_in.START}}
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
        assert self.ids(tmp_path) == tuple(stand_in.encode(stand_in.START + "Write about the river."))
        (tmp_path / "chat_template.jinja").write_text("the {{ messages[0].content }}")
        assert self.ids(tmp_path) == tuple(stand_in.encode("the Write about the river."))

    def test_what_a_configuration_names(self, tmp_path):
        stand_in.write_tokenizer(tmp_path)
        (tmp_path / "mine.jinja").write_text("an {{ messages[0].content }}")
        chat = InferenceRequest(head=RequestHead(), api=Api.CHAT, chat=lambda: self.CHAT)
        settings = TokenProducer(tokenizer=str(tmp_path), chat_template=str(tmp_path / "mine.jinja"), timeout_ms=5000)

        async def body():
            service, answers = Tokenizer.load(settings), []
            service.encode(chat, answers.append)
            await until(lambda: answers)
            service.close()
            return answers

        assert asyncio.run(body()) == [tuple(stand_in.encode("an Write about the river."))]
        with pytest.raises(ConfigError):
            Tokenizer.load(TokenProducer(tokenizer=str(tmp_path), chat_template=str(tmp_path / "none.jinja")))

    @pytest.mark.parametrize("text", [None, "", "{}", '{"version": "1.0"}'])
    def test_no_tokenizer(self, tmp_path, text):
        if text is not None:
            (tmp_path / "tokenizer.json").write_text(text)
        with pytest.raises(ConfigError):
            load_tokenizer(tmp_path)

    def test_without_a_configuration_there_is_no_template(self, tmp_path):
        stand_in.write_tokenizer(tmp_path)
        (tmp_path / "tokenizer_config.json").unlink()
        with pytest.raises(TokenizeError):
            self.ids(tmp_path)
        assert load_tokenizer(tmp_path).encode(request()) == tuple(stand_in.encode("the river"))
