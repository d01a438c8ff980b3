"""pycmpp 2.0.2 as a client of CMPP 2.x, in a process of its own: its licence is the GPL.

    python pycmpp_client.py '{"packages": "…", "port": 7890, "secret": "888888", "texts": ["…"]}'

Logs in, sends the texts and an active test, and tells a line of JSON for each answer. With
`decode`, a SUBMIT of 2.0 in hexadecimal, it tells what pycmpp reads in it.
"""

from __future__ import annotations

import json
import queue
import sys
import threading
from typing import Any

ANSWER_S = 20.0


def main() -> None:
    """The command."""
    options = json.loads(sys.argv[1])
    sys.path.insert(0, options["packages"])
    if "decode" in options:
        from pycmpp.request import SubmitRequestInstance

        tell(SubmitRequestInstance().resolve(bytes.fromhex(options["decode"])))
    else:
        talk(options)


def talk(options: dict[str, Any]) -> None:
    """Log in, send, and tell the answers."""
    from pycmpp import cmpp_defines as ids
    from pycmpp.cmpp import Cmpp
    from pycmpp.request import ActiveTestRequestInstance
    from pycmpp.response import ConnectResponseInstance, SubmitResponseInstance

    client = Cmpp("127.0.0.1", options["port"], "900001", options["secret"], "10690001")
    answers: queue.Queue[dict[str, Any]] = queue.Queue()

    def connected(message: bytes) -> dict[str, Any]:
        answer = ConnectResponseInstance()
        answer.resolve(message)
        return {"status": answer.status, "version": answer.version}

    def submitted(message: bytes) -> dict[str, Any]:
        answer = SubmitResponseInstance()
        answer.resolve(message)
        return {"result": answer.status, "id": answer.msg_id}

    def handle(read: Any) -> Any:
        return lambda _client, message: lambda: answers.put(read(message))

    client.handlers[ids.CMPP_CONNECT_RESP] = handle(connected)
    client.handlers[ids.CMPP_SUBMIT_RESP] = handle(submitted)
    client.handlers[ids.CMPP_ACTIVE_TEST_RESP] = handle(lambda message: {"alive": len(message)})
    client.connect()
    threading.Thread(target=client.receive, daemon=True).start()
    client.auth()
    first = answers.get(timeout=ANSWER_S)
    tell(first)
    if first["status"]:
        return
    for text in options["texts"]:
        client.submit(text, ["13800138000"])
        for _ in range(1 if len(text) < 70 else -(-len(text) // 64)):
            tell(answers.get(timeout=ANSWER_S))
    client.send(ActiveTestRequestInstance().create())
    tell(answers.get(timeout=ANSWER_S))
    client.disconnect()


def tell(what: dict[str, Any]) -> None:
    """One line of JSON."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
