import json
import time

from hypothesis import given
from hypothesis import strategies as st
from jinja2 import Environment
from tokenizers import Tokenizer

from epp.testing.tokenizer import decode, encode, render_chat, tokenizer, word_ids, write_tokenizer

CHAT = [{"role": "system", "content": "You are a helpful AI writer."}, {"role": "user", "content": "river, please"}]


@given(st.text())
def test_any_text_survives(text):
    assert decode(encode(text)) == text


def test_who_loads_the_written_files_gets_the_same_ids(tmp_path):
    write_tokenizer(tmp_path)
    loaded = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    template = json.loads((tmp_path / "tokenizer_config.json").read_text())["chat_template"]
    for environment in (Environment(), Environment(trim_blocks=True, lstrip_blocks=True)):
        text = environment.from_string(template).render(messages=CHAT, add_generation_prompt=True)
        assert loaded.encode(text, add_special_tokens=False).ids == encode(render_chat(CHAT))


def test_about_four_bytes_of_the_workload_are_a_token():
    text = decode([word_ids()[number % 100] for number in range(500)]) + " and some words nobody listed, such as zephyr"
    assert 3 < len(text) / len(encode(text)) < 8


def test_generated_words_are_the_same_tokens_when_they_come_back_in_the_next_turn():
    answer = list(word_ids()[:20])
    before = encode(render_chat(CHAT))
    after = encode(render_chat([*CHAT, {"role": "assistant", "content": decode(answer)}, {"role": "user", "content": "more"}]))
    assert after[: len(before) + len(answer)] == before + answer


def test_parts_and_tools_are_rendered():
    parts = [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]}]
    assert "user\na<|im_end|>" in render_chat(parts)
    assert "get_weather" in render_chat(CHAT, [{"type": "function", "function": {"name": "get_weather"}}])


def test_encoding_is_fast_enough_to_stand_in():
    tokenizer()
    text = decode([word_ids()[number % 150] for number in range(20_000)])
    start = time.process_time()
    assert len(encode(text)) == 20_000
    assert time.process_time() - start < 0.4  # about 0.02 s here
