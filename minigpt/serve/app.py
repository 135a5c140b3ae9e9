"""The application: its endpoints, and what becomes of errors."""

from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request as HTTPRequest
from starlette.responses import HTMLResponse, Response

from minigpt import __version__
from minigpt.serve.calls import Left
from minigpt.serve.chat import add_chat
from minigpt.serve.chat_page import chat_page
from minigpt.serve.completions import add_completions
from minigpt.serve.guard import Doors, Guard
from minigpt.serve.messages import add_messages
from minigpt.serve.metrics import Metrics
from minigpt.serve.refusals import Refused, from_validation, unknown_model
from minigpt.serve.responses import add_responses
from minigpt.serve.service import JSON, Service
from minigpt.serve.tokens import add_tokens
from minigpt.serve.worker import Served, Worker

# What any request may be answered with, for the description at /openapi.json.
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"description": text}
    for status, text in {
        400: "The request is not valid.", 401: "The API key is missing or wrong.", 403: "A foreign Host or Origin.",
        404: "There is no such model.", 408: "The body came too slowly.", 413: "The body is too large.",
        429: "Too many requests; Retry-After says when.", 503: "The server is ending, or its engine has failed.",
    }.items()
}  # fmt: skip


def make_app(worker: Worker, doors: Doors) -> Guard:
    """The ASGI application of a worker whose models are open."""
    # No pages of FastAPI's own: they load scripts from elsewhere.
    app = FastAPI(title="MiniGPT", version=__version__, docs_url=None, redoc_url=None, responses=_ERRORS)
    service, metrics = Service(worker), Metrics(worker)
    for add in (add_chat, add_completions, add_responses, add_messages, add_tokens):
        add(app, service)
    _add_models(app, worker)
    _add_state(app, worker, doors, metrics)
    _add_refusals(app)
    return Guard(app, doors, metrics.answered)


def _add_models(app: FastAPI, worker: Worker) -> None:
    def shown(model: Served) -> dict[str, Any]:
        return {
            "id": model.name, "object": "model", "created": model.created, "owned_by": "minigpt", "stage": model.stage,
            "max_model_len": model.context, "answers": model.answers,
        }  # fmt: skip

    @app.get("/v1/models", summary="The models")
    async def models() -> Response:
        return JSON({"object": "list", "data": [shown(model) for model in worker.models.values()]})

    @app.get("/v1/models/{name:path}", summary="One model")
    async def one(name: str) -> Response:
        if name not in worker.models:
            raise unknown_model(name, list(worker.models))
        return JSON(shown(worker.models[name]))


def _add_state(app: FastAPI, worker: Worker, doors: Doors, metrics: Metrics) -> None:
    def state(ending: bool) -> Response:
        trouble = worker.trouble()
        if trouble is None and ending:
            trouble = "The server is ending."
        found = {"status": "ok" if trouble is None else "error", "version": __version__} | (
            {} if trouble is None else {"reason": trouble}
        )
        answer = JSON(found)
        answer.status_code = 200 if trouble is None else 503
        return answer

    @app.get("/health", summary="Whether it takes requests")
    async def health() -> Response:
        return state(doors.ending)

    @app.get("/live", summary="Whether it is worth keeping: also while it ends")
    async def live() -> Response:
        return state(False)

    @app.get("/metrics", summary="For Prometheus")
    async def numbers() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/", summary="The chat page", response_class=HTMLResponse)
    async def page() -> Response:
        return HTMLResponse(chat_page())


def _add_refusals(app: FastAPI) -> None:
    def answer(http: HTTPRequest, refusal: Refused) -> Response:
        http.state.notes["refused"] = refusal.code or refusal.status
        found = JSON(refusal.body(http.url.path))
        found.status_code = refusal.status
        found.headers.update(refusal.headers())
        return found

    @app.exception_handler(Refused)
    async def refused(http: HTTPRequest, error: Refused) -> Response:
        return answer(http, error)

    @app.exception_handler(Left)
    async def left(http: HTTPRequest, error: Left) -> Response:
        return Response(status_code=499)  # nobody reads it; the log does

    @app.exception_handler(RequestValidationError)
    async def unfit(http: HTTPRequest, error: RequestValidationError) -> Response:
        return answer(http, from_validation(list(error.errors())))

    @app.exception_handler(HTTPException)
    async def unknown(http: HTTPRequest, error: HTTPException) -> Response:
        words = {404: f"There is no {http.url.path[:200]} here.", 405: "This path does not take that method.",
                 400: "The body is not valid JSON."}  # fmt: skip
        words = words.get(error.status_code, str(error.detail))
        return answer(http, Refused(error.status_code, words, "invalid_request"))

    @app.exception_handler(Exception)
    async def failed(http: HTTPRequest, error: Exception) -> Response:
        return answer(http, Refused(500, f"{type(error).__name__} in the server.", "internal_error"))
