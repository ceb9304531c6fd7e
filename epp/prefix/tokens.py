"""A request's prompt as the token ids that the engine will see: the chat template rendered as vLLM renders it, then the tokenizer.

Called by `epp.tokenizer` in a thread: nothing here is asynchronous, and the tokenizer works with the GIL released. One character
that differs from the engine's makes the accurate strategy blind behind it, so the rules follow vllm/entrypoints/chat_utils.py:
content as text or as parts by what the template loops over, arguments of tool calls decoded, special tokens for plain prompts only.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

import msgspec
from jinja2 import TemplateError, nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from epp.errors import ConfigError, TokenizeError
from epp.model.request import Api, Chat, InferenceRequest

PROMPTS_SEPARATOR: Final = b"\xff"
"""Between the prompts of a batch, as the parsers put it; no byte of UTF-8."""

CHARS_MAX: Final = 16 << 20
"""Longest text that is tokenized, where nobody says less."""

TEXTS: Final = {"text": "text", "input_text": "text", "output_text": "text", "refusal": "refusal", "thinking": "thinking"}
"""Types of parts that are text for a template, each with the field that has it."""


class _Generation(Extension):
    """`{% generation %}`: marks the assistant's tokens for training; here its body is rendered as it is."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares a set

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """Return the nodes inside."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class ChatTemplate:
    """A model's chat template.

    Args:
        source: the template, in jinja2.
        special: names of special tokens that it may use, `bos_token` and the like.
        now: the time for templates that print a date.

    Raises:
        ConfigError: it is no template.
    """

    def __init__(self, source: str, special: Mapping[str, str], now: Callable[[], datetime]) -> None:
        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols, _Generation])
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = lambda form: now().strftime(form)
        self._special = special
        try:
            self._parts = _loops_over_content(environment.parse(source))
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ConfigError(f"the chat template cannot be used: {error}") from error

    def render(self, chat: Chat) -> str:
        """Return the prompt a conversation becomes, up to where the model goes on.

        Raises:
            TokenizeError: the template refuses this conversation.
        """
        try:
            return self._template.render(
                **self._special,
                messages=[self._message(message) for message in chat.messages],
                tools=chat.tools,
                documents=None,
                add_generation_prompt=True,
                **chat.template_options,
            )
        except Exception as error:  # noqa: BLE001 - templates are programs of others; what they raise may hold text of the prompt
            raise TokenizeError(f"the chat template failed ({type(error).__name__})") from None

    def _message(self, message: dict[str, Any]) -> dict[str, Any]:
        made = {**message, "content": self._content(message)}
        if isinstance(calls := message.get("tool_calls"), list):
            made["tool_calls"] = [_tool_call(call) for call in calls]
        reasoning = message.get("reasoning")
        if reasoning is None:
            reasoning = message.get("reasoning_content")
        if reasoning is not None:  # clients write one of the names, and templates read one of them
            made["reasoning"] = made["reasoning_content"] = reasoning
        return made

    def _content(self, message: dict[str, Any]) -> str | list[Any]:
        """Return content as the template takes it: parts where it loops over them, else their text, a line each.

        The result of a tool that is text alone is one text also where the template loops.
        """
        content = message.get("content")
        found = [content] if isinstance(content, str) else content if isinstance(content, list) else []
        parts = [_part(part) for part in found]
        texts = [part["text"] for part in parts if isinstance(part.get("text"), str)]
        if self._parts and not (message.get("role") == "tool" and len(texts) == len(parts)):
            return parts
        return "\n".join(texts)


class PromptTokenizer:
    """What one model's engine does to a prompt.

    Args:
        tokenizer: the Hugging Face tokenizer; padding and truncation are switched off.
        template: None for a model without one: conversations have no tokens then.
    """

    def __init__(self, tokenizer: Tokenizer, template: ChatTemplate | None) -> None:
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._tokenizer = tokenizer
        self._template = template

    def encode(self, request: InferenceRequest, chars_max: int = CHARS_MAX) -> tuple[int, ...]:
        """Return the token ids of a prompt.

        Args:
            request: whose prompt.
            chars_max: longest text; a template may write what is no part of `prompt`, as fields of messages that it alone knows.

        Raises:
            TokenizeError: this API or this conversation cannot be rendered here, or the text is longer than that.

        Cost: about 2 us per token. The GIL is released while tokenizing, since `encode_batch` does so and `encode` does not.
        """
        texts, special = self._texts(request)
        if sum(map(len, texts)) > chars_max:
            raise TokenizeError("the rendered prompt is too long")
        try:
            encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=special)
        except Exception as error:  # noqa: BLE001 - the library raises bare exceptions, which may hold text of the prompt
            raise TokenizeError(f"the tokenizer failed ({type(error).__name__})") from None
        return tuple([token for encoding in encodings for token in encoding.ids])

    def _texts(self, request: InferenceRequest) -> tuple[list[str], bool]:
        """Return the texts, and whether the tokenizer adds special tokens of its own."""
        match request.api:
            case Api.COMPLETIONS | Api.EMBEDDINGS:
                return [text.decode(errors="replace") for text in request.prompt.split(PROMPTS_SEPARATOR)], True
            case Api.CHAT | Api.RESPONSES | Api.MESSAGES if request.chat is not None and self._template is not None:
                return [self._template.render(request.chat())], False
            case _:
                raise TokenizeError(f"no chat template for a request of the API {request.api.value}")


def _loops_over_content(tree: nodes.Template) -> bool:
    """Whether a template takes the content of a message apart."""
    return any(_is_content(loop.iter) for loop in tree.find_all(nodes.For))


def _is_content(node: nodes.Node) -> bool:
    match node:
        case nodes.Name(name="content") | nodes.Getattr(attr="content"):
            return True
        case nodes.Getitem(arg=nodes.Const(value="content")):
            return True
        case nodes.Filter(node=nodes.Node() as inner):
            return _is_content(inner)
        case _:
            return False


def _part(part: str | dict[str, Any]) -> dict[str, Any]:
    """Return a part of a content; what is text under another name becomes text."""
    if isinstance(part, str):
        return {"type": "text", "text": part}
    field = TEXTS.get(part.get("type", ""))
    return part if field is None else {"type": "text", "text": part.get(field)}


def _tool_call(call: object) -> object:
    """Return a tool call with its arguments decoded, as templates expect them."""
    if not isinstance(call, dict) or not isinstance(function := call.get("function"), dict):
        return call
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            arguments = msgspec.json.decode(arguments) if arguments else {}
        except msgspec.DecodeError:
            return call
    return {**call, "function": {**function, "arguments": arguments}}


def _to_json(value: object, ensure_ascii: bool = False, **how: Any) -> str:  # noqa: ANN401 - templates call it
    """Return JSON as templates expect it, without jinja2's escaping for HTML."""
    return json.dumps(value, ensure_ascii=ensure_ascii, **how)


def _raise(message: str) -> None:
    raise TemplateError(message)
