"""Which codec: the one place that knows that Avro's libraries may not be installed."""

from stockpulse.errors import CannotStart, shown
from stockpulse.journal.codecs import Codec
from stockpulse.journal.codecs.json_codec import JsonCodec


def choose(name: str, registry_url: str | None = None, key: str | None = None, secret: str | None = None) -> Codec:
    """The codec "json" or "avro"; the latter with its schema registry. Raises CannotStart when it cannot be had.

    Call its `prepare` before anything else.
    """
    if name == "json":
        return JsonCodec()
    if name != "avro":
        raise CannotStart(f"records are written as json or avro, not {shown(name)}")
    if not registry_url:
        raise CannotStart("Avro needs a schema registry: set SCHEMA_REGISTRY_URL")
    try:
        from stockpulse.journal.codecs.avro_codec import AvroCodec  # noqa: PLC0415  # an extra, see below
        from stockpulse.journal.codecs.registry import Registry  # noqa: PLC0415
    except ImportError as missing:
        raise CannotStart("Avro needs: pip install 'stockpulse[avro]'") from missing
    return AvroCodec(Registry(registry_url, key, secret))
