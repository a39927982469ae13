"""Serves the repositories in a directory with dulwich: server.py LIBRARY PORT DIRECTORY"""
import os
import sys

sys.path.insert(0, sys.argv[1])

from dulwich.server import FileSystemBackend  # noqa: E402
from dulwich.web import WSGIRequestHandlerLogger, WSGIServerLogger, make_server, make_wsgi_chain  # noqa: E402


class Below(FileSystemBackend):
    """The path of a URL begins with a slash, which this would take for the root of the file system."""

    def open_repository(self, path):
        return super().open_repository(os.path.join(self.root, os.fsdecode(path).lstrip("/")))


make_server(
    "127.0.0.1",
    int(sys.argv[2]),
    make_wsgi_chain(Below(sys.argv[3])),
    handler_class=WSGIRequestHandlerLogger,
    server_class=WSGIServerLogger,
).serve_forever()
