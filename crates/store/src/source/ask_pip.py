"""Prints, as JSON, the index and the certificate that pip is configured for."""
import json

from pip._internal.configuration import Configuration
from pip._internal.models.index import PyPI

configuration = Configuration(isolated=False)
configuration.load()
found = dict(configuration.items())
# Since pip 25.1 the items are grouped by the file they come from.
for value in list(found.values()):
    if isinstance(value, dict):
        found.update(value)


def setting(key):
    for section in (":env:", "download", "install", "global"):
        value = found.get(section + "." + key)
        if value:
            return value
    return None


print(json.dumps({"index": setting("index-url") or PyPI.simple_url, "certificate": setting("cert")}))
