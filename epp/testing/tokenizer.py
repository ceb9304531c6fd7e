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
ant ape arm art ash axe bag bat bay bed bee bell bird boat bone book box boy bread brick brush bus cab cake calf camp can cap car
cart cat cave chair chalk clay clock cloud coal coat coin cook corn cow crab crow cub cup dam dawn day deer den desk dew dish dog
door dove drum duck dune dust ear earth east eel egg elk elm eye face fan farm fig film fin fire fish flag flax fleet fly foam fog
food fox frog fruit fur game gate gem girl glass glue goat gold gong goose grain grape grass grid gulf gum gym hall ham hand harp
hat hawk hay hen herb hill hive home hood hook horn hut ice ink iron isle ivy jade jam jar jaw jet jewel joy judge jug key king
kit kite knee knot lace lad lake lamb lamp land lane lark law leaf leg lens lid lime lion lock log loom lot lute map mare mast mat
maze meal mesh mile milk mill mine mint mist moat mole moon moss moth mud mug mule nail navy neck nest net night node noon north
nut oak oar oat ode oil olive opal orb ore oven owl ox pad page palm pan park path paw pea peak pear pen pie pig pike pill pin
pine pit plan plum pod pond pony pool port pot quail quay queen quilt rail rain ram rat ray reed reef rice ridge ring road robe
rock roof room root rope rose rug rye sack sail salt sand saw seal seat seed shed shell ship shoe silk sky sled snail snow soap
sock soil song soup south spade star steam stem stone storm stove straw sun swan tail tank tar tax tea tent tide tile tin toad toe
tomb tool tooth town toy tram tray tree tub tune urn vale van vase veil vest vine voice wagon wall wand wasp wave wax web well
west whale wheat wheel wick wind wine wing wolf wood wool worm yak yard yarn year yew zebra zinc
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
