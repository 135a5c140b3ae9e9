"""A model behind a URL that speaks OpenAI's chat API, as vLLM, llama.cpp, Ollama and many services do."""

from dataclasses import dataclass
from typing import Any

from minigpt.errors import MiniGPTError, UsageError
from minigpt.units import shortened

LONGEST = 512  # tokens of an answer


@dataclass
class Endpoint:
    """Where it is (`url` ends in /v1), which `model` answers, and how long it may take. `key` is sent, never shown.

    A request that fails for a reason that may pass (no connection, too slow, overloaded) is tried `retries` times more,
    after growing pauses.
    """

    url: str
    model: str
    key: str = "none"
    timeout: float = 60.0
    retries: int = 2
    _client: Any = None

    def ask(self, messages: list[dict], most: int = LONGEST) -> str:
        """The answer of at most `most` tokens to a conversation. Raises MiniGPTError, with what happened in a sentence,
        when there is none.
        """
        import openai

        try:
            found = self._opened().chat.completions.create(
                model=self.model, messages=messages, temperature=0.0, max_tokens=most
            )
            text = found.choices[0].message.content
        except openai.APITimeoutError:
            what = f"did not answer within {self.timeout:g} seconds, {self.retries + 1} times"
            raise self._failed(what, "Give it more time, or ask a smaller model.") from None
        except openai.APIConnectionError as error:
            reason = str(error.__cause__ or error).rstrip(".")
            raise self._failed(f"cannot be reached ({reason})", "Is it running, and is the URL right?") from None
        except openai.APIStatusError as error:
            hint = "Check --model and the key in OPENAI_API_KEY." if error.status_code < 500 else "Look at its own log."
            raise self._failed(f"answered with the error {error.status_code}: {_line(error.message)}", hint) from None
        except (openai.OpenAIError, AttributeError, IndexError, TypeError, ValueError) as error:
            what = f"sent something that is no answer of a chat API ({type(error).__name__}: {_line(str(error))})"
            raise self._failed(what, "Its URL should end in /v1.") from None
        if not isinstance(text, str) or not text.strip():
            raise self._failed("sent an empty answer", "Look at its own log.")
        return text

    def _opened(self) -> Any:
        import openai

        if self._client is None:
            self._client = openai.OpenAI(
                base_url=self.url, api_key=self.key, timeout=self.timeout, max_retries=self.retries
            )
        return self._client

    def _failed(self, what: str, hint: str) -> MiniGPTError:
        return MiniGPTError(f"The endpoint {self.url} {what}.", hint)


def check_endpoint(url: str) -> None:
    """Raises UsageError for what is no URL, and where the client is not installed."""
    if not url.startswith(("http://", "https://")):
        raise UsageError(f"{url} is no address of an endpoint.", "Write it as http://localhost:8080/v1")
    try:
        import openai  # noqa: F401 - only whether it is there
    except ImportError:
        raise UsageError("An endpoint needs the package openai.", 'pip install "minigpt[feedback]"') from None


def _line(text: str, most: int = 120) -> str:
    return shortened(" ".join(text.split()), most)
