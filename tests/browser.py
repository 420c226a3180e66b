"""A page in a real browser, and everything it asks for."""

import http.server
import re
import shutil
import subprocess
import threading
from html.parser import HTMLParser
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class References(HTMLParser):
    """Collects every attribute that makes a browser fetch something."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        self.found += [
            value for key, value in attributes if key in ("src", "href", "srcset", "data", "action", "poster")
        ]


class Recorder(http.server.BaseHTTPRequestHandler):
    """Serves one page, also as a proxy for every other host, and keeps the list of what was asked for."""

    page, asked = b"", list[str]()

    def do_GET(self):
        self.asked.append(self.path)
        known = self.path.endswith("/report.html")
        self.send_response(200 if known else 404)
        self.end_headers()
        self.wfile.write(self.page if known else b"")

    def do_CONNECT(self):
        self.asked.append(self.path)
        self.send_error(502)

    def log_message(self, *arguments):
        pass


def requests_of(page: bytes, profile: Path) -> tuple[list[str], str]:
    """Open a page as /report.html in headless Chromium; return the paths it asks for and the page as it then is."""
    Recorder.page, Recorder.asked = page, []
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Recorder)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"127.0.0.1:{server.server_address[1]}"
    quiet = ["--disable-background-networking", "--disable-component-update", "--no-first-run", "--disable-sync"]
    quiet += ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--disable-default-apps"]
    proxy = [f"--proxy-server={address}", "--proxy-bypass-list=<-loopback>"]
    try:
        command = [CHROMIUM, *quiet, *proxy, "--dump-dom", f"http://{address}/report.html"]
        shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    finally:
        server.shutdown()
        server.server_close()
    of_the_browser = re.compile(r"google|gstatic|gvt1|chrome", re.IGNORECASE)
    asked = [path for path in Recorder.asked if not of_the_browser.search(path)]
    return [re.sub(r"^http://[^/]*", "", path) for path in asked], shown
