"""Two receipts through Tillroll with redis-py, one in each form of the header.

    python receipt.py redis://127.0.0.1:6379
"""

import json
import sys
import uuid

import redis

P = "tillroll:{receipts}:"
WAIT = 30  # seconds
HTML = "<meta charset=utf-8><h1>Receipt</h1><p>2 × coffee <b>€ 7.00</b></p>"

# Replies carry PDF bytes, so leave decode_responses off. The socket timeout must
# be longer than the wait: redis-py gives up after 5 seconds of its own otherwise.
client = redis.Redis.from_url(sys.argv[1], socket_timeout=WAIT + 5)


def framed(header, html):
    """The header on one line, then the document as it is."""
    return json.dumps(header).encode() + b"\n" + html.encode()


def json_only(header, html):
    """The document inside the header. No newline: simple, up to 1 MiB."""
    return json.dumps({**header, "html": html}).encode()


for form in (framed, json_only):
    # An id of your own lets you wait for the reply, and push again safely.
    job = {"id": f"r-{uuid.uuid4()}", "tenant": "cafe", "options": {"paper": "80mm"}}
    client.lpush(P + "in", form(job, HTML))

    taken = client.blpop(f"{P}reply:{job['tenant']}/{job['id']}", timeout=WAIT)
    if taken is None:
        sys.exit(f"{job['id']}: no reply within {WAIT} s; is a worker running?")
    line, _, pdf = taken[1].partition(b"\n")
    reply = json.loads(line)
    if reply["status"] != "done":
        sys.exit(f"{job['id']}: {reply['status']}: {reply['error']}")
    if not pdf.startswith(b"%PDF-"):
        sys.exit(f"{job['id']}: that is no PDF")
    print(f"{form.__name__}: {reply['pages']} page, {len(pdf)} bytes")
