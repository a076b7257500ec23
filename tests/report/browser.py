"""A headless Chromium, spoken to over a pipe: pages at any width, in light and dark, keys, and what is printed."""

import base64
import fcntl
import json
import os
import select
import shutil
import subprocess
import time

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless", "--hide-scrollbars", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
    "--disable-component-update", "--disable-dev-shm-usage", "--remote-debugging-pipe",
)  # fmt: skip
KEYS = {"Enter": (13, "\r"), "Tab": (9, ""), " ": (32, " ")}


class Browser:
    """One browser with one page; ``said`` and ``asked``: what was logged, and the addresses that were fetched."""

    def __init__(self, profile):
        read, self._out = os.pipe()
        self._in, write = os.pipe()
        numbers = {read: 3, write: 4}  # where the browser looks for its pipe

        def place():
            copies = {fcntl.fcntl(fd, fcntl.F_DUPFD, 64): number for fd, number in numbers.items()}
            for copy, number in copies.items():
                os.dup2(copy, number)

        self._process = subprocess.Popen(
            [CHROMIUM, *FLAGS, f"--user-data-dir={profile}"], preexec_fn=place, close_fds=False,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(read)
        os.close(write)
        self._buffer, self._count, self._session = b"", 0, None
        self.said, self.asked, self.seen = [], [], []

    def __enter__(self):
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for name in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{name}.enable")
        return self

    def __exit__(self, *_):
        self._process.terminate()
        self._process.wait(timeout=20)
        os.close(self._in)
        os.close(self._out)

    def _message(self, until):
        """The next message; events are noted."""
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._in], [], [], max(until - time.monotonic(), 0))
            assert ready, "the browser does not answer"
            chunk = os.read(self._in, 1 << 20)
            assert chunk, "the browser has ended"
            self._buffer += chunk
        raw, self._buffer = self._buffer.split(b"\0", 1)
        message = json.loads(raw)
        name, given = message.get("method", ""), message.get("params", {})
        self.seen.append(name)
        if name == "Runtime.consoleAPICalled":
            self.said.append(" ".join(str(one.get("value", one)) for one in given["args"]))
        elif name == "Runtime.exceptionThrown":
            self.said.append(json.dumps(given["exceptionDetails"]))
        elif name == "Log.entryAdded":
            self.said.append(given["entry"]["text"])
        elif name == "Network.requestWillBeSent":
            self.asked.append(given["request"]["url"])
        return message

    def send(self, method, **given):
        """What the browser answers to a command."""
        self._count += 1
        message = {"id": self._count, "method": method, "params": given}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        until = time.monotonic() + 60
        while (answer := self._message(until)).get("id") != self._count:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, path):
        """Show a file, and wait until all of it is there."""
        self.seen, self.said, self.asked = [], [], []
        self.send("Page.navigate", url=path.as_uri())
        until = time.monotonic() + 60
        while "Page.loadEventFired" not in self.seen:
            self._message(until)

    def evaluate(self, script):
        """The value of an expression in the page."""
        found = self.send("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def sized(self, width, height=900):
        """Make the window so wide."""
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def coloured(self, scheme):
        """Prefer "light" or "dark"."""
        self.send("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def press(self, key):
        """Press and release a key."""
        code, text = KEYS[key]
        given = {"key": key, "code": key.strip() or "Space", "windowsVirtualKeyCode": code}
        self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **given)
        self.send("Input.dispatchKeyEvent", type="keyUp", **given)

    def pdf(self):
        """The page as it is printed."""
        return base64.b64decode(self.send("Page.printToPDF", printBackground=True)["data"])

    def picture(self, path):
        """Write the whole page as a PNG file."""
        data = self.send("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))
