"""Headless Chromium that runs a page in real time: what it asks for, what it says, how it looks."""

import base64
import fcntl
import json
import os
import subprocess
import time
from pathlib import Path

from browser import CHROMIUM

FLAGS = ("--headless", "--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--no-first-run")
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps")


class Page:
    """One page, driven by Chromium's own protocol over a pair of pipes (file descriptors 3 and 4 of the browser).

    Attributes:
        asked: URL and HTTP status of every answer.
        failed: what was not answered, exceptions and errors on the console.
    """

    def __init__(self, profile: Path, size: tuple[int, int] = (1280, 800)) -> None:
        (theirs_in, self.commands), (self.answers, theirs_out) = (self._pipe(), self._pipe())
        window = [f"--user-data-dir={profile}", f"--window-size={size[0]},{size[1]}", "--remote-debugging-pipe"]
        ends = f'exec "$@" 3<&{theirs_in} 4>&{theirs_out}'
        command = ["bash", "-c", ends, "bash", CHROMIUM, *FLAGS, *QUIET, *window, "about:blank"]
        null = subprocess.DEVNULL
        self.process = subprocess.Popen(command, pass_fds=(theirs_in, theirs_out), stdout=null, stderr=null)
        os.close(theirs_in)
        os.close(theirs_out)
        self.unread, self.count, self.session = b"", 0, None
        self.asked: list[tuple[str, int]] = []
        self.failed: list[str] = []
        target = self("Target.createTarget", url="about:blank")["targetId"]
        self.session = self("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Network", "Runtime", "Page"):
            self(f"{domain}.enable")

    @staticmethod
    def _pipe() -> tuple[int, int]:
        ends = os.pipe()
        above = tuple(fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in ends)
        for end in ends:
            os.close(end)
        return above

    def __call__(self, method: str, **parameters) -> dict:
        """Send one command and return its result."""
        self.count += 1
        message = {"id": self.count, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.commands, json.dumps(message).encode() + b"\0")
        while (answer := self._read()).get("id") != self.count:
            self._note(answer.get("method"), answer.get("params"))
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        return answer["result"]

    def _read(self) -> dict:
        while b"\0" not in self.unread:
            block = os.read(self.answers, 2**20)
            if not block:
                raise RuntimeError("the browser has ended")
            self.unread += block
        message, _, self.unread = self.unread.partition(b"\0")
        return json.loads(message)

    def _note(self, method: str, event: dict) -> None:
        if method == "Network.responseReceived":
            self.asked.append((event["response"]["url"], event["response"]["status"]))
        elif method == "Network.loadingFailed":
            self.failed.append(event["errorText"])
        elif method == "Runtime.exceptionThrown":
            self.failed.append(event["exceptionDetails"].get("exception", {}).get("description", "exception"))
        elif method == "Runtime.consoleAPICalled" and event["type"] == "error":
            self.failed.append(" ".join(str(argument.get("value")) for argument in event["args"]))

    def value(self, expression: str):
        """Return the value of a JavaScript expression."""
        return self("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait(self, expression: str, seconds: float = 120) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while not self.value(expression):
            if time.monotonic() > end:
                raise TimeoutError(f"{expression}: not after {seconds} s; {self.value('document.body.innerText')}")
            time.sleep(0.5)

    def picture(self, path: Path) -> Path:
        """Save what is shown as PNG."""
        path.write_bytes(base64.b64decode(self("Page.captureScreenshot", format="png")["data"]))
        return path

    def close(self) -> None:
        os.close(self.commands)
        os.close(self.answers)
        self.process.terminate()
        self.process.wait(20)
