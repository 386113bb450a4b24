"""As much of WebDriver (W3C) as the browser suite needs, and the browser as a process."""

import json
import socket
import subprocess
import time
import urllib.error
import urllib.request

PATIENCE = 30.0
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"


class Browser:
    """Chromium without a window, driven by chromedriver. It ends with the `with` block."""

    def __init__(self, folder, names):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.driver = subprocess.Popen(
            ["chromedriver", f"--port={port}"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )
        self.base = f"http://127.0.0.1:{port}"
        self.session = None
        rules = ", ".join(f"MAP {name} {address}" for name, address in names.items())
        arguments = [
            # Root cannot use the sandbox; the pages are our own.
            "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
            "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync", "--no-proxy-server",
            f"--user-data-dir={folder}", f"--host-resolver-rules={rules}",
        ]
        capabilities = {
            "browserName": "chrome",
            "goog:chromeOptions": {"args": arguments},
            "goog:loggingPrefs": {"browser": "ALL"},
            "timeouts": {"script": 60_000, "pageLoad": 60_000},
        }
        self._wait_for_driver()
        wanted = {"capabilities": {"alwaysMatch": capabilities}}
        self.session = self._call("POST", "/session", wanted)["sessionId"]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            if self.session:
                self._call("DELETE", f"/session/{self.session}")
        finally:
            self.driver.terminate()
            self.driver.wait(PATIENCE)

    def _wait_for_driver(self):
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                return self._call("GET", "/status")
            except (OSError, SystemExit):
                if time.monotonic() > deadline:
                    raise SystemExit("chromedriver did not start") from None
                time.sleep(0.1)

    def _call(self, method, path, body=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.base + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return json.load(answer)["value"]
        except urllib.error.HTTPError as error:
            raise SystemExit(f"WebDriver: {error.read().decode()[:2000]}") from None

    def _command(self, method, path, body=None):
        return self._call(method, f"/session/{self.session}{path}", body)

    def open(self, url):
        """Opens a page and waits until it is loaded."""
        self._command("POST", "/url", {"url": url})

    def run(self, script, *arguments):
        """Runs the body of an async function in the page and returns what it returns."""
        wrapped = (
            "const [...given] = arguments; const done = given.pop();"
            f"(async (args) => {{ {script} }})(given).then("
            "value => done({value}), error => done({error: String(error)}));"
        )
        body = {"script": wrapped, "args": list(arguments)}
        result = self._command("POST", "/execute/async", body)
        if "error" in result:
            raise SystemExit(f"a script in the page failed: {result['error']}")
        return result.get("value")

    def until(self, what, script, *arguments):
        """Waits until a script returns something true, and returns it."""
        deadline = time.monotonic() + PATIENCE
        while not (found := self.run(script, *arguments)):
            if time.monotonic() > deadline:
                raise SystemExit(f"not within {PATIENCE:.0f} s: {what}")
            time.sleep(0.05)
        return found

    def click(self, selector):
        """Waits for an element and clicks on it."""
        script = "const found = document.querySelector(args[0]); found?.click(); return !!found;"
        self.until(f"{selector} is there", script, selector)

    def type(self, selector, text):
        """Types into a field."""
        found = {"using": "css selector", "value": selector}
        element = self._command("POST", "/element", found)[ELEMENT]
        self._command("POST", f"/element/{element}/value", {"text": text})

    def url_of_frame(self, selector):
        """Returns the address of the document that a frame shows."""
        found = {"using": "css selector", "value": selector}
        self._command("POST", "/frame", {"id": self._command("POST", "/element", found)})
        try:
            script = {"script": "return document.URL;", "args": []}
            return self._command("POST", "/execute/sync", script)
        finally:
            self._command("POST", "/frame", {"id": None})

    def errors(self):
        """Returns the errors on the console since the last call."""
        entries = self._command("POST", "/se/log", {"type": "browser"})
        return [entry["message"] for entry in entries if entry["level"] == "SEVERE"]
