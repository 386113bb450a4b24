"""A gate as a process, for the suites that are written in Python."""

import json
import os
import pathlib
import subprocess
import tempfile
import time
import urllib.error
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[2]
PATIENCE = 20.0


class Gate:
    """A running gate on free ports, with a store of its own. It ends with the `with` block."""

    def __init__(self, binary, token=None, listen="127.0.0.1:0"):
        self.folder = tempfile.TemporaryDirectory(prefix="streamgate-")
        self.token = token
        self.log = pathlib.Path(self.folder.name, "log")
        environment = {"PATH": os.environ["PATH"]}
        arguments = [str(binary), "--tcp", "127.0.0.1:0", "--udp", "off", "--http", "127.0.0.1:0"]
        arguments += ["--control", listen, "--store", str(pathlib.Path(self.folder.name, "store"))]
        arguments += ["--files", str(pathlib.Path(self.folder.name, "files"))]
        arguments += ["--spool", str(pathlib.Path(self.folder.name, "spool"))]
        if token:
            environment["STREAMGATE_TEST_TOKEN"] = token
            arguments += ["--bootstrap-token", "env:STREAMGATE_TEST_TOKEN"]
        self.process = subprocess.Popen(
            arguments, env=environment, stdout=subprocess.DEVNULL, stderr=self.log.open("wb")
        )
        self.port = self._find_port()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.folder.cleanup()

    def _find_port(self):
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            lines = [json.loads(line) for line in self.log.read_text().splitlines()]
            fields = [line["fields"] for line in lines]
            found = [f["address"] for f in fields if f.get("listener") == "control"]
            if found and any(f["message"] == "ready" for f in fields):
                return int(found[0].rsplit(":", 1)[1])
            time.sleep(0.05)
        raise SystemExit(f"the gate did not start:\n{self.log.read_text()}")

    @property
    def url(self):
        return f"http://127.0.0.1:{self.port}"

    def ask(self, method, path, body=None):
        """Sends a request as a command-line client does; returns the answer's JSON."""
        headers = {}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
            body = json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, body, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            raise SystemExit(f"{method} {path}: {error.code} {error.read().decode()}") from None
