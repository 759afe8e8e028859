"""An address that takes a request and answers nothing: what granian and Starlette alone cost."""

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


async def answer(request: Request) -> Response:
    """Read the body, and answer."""
    await request.body()
    return Response(b"{}", media_type="application/json")


EMPTY = Starlette(routes=[Route("/v1/predict", answer, methods=["POST"])])
