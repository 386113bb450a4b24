"""A web page of another origin cannot read or change anything of a gate, in a real browser.

The gate listens on a loopback address and has no tokens. Pages of three other origins try: another
port of `localhost`, another name, and a name that leads to the gate once its page is loaded (DNS
rebinding). Then the gate's own page is used, without and with tokens.

    run.py BINARY
"""

import http.server
import json
import pathlib
import socket
import sys
import tempfile
import threading

HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "support"))

from gate import Gate  # noqa: E402
from webdriver import Browser  # noqa: E402

TOKEN = "an-admin-token-for-tests-0123456789abcdef"
PAGE = b"<!DOCTYPE html><title>foreign</title><body>"


class ForeignPage(http.server.BaseHTTPRequestHandler):
    """A page of somebody else."""

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(PAGE)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, *_):
        pass


class Rebinding:
    """A server whose name leads to it at first, and to the gate when `target` is set."""

    def __init__(self, page_port):
        self.target = page_port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(("127.0.0.1", self.target))
            for ends in ((client, server), (server, client)):
                threading.Thread(target=self._copy, args=ends, daemon=True).start()

    @staticmethod
    def _copy(source, sink):
        try:
            while data := source.recv(65536):
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            pass


def expect(condition, what):
    if not condition:
        raise SystemExit(f"FAILED: {what}")


def state(gate):
    """Returns everything that a request could have changed."""
    paths = ["/draft", "/rules", "/outputs", "/modules", "/revisions", "/tokens"]
    return {path: gate.ask("GET", path) for path in paths}


def refused(gate):
    """Returns how many requests the gate has logged as refused."""
    lines = [json.loads(line)["fields"] for line in gate.log.read_text().splitlines()]
    return sum(line.get("requests", 0) for line in lines if "refused" in line["message"])


def foreign_pages(browser, gate, page_port):
    script = (HERE / "foreign.js").read_text()
    for name in ["localhost", "foreign.example"]:
        for target in ["127.0.0.1", "localhost"]:
            before, refused_before = state(gate), refused(gate)
            browser.open(f"http://{name}:{page_port}/")
            result = browser.run(script, f"http://{target}:{gate.port}")
            where = f"a page of {name} at {target}"
            expect(not result["failed"], f"{where}: no answer: {result['failed']}")
            expect(not result["read"], f"{where} could read {result['read']}")
            browser.run(
                "const frame = document.createElement('iframe'); frame.src = args[0];"
                "const loaded = new Promise((resolve) => { frame.onload = resolve; });"
                "document.body.append(frame); await loaded;",
                f"http://{target}:{gate.port}/docs",
            )
            shown = browser.url_of_frame("iframe")
            expect(shown.startswith("chrome-error:"), f"{where} could frame {shown}")
            expect(state(gate) == before, f"{where} changed {state(gate)}")
            expect(refused(gate) > refused_before, f"{where}: the gate has refused nothing")
            print(f"{where}: {result['attempts']} attempts, nothing read, nothing changed")


def rebinding(browser, gate, page_port):
    server = Rebinding(page_port)
    browser.open(f"http://rebinding.example:{server.port}/")
    server.target = gate.port
    before = state(gate)
    attempts = browser.run((HERE / "rebinding.js").read_text())
    # These are open by design and have nothing of this gate in them.
    open_pages = {"GET /", "GET /docs", "GET /openapi.json", "GET /healthz", "GET /readyz"}
    for attempt, status, text in attempts:
        if attempt not in open_pages:
            expect(status == 403, f"after DNS rebinding, {attempt} was answered {status}: {text}")
            expect('"foreign_host"' in text, f"after DNS rebinding, {attempt}: {text}")
    expect(state(gate) == before, "a page changed something after DNS rebinding")
    print(f"DNS rebinding: {len(attempts)} attempts, nothing read, nothing changed")


def own_page(browser, gate):
    """Uses the page as an operator does."""
    where = "the gate's own page" + (" with a token" if gate.token else "")
    browser.errors()
    browser.open(f"{gate.url}/docs")
    operations = sum(len(path) for path in gate.ask("GET", "/openapi.json")["paths"].values())
    browser.until(
        "every operation is shown",
        "return document.querySelectorAll('.opblock').length === args[0];",
        operations,
    )
    expect(not browser.errors(), f"{where} has errors on the console")
    if gate.token:
        status = execute(browser, "rules", "list_rules")
        expect(status == "401", f"{where}: without it, the status was {status}")
        browser.errors()
        browser.click(".btn.authorize")
        browser.until("the dialog is open", "return !!document.querySelector('.auth-container input');")
        browser.type(".auth-container input", gate.token)
        browser.click(".auth-btn-wrapper .authorize")
        browser.click(".auth-btn-wrapper .btn-done")
    count = len(gate.ask("GET", "/rules"))
    for tag, operation in [
        ("rules", "list_rules"), ("rules", "add_rule"), ("publish", "publish"), ("gate", "status"),
    ]:
        status = execute(browser, tag, operation)
        expect(status == "200", f"{where}: {operation} was answered {status}")
    expect(len(gate.ask("GET", "/rules")) == count + 1, f"{where}: no rule was added")
    expect(not browser.errors(), f"{where} has errors on the console")
    print(f"{where}: {operations} operations shown, requests sent and answered")


def execute(browser, tag, operation):
    """Sends the example request of an operation and returns the status that is shown."""
    block = f"#operations-{tag}-{operation}"
    if not browser.run("return !!document.querySelector(args[0] + ' .execute');", block):
        browser.click(f"{block} .opblock-summary-control")
    cleared = "document.querySelector(args[0] + ' .btn-clear')?.click(); return true;"
    browser.until("the last answer is gone", cleared, block)
    browser.click(f"{block} .execute")
    status = "return document.querySelector(args[0])?.innerText;"
    column = f"{block} .live-responses-table tbody .response-col_status"
    return browser.until("the answer is shown", status, column).split()[0]


def main():
    binary = pathlib.Path(sys.argv[1]).absolute()
    pages = http.server.ThreadingHTTPServer(("127.0.0.1", 0), ForeignPage)
    threading.Thread(target=pages.serve_forever, daemon=True).start()
    page_port = pages.server_address[1]
    names = {"foreign.example": "127.0.0.1", "rebinding.example": "127.0.0.1"}
    with tempfile.TemporaryDirectory(prefix="streamgate-browser-") as folder:
        with Browser(folder, names) as browser:
            with Gate(binary) as gate:
                rule = {"id": "some_rule", "type": "filter", "params": {"value": "TRACE"}}
                gate.ask("POST", "/rules", rule)
                gate.ask("POST", "/outputs", {"id": "console-1", "type": "console"})
                gate.ask("POST", "/publish")
                foreign_pages(browser, gate, page_port)
                rebinding(browser, gate, page_port)
                own_page(browser, gate)
            with Gate(binary, token=TOKEN) as gate:
                own_page(browser, gate)
    print("browser: all checks passed")


if __name__ == "__main__":
    main()
