"""A program of an agent that asks the gateway: `asker.py PATH BODY TIMES`. It sends TIMES requests
at the same time, with a key of its own that is nobody's, and prints what each got: status, headers
and body, as JSON."""

from __future__ import annotations

import http.client
import json
import os
import sys
import threading
import urllib.parse


def main() -> None:
    path, body, times = sys.argv[1], sys.argv[2], int(sys.argv[3])
    address = urllib.parse.urlsplit(os.environ["OPENAI_BASE_URL"]).netloc
    answers: list[tuple[int, dict[str, str], str]] = []
    barrier = threading.Barrier(times)

    def ask() -> None:
        connection = http.client.HTTPConnection(address, timeout=120)
        connection.connect()
        barrier.wait()
        headers = {"Authorization": "Bearer sk-of-nobody", "Content-Type": "application/json"}
        connection.request("POST", path, body, headers)
        answer = connection.getresponse()
        said = answer.read().decode()
        answers.append((answer.status, {k.lower(): v for k, v in answer.getheaders()}, said))
        connection.close()

    threads = [threading.Thread(target=ask) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
