"""Reads messages, a line each, with the SDK of CloudEvents; writes what it read, and the same as it would write it."""

import json
import sys

from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

sdk = JSONFormat()
for line in sys.stdin:
    event = sdk.read(CloudEvent, line)
    attributes = {name: str(value) for name, value in event.get_attributes().items()}
    attributes["time"] = event.get_time().isoformat()
    written = json.loads(sdk.write(event))
    print(json.dumps({"attributes": attributes, "data": event.get_data(), "written": written}))
