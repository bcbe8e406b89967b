"""The Kafka properties that a configuration may hold are those of the librdkafka built in."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KNOWN = ROOT / "src" / "config" / "kafka_properties.txt"
ROW = re.compile(r"^([a-z._]+) +\| +[*CP] +\|", re.MULTILINE)


def test_the_list_is_librdkafkas() -> None:
    command = ["cargo", "metadata", "--locked", "--format-version", "1"]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    packages = json.loads(told)["packages"]
    (manifest,) = [one["manifest_path"] for one in packages if one["name"] == "rdkafka-sys"]
    page = Path(manifest).parent / "librdkafka" / "CONFIGURATION.md"
    properties = sorted(set(ROW.findall(page.read_text())))
    assert len(properties) > 150, "the page has another form now"
    assert KNOWN.read_text().splitlines() == properties
