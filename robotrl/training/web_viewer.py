"""A viewer in the browser, for machines without a screen.

It answers on the loopback interface only, and only to requests that name it so: another web site that
is open in the same browser can neither look nor steer (DNS rebinding, cross-site posts). From another
machine, use a tunnel: `ssh -L 8000:127.0.0.1:8000 HOST`.

The simulation and the drawing run in the thread that calls `run`, requests in threads of their own:
they wait for pictures and leave commands.
"""

from __future__ import annotations

import io
import json
import math
import queue
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

from PIL import Image

from robotrl.core.errors import UsageError
from robotrl.sim.rendering import Quality, Renderer
from robotrl.training.playback import Playback
from robotrl.training.replay import Recorded

_PAGE = Path(__file__).parent / "templates" / "viewer.html"
_LOOPBACK = {"127.0.0.1", "localhost", "::1"}
_PICTURE_S = 1 / 30
_WATCHED_S = 2.0
_MAX_COMMAND_BYTES = 1024
_SPEEDS = (0.05, 8.0)


class WebViewer:
    """Serves one `Playback` or recording to a browser; it plays while somebody watches.

    Args:
        playback: what to show.
        port: TCP port on 127.0.0.1; 0 for any free one.
        width: of the picture, px.
        height: of the picture, px.

    Raises:
        UsageError: the port is taken or may not be used.
    """

    def __init__(self, playback: Playback | Recorded, port: int, width: int = 800, height: int = 500) -> None:
        self.playback = playback
        self.paused = False
        self.speed = 1.0
        self._size = (width, height)
        self._commands: queue.SimpleQueue[Mapping[str, Any]] = queue.SimpleQueue()
        self._new_picture = threading.Condition()
        self._number, self._jpeg, self._state = 0, b"", "{}"
        self._asked_at = -math.inf
        self._stopped = threading.Event()
        try:
            self._server = _Server(("127.0.0.1", port), self)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UsageError(f"cannot serve on port {port}: {reason}; choose another port") from error
        threading.Thread(
            target=self._server.serve_forever, kwargs={"poll_interval": 0.1}, daemon=True
        ).start()

    @property
    def address(self) -> str:
        """Where a browser on this machine finds it."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/"

    def run(self) -> None:
        """Play and draw until `stop`; an exception (Ctrl-C) ends it as well."""
        with Renderer(self.playback.env.sim, *self._size, quality=Quality.LIVE) as renderer:
            due = time.monotonic()
            self._publish(renderer)
            while not self._stopped.is_set():
                started = time.monotonic()
                changed = self._obey(renderer)
                if self.paused or started - self._asked_at > _WATCHED_S:
                    due = started
                # a machine too slow for real time shows slow motion instead of falling behind
                due = max(due, started - 0.25)
                while due < started:
                    self.playback.advance()
                    due += self.playback.dt_s / self.speed
                    changed = True
                if changed:
                    self._publish(renderer)
                self._stopped.wait(max(started + _PICTURE_S - time.monotonic(), 0.001))

    def stop(self) -> None:
        """End `run`, from any thread."""
        self._stopped.set()

    def close(self) -> None:
        """Stop serving and free the port."""
        self.stop()
        self._server.shutdown()
        self._server.server_close()

    def __enter__(self) -> WebViewer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def picture_after(self, number: int, timeout_s: float) -> tuple[int, bytes, str]:
        """Wait for a picture newer than `number`; return its number, JPEG and state as JSON."""
        self._asked_at = time.monotonic()
        with self._new_picture:
            self._new_picture.wait_for(lambda: self._number > number, timeout_s)
            return self._number, self._jpeg, self._state

    def command(self, command: Any) -> None:
        """Leave a command for `run`, checked.

        Args:
            command: one of `{"paused": bool}`, `{"reset": true}`, `{"speed": x}` with x times real
                time, `{"turn": [azimuth_deg, elevation_deg, zoom]}`.

        Raises:
            ValueError: it is none of these.
        """
        if not isinstance(command, dict) or len(command) != 1:
            raise ValueError("expected an object with one command")
        (name, value), *_ = command.items()
        known = {
            "paused": lambda: isinstance(value, bool),
            "reset": lambda: value is True,
            "speed": lambda: _is_number(value) and _SPEEDS[0] <= value <= _SPEEDS[1],
            "turn": lambda: (
                isinstance(value, list) and len(value) == 3 and all(map(_is_number, value)) and value[2] > 0
            ),
        }
        if name not in known or not known[name]():
            raise ValueError(f"no such command: {command}")
        self._commands.put(command)

    def _obey(self, renderer: Renderer) -> bool:
        changed = False
        while not self._commands.empty():
            (name, value), *_ = self._commands.get().items()
            changed = True
            if name == "paused":
                self.paused = value
            elif name == "speed":
                self.speed = float(value)
            elif name == "reset":
                self.playback.restart()
            else:
                renderer.free_camera().turn(*value)
        return changed

    def _publish(self, renderer: Renderer) -> None:
        buffer = io.BytesIO()
        Image.fromarray(renderer.render()[0]).save(buffer, "JPEG", quality=85)
        with self._new_picture:
            self._number += 1
            self._jpeg, self._state = buffer.getvalue(), json.dumps(self._snapshot())
            self._new_picture.notify_all()

    def _snapshot(self) -> dict[str, Any]:
        playback = self.playback
        return {
            "task": playback.task_name,
            "episode": playback.episode,
            "time_s": playback.time_s,
            "return": playback.episode_return,
            "last_return": playback.last_return,
            "terms": playback.reward_terms,
            "terms_label": playback.terms_label,
            "diverged": playback.env.num_diverged,
            "paused": self.paused,
            "speed": self.speed,
        }


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], viewer: WebViewer) -> None:
        self.viewer = viewer
        super().__init__(address, _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a browser that closes its tab breaks its connections."""


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    timeout = 30
    server_version = "robotrl"
    sys_version = ""

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if not self._is_local():
            self._answer(403, b"this viewer answers to loopback names only\n", "text/plain")
        elif url.path == "/":
            self._answer(200, _PAGE.read_bytes(), "text/html; charset=utf-8")
        elif url.path == "/frame":
            after = parse_qs(url.query).get("after", ["0"])[0]
            if not after.isdecimal() or len(after) > 15:
                self._answer(400, b"after must be the number of a picture\n", "text/plain")
                return
            number, jpeg, state = self.server.viewer.picture_after(int(after), timeout_s=1.0)
            if number > int(after):
                self._answer(200, jpeg, "image/jpeg", {"X-Number": str(number), "X-State": state})
            else:
                self._answer(204, b"", "image/jpeg")
        else:
            self._answer(404, b"not found\n", "text/plain")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > _MAX_COMMAND_BYTES:
            self.close_connection = True  # its body stays unread
            self._answer(413, b"a command is short\n", "text/plain")
            return
        body = self.rfile.read(int(length))
        # other sites cannot send this content type without asking first, and nobody says yes
        is_json = self.headers.get("Content-Type", "").split(";")[0].strip() == "application/json"
        if not self._is_local() or not is_json:
            self._answer(403, b"commands come from the viewer's own page\n", "text/plain")
        elif self.path != "/command":
            self._answer(404, b"not found\n", "text/plain")
        else:
            try:
                self.server.viewer.command(json.loads(body))
            except (ValueError, OverflowError, RecursionError):
                self._answer(400, b"not a command\n", "text/plain")
            else:
                self._answer(204, b"", "text/plain")

    def _is_local(self) -> bool:
        """Whether the browser thinks it talks to this machine, and the asking page came from it."""
        origin = self.headers.get("Origin")
        sources = [f"//{self.headers.get('Host', '')}", *([origin] if origin else [])]
        try:
            return all(urlsplit(source).hostname in _LOOPBACK for source in sources)
        except ValueError:
            return False

    def _answer(self, status: int, body: bytes, kind: str, extra: Mapping[str, str] | None = None) -> None:
        self.send_response(status)
        headers = {
            "Content-Type": kind,
            "Content-Length": str(len(body)),
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Content-Security-Policy": "default-src 'none'; img-src blob:; connect-src 'self'; "
            "style-src 'unsafe-inline'; script-src 'unsafe-inline'",
            **(extra or {}),
        }
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing about requests."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
