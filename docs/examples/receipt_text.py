"""A receipt through Tillroll with redis-py as many apps have it configured:
decode_responses=True and the default socket timeout of 5 seconds.

    python receipt_text.py redis://127.0.0.1:6379
"""

import base64
import json
import sys
import time
import uuid

import redis

P = "tillroll:{receipts}:"
WAIT = 30  # seconds in all
HTML = "<meta charset=utf-8><h1>Receipt</h1><p>2 × coffee <b>€ 7.00</b></p>"

client = redis.Redis.from_url(sys.argv[1], decode_responses=True)

# base64 survives being decoded as text.
output = {"kind": "reply", "encoding": "base64"}
job = {"id": f"r-{uuid.uuid4()}", "tenant": "cafe", "output": output, "options": {"paper": "80mm"}}
client.lpush(P + "in", json.dumps(job) + "\n" + HTML)

# No single wait may come near the socket timeout: a reply that arrives just then
# would be taken and lost. So wait for a short while, again and again.
give_up = time.monotonic() + WAIT
taken = None
while taken is None and time.monotonic() < give_up:
    taken = client.blpop(f"{P}reply:{job['tenant']}/{job['id']}", timeout=2)
if taken is None:
    sys.exit(f"{job['id']}: no reply within {WAIT} s; is a worker running?")
line, _, body = taken[1].partition("\n")
reply = json.loads(line)
if reply["status"] != "done":
    sys.exit(f"{job['id']}: {reply['status']}: {reply['error']}")
pdf = base64.b64decode(body)
if not pdf.startswith(b"%PDF-"):
    sys.exit(f"{job['id']}: that is no PDF")
print(f"{reply['pages']} page, {len(pdf)} bytes")
