"""Certificates made for one test run, with the `openssl` command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


@dataclass(frozen=True)
class Certificate:
    """A certificate and its private key, in PEM."""

    certificate: Path
    key: Path


class Authority:
    """Signs certificates; `certificate` is what whoever trusts it is given."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self.certificate = folder / f"{name}.crt"
        self._key = folder / f"{name}.key"
        made = ["-keyout", str(self._key), "-out", str(self.certificate), "-days", "2"]
        _openssl("req", "-x509", *NEW_KEY, *made, "-subj", f"/CN={name}")

    def sign(
        self, name: str, *, alternative: str = "", days: int = 2, version_1: bool = False
    ) -> Certificate:
        """A certificate, expired with -1 `days`; `alternative` names are as in `DNS:a,IP:b`. Of
        version 1 are those that PostgreSQL's manual shows how to make."""
        made = Certificate(self._folder / f"{name}.crt", self._folder / f"{name}.key")
        request = self._folder / f"{name}.csr"
        extensions = [] if version_1 else ["basicConstraints=CA:FALSE"]
        extensions += [f"subjectAltName={alternative}"] if alternative else []
        also = [word for extension in extensions for word in ("-addext", extension)]
        wanted = ["-keyout", str(made.key), "-out", str(request), "-subj", f"/CN={name}", *also]
        _openssl("req", *NEW_KEY, *wanted)
        authority = ["-CA", str(self.certificate), "-CAkey", str(self._key), "-CAcreateserial"]
        signed = ["-copy_extensions", "copy", "-days", str(days), "-out", str(made.certificate)]
        _openssl("x509", "-req", "-in", str(request), *authority, *signed)
        return made


def _openssl(*words: str) -> None:
    done = subprocess.run(["openssl", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"openssl {words}: {done.stderr}"
