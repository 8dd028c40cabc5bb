"""A real JupyterLab in a real browser, for the tests of what shows nowhere else; no other machine is asked."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from playwright.sync_api import BrowserContext, Page, Playwright

INSTALL = (
    "no Chromium was found: apt install chromium fonts-dejavu-core, or .venv/bin/python -m playwright install chromium"
)
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # else cells out of sight leave the page
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
}
ERROR = "[data-mime-type='application/vnd.jupyter.error']"  # after one, the cells below are not run
NUMBERED = """([error]) => {
  if (document.querySelector(error)) return true;
  const prompts = [...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')];
  return prompts.length > 0 && prompts.every(p => /\\[\\d+\\]/.test(p.textContent));
}"""
PATIENCE = 600  # seconds for whatever one waits for, on a machine that does other things too


def browser_path(playwright: Playwright) -> str | None:
    """Where a browser is, if there is one."""
    own = playwright.chromium.executable_path
    return next(filter(None, map(shutil.which, NAMES)), own if Path(own).exists() else None)


class Lab(NamedTuple):
    """A running server."""

    url: str
    token: str

    def ask(self, path: str) -> object:
        """A JSON answer of the server."""
        request = urllib.request.Request(f"{self.url}{path}", headers={"Authorization": f"token {self.token}"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)


@contextmanager
def jupyterlab(folder: Path, **environment: str) -> Iterator[Lab]:
    """JupyterLab over folder/work, with all that it keeps in the folder too; ended with everything that it started."""
    for name, values in SETTINGS.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    own = {"JUPYTERLAB_SETTINGS_DIR": "settings", "JUPYTERLAB_WORKSPACES_DIR": "workspaces"} | {
        "JUPYTER_CONFIG_DIR": "config", "JUPYTER_DATA_DIR": "data", "JUPYTER_RUNTIME_DIR": "runtime",
        "IPYTHONDIR": "ipython",
    }  # fmt: skip
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    lab = Lab(f"http://127.0.0.1:{port}", secrets.token_hex(16))
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--expose-app-in-browser",
        "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0",
        f"--IdentityProvider.token={lab.token}", f"--ServerApp.root_dir={folder / 'work'}",
    ]  # fmt: skip
    environment = {**os.environ, **{key: str(folder / name) for key, name in own.items()}, **environment}
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        try:
            _until(lambda: lab.ask("/api/status"), server, folder / "server.log")
            yield lab
        finally:
            os.killpg(server.pid, signal.SIGTERM)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(server.pid, signal.SIGKILL)
                server.wait()


def _until(answer: object, server: subprocess.Popen, log: Path) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.poll() is None:
        try:
            answer()
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


class Watched(NamedTuple):
    """A page with all that should not happen on it."""

    page: Page
    outside: list[str]  # requests to other addresses, which were refused
    dialogs: list[str]  # what a script that was executed would open
    errors: list[str]  # of the console and of scripts

    def wait(self, expression: str, *args: object) -> None:
        """Until a JavaScript expression holds."""
        self.page.wait_for_function(expression, arg=list(args) or None, timeout=1000 * PATIENCE)


def watched(browser: BrowserContext, url: str) -> Watched:
    """A page on which only one address may be asked; what else it does is written down."""
    page = browser.new_page()
    seen = Watched(page, [], [], [])

    def judge(route: object) -> None:
        if route.request.url.startswith(f"{url}/"):
            route.continue_()
        else:
            seen.outside.append(route.request.url)
            route.abort()

    def answer(dialog: object) -> None:
        seen.dialogs.append(dialog.message)
        dialog.dismiss()

    page.route(lambda address: not address.startswith(("data:", "blob:")), judge)
    page.on("dialog", answer)
    page.on("console", lambda said: seen.errors.append(said.text) if said.type == "error" else None)
    page.on("pageerror", lambda error: seen.errors.append(str(error)))
    return seen


def run_all(seen: Watched, lab: Lab, notebook: str) -> None:
    """Open a notebook, wait for its kernel, run every cell, and wait until each has its number."""
    seen.page.goto(f"{lab.url}/lab/tree/{notebook}?token={lab.token}&reset", timeout=1000 * PATIENCE)
    # A cell that is run before the kernel is there is dropped without a word.
    seen.wait("() => document.querySelector('#jp-main-statusbar')?.textContent.includes('Idle')")
    end = time.monotonic() + PATIENCE
    while not any(kernel["connections"] for kernel in lab.ask("/api/kernels")) and time.monotonic() < end:
        time.sleep(0.2)
    seen.page.evaluate("() => window.jupyterapp.commands.execute('notebook:run-all-cells')")
    seen.wait(NUMBERED, ERROR)
    assert seen.page.locator(ERROR).count() == 0, seen.page.locator(ERROR).first.inner_text()[-3000:]
