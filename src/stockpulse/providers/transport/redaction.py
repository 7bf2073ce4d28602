"""Removes keys from texts: providers repeat them in replies, and addresses carry them as parameters."""

import re
from collections.abc import Iterable
from typing import Final

HIDDEN: Final = "[hidden]"
_PARAMETER: Final = re.compile(r"(?i)\b(apikey|api_key|token|crumb|key|secret)=[^&\s\"'<>]+")
_AFTER_DETECTED: Final = re.compile(r"(?i)(detected your api key as )\S+")
_SHORTEST: Final = 4
"""Shorter keys would hide parts of ordinary words."""


class Redactor:
    """Removes the keys of one provider from texts."""

    def __init__(self, secrets: Iterable[str] = ()) -> None:
        self._secrets = sorted((one for one in secrets if len(one) >= _SHORTEST), key=len, reverse=True)

    def clean(self, text: str) -> str:
        """Return a text without keys."""
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        return _AFTER_DETECTED.sub(rf"\1{HIDDEN}", _PARAMETER.sub(rf"\1={HIDDEN}", text))

    def clean_message(self, message: bytes) -> bytes:
        """Return a message of a stream without the keys themselves: a vendor may repeat what it was sent."""
        for secret in self._secrets:
            if secret.encode() in message:
                message = message.replace(secret.encode(), HIDDEN.encode())
        return message
