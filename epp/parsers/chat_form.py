"""What the chat APIs share when they bring a body into the form that chat templates take: it follows what vLLM hands to them.

Templates write tools into the prompt as JSON, so the order of their fields, and which of them are there, is part of the prompt.
"""

from typing import Any, Final

OPTIONAL: Final = ("strict", "defer_loading")
"""Fields of a function that are there only when they are set; others are there always."""


def function_tool(function: dict[str, Any]) -> dict[str, Any]:
    """Return a function as a tool: known fields in vLLM's order, null where the client left one out, and no other field."""
    made = {"name": function.get("name", ""), "description": function.get("description"), "parameters": function.get("parameters")}
    made |= {name: value for name in OPTIONAL if (value := function.get(name)) is not None}
    return {"type": "function", "function": made}


def template_options(found: dict[str, Any]) -> dict[str, Any]:
    """Return what the body asks of the template."""
    options = found.get("chat_template_kwargs")
    return options if isinstance(options, dict) else {}
