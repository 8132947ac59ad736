"""EC2's instance metadata service (IMDSv2) on this machine's loopback, as far as a listener to spot notices asks it."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread


@dataclass
class Metadata:
    """What the service answers; a test changes it while it runs."""

    items: dict[str, str] = field(default_factory=lambda: {"instance-life-cycle": "spot"})
    """Below /latest/meta-data/."""
    failing: dict[str, list[int]] = field(default_factory=dict)
    """Statuses of the next answers, by item; those to a request for a token under api/token."""
    tokens: list[str] = field(default_factory=list)
    """Those that hold."""
    seconds: list[str] = field(default_factory=list)
    """How long each token was asked to hold."""
    asked: list[str] = field(default_factory=list)
    """Items that were asked for."""
    url: str = ""


@contextmanager
def metadata_service(given: Metadata) -> Iterator[Metadata]:
    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            seconds = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds")
            if self.path != "/latest/api/token" or not seconds:
                return self.reply(400)
            if given.failing.get("api/token"):
                return self.reply(given.failing["api/token"].pop())
            given.seconds.append(seconds)
            given.tokens.append(f"token-{len(given.seconds)}")
            return self.reply(200, given.tokens[-1])

        def do_GET(self) -> None:
            item = self.path.removeprefix("/latest/meta-data/")
            given.asked.append(item)
            if given.failing.get(item):
                return self.reply(given.failing[item].pop())
            if self.headers.get("X-aws-ec2-metadata-token") not in given.tokens:
                return self.reply(401)
            return self.reply(200, given.items[item]) if item in given.items else self.reply(404)

        def reply(self, status: int, text: str = "") -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    given.url = f"http://127.0.0.1:{server.server_port}"
    thread = Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield given
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
