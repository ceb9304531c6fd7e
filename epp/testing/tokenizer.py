"""The stand-in's tokenizer and chat template, as a router can load them too.

A byte-level tokenizer whose vocabulary is 256 bytes and a few hundred whole words, about four bytes of the workload's text a token.
It is an ordinary Hugging Face `tokenizer.json`: whoever loads the files that `write_tokenizer` writes gets the ids that the model
server uses. Generated text is made of words with a leading space, so that it tokenizes to the ids it was generated as when a client
sends it back in the next turn.
"""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel

_LEXICON = """
river mountain ocean forest desert valley island harbor bridge castle village market garden window mirror candle lantern
silver copper golden purple scarlet emerald ancient modern gentle bitter silent distant narrow hollow broken hidden wooden
winter summer autumn spring morning evening midnight thunder shadow sunlight whisper journey letter number pattern signal
engine system server memory network process record report answer question reason method result weight length moment minute
second better larger smaller higher deeper always never often seldom before after under above around between beyond within
doctor teacher farmer sailor soldier painter writer singer dancer player worker keeper leader master friend stranger brother
sister mother father daughter cousin neighbor people children animal horse rabbit pigeon eagle turtle salmon spider beetle
apple orange cherry lemon pepper butter sugar honey barley coffee vinegar bread cheese kettle bottle basket blanket pillow
travel wander gather follow listen wonder answer deliver explain measure compare improve protect repair replace collect
planet comet galaxy meteor orbit gravity energy crystal mineral marble granite pebble canyon glacier meadow prairie lagoon
language sentence chapter paragraph grammar meaning story novel poem theater music violin guitar trumpet melody rhythm chorus
history empire kingdom treaty council senate citizen election justice freedom fortune courage wisdom honesty patience beauty
"""
WORDS: tuple[str, ...] = tuple(_LEXICON.split())
_CHAT_WORDS = """
You are a helpful AI writer Please write in professional manner user system assistant about line the of and to for with
"""
START, END = "<|im_start|>", "<|im_end|>"

# Written without line breaks of its own, so that it renders alike whatever a loader sets for trim_blocks and lstrip_blocks.
CHAT_TEMPLATE = (
    "{% if tools %}" + START + "system\n{{ tools | tojson }}" + END + "\n{% endif %}"
    "{% for message in messages %}" + START + "{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% elif message['content'] %}{% for part in message['content'] %}{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}" + END + "\n{% endfor %}"
    "{% if add_generation_prompt %}" + START + "assistant\n{% endif %}"
)


@cache
def tokenizer() -> Tokenizer:
    """Return the tokenizer. Cost: built once, a few milliseconds; encodes about a million tokens a second."""
    vocabulary = {character: number for number, character in enumerate(sorted(ByteLevel.alphabet()))}
    for word in (*WORDS, *_CHAT_WORDS.split()):
        vocabulary.setdefault("Ġ" + word, len(vocabulary))
        vocabulary.setdefault(word, len(vocabulary))
    made = Tokenizer(BPE(vocab=vocabulary, merges=[], ignore_merges=True))
    made.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=True)
    made.decoder = ByteLevelDecoder()
    made.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in (START, END)])
    return made


def encode(text: str) -> list[int]:
    """Return the token ids of a text. Cost: about a microsecond a token, the GIL released."""
    ids: list[int] = tokenizer().encode_batch_fast([text], add_special_tokens=False)[0].ids
    return ids


def decode(ids: Sequence[int]) -> str:
    """Return the text of token ids."""
    text: str = tokenizer().decode(list(ids), skip_special_tokens=False)
    return text


@cache
def word_ids() -> tuple[int, ...]:
    """Return the ids that the model server generates: one a word of `WORDS`, with its leading space."""
    return tuple(number for word in WORDS if (number := tokenizer().token_to_id("Ġ" + word)) is not None)


@cache
def _template() -> Any:  # noqa: ANN401 - jinja2's Template, private to this module
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(CHAT_TEMPLATE)


def render_chat(messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] | None = None) -> str:
    """Return the prompt a conversation becomes, the start of the assistant's turn included."""
    text: str = _template().render(messages=messages, tools=tools, add_generation_prompt=True)
    return text


def write_tokenizer(directory: Path) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` (which holds the chat template) into a directory, made if missing."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer().save(str(directory / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "chat_template": CHAT_TEMPLATE, "add_bos_token": False}
    (directory / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
