"""A Python that has imported what takes seconds already: its forks are there at once.

    python warm.py SOCKET serve PID   imports, and listens in the background until the process PID ends
    python -S warm.py SOCKET …        is `python …` in a fork of it: this process's folder, environment, files and end

What is imported is other people's; m6rec is imported by each fork. Nothing computes before: threads are not forked.
"""

import json
import os
import signal
import socket
import sys

SLOW = (
    "IPython", "ipykernel.kernelapp", "jupyter_client", "librosa.feature", "matplotlib.backends.backend_agg", "pandas",
    "pyarrow", "pytest", "safetensors.torch", "scipy.stats", "sklearn.cluster", "sklearn.decomposition",
    "sklearn.feature_extraction.text", "sklearn.linear_model", "sklearn.metrics", "sklearn.preprocessing", "sympy",
    "tokenizers", "torch", "torch._dynamo",
)  # fmt: skip


def serve(place: str, pid: str) -> tuple[socket.socket, list]:
    """Returns in forks only: the connection to whoever asked, and the arguments, folder and environment."""
    import gc
    import importlib

    os.environ["MPLBACKEND"] = "module://matplotlib_inline.backend_inline"  # as a kernel has it
    for name in SLOW:
        importlib.import_module(name)
    sys.modules["pandas"].set_option("display.max_columns", 20)  # as it is where a kernel imports it
    gc.freeze()  # a collection in a fork would copy every page
    server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    server.bind(place)
    server.listen()
    server.settimeout(1)
    if os.fork():
        os._exit(0)  # whoever started it knows that it listens
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while os.path.exists(f"/proc/{pid}"):
        try:
            connection, _ = server.accept()
        except TimeoutError:
            continue
        asked, files, *_ = socket.recv_fds(connection, 2**20, 3)
        if not os.fork():
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            connection.send(str(os.getpid()).encode())
            server.close()
            for number, file in enumerate(files):
                os.dup2(file, number)
                os.close(file)
            return connection, json.loads(asked)
        connection.close()
        for file in files:
            os.close(file)
    os._exit(0)


def run(connection: socket.socket, arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    """`python arguments`, which ends when the connection does, and leaves its exit code there."""
    import runpy
    import threading
    import traceback

    def end() -> None:
        connection.recv(1)
        os._exit(1)

    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    threading.Thread(target=end, daemon=True).start()
    module = arguments[0] == "-m"
    sys.argv = arguments[module:]
    sys.path[0] = folder if module else os.path.dirname(os.path.abspath(arguments[0]))
    own = environment.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[1:1] = [place for place in own if place and place not in sys.path]
    code = 0
    try:
        if module:
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as ended:
        code = int(ended.code or 0)
    except BaseException:
        traceback.print_exc()
        code = 1
    connection.send(bytes([code]))


if __name__ == "__main__":
    place, *arguments = sys.argv[1:]
    if arguments[0] == "serve":
        connection, asked = serve(place, arguments[1])
        run(connection, *asked)
    else:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
            server.connect(place)
            asked = json.dumps([arguments, os.getcwd(), dict(os.environ)]).encode()
            socket.send_fds(server, [asked], [0, 1, 2])
            pid = int(server.recv(20))
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda number, _: os.kill(pid, number))
            code = server.recv(1)
            server.recv(1)  # until it has ended
        sys.exit(code[0] if code else 1)
