"""The choice of a codec. Avro's libraries are an extra and may be missing."""

from stockpulse.errors import CannotStart, shown
from stockpulse.journal.codecs import Codec
from stockpulse.journal.codecs.json_codec import JsonCodec


def choose(name: str, registry_url: str | None = None, key: str | None = None, secret: str | None = None) -> Codec:
    """Return the codec "json", or "avro" with its schema registry. Call its `prepare` before anything else.

    Raises CannotStart for another name, and for "avro" without a registry or without its libraries.
    """
    if name == "json":
        return JsonCodec()
    if name != "avro":
        raise CannotStart(f"STOCKPULSE_KAFKA_CODEC: takes json or avro, not {shown(name)}")
    if not registry_url:
        raise CannotStart("Avro needs a schema registry: set SCHEMA_REGISTRY_URL")
    try:
        from stockpulse.journal.codecs.avro_codec import AvroCodec  # noqa: PLC0415  # an extra, see below
        from stockpulse.journal.codecs.registry import Registry  # noqa: PLC0415
    except ImportError as missing:
        raise CannotStart("Avro needs: pip install 'stockpulse[avro]'") from missing
    return AvroCodec(Registry(registry_url, key, secret))
