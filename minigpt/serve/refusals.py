"""What a client is told when its request is refused: in the shape that OpenAI's and Anthropic's clients know."""

import math
from typing import Any

ANTHROPIC = "/v1/messages"  # paths that begin so answer in Anthropic's shape
# HTTP status -> the type that each of the two APIs has for it.
TYPES = {
    400: ("invalid_request_error", "invalid_request_error"),
    401: ("authentication_error", "authentication_error"),
    403: ("permission_error", "permission_error"),
    404: ("invalid_request_error", "not_found_error"),
    405: ("invalid_request_error", "invalid_request_error"),
    408: ("invalid_request_error", "timeout_error"),
    413: ("invalid_request_error", "request_too_large"),
    429: ("rate_limit_error", "rate_limit_error"),
    431: ("invalid_request_error", "invalid_request_error"),
    500: ("server_error", "api_error"),
    503: ("server_error", "overloaded_error"),
    504: ("server_error", "timeout_error"),
}


class Refused(Exception):
    """A request that is not answered: an HTTP status, a sentence, and what OpenAI calls code and param.

    `retry_after`: seconds after which it may succeed.
    """

    def __init__(
        self, status: int, message: str, code: str | None = None, param: str | None = None,
        retry_after: float | None = None,
    ):  # fmt: skip
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after = retry_after

    def body(self, path: str) -> dict[str, Any]:
        """The JSON for a request to `path`."""
        openai, anthropic = TYPES.get(self.status, TYPES[500 if self.status >= 500 else 400])
        if path.startswith(ANTHROPIC):
            return {"type": "error", "error": {"type": anthropic, "message": self.message}}
        return {"error": {"message": self.message, "type": openai, "param": self.param, "code": self.code}}

    def headers(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"Retry-After": str(max(1, math.ceil(self.retry_after)))}


def unknown_model(name: str, known: list[str]) -> Refused:
    message = f"The model {name[:200]!r} does not exist. This server has: {', '.join(known)}."
    return Refused(404, message, "model_not_found", "model")


def invalid(message: str, param: str | None = None, code: str | None = None) -> Refused:
    return Refused(400, message, code, param)


def from_validation(errors: list[dict[str, Any]]) -> Refused:
    """The first mistake that pydantic found, in OpenAI's words."""
    first = errors[0]
    place = [part for part in first["loc"] if part != "body"]
    param = ".".join(str(part) for part in place if not _is_branch(part))[:200] or None
    if first["type"] == "extra_forbidden":
        return invalid(f"Unrecognized request argument supplied: {param}.", param, "unknown_parameter")
    if first["type"] == "missing":
        return invalid(f"Missing required parameter: {param or 'the body'}.", param, "missing_required_parameter")
    if first["type"] == "json_invalid":
        return invalid("The body is not valid JSON.", None, "invalid_json")
    where = f"Invalid value for {param}" if param else "Invalid request"
    return invalid(f"{where}: {first['msg'][:500]}.", param, "invalid_value")


def _is_branch(part: Any) -> bool:
    """Whether a part of a place names the branch of a union that was tried, not a field of the request."""
    return isinstance(part, str) and (not part.isidentifier() or part[:1].isupper() or part in ("str", "int", "float"))
