"""Real servers for tests: `mlflow server` as a process, and a proxy before it that misbehaves as networks do."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_until(condition, what, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds} s in vain until {what}"
        time.sleep(0.05)


class MlflowServer:
    """`mlflow server` on 127.0.0.1; what it stores lies in a database, so that it can be killed and started again."""

    def __init__(self, folder, backend=None, options=()):
        self.folder, self.port = folder, free_port()
        self.backend = backend or f"sqlite:///{folder / 'server.db'}"
        self.options = options
        self.uri = f"http://127.0.0.1:{self.port}"

    def start(self):
        words = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        words += ["--backend-store-uri", self.backend, "--artifacts-destination", str(self.folder / "files")]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *words, *self.options],
                stdout=log,
                stderr=log,
                env=os.environ | quiet,
                start_new_session=True,
            )
        wait_until(self.answers, f"MLflow answers: see {self.folder / 'server.log'}")
        return self

    def answers(self):
        assert self.process.poll() is None, (self.folder / "server.log").read_text()
        with suppress(OSError):
            return urllib.request.urlopen(f"{self.uri}/health", timeout=5).status == 200
        return False

    def kill(self):
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


class Proxy:
    """Hands requests on to a server, or does as `mood` says.

    Moods: `well`; a status code, which is answered; `lose`: the request is handed on, and its answer is lost;
    `slow`: each takes a fifth of a second longer.
    """

    def __init__(self, port, upstream):
        self.mood: int | str = "well"
        self.only = ""
        self.requests: list[str] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def handle_one(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                proxy.requests.append(self.path)
                mood = proxy.mood if proxy.only in self.path else "well"
                if isinstance(mood, int):
                    self.send_response(mood)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                if mood == "slow":
                    time.sleep(0.2)
                link = http.client.HTTPConnection("127.0.0.1", upstream, timeout=60)
                kept = {"Content-Type": self.headers.get("Content-Type", "application/json")}
                link.request(self.command, self.path, body, kept)
                answer = link.getresponse()
                text = answer.read()
                link.close()
                if mood == "lose":
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.headers.get("Content-Type", "application/json"))
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = handle_one  # noqa: N815 - as http.server asks

            def log_message(self, *_):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()
        self.uri = f"http://127.0.0.1:{port}"

    def stop(self):
        self._server.shutdown()
        self._server.server_close()
