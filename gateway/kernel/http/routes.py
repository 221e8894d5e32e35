"""Routes as data: what the server dispatches by, and what the OpenAPI document is made from."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from gateway.kernel.http.admission import Priority
from gateway.kernel.http.messages import Request, Response, Stream

Handler = Callable[[Request], Awaitable[Response | Stream]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One method on one path.

    Args:
        path: a template, `{name}` matches one segment.
        handler: takes the whole request, returns the whole answer or a stream, or raises Problem.
        summary: one line for the document.
        scope: what the access token must permit; "" any valid token; None: public.
        body: the type of the JSON body, if the route reads one. `form` types are read from
            `application/x-www-form-urlencoded`.
        query: the type of the query parameters; every other parameter is refused.
        answers: status to the type of its body (None: no JSON body).
        problems: slugs this route may answer beside those every route may.
        is_idempotent: needs an Idempotency-Key.
        is_conditional: needs an If-Match, with the ETag of what was read.
        is_hot: dispatched first and authorizes by itself, in its one call into the core.
        priority: who is turned away first when the worker has too much to do.
        media_type: of the successful answer.
    """

    method: str
    path: str
    handler: Handler
    summary: str
    tag: str
    scope: str | None
    answers: dict[int, Any]
    body: Any = None
    form: Any = None
    query: Any = None
    problems: tuple[str, ...] = ()
    is_idempotent: bool = False
    is_conditional: bool = False
    is_hot: bool = False
    priority: Priority = Priority.READ
    media_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Found:
    """A route and what its template matched."""

    route: Route
    params: dict[str, str] = field(default_factory=dict)


class RouteTable:
    """Finds routes: exact paths by a dictionary, templates segment by segment."""

    def __init__(self, routes: list[Route]) -> None:
        self.routes = routes
        self._exact: dict[str, dict[str, Route]] = {}
        self._templates: dict[int, list[tuple[list[str], dict[str, Route]]]] = {}
        for route in routes:
            methods = self._methods_of(route.path)
            if route.method in methods:
                raise ValueError(f"{route.method} {route.path} is routed twice")
            methods[route.method] = route

    def _methods_of(self, path: str) -> dict[str, Route]:
        if "{" not in path:
            return self._exact.setdefault(path, {})
        segments = path.split("/")
        same_length = self._templates.setdefault(len(segments), [])
        for seen, methods in same_length:
            if seen == segments:
                return methods
        fresh: dict[str, Route] = {}
        same_length.append((segments, fresh))
        return fresh

    def find(self, method: str, path: str) -> Found | list[str] | None:
        """Return the route, or the methods the path does answer, or None for no such path."""
        methods = self._exact.get(path)
        params: dict[str, str] = {}
        if methods is None:
            methods, params = self._find_template(path)
        if methods is None:
            return None
        route = methods.get(method)
        return Found(route, params) if route else sorted(methods)

    def _find_template(self, path: str) -> tuple[dict[str, Route] | None, dict[str, str]]:
        segments = path.split("/")
        for template, methods in self._templates.get(len(segments), ()):
            params = {}
            for wanted, given in zip(template, segments, strict=True):
                if wanted.startswith("{"):
                    if not given:
                        break
                    params[wanted[1:-1]] = given
                elif wanted != given:
                    break
            else:
                return methods, params
        return None, {}
