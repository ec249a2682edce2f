"""The scripted API with a chat model beside its transcriptions."""

import asyncio
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from tests.support.scripted_api import Reply, ScriptedApi

TOKENS = {"prompt_tokens": 200, "completion_tokens": 20, "total_tokens": 220}


@dataclass(frozen=True, slots=True)
class Question:
    """One chat request, as the server saw it."""

    body: dict[str, Any]
    authorization: str

    @property
    def transcript(self) -> str:
        """What it quotes."""
        return str(json.loads(self.body["messages"][-1]["content"])["transcript"])


class ScriptedChat(ScriptedApi):
    """``answer`` makes the model's words of what was asked; ``replies`` come first, in order."""

    def __init__(
        self,
        answer: Callable[[Question], str] = lambda question: question.transcript,
        *replies: Reply,
        usage: dict[str, int] | None = TOKENS,
        finish_reason: str = "stop",
    ) -> None:
        super().__init__()
        self._words = answer
        self._replies = deque(replies)
        self._usage = usage
        self._finish_reason = finish_reason
        self.questions: list[Question] = []
        self.asked = asyncio.Event()
        self.chats_open = 0
        self.chats_peak = 0
        self.may_answer = asyncio.Event()
        self.may_answer.set()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/v1/chat/completions":
            await super()._answer(scope, receive, send)
            return
        request = Request(scope, receive)
        question = Question(await request.json(), request.headers.get("authorization", ""))
        self.questions.append(question)
        self.chats_open += 1
        self.chats_peak = max(self.chats_peak, self.chats_open)
        self.asked.set()
        try:
            await self.may_answer.wait()
            await self._chat(question)(scope, receive, send)
        finally:
            self.chats_open -= 1

    def _chat(self, question: Question) -> Response:
        reply = self._replies.popleft() if self._replies else Reply()
        if reply.error is not None:
            return JSONResponse({"error": reply.error}, reply.status, reply.headers)
        if reply.body is not None:
            return Response(reply.body, reply.status, reply.headers, reply.media_type)
        message = {"role": "assistant", "content": self._words(question), "refusal": None}
        choice = {"index": 0, "message": message, "finish_reason": self._finish_reason, "logprobs": None}
        found = {"id": "c", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice]}
        return JSONResponse({**found, **({"usage": self._usage} if self._usage is not None else {})})
