"""The chat page at `/`, and below `/api` the conversations it shows.

    GET    /api/conversations?search=&before=&limit=     list, last used first
    POST   /api/conversations                            title, folder, system, settings, temporary
    GET    /api/conversations/ID                         with all messages
    PATCH  /api/conversations/ID                         title, folder, system, settings, head
    DELETE /api/conversations/ID
    POST   /api/conversations/ID/generate                parent and new messages, or `continue`; answered in the background
    GET    /api/messages/ID/events?after=N               its pieces as they come (SSE), from any piece on
    POST   /api/messages/ID/stop                         comes back when nothing runs any more
    POST   /api/messages/ID/rewrite                      content: another version of an answer
    POST   /api/conversations/ID/fork                    message: a copy up to it
    /api/agent                                           runs of the agent, see agent_routes.py
    GET    /api/export?format=json|markdown&id=...       POST /api/import

It covers: no script, style, font or picture from anywhere but the package (Content-Security-Policy
with Trusted Types); no request from another site's page, by Origin, Fetch metadata and, against DNS
rebinding, the host's name. API keys are checked in front of the application, with those of `/v1`.
It does not part users from each other: one server, one set of conversations.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection
from contextlib import aclosing
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.concurrency import run_in_threadpool

from qwq.errors import QwqError, UsageError
from qwq.serve.errors import INVALID, error_response, fault_words
from qwq.serve.guards import SameSite
from qwq.serve.page.agent_routes import agent_routes
from qwq.serve.page.agent_runs import AgentRuns
from qwq.serve.page.assets import serve_files
from qwq.serve.page.conversation_store import Found, NotFound, Store, Stores, Whole
from qwq.serve.page.generation import Chat, Generations
from qwq.serve.page.message_tree import NewMessage, Settings, State, StoredConversation, StoredMessage
from qwq.serve.page.page_events import page_event, page_events
from qwq.serve.page.transfer import from_json, from_markdown, to_json, to_markdown

CONTINUABLE = (State.LENGTH, State.STOPPED, State.INTERRUPTED, State.ERROR)


class _PageBody(BaseModel):
    model_config = ConfigDict(extra="forbid")


class NewConversation(_PageBody):
    title: Annotated[str, Field(max_length=500)] = ""
    folder: Annotated[str, Field(max_length=80)] = ""
    system: str = ""
    settings: Settings = Settings()
    temporary: bool = False


class Fork(_PageBody):
    """The last message that the new conversation has."""

    message: int


class Rewrite(_PageBody):
    content: str


class Change(_PageBody):
    title: Annotated[str | None, Field(max_length=500)] = None
    folder: Annotated[str, Field(max_length=80)] = ""
    system: str | None = None
    settings: Settings | None = None
    head: int | None = None


class Ask(_PageBody):
    """`parent` and the new messages below it; or an answer to continue."""

    parent: int | None = None
    messages: list[NewMessage] = []
    continue_: Annotated[int | None, Field(alias="continue")] = None


def mount(
    app: FastAPI,
    *,
    database: Path | None,
    chat: Chat | None = None,
    allowed_hosts: Collection[str] = (),
    agent: AgentRuns | None = None,
) -> None:
    """Serve the page on `app`; `chat` answers it (`app.state.chat` where none is given).

    With no `database` conversations last as long as the server. `app.state.closing`, a list of
    coroutine functions, gets what has to be awaited before the engine ends. `allowed_hosts` are
    names besides localhost and this machine's own under which a browser may reach the page; "*"
    takes any. `agent` are the runs of its agent mode, where it has one.
    """
    stores = Stores(database)
    running = Generations(chat or app.state.chat)
    api = FastAPI(openapi_url=None)
    api.include_router(_conversations(stores, running))
    api.include_router(_answers(stores, running))
    api.include_router(_files(stores.kept))
    api.include_router(agent_routes(agent))
    api.add_exception_handler(QwqError, _failed)
    api.add_exception_handler(RequestValidationError, _invalid)
    api.add_middleware(SameSite, allowed_hosts=allowed_hosts)
    app.mount("/api", api)
    serve_files(app)

    async def close() -> None:
        await running.close()
        if agent is not None:
            await agent.close()
        stores.close()

    app.state.closing.append(close)


def _failed(request: Request, error: Exception) -> Response:
    if isinstance(error, UsageError):
        return error_response(404 if isinstance(error, NotFound) else 400, str(error), INVALID)
    return error_response(500, str(error), "server_error")


def _invalid(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    field = ".".join(str(p) for p in first["loc"] if p != "body") or "request"
    return error_response(400, f"{field}: {fault_words(first)}", INVALID)


# -- conversations ---------------------------------------------------------------------------------


def _summary(hit: Found) -> dict[str, Any]:
    c = hit.conversation
    entry = {"id": c.id, "title": c.title, "folder": c.folder, "created": c.created, "updated": c.updated}
    return entry | ({"message": hit.message, "snippet": hit.snippet} if hit.snippet else {})


def _out(message: StoredMessage, pieces: int = 0) -> dict[str, Any]:
    return message.model_dump(mode="json") | {"pieces": pieces}


def _conversations(stores: Stores, running: Generations) -> APIRouter:
    router = APIRouter(prefix="/conversations")

    @router.get("")
    def conversations(
        search: str = "", before: str = "", limit: Annotated[int, Query(ge=1, le=500)] = 100
    ) -> dict[str, Any]:
        if search.strip():
            return {"conversations": [_summary(f) for f in stores.kept.search(search)], "more": False}
        entries = stores.kept.recent(limit=limit + 1, before=_cursor(before))
        return {"conversations": [_summary(e) for e in entries[:limit]], "more": len(entries) > limit}

    @router.post("")
    def create(body: NewConversation) -> dict[str, Any]:
        store = stores.temporary if body.temporary else stores.kept
        fields = {"title": body.title, "folder": body.folder, "system": body.system, "settings": body.settings}
        return store.create(StoredConversation(id="", **fields)).model_dump(mode="json")

    @router.post("/{id}/fork")
    def fork(id: str, body: Fork) -> dict[str, Any]:
        return stores.of(id).fork(id, body.message).model_dump(mode="json")

    @router.get("/{id}")
    def whole(id: str) -> dict[str, Any]:
        whole = stores.of(id).whole(id)
        return whole.conversation.model_dump(mode="json") | {
            "messages": [_out(m, whole.pieces.get(m.id, 0)) for m in whole.messages]
        }

    @router.patch("/{id}")
    def change(id: str, body: Change) -> dict[str, Any]:
        store = stores.of(id)
        changed = store.get(id).model_copy(update={k: getattr(body, k) for k in body.model_fields_set})
        store.change(changed)
        return changed.model_dump(mode="json")

    @router.delete("/{id}")
    async def delete(id: str) -> dict[str, Any]:
        whole = await run_in_threadpool(stores.of(id).whole, id)
        await running.stop([m.id for m in whole.messages])
        await run_in_threadpool(stores.of(id).delete, id)
        return {"deleted": id}

    return router


def _cursor(before: str) -> tuple[float, str] | None:
    if not before:
        return None
    updated, _, id = before.partition(",")
    try:
        return float(updated), id
    except ValueError:
        raise UsageError(f"before: {before!r} is not `updated,id` of a conversation") from None


# -- answers ---------------------------------------------------------------------------------------


def _answers(stores: Stores, running: Generations) -> APIRouter:
    router = APIRouter()

    @router.post("/conversations/{id}/generate")
    async def generate(id: str, body: Ask) -> dict[str, Any]:
        store = stores.of(id)
        if body.continue_ is not None:
            whole = await run_in_threadpool(stores.of(id).whole, id)
            added: list[StoredMessage] = []
            answer = _continued(whole, body.continue_)
            await run_in_threadpool(store.begin_again, answer)
            answer = answer.model_copy(update={"state": State.STREAMING, "error": None})
        else:
            if body.parent is None and not body.messages:
                raise UsageError("messages: there is nothing to answer: give one, or a parent")
            added, answer = await run_in_threadpool(store.begin, id, body.parent, body.messages)
            whole = await run_in_threadpool(stores.of(id).whole, id)
        running.start(store, whole, answer)
        return {"messages": [_out(m) for m in added], "answer": _out(answer), "title": whole.conversation.title}

    @router.get("/messages/{id}/events")
    async def events(id: int, after: Annotated[int, Query(ge=0)] = 0) -> Response:
        store = stores.of(id)
        await run_in_threadpool(store.message, id)
        return StreamingResponse(
            _events(store, running, id, after), media_type="text/event-stream", headers={"X-Accel-Buffering": "no"}
        )

    @router.post("/messages/{id}/stop")
    async def stop(id: int) -> dict[str, Any]:
        await running.stop([id])
        return _out(await run_in_threadpool(stores.of(id).message, id))

    @router.post("/messages/{id}/rewrite")
    def rewrite(id: int, body: Rewrite) -> dict[str, Any]:
        return _out(stores.of(id).rewrite(id, body.content))

    return router


def _continued(whole: Whole, id: int) -> StoredMessage:
    answer = next((m for m in whole.messages if m.id == id), None)
    if answer is None:
        raise NotFound(f"message {id} is not in conversation {whole.conversation.id}: load the conversation again")
    if answer.role != "assistant" or answer.state not in CONTINUABLE or answer.tool_calls:
        raise UsageError(
            f"continue: message {id} is not an answer that was cut off ({answer.role}, {answer.state}): "
            "ask for a new one"
        )
    return answer


async def _events(store: Store, running: Generations, id: int, after: int) -> AsyncIterator[bytes]:
    generation = running.get(id)
    if generation is not None:

        def pieces(batch: Any) -> dict[str, Any]:
            return {"pieces": [[p.kind, p.text] for p in batch], "last": batch[-1].number}

        async with aclosing(page_events(generation.follow(after), pieces)) as events:
            async for event in events:
                yield event
        assert generation.final is not None
        yield page_event({"done": _out(generation.final)})
    else:
        yield page_event({"done": _out(await run_in_threadpool(store.message, id))})


# -- files in and out ------------------------------------------------------------------------------


def _files(store: Store) -> APIRouter:
    router = APIRouter()

    @router.get("/export")
    def export(id: Annotated[list[str], Query()] = [], format: str = "json") -> Response:  # noqa: B006 (FastAPI reads it)
        if format not in ("json", "markdown"):
            raise UsageError(f"format: {format!r} is neither json nor markdown")
        ids = id or [f.conversation.id for f in store.recent(limit=1_000_000)]
        wholes = [store.whole(i) for i in ids]
        pairs = [(w.conversation, w.messages) for w in wholes]
        text = to_json(pairs) if format == "json" else to_markdown(pairs)
        name = (pairs[0][0].title if len(pairs) == 1 else "") or "conversations"
        ending = "json" if format == "json" else "md"
        disposition = (
            f"attachment; filename=\"conversations.{ending}\"; filename*=UTF-8''{quote(name[:80], safe='')}.{ending}"
        )
        kind = "application/json" if format == "json" else "text/markdown"
        return Response(
            text.encode("utf-8", "replace"),
            media_type=f"{kind}; charset=utf-8",
            headers={"Content-Disposition": disposition},
        )

    @router.post("/import")
    async def import_(request: Request) -> dict[str, Any]:
        try:
            text = (await request.body()).decode("utf-8-sig")
        except UnicodeDecodeError:
            raise UsageError("the file is not UTF-8 text: import JSON or Markdown that the page exported") from None
        read = from_json if text.lstrip()[:1] in ("{", "[") else from_markdown
        return {"ids": await run_in_threadpool(lambda: store.insert(read(text)))}

    return router
